"""Placement: which kernel ran where, integer or float, read from ONNX Runtime's own profile."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from qcam.common.errors import ProviderError
from qcam.common.records import as_record, read_record
from qcam.common.wording import in_options
from qcam.runtime.deployed.filenodes import FileNode, FileNodes, Found
from qcam.runtime.tables import (
    CODE_BITS,
    COMPUTE_OPERATORS,
    COPY_KERNELS,
    FLOAT_KERNELS,
    INTEGER_KERNELS,
    QUANTIZERS,
    WEIGHT_ONLY_KERNELS,
    is_integer_kernel,
)

_EVENT = "_kernel_time"
#: What messages call a profile.
_PROFILE = "ONNX Runtime's profile of this session"
_CPU = "CPUExecutionProvider"
#: What ONNX Runtime appends to a name that is taken: a number that depends on the sessions opened before.
_COUNTER = re.compile(r"(_token_\d+)+$")


@dataclass(frozen=True)
class NodePlacement:
    """One kernel that ran.

    Attributes:
        name: The name of the file's node; of a kernel that the runtime added, or whose node cannot be told, its own, without
            the runtime's counter: the second one of a name, in the order of the run, is `NAME_2`.
        operator: The operator type in the file; empty if the runtime added the kernel, or its node cannot be told.
        kernel: What ran.
        provider: ONNX Runtime's name of the execution provider.
        integer: Whether it computed codes from codes.
        macs: Multiply-accumulates for one image, measured; 0 for anything but Conv, Gemm and MatMul, and where unknown.
    """

    name: str
    operator: str
    kernel: str
    provider: str
    integer: bool
    macs: int

    @property
    def computes(self) -> bool:
        """Tell whether this is a Conv, Gemm or MatMul; a BatchNormalization that runs as a convolution is none."""
        return self.kernel in INTEGER_KERNELS | FLOAT_KERNELS and self.operator in COMPUTE_OPERATORS | {""}


@dataclass(frozen=True)
class Coverage:
    """Integer coverage: how much of Conv, Gemm and MatMul ran as integer kernels, of those that the profile shows.

    Attributes:
        count: Share of kernels, 0..1; None if none is visible.
        macs: Share of multiply-accumulates, 0..1; None if those of any kernel are unknown.
        total_macs: Multiply-accumulates for one image; None likewise.
    """

    count: float | None
    macs: float | None
    total_macs: int | None

    def describe(self) -> str:
        """Return the share of multiply-accumulates in words; empty if unknown."""
        if self.macs is None or self.total_macs is None:
            return ""
        return f"{percent(self.macs)} of {_engineering(self.total_macs)} multiply-accumulates"


@dataclass(frozen=True)
class Placement:
    """Who ran what in one session.

    Attributes:
        kernels: (operator, provider) → number of kernels that ran.
        expected: Number of Conv, Gemm and MatMul nodes in the file.
        fallback: Why the session is not what was asked for, with tokens for options; empty if it is.
        nodes: Every kernel that ran, in order; empty where only counts are known.
        config: The session configuration entries that can change a code, name → value.
    """

    kernels: dict[tuple[str, str], int]
    expected: int
    fallback: str = ""
    nodes: tuple[NodePlacement, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def integer_kernels(self) -> int:
        """Return how many Conv, Gemm and MatMul ran as integer kernels."""
        foreign = sum(node.kernel in WEIGHT_ONLY_KERNELS and not node.computes for node in self.nodes)
        return sum(count for (kernel, _), count in self.kernels.items() if kernel in INTEGER_KERNELS) - foreign

    @property
    def float_kernels(self) -> int:
        """Return how many ran as float kernels."""
        disguised = sum(node.kernel in FLOAT_KERNELS and not node.computes for node in self.nodes)
        return sum(count for (kernel, _), count in self.kernels.items() if kernel in FLOAT_KERNELS) - disguised

    @property
    def coverage(self) -> Coverage:
        """Return the integer coverage."""
        visible = self.integer_kernels + self.float_kernels
        if not visible:
            return Coverage(None, None, None)
        share = self.integer_kernels / visible
        compute = [node for node in self.nodes if node.computes]
        if not compute or not all(node.macs for node in compute):
            return Coverage(share, None, None)
        total = sum(node.macs for node in compute)
        return Coverage(share, sum(node.macs for node in compute if node.integer) / total, total)

    @property
    def kernel_of(self) -> Mapping[str, str]:
        """Return node name → kernel, for the nodes of the file that ran as a kernel of their own."""
        return {node.name: node.kernel for node in self.nodes if node.operator}

    @property
    def providers(self) -> frozenset[str]:
        """Return ONNX Runtime's names of the providers that ran a kernel."""
        return frozenset(provider for _, provider in self.kernels)

    @property
    def quantizers_on_cpu(self) -> int:
        """Return how many QuantizeLinear and DequantizeLinear ran on the CPU in a session of another provider."""
        if not self.providers - {_CPU}:
            return 0
        return sum(count for (kernel, provider), count in self.kernels.items() if kernel in QUANTIZERS and provider == _CPU)

    @property
    def copies(self) -> int:
        """Return how many tensors were copied between a GPU's memory and the CPU's."""
        return sum(count for (kernel, _), count in self.kernels.items() if kernel in COPY_KERNELS)

    def count(self, operator: str) -> int:
        """Return how many kernels of one operator type ran, on any provider."""
        return sum(count for (name, _), count in self.kernels.items() if name == operator)

    def describe(self) -> str:
        """Say in a few words what arithmetic the session computes in."""
        visible = self.integer_kernels + self.float_kernels
        if not visible:
            return f"compiled by the provider ({self.expected} Conv/Gemm/MatMul inside; arithmetic not visible from outside)"
        macs = self.coverage.describe()
        macs = f", {macs}" if macs else ""
        more = f"; {self.expected - visible} more not visible in the profile" if self.expected > visible else ""
        if self.providers - {_CPU} and (self.copies or any(kernel in QUANTIZERS for kernel, _ in self.kernels)):
            more += f"; {self.quantizers_on_cpu} Q/DQ on CPU, {self.copies} {'copy' if self.copies == 1 else 'copies'}"
        if self.float_kernels == 0:
            return f"integer kernels ({self.integer_kernels} of {self.integer_kernels}{macs}){more}"
        if self.integer_kernels == 0:
            where = " between Q and DQ" if self.count("QuantizeLinear") else ""
            return f"float arithmetic{where} (0 of {self.float_kernels} integer kernels{macs}){more}"
        return f"mixed: {self.integer_kernels} of {visible} kernels integer{macs}, the rest float{more}"

    def to_json(self, *, nodes: bool = False) -> dict[str, Any]:
        """Return the placement as JSON-ready values.

        Args:
            nodes: Whether with the list of every kernel that ran.
        """
        coverage = self.coverage
        value = {
            "arithmetic": self.describe(),
            "integer_coverage": {"count": coverage.count, "macs": coverage.macs},
            "integer_kernels": self.integer_kernels,
            "float_kernels": self.float_kernels,
            "compute_nodes": self.expected,
            "quantizers_on_cpu": self.quantizers_on_cpu,
            "copies": self.copies,
            "macs_per_image": coverage.total_macs,
            "kernels": [
                {"operator": operator, "provider": provider, "count": count}
                for (operator, provider), count in sorted(self.kernels.items())
            ],
            "fallback": in_options(self.fallback),
        }
        if self.config:
            value["session_config"] = dict(self.config)
        return value | ({"nodes": [asdict(node) for node in self.nodes]} if nodes else {})

    @classmethod
    def from_json(cls, value: Any, where: str) -> Placement:
        """Return the placement that `to_json` told of.

        Args:
            value: Read by `read_json`.
            where: What messages call it.

        Raises:
            ResultsError: If a field is missing or of another type.
        """
        told = as_record(value, _Told, where)
        kernels = {(item.operator, item.provider): item.count for item in told.kernels}
        return cls(kernels, told.compute_nodes, told.fallback, told.nodes, told.session_config)


