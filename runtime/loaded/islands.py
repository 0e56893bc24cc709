"""Float islands: the float operators between quantizers, cut so that each can be computed by itself.

In which order a float kernel adds, and so how it rounds, is not written in the file. Where the mirror does not know it, an
island can be given to ONNX Runtime's own float kernels, in a session of that island alone: on this processor, and on no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from qcam.common.errors import UnsupportedGraphError, first_line
from qcam.runtime.graph import alone
from qcam.runtime.tables import ONE_ROUNDING, QUANTIZERS

#: The optimizer that changes the layout of float kernels into blocks of channels.
_INTO_BLOCKS = "NchwcTransformer"


@dataclass(frozen=True)
class Island:
    """Float operators that are computed together.

    Attributes:
        nodes: The operators, in graph order.
        inputs: Tensors that they read and that are neither constants nor their own.
        outputs: Their results that others read.
        unordered: Those of them whose additions the mirror does not order as ONNX Runtime does, or rounds otherwise.
    """

    nodes: tuple[NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    unordered: tuple[NodeProto, ...]


def find_islands(
    nodes: Sequence[NodeProto],
    *,
    grouped: set[int],
    fixed: Iterable[str],
    wanted: Iterable[str],
    ordered: Callable[[NodeProto], bool],
) -> tuple[Island, ...]:
    """Cut the float operators of a graph into islands.

    Two operators are on one island if one reads the other, and no quantizer stands on any way between them: an island can be
    computed as soon as its inputs are there.

    Args:
        nodes: The graph's nodes, sorted.
        grouped: The ids (`id`) of nodes that run as integer kernels.
        fixed: Tensors that do not depend on the graph's input.
        wanted: Tensors that are handed out.
        ordered: Tells whether the mirror rounds an operator as ONNX Runtime does.

    Returns:
        The islands, in the order of their first operators.
    """
    fixed = frozenset(fixed)
    depth: dict[str, int] = {}
    maker: dict[str, int] = {}
    root: dict[int, int] = {}

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for index, node in enumerate(nodes):
        reads = [name for name in node.input if name and name not in fixed]
        deep = max((depth.get(name, 0) for name in reads), default=0)
        afloat = not (id(node) in grouped or node.op_type in QUANTIZERS or fixed.issuperset(node.output))
        for name in node.output:
            depth[name] = deep if afloat else deep + 1
        if not afloat:
            continue
        root[index] = index
        for name in node.output:
            maker[name] = index
        for name in reads:
            other = maker.get(name)
            if other is not None and depth[nodes[other].output[0]] == deep:
                root[find(index)] = find(other)
    members: dict[int, list[int]] = {}
    for index in root:
        members.setdefault(find(index), []).append(index)
    readers: dict[str, set[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, set()).add(index)
    handed = set(wanted)
    islands = []
    for places in sorted(members.values()):
        inside = set(places)
        own = {name for place in places for name in nodes[place].output if name}
        inputs = dict.fromkeys(
            name for place in places for name in nodes[place].input if name and name not in own and name not in fixed
        )
        made = [name for place in places for name in nodes[place].output if name]
        outputs = [name for name in made if name in handed or readers.get(name, set()) - inside]
        here = tuple(nodes[place] for place in places)
        islands.append(Island(here, tuple(inputs), tuple(outputs), tuple(node for node in here if not ordered(node))))
    return tuple(islands)


def rounds_once(node: NodeProto) -> bool:
    """Tell whether an operator's float result can be rounded in one way alone."""
    return node.domain in ("", "ai.onnx") and node.op_type in ONE_ROUNDING


class IslandSession:
    """An island in a session of ONNX Runtime of its own, on the CPU; it is made when the first values are there.

    Their shapes are told to it, all but the number of images: optimizers ask for them, and choose other kernels without.

    Attributes:
        island: The island.
    """

    def __init__(
        self,
        island: Island,
        constants: Mapping[str, NDArray[Any]],
        model: onnx.ModelProto,
        settings: Mapping[str, str],
        threads: int = 0,
        *,
        blocked: bool = False,
    ) -> None:
        """Cut the island out.

        Args:
            island: The island.
            constants: Every constant that it reads, by name; weights that a file holds as codes are dequantized.
            model: The graph that it is cut out of: its operator sets, and the types of its tensors.
            settings: Session configuration of the deployed session.
            threads: Of the session; 0 leaves it to ONNX Runtime.
            blocked: Whether its kernels compute in blocked layout in the whole graph. Alone they would do so where they do not
                there, behind a quantizer: the layout is then left as it is.
        """
        # Nodes of its own: those of the model would keep it in memory as long as the session.
        self.island = replace(island, nodes=tuple(map(alone, island.nodes)), unordered=tuple(map(alone, island.unordered)))
        self._settings, self._threads = dict(settings), threads
        self._session: Any = None
        self._blocked = blocked
        # A constant that nodes compute as the graph runs (a weight that is dequantized) must not become one that kernels may
        # lay out anew, or kernels that add in another order take its place.
        stored = {tensor.name for tensor in model.graph.initializer}
        read = {name for node in island.nodes for name in node.input if name in constants}
        self._computed = {name: np.ascontiguousarray(constants[name]) for name in sorted(read - stored)}
        self._stored = {name: np.ascontiguousarray(constants[name]) for name in sorted(read & stored)}
        self._opsets = [helper.make_opsetid(each.domain, each.version) for each in model.opset_import]
        self._ir_version = model.ir_version

    def _open(self, given: Mapping[str, NDArray[Any]]) -> Any:
        """Make the session, by the shapes of the values that it will be given."""
        import onnxruntime

        def described(name: str, value: NDArray[Any]) -> onnx.ValueInfoProto:
            shape: list[int | str] = list(value.shape)
            if name not in self._computed and shape:
                shape[0] = "batch"
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)

        graph = helper.make_graph(
            list(self.island.nodes),
            "island",
            [described(name, value) for name, value in given.items()],
            [helper.make_empty_tensor_value_info(name) for name in self.island.outputs],
            [numpy_helper.from_array(value, name) for name, value in self._stored.items()],
        )
        alone = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        for name, value in self._settings.items():
            options.add_session_config_entry(name, value)
        further = {} if self._blocked else {"disabled_optimizers": [_INTO_BLOCKS]}
        try:
            return onnxruntime.InferenceSession(
                alone.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0, **further
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            label = _label(self.island)
            raise UnsupportedGraphError(f"ONNX Runtime does not load {label} alone: {first_line(error)}") from error

    def run(self, *values: NDArray[Any]) -> list[NDArray[Any]]:
        """Compute the island.

        Args:
            values: One for each of its inputs.

        Raises:
            UnsupportedGraphError: If ONNX Runtime does not load it, or a kernel fails.
        """
        given = dict(zip(self.island.inputs, values, strict=True)) | self._computed
        if self._session is None:
            self._session = self._open(given)
        try:
            return list(self._session.run(list(self.island.outputs), given))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            label = _label(self.island)
            raise UnsupportedGraphError(f"ONNX Runtime cannot compute {label} alone: {first_line(error)}") from error


def _label(island: Island) -> str:
    node = island.nodes[0]
    return f"{node.op_type} {node.name or node.output[0]}"
