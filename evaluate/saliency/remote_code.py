"""Where a transformers model with code of its own comes from, which of its files would be executed, and whether it may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcam.common.errors import QcamError, first_line
from qcam.common.files import sha256_file
from qcam.common.records import read_record

#: The hub id of the paper's network.
HUB_ID = "ZhengPeng7/BiRefNet"
#: Its revision that runs unless another is named, and the SHA-256 of the code there.
HUB_REVISION = "e2bf8e4460fc8fa32bba5ea4d94b3233d367b0e4"
HUB_CODE = {
    "BiRefNet_config.py": "e7b8c2a74f6cea6a59553d517f71d47f2c1d90e670a13416af17c25fe2f3dc52",
    "birefnet.py": "208771ae626f653d64128fbf2d6ac9f8e645c5cc5e286258a73ec3322bbfe5ef",
}
_CONSENT = "with your rights; add {trust_remote_code} if you have read it and want that"
#: What is fetched of a hub's repository: configuration, code, and weights in the one format that holds no code.
_FILES = ("*.json", "*.py", "*.safetensors")


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is.

    Attributes:
        text: As the user gave it.
        folder: The local folder, or None for a hub.
        repository: Hub id, or empty.
        revision: Commit, 40 hexadecimal digits, or empty for a folder.
    """

    text: str
    folder: Path | None
    repository: str = ""
    revision: str = ""


@dataclass(frozen=True)
class _Config:
    """What config.json says of code: names in texts, lists and tables."""

    auto_map: Any = None


def model_place(text: str) -> ModelPlace:
    """Read FOLDER, HUB_ID@REVISION, or nothing for the paper's network at its pinned revision.

    Raises:
        QcamError: If there is no such folder, or a hub id has no commit with it.
    """
    if text and Path(text).is_dir():
        return ModelPlace(text, Path(text))
    repository, _, revision = (text or HUB_ID).partition("@")
    if text.startswith((".", "/", "~")) or repository.count("/") != 1 or not all(repository.split("/")):
        raise QcamError(
            f"no model folder at {text}; give a folder, or a hub id with its commit as in birefnet:{HUB_ID}@REVISION"
        )
    if repository == HUB_ID and not revision:
        revision = HUB_REVISION
    if len(revision) != 40 or not set(revision) <= set("0123456789abcdef"):
        raise QcamError(
            f"birefnet:{repository} needs a pinned revision, since its code runs here: birefnet:{repository}@COMMIT, the 40 "
            "hexadecimal digits of a commit that you have read; or a local folder"
        )
    return ModelPlace(text or HUB_ID, None, repository, revision)


def require_trust(place: ModelPlace, *, trusted: bool) -> None:
    """Refuse a model whose code may not run, and say what would be executed, from where. Nothing is fetched or executed.

    Raises:
        QcamError: If the model brings code and it is not trusted.
    """
    if trusted:
        return
    if place.folder is not None:
        files = code_files(place.folder)
        if files:
            raise QcamError(f"birefnet:{place.text} would execute {_listed(files)} from {place.folder}, {_CONSENT}")
        return
    if (place.repository, place.revision) == (HUB_ID, HUB_REVISION):
        named = ", ".join(f"{name} (SHA-256 {digest[:12]}…)" for name, digest in HUB_CODE.items())
    else:
        named = _seen_before(place)
    raise QcamError(
        f"birefnet:{place.text} would download hub model {place.repository} at revision {place.revision} and execute {named}, "
        f"{_CONSENT}"
    )


def fetched_folder(place: ModelPlace) -> Path:
    """Return the folder of a model, from its hub if need be; of the paper's network, code with known SHA-256 only.

    Raises:
        QcamError: If the hub cannot be reached, or its code is not what is known of it.
    """
    if place.folder is not None:
        return place.folder
    try:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(place.repository, revision=place.revision, allow_patterns=list(_FILES)))
    except ImportError as error:
        raise QcamError(f'birefnet needs transformers ({error}): pip install "qcam[saliency]"') from error
    except Exception as error:  # network, hub and disk have a kind of exception each
        raise QcamError(
            f"cannot fetch hub model {place.repository} at revision {place.revision}: {first_line(error)}; with no network, "
            "give a local folder of the model: birefnet:FOLDER"
        ) from error
    if (place.repository, place.revision) == (HUB_ID, HUB_REVISION):
        found = {path.relative_to(folder).as_posix(): sha256_file(path) for path in code_files(folder)}
        wrong = sorted(name for name, digest in found.items() if HUB_CODE.get(name) != digest)
        if wrong:
            raise QcamError(
                f"{wrong[0]} of hub model {HUB_ID} at revision {HUB_REVISION} has SHA-256 {found[wrong[0]][:12]}…, "
                f"{HUB_CODE.get(wrong[0], 'no such file')[:12]} is known; it was not executed; delete {folder} and try again"
            )
    return folder


def code_files(folder: Path) -> list[Path]:
    """Return the Python files that loading a model folder may execute: what its configuration names, and all beside it.

    Args:
        folder: Holds config.json.

    Returns:
        Sorted paths; empty if the configuration names no code.

    Raises:
        QcamError: If the configuration cannot be read, names a file that is not there, or code of another repository.
    """
    path = folder / "config.json"
    config = read_record(path, _Config, error=QcamError, advice="give a folder that holds a transformers model")
    references = list(_strings(config.auto_map))
    for reference in references:
        if "--" in reference:
            raise QcamError(
                f"{path} takes its code from another hub repository ({reference}), at no pinned revision; copy that code into "
                "a local folder beside the weights and name it in config.json"
            )
        module = folder / (reference.rpartition(".")[0].replace(".", "/") + ".py")
        if not module.is_file():
            raise QcamError(
                f"{path} names {reference}, but {module} is not there; give a folder that holds a transformers model"
            )
    return sorted(folder.rglob("*.py")) if references else []


def _strings(value: Any) -> Iterator[str]:
    """Yield every text in nested lists and tables."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _listed(files: list[Path]) -> str:
    return ", ".join(f"{path.name} (SHA-256 {sha256_file(path)[:12]}…)" for path in files)


def _seen_before(place: ModelPlace) -> str:
    """Name the code of a hub model from what was downloaded of it earlier, or say that it is not known yet."""
    unknown = "the Python files that its config.json names (auto_map), none of which is on this machine yet"
    try:
        from huggingface_hub import try_to_load_from_cache

        held = try_to_load_from_cache(place.repository, "config.json", revision=place.revision)
        files = code_files(Path(held).parent) if isinstance(held, str) else []
    except (ImportError, ValueError, QcamError):
        return unknown
    return _listed(files) if files else unknown
