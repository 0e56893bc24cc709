"""Files that appear whole or not at all, and their fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qcam.common.errors import QcamError


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, read in pieces, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON text that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())


def readable_json(value: Any) -> str:
    """Return indented JSON text that ends in a newline; keys keep their order, NaN is refused."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` beside it, flush it to disk, and rename: readers see the old file or the new one.

    Args:
        path: Where the file shall be; missing parent folders are made.
        data: The content; text is written as UTF-8.

    Raises:
        QcamError: If the disk refuses (full, read-only, no permission).
    """
    content = data.encode() if isinstance(data, str) else data
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        commit_file(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise QcamError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error


def commit_file(temporary: Path, path: Path) -> None:
    """Let a file that was written and flushed beside `path` take its place, with the permissions of a new file.

    Raises:
        OSError: If the disk refuses.
    """
    temporary.chmod(0o666 & ~_umask())
    temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def new_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Give a temporary folder that becomes `target` when the block ends, or vanishes if the block fails.

    Args:
        target: The folder that shall appear whole.
        replace: Whether an existing `target` is replaced; the old one stays until the new one is complete.

    Yields:
        The temporary folder to fill, in the same parent as `target`.

    Folders above `target` that were made for it vanish with it.

    Raises:
        QcamError: If `target` exists and `replace` is false, or the disk refuses.
    """
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    if target.exists() and not replace:
        raise QcamError(f"{target} exists already; use {{force}} to replace it or {{output}} for another place")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    except OSError as error:
        raise QcamError(f"cannot write to {target.parent}: {error.strerror or error}") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if target.exists() and not replace:  # made by another process meanwhile
            raise QcamError(f"{target} exists already; use {{force}} to replace it or {{output}} for another place")
        _swap_in(temporary, target)
    except OSError as error:
        raise QcamError(f"cannot write {target}: {error.strerror or error}; free space or choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not target.exists():
            with contextlib.suppress(OSError):  # somebody else has put something there
                for folder in made:
                    folder.rmdir()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes of this program out of a folder while the block runs; a crash leaves no lock behind.

    Args:
        folder: The folder; made if missing, and removed again if it is empty in the end. Systems without file locks
            (Windows) are not kept out.

    Raises:
        QcamError: If another process is at work there, or the disk refuses.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    except OSError as error:
        raise QcamError(f"cannot write to {folder}: {error.strerror or error}; choose another place") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us removed the file we opened: then somebody else may hold a newer one.
            if os.fstat(stream.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError
        except OSError as error:
            raise QcamError(f"another run is writing to {folder}; wait for it, or use {{output}} for another place") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty: as it should be
                folder.rmdir()


def _swap_in(new: Path, target: Path) -> None:
    """Rename `new` to `target`, setting an existing `target` aside until the rename succeeded."""
    if not target.exists():
        new.rename(target)
    else:
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
        old = aside / "old"
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:  # also an interruption between the two renames
            if not target.exists():
                old.rename(target)
            raise
        finally:
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, where the system allows to open one."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    """Return the process's file mode mask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
