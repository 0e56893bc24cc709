"""The plan of a run: all that can change a figure. Results of another plan are refused, and what differs is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from qcam.common import telling
from qcam.common.files import fingerprint
from qcam.common.vocabulary import CamMethod, Protocol, Target, require
from qcam.evaluate.results.folder import IMAGE_SCHEMA, IMAGES, read_arrow, write_arrow
from qcam.images.sources import ImageFile, fingerprint_sources
from qcam.runtime.deployed import SessionSettings

#: Fingerprint of an image that cannot be read.
UNREADABLE = "unreadable"
#: Fewer images than this are read before a bar could be seen.
_MANY = 500
#: What a plan says of the processor.
_MACHINE = ("cpu_features", "kernels")
#: How many images are named where many differ.
_NAMED = 3


@dataclass(frozen=True)
class StudyOptions:
    """What can change a figure, besides bundles and images.

    Attributes:
        precisions: Those to evaluate; empty for all that a bundle holds.
        settings: How sessions are made.
        saliency: As given on the command line.
        target: Which class is explained.
        method: CAM method.
        batch_size: Images at a time.
        fake_quant: Whether the fake-quant mirror is run in full.
        null_row: Whether f32 is run a second time and compared with itself.
        faithfulness: Whether the deployed model is shown what its CAM leaves of the picture.
        protocol: `deployed`, or `paper` for what the paper's authors ran.
        fixes: Slips of theirs that are switched off, sorted.
    """

    precisions: tuple[str, ...]
    settings: SessionSettings = field(default_factory=SessionSettings)
    saliency: str = "u2netp"
    target: str = "f32-top1"
    method: str = "gradcam++"
    batch_size: int = 8
    fake_quant: bool = True
    null_row: bool = True
    faithfulness: bool = False
    protocol: str = "deployed"
    fixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse words that mean nothing.

        Raises:
            QcamError: If target, method or protocol is unknown; lists the choices.
        """
        require(Target, self.target, "target")
        require(CamMethod, self.method, "CAM method")
        require(Protocol, self.protocol, "protocol")

    def describe(self) -> str:
        """Say in one line what the figures depend on."""
        if self.protocol == "paper":
            repaired = f", slips switched off: {', '.join(self.fixes)}" if self.fixes else ""
            return f"protocol of the paper's authors{repaired}; salient objects: {self.saliency}"
        config = ", ".join(f"{key}={value}" for key, value in self.settings.config.items())
        line = f"{self.method}, target {self.target}, salient objects: {self.saliency}, batches of {self.batch_size}"
        return line + (f", session configuration {config}" if config else "")

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON-ready values."""
        return asdict(self) | {"precisions": list(self.precisions), "fixes": list(self.fixes)}


def fingerprint_images(images: Sequence[ImageFile]) -> dict[str, str]:
    """Return image name → SHA-256 of its file, `UNREADABLE` where it cannot be read."""
    found = {}
    bar = telling.progress("fingerprints of images", len(images)) if len(images) >= _MANY else nullcontext(lambda _: None)
    with bar as advance:
        for image, sha256 in zip(images, fingerprint_sources([image.path for image in images]), strict=True):
            found[image.name] = sha256 or UNREADABLE
            advance(1)
    return found


def shard_keys(
    shards: Sequence[Sequence[ImageFile]], hashes: dict[str, str], plan: dict[str, Any], *, chained: bool
) -> list[str]:
    """Return the key of every shard: a hash of its images' names, contents and labels, and of the plan.

    The image set as a whole is left out, and the processor, which each part records for itself.

    Args:
        shards: Images by shard.
        hashes: Image name → SHA-256.
        plan: The plan.
        chained: Whether a shard's figures depend on the shards before it: then its key does as well.
    """
    rest = fingerprint({key: value for key, value in plan.items() if key not in ("images", *_MACHINE)})
    keys: list[str] = []
    for shard in shards:
        content = [[image.name, hashes[image.name], image.label] for image in shard]
        keys.append(fingerprint([rest, content, keys[-1:] if chained else []]))
    return keys


def settle_machine(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Leave the processor out of two plans where one of them leaves it to each part: workers may be other machines.

    Args:
        before: The recorded plan.
        now: This one.
    """
    if before.get("cpu_features") is None or now.get("cpu_features") is None:
        for key in _MACHINE:
            before[key] = now[key] = None


def write_images(folder: Path, images: Sequence[ImageFile], hashes: dict[str, str]) -> None:
    """Record the image set, so that a later run can name what changed."""
    rows = [{"name": image.name, "sha256": hashes[image.name], "label": image.label} for image in images]
    write_arrow(folder / IMAGES, pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA))


def image_differences(folder: Path, images: Sequence[ImageFile], hashes: dict[str, str]) -> list[str]:
    """Name the images in which a recorded set and this one differ; empty if the record is gone.

    Raises:
        QcamError: If the record cannot be read.
    """
    if not (folder / IMAGES).exists():
        return []
    before = {row["name"]: (row["sha256"], row["label"]) for row in read_arrow(folder / IMAGES).to_pylist()}
    now = {image.name: (hashes[image.name], image.label) for image in images}
    both = [name for name in now if name in before]
    kinds = {
        "changed": [name for name in both if now[name][0] != before[name][0]],
        "labelled otherwise": [name for name in both if now[name][0] == before[name][0] and now[name][1] != before[name][1]],
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
    }
    return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Name the entries in which two plans differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in {**before, **now}:
            found += differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if before == now else [f"{where} {_brief(before)} → {_brief(now)}"]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:12] + "…" + '"' * text.startswith('"')
