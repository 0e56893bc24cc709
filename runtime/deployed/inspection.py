"""A deployed run that hands out every quantized tensor besides logits and tap, and files that no bundle describes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.common.errors import BundleError, QcamError, first_line
from qcam.runtime.bundle import Bundle, Tap, load_onnx
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


class InspectedModel:
    """A deployed session, and beside it a second one of the same file with every quantized tensor as an output.

    Exposing a QuantizeLinear's output keeps every integer kernel, so the second session computes what the first does; whether
    it really did is checked on every batch.

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
            plain, opened = Path(folder) / "plain.onnx", Path(folder) / "opened.onnx"
            self._temporary = [plain, opened]
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
            self._everything: DeployedModel | None = None
            if self._names:
                run = exposed(model, [*needed, *self._names])
                self._write(opened, run)
                self._everything = DeployedModel(bundle, precision, settings, file=opened, entry=entry, model=run)

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
            entry = self._everything.entry
            values = self._everything.values(images, [entry.logits, entry.tap.output, *self._names])
            plain = plain if self.deployed.copy is None else self.deployed.copy.run(images)
        undisturbed = np.array_equal(values[0], plain.logits) and np.array_equal(values[1], plain.tap)
        return Inspected(outputs, dict(zip(self.tensors, values[2:], strict=True)), undisturbed, faithful)

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


def exposed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of a model with further outputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    present = {output.name for output in model.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            opened.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return opened
