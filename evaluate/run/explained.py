"""The CAM of a run, whoever ran: the activation at the tap, and the gradient of the explained class's score there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qcam.common.denominators import crossings
from qcam.common.vocabulary import CamMethod
from qcam.evaluate.maps.cam import Array, cam
from qcam.evaluate.maps.masking import CELLS, GRID, MASKS, PATCH, SEED, SHARE
from qcam.evaluate.maps.measures import top_positions

if TYPE_CHECKING:
    import torch

    from qcam.evaluate.run.clipped import Clipped

#: Takes the name of a stage; the block under what it returns is that stage.
Timed = Callable[[str], AbstractContextManager[object]]


class Differentiable(Protocol):
    """What the gradient comes from: a mirror, or a network in PyTorch."""

    def gradient(
        self, activation: torch.Tensor, targets: NDArray[np.int64], skips: Iterable[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Return d score / d activation.

        Args:
            activation: The tap's values, float32, batch × channels × height × width.
            targets: The class of each image, batch.
            skips: What else leads past the tap.
        """
        ...


@dataclass(frozen=True)
class Run:
    """Logits and CAMs of one precision over a batch, deployed or simulated.

    Attributes:
        logits: float32, batch × classes.
        maps: CAMs at the tap's resolution, float64, batch × height × width; not negative, not normalised.
        enlarge: Makes of maps what is compared, float64, batch × height × width, 0..1.
        codes_equal: For each image, the share of the tap's codes that are the deployed run's; None where there are none.
        crossings: For each image, at how many positions the method's denominator is not positive; None of methods without one.
        clipped: Of a simulation, for each image what its quantizers clipped; None where nothing is counted.
    """

    logits: NDArray[np.float32]
    maps: Array
    enlarge: Callable[[Array], Array]
    codes_equal: tuple[float, ...] | None = None
    crossings: NDArray[np.int64] | None = None
    clipped: Clipped | None = None

    def at(self, places: NDArray[np.int64]) -> Run:
        """Return the run of some images of the batch."""
        codes = None if self.codes_equal is None else tuple(self.codes_equal[place] for place in places)
        crossings = None if self.crossings is None else self.crossings[places]
        return Run(self.logits[places], self.maps[places], self.enlarge, codes, crossings)

    @cached_property
    def shown(self) -> Array:
        """The maps as they are compared, each 0..1."""
        return self.enlarge(self.maps)

    @cached_property
    def tops(self) -> NDArray[np.bool_]:
        """The top positions of the maps as they are compared."""
        return top_positions(self.shown)


class Cams(NamedTuple):
    """CAMs of a batch.

    Attributes:
        maps: float64, batch × height × width, not negative, not normalised.
        crossings: At how many positions of each the method's denominator is not positive (`common.denominators`), int64; None
            of methods without one.
    """

    maps: Array
    crossings: NDArray[np.int64] | None


def explain(
    network: Differentiable,
    activation: torch.Tensor,
    targets: NDArray[np.int64],
    skips: Sequence[torch.Tensor] = (),
    *,
    method: str = "gradcam++",
    at: Sequence[torch.Tensor] = (),
    timed: Timed = lambda _stage: nullcontext(),
) -> Cams:
    """Compute the CAMs of a run.

    Args:
        network: What the gradient comes from; eigencam asks for none.
        activation: The run's own activation at the tap, dequantized, batch × channels × height × width.
        targets: The class of each image, batch.
        skips: The run's own skip tensors, dequantized.
        method: One of `CamMethod`.
        at: Where the gradient is taken, activation and skips, if not at the run's own.
        timed: Where the time of the stages "tail gradient" and "cam" goes.
    """
    if method == CamMethod.EIGENCAM:  # it has no gradient
        with timed("cam"):
            return Cams(cam(activation.cpu().numpy(), method=method), None)
    place, *others = at or (activation, *skips)
    with timed("tail gradient"):
        gradient = network.gradient(place, targets, others)
    with timed("cam"):
        values, slopes = activation.cpu().numpy(), gradient.cpu().numpy()
        counted = method == CamMethod.GRADCAM_PLUS_PLUS
        return Cams(cam(values, slopes, method), crossings(values, slopes) if counted else None)


def cam_convention(method: str) -> str:
    """Say in one line what a CAM method computes, and on what.

    Args:
        method: One of `CamMethod`.
    """
    told = {
        CamMethod.EIGENCAM: "float64, of the activation alone: no class, no gradient",
        CamMethod.ABLATION: (
            "weights (y - y_k) / y, y the logit before softmax, y_k without channel k, both of the deployed tail"
        ),
        CamMethod.OCCLUSION: (
            f"on the logit before softmax, {CELLS} × {CELLS} cells, patch {PATCH} × {PATCH}, at every cell, in the mean colour"
        ),
        CamMethod.RISE: f"on softmax probability, {MASKS} masks of {GRID} × {GRID}, share {SHARE}, seed {SEED}, mean colour",
    }
    return f"{method}, {told.get(CamMethod(method), 'float64, epsilon 0, on the logit before softmax')}"
