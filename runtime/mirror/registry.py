"""The registry of operators: one small function each, found by name, domain and version, or refused by them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.graph import attribute
from qcam.runtime.kernels import KernelFamily

#: Computes an operator: inputs by position (None for one left out), attributes by keyword.
OperatorFunction = Callable[..., Any]

_REGISTRY: dict[tuple[str, str, int], OperatorFunction] = {}
_EXACT: dict[tuple[str, str, int], OperatorFunction] = {}
#: Exact operator → attribute → the value with which it is not.
_UNLESS: dict[tuple[str, str, int], dict[str, object]] = {}

#: Keywords that come from elsewhere than the node.
_NO_ATTRIBUTES = {"family", "clamped_gradient", "layout", "deployment", "interpolate"}

#: Domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Resolved:
    """An operator of a graph with the function that computes it.

    Attributes:
        function: The function.
        attributes: The node's attributes, as the function's keyword arguments.
        exact: Whether the function rounds as ONNX Runtime does.
    """

    function: OperatorFunction
    attributes: dict[str, Any]
    exact: bool = False


def operator(name: str, versions: tuple[int, ...], domain: str = "") -> Callable[[OperatorFunction], OperatorFunction]:
    """Register a function for the given versions of an operator.

    Args:
        name: ONNX operator type.
        versions: Each `since_version` whose semantics the function has.
        domain: Operator set; empty for ONNX's own.

    Raises:
        ValueError: If another function has registered one of the versions.
    """
    return _registration(_REGISTRY, name, versions, domain)


def exact_operator(
    name: str, versions: tuple[int, ...], domain: str = "", **unless: object
) -> Callable[[OperatorFunction], OperatorFunction]:
    """Register a function that rounds a float operator as ONNX Runtime does; it takes the kernel family as `family`.

    Args:
        name: ONNX operator type.
        versions: Each `since_version` whose semantics the function has.
        domain: Operator set; empty for ONNX's own.
        unless: Values of attributes with which it does not round so.

    Raises:
        ValueError: If another such function has registered one of the versions.
    """
    _UNLESS.update(dict.fromkeys(((domain, name, version) for version in versions), unless))
    return _registration(_EXACT, name, versions, domain)


def rounds_as_theirs(node: onnx.NodeProto) -> bool:
    """Tell whether a node's float result is rounded as ONNX Runtime rounds it, for every kernel family."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    keys = [key for key in _EXACT if key[:2] == (domain, node.op_type)]
    return any(not any(attribute(node, name) == value for name, value in _UNLESS[key].items()) for key in keys)


def resolve(node: onnx.NodeProto, opsets: dict[str, int], family: KernelFamily | None = None) -> Resolved:
    """Find the function of a node.

    Args:
        node: The node.
        opsets: Domain → version, as the model imports them.
        family: The kernel family whose rounding is wanted, where that is known of the operator; None for plain PyTorch.

    Raises:
        UnsupportedGraphError: If the operator is unknown in that version, or an attribute of the node is.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = _since_version(node.op_type, domain, opsets)
    label = f"{node.op_type} (domain {domain or 'ai.onnx'}, version {version})"
    function = _REGISTRY.get((domain, node.op_type, version))
    exact = None if family is None else _EXACT.get((domain, node.op_type, version))
    unless = _UNLESS.get((domain, node.op_type, version), {})
    if any(attribute(node, name) == value for name, value in unless.items()):
        exact = None
    described = exact or function
    if exact is not None:
        function = partial(exact, family=family)
    if function is None or described is None:
        raise UnsupportedGraphError(f"the mirror has no operator {label}, needed by node {node.name or node.output[0]}")
    parameters = inspect.signature(described).parameters.items()
    known = {name for name, value in parameters if value.kind is value.KEYWORD_ONLY} - _NO_ATTRIBUTES
    attributes = {}
    for found in node.attribute:
        if found.name not in known:
            raise UnsupportedGraphError(f"the mirror's {label} does not know attribute {found.name} of node {node.name}")
        value = onnx.helper.get_attribute_value(found)
        attributes[found.name] = value.decode() if isinstance(value, bytes) else value
    return Resolved(function, attributes, exact is not None)


def _registration(
    registry: dict[tuple[str, str, int], OperatorFunction], name: str, versions: tuple[int, ...], domain: str
) -> Callable[[OperatorFunction], OperatorFunction]:
    def register(function: OperatorFunction) -> OperatorFunction:
        for version in versions:
            key = (domain, name, version)
            if key in registry:
                raise ValueError(f"operator {name} version {version} of domain {domain!r} is registered twice")
            registry[key] = function
        return function

    return register


def _since_version(name: str, domain: str, opsets: dict[str, int]) -> int:
    """Return the version of an operator that an opset means; the opset itself where ONNX does not know the operator."""
    opset = opsets.get(domain, 0)
    try:
        return int(onnx.defs.get_schema(name, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return opset
