"""What the CUDA provider would leave to the CPU, foretold on a machine without a GPU.

ONNX Runtime rewrites a file first (optimization level 1, the same for every provider), then offers each node to the provider,
which takes those that it has a kernel for. The rewriting runs here, the kernels stand in a table. So does one more rule: nodes
that compute shapes from what CUDA's kernels leave in the CPU's memory stay on the CPU. Not followed: subgraphs, and attributes
for which a kernel is turned down (the last index of ArgMax, activations of an RNN).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto

from qcam.common.errors import ProviderError, first_line
from qcam.runtime.deployed.folding import EXTERNAL_FOLDER, REQUANTIZER, folded_copy
from qcam.runtime.deployed.providers import require_provider
from qcam.runtime.graph import attribute, type_name
from qcam.runtime.tables import QUANTIZERS

# --- CUDA's kernels: operator → types of what it reads first; of QuantizeLinear, of what it writes --------------------

_FLOATS = frozenset({"float16", "float", "double"})
_NUMBERS = _FLOATS | {"int32", "int64", "uint32", "uint64"}
_EVERY = _NUMBERS | {"int8", "int16", "uint8", "uint16", "bool", "bfloat16"}
_EIGHT_BITS = frozenset({"int8", "uint8"})
#: After the list of registered kernels in ONNX Runtime's documentation (operators 13 to 25 of CUDAExecutionProvider).
_KERNELS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "Affine", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Ceil", "Conv", "ConvTranspose", "Cos",
            "DepthToSpace", "Dropout", "Einsum", "Elu", "Erf", "Exp", "Floor", "GRU", "Gelu", "Gemm", "GlobalAveragePool",
            "GlobalMaxPool", "HardSigmoid", "HardSwish", "ImageScaler", "InstanceNormalization", "IsInf", "IsNaN", "LRN",
            "LSTM", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "PRelu", "RMSNormalization", "RNN",
            "Reciprocal", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "Relu", "Round", "Selu", "Sigmoid",
            "SimplifiedLayerNormalization", "Sin", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Sqrt", "Sum", "Tanh",
            "ThresholdedRelu",
        ),
        _FLOATS,
    ),
    **dict.fromkeys(
        (
            "Cast", "Compress", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape",
            "ReverseSequence", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "Split", "Squeeze",
            "Transpose", "Trilu", "Unsqueeze",
        ),
        _EVERY,
    ),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Abs", "Sign", "Shrink"), _EVERY - {"bool"}),
    **dict.fromkeys(("Max", "Min", "Mod", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "CumSum"), _NUMBERS),
    **dict.fromkeys(("And", "Or", "Xor", "Not", "If"), frozenset({"bool"})),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMean", "ReduceProd"), _FLOATS | {"int32"}),
    **dict.fromkeys(("ReduceMax", "ReduceSum", "Pow", "Tile", "TopK"), _FLOATS | {"int32", "int64"}),
    **dict.fromkeys(("Resize", "Upsample"), _FLOATS | {"int32", "uint8"}),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _EIGHT_BITS | {"int4", "uint4", "float8e4m3fn", "float8e5m2"}),
    "Clip": _FLOATS | _EIGHT_BITS | {"int64", "uint64"},
    "ConstantOfShape": frozenset({"int64"}),
    "Equal": _NUMBERS | {"bool"},
    "EyeLike": frozenset({"float", "double", "int32", "int64", "uint64"}),
    "GatherND": _FLOATS | {"int64"},
    "GridSample": frozenset({"float"}),
    "Loop": frozenset({"int64"}),
    "MatMulInteger": frozenset({"int8"}),
    "MaxPool": _FLOATS | _EIGHT_BITS,
    "Neg": _FLOATS | {"int8", "int16", "int32", "int64"},
    "NonZero": frozenset({"bool", "float", "float16", "int32", "int64", "uint8"}),
    "OneHot": frozenset({"int32", "int64"}),
    "Pad": _FLOATS | {"bool"},
    "Range": frozenset({"double", "float", "int16", "int32", "int64"}),
    "ReduceMin": _FLOATS | _EIGHT_BITS | {"int32", "int64"},
    "RoiAlign": frozenset({"float", "double"}),
    "Scan": _EVERY,
    "Where": frozenset({"bool"}),
}  # fmt: skip
#: Microsoft's own operators that level 1 makes; its QuantizeLinear and DequantizeLinear are there for float16 only.
_MICROSOFT: Mapping[str, frozenset[str]] = dict.fromkeys(("BiasGelu", "FastGelu", "FusedMatMul", "Gelu"), _FLOATS) | {
    "FusedConv": frozenset({"float"})
}
#: Operators whose kernels leave their result in the CPU's memory, and inputs that kernels read there.
_RESULT_ON_CPU = frozenset({"Shape", "Size"})
_READ_ON_CPU: Mapping[str, frozenset[int]] = {
    "Reshape": frozenset({1}), "Expand": frozenset({1}), "Tile": frozenset({1}), "Unsqueeze": frozenset({1}),
    "Squeeze": frozenset({1}), "Slice": frozenset({1, 2, 3, 4}), "ConstantOfShape": frozenset({0}),
    "Resize": frozenset({1, 2, 3}), "Range": frozenset({0, 1, 2}), "Pad": frozenset({1, 2, 3}), "TopK": frozenset({1}),
    "Split": frozenset({1}),
}  # fmt: skip
#: Most elements of a constant that a shape computation on the CPU reads.
_SMALL_CONSTANT = 100


@dataclass(frozen=True)
class Foretold:
    """Where one node would run.

    Attributes:
        name: Its name in the rewritten graph.
        operator: Its type.
        on_cuda: Whether CUDA has a kernel for it, and keeps it.
    """

    name: str
    operator: str
    on_cuda: bool


@dataclass(frozen=True)
class Partition:
    """Where the nodes of a file would run.

    Attributes:
        nodes: The nodes of the rewritten graph.
        down: Bytes of each tensor that is copied from the GPU to the CPU for an image; None where its size is not known.
        up: The same from the CPU to the GPU.
    """

    nodes: tuple[Foretold, ...]
    down: tuple[int | None, ...] = ()
    up: tuple[int | None, ...] = ()

    @cached_property
    def on_cuda(self) -> int:
        """Return how many nodes run on the GPU."""
        return sum(node.on_cuda for node in self.nodes)

    @property
    def on_cpu(self) -> int:
        """Return how many are left to the CPU."""
        return len(self.nodes) - self.on_cuda

    @property
    def quantizers_on_cpu(self) -> int:
        """Return how many of these are QuantizeLinear and DequantizeLinear."""
        return sum(node.operator in QUANTIZERS and not node.on_cuda for node in self.nodes)

    @property
    def copies(self) -> int:
        """Return how many tensors are copied between both for each batch."""
        return len(self.down) + len(self.up)

    def describe(self) -> str:
        """Say in a few words what is left to the CPU, and what that copies."""
        left = f"{self.quantizers_on_cpu} of its Q/DQ run on the CPU"
        others = self.on_cpu - self.quantizers_on_cpu
        left += f", and {others} other {'nodes' if others > 1 else 'node'}" if others else ""
        return (
            f"{left}, with {self.copies} copies for each batch ({_volume(self.down)} down and {_volume(self.up)} up per image)"
        )


def foretell(path: Path, *, folded: bool = True) -> Partition:
    """Return where the nodes of a file would run on CUDA.

    Args:
        path: The ONNX file.
        folded: Whether its int32 biases are folded first, as sessions on CUDA are made.

    Raises:
        BundleError: If it is no ONNX file.
        ProviderError: If ONNX Runtime cannot load it at all.
    """
    return partition(offered(path, folded=folded))


def offered(path: Path, *, folded: bool = True) -> ModelProto:
    """Return the graph that ONNX Runtime offers to providers: the file after optimization level 1.

    Args and errors as in `foretell`.
    """
    require_provider("CPU")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry(EXTERNAL_FOLDER, str(path.parent))
    copy = folded_copy(path) if folded else None
    disabled = [REQUANTIZER] if folded else []
    with tempfile.TemporaryDirectory(prefix="qcam-level-1-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "offered.onnx")
        try:
            onnxruntime.InferenceSession(
                copy[0] if copy else str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=disabled,
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ProviderError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error
        return onnx.load(options.optimized_model_filepath)


def partition(model: ModelProto) -> Partition:
    """Return where the nodes of a graph would run on CUDA, as far as kernels decide it.

    Args:
        model: The graph that is offered to providers (`offered`), with the types and shapes of its tensors.
    """
    tensors = _Tensors(model)
    taken = [_has_kernel(node, tensors) for node in model.graph.node]
    _keep_shapes_on_cpu(model.graph.node, taken, tensors)
    nodes = tuple(Foretold(node.name, node.op_type, on_cuda) for node, on_cuda in zip(model.graph.node, taken, strict=True))
    down, up = _copied(model, taken, tensors)
    return Partition(nodes, down, up)


class _Tensors:
    """Types and sizes of a graph's tensors."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - self.constants.keys()
        self._types: dict[str, TypeProto.Tensor] = {
            value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)
        }
        self._producers = {output: node for node in graph.node for output in node.output if output}

    def type_of(self, name: str) -> str:
        """Return the type of a tensor's elements, as ONNX calls it; empty if it is not known."""
        if name in self.constants:
            return type_name(self.constants[name].data_type)
        if name in self._types and self._types[name].elem_type:
            return type_name(self._types[name].elem_type)
        node = self._producers.get(name)
        if node is None:
            return ""
        if node.op_type == "QuantizeLinear":
            return self.written_by(node)
        return self.type_of(node.input[1] if node.op_type == "DequantizeLinear" else node.input[0]) if node.input else ""

    def written_by(self, quantizer: NodeProto) -> str:
        """Return the type of the codes that a QuantizeLinear node writes."""
        if len(quantizer.input) > 2 and quantizer.input[2]:
            return self.type_of(quantizer.input[2])
        kind = attribute(quantizer, "output_dtype", 0)
        return type_name(int(kind)) if kind else "uint8"  # type: ignore[call-overload]

    def bytes_of(self, name: str) -> int | None:
        """Return how many bytes a tensor takes for one image; None if its shape is not known."""
        sizes, kind = self._shape_of(name), self.type_of(name)
        if sizes is None or not all(sizes) or not kind or kind.startswith("type "):
            return None
        width = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind.upper())).itemsize
        return prod(sizes) * int(width)

    def _shape_of(self, name: str) -> list[int] | None:
        """Return a tensor's shape for one image, 0 for sizes that are not known; None if nothing is."""
        if name in self.constants:
            return list(self.constants[name].dims)
        node = self._producers.get(name)
        if node is not None and node.op_type in QUANTIZERS:  # level 1 makes some without a shape
            return self._shape_of(node.input[0])
        if name not in self._types or not self._types[name].HasField("shape"):
            return None
        # The first dimension is the batch's where it is no number.
        sizes = enumerate(self._types[name].shape.dim)
        return [1 if place == 0 and not size.HasField("dim_value") else size.dim_value for place, size in sizes]


