"""A precision's file as a check reads it: written in one way, and the graphs that ONNX Runtime makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import onnx

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.codes import codes_of_quantizer, quantized_tensors
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import KernelGroup, find_groups, source_label
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.loaded import LoadedGraph, followed
from qcam.runtime.loaded.islands import rounds_once
from qcam.runtime.mirror.registry import rounds_as_theirs
from qcam.runtime.normal import normalised
from qcam.runtime.rewrites import not_followed
from qcam.runtime.tables import PASSING_OPERATORS, QUANTIZERS


class Reading:
    """One file, and what is known of its graph.

    Attributes:
        file: The file, parsed.
        normal: The same, written in one way (`normalised`).
        graph: An index over `normal`.
        settings: Session configuration that it is deployed with.
        tensors: Names of the file's tensors of codes, in graph order.
    """

    def __init__(self, file: onnx.ModelProto, settings: Mapping[str, str], own: KernelFamily | None = None) -> None:
        """Read the file.

        Args:
            file: The file, parsed, with its weights.
            settings: Session configuration that it is deployed with, name → value.
            own: The kernel family of the CPU that it is deployed on; None if it runs on something else, or fits no family.
        """
        self.file = file
        self.normal = normalised(file)
        self.graph = Graph(self.normal)
        self.settings = dict(settings)
        self.tensors = quantized_tensors(self.graph)
        self._own = own
        self._loaded: dict[str, LoadedGraph | UnsupportedGraphError] = {}

    def loaded(self, family: KernelFamily) -> LoadedGraph:
        """Return the graph that integer arithmetic of a family follows.

        Raises:
            UnsupportedGraphError: If ONNX Runtime does not load the file, or its graph is not known here.
        """
        if family.name not in self._loaded:
            try:
                self._loaded[family.name] = followed(self.file, self.settings, family)
            except UnsupportedGraphError as error:
                self._loaded[family.name] = error
        found = self._loaded[family.name]
        if isinstance(found, UnsupportedGraphError):
            raise found
        return found

    @property
    def deployed(self) -> LoadedGraph | None:
        """Return the graph that the CPU here really runs; None if something else runs, or the graph is not known."""
        if self._own is None or not self.tensors:
            return None
        try:
            found = self.loaded(self._own)
        except UnsupportedGraphError:
            return None
        return None if found.wide else found

    @cached_property
    def faint(self) -> tuple[str, ...]:
        """Return the quantizers whose scales hold a number below the smallest normal one of float32, by their results."""
        held, smallest = self.graph.initializers, np.finfo(np.float32).tiny
        nodes = [node for node in self.normal.graph.node if node.op_type in QUANTIZERS and node.input[1] in held]
        scales = [np.abs(self.graph.array(node.input[1])) for node in nodes]
        faint = [bool(((scale > 0) & (scale < smallest)).any()) for scale in scales]
        return tuple(node.output[0] for node, is_faint in zip(nodes, faint, strict=True) if is_faint)

    @property
    def kept(self) -> tuple[str, ...]:
        """Return those of the tensors of codes that are in the graph as it is deployed, as far as that is known.

        Of quantizers one behind the other, ONNX Runtime keeps the first with the last one's scale: its codes are others then.
        """
        if self.deployed is None:
            return self.tensors
        there = Graph(self.deployed.model)
        return tuple(
            name for name in self.tensors
            if (node := there.producer.get(name)) is not None
            and _same_steps(self.graph, self.graph.producer[name], there, node)
        )  # fmt: skip

    @property
    def followed(self) -> tuple[Graph, tuple[KernelGroup, ...]]:
        """Return the graph as deployed with its groups; where it is not known, the file's own."""
        if self.deployed is None:
            return self.graph, find_groups(self.graph)
        return Graph(self.deployed.model), self.deployed.groups

    @property
    def float_operators(self) -> tuple[str, ...]:
        """Return the float operators between quantizers that may be rounded otherwise elsewhere, in words."""
        if self.deployed is None:
            return ()
        graph, groups = self.followed
        unsure = self.deployed.means.unordered | self.deployed.means.unknown
        inside = {id(node) for group in groups for node in (group.node, *group.inner)}
        return tuple(
            f"{node.op_type} {node.name or node.output[0]}"
            for node in graph.model.graph.node
            if id(node) not in inside
            and node.op_type not in QUANTIZERS
            and not graph.fixed.issuperset(node.output)
            and not rounds_once(node)
            and not (rounds_as_theirs(node) and node.output[0] not in unsure)
        )

    def same_kernels(self, one: KernelFamily, other: KernelFamily) -> bool:
        """Tell whether ONNX Runtime makes one graph of the file on two kinds of CPUs.

        Raises:
            UnsupportedGraphError: As in `loaded`.
        """
        return self.loaded(one).kernels == self.loaded(other).kernels

    def labels(self, tensors: tuple[str, ...]) -> dict[str, str]:
        """Return the operator that each tensor comes from, in words: of the graph as deployed, where it has the tensor."""
        known = [] if self.deployed is None else [(Graph(self.deployed.model), self.deployed.groups)]
        graphs = [*known, (self.graph, find_groups(self.graph))]
        found = {}
        for name in tensors:
            graph, groups = next((each for each in graphs if name in each[0].producer), graphs[-1])
            found[name] = source_label(graph, {group.result: group for group in groups}, name)
        return found

    def second_opinion(self) -> list[str]:
        """Hold the groups of the graph as deployed against those that the file's own quantizers foretell.

        Returns:
            One sentence for each operator of which the two do not say the same; empty where all agree. Operators that only
            rearrange codes are left out: with codes or floats, they do the same.
        """
        if self.deployed is None:
            return []
        ran, read = (
            {group.node.name: group.kernel for group in groups if group.node.name and group.kernel not in PASSING_OPERATORS}
            for groups in (self.deployed.groups, find_groups(self.graph))
        )
        differing = [
            f"{name}: {ran.get(name, 'float')} in ONNX Runtime's own graph, {read.get(name, 'float')} by the file's quantizers"
            for name in {**read, **ran}
            if ran.get(name) != read.get(name)
        ]
        return differing + (not_followed(self.graph) if differing else [])


def _same_steps(graph: Graph, node: onnx.NodeProto, other: Graph, twin: onnx.NodeProto) -> bool:
    """Tell whether two quantizers make the same codes of the same values, perhaps one with a sign and one without."""
    first = codes_of_quantizer(graph, node)
    second = codes_of_quantizer(other, twin) if twin.op_type == "QuantizeLinear" else None
    if first is None or second is None or first.scale.shape != second.scale.shape:
        return True
    if first.dtype.itemsize != second.dtype.itemsize or not np.array_equal(first.scale, second.scale):
        return False
    above, other_above = [codes.zero_point.astype(np.int64) - np.iinfo(codes.dtype).min for codes in (first, second)]  # type: ignore[type-var]
    return np.array_equal(above, other_above)
