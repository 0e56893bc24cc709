"""A bundle's deployed run on another processor's real kernels, as the deployed side of `qcam.evaluate.check.checker`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from emulation import NATIVE, Job, run
from numpy.typing import NDArray

from qcam.runtime.bundle import Bundle, Tap, load_onnx
from qcam.runtime.codes import quantized_tensors
from qcam.runtime.deployed import DeployedOutputs
from qcam.runtime.deployed.inspection import Inspected, exposed, with_channels_last
from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.graph import Graph

#: Makes u8s8 sums exact on x86 processors that would saturate; without effect on others.
EXACT_SUMS = {"session.x64quantprecision": "1"}


def where_to_run(family: str) -> tuple[str, dict[str, str]]:
    """Return which kernels show a family's arithmetic here (a name of `emulation`), with session configuration entries."""
    if probe_kernels().name == family:
        return NATIVE, {}
    if family == "vnni" and probe_kernels(EXACT_SUMS).name == "vnni":
        return NATIVE, EXACT_SUMS
    return family, {}


class EmulatedModel:
    """All quantized tensors of one precision on many images, computed at once and handed out batch by batch.

    Attributes:
        tensors: Names of the tensors of codes.
        missing: None.
        taps: The tap and the skip tensors.
        provider: What it ran on.
        seconds: What the runs took, sessions not included.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        images: NDArray[np.float32],
        family: str,
        *,
        batch: int = 4,
        threads: int = 2,
        timeout: float = 3600,
        tensors: Sequence[str] | None = None,
    ) -> None:
        model = load_onnx(bundle, precision)
        entry = bundle.precision(precision)
        self.tensors = tuple(quantized_tensors(Graph(model)) if tensors is None else tensors)
        self.missing: tuple[str, ...] = ()
        self.taps: tuple[Tap, ...] = (entry.tap, *entry.skips)
        kernel, config = where_to_run(family)
        self.provider = f"CPU ({family})"
        if entry.tap.dtype == "int8":
            config = config | {"session.qdqisint8allowed": "1"}
        wanted = list(dict.fromkeys([entry.logits, *(tap.output for tap in self.taps), *self.tensors]))
        (name,) = [value.name for value in model.graph.input]
        opened = with_channels_last(exposed(model, wanted[: len(self.taps) + 1]), wanted)
        job = Job(opened.model.SerializeToString(), {name: images}, config, list(opened.outputs.values()), batch)
        (result,) = run(kernel, [job], threads=threads, timeout=timeout)
        self._values = opened.codes([result.outputs[output] for output in opened.outputs.values()])
        self._entry, self._images, self.seconds = entry, images, result.seconds

    def run(self, images: NDArray[np.float32]) -> Inspected:
        """Hand out the batch that was computed from these images."""
        (start,) = [
            index for index in range(len(self._images) - len(images) + 1)
            if np.array_equal(self._images[index : index + len(images)], images)
        ][:1]  # fmt: skip
        part = slice(start, start + len(images))

        def values(name: str) -> NDArray[Any]:
            found: NDArray[Any] = self._values[name][part]
            return found

        outputs = DeployedOutputs(
            values(self._entry.logits), values(self.taps[0].output), tuple(values(tap.output) for tap in self.taps[1:])
        )
        return Inspected(outputs, {name: values(name) for name in self.tensors}, True)
