"""A deployed run that hands out every quantized tensor besides logits and tap, and files that no bundle describes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.common.errors import BundleError, QcamError, first_line
from qcam.runtime.apart import shapes_at
from qcam.runtime.bundle import Bundle, PrecisionEntry, Tap, load_onnx
from qcam.runtime.codes import codes_of_quantizer
from qcam.runtime.deployed.other_file import OtherFile
from qcam.runtime.deployed.session import DeployedModel, DeployedOutputs, SessionSettings
from qcam.runtime.graph import Graph


@dataclass(frozen=True)
class Inspected:
    """What one batch gave, with everything exposed.

    Attributes:
        outputs: Logits, tap and skips of the file as it is deployed.
        codes: Tensor name → integer codes.
        undisturbed: Whether exposing the tensors left logits and tap as they are, bit for bit.
        faithful: Whether handing out the tap of a file that does not do so itself left its logits as they are, bit for bit.
    """

    outputs: DeployedOutputs
    codes: dict[str, NDArray[Any]]
    undisturbed: bool
    faithful: bool = True


@dataclass(frozen=True)
class _Everything:
    """A session that hands out every tensor of codes."""

    session: DeployedModel
    opened: Opened

    def run(self, images: NDArray[np.float32], plain: DeployedOutputs) -> tuple[dict[str, NDArray[Any]], bool]:
        """Return tensor → codes of a batch, and whether logits and tap are those of the plain run, bit for bit."""
        entry = self.session.entry
        logits, tap, *values = self.session.values(images, [entry.logits, entry.tap.output, *self.opened.outputs.values()])
        return self.opened.codes(values), np.array_equal(logits, plain.logits) and np.array_equal(tap, plain.tap)


class InspectedModel:
    """A deployed session, and beside it a second one of the same file with every quantized tensor as an output.

    Exposing a QuantizeLinear's output keeps every integer kernel. Of ONNX Runtime's CPU provider, maps of bytes are handed out
    with their channels last, as its kernels have them: with channels first, float kernels between them would change their
    layout, and their sums. Whether the second session computes what the first does is checked on every batch; if it does not,
    maps are handed out as they are in the file, and that is checked again.

    Attributes:
        deployed: The session as users run it.
        tensors: Names of the tensors of codes that can be looked at, in the order asked for; the bundle's names, whatever they
            are called in the file.
        missing: Names that were asked for and that the file does not have.
        taps: The tap and the skip tensors, with the file's own scales.
        provider: Short name of the execution provider.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        settings: SessionSettings,
        tensors: Sequence[str],
        *,
        model: onnx.ModelProto | None = None,
        other: OtherFile | None = None,
    ) -> None:
        """Open the sessions.

        Args:
            bundle: The bundle.
            precision: The precision.
            settings: How sessions are made.
            tensors: Names of the tensors of codes.
            model: The precision's file, parsed before (`load_onnx`); None: it is read.
            other: Another file to judge in the precision's place.

        Raises:
            ProviderError: If a session cannot be had.
            BundleError: If a file cannot be copied.
        """
        if other is not None:
            model, entry, partners = other.model, other.entry, other.partners
        else:
            model, entry = model or load_onnx(bundle, precision), bundle.precision(precision)
            graph = Graph(model)
            partners = {name: name for name in tensors if name in graph.producer and name not in graph.fixed}
        self.tensors = tuple(name for name in tensors if name in partners)
        self.missing = tuple(name for name in tensors if name not in partners)
        self._names = [partners[name] for name in self.tensors]
        self._file = bundle.path(precision) if other is None else other.path
        self._temporary: list[Path] = []
        outputs = {output.name for output in model.graph.output}
        with self._named(), tempfile.TemporaryDirectory(prefix="qcam-inspect-") as folder:
            plain = Path(folder) / "plain.onnx"
            self._temporary = [plain]
            handed = (entry.logits, *(tap.output for tap in (entry.tap, *entry.skips)))
            needed = [name for name in handed if name not in outputs]
            run = model if other is None else exposed(model, needed)
            if other is not None:  # the tap may have to be exposed even for the plain run
                self._write(plain, run)
            self.deployed = DeployedModel(bundle, precision, settings, file=plain if other else None, entry=entry, model=run)
            self._given: DeployedModel | None = None
            if other is not None and needed and entry.logits in outputs:
                alone = replace(entry, tap=Tap(entry.logits, entry.logits, "float32"), skips=())
                self._given = DeployedModel(bundle, precision, settings, file=other.path, entry=alone, model=model)
            self.taps = self.deployed.taps
            self.provider = settings.provider
            ways: list[Callable[[onnx.ModelProto, Sequence[str]], Opened]] = [as_in_the_file]
            if settings.provider == "CPU":
                ways.insert(0, with_channels_last)
            self._ways = [partial(self._open, bundle, precision, settings, entry, way, model, needed) for way in ways]
            self._everything: _Everything | None = None
            if self._names:
                self._everything = self._ways.pop(0)()

    def run(self, images: NDArray[np.float32]) -> Inspected:
        """Run one batch.

        Args:
            images: float32, batch × 3 × height × width, preprocessed.

        Raises:
            ProviderError: If the provider fails.
        """
        with self._named():
            outputs = self.deployed.run(images)
            plain, faithful = outputs, True
            if self._given is not None:  # logits are those of the file as it was given
                (logits,) = self._given.values(images, [self._given.entry.logits])
                faithful = np.array_equal(logits, outputs.logits)
                outputs = replace(outputs, logits=logits)
            if self._everything is None:
                return Inspected(outputs, {}, True, faithful)
            plain = plain if self.deployed.copy is None else self.deployed.copy.run(images)
            while True:
                codes, undisturbed = self._everything.run(images, plain)
                if undisturbed or not self._ways:
                    by_name = {name: codes[partner] for name, partner in zip(self.tensors, self._names, strict=True)}
                    return Inspected(outputs, by_name, undisturbed, faithful)
                del codes
                other = self._ways.pop(0)()
                self._everything.session.close()
                self._everything = other

    def _open(
        self,
        bundle: Bundle,
        precision: str,
        settings: SessionSettings,
        entry: PrecisionEntry,
        way: Callable[[onnx.ModelProto, Sequence[str]], Opened],
        model: onnx.ModelProto,
        needed: Sequence[str],
    ) -> _Everything:
        """Open a session that hands out all that is needed and all codes, in a way."""
        opened = way(exposed(model, needed), self._names)
        with tempfile.TemporaryDirectory(prefix="qcam-inspect-") as folder:
            path = Path(folder) / "opened.onnx"
            self._temporary.append(path)
            self._write(path, opened.model)
            session = DeployedModel(bundle, precision, settings, file=path, entry=entry, model=opened.model)
        return _Everything(session, opened)

    def _write(self, path: Path, model: onnx.ModelProto) -> None:
        """Write a copy that holds its weights inside."""
        try:
            path.write_bytes(model.SerializeToString())
        except Exception as error:  # protobuf raises its own types, by version
            raise BundleError(
                f"cannot copy {self._file} with its weights inside ({first_line(error)}): one ONNX file holds 2 GiB; "
                "check a smaller network, or free space in the temporary folder"
            ) from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let errors name the file that was given, not the copies that were run."""
        try:
            yield
        except QcamError as error:
            message = error.template
            for path in self._temporary:
                message = message.replace(str(path), str(self._file))
            raise type(error)(message) from error


@dataclass(frozen=True)
class Opened:
    """A copy of a file that hands out more.

    Attributes:
        model: The copy.
        outputs: Tensor of codes → the output that has it; where that is another name, a map with its channels last.
    """

    model: onnx.ModelProto
    outputs: dict[str, str]

    def codes(self, values: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return tensor → codes with their channels where the file has them, of the values of `outputs` in their order."""
        return {
            name: value if name == output else value.transpose(0, 3, 1, 2)
            for value, (name, output) in zip(values, self.outputs.items(), strict=True)
        }


