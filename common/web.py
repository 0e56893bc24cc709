"""Files and folders behind http:// and https://, read so that no server decides what a reading costs or whose file it is.

fsspec's session asks; what is here says what is asked for and what is taken for an answer. Servers that answer slowly, never
or without an end are given up; what is compressed, cut off, redirected to another host or changed in between is refused.
"""

from __future__ import annotations

import asyncio
import html
import io
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

from qcam.common.errors import QcamError
from qcam.common.printable import printable

if TYPE_CHECKING:
    from upath import UPath

#: Seconds within which an answer begins, and without a byte after which it counts as broken off.
SILENCE = 60.0
#: Bytes a second below which, on average and after those seconds, an answer counts as one that never ends.
SLOWEST = 16_000
#: Requests in a row that a host leaves without an answer before it is not asked any more for a while.
IN_A_ROW = 8
#: Redirects that are followed, all on the host that was named.
REDIRECTS = 5
#: Largest page that lists a folder, in bytes.
PAGE = 32 << 20
#: Most folders, most files, deepest folder and most seconds of one listing.
FOLDERS, FILES, DEPTH, LISTING = 10_000, 2_000_000, 32, 1800.0
#: Bytes that are read ahead in an archive.
_AHEAD = 4 << 20
#: Longest link in a page, in characters.
_LINK = 8192
_HREF = re.compile(r"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_ANCHOR = re.compile(r"<a\s", re.IGNORECASE)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")

Result = TypeVar("Result")


class ChangedError(OSError):
    """A file is not the one that was listed."""


