"""Places named by a path or by a URL: opened, listed, read in pieces, and shown without credentials.

A local place is a `Path`; one behind a URL is a `UPath`, which reaches it through fsspec. Credentials are never part of it:
they come from where the file system's own package looks for them: environment, configuration files. So a place can be pickled,
recorded and shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote

from qcam.common.errors import MissingExtraError, QcamError, first_line

if TYPE_CHECKING:
    from upath import UPath

#: A local place, or one behind a URL.
Location: TypeAlias = "Path | UPath"

#: File system → the extra that brings it with what reads URLs; `ray` brings only the latter.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
#: Most bytes that are asked for at once.
_PIECE = 1 << 24
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
#: USER:PASSWORD@ at the beginning of what follows `://`; a password may hold slashes, a port is none.
_PASSWORD = re.compile(r"[^/@:]*:(?!\d+(?:/|$))[^@]*@")
_USER = re.compile(r"[^/@:]+@")
#: What stands before @ in URLs of these is a name: a container, a user.
_NAMING = frozenset({"abfs", "abfss", "wasb", "wasbs", "hdfs", "webhdfs", "sftp", "ssh"})
#: URLs of these may end in a query or a fragment; elsewhere ? and # are letters of a name. They are read by `web.py`.
_WEB = frozenset({"http", "https"})


def is_url(text: str) -> bool:
    """Tell whether a location is a URL rather than a path."""
    return _URL.match(text) is not None


def open_location(location: str | Location) -> Location:
    """Return a place as something that can be read, joined with `/` and pickled.

    Args:
        location: A path, or a URL; `file://` is a path. What is a place already is returned as it is.

    Raises:
        QcamError: If a URL carries credentials, or there is no such file system.
        MissingExtraError: If what reads it is not installed.
    """
    if not isinstance(location, str):
        return location
    match = _URL.match(location)
    if match is None:
        return Path(location)
    protocol, rest = match.group(1).lower(), location[match.end() :]
    if protocol in ("file", "local"):
        host, slash, path = rest.partition("/")
        if not slash or host not in ("", "localhost"):
            raise QcamError(f"{location} names no file of this machine; write file:///FOLDER, or the path alone")
        return Path(unquote(slash + path))
    if _credentials(protocol, rest) or "?" in rest:
        raise QcamError(
            f"the URL {shown(location)} carries credentials or a query; leave them out, "
            f"and give credentials as {protocol}'s own package takes them: environment or its configuration"
        )
    try:
        from fsspec import get_filesystem_class
        from upath import UPath
    except ImportError as error:
        raise MissingExtraError(
            f"{shown(location)} is a URL, which is read by fsspec and universal_pathlib: "
            f'pip install "qcam[{_EXTRAS.get(protocol, "ray")}]"'
        ) from error
    if protocol not in _WEB:  # a folder may be written with a slash at its end
        host, slash, path = rest.partition("/")
        rest = host + slash + path.rstrip("/")
    try:
        get_filesystem_class(protocol)
        return UPath(f"{protocol}://{rest}")
    except ValueError as error:
        raise QcamError(
            f"{shown(location)}: fsspec knows no file system {protocol}; use a path, s3://, gs:// or hdfs://"
        ) from error
    except ImportError as error:
        raise MissingExtraError(f"{shown(location)}: {_missing_package(protocol)} ({reason(error)})") from error


def shown(location: str | Location) -> str:
    """Return a place's name for messages and records: no password, no query, no storage options."""
    text = str(location)
    match = _URL.match(text)
    if match is None or isinstance(location, Path):
        return text
    protocol, rest = match.group(1).lower(), text[match.end() :]
    rest = rest[_credentials(protocol, rest) :]
    if isinstance(location, str) or protocol in _WEB:
        rest = re.split(r"[?#]" if protocol in _WEB else r"\?", rest, maxsplit=1)[0]
    if not isinstance(location, str) and rest.startswith("/"):  # UPath sets the host apart
        host, port = (location.storage_options.get(key) for key in ("host", "port"))
        rest = f"{host or ''}{f':{port}' if host and port else ''}{rest}"
    return f"{protocol}://{rest}"


def reason(error: BaseException) -> str:
    """Say in one line why something could not be read, whatever a file system raised."""
    if isinstance(error, OSError) and error.strerror:
        return first_line(OSError(error.strerror))
    if isinstance(error, FileNotFoundError):  # many file systems give nothing but the path
        return "no such file"
    return first_line(error)


def cache_folder(kind: str) -> Path:
    """Return where something is kept between runs: $QCAM_CACHE/KIND, else qcam/KIND in the user's cache folder."""
    base = os.environ.get("QCAM_CACHE")
    if base:
        return Path(base) / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qcam" / kind


