"""Bundles behind URLs: fetched once into a cache folder, whole or not at all, and held against their manifest on the way.

A fetched bundle lies in a folder that is named after the SHA-256 of its manifest, which holds those of its files. So a bundle
that was exported anew is another one, and one that is there already costs no more than its manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from qcam.common import telling
from qcam.common.errors import BundleError, QcamError
from qcam.common.files import new_folder, sha256_bytes, sha256_file
from qcam.common.storage import Location, below, cache_folder, is_web, open_location, read_pieces, reason, shown
from qcam.runtime.external import parse_onnx, refuse_unhashed
from qcam.runtime.manifest import MANIFEST, changed, files_of, no_bundle, parse_manifest

if TYPE_CHECKING:
    from upath import UPath

#: Longest manifest that is read, and largest file beside it, in bytes.
_LONGEST, _LARGEST = 1 << 26, 1 << 32


def fetch_bundle(location: str | Location, cache: Path | None = None) -> Path:
    """Fetch a bundle that lies behind a URL.

    Args:
        location: Its folder; a local one is returned as it is.
        cache: Where fetched bundles are kept; by default $QCAM_CACHE/bundles, else in the user's cache folder.

    Returns:
        A local folder that holds the bundle.

    Raises:
        BundleError: If it cannot be read, is no bundle, a file is not the one that was exported or keeps weights in files
            that the manifest holds no hash of.
        QcamError: If the disk refuses.
    """
    place = open_location(location)
    if isinstance(place, Path):
        return place
    where = f"{shown(place)}/{MANIFEST}"
    manifest = _read_manifest(place)
    # The last part is the bundle's own name, which results mention.
    folder = (cache or cache_folder("bundles")) / sha256_bytes(manifest)[:32] / (_name_of(place).strip(".") or "bundle")
    bundle = parse_manifest(manifest, folder, where)
    files = files_of(bundle, where)
    if _is_whole(folder, manifest, files):
        return folder
    try:
        with telling.status(f"fetching {shown(place)}"), new_folder(folder, replace=folder.exists()) as temporary:
            for name, sha256 in files.items():
                _fetch_file(below(place, name), temporary / name, sha256)
            for held in (file for entry in bundle.precisions for file in (entry, entry.original) if file is not None):
                source = shown(place / held.file)
                refuse_unhashed(parse_onnx(temporary / held.file, source), source, held.external)
            (temporary / MANIFEST).write_bytes(manifest)
    except QcamError:
        if not _is_whole(folder, manifest, files):  # otherwise another process has fetched it meanwhile
            raise
    return folder


def _name_of(place: UPath) -> str:
    """Return the last part of a place; that of a web server may end in a slash, and its host is no name."""
    return urlsplit(place.path).path.strip("/").rpartition("/")[2] if is_web(place) else str(place.name)


def _read_manifest(place: UPath) -> bytes:
    data = b""
    for piece in _pieces(place / MANIFEST, no_bundle(shown(place))):
        data += piece
        if len(data) > _LONGEST:
            raise BundleError(f"{shown(place)}/{MANIFEST} has more than {_LONGEST >> 20} MiB: it is no manifest of qcam's")
    return data


def _fetch_file(source: UPath, target: Path, sha256: str) -> None:
    """Write a file, and compare it with its fingerprint."""
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        for piece in _pieces(source, f"{shown(source)} is missing; export the bundle again with {{force}}"):
            size += len(piece)
            if size > _LARGEST:
                most = f"more than {_LARGEST >> 20} MiB"
                raise BundleError(f"{shown(source)} has {most}; copy the bundle to this machine, and give its folder")
            digest.update(piece)
            stream.write(piece)
    if digest.hexdigest() != sha256:
        raise BundleError(changed(shown(source)))


def _pieces(source: UPath, missing: str) -> Iterator[bytes]:
    """Read a file; the error that says it is missing is the caller's."""
    try:
        yield from read_pieces(source)
    except OSError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BundleError(missing) from error
        raise BundleError(
            f"cannot read {shown(source)}: {reason(error)}; check the URL, and the credentials in the environment"
        ) from error


def _is_whole(folder: Path, manifest: bytes, files: Mapping[str, str]) -> bool:
    """Tell whether a fetched bundle is there and undamaged."""
    try:
        same = (folder / MANIFEST).read_bytes() == manifest
        return same and all(sha256_file(folder / name) == sha256 for name, sha256 in files.items())
    except OSError:
        return False