class _Silence:
    """Hosts that leave requests without an answer: host → how many in a row, and when the last one was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[int, float]] = {}

    def refuse(self, host: str) -> None:
        """Refuse to ask a host that did not answer again and again just now.

        Raises:
            QcamError: Names the host.
        """
        with self._lock:
            count, last = self._hosts.get(host, (0, 0.0))
        if count >= IN_A_ROW and time.monotonic() - last < SILENCE:
            raise QcamError(f"{host} left {count} requests in a row without an answer in time; try again when it answers")

    def note(self, host: str, *, answered: bool) -> None:
        """Take note of how a request ended."""
        with self._lock:
            if answered:
                self._hosts.pop(host, None)
            else:
                self._hosts[host] = self._hosts.get(host, (0, 0.0))[0] + 1, time.monotonic()


_silence = _Silence()


class _Answer:
    """An answer whose body is read piece by piece, on fsspec's loop.

    Attributes:
        url: Where it came from, redirects followed.
        status: 200 or 206.
        size: Bytes of the whole file; None where the server does not say.
        length: Bytes of the body; None where the server does not say.
        start: First byte of the body in the file.
        state: What changes with the file: entity tag, time of change and size, as far as the server tells them.
        media: Media type, in lower case.
    """

    def __init__(self, response: Any, asked: int | None) -> None:
        headers = response.headers
        self._response, self._received, self._waited = response, 0, 0.0
        self.url, self.status = str(response.url), response.status
        self.media = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        coding = headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise OSError(f"the server answers with Content-Encoding {printable(coding)[:40]}, which was not asked for")
        self.length = int(headers["Content-Length"]) if "Content-Length" in headers else None
        self.size, self.start = self.length, 0
        if self.status == 206:
            self._take_range(headers.get("Content-Range", ""), asked)
        elif self.length is None and "chunked" not in headers.get("Transfer-Encoding", "").lower():
            raise OSError("the server says neither how long it is nor where it ends")
        tags = (headers.get("ETag", ""), headers.get("Last-Modified", ""), "" if self.size is None else str(self.size))
        self.state = " ".join(tags)

    def _take_range(self, text: str, asked: int | None) -> None:
        match = _RANGE.fullmatch(text.strip())
        if match is None or asked is None or int(match[1]) != asked or int(match[2]) < asked:
            raise OSError("the server answers with other bytes than those that were asked for")
        self.start, self.size = asked, None if match[3] == "*" else int(match[3])
        length = int(match[2]) - asked + 1
        if self.length not in (None, length) or (self.size is not None and int(match[2]) >= self.size):
            raise OSError("the server contradicts itself about how long it is")
        self.length = length

    async def read(self, wanted: int) -> bytes:
        """Return so many bytes, fewer only at the end.

        Raises:
            OSError: If they come too slowly, or the connection breaks off.
        """
        found = bytearray()
        while len(found) < wanted:
            loop = asyncio.get_running_loop()
            begin = loop.time()
            allowed = min(SILENCE, SILENCE + self._received / SLOWEST - self._waited)
            try:
                async with asyncio.timeout(max(allowed, 0.0)):
                    piece = await self._response.content.read(wanted - len(found))
            except TimeoutError:
                if self._received == 0 or allowed >= SILENCE:
                    raise TimeoutError(f"nothing came for {SILENCE:.0f} s, after {self._received:,} bytes") from None
                raise TimeoutError(f"{self._received:,} bytes in {self._waited + allowed:.0f} s: it comes too slowly") from None
            self._waited += loop.time() - begin
            if not piece:
                break
            self._received += len(piece)
            found += piece
        return bytes(found)

    def close(self) -> None:
        """Break the connection off; one whose body was read to its end is kept by the session."""
        self._response.close()


async def _ask(place: UPath, headers: Mapping[str, str], start: int | None) -> _Answer:
    """Ask for a file or a page, and take the head of the answer.

    Args:
        place: What is asked for.
        headers: Of the request.
        start: First byte that is asked for, if a part is.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the answer is none that can be taken.
    """
    from aiohttp import ClientTimeout
    from yarl import URL

    session = await place.fs.set_session()
    url = place.fs.encode_url(place.path)
    first = url
    for _ in range(REDIRECTS + 1):
        response = await session.get(
            url, headers={"Accept-Encoding": "identity", **headers}, allow_redirects=False, auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=SILENCE),
        )  # fmt: skip
        try:
            if response.status in (301, 302, 303, 307, 308):
                url = _followed(first, url.join(URL(response.headers.get("Location", ""))))
                response.close()
                continue
            if response.status in (404, 410):
                raise FileNotFoundError(place.path)
            if response.status == 416 and start is not None:
                raise EOFError
            if response.status not in (200, 206):
                raise OSError(f"the server answers {response.status}")
            return _Answer(response, start)
        except BaseException:
            response.close()
            raise
    raise OSError(f"more than {REDIRECTS} redirects")


def _followed(first: Any, target: Any) -> Any:
    """Return where a redirect leads, if it stays on its host.

    Raises:
        OSError: If it does not.
    """
    same = target.host == first.host and (target.scheme, target.port) == (first.scheme, first.port)
    upgraded = target.host == first.host and (first.scheme, target.scheme) == ("http", "https")
    if not (same or upgraded):
        where = printable(f"{target.scheme}://{target.host or ''}")[:200]
        raise OSError(f"it is redirected to {where}, another place than the one that was named; give that URL")
    return target.with_fragment(None)


def _run(place: UPath, task: Callable[[], Awaitable[Result]], *, ends: bool = True) -> Result:
    """Run a task on fsspec's loop, and take note of whether the host answers.

    Args:
        place: What is asked for.
        task: What is run.
        ends: Whether a body comes by it: a head alone is no answer, for the body may never come, and no silence.

    Raises:
        FileNotFoundError: As from the task.
        OSError: Whatever went wrong, in one line.
        QcamError: If the host has not answered again and again.
    """
    from aiohttp import ClientError
    from fsspec.asyn import sync

    address = urlsplit(place.path)
    host = f"{address.scheme}://{address.netloc}"
    _silence.refuse(host)
    try:
        found: Result = sync(place.fs.loop, task)
    except TimeoutError as error:
        _silence.note(host, answered=False)
        raise OSError(str(error.__cause__ or error) or f"no answer within {SILENCE:.0f} s") from error
    except (OSError, EOFError):
        _silence.note(host, answered=True)
        raise
    except (ClientError, ValueError) as error:
        _silence.note(host, answered=True)
        raise OSError(_broken(error)) from error
    if ends:
        _silence.note(host, answered=True)
    return found


def _broken(error: Exception) -> str:
    """Say what is wrong with an answer that the library does not take."""
    status = getattr(error, "status", None)
    if status:
        return "the server's answer is no HTTP" if status == 400 else f"the server answers {status}"
    kind = {"ClientPayloadError": "the connection broke off before the end"}.get(type(error).__name__)
    return kind or printable((str(error).splitlines() or [type(error).__name__])[0])[:200]


def _asked(place: UPath, headers: Mapping[str, str], start: int | None) -> _Answer:
    """Ask for a file or a page, and take the head of the answer; errors as from `_run`."""

    async def begin() -> _Answer:
        async with asyncio.timeout(SILENCE):
            return await _ask(place, headers, start)

    return _run(place, begin, ends=False)


def _closed(place: UPath, answer: _Answer) -> None:
    place.fs.loop.call_soon_threadsafe(answer.close)


def whole(place: UPath, piece: int) -> Generator[bytes, None, None]:
    """Read a file from its beginning to its end, by one request.

    Args:
        place: The file.
        piece: Bytes that are yielded at a time.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read to its end.
        QcamError: If the host has not answered again and again.
    """
    answer = _asked(place, {}, None)
    try:
        while True:
            data = _run(place, lambda: answer.read(piece))
            if data:
                yield data
            if len(data) < piece:
                return
    finally:
        _closed(place, answer)


def part(place: UPath, start: int, stop: int, state: str = "") -> bytes:
    """Read bytes of a file; fewer where it ends before.

    Args:
        place: The file.
        start: The first.
        stop: Behind the last.
        state: What the file was when it was listed (`about`); empty for any.

    Raises:
        ChangedError: If it is another file than that.
        FileNotFoundError: If there is none any more.
        OSError: If it cannot be read.
        QcamError: If the host has not answered again and again.
    """
    if stop <= start:
        return b""
    try:
        answer = _asked(place, {"Range": f"bytes={start}-{stop - 1}"}, start)
    except EOFError:
        return b""
    try:
        if answer.status == 200 and start:
            raise OSError("the server does not keep to byte ranges")
        if state and answer.state != state:
            raise ChangedError("it has changed since it was listed")
        wanted = stop - start
        if answer.status == 206 and answer.length is not None:
            if answer.length > wanted:
                raise OSError("the server does not keep to byte ranges")
            if answer.length < wanted and answer.size not in (None, start + answer.length):
                raise OSError("the server answers with other bytes than those that were asked for")
        data = _run(place, lambda: answer.read(wanted))
        if answer.status == 206 and len(data) != answer.length:
            raise OSError("the connection broke off before the end")
        return data
    finally:
        _closed(place, answer)


def about(place: UPath) -> tuple[int, str]:
    """Return the size of a file in bytes, and what changes when the file does.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the server does not say, or does not keep to byte ranges: then no archive can be read from it.
        QcamError: If the host has not answered again and again.
    """
    try:
        answer = _asked(place, {"Range": "bytes=0-0"}, 0)
    except EOFError:
        return 0, ""
    _closed(place, answer)
    if answer.status != 206 or answer.size is None:
        raise OSError("the server does not keep to byte ranges, by which archives are read; fetch it, and give the file")
    return answer.size, answer.state


def is_file(place: UPath) -> bool:
    """Tell whether a file is there; False also where that cannot be told."""
    try:
        answer = _asked(place, {"Range": "bytes=0-0"}, 0)
    except EOFError:
        return True
    except OSError:
        return False
    _closed(place, answer)
    return not urlsplit(answer.url).path.endswith("/")


class WebFile(io.RawIOBase):
    """A file that is read at any place, each time by a request.

    Attributes:
        state: What the file was when it was opened: another one is not read (`ChangedError`).
    """

    def __init__(self, place: UPath, state: str = "") -> None:
        """Ask how large the file is.

        Args:
            place: The file.
            state: What it has to be; empty for whatever it is now.

        Raises:
            ChangedError: If it is another one.
            OSError: As from `about`.
        """
        super().__init__()
        self._place, self._position = place, 0
        self._size, self.state = about(place)
        if state and state != self.state:
            raise ChangedError("it has changed since it was listed")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it is read at any place."""
        return True

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; return it."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read on; return how many bytes there were.

        Raises:
            OSError: As from `part`; if the file ends before it said it would.
        """
        stop = min(self._position + len(buffer), self._size)
        data = part(self._place, self._position, stop, self.state)
        if len(data) < stop - self._position:
            raise OSError(f"the file ends at byte {self._position + len(data)}, before byte {self._size}")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def opened(place: UPath, state: str = "") -> io.BufferedReader:
    """Open a file to be read at any place; arguments and errors as of `WebFile`."""
    return io.BufferedReader(WebFile(place, state), _AHEAD)


def files_below(folder: UPath) -> dict[str, UPath]:
    """List all files below a folder that a server lists as pages of links, at any depth.

    Links that lead out of the folder, sort it or lead into pages are passed over.

    Returns:
        Name below the folder, with forward slashes → the file, sorted by name; empty if there is no such folder.

    Raises:
        OSError: If it cannot be listed, a name can be none of a file, or there is no end to it.
        QcamError: If the host has not answered again and again.
    """
    from upath import UPath

    root = UPath(folder.path.rstrip("/") + "/")
    pending: deque[tuple[UPath, str, int]] = deque([(root, "", 0)])
    found: dict[str, UPath] = {}
    begun, pages = time.monotonic(), 0
    while pending:
        place, prefix, depth = pending.popleft()
        pages += 1
        if depth > DEPTH or pages > FOLDERS:
            raise OSError(f"more than {DEPTH} folders deep" if depth > DEPTH else f"more than {FOLDERS:,} folders")
        if time.monotonic() - begun > LISTING:
            raise OSError(f"listing takes more than {LISTING:.0f} s")
        try:
            base, page = _page(place)
        except FileNotFoundError:
            if prefix:
                raise OSError(f"{prefix} is listed and not there") from None
            return {}
        for name, address in _entries(base, page).items():
            if name.endswith("/"):
                pending.append((UPath(address), prefix + name, depth + 1))
            else:
                found[prefix + name] = UPath(address)
        if len(found) > FILES:
            raise OSError(f"more than {FILES:,} files")
    return dict(sorted(found.items()))


def _page(place: UPath) -> tuple[str, str]:
    """Return the address and the text of a page; no text of what is none."""
    answer = _asked(place, {}, None)
    try:
        if answer.media not in ("text/html", "application/xhtml+xml"):
            return answer.url, ""
        data = _run(place, lambda: answer.read(PAGE + 1))
        if len(data) > PAGE:
            raise OSError(f"its page has more than {PAGE >> 20} MiB")
        return answer.url, data.decode("utf-8", "replace")
    finally:
        _closed(place, answer)


def _entries(base: str, page: str) -> dict[str, str]:
    """Return what a page lists of its own folder: name, with a slash behind that of a folder → address.

    Raises:
        OSError: If a name can be none of a file.
    """
    above = urlsplit(base)._replace(query="", fragment="").geturl().rpartition("/")[0] + "/"
    found: dict[str, str] = {}
    for link in _links(page):
        try:
            address = urlsplit(urljoin(above, link))
        except ValueError:  # brackets that are no address
            continue
        rest = address._replace(query="", fragment="").geturl().removeprefix(above)
        if not address.geturl().startswith(above) or address.query or not rest.strip("/") or "/" in rest[:-1]:
            continue
        raw = unquote_to_bytes(rest.removesuffix("/"))
        name = raw.decode("utf-8", "backslashreplace")
        if name in (".", "..") or "/" in name or not name.isprintable():
            raise OSError(f"it lists {ascii(name)[:80]}, which can be no name of a file")
        slash = "/" if rest.endswith("/") else ""
        found.setdefault(name + slash, above + quote(raw) + slash)
    return found


def _links(page: str) -> Iterator[str]:
    """Yield where the links of a page lead, as it stands there; in time proportional to its length, whatever it holds."""
    position = 0
    while (match := _ANCHOR.search(page, position)) is not None:
        end = page.find(">", match.end(), match.end() + _LINK)
        position = end + 1 if end >= 0 else match.end() + _LINK
        target = _HREF.search(page, match.end() - 1, end) if end >= 0 else None
        if target is not None:
            yield html.unescape(target[1] or target[2] or target[3] or "").strip()
