"""Another ONNX file in the place of a precision's: which of its tensors are the bundle's, and what its outputs mean.

Names say nothing about a file that another tool wrote: tensors are found by their position (`qcam.runtime.positions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto

from qcam.common.errors import BundleError, QcamError
from qcam.common.vocabulary import Layout
from qcam.runtime.bundle import Bundle, PrecisionEntry, Tap, load_onnx, read_onnx
from qcam.runtime.codes import Codes, quantized_tensors
from qcam.runtime.graph import Graph, type_name
from qcam.runtime.normal import normalised
from qcam.runtime.positions import Positions, match, partners_in_float
from qcam.runtime.session_config import session_of_schema_1
from qcam.runtime.tables import CODE_BITS, SHAPE_OPERATORS

#: Operators that make shares of scores.
_SHARES = frozenset({"Softmax", "LogSoftmax"})
_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
_IMPORT = "make a bundle of it with {qcam-import}"


@dataclass(frozen=True)
class OtherFile:
    """A file that is judged in the place of a precision's.

    Attributes:
        path: Where it is.
        model: The file, parsed, with its weights.
        entry: What its outputs mean: the precision's entry with the file's own names, scales and input.
        partners: The bundle's tensor of codes → the file's at the same position.
        missing: The bundle's tensors of codes that have none.
        others: The file's tensors of codes that have none in the bundle.
        ambiguous: The bundle's tensors at whose position several stand that nothing tells apart.
        meanings: The bundle's tensor → what its codes mean in the bundle, and in the file; of those with a partner.
        told: What else was decided about the file, a sentence each.
    """

    path: Path
    model: onnx.ModelProto
    entry: PrecisionEntry
    partners: dict[str, str]
    missing: tuple[str, ...]
    others: tuple[str, ...]
    ambiguous: tuple[str, ...]
    meanings: dict[str, tuple[Codes, Codes]]
    told: tuple[str, ...]

    def same(self, tensor: str) -> bool:
        """Tell whether a code of one of the bundle's tensors stands for the same value in the file."""
        own, other = self.meanings[tensor]
        return own.same_meaning(other)


def other_file(bundle: Bundle, precision: str, path: Path, own: Graph | None = None) -> OtherFile:
    """Find a bundle's tensors in another file.

    Args:
        bundle: The bundle.
        precision: The precision in whose place the file is judged.
        path: The file.
        own: The graph of the precision's own file, normalised; None: it is read.

    Raises:
        BundleError: If it is no ONNX file, is another network, or is no file of that precision.
    """
    entry, model = bundle.precision(precision), read_onnx(path)
    if not model.graph.output:
        raise BundleError(f"{path} has no output; it is no network")
    try:
        mine = Positions(own or Graph(normalised(load_onnx(bundle, precision))))
        graph = Graph(normalised(model))
        there = {name for node in model.graph.node for name in node.output if name}
        theirs = Positions(graph, [name for name in quantized_tensors(graph) if name in there])
    except QcamError as error:
        raise BundleError(f"{path} cannot be judged: {error.template}") from error
    return _Finding(bundle, entry, path, model, mine, theirs, there).found()


