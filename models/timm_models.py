"""What belongs to timm's models beside the network: the file its weights come from, the picture's way in, the classes' names.

timm chooses by itself between files of a folder, and between raw and averaged weights in a file. Here the same choice is made
before timm reads anything, so that it can be told, and refused where it is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qcam.common import telling
from qcam.common.counted import counted
from qcam.common.errors import QcamError
from qcam.common.records import as_record, read_json
from qcam.common.vocabulary import Interpolation, words
from qcam.images.preprocessing import Preprocessing
from qcam.models.checkpoints import Checkpoint, read_checkpoint
from qcam.models.weights import StateDict, counts_batches
from qcam.models.wishes import Wishes, class_names

#: Files in the order in which timm looks for them in a folder; then whatever has these endings, by name.
_PREFERRED = (
    "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth", "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth",
)  # fmt: skip
_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".bin")
#: Under which of these names timm takes the weights in a file, in this order.
_SETS = ("state_dict_ema", "model_ema", "state_dict", "model")
#: What a repository of the hub has that names no file: the second is read where the first is missing.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def look_at_folder(folder: Path, shown: str) -> None:
    """Refuse a folder of timm's that is none, or whose settings cannot be meant.

    Args:
        folder: The folder.
        shown: What messages call the model.

    Raises:
        QcamError: If there is no `config.json`, or something in it is of another type than timm's.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise QcamError(
            f"{shown} is no folder of timm's: it has no config.json; give one that timm saved "
            "(timm.models.save_for_hf), or timm:NAME {weights} FILE"
        )
    advice = "mend it, or save the folder again with timm.models.save_for_hf"
    value = read_json(path, error=QcamError, advice=advice)
    as_record(value, _Config, str(path), error=QcamError, advice=advice)
    check_settings(value.get("pretrained_cfg", value), str(path))


def check_settings(config: Mapping[str, Any], where: str) -> None:
    """Refuse settings of a picture's way in that are of another type than timm's.

    Args:
        config: timm's `pretrained_cfg`.
        where: Where it stands, for messages.

    Raises:
        QcamError: If one is; it is named.
    """
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    told = as_record(plain, _Settings, where, error=QcamError, advice="mend it")
    channels = told.input_size[0] if told.input_size else 3
    for name, numbers in (("mean", told.mean), ("std", told.std)):
        if numbers and channels == 3 and len(numbers) != 3:
            raise QcamError(
                f"{where}: {name} has {counted(len(numbers), 'number')}, "
                "and a picture has 3 channels; write three"
            )
    if told.crop_pct is not None and (told.crop_pct < 0 or not math.isfinite(told.crop_pct)):
        raise QcamError(f"{where}: crop_pct is {told.crop_pct}, and it is the part that the crop keeps; write one above 0")


def folder_weights(folder: Path) -> Path:
    """Return the file of a folder that timm reads, if nobody else has to choose.

    Args:
        folder: A folder that timm saved.

    Returns:
        The file.

    Raises:
        QcamError: If there is none, it cannot be read, or it or another file holds further weights that differ.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.endswith(_ENDINGS)]
    chosen = next((path for name in _PREFERRED for path in files if path.name == name), None) or next(
        (path for ending in _ENDINGS for path in files if path.name.endswith(ending)), None
    )
    if chosen is None:
        raise QcamError(
            f"{folder} has no weights beside config.json (timm reads {', '.join(_ENDINGS)}); put the file there, or give "
            "{weights} FILE"
        )
    sets = _sets(read_checkpoint(chosen))
    taken = next((name for name in (*_SETS, "") if name in sets), next(iter(sets)))
    rivals = [name for name in sets if name != taken and _differ(sets[taken], sets[name])]
    if rivals:
        listed = [name or "the names without a prefix" for name in sorted((taken, *rivals))]
        raise QcamError(
            f"{chosen} holds several sets of weights ({', '.join(listed)}), and timm would choose one by itself; "
            f"choose with {{weights}} {chosen} {{weights_key}} {listed[0]}"
        )
    left = []
    for path in files:
        if path == chosen:
            continue
        try:
            others = _sets(read_checkpoint(path))
        except QcamError:  # a trainer's arguments, the state of a random generator
            left.append(path.name)
            continue
        if any(_differ(sets[taken], other) for other in others.values()):
            raise QcamError(
                f"{folder} holds two files of weights that differ, {chosen.name} and {path.name}, and timm would choose by "
                f"their names; choose with {{weights}} {chosen} or {{weights}} {path}"
            )
        if not any(_shared(sets[taken], other) for other in others.values()):
            left.append(path.name)
    further = f"; left, for they hold no weights of it: {', '.join(left)}" if left else ""
    telling.note(f"{folder}: weights from {chosen.name}{further}")
    return chosen


def hub_weights(config: Mapping[str, Any]) -> str:
    """Return the name of the file that timm has read of a repository of the hub, empty if it cannot be told.

    Args:
        config: timm's `pretrained_cfg` of the model that was read.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = str(config.get("hf_hub_id") or "").partition("@")
    named = config.get("hf_hub_filename")
    names = _HUB_FILES if not named else (str(named).removesuffix(".bin") + ".safetensors", str(named))
    for name in names if repository else ():
        if isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str):
            telling.note(f"{repository}: weights from {name}")
            return name
    return ""


