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
from qcam.runtime.bundle import Bundle, PrecisionEntry, Tap, load_onnx, read_onnx
from qcam.runtime.deployed.session import DeployedModel, DeployedOutputs, SessionSettings
from qcam.runtime.graph import Graph
from qcam.runtime.session_config import session_of_schema_1
from qcam.runtime.tables import CODE_BITS


@dataclass(frozen=True)
class Inspected:
    """What one batch gave, with everything exposed.

    Attributes:
        outputs: Logits, tap and skips of the file as it is deployed.
        codes: Tensor name → integer codes.
        undisturbed: Whether exposing the tensors left logits and tap as they are, bit for bit.
    """

    outputs: DeployedOutputs
    codes: dict[str, NDArray[Any]]
    undisturbed: bool


class InspectedModel:
    """A deployed session, and beside it a second one of the same file with every quantized tensor as an output.

    Exposing a QuantizeLinear's output keeps every integer kernel, so the second session computes what the first does; whether
    it really did is checked on every batch.

    Attributes:
        deployed: The session as users run it.
        tensors: Names of the tensors of codes that can be looked at, in the order asked for.
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
        file: Path | None = None,
        *,
        model: onnx.ModelProto | None = None,
    ) -> None:
        """Open both sessions.

        Args:
            bundle: The bundle.
            precision: The precision.
            settings: How sessions are made.
            tensors: Names of the tensors of codes.
            file: Another ONNX file to judge in the precision's place.
            model: What is run, parsed before: the precision's file (`load_onnx`), or `file` (`read_onnx`); None: it is read.

        Raises:
            ProviderError: If a session cannot be had.
            BundleError: If the other file lacks the tap or the logits.
        """
        if model is None:
            model = load_onnx(bundle, precision) if file is None else read_onnx(file)
        entry = bundle.precision(precision)
        if file is not None:
            entry = _entry_of(model, entry, file, bundle.schema)
        graph = Graph(model)
        known = [name for name in tensors if name in graph.producer and name not in graph.fixed]
        self.missing = tuple(name for name in tensors if name not in known)
        self.tensors = tuple(known)
        self._file = file or bundle.path(precision)
        self._temporary: list[Path] = []
        with self._named(), tempfile.TemporaryDirectory(prefix="qcam-inspect-") as folder:
            plain, opened = Path(folder) / "plain.onnx", Path(folder) / "opened.onnx"
            self._temporary = [plain, opened]
            needed = [tap.output for tap in (entry.tap, *entry.skips) if tap.output not in graph.outputs]
            run = model if file is None else exposed(model, needed)
            if file is not None:  # the tap may have to be exposed even for the plain run
                self._write(plain, run)
            self.deployed = DeployedModel(bundle, precision, settings, file=plain if file else None, entry=entry, model=run)
            self.taps = self.deployed.taps
            self.provider = settings.provider
            self._everything: DeployedModel | None = None
            if known:
                run = exposed(model, [*needed, *known])
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
            if self._everything is None:
                return Inspected(outputs, {}, True)
            entry = self._everything.entry
            values = self._everything.values(images, [entry.logits, entry.tap.output, *self.tensors])
            plain = outputs if self.deployed.copy is None else self.deployed.copy.run(images)
        undisturbed = np.array_equal(values[0], plain.logits) and np.array_equal(values[1], plain.tap)
        return Inspected(outputs, dict(zip(self.tensors, values[2:], strict=True)), undisturbed)

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


def _entry_of(model: onnx.ModelProto, entry: PrecisionEntry, file: Path, schema: int) -> PrecisionEntry:
    """Describe another file's outputs: the bundle's names, the file's own scales; it is run as the bundle's own would be."""
    graph = Graph(model)
    if not graph.outputs:
        raise BundleError(f"{file} has no output; it is no network")
    logits = entry.logits if entry.logits in graph.outputs else graph.outputs[0]

    def own(tap: Tap) -> Tap:
        node = graph.producer.get(tap.output)
        if node is None:
            raise BundleError(
                f"{file} has no tensor {tap.output}, which carries the CAM layer: tensors are matched by name; convert it so "
                "that names are kept (the QDQ format does), or give the {precision} that it is"
            )
        if tap.dtype == "float32" and graph.quantize_of(tap.output) is not None:
            raise BundleError(
                f"{file} quantizes {tap.output}: it is no {entry.name} network; give the {{precision}} that it is"
            )
        if node.op_type != "QuantizeLinear":
            return tap
        scale, zero_point = graph.array(node.input[1]), graph.array(node.input[2]) if len(node.input) > 2 else np.uint8(0)
        if scale.size != 1 or str(zero_point.dtype) not in CODE_BITS:
            raise BundleError(f"{file} quantizes {tap.tensor} per channel or to {zero_point.dtype}; a tap needs one scale")
        return Tap(node.input[0], tap.output, str(zero_point.dtype), float(scale.reshape(())), int(zero_point.reshape(())))

    tap = own(entry.tap)
    session = session_of_schema_1(tap.dtype) if schema == 1 else entry.session
    skips = tuple(own(skip) for skip in entry.skips)
    return replace(entry, logits=logits, tap=tap, skips=skips, session=session, original=None, proof="")
