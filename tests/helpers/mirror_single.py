"""Models of one operator, run by the mirror, by ONNX Runtime and by onnx's reference implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qcam.runtime.mirror.operators  # noqa: F401 - registers the operators
from qcam.runtime.mirror import registry
from qcam.runtime.mirror.registry import MICROSOFT, resolve

#: Opset that newest semantics are asked for at, at least; ONNX Runtime's QDQ files are written at 21.
NEWEST = 21
#: Oldest opset that ONNX Runtime supports.
OLDEST = 7


@dataclass(frozen=True)
class Case:
    """One operator with inputs, to be computed at several opsets.

    Attributes:
        operator: ONNX operator type.
        label: What is special about the case.
        inputs: By position, None for one left out.
        opsets: Versions of ONNX's own operator set to try; for com.microsoft, those it is imported beside.
        attributes: Of the node.
        domain: Of the node.
        outputs: How many there are.
        tolerance: Relative and absolute deviation allowed, 0 for bitwise equality.
        reference: The same for onnx.reference; None: not compared, the case says why.
        reference_from: First opset at which onnx.reference is compared.
        runtime: Whether ONNX Runtime has the operator at these opsets.
    """

    operator: str
    label: str
    inputs: tuple[np.ndarray | None, ...]
    opsets: tuple[int, ...]
    attributes: dict[str, Any]
    domain: str
    outputs: int
    tolerance: float
    reference: float | None
    reference_from: int
    runtime: bool


def case(
    operator: str,
    label: str,
    *inputs: np.ndarray | None,
    opsets: Sequence[int] | None = None,
    domain: str = "",
    outputs: int = 1,
    tolerance: float = 1e-5,
    reference: float | None = -1.0,
    reference_from: int = 0,
    runtime: bool = True,
    **attributes: Any,
) -> Case:
    """Return a case; by default at one opset for every registered version, and onnx.reference must agree as well."""
    if opsets is None:
        opsets = (NEWEST,) if domain else versions(operator)
    if domain == MICROSOFT:
        reference = None  # onnx.reference knows ONNX's own operators only
    elif reference is not None and reference < 0:
        reference = tolerance
    return Case(
        operator,
        label,
        inputs,
        tuple(opsets),
        attributes,
        domain,
        outputs,
        tolerance,
        reference,
        reference_from,
        runtime,
    )


def versions(operator: str, first: int = OLDEST, last: int = 10**6) -> tuple[int, ...]:
    """Return one opset for each registered version of an operator that an opset in [first, last] means."""
    found = [version for domain, name, version in sorted(registry._REGISTRY) if (domain, name) == ("", operator)]
    opsets = [max(version, first) for version in found]
    if last > NEWEST:
        opsets[-1] = max(opsets[-1], NEWEST)
    return tuple(
        opset for opset, version in zip(opsets, found, strict=True) if opset <= last and since(operator, opset) == version
    )


def since(operator: str, opset: int, domain: str = "") -> int:
    """Return the version of an operator that an opset means."""
    return 1 if domain == MICROSOFT else int(onnx.defs.get_schema(operator, opset, domain).since_version)


def each(cases: Sequence[Case]) -> list[Any]:
    """Return pytest's parameters: every case at each of its opsets."""
    return [
        pytest.param(item, opset, id=f"{item.operator}-{item.label.replace(' ', '-')}-opset{opset}")
        for item in cases
        for opset in item.opsets
    ]


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Return normally distributed values."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def ints(*values: int) -> np.ndarray:
    """Return whole numbers as ONNX wants shapes and axes."""
    return np.array(values, np.int64)


def build(item: Case, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return the model of a case, every input an input of the graph, and what to feed."""
    names = ["" if value is None else f"in{index}" for index, value in enumerate(item.inputs)]
    feeds = {name: value for name, value in zip(names, item.inputs, strict=True) if value is not None}
    outputs = [f"out{index}" for index in range(item.outputs)]
    node = helper.make_node(item.operator, names, outputs, name="node", domain=item.domain, **item.attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    graph = helper.make_graph([node], item.operator, inputs, [helper.make_empty_tensor_value_info(name) for name in outputs])
    return model_of(graph, opset, item.domain), feeds


def model_of(graph: onnx.GraphProto, opset: int = NEWEST, domain: str = "") -> onnx.ModelProto:
    """Return a graph as a model."""
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run_runtime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Compute a model by ONNX Runtime on the CPU, the graph as it is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def run_reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Compute a model by onnx.reference."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


def run_mirror(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Compute a model node by node with the mirror's operators; returns every tensor."""
    opsets = {imported.domain: imported.version for imported in model.opset_import}
    values = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer}
    values |= {name: torch.as_tensor(value) for name, value in feeds.items()}
    for node in model.graph.node:
        resolved = resolve(node, opsets)
        result = resolved.function(*(values[name] if name else None for name in node.input), **resolved.attributes)
        values |= zip(node.output, result if isinstance(result, tuple) else (result,), strict=True)
    return values


def operator_function(operator: str, opset: int = NEWEST, domain: str = "", **attributes: Any) -> Callable[..., Any]:
    """Return the mirror's function of an operator with its attributes bound."""
    resolved = resolve(helper.make_node(operator, [], ["out"], domain=domain, **attributes), {"": opset, MICROSOFT: 1})
    return lambda *inputs: resolved.function(*inputs, **resolved.attributes)


def check(item: Case, opset: int) -> None:
    """Require that the mirror computes what ONNX Runtime and onnx.reference compute."""
    model, feeds = build(item, opset)
    values = run_mirror(model, feeds)
    mine = [values[output.name].numpy() for output in model.graph.output]
    if item.runtime:
        _compare(item, mine, run_runtime(model, feeds), item.tolerance, "ONNX Runtime")
    if item.reference is not None and opset >= item.reference_from:
        _compare(item, mine, run_reference(model, feeds), item.reference, "onnx.reference")


def check_gradient(function: Callable[..., Any], *inputs: np.ndarray) -> None:
    """Require that a function's gradients equal finite differences, in float64."""
    leaves = tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in inputs)
    assert torch.autograd.gradcheck(function, leaves)


def _compare(item: Case, mine: list[np.ndarray], theirs: list[np.ndarray], tolerance: float, oracle: str) -> None:
    for actual, expected in zip(mine, map(np.asarray, theirs), strict=True):
        assert actual.shape == expected.shape, f"{oracle}: shape {expected.shape}, the mirror {actual.shape}"
        if item.operator == "QuantizeLinear":  # the mirror's codes travel as float32
            expected = expected.astype(np.float32)
        assert actual.dtype == expected.dtype, f"{oracle}: type {expected.dtype}, the mirror {actual.dtype}"
        if tolerance == 0:
            np.testing.assert_array_equal(actual, expected, err_msg=oracle)
        else:
            np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=oracle)
