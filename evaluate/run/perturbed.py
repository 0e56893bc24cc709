"""CAMs of methods that run the network again: on the deployed graph, and on the mirror for the simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qcam.common import telling
from qcam.common.errors import QcamError
from qcam.common.vocabulary import CamMethod
from qcam.evaluate.maps.cam import Array, ablation_weights, weighted_map
from qcam.evaluate.maps.masking import (
    CELLS,
    MASKS,
    PATCH,
    RiseMasks,
    masked,
    mean_colour,
    occluded,
    occlusion_map,
    patches,
    rise_map,
)
from qcam.evaluate.maps.scores import columns, probabilities
from qcam.runtime.bundle import Bundle, load_onnx
from qcam.runtime.deployed import DeployedModel, DeployedOutputs
from qcam.runtime.deployed.ablated_tail import AblatedTail, scores_without

if TYPE_CHECKING:
    import torch

    from qcam.runtime.mirror import Mirror

#: Seconds between two notes of how far the maps of a batch are.
_TOLD_EVERY = 30.0
#: Methods that show the network changed pictures.
MASKING = frozenset({CamMethod.OCCLUSION, CamMethod.RISE})
#: Methods that run the network, or its tail, again.
PERTURBING = MASKING | {CamMethod.ABLATION}


class Perturbation(Protocol):
    """What makes the maps of one precision by running it again.

    Attributes:
        seconds: What one map takes, roughly.
    """

    seconds: float

    def open(self, session: DeployedModel) -> None:
        """Open again what was closed.

        Args:
            session: The session.
        """
        ...

    def close(self) -> None:
        """Give memory back; what is known stays."""
        ...

    def deployed(
        self, session: DeployedModel, outputs: DeployedOutputs, crops: NDArray[np.uint8], targets: NDArray[np.int64]
    ) -> Array:
        """Return the maps of a deployed run.

        Args:
            session: The session; open for methods that show it changed pictures.
            outputs: What it gave of the pictures.
            crops: The pictures, uint8, batch × height × width × 3.
            targets: The class that is explained of each, batch.

        Returns:
            float64, batch × height × width, not negative, not normalised.

        Raises:
            QcamError: If the method cannot follow the run.
        """
        ...

    def simulated(
        self,
        mirror: Mirror,
        logits: NDArray[np.float32],
        taps: Sequence[torch.Tensor],
        crops: NDArray[np.uint8],
        targets: NDArray[np.int64],
    ) -> Array:
        """Return the maps of a simulated run, with the mirror in place of the session.

        Args:
            mirror: The mirror.
            logits: What it gave, batch × classes.
            taps: Its tap and skip tensors, dequantized.
            crops: As of `deployed`.
            targets: As of `deployed`.
        """
        ...


def perturbation(method: str, bundle: Bundle, session: DeployedModel, batch: int) -> Perturbation:
    """Return what makes the maps of a method that runs the network again, and tell what that costs where it is much.

    Args:
        method: One of `PERTURBING`.
        bundle: The bundle.
        session: The deployed run of one precision, open.
        batch: How many pictures run at a time.

    Raises:
        QcamError: If the method cannot be had of this file.
    """
    return Ablation(bundle, session) if method == CamMethod.ABLATION else Masking(method, bundle, session, batch)


def cost_in_runs(method: str) -> str:
    """Say what a map of a method costs, whatever the machine: for those who do not open the sessions themselves.

    Args:
        method: One of `PERTURBING`.
    """
    if method == CamMethod.ABLATION:
        return f"{method} runs what is behind the CAM layer once for each of its channels, for each map"
    runs = (CELLS - PATCH + 1) ** 2 if method == CamMethod.OCCLUSION else MASKS
    return f"{method} runs the network {runs} times for each map"


class Ablation:
    """Ablation-CAM of one precision: its tail runs again without each channel.

    Attributes:
        seconds: What one map takes, roughly.
    """

    def __init__(self, bundle: Bundle, session: DeployedModel) -> None:
        """Cut the tail out of the deployed file and prove it; tell what it costs where it does not begin behind a global mean.

        Args:
            bundle: The bundle.
            session: The deployed run, open.

        Raises:
            QcamError: If the tail cannot be had, or is not what runs (`AblatedTail`).
        """
        name = session.entry.name
        self._where = f"{bundle.model_id} {name}"
        self._read = partial(load_onnx, bundle, name)
        self._tail = AblatedTail(session, self._read(), bundle.preprocessing)
        self.seconds = self._tail.seconds
        if not self._tail.behind_pool:
            telling.note(
                f"{self._where}: {CamMethod.ABLATION} runs the network's tail once for each of {self._tail.channels} channels, "
                f"about {self.seconds:.2g} s a map"
            )

    def open(self, session: DeployedModel) -> None:
        """Make the tail's sessions again (as in `Perturbation`)."""
        self._tail.open(session, self._read())

    def close(self) -> None:
        """Give the tail's sessions back."""
        self._tail.close()

    def deployed(
        self, session: DeployedModel, outputs: DeployedOutputs, crops: NDArray[np.uint8], targets: NDArray[np.int64]
    ) -> Array:
        """Return the maps of a deployed run (as in `Perturbation`).

        Raises:
            QcamError: If the tail by itself does not give the run's logits, bit for bit.
        """
        if not np.array_equal(self._tail.logits(outputs.tap, outputs.skips), outputs.logits, equal_nan=True):
            raise QcamError(
                f"{self._where}: the part of the file from the tap on, run on its own, gives other logits than the whole run "
                f"did; choose another {{cam}} than {CamMethod.ABLATION}"
            )
        scores = self._tail.scores(outputs.tap, outputs.skips, columns(targets, outputs.logits.shape[1]))
        return weighted_map(ablation_weights(*scores), session.entry.tap.dequantize(outputs.tap))

    def simulated(
        self,
        mirror: Mirror,
        logits: NDArray[np.float32],
        taps: Sequence[torch.Tensor],
        crops: NDArray[np.uint8],
        targets: NDArray[np.int64],
    ) -> Array:
        """Return the maps of a simulated run, by the mirror's tail (as in `Perturbation`)."""
        import torch

        activation, *skips = (tap.detach() for tap in taps)
        values = activation.mean((2, 3), keepdim=True) if mirror.pools else activation
        found = []
        for index, column in enumerate(columns(targets, logits.shape[1])):

            def score(*rows: NDArray[np.float32], column: np.int64 = column) -> NDArray[np.float32]:
                first, *others = map(torch.from_numpy, rows)
                result: NDArray[np.float32] = mirror.scores(first, np.full(len(first), column), others).cpu().numpy()
                return result

            one, *rest = (each[index : index + 1].cpu().numpy() for each in (values, *skips))
            found.append(ablation_weights(*scores_without(one, rest, 0.0, score)))
        return weighted_map(np.stack(found), activation.cpu().numpy())


