"""A web server on this machine's loopback: files and folders as a good one serves them, and ways of not doing so."""

from __future__ import annotations

import gzip
import hashlib
import html
import re
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

_TYPES = {".html": "text/html", "/": "text/html"}


class Site:
    """A server on a free port, for a `with` block.

    Attributes:
        files: Path without its first slash → content; folders are listed as pages of links.
        odd: Path → what answers instead.
        asked: How often each path was asked for.
        url: Where it is.
    """

    def __init__(self, files: dict[str, bytes] | None = None, odd: dict[str, Odd] | None = None) -> None:
        self.files, self.odd = files or {}, odd or {}
        self.asked: Counter[str] = Counter()
        self.over = threading.Event()
        site = self

        class Handler(Request):
            def do_GET(self) -> None:
                self.site = site
                path = unquote(urlsplit(self.path).path).lstrip("/")
                site.asked[path] += 1
                with_self = site.odd.get(path, good)
                try:
                    with_self(self)
                except OSError:  # who asked has had enough
                    self.close_connection = True

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Site:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: who asked has had enough."""


class Request(BaseHTTPRequestHandler):
    """A request, and what its answer is made with.

    Attributes:
        site: Who answers.
    """

    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    @property
    def name(self) -> str:
        """Return the path without its first slash."""
        return unquote(urlsplit(self.path).path).lstrip("/")

    @property
    def data(self) -> bytes:
        """Return what a good server would have for the path."""
        return self.site.files[self.name]

    def head(self, status: int, **headers: object) -> None:
        """Send status and headers; `Content_Length=5` is Content-Length: 5."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def send(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.wfile.write(data)
        self.wfile.flush()

    def endless(self, piece: bytes, pause: float) -> None:
        """Send a piece again and again until nobody listens."""
        while not self.site.over.wait(pause):
            self.send(piece)


#: What answers a request.
Odd = Callable[[Request], None]


def tag(data: bytes) -> str:
    """Return the entity tag of content."""
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


def serve(request: Request, data: bytes, **headers: object) -> None:
    """Answer with content as a good server does: by ranges, with an entity tag."""
    more = {"ETag": tag(data), "Accept_Ranges": "bytes"} | headers
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if match is None:
        request.head(200, Content_Length=len(data), **more)
        request.send(data)
        return
    start, stop = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
    if start >= len(data):
        request.head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
        return
    about = f"bytes {start}-{stop - 1}/{len(data)}"
    request.head(206, Content_Length=stop - start, Content_Range=about, **more)
    request.send(data[start:stop])


def page(links: list[str]) -> bytes:
    """Return a page that lists a folder, as Apache and nginx write it."""
    rows = "".join(f'<tr><td><a href="{html.escape(link)}">{html.escape(link)}</a></td></tr>\n' for link in links)
    sorting = '<a href="?C=N;O=D">Name</a> <a href="?C=M;O=A">Last modified</a>'
    return f'<html><body><h1>Index</h1>{sorting}<a href="../">Parent</a><table>\n{rows}</table></body></html>'.encode()


def good(request: Request) -> None:
    """Answer as a good server does."""
    name, files = request.name, request.site.files
    if name in files:
        serve(request, files[name])
        return
    folder = name.rstrip("/") + "/" if name else ""
    below = {path.removeprefix(folder) for path in files if path.startswith(folder)}
    if not below:
        request.head(404, Content_Length=0)
    elif name and not name.endswith("/"):
        request.head(301, Location=f"/{quote(name)}/", Content_Length=0)
    else:
        entries = sorted({path.partition("/")[0] + ("/" if "/" in path else "") for path in below})
        serve(request, page([quote(entry) for entry in entries]), Content_Type="text/html;charset=utf-8")


def broken(request: Request) -> None:
    """State a greater length than that of what comes, and hang up."""
    request.head(200, Content_Length=len(request.data) + 1000)
    request.send(request.data)
    request.close_connection = True


def short(request: Request) -> None:
    """State half the length."""
    request.head(200, Content_Length=len(request.data) // 2)
    request.send(request.data)
    request.close_connection = True


def lengthless(request: Request) -> None:
    """State no length, and hang up in the middle."""
    request.head(200, Connection="close")
    request.send(request.data[: len(request.data) // 2])
    request.close_connection = True


def stated(length: object) -> Odd:
    """State a length that is none, or far more than anybody sends; send without an end."""

    def answer(request: Request) -> None:
        request.head(200, Content_Length=length)
        request.endless(bytes(1 << 20), 0.0)

    return answer


def endless(request: Request) -> None:
    """Send chunks without an end."""
    request.head(200, Transfer_Encoding="chunked")
    piece = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    request.endless(piece, 0.0)


def slow(request: Request) -> None:
    """Send a byte a second."""
    request.head(200, Content_Length=len(request.data))
    for byte in request.data:
        request.send(bytes([byte]))
        if request.site.over.wait(1.0):
            return


def silent(request: Request) -> None:
    """Never answer."""
    request.site.over.wait()
    request.close_connection = True


def stopped(request: Request) -> None:
    """Send half, then nothing more."""
    request.head(200, Content_Length=len(request.data))
    request.send(request.data[: len(request.data) // 2])
    request.site.over.wait()


def redirected(target: str) -> Odd:
    """Send elsewhere."""

    def answer(request: Request) -> None:
        request.head(302, Location=target, Content_Length=0)

    return answer


def failing(status: int) -> Odd:
    """Answer with an error."""

    def answer(request: Request) -> None:
        request.head(status, Content_Length=0)

    return answer


def _bomb() -> bytes:
    """Return 1 GiB of zeros in 1 MiB."""
    return gzip.compress(bytes(1 << 24)) * 64


def bomb(request: Request) -> None:
    """Send zeros that are a thousand times as large unpacked, whatever was asked for."""
    data = _bomb()
    request.head(200, Content_Length=len(data), Content_Encoding="gzip")
    request.send(data)


def squeezed(request: Request) -> None:
    """Send the right content, compressed though nobody asked for it."""
    data = gzip.compress(request.data)
    request.head(200, Content_Length=len(data), Content_Encoding="gzip")
    request.send(data)


def rangeless(request: Request) -> None:
    """Send the whole file, whatever part was asked for."""
    request.head(200, Content_Length=len(request.data))
    request.send(request.data)


def beside(request: Request) -> None:
    """Send other bytes of the file than those that were asked for, and say so."""
    request.head(206, Content_Length=10, Content_Range=f"bytes 1-10/{len(request.data)}")
    request.send(request.data[1:11])


def chatter(request: Request) -> None:
    """Answer with what is no HTTP."""
    request.send(b"\x1b[31mhello\r\n\r\n")
    request.close_connection = True


def then(times: int, data: bytes) -> Odd:
    """Serve well so many times, then another content under the same name."""

    def answer(request: Request) -> None:
        first = request.site.asked[request.name] <= times
        serve(request, request.data if first else data)

    return answer


def listing(*links: str) -> Odd:
    """List a folder so."""

    def answer(request: Request) -> None:
        serve(request, page(list(links)), Content_Type="text/html")

    return answer
