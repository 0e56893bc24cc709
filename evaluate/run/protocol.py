"""What a study drives: evaluators, and the samples that they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qcam.evaluate.results.clipping import ClippedRow
from qcam.evaluate.results.folder import Row, StoredMap
from qcam.evaluate.run.ran import Ran
from qcam.evaluate.run.stages import StageClock
from qcam.runtime.bundle import Bundle

if TYPE_CHECKING:
    from qcam.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class Sample:
    """One image as a model sees it.

    Attributes:
        name: The image's name in its set.
        sha256: Fingerprint of its file.
        label: True class where known.
        remark: What was chosen when it was decoded.
        crop: uint8, height × width × 3.
        saliency: Salient-object map under the same crop, float32, height × width, NaN where it is void, or None.
        no_saliency: Why there is none, as a row's status says it.
        size: The whole image's width and height, in pixels.
        saliency_remark: What was decided when the salient-object map was read.
        uniform: Why it counts as nearly uniform, or empty: then it has no figure of maps.
        referenced: Whether there are reference rows of it.
        partner: The next image of its shard, for these; None where that cannot be used.
    """

    name: str
    sha256: str
    label: int | None
    remark: str
    crop: NDArray[np.uint8]
    saliency: NDArray[np.float32] | None
    no_saliency: str = ""
    size: tuple[int, int] = (0, 0)
    saliency_remark: str = ""
    uniform: str = ""
    referenced: bool = False
    partner: Sample | None = None


@dataclass
class Expected:
    """What an evaluator's time goes into, in seconds, as seen while it was made.

    Attributes:
        opening: What it takes to open once more what is not kept open; 0 where all is.
        image: One image, roughly.
    """

    opening: float = 0.0
    image: float = 0.0


#: Computes the rest of a batch that has been run: rows, image by image, reference rows among them, CAMs, and what quantizers
#: clipped.
Finish = Callable[[], tuple[list[Row], list[StoredMap], list[ClippedRow]]]


class Evaluator(Protocol):
    """What a study drives: one bundle under one protocol, on batches of samples.

    Attributes:
        bundle: The bundle.
        preprocessing: How photographs become its inputs under this protocol.
        sequential: Whether an image's figures depend on the images before it: then shards run in order, and each part
            carries the state that the next one starts from.
        expected: What it was seen to take of time, before any image is run.
    """

    bundle: Bundle
    preprocessing: Preprocessing
    sequential: bool
    expected: Expected

    def open(self) -> None:
        """Open the sessions that were closed, if it has sessions."""
        ...

    def close(self) -> None:
        """Give the memory of the sessions back, if it has sessions."""
        ...

    def build(self, device: str) -> None:
        """Build what needs PyTorch, on a PyTorch device, before anything is written."""
        ...

    def refused(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return the rows of an image that could not be decoded."""
        ...

    def refused_references(self, name: str, sha256: str, label: int | None, reason: str) -> list[Row]:
        """Return the reference rows of such an image; empty where none are made."""
        ...

    def evaluate_all(self, batches: Sequence[Sequence[Sample]], clock: StageClock) -> list[Finish]:
        """Run batches; return what computes the rows (image by image) and CAMs of each, in whatever thread it is called."""
        ...

    def state(self) -> str:
        """Return what the images so far have left behind; empty where `sequential` is false."""
        ...

    def restore(self, text: str) -> None:
        """Go on from a state."""
        ...

    def facts(self) -> dict[str, Ran]:
        """Return precision → what was run."""
        ...

    def notes(self) -> list[str]:
        """Return what has to be said below a table."""
        ...
