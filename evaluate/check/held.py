"""What a check holds against each other: one batch of the deployed run, and the mirrors under way."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.evaluate.check.result import CheckResult
from qcam.evaluate.check.timing import ELSEWHERE, mirror_stage
from qcam.runtime.deployed.inspection import Inspected
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror import Mirror

#: Types of deployed codes that are compared as they are; others are compared as float32.
_KEPT = (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int16))


@dataclass(frozen=True)
class Wanted:
    """A mirror that is to be held against the deployed run.

    Attributes:
        arithmetic: The mirror's.
        family: Kernel family, for `integer`.
        exact: Whether the mirror promises equal codes here.
        every_tensor: Whether each operator is also fed with the deployed codes.
    """

    arithmetic: str
    family: KernelFamily | None
    exact: bool = False
    every_tensor: bool = False


class Deployed:
    """What the deployed side gave of one batch; its codes become tensors once, whatever the number of mirrors.

    Attributes:
        outputs: Logits, tap and skips.
        undisturbed: Whether codes of other tensors than the tap are to be compared.
    """

    def __init__(self, inspected: Inspected, tap: str) -> None:
        """Take a batch; the arrays of codes stay as they are.

        Args:
            inspected: The batch.
            tap: Name of the tap's tensor of codes.
        """
        self.outputs = inspected.outputs
        self.undisturbed = inspected.undisturbed
        self._arrays: dict[str, NDArray[Any]] = dict(inspected.codes) if inspected.undisturbed else {tap: inspected.outputs.tap}
        self._tensors: dict[str, torch.Tensor] = {}
        self._lock = Lock()

    def codes(self, name: str, simulated: torch.Tensor, part: slice, *, reshaped: bool) -> torch.Tensor:
        """Return codes on the CPU. Threads may ask at the same time.

        Args:
            name: Name of the tensor.
            simulated: What they are held against.
            part: Of which images of the batch they are; a tensor that is not made of the images is whole.
            reshaped: Whether they may be in another shape, of as many values for each image.
        """
        with self._lock:
            if name in self._arrays:
                array = self._arrays.pop(name)
                kept = array.dtype in _KEPT and array.flags.writeable
                self._tensors[name] = torch.from_numpy(array if kept else array.astype(np.float32))
            stored = self._tensors[name]
        if stored.shape[:1] == self.outputs.logits.shape[:1] and is_of(simulated, part):
            stored = stored[part]
        alike = reshaped and stored.shape[:1] == simulated.shape[:1] and stored.ndim != simulated.ndim
        if alike and stored.numel() == simulated.numel():
            return stored.reshape(simulated.shape)
        return stored


def is_of(values: torch.Tensor, part: slice) -> bool:
    """Tell whether values have as many rows as a part of a batch has images."""
    return values.shape[:1] == (part.stop - part.start,)


class Held:
    """One mirror under way, and what has been found of it.

    Attributes:
        wanted: What was asked for.
        mirror: The mirror.
        own: Whether it follows the kernels that the deployed side really has.
        result: The result so far.
        tensors: Its tensors by name.
        values: Likewise those that are compared by value.
        stage: What its forward runs count as.
    """

    def __init__(self, wanted: Wanted, mirror: Mirror, result: CheckResult, *, own: bool, elsewhere: bool) -> None:
        """Begin.

        Args:
            wanted: What was asked for.
            mirror: The mirror.
            result: Its result without any image.
            own: Whether it follows the kernels that the deployed side really has.
            elsewhere: Whether it is of another CPU, for information.
        """
        self.wanted = wanted
        self.mirror = mirror
        self.own = own
        self.result = result
        self.tensors = {tensor.name: tensor for tensor in result.tensors}
        self.values = {tensor.name: tensor for tensor in result.values}
        self.stage = ELSEWHERE if elsewhere else mirror_stage(result.arithmetic)
