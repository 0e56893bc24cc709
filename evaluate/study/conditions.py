"""All that can change a figure, with types: what a run's plan says, and run.json keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qcam.evaluate.run.options import StudyOptions
from qcam.runtime.gpu import Gpu

#: Version of the rules by which maps are made and compared: results that were made by others are never joined.
MEASURING = 2


@dataclass(frozen=True)
class ImageSet:
    """The images of a run.

    Attributes:
        count: How many.
        fingerprint: Of all names, contents and labels.
    """

    count: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """All that can change a figure. `PlanRecord` is what is read of it again, whatever version wrote it.

    Attributes:
        bundles: Model id → fingerprint of its bundle.
        images: The images.
        saliency: Fingerprint of the source of salient-object maps; None without one.
        options: The options of the study.
        device: PyTorch device of the mirrors.
        shard_size: Images in a shard.
        reading: The rules by which images and labels are read.
        cpu_features: Instruction sets of the processor; None where each part records its own.
        kernels: Family of its kernels; None where they compute nothing, or each part records its own.
        versions: Of Python and of the packages that can change a figure.
        gpu: The GPU; None where none takes part, or each part records its own.
        tf32: Whether a GPU may compute in TF32; None where none takes part.
        measuring: The rules by which maps are made and compared.
    """

    bundles: Mapping[str, str]
    images: ImageSet
    saliency: str | None
    options: StudyOptions
    device: str
    shard_size: int
    reading: int
    cpu_features: tuple[str, ...] | None
    kernels: str | None
    versions: Mapping[str, str]
    gpu: Gpu | None = None
    tf32: bool | None = None
    measuring: int = MEASURING

    def to_json(self) -> dict[str, Any]:
        """Return the conditions as run.json keeps them; shard keys and fingerprints are of this very text.

        Where no GPU takes part there is no word of one: results of the CPU go on whatever is recorded of GPUs.
        """
        gpu = {} if self.gpu is None else {"gpu": self.gpu.to_json()}
        tf32 = {} if self.tf32 is None else {"tf32": self.tf32}
        return (
            gpu
            | tf32
            | {
                "bundles": dict(self.bundles),
                "images": asdict(self.images),
                "saliency": self.saliency,
                "options": self.options.to_json(),
                "device": self.device,
                "shard_size": self.shard_size,
                "reading": self.reading,
                "measuring": self.measuring,
                "cpu_features": None if self.cpu_features is None else list(self.cpu_features),
                "kernels": self.kernels,
                "versions": dict(self.versions),
            }
        )