def _sets(checkpoint: Checkpoint) -> dict[str, StateDict]:
    """Return the mappings of a file with the tensors in each, under names as timm cleans them."""
    sets: dict[str, StateDict] = {}
    for name, tensor in checkpoint.tensors.items():
        holder = checkpoint.holders.get(name, "")
        own = name.removeprefix(f"{holder}.") if holder else name
        for wrapper in ("_orig_mod.", "module.", "_orig_mod."):
            own = own.removeprefix(wrapper)
        sets.setdefault(holder, {})[own] = tensor
    return sets


def _shared(one: StateDict, other: StateDict) -> list[str]:
    return [name for name in one if name in other]


def _differ(one: StateDict, other: StateDict) -> bool:
    """Tell whether two sets have parameters of the same name and other values, or one more parameters than the other."""
    shared = _shared(one, other)
    if not shared:
        return False
    names = {name for name in (*one, *other) if not counts_batches(name)}
    if any(name not in one or name not in other for name in names):
        return True
    try:
        return not all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in names)
    except (RuntimeError, NotImplementedError):  # kinds of tensors that cannot be compared
        return True


def way_in(
    config: Mapping[str, Any], normalisation: Mapping[str, tuple[float, ...]], shown: str, wishes: Wishes
) -> Preprocessing:
    """Return what timm does with a photograph, exactly.

    Args:
        config: What `timm.data.resolve_model_data_config` returns.
        normalisation: Mean and standard deviation, as `Preprocessing` takes them.
        shown: What messages call the model.
        wishes: Whether the caller gives a size or a filter of his own, which then need not be timm's.

    Raises:
        QcamError: If timm does what qcam does not.
    """
    _, height, width = config["input_size"]
    share, mode, interpolation = config["crop_pct"], config["crop_mode"], config["interpolation"]
    if interpolation not in words(Interpolation):
        if not wishes.interpolation:
            raise QcamError(
                f"{shown}: timm resizes its pictures by {interpolation!r}, which qcam does not; choose with {{interpolation}} "
                f"({', '.join(words(Interpolation))}), and figures are of other pixels than timm's"
            )
        interpolation = "bicubic"
    scaled = (math.floor(height / share), math.floor(width / share))  # as timm rounds
    resize: int | tuple[int, int] | None
    if wishes.resize:
        resize = None
    elif scaled[0] < height or scaled[1] < width:
        raise QcamError(
            f"{shown}: with crop_pct {share} timm resizes pictures to less than the network takes ({height}×{width}) and puts "
            "black around them, which qcam does not; give {resize} H,W of at least that"
        )
    elif mode == "squash":
        resize = None if scaled == (height, width) else scaled
    elif mode == "border":
        raise QcamError(
            f"{shown}: timm fits whole pictures in and puts a border around them (crop_mode border), which qcam does not; give "
            "{resize} N for the shorter side before the crop, or {resize} H,W; figures are of other pixels than timm's"
        )
    elif scaled[0] == scaled[1]:
        resize = scaled[0]
    else:
        raise QcamError(
            f"{shown} takes pictures of {height}×{width}, and timm resizes them until they cover {scaled[0]}×{scaled[1]} "
            "(crop_mode center), which qcam does for squares only; give {resize} N for the shorter side before the crop, or "
            "{resize} H,W; figures are of other pixels than timm's"
        )
    try:
        return Preprocessing(resize=resize, crop=(height, width), **normalisation, interpolation=interpolation)
    except QcamError as error:
        raise QcamError(f"{shown}: {error.template}") from error


def own_classes(config: Mapping[str, Any], count: int, shown: str, wishes: Wishes, *, own: bool) -> tuple[str, ...] | None:
    """Return the class names that a folder or a repository says its network has; None if it says none, or the caller does.

    Args:
        config: timm's `pretrained_cfg` of the model.
        count: Number of the network's outputs.
        shown: What messages call the model.
        wishes: What the caller knows.
        own: Whether the weights are the folder's own.

    Raises:
        QcamError: If they are no names, or of another number.
    """
    names = config.get("label_names")
    if names is None or isinstance(wishes.classes, tuple):
        return None
    instead = "mend config.json, or give the names with {classes} FILE"
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise QcamError(f"{shown}: label_names in config.json is no list of names; {instead}")
    if len(names) != max(2, count) and (count, len(names)) != (1, 1):
        what = f"label_names in config.json gives {len(names)} names, and the network has {counted(count, 'output')}"
        if own:
            raise QcamError(f"{shown}: {what}; {instead}")
        telling.note(f"{shown}: {what} with these weights; the names are left")
        return None
    telling.note(f"{shown}: the classes' names are from config.json (label_names)")
    return class_names(count, tuple(names), shown)


@dataclass(frozen=True)
class _Config:
    """What stands in `config.json`, as far as timm stumbles over it."""

    architecture: str
    pretrained_cfg: dict[str, Any] | None = None
    model_args: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Settings:
    """What of timm's `pretrained_cfg` makes the picture's way in."""

    input_size: tuple[int, int, int] | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
