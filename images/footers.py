"""Footers of Parquet files are read in a child process first: damaged ones make Arrow's reader abort, and its process with it.

The child gets the bytes of every footer, one after the other, and looks at all that a footer says; what it survives is opened
here, by those very bytes. Nothing else of it is believed.

    python -m qcam.images.footers      # the child: 8 bytes of length and a footer on its input, a line for each on its output
"""

from __future__ import annotations

import io
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from qcam.common.errors import ImageSetError, QcamError, first_line
from qcam.common.files import sha256_bytes
from qcam.common.printable import printable
from qcam.common.storage import Location, open_binary, reason, shown

#: Largest footer that is read, in bytes.
MAX_FOOTER = 64 << 20
#: Seconds in which the child has to look at one.
DEADLINE = 60.0
_MAGIC = b"PAR1"
_GOOD = b"good\n"


class TooLargeFooterError(OSError):
    """A footer has more bytes than are read."""


def refuse_deadly(locations: Sequence[Location]) -> list[str]:
    """Refuse the first Parquet file whose footer cannot be read, or ends the process that reads it.

    Args:
        locations: The files.

    Returns:
        The SHA-256 of each footer that was looked at: a file may have another one by the time it is opened (`checked_footer`).

    Raises:
        ImageSetError: Names the file.
    """
    if not locations:
        return []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "ARROW_IO_THREADS": "1"}
    command = [sys.executable, "-m", "qcam.images.footers"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    try:
        given = _Given(child, locations)
        for location in locations:
            wrong = given.next_wrong()
            if wrong:
                raise ImageSetError(f"cannot list {shown(location)} as a Parquet file: {wrong}; write it again")
        return given.seen
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class _Given:
    """Footers that a thread reads and gives to the child, ahead of its answers, which come in the same order.

    Attributes:
        seen: The SHA-256 of each footer that was given.
    """

    def __init__(self, child: subprocess.Popen[bytes], locations: Sequence[Location]) -> None:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the child has no pipes")
        self.seen: list[str] = []
        self._child, self._into, self._out = child, child.stdin, child.stdout.fileno()
        self._error: QcamError | None = None
        self._answers = b""
        self._answered = 0
        threading.Thread(target=self._give, args=(locations,), daemon=True).start()

    def _give(self, locations: Sequence[Location]) -> None:
        try:
            for location in locations:
                footer = _footer(location)
                self.seen.append(sha256_bytes(footer))
                self._into.write(len(footer).to_bytes(8, "little") + footer)
                self._into.flush()
        except QcamError as error:
            self._error = error
        except (OSError, ValueError):  # the child has ended, and its answers say how; or nobody asks any more
            pass
        finally:
            with suppress(OSError):
                self._into.close()

    def next_wrong(self) -> str:
        """Return what is wrong with the next footer, empty if nothing is.

        Raises:
            QcamError: If it could not be read.
        """
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._answers:
                ready = waiting.select(DEADLINE)
                if not ready and len(self.seen) > self._answered:
                    return f"reading its footer takes more than {DEADLINE:.0f} seconds"
                piece = os.read(self._out, 1 << 16) if ready else b""
                if ready and not piece:
                    break
                self._answers += piece
        answer, _, self._answers = self._answers.partition(b"\n")
        self._answered += 1
        if answer + b"\n" == _GOOD:
            return ""
        if answer:
            return printable(answer.decode("utf-8", "replace").strip()) or "its footer is damaged"
        if self._error is not None and len(self.seen) < self._answered:
            raise self._error
        code = self._child.wait()
        return f"reading its footer ended the reader ({f'signal {-code}' if code < 0 else f'exit code {code}'})"


def checked_footer(stream: IO[bytes], sha256: str) -> Any:
    """Return the metadata of an open Parquet file, if its footer is still the one that was looked at.

    Args:
        stream: The file.
        sha256: From `refuse_deadly`.

    Raises:
        OSError: If it is another one by now, or none.
    """
    import pyarrow.parquet as pq

    footer = _read_footer(stream)
    if sha256_bytes(footer) != sha256:
        raise OSError("it has changed since it was listed")
    return pq.read_metadata(io.BytesIO(footer))


def _footer(location: Location) -> bytes:
    """Return a file's footer (`_read_footer`).

    Raises:
        ImageSetError: If there is none, or it is larger than is read.
    """
    try:
        with open_binary(location) as stream:
            return _read_footer(stream)
    except TooLargeFooterError as error:
        raise ImageSetError(f"cannot list {shown(location)} as a Parquet file: {error}") from error
    except QcamError:
        raise
    except Exception as error:  # file systems raise their own
        raise ImageSetError(f"cannot list {shown(location)} as a Parquet file: {reason(error)}; write it again") from error


def _read_footer(stream: IO[bytes]) -> bytes:
    """Return a file's footer, with the bytes that make it a file of its own.

    Raises:
        OSError: If there is none, or it is larger than is read.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - 8, 0))
    end = stream.read(8)
    length = int.from_bytes(end[:4], "little")
    if len(end) < 8 or end[4:] != _MAGIC or length > size - 12:
        raise OSError("it has no footer")
    if length > MAX_FOOTER:
        raise TooLargeFooterError(
            f"its footer has {length >> 20} MiB, more than {MAX_FOOTER >> 20}; write it with larger row groups"
        )
    stream.seek(size - 8 - length)
    return _MAGIC + stream.read(length) + end


def _look(footer: bytes) -> None:
    """Look at everything that a footer says."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(footer))
    about = file.metadata
    str(file.schema_arrow)
    for index in range(about.num_row_groups):
        group = about.row_group(index)
        for place in range(group.num_columns):
            column = group.column(place)
            _ = column.path_in_schema, column.total_uncompressed_size, column.encodings, column.has_dictionary_page


def _serve(given: IO[bytes], told: IO[bytes]) -> None:
    """Answer for each footer: good, or what is wrong with it."""
    while len(head := given.read(8)) == 8:
        footer = given.read(int.from_bytes(head, "little"))
        try:
            _look(footer)
        except Exception as error:  # Arrow's own; on damaged files nearly anything
            told.write(first_line(error).encode("utf-8", "replace")[:1000].replace(b"\n", b" ") + b"\n")
        else:
            told.write(_GOOD)
        told.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