class Masking:
    """Occlusion or RISE of one precision: the whole network runs again on changed pictures (`qcam.evaluate.maps.masking`).

    Attributes:
        seconds: What one map takes, roughly.
    """

    def __init__(self, method: str, bundle: Bundle, session: DeployedModel, batch: int) -> None:
        """Draw masks, and tell what the method costs.

        Args:
            method: One of `MASKING`.
            bundle: The bundle.
            session: The deployed run, open.
            batch: How many pictures run at a time.
        """
        self._preprocessing = bundle.preprocessing
        self._batch = batch
        self._colour = mean_colour(self._preprocessing.mean)
        self._patches = patches(self._preprocessing.crop) if method == CamMethod.OCCLUSION else []
        self._masks = None if self._patches else RiseMasks.of(self._preprocessing.crop)
        self._runs = len(self._patches) if self._masks is None else len(self._masks.grids)
        self.seconds = self._runs * session.seconds[1]
        self._where = f"{bundle.model_id} {session.entry.name}: {method}"
        telling.note(f"{self._where} runs the network {self._runs} times for each map, about {self.seconds:.2g} s a map")

    def open(self, session: DeployedModel) -> None:
        """Do nothing: the session is all that there is."""

    def close(self) -> None:
        """Do nothing."""

    def deployed(
        self, session: DeployedModel, outputs: DeployedOutputs, crops: NDArray[np.uint8], targets: NDArray[np.int64]
    ) -> Array:
        """Return the maps of a deployed run (as in `Perturbation`)."""
        return self._maps(lambda images: session.run(images).logits, outputs.logits, crops, targets)

    def simulated(
        self,
        mirror: Mirror,
        logits: NDArray[np.float32],
        taps: Sequence[torch.Tensor],
        crops: NDArray[np.uint8],
        targets: NDArray[np.int64],
    ) -> Array:
        """Return the maps of a simulated run (as in `Perturbation`)."""
        return self._maps(lambda images: mirror.forward(images).logits.cpu().numpy(), logits, crops, targets)

    def _maps(
        self,
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        logits: NDArray[np.float32],
        crops: NDArray[np.uint8],
        targets: NDArray[np.int64],
    ) -> Array:
        found: list[Array] = []
        told = time.monotonic()
        for crop, given, target, column in zip(crops, logits, targets, columns(targets, logits.shape[1]), strict=True):
            scores, total = np.empty(self._runs), np.zeros(crop.shape[:2])
            for start in range(0, self._runs, self._batch):
                part = slice(start, min(start + self._batch, self._runs))
                if self._masks is None:
                    shown = occluded(crop, self._patches[part], self._colour)
                    scores[part] = run(self._preprocessing.normalise(shown))[:, column]
                else:
                    masks = self._masks.some(part)
                    seen = run(self._preprocessing.normalise(masked(crop, masks, self._colour)))
                    total += np.tensordot(probabilities(seen)[:, target], masks, axes=1)
                if time.monotonic() - told > _TOLD_EVERY:
                    told = time.monotonic()
                    telling.note(f"{self._where}: {len(found) * self._runs + part.stop} of {len(crops) * self._runs} runs")
            whole = float(given[column])
            found.append(occlusion_map(whole, scores) if self._masks is None else rise_map(total, self._runs))
        return np.stack(found)