def as_in_the_file(model: onnx.ModelProto, names: Sequence[str]) -> Opened:
    """Return a copy that hands out tensors of codes as they are in the file.

    Args:
        model: The file.
        names: Of the tensors.
    """
    return Opened(exposed(model, names), {name: name for name in names})


def with_channels_last(model: onnx.ModelProto, names: Sequence[str]) -> Opened:
    """Return a copy that hands out maps of bytes with their channels last; arguments as of `as_in_the_file`."""
    graph = Graph(model)
    shapes = shapes_at(graph, 2) or shapes_at(graph, None) or {}
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    present = {output.name for output in model.graph.output}
    outputs: dict[str, str] = {}
    turned: list[onnx.NodeProto] = []
    for name in dict.fromkeys(names):
        outputs[name] = name
        last = f"{name}/channels last"
        if name in present or len(shapes.get(name, ())) != 4 or last in taken or not _of_bytes(graph, name):
            continue
        outputs[name] = last
        turned.append(onnx.helper.make_node("Transpose", [name], [last], last, perm=[0, 2, 3, 1]))
    opened = exposed(model, list(outputs.values()))
    opened.graph.node.extend(turned)
    return Opened(opened, outputs)


def _of_bytes(graph: Graph, name: str) -> bool:
    node = graph.producer.get(name)
    codes = codes_of_quantizer(graph, node) if node is not None and node.op_type == "QuantizeLinear" else None
    return codes is not None and codes.dtype in (np.uint8, np.int8)


def exposed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of a model with further outputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    present = {output.name for output in model.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            opened.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return opened