class _Finding:
    """A file in which things are being found."""

    def __init__(
        self,
        bundle: Bundle,
        entry: PrecisionEntry,
        path: Path,
        model: onnx.ModelProto,
        mine: Positions,
        theirs: Positions,
        there: set[str],
    ) -> None:
        self._bundle, self._entry, self._path, self._model = bundle, entry, path, model
        self._mine, self._theirs, self._there = mine, theirs, there
        self._told: list[str] = []
        matching = match(mine, theirs)
        self._meanings = {}
        for name, partner in matching.partners.items():
            one, other = mine.quantized[name].codes, theirs.quantized[partner].codes
            if one is not None and other is not None:
                self._meanings[name] = (one, other)
        self._partners = {name: matching.partners[name] for name in self._meanings}
        unknown = [name for name in matching.partners if name not in self._meanings]
        self._missing = tuple(name for name in mine.quantized if name in {*matching.missing, *unknown})
        self._others, self._ambiguous = matching.others, matching.ambiguous

    def found(self) -> OtherFile:
        """Return what was found.

        Raises:
            BundleError: If the file is another network, or no file of the precision.
        """
        entry = self._entry
        logits = self._logits()
        self._refuse_another(logits)
        if self._mine.quantized and not self._theirs.quantized:
            raise BundleError(
                f"{self._path} quantizes nothing: it is no {entry.name} network; give the {{precision}} that it is"
            )
        if self._theirs.quantized and not self._mine.quantized:
            raise BundleError(
                f"{self._path} quantizes {next(iter(self._theirs.quantized))}: it is no {entry.name} network; give the "
                "{precision} that it is"
            )
        if logits is None:
            raise BundleError(
                f"{self._path} hands out no class scores that can be told from other outputs "
                f"({', '.join(self._theirs.graph.outputs[:8])}); {_IMPORT}"
            )
        tap = self._tap(entry.tap, "which carries the CAM layer")
        skips = tuple(self._tap(skip, "which the way from the CAM layer to the logits reads") for skip in entry.skips)
        session = session_of_schema_1(tap.dtype) if self._bundle.schema == 1 else entry.session
        batch = self._sizes()[0] if self._sizes() else None
        taken = replace(entry.input, name=self._theirs.graph.image_input if entry.input.name else "", batch=batch)
        return OtherFile(
            path=self._path,
            model=self._model,
            entry=replace(
                entry, logits=logits, tap=tap, skips=skips, session=session, input=taken, original=None, proof="", external={}
            ),
            partners=self._partners,
            missing=self._missing,
            others=self._others,
            ambiguous=self._ambiguous,
            meanings=self._meanings,
            told=tuple(self._told),
        )

    def _sizes(self) -> tuple[int | None, ...]:
        """Return the sizes of the input; None where it leaves one open."""
        shape = self._theirs.graph.shapes.get(self._theirs.graph.image_input, ())
        return tuple(size or None for size in shape)

    def _refuse_another(self, logits: str | None) -> None:
        """Refuse a file of another network, and say what differs."""
        graph, preprocessing = self._theirs.graph, self._bundle.preprocessing
        differs = []
        told = next(value.type.tensor_type.elem_type for value in graph.model.graph.input if value.name == graph.image_input)
        image = [preprocessing.channels, *preprocessing.crop]
        wanted = [*image[1:], image[0]] if self._entry.input.layout == Layout.NHWC else image
        sizes = self._sizes()
        if len(sizes) not in (0, 4) or any(size not in (None, want) for size, want in zip(sizes[1:], wanted, strict=False)):
            differs.append(f"its input is {_by(sizes)}, the bundle's {_by([None, *wanted])}")
        if told and told != _TYPES[self._entry.input.dtype]:
            kind = type_name(told)
            differs.append(f"its input is of {kind}, the bundle's of {self._entry.input.dtype}")
        classes = len(self._bundle.classes)
        counts = {name: count for name in graph.outputs if (count := self._count(name)) is not None}
        if logits is None and counts and not any(_fits(count, classes) for count in counts.values()):
            differs.append(f"it has {' or '.join(str(count) for count in counts.values())} classes, the bundle {classes}")
        operators = [name for name, found in self._mine.quantized.items() if found.root != self._mine.graph.image_input]
        if self._theirs.quantized and operators and not {*self._partners, *self._ambiguous}.intersection(operators):
            differs.append(f"none of its {len(self._theirs.quantized)} quantized tensors stands where one of the bundle's does")
        if len(sizes) == 4 and wanted != (turned := [*wanted[1:], wanted[0]]) and list(sizes[1:]) in (
            turned, [wanted[2], *wanted[:2]],
        ):  # fmt: skip
            raise BundleError(
                f"{self._path} takes its pictures with the axes in another order ({_by(sizes)}) than "
                f"{self._bundle.path(self._entry.name)} ({_by([None, *wanted])}): what the two compute is not compared here; "
                "import it as a bundle of its own with {qcam-import}"
            )
        if differs:
            raise BundleError(
                f"{self._path} is another network than {self._bundle.path(self._entry.name)}: {'; '.join(differs)}"
            )

    def _count(self, output: str) -> int | None:
        """Return how many classes an output of the shape of scores has; None if it has another shape."""
        shape = self._theirs.graph.shapes.get(output)
        return shape[1] if shape is not None and len(shape) == 2 else None

    def _logits(self) -> str | None:
        """Return the tensor of class scores: by its position, else the one output of their shape; None if none can be told.

        Raises:
            BundleError: If the scores are codes, or several outputs may be the scores.
        """
        key, graph = self._mine.key(self._entry.logits), self._theirs.graph
        at = [name for name in graph.outputs if self._theirs.key(name) == key]
        scores: list[str] = [name for name in at if not self._holds_codes(name)]
        if at and not scores:
            raise BundleError(f"{self._path} hands out its class scores as codes, {at[0]}; {_IMPORT}")
        if not scores:
            for output in graph.outputs:
                front = self._before_shares(output)
                if front is not None and self._theirs.key(front) == key and front in self._there:
                    self._told.append(f"its output {output} is a softmax: logits are {front}, in front of it")
                    return front
        if not scores:
            scores = [
                name
                for name in graph.outputs
                if (count := self._count(name)) is not None
                and _fits(count, len(self._bundle.classes))
                and not self._holds_codes(name)
            ]
            if not scores:  # what does not say its shape may be scores: the first run tells
                scores = [name for name in graph.outputs if graph.shapes.get(name) is None and not self._holds_codes(name)]
            if not scores:
                return None
            shares = [name for name in scores if self._before_shares(name) is not None]
            if shares:
                raise BundleError(f"{self._path} hands out shares of a softmax, {shares[0]}, and no logits; {_IMPORT}")
            if len(scores) == 1:
                self._told.append(
                    f"logits are its output {scores[0]} by the shape alone: the operators in front of it are not the bundle's"
                )
        named = [name for name in scores if name == self._entry.logits]
        if len(scores) > 1 and not named:
            raise BundleError(f"{self._path} has several outputs that may be the class scores: {', '.join(scores)}; {_IMPORT}")
        return str((named or scores)[0])

    def _holds_codes(self, tensor: str) -> bool:
        node = self._theirs.graph.producer.get(tensor)
        while node is not None and node.op_type in SHAPE_OPERATORS:
            node = self._theirs.graph.producer.get(node.input[0])
        return node is not None and node.op_type == "QuantizeLinear"

    def _before_shares(self, output: str) -> str | None:
        """Return what a softmax reads that an output comes from, through what changes no value; None without one."""
        graph, tensor = self._theirs.graph, output
        while (node := graph.producer.get(tensor)) is not None:
            if node.op_type in _SHARES:
                return str(node.input[0])
            if node.op_type not in SHAPE_OPERATORS | {"QuantizeLinear", "DequantizeLinear", "Cast"}:
                return None
            tensor = str(node.input[0])
        return None

    def _tap(self, tap: Tap, role: str) -> Tap:
        """Return what a tensor that the bundle hands out is in the file.

        Raises:
            BundleError: If it is nowhere, or is no tensor of one scale.
        """
        quantizer = self._mine.graph.producer.get(tap.output)
        coded = tap.dtype != "float32"
        if coded and tap.output in self._partners:
            return self._coded(self._partners[tap.output])
        if coded and tap.output in self._ambiguous:
            raise BundleError(
                f"{self._path} has several tensors where {tap.output}, {role}, stands in the bundle, and nothing tells them "
                f"apart; {_IMPORT}"
            )
        tensor = str(quantizer.input[0]) if coded and quantizer is not None else tap.output
        if tensor == self._mine.graph.image_input:
            return Tap(self._theirs.graph.image_input, self._theirs.graph.image_input, "float32")
        found = [name for name in partners_in_float(self._mine, tensor, self._theirs) if name in self._there]
        if len(found) != 1:
            number = f"{len(found)} tensors" if found else "no tensor"
            raise BundleError(
                f"{self._path} has {number} where {tap.output}, {role}, stands in the bundle: tensors are matched by the "
                "operators between the input and them, and these are not the bundle's there"
            )
        if coded:
            self._told.append(f"it quantizes nothing where {tap.output}, {role}, stands: its float tensor {found[0]} is taken")
        return Tap(found[0], found[0], "float32")

    def _coded(self, name: str) -> Tap:
        graph, codes = self._theirs.graph, self._theirs.quantized[name].codes
        tensor = str(graph.producer[name].input[0])
        if codes is None or codes.scale.size != 1 or codes.dtype.name not in CODE_BITS:
            kind = "codes of unknown scale" if codes is None else codes.dtype.name
            raise BundleError(f"{self._path} quantizes {tensor} per channel or to {kind}; a tap needs one scale")
        float_name = tensor if tensor in self._there else name
        return Tap(float_name, name, codes.dtype.name, float(codes.scale), int(codes.zero_point))


def _fits(outputs: int, classes: int) -> bool:
    """Tell whether class names are as many as the outputs; one output is a score that decides between two."""
    return outputs == classes or (outputs, classes) == (1, 2)


def _by(sizes: Sequence[int | None]) -> str:
    return "×".join("N" if size is None else str(size) for size in sizes) or "of no known shape"
