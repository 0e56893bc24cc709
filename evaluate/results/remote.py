"""A result folder behind a URL: results are made in a local copy, and brought there; run.json comes last."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qcam.common.errors import QcamError, ResultsError
from qcam.common.files import commit_file
from qcam.common.storage import cache_folder, files_below, is_web, open_location, reason, shown

if TYPE_CHECKING:
    from upath import UPath

#: File systems whose files appear whole by themselves.
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})


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
            ResultsError: If the place cannot be read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            beside = folder / f".{name}.{os.getpid()}.part"
            try:
                self.location.fs.get_file((self.location / name).path, str(beside))
                commit_file(beside, folder / name)
            except FileNotFoundError:
                (folder / name).unlink(missing_ok=True)
            except Exception as error:  # file systems have their own
                raise ResultsError(f"cannot read {self}/{name}: {reason(error)}") from error
            finally:
                beside.unlink(missing_ok=True)

    def push(self, folder: Path, names: Sequence[str]) -> None:
        """Bring files there.

        Raises:
            QcamError: If the place refuses.
        """
        for name in names:
            write_whole(self.location / name, folder / name)

    def push_all(self, folder: Path, *, last: str, but: Collection[str] = ()) -> None:
        """Bring every file there, one of them after all others.

        Args:
            folder: The local copy.
            last: Name of the file that says that the others are there.
            but: Names of files that are there already.

        Raises:
            QcamError: If the place refuses.
        """
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files if not path.name.startswith(".")]
        self.push(folder, [name for name in names if name != last and name not in but] + [last])

    def names(self) -> set[str]:
        """Return the names of all files there.

        Raises:
            ResultsError: If it cannot be listed.
        """
        try:
            return set(files_below(self.location))
        except OSError as error:
            raise ResultsError(f"cannot list {self}: {reason(error)}") from error

    def delete(self, names: Sequence[str]) -> None:
        """Delete files, as far as they are there."""
        for name in names:
            with suppress(Exception):
                (self.location / name).unlink()


def open_results(text: str) -> tuple[Path, RemoteFolder | None]:
    """Return the local folder in which results are made, and the place behind a URL that it is a copy of, if it is one.

    Raises:
        QcamError: If the URL carries credentials, there is no such file system, or it is one that is only read.
        MissingExtraError: If what reads it is not installed.
    """
    location = open_location(text)
    if isinstance(location, Path):
        return location, None
    if is_web(location):
        raise QcamError(f"{shown(location)}: a web server takes no results; give a folder, s3://, gs:// or hdfs://")
    remote = RemoteFolder(location)
    return remote.local_copy(), remote


def write_whole(location: UPath, data: bytes | Path) -> None:
    """Write a file behind a URL that appears whole or not at all: object stores do so, others rename.

    Args:
        location: The file.
        data: Its content, or the local file that has it.

    Raises:
        QcamError: If the place refuses.
    """
    try:
        if location.protocol in _WHOLE:
            _put(location, data)
            return
        location.parent.mkdir(parents=True, exist_ok=True)
        beside = location.parent / f".{location.name}.{os.getpid()}-{os.urandom(4).hex()}.part"
        _put(beside, data)
        beside.fs.mv(beside.path, location.path)
    except Exception as error:  # file systems have their own
        raise QcamError(f"cannot write {shown(location)}: {reason(error)}") from error


def _put(location: UPath, data: bytes | Path) -> None:
    if isinstance(data, Path):
        location.fs.put_file(str(data), location.path)
    else:
        location.write_bytes(data)