def _has_kernel(node: NodeProto, tensors: _Tensors) -> bool:
    """Tell whether CUDA has a kernel for an operator on the types that it is given."""
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return False
    types = (_MICROSOFT if node.domain == "com.microsoft" else _KERNELS).get(node.op_type)
    if types is None:
        return False
    kind = (
        tensors.written_by(node) if node.op_type == "QuantizeLinear" else tensors.type_of(node.input[0]) if node.input else ""
    )
    return not kind or kind in types


def _keep_shapes_on_cpu(nodes: Iterable[NodeProto], taken: list[bool], tensors: _Tensors) -> None:
    """Leave nodes to the CPU that go on from what CUDA's own kernels left in its memory, and read nothing else but constants.

    Args:
        nodes: The nodes, each behind those that it reads from.
        taken: Whether CUDA has a kernel for each; changed.
        tensors: Types and sizes.
    """
    on_cpu: set[str] = (
        set()
    )  # only what goes back to such a result: what a lack of kernels left to the CPU pulls nothing after it
    for place, node in enumerate(nodes):
        if taken[place] and node.op_type in _RESULT_ON_CPU:
            on_cpu |= set(node.output)
        elif any(name in on_cpu for name in node.input):
            taken[place] = taken[place] and not _reads_cpu_only(node, on_cpu, tensors)
            on_cpu |= set() if taken[place] else set(node.output)


