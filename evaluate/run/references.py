"""Reference rows: a scale for the figures of a study. docs/results.md has the formulas.

*Changed inputs*: the deployed run against itself, where the picture was changed by less than anyone would see, or as much as
storing it again does. *Floor*: the CAM of another picture. *Against the salient object*: maps that know nothing of the
picture, and the best that a map of the CAM's resolution could do. Each is made of the first images of a run, by the precision
that others are held against.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.vocabulary import Reference
from qcam.evaluate.maps.cam import Array, closest
from qcam.evaluate.results.folder import Row
from qcam.evaluate.run.comparing import Compared, SalientObjects
from qcam.evaluate.run.explained import Run
from qcam.evaluate.run.protocol import Sample
from qcam.images.decoding import decode_picture

Crop = NDArray[np.uint8]
#: Standard deviation of the centred Gaussian, in sides of the map.
SIGMA = 0.25
_VOID = "no_reference: the best map is not sought where part of the mask is void"


def one_level(crop: Crop, sha256: str) -> Crop:
    """Move every value by one of 255 levels, up or down by a generator that the file's fingerprint seeds, within 0..255."""
    seed = int(sha256[:16] or "0", 16)
    moves = np.random.default_rng(seed).integers(0, 2, crop.shape, dtype=np.int16) * 2 - 1
    moved: Crop = np.clip(crop.astype(np.int16) + moves, 0, 255).astype(np.uint8)
    return moved


def jpeg(quality: int) -> Callable[[Crop, str], Crop]:
    """Return what stores a crop as a JPEG of a quality (Pillow's, colours at half the resolution) and reads it again."""

    def stored(crop: Crop, _sha256: str) -> Crop:
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=quality)
        return np.asarray(decode_picture(buffer.getvalue(), "RGB", formats=("JPEG",)))

    return stored


def one_pixel(crop: Crop, _sha256: str) -> Crop:
    """Move a crop to the right by one pixel; its first column is there twice."""
    return np.concatenate((crop[:, :1], crop[:, :-1]), axis=1)


#: How a picture is changed: crop and fingerprint of its file → crop, both uint8, height × width × 3.
CHANGES: Mapping[Reference, Callable[[Crop, str], Crop]] = {
    Reference.ONE_LEVEL: one_level,
    Reference.JPEG95: jpeg(95),
    Reference.JPEG75: jpeg(75),
    Reference.ONE_PIXEL: one_pixel,
}


@dataclass(frozen=True)
class Chosen:
    """The images of a batch of which there are reference rows.

    Attributes:
        places: Where they stand in the batch.
        samples: They.
        partners: The next image of each, where it is not in the batch and can be used.
    """

    places: tuple[int, ...]
    samples: tuple[Sample, ...]
    partners: tuple[Sample, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Chosen:
        """Choose those of a batch that ask for it."""
        places = tuple(place for place, sample in enumerate(samples) if sample.referenced)
        chosen = tuple(samples[place] for place in places)
        here = {sample.name for sample in samples}
        partners = (sample.partner for sample in chosen)
        return cls(places, chosen, tuple(each for each in partners if each is not None and each.name not in here))

    def inputs(self) -> dict[str, tuple[tuple[Sample, ...], Crop]]:
        """Return what has to run besides the batch: a name → samples, and the crops that are run in their place."""
        if not self.samples:
            return {}
        found = {
            change.value: (self.samples, np.stack([make(sample.crop, sample.sha256) for sample in self.samples]))
            for change, make in CHANGES.items()
        }
        if self.partners:
            found[Reference.FLOOR.value] = self.partners, np.stack([sample.crop for sample in self.partners])
        return found

    def rows(
        self, compared: Compared, batch: Run, batch_samples: Sequence[Sample], made: Mapping[str, Run], saliency: SalientObjects
    ) -> list[Row]:
        """Return the reference rows of the chosen images, image by image.

        Args:
            compared: Model, precision and classes of the whole batch.
            batch: Its run.
            batch_samples: Its images.
            made: What `inputs` asked for, as it ran.
            saliency: Salient objects of the batch.
        """
        if not self.samples:
            return []
        places = np.array(self.places)
        base, objects = batch.at(places), saliency.at(places)

        def of(reference: Reference) -> Compared:
            return replace(compared, samples=self.samples, targets=compared.targets[places], comparison=reference.value)

        others, alone = self._others(base, batch, batch_samples, made)
        rows = [of(change).with_reference(made[change], base) for change in CHANGES]
        rows.append(of(Reference.FLOOR).with_other_image(others, base, alone))
        without = tuple(missing or why for missing, why in zip(objects.missing, alone, strict=True))
        rows.append(of(Reference.SHUFFLED).with_objects(others, replace(objects, missing=without)))
        centred = np.broadcast_to(centred_gaussian(base.maps.shape[1:]), base.maps.shape)
        middle = replace(base, maps=centred, crossings=None)
        rows.append(of(Reference.CENTRED).with_objects(middle, objects))
        best = replace(base, maps=closest(objects.maps, base.maps.shape[1:]), crossings=None)
        void = [objects.void is not None and bool(objects.void[place].any()) for place in range(len(places))]
        sought = tuple(missing or _VOID * left for missing, left in zip(objects.missing, void, strict=True))
        rows.append(of(Reference.BEST).with_objects(best, replace(objects, missing=sought)))
        rows.append(of(Reference.AREA).with_area(base, objects))
        return [row for image in zip(*rows, strict=True) for row in image]

    def _others(
        self, base: Run, batch: Run, batch_samples: Sequence[Sample], made: Mapping[str, Run]
    ) -> tuple[Run, tuple[str, ...]]:
        """Return for each chosen image the CAM of its partner, with the image's own logits, and why there is none."""
        known = {sample.name: batch.maps[place] for place, sample in enumerate(batch_samples)}
        if Reference.FLOOR.value in made:
            known |= {sample.name: cam for sample, cam in zip(self.partners, made[Reference.FLOOR.value].maps, strict=True)}
        maps, reasons = np.zeros((len(self.samples), *batch.maps.shape[1:])), []
        for place, sample in enumerate(self.samples):
            partner = sample.partner
            reasons.append(_why_not(sample, partner))
            if partner is not None and not reasons[-1]:
                maps[place] = known[partner.name]
        return replace(base, maps=maps, crossings=None), tuple(reasons)


def _why_not(sample: Sample, partner: Sample | None) -> str:
    """Say why an image cannot be held against the next one; empty if it can."""
    if partner is None:
        return "no_partner: there is no next image to take the CAM of, or it cannot be used"
    if partner.sha256 == sample.sha256:
        return "no_partner: the next image is the same picture"
    return "no_partner: the next image is nearly uniform" if partner.uniform else ""


def centred_gaussian(size: tuple[int, ...]) -> Array:
    """Return a Gaussian in the middle of a map, its standard deviation a quarter of the map's height and width.

    Args:
        size: Height and width.

    Returns:
        float64, height × width, above 0 to 1.
    """
    axes = [((np.arange(length) + 0.5) / length - 0.5) / SIGMA for length in size]
    rows, columns = (np.exp(-0.5 * axis * axis) for axis in axes)
    return np.outer(rows, columns)
