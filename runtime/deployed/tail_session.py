"""The tail of a deployed file, from the tap to the logits, in an ONNX Runtime session of its own.

What lies behind the tap is cut out of the very file that is deployed, and runs under the same settings: so it can be asked what
the network would answer if the tap held other values. That it computes what it computes within the whole file is not taken for
granted: `prove` holds its logits against those of the whole run, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from qcam.common.errors import BundleError, ProviderError, UnsupportedGraphError, first_line
from qcam.runtime.apart import shapes_at
from qcam.runtime.bundle import Bundle, PrecisionEntry, Tap, load_onnx
from qcam.runtime.deployed.providers import PROVIDERS
from qcam.runtime.deployed.session import DeployedOutputs, SessionSettings
from qcam.runtime.graph import Graph
from qcam.runtime.session_config import NO_SPINNING, merged


class TailSession:
    """What a deployed file computes of its tap: values of the tap and the skip tensors in, logits out.

    Attributes:
        entry: The precision.
    """

    def __init__(
        self, bundle: Bundle, precision: str, settings: SessionSettings, *, model: onnx.ModelProto | None = None
    ) -> None:
        """Cut the tail out of the file, and open its session.

        Args:
            bundle: The bundle.
            precision: The precision.
            settings: How sessions are made: those of the whole run.
            model: The precision's file, parsed before (`load_onnx`); None: it is read.

        Raises:
            BundleError: If the file is not what the manifest says, or the tail alone is larger than a file can be.
            ProviderError: If the provider is another than the CPU, or does not load the tail.
            UnsupportedGraphError: If the tail reads something of which the bundle says nothing.
        """
        import onnxruntime

        self.entry: PrecisionEntry = bundle.precision(precision)
        self._path = bundle.path(precision)
        if settings.provider != "CPU":
            raise ProviderError(
                f"{self._path}: what lies behind the CAM layer runs alone on CPU only, not on {settings.provider}"
            )
        alone = tail_model(load_onnx(bundle, precision) if model is None else model, self.entry)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = settings.threads
        for key, value in ({NO_SPINNING: "1"} | merged(self.entry.session, settings.config)).items():
            options.add_session_config_entry(key, value)
        try:
            content = alone.SerializeToString()
        except Exception as error:  # protobuf raises its own types, by version
            raise BundleError(f"{self._path}: its tail cannot be written down ({first_line(error)})") from error
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=[PROVIDERS["CPU"]], enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ProviderError(
                f"CPU cannot load what lies behind the CAM layer of {self._path}: {first_line(error)}"
            ) from error
        self._read = {value.name for value in self._session.get_inputs()}

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Return the tap and the skip tensors, in the order of `DeployedOutputs`."""
        return (self.entry.tap, *self.entry.skips)

    def run(self, tap: NDArray[Any], skips: Sequence[NDArray[Any]] = ()) -> NDArray[np.float32]:
        """Run a batch of any size; a file of a fixed batch as often as it takes.

        Args:
            tap: The tap's values as the file has them: codes in their own type, or float32; batch × channels × height × width.
            skips: Values of the skip tensors, in the manifest's order, of as many images.

        Returns:
            The logits, float32, batch × classes.

        Raises:
            ProviderError: If ONNX Runtime fails.
            UnsupportedGraphError: If values are missing, or of another type than the tap's.
        """
        taps = self.taps
        if len(taps) != 1 + len(skips):
            raise UnsupportedGraphError(
                f"the tail of {self._path} takes {len(taps) - 1} skip tensors, and was given {len(skips)}"
            )
        given = {}
        for told, value in zip(taps, (tap, *skips), strict=True):
            if value.dtype != told.dtype:
                raise UnsupportedGraphError(
                    f"the tail of {self._path} takes {told.output} as {told.dtype}, not as {value.dtype}"
                )
            if told.output in self._read:
                given[told.output] = value
        parts, fed = [], self.entry.input
        for part in fed.chunks(len(tap)):
            chunk = {name: np.ascontiguousarray(fed.filled(value[part])) for name, value in given.items()}
            try:
                logits: NDArray[np.float32] = np.asarray(self._session.run([self.entry.logits], chunk)[0])
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ProviderError(f"the tail of {self._path} failed on CPU: {first_line(error)}") from error
            parts.append(logits[: part.stop - part.start])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def prove(self, outputs: DeployedOutputs) -> None:
        """Hold the tail against a run of the whole file: of the values at its tap, the logits have to be its own, bit for bit.

        Args:
            outputs: What the whole file gave of a batch.

        Raises:
            UnsupportedGraphError: If they are not: the tail alone then is not what is deployed.
        """
        logits = self.run(outputs.tap, outputs.skips)
        whole = outputs.logits
        same = logits.shape == whole.shape and logits.dtype == whole.dtype and _same_bits(logits, whole)
        if same:
            return
        how = f"of shape {logits.shape}, not {whole.shape}"
        if logits.shape == whole.shape:
            count = int(np.any(logits != whole, axis=1).sum())
            how = f"for {count} of {len(whole)} images, by up to {float(np.abs(logits - whole).max()):.3g}"
        raise UnsupportedGraphError(
            f"{self._path}: what lies behind the CAM layer {self.entry.tap.tensor} gives other logits alone than within the "
            f"whole file ({how}): it is not what is deployed, and nothing can be learned from it"
        )


def tail_model(model: onnx.ModelProto, entry: PrecisionEntry) -> onnx.ModelProto:
    """Cut the part from the tap to the logits out of a file.

    Args:
        model: The file, with its weights.
        entry: What the bundle says of it: tap, skip tensors and logits.

    Returns:
        A model of its own. Its inputs are the tap and those skip tensors that it reads, by the names and types of the file; its
        output is the logits.

    Raises:
        BundleError: If the logits do not depend on the tap.
        UnsupportedGraphError: If it reads something else that depends on the images.
    """
    graph = Graph(model)
    cut = graph.tail(entry.tap.output, entry.logits)
    told = {tap.output: tap for tap in (entry.tap, *entry.skips)}
    for name, source in cut.skips.items():
        if source not in told:
            raise UnsupportedGraphError(f"the tail to {entry.logits} reads {name}, of which the bundle says nothing")
    behind = {output for node in cut.nodes for output in node.output}
    needed = graph.upstream([entry.logits], stop=told)
    nodes = [
        node
        for node in model.graph.node
        if not told.keys() & set(node.output) and any(name in behind or name in needed for name in node.output if name)
    ]
    read = {name for node in nodes for name in node.input}
    shapes = shapes_at(graph, 2) or shapes_at(graph, None) or {}
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(tap.dtype)), _free(shapes.get(name), entry.input.batch)
        )
        for name, tap in told.items()
        if name in read
    ]
    output = next(value for value in model.graph.output if value.name == entry.logits)
    alone = helper.make_model(
        helper.make_graph(
            nodes, "tail", inputs, [output],
            [tensor for tensor in model.graph.initializer if tensor.name in read],
            value_info=[value for value in model.graph.value_info if value.name in behind - {entry.logits}],
        ),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
        functions=list(model.functions),
    )  # fmt: skip
    return alone


def _free(shape: Sequence[int | None] | None, batch: int | None) -> list[int | str | None] | None:
    """Return a shape for an input: any number of images, unless the file takes so many."""
    if not shape:
        return None
    return [batch or "batch", *shape[1:]]


def _same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return bool(np.array_equal(np.ascontiguousarray(one).view(np.uint32), np.ascontiguousarray(other).view(np.uint32)))
