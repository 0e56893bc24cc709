"""From image files to what the models see: each image decoded once, cropped for every model, with its salient-object map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from qcam.common.errors import QcamError
from qcam.common.wording import in_options
from qcam.evaluate.results.folder import Picture
from qcam.evaluate.results.pictures import geometry, take_picture
from qcam.evaluate.run.options import UNREADABLE
from qcam.evaluate.run.protocol import Evaluator, Sample
from qcam.evaluate.run.stages import StageClock
from qcam.evaluate.saliency import NoMapError, NoObjectError, SaliencySource, crop_map
from qcam.images.decoding import CANNOT_BE_READ, Decoded, decode_all
from qcam.images.sources import ImageFile

#: Stands in a file, so in the words of files.
_NO_LABEL = in_options("no label, and {target} label explains the labelled class")


@dataclass(frozen=True)
class BatchOfImages:
    """Some images of a shard, at most a batch.

    Attributes:
        images: The images.
        referenced: Of how many of them, the first ones, there are reference rows.
        after: The image behind the last of those in its shard, the first again behind its end; None where none is needed.
    """

    images: Sequence[ImageFile]
    referenced: int = 0
    after: ImageFile | None = None

    @classmethod
    def of(cls, shard: Sequence[ImageFile], start: int, size: int, referenced: int) -> BatchOfImages:
        """Take a batch from a shard.

        Args:
            shard: Its images.
            start: Where the batch begins.
            size: Images of a batch.
            referenced: Of how many images of the shard, the first ones, there are reference rows.
        """
        images = shard[start : start + size]
        asked = min(max(referenced - start, 0), len(images))
        last = start + asked  # the place of the image behind
        return cls(images, asked, shard[last % len(shard)] if asked and len(shard) > 1 else None)


@dataclass(frozen=True)
class LoadedBatch:
    """Some images, ready to be evaluated.

    Attributes:
        images: The images.
        samples: Model id → what it sees of those that can be used.
        refused: Name of an image that cannot be used → its fingerprint and the reason.
        pictures: Small pictures for the report, by image name.
        referenced: Names of the images of which there are reference rows.
    """

    images: Sequence[ImageFile]
    samples: dict[str, list[Sample]]
    refused: dict[str, tuple[str, str]]
    pictures: dict[str, list[Picture]]
    referenced: frozenset[str] = frozenset()


class Loader:
    """Decodes images for all models at once."""

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        saliency: SaliencySource | None,
        hashes: Mapping[str, str],
        clock: StageClock,
        *,
        labelled: bool,
    ) -> None:
        """Take what a run is made of.

        Args:
            evaluators: One per model.
            saliency: Where salient-object maps come from, if anywhere.
            hashes: Image name → the fingerprint it had when the run was planned.
            clock: Where the time goes.
            labelled: Whether images without a label are refused.
        """
        self._evaluators = evaluators
        self._saliency = saliency
        self._hashes = hashes
        self._clock = clock
        self._labelled = labelled

    def load(self, given: BatchOfImages) -> LoadedBatch:
        """Decode, ask for saliency, crop.

        Args:
            given: The images: all of their crops are in memory at the same time.

        Raises:
            QcamError: If an image is not what it was when it was fingerprinted.
        """
        images = given.images
        batch = self._decoded(images)
        asked = images[: given.referenced]
        if not asked:
            return batch
        following = [*images[1 : given.referenced], given.after]
        elsewhere = given.after is not None and given.after not in images
        others = self._decoded([given.after]) if elsewhere and given.after is not None else batch
        partners = dict(zip((image.name for image in asked), following, strict=True))
        for model, samples in batch.samples.items():
            known = {sample.name: sample for sample in (*others.samples[model], *samples)}
            for place, sample in enumerate(samples):
                if sample.name in partners:
                    partner = partners[sample.name]
                    found = None if partner is None else known.get(partner.name)
                    samples[place] = replace(sample, referenced=True, partner=found)
        return replace(batch, referenced=frozenset(partners))

    def _decoded(self, images: Sequence[ImageFile]) -> LoadedBatch:
        batch = LoadedBatch(images, {evaluator.bundle.model_id: [] for evaluator in self._evaluators}, {}, {})
        decoded = decode_all([image.path for image in images])
        for file in images:
            with self._clock.stage("decode"):
                result = next(decoded)
            self._add(batch, file, result)
        return batch

    def _add(self, batch: LoadedBatch, file: ImageFile, decoded: Decoded) -> None:
        expected = self._hashes[file.name]
        if decoded.sha256 and expected not in (decoded.sha256, UNREADABLE):
            raise QcamError(f"{file.path} changed while the run was going on; run the same command again")
        if not decoded.sha256 and expected != UNREADABLE and decoded.refusal.startswith(CANNOT_BE_READ):
            raise QcamError(f"{file.path} was read when the run was planned, and {decoded.refusal} here")
        if decoded.sha256 and expected == UNREADABLE:
            raise QcamError(f"{file.path} could not be read when the run was planned, and can now; run the same command again")
        if decoded.image is None:
            batch.refused[file.name] = (decoded.sha256, decoded.refusal)
        elif self._labelled and file.label is None:
            batch.refused[file.name] = (decoded.sha256, _NO_LABEL)
        else:
            by_model, batch.pictures[file.name] = self._crop(file, decoded, decoded.image)
            for model, sample in by_model.items():
                batch.samples[model].append(sample)

    def _crop(self, file: ImageFile, decoded: Decoded, image: Image.Image) -> tuple[dict[str, Sample], list[Picture]]:
        whole, missing, read = None, "no_reference: no salient-object maps were asked for", ""
        if self._saliency is not None:
            with self._clock.stage("saliency"):
                try:
                    whole, missing = self._saliency.whole_map(image, file, decoded.key or decoded.sha256), ""
                    read = self._saliency.remark(file)
                except NoObjectError as error:
                    missing = in_options(f"no_object: {error}")  # stands in a file
                except NoMapError as error:
                    missing = in_options(f"no_reference: {error}")
        result = {}
        pictures: dict[str, Picture] = {}
        with self._clock.stage("crop"):
            cache: dict[str, tuple[Any, Any, str]] = {}  # models share crops where they share preprocessing
            for evaluator in self._evaluators:
                preprocessing = evaluator.preprocessing
                key = repr(preprocessing)
                if key not in cache:
                    cut, why = (None, missing) if whole is None else (crop_map(whole, image.size, preprocessing), "")
                    if cut is not None and self._saliency is not None and not (cut >= self._saliency.threshold).any():
                        cut, why = None, "no_object: the crop holds none of the salient object"
                    cache[key] = (preprocessing.crop_image(image), cut, why)
                crop, saliency, why = cache[key]
                name = geometry(preprocessing)
                if name not in pictures:
                    pictures[name] = take_picture(file.name, name, crop, saliency)
                result[evaluator.bundle.model_id] = Sample(
                    file.name,
                    decoded.sha256,
                    file.label,
                    decoded.remark,
                    crop,
                    saliency,
                    why,
                    image.size,
                    read,
                    decoded.uniform,
                )
        return result, list(pictures.values())