def _reads_cpu_only(node: NodeProto, on_cpu: set[str], tensors: _Tensors) -> bool:
    there = _READ_ON_CPU.get(node.op_type, frozenset())
    for position, name in enumerate(node.input):
        if tensors.type_of(name) in ("float16", "bfloat16"):
            return False
        if not name or _is_small(name, tensors) or name in tensors.inputs:
            continue
        if name not in on_cpu or position in there:
            return False
    return True


def _is_small(name: str, tensors: _Tensors) -> bool:
    constant = tensors.constants.get(name)
    return constant is not None and prod(constant.dims) <= _SMALL_CONSTANT


def _copied(model: ModelProto, taken: list[bool], tensors: _Tensors) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Return the bytes of each tensor that is copied to the CPU, and of each that is copied to the GPU."""
    made_on_gpu: dict[str, bool] = {}
    for node, on_cuda in zip(model.graph.node, taken, strict=True):
        made_on_gpu |= dict.fromkeys(filter(None, node.output), on_cuda and node.op_type not in _RESULT_ON_CPU)
    read_on_gpu: set[str] = set()
    read_on_cpu: set[str] = set()
    for node, on_cuda in zip(model.graph.node, taken, strict=True):
        there = _READ_ON_CPU.get(node.op_type, frozenset())
        for position, name in enumerate(node.input):
            (read_on_gpu if on_cuda and position not in there else read_on_cpu).add(name)
    down = [name for name, on_gpu in made_on_gpu.items() if on_gpu and name in read_on_cpu]
    up = [name for name, on_gpu in made_on_gpu.items() if not on_gpu and name in read_on_gpu]
    up += [name for name in tensors.inputs if name in read_on_cpu and name in read_on_gpu]
    return tuple(map(tensors.bytes_of, down)), tuple(map(tensors.bytes_of, up))


def _volume(sizes: tuple[int | None, ...]) -> str:
    known = [size for size in sizes if size is not None]
    said = f"{sum(known) / 1e6:.3g} MB"
    return said if len(known) == len(sizes) else f"at least {said}"
