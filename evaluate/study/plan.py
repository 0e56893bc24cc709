"""The plan of a run: all that can change a figure. Results of another plan are refused, and what differs is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from qcam.common import machine, telling
from qcam.common.files import fingerprint
from qcam.evaluate.engine.messages import Shard
from qcam.evaluate.results.folder import IMAGE_SCHEMA, IMAGES, read_arrow, write_arrow
from qcam.evaluate.results.parts import PlannedPart
from qcam.evaluate.run.options import UNREADABLE, StudyOptions
from qcam.evaluate.study.conditions import Conditions, ImageSet
from qcam.images.decoding import READING
from qcam.images.sources import ImageFile, fingerprint_sources
from qcam.runtime.bundle import Bundle
from qcam.runtime.gpu import Gpu

#: Fewer images than this are read before a bar could be seen.
_MANY = 500
#: What a plan says of the processor and the GPU.
_MACHINE = ("cpu_features", "kernels", "gpu")
#: Images between two safe points.
SHARD_SIZE = 16
#: How many images are named where many differ.
_NAMED = 3
#: Conditions as the run.json of any version keeps them. They are compared as such, not as `Conditions`: an entry that only
#: one of two versions knows is a difference too.
Recorded = Mapping[str, object]


@dataclass(frozen=True)
class StudyPlan:
    """What a study is: its images in shards, and all that can change a figure. It does not change once it is made.

    Attributes:
        conditions: All that can change a figure.
        shards: The images of every shard.
        hashes: Image name → SHA-256 of its file, `UNREADABLE` where it cannot be read.
        keys: The key of every shard.
        sequential: Whether images depend on those before them.
    """

    conditions: Conditions
    shards: tuple[tuple[ImageFile, ...], ...]
    hashes: Mapping[str, str]
    keys: tuple[str, ...]
    sequential: bool

    @property
    def fingerprint(self) -> str:
        """Return one hash of all that can change a figure."""
        return fingerprint(self.conditions.to_json())

    @property
    def images(self) -> list[ImageFile]:
        """Return all images, in the order of the run."""
        return [image for shard in self.shards for image in shard]

    def references(self, index: int) -> int:
        """Return of how many images of a shard, its first ones, there are reference rows."""
        return self.conditions.options.referenced(index * self.conditions.shard_size, len(self.shards[index]))

    def parts(self, rows: int | None, references: int | None) -> list[PlannedPart]:
        """Return what the part of every shard has to be.

        Args:
            rows: Result rows of each image; None where that is not known yet.
            references: Reference rows of each image that has any; None where that is not known yet.
        """
        return [
            PlannedPart(index, key, tuple(image.name for image in shard), rows, self.references(index), references)
            for index, (key, shard) in enumerate(zip(self.keys, self.shards, strict=True))
        ]

    def shard(self, index: int) -> Shard:
        """Return a shard as workers take it."""
        images = self.shards[index]
        hashes = {image.name: self.hashes[image.name] for image in images}
        return Shard(index, self.keys[index], images, hashes, self.references(index))


def make_plan(
    bundles: Sequence[Bundle],
    images: Sequence[ImageFile],
    saliency: str | None,
    options: StudyOptions,
    device: str,
    *,
    kernels: str | None,
    here: bool,
    sequential: bool,
    gpu: Gpu | None = None,
) -> StudyPlan:
    """Fingerprint the images and make the plan.

    Args:
        bundles: The bundles.
        images: The image set.
        saliency: Fingerprint of the source of salient-object maps; None without one.
        options: What else can change a figure.
        device: PyTorch device of the mirrors.
        kernels: Family of this CPU's kernels, where they compute.
        here: Whether this process evaluates. Workers may be other machines: each part records its own.
        sequential: Whether images depend on those before them.
        gpu: The GPU that takes part, if this process evaluates and one does.
    """
    hashes = fingerprint_images(images)
    size = shard_size(options.batch_size)
    shards = tuple(tuple(images[start : start + size]) for start in range(0, len(images), size))
    content = {image.name: [hashes[image.name], image.label] for image in images}
    conditions = Conditions(
        bundles={bundle.model_id: bundle.fingerprint for bundle in bundles},
        images=ImageSet(len(content), fingerprint(content)),
        saliency=saliency,
        options=options,
        device=device,
        shard_size=size,
        reading=READING,
        cpu_features=tuple(machine.cpu_features()) if here else None,
        kernels=kernels,
        versions=machine.versions(),
        gpu=gpu,
        tf32=options.settings.tf32 if options.on_gpu(device) else None,
    )
    keys = shard_keys(shards, hashes, conditions, chained=sequential)
    return StudyPlan(conditions, shards, hashes, tuple(keys), sequential)


def shard_size(batch_size: int) -> int:
    """Return how many images a shard holds: whole batches, for a smaller one would cut the batch that was asked for."""
    return -(-SHARD_SIZE // batch_size) * batch_size


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
    shards: Sequence[Sequence[ImageFile]], hashes: Mapping[str, str], conditions: Conditions, *, chained: bool
) -> list[str]:
    """Return the key of every shard: a hash of its images' names, contents and labels, and of the conditions.

    The image set as a whole is left out, and processor and GPU, which each part records for itself.

    Args:
        shards: Images by shard.
        hashes: Image name → SHA-256.
        conditions: All that can change a figure.
        chained: Whether a shard's figures depend on the shards before it: then its key does as well.
    """
    rest = fingerprint({key: value for key, value in conditions.to_json().items() if key not in ("images", *_MACHINE)})
    keys: list[str] = []
    for shard in shards:
        content = [[image.name, hashes[image.name], image.label] for image in shard]
        keys.append(fingerprint([rest, content, keys[-1:] if chained else []]))
    return keys


def settled(before: Recorded, now: StudyPlan) -> tuple[Recorded, StudyPlan]:
    """Leave processor and GPU out of two plans where one of them leaves it to each part: workers may be other machines.

    Args:
        before: The recorded plan.
        now: This one.

    Returns:
        Both, comparable.
    """
    if before.get("cpu_features") is None or now.conditions.cpu_features is None:
        anywhere = replace(now.conditions, cpu_features=None, kernels=None, gpu=None)
        known = {name: value for name, value in before.items() if name not in _MACHINE}
        return {**known, "cpu_features": None, "kernels": None}, replace(now, conditions=anywhere)
    return before, now


def write_images(folder: Path, images: Sequence[ImageFile], hashes: Mapping[str, str]) -> None:
    """Record the image set, so that a later run can name what changed."""
    rows = [{"name": image.name, "sha256": hashes[image.name], "label": image.label} for image in images]
    write_arrow(folder / IMAGES, pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA))


def image_differences(folder: Path, images: Sequence[ImageFile], hashes: Mapping[str, str]) -> list[str]:
    """Name the images in which a recorded set and this one differ; empty if the record is gone.

    Raises:
        QcamError: If the record cannot be read.
    """
    if not (folder / IMAGES).exists():
        return []
    before = {row["name"]: (row["sha256"], row["label"]) for row in read_arrow(folder / IMAGES).to_pylist()}
    now = {image.name: (hashes[image.name], image.label) for image in images}
    if len(now) < len(before) and [*before.items()][: len(now)] == [*now.items()]:
        return [f"only the first {len(now):,} of {len(before):,} images, as a smaller {{limit}} takes them"]
    both = [name for name in now if name in before]
    kinds = {
        "changed": [name for name in both if now[name][0] != before[name][0]],
        "labelled otherwise": [name for name in both if now[name][0] == before[name][0] and now[name][1] != before[name][1]],
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
    }
    return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def begins_with(folder: Path, before: Recorded, now: StudyPlan) -> int:
    """Tell whether recorded results are of the first images of a plan, and otherwise of the very same one.

    Args:
        folder: Where they are.
        before: Their plan.
        now: This one.

    Returns:
        Of how many images they are; 0 if they are not, or are of all of them.

    Raises:
        QcamError: If the record of the images cannot be read.
    """
    mine = now.conditions.to_json()
    if before.get("images") == mine["images"]:
        return 0
    if {**before, "images": None} != {**mine, "images": None} or not (folder / IMAGES).exists():
        return 0
    known = [(row["name"], row["sha256"], row["label"]) for row in read_arrow(folder / IMAGES).to_pylist()]
    first = [(image.name, now.hashes[image.name], image.label) for image in now.images[: len(known)]]
    recorded = {"count": len(known), "fingerprint": fingerprint({name: [sha256, label] for name, sha256, label in known})}
    return len(known) if known == first and len(known) < len(now.images) and before.get("images") == recorded else 0


#: Entries of a plan that are options → the option's token (`qcam.common.wording`), or words.
_OPTIONS = {
    "precisions": "{precision}", "saliency": "{saliency}", "target": "{target}", "method": "{cam}",
    "batch_size": "{batch_size}", "fake_quant": "simulation", "null_row": "null row", "faithfulness": "faithfulness",
    "references": "{references}", "non_inferior_to": "{non_inferior_to}",
    "protocol": "{protocol}", "fixes": "{paper_fix}", "provider": "{provider}", "allow_fallback": "fallback allowed",
    "io_binding": "IO binding", "config": "{session_config}", "threads": "{threads}", "device": "{device}",
    "provider_options": "{provider_option}", "without_f32": "models without f32",
}  # fmt: skip
#: What a plan's entries are called that are no options.
_ENTRIES = {
    "reading": "the rules by which images and labels are read",
    "measuring": "the rules by which maps are made and compared",
    "shard_size": "images in a shard",
    "kernels": "kernels of the processor",
    "cpu_features": "instruction sets of the processor",
    "tf32": "TF32",
    "gpu.name": "GPU",
    "gpu.capability": "compute capability",
    "gpu.driver": "driver of the GPU",
    "gpu.cuda": "CUDA",
    "gpu.cudnn": "cuDNN",
    "gpu.tensorrt": "TensorRT",
}


def told_differences(before: Recorded, now: StudyPlan, folder: Path) -> list[str]:
    """Say in what two plans differ, by the names of options, images and packages; empty if in nothing.

    Args:
        before: The recorded plan.
        now: This one.
        folder: Where the record is.

    Raises:
        QcamError: If the record of the images cannot be read.
    """
    old, new = _flat(before), _flat(now.conditions.to_json())
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    told = [_told(key, old, new) for key in differing]
    if "images.fingerprint" in differing:
        told += image_differences(folder, now.images, now.hashes) or ["the images, or their order"]
    return list(dict.fromkeys(filter(None, told)))


def _flat(plan: Recorded) -> dict[str, object]:
    """Return a plan's entries, those of bundles, images, versions, options, sessions and a GPU each for itself."""
    flat: dict[str, object] = {}
    for key, value in plan.items():
        if key not in ("bundles", "images", "versions", "options", "gpu") or not isinstance(value, dict):
            flat[key] = value
            continue
        for name, of in value.items():
            if (key, name) == ("options", "settings") and isinstance(of, dict):
                flat |= {f"options.{setting}": given for setting, given in of.items()}
            else:
                flat[f"{key}.{name}"] = of
    return flat


