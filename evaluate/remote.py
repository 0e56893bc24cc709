"""A result folder behind a URL: results are made in a local copy, and brought there; run.json comes last."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qcam.common.errors import QcamError
from qcam.common.files import write_atomically
from qcam.common.storage import cache_folder, open_location, reason, shown

if TYPE_CHECKING:
    from upath import UPath


class RemoteFolder:
    """A folder behind a URL.

    Attributes:
        location: The folder.
    """

    def __init__(self, location: UPath) -> None:
        """Take a location from `open_location`."""
        self.location = location

    def __str__(self) -> str:
        """Return the URL without credentials."""
        return shown(self.location)

    def local_copy(self) -> Path:
        """Return the folder on this machine in which its results are made; two runs to one place share it."""
        return cache_folder("runs") / hashlib.sha256(str(self).encode()).hexdigest()[:16]

    def pull(self, folder: Path, names: Sequence[str]) -> None:
        """Make files of the local copy what they are there; those that are not there vanish here.

        Raises:
            QcamError: If the place cannot be read.
        """
        for name in names:
            try:
                data = (self.location / name).read_bytes()
            except FileNotFoundError:
                (folder / name).unlink(missing_ok=True)
            except Exception as error:  # file systems have their own
                raise QcamError(f"cannot read {self}/{name}: {reason(error)}") from error
            else:
                write_atomically(folder / name, data)

    def push(self, folder: Path, names: Sequence[str]) -> None:
        """Bring files there.

        Raises:
            QcamError: If the place refuses.
        """
        for name in names:
            write_whole(self.location / name, (folder / name).read_bytes())

    def push_all(self, folder: Path, *, last: str) -> None:
        """Bring every file there, one of them after all others.

        Raises:
            QcamError: If the place refuses.
        """
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files if not path.name.startswith(".")]
        self.push(folder, [name for name in names if name != last] + [last])

    def delete(self, names: Sequence[str]) -> None:
        """Delete files, as far as they are there."""
        for name in names:
            with suppress(Exception):
                (self.location / name).unlink()


def open_results(text: str) -> tuple[Path, RemoteFolder | None]:
    """Return the local folder in which results are made, and the place behind a URL that it is a copy of, if it is one.

    Raises:
        QcamError: If the URL's file system is not installed.
    """
    location = open_location(text)
    if isinstance(location, Path):
        return location, None
    remote = RemoteFolder(location)
    return remote.local_copy(), remote


def write_whole(location: UPath, data: bytes) -> None:
    """Write a file behind a URL that appears whole or not at all: object stores do so, others rename.

    Raises:
        QcamError: If the place refuses.
    """
    try:
        if location.protocol in ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"):
            location.write_bytes(data)
            return
        location.parent.mkdir(parents=True, exist_ok=True)
        beside = location.parent / f".{location.name}.{os.getpid()}-{os.urandom(4).hex()}.part"
        beside.write_bytes(data)
        beside.fs.mv(beside.path, location.path)
    except Exception as error:  # file systems have their own
        raise QcamError(f"cannot write {shown(location)}: {reason(error)}") from error