def files_below(folder: UPath) -> list[str]:
    """List all files below a folder behind a URL, at any depth.

    Returns:
        Their names below the folder, with forward slashes, sorted; empty if there is no such folder.

    Raises:
        OSError: If it cannot be listed, whatever the file system raised.
    """
    try:
        folder.fs.invalidate_cache()
        found = folder.fs.find(folder.path)
    except FileNotFoundError:
        return []
    except Exception as error:
        raise OSError(reason(error)) from error
    root = folder.path.rstrip("/") + "/"
    return sorted(name[len(root) :] for name in found if name.startswith(root) and not name.endswith("/"))


def places_below(folder: UPath) -> dict[str, UPath]:
    """List all files below a folder behind a URL, at any depth.

    Returns:
        Their names below the folder, with forward slashes, sorted → the files; empty if there is no such folder.

    Raises:
        OSError: If it cannot be listed, whatever the file system raised.
        QcamError: If a web server has left requests without an answer again and again.
    """
    if is_web(folder):
        from qcam.common import web

        return web.files_below(folder)
    return {name: folder / name for name in files_below(folder)}


def below(folder: UPath, name: str) -> UPath:
    """Return the place of a file below a folder behind a URL; letters that mean something else to a web server are escaped.

    Args:
        folder: The folder.
        name: The file's name below it, with forward slashes.
    """
    return folder / (quote(name) if is_web(folder) else name)


def is_web(location: Location) -> bool:
    """Tell whether a place is behind http:// or https://."""
    return not isinstance(location, Path) and location.protocol in _WEB


def is_file(location: Location) -> bool:
    """Tell whether a file is there; why one behind a URL cannot be reached is told when it is read."""
    if isinstance(location, Path):
        return location.is_file()
    if is_web(location):
        from qcam.common import web

        return web.is_file(location)
    return bool(location.fs.isfile(location.path))


def open_binary(location: Location, state: str = "") -> IO[bytes]:
    """Open a file to be read at any place.

    Args:
        location: The file.
        state: What a file of a web server was when it was listed (`state_of`); empty for whatever it is now.

    Raises:
        OSError: If it is another one, or cannot be read.
        Exception: Whatever the file system raises.
    """
    if is_web(location):
        from qcam.common import web

        return web.opened(location, state)
    stream: IO[bytes] = location.open("rb")
    return stream


def state_of(stream: IO[bytes]) -> str:
    """Return what changes when an open file of a web server does; empty for any other."""
    return str(getattr(getattr(stream, "raw", None), "state", ""))


def read_pieces(location: Location, offset: int = 0, size: int | None = None, state: str = "") -> Iterator[bytes]:
    """Read a file, or a part of it, piece by piece; a small one behind a URL costs one request.

    Args:
        location: The file.
        offset: First byte.
        size: How many bytes; None reads to the end.
        state: As of `open_binary`.

    Yields:
        The bytes in order.

    Raises:
        OSError: If it cannot be read, whatever the file system raised, ends before the part does, or is not what it was.
        QcamError: If a web server has left requests without an answer again and again.
    """
    position = offset
    if is_web(location) and size is None and not offset:
        from qcam.common import web

        try:
            yield from web.whole(location, _PIECE)
        except OSError as error:
            raise OSError(reason(error)) from error
        return
    end = None if size is None else offset + size
    while end is None or position < end:
        wanted = _PIECE if end is None else min(_PIECE, end - position)
        piece = _read_range(location, position, wanted, state, open_end=end is None)
        if piece:
            yield piece
        position += len(piece)
        if len(piece) < wanted:
            if end is not None:
                raise OSError(f"the file ends at byte {position}, before byte {end}")
            return


def _read_range(location: Location, position: int, wanted: int, state: str, *, open_end: bool) -> bytes:
    """Return at most that many bytes from a position on."""
    if isinstance(location, Path):
        with location.open("rb") as stream:
            stream.seek(position)
            return stream.read(wanted)
    if is_web(location):
        from qcam.common import web

        try:
            return web.part(location, position, position + wanted, state)
        except OSError as error:
            raise OSError(reason(error)) from error
    try:
        piece = bytes(location.fs.cat_file(location.path, start=position, end=position + wanted))
    except Exception as error:
        if open_end and _size(location) == position:  # object stores refuse a range that begins at the end
            return b""
        raise OSError(reason(error)) from error
    if len(piece) > wanted:
        raise OSError("the server does not keep to byte ranges")
    return piece


def _size(location: UPath) -> int | None:
    with suppress(Exception):
        about = location.fs.info(location.path)
        return int(about["size"]) if about["type"] == "file" else None
    return None


def _credentials(protocol: str, rest: str) -> int:
    """Return how many characters behind `://` are credentials."""
    match = _PASSWORD.match(rest) or (None if protocol in _NAMING else _USER.match(rest))
    return match.end() if match else 0


def _missing_package(protocol: str) -> str:
    from fsspec.registry import known_implementations

    package = known_implementations.get(protocol, {}).get("class", "fsspec").partition(".")[0]
    if package == "fsspec":  # brings the file system itself, which wants something else
        return f"{protocol}:// needs a package that is not installed"
    return f"{protocol}:// needs {package}: pip install {package}"