@dataclass(frozen=True)
class _Kernels:
    """Kernels of one kind in placement.json."""

    operator: str
    provider: str
    count: int


@dataclass(frozen=True)
class _Told:
    """What `Placement.to_json` tells, as far as the rest does not follow from it."""

    kernels: tuple[_Kernels, ...]
    compute_nodes: int
    fallback: str
    nodes: tuple[NodePlacement, ...] = ()
    session_config: dict[str, str] = field(default_factory=dict)


#: Tensors in a profile, each as type → shape.
_Tensors = tuple[dict[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Event:
    """One event of a profile, of whatever kind."""

    cat: str = ""
    name: str = ""
    args: object = None


@dataclass(frozen=True)
class _Ran:
    """What the profile says of a kernel that ran."""

    op_name: str
    provider: str = ""
    input_type_shape: _Tensors = ()
    output_type_shape: _Tensors = ()


def percent(share: float) -> str:
    """Return a share as text: whole per cents, but never 0 % or 100 % of what is not all."""
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def read_profile(path: Path, expected: int, fallback: str, file: FileNodes | None = None) -> Placement:
    """Read a profile that covers exactly one run of one image.

    Args:
        path: ONNX Runtime's profile, JSON.
        expected: Number of Conv, Gemm and MatMul nodes in the file.
        fallback: Why the session is not what was asked for, or empty.
        file: The nodes of the file; without it operators and multiply-accumulates stay unknown.

    Raises:
        ProviderError: If it is no such profile.
    """
    # ONNX Runtime writes one key for each thread that had nothing to do, and all of them are the same.
    events = read_record(path, tuple[_Event, ...], _PROFILE, error=ProviderError, advice="", repeated=True)
    counts: Counter[tuple[str, str]] = Counter()
    nodes = []
    for event in events:
        if event.cat == "Node" and event.name.endswith(_EVENT):
            ran = as_record(event.args, _Ran, f"{_PROFILE}, {ascii(event.name)[:80]}", error=ProviderError, advice="")
            node = _node(event.name.removesuffix(_EVENT), ran, file)
            counts[(node.kernel, node.provider)] += 1
            nodes.append(node)
    return Placement(dict(counts), expected, fallback, _repeatable(nodes))


def _repeatable(nodes: Sequence[NodePlacement]) -> tuple[NodePlacement, ...]:
    """Give kernels without a node of the file names that are the same in every run, and their own."""
    taken = {node.name for node in nodes if node.operator}
    often: Counter[str] = Counter()
    named = []
    for node in nodes:
        if not node.operator:
            name = base = _COUNTER.sub("", node.name) or node.kernel
            while name in taken:
                often[base] += 1
                name = f"{base}_{often[base] + 1}"
            taken.add(name)
            node = replace(node, name=name)
        named.append(node)
    return tuple(named)


def _node(name: str, ran: _Ran, file: FileNodes | None) -> NodePlacement:
    kernel, provider = ran.op_name, ran.provider
    found = None if file is None else file.find(name)
    inputs, outputs = _shapes(ran.input_type_shape), _shapes(ran.output_type_shape)
    on_codes = bool(inputs and outputs) and inputs[0][0] in CODE_BITS and outputs[0][0] in CODE_BITS
    # A weight-only kernel that the file asks for itself computes as the file says; ONNX Runtime's own rounds to codes.
    foreign = kernel in WEIGHT_ONLY_KERNELS and found is not None and found.node.operator == kernel
    integer = (is_integer_kernel(kernel) and not foreign) or on_codes
    if found is None:
        return NodePlacement(name, "", kernel, provider, integer, 0)
    macs = multiply_accumulates(found, [shape for _, shape in inputs], [shape for _, shape in outputs])
    return NodePlacement(found.node.name or _COUNTER.sub("", name), found.node.operator, kernel, provider, integer, macs)


def multiply_accumulates(found: Found, inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> int:
    """Count what a kernel multiplied.

    Args:
        found: The node of the file, whose weight tells the products per element.
        inputs: Shapes of what the kernel read.
        outputs: Shapes of what it wrote, in any layout.

    Returns:
        Multiply-accumulates of the run; 0 for other operators, or if unknown.
    """
    node: FileNode = found.node
    if node.operator not in COMPUTE_OPERATORS or not inputs or not outputs:
        return 0
    if node.operator == "ConvTranspose":
        return prod(inputs[0]) * node.products
    elements = prod(outputs[0])
    if found.blocked and node.channels:
        elements = elements // outputs[0][1] * node.channels  # without the channels that fill the last block
    # A matrix product without constant weight: both operands are computed, the first one's columns are the products.
    columns = inputs[0][-1] if node.operator == "MatMul" and inputs[0] else 0
    return elements * (node.products or columns)


def _shapes(told: _Tensors) -> list[tuple[str, tuple[int, ...]]]:
    """Return (type, shape) of each tensor of a profile's list."""
    return [(kind, shape) for item in told for kind, shape in item.items()]


def _engineering(number: int) -> str:
    """Return a number with three digits and a unit: 4.09 G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