def _told(key: str, before: Recorded, now: Recorded) -> str:
    """Say how one entry differs; empty where others say it."""
    kind, _, name = key.partition(".")
    if kind == "images" or (key == "shard_size" and before.get("options.batch_size") != now.get("options.batch_size")):
        return ""
    if kind == "bundles":
        how = "is another one" if key in before and key in now else "is new" if key in now else "is gone"
        return f"bundle {name} {how}"
    if key == "saliency":
        if before.get("options.saliency") != now.get("options.saliency"):
            return ""
        source = str(now.get("options.saliency"))
        if source.startswith("masks:"):
            counts = "what of them counts ({mask_classes}, {mask_void})"
            return f"the salient objects of {source}: the masks, or {counts}, are others"
        how = "{saliency_preset}, {saliency_option}" if source.startswith("onnx:") else "{saliency_option}"
        return f"the salient objects of {source}: the network, or its settings ({how}), are others"
    if key == "cpu_features":
        return _ENTRIES[key]
    option = _OPTIONS.get(name or kind) if kind in ("options", "device") else None
    title = option or (name if kind == "versions" else None)
    return f"{title or _ENTRIES.get(key, key)} {_value(before.get(key))} → {_value(now.get(key))}"


def _value(value: object) -> str:
    """Return a value as it stands on a command line."""
    if value is None:
        return "(not said)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ",".join(f"{key}={of}" for key, of in value.items()) or "(none)"
    return ",".join(map(str, value)) or "(none)" if isinstance(value, list) else str(value) or "(none)"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
