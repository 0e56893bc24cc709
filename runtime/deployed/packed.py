"""What ONNX Runtime makes of a file, written down with its weights packed for its kernels: sessions are opened again from it.

A session packs the weights of its file each time it is made. Where it is closed and opened again many times, ONNX Runtime
writes its own optimized graph and the packed weights into a temporary folder while the first session is made. Opened from
there, the weights are pages of a file: nothing is packed again, processes of one machine share them, and the system takes them
back when memory gets short. Placement comes from the user's own file; a copy takes its place only when it has given the same
bits (`session.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common import telling
from qcam.common.files import fingerprint
from qcam.common.machine import in_memory

#: A copy's graph, and what its weights are called beside it.
GRAPH, WEIGHTS = "packed.onnx", "packed.bin"
#: What makes ONNX Runtime write packed weights into a file of their own; from so many bytes on a weight goes there.
_SAVING = {
    "session.optimized_model_external_initializers_file_name": WEIGHTS,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}
#: Settings of users that a copy would get in the way of.
_IN_THE_WAY = re.compile("optimized_model|prepack|initializer|model_format|ort_model|ep[._]context", re.IGNORECASE)
_NOT_PACKED = ("int16", "uint16")
#: Most that a copy takes, as a multiple of its file: unpacked weights stay beside packed ones.
_LARGEST = 2.5
#: Bytes of a disk that copies leave free.
_LEFT_FREE = 1 << 30
#: For large files that are kept for a while; asked where the folder for temporary files lies in memory.
_LARGE_FILES = Path("/var/tmp")


def packable(provider: str, config: Mapping[str, str], codes: str) -> bool:
    """Tell whether sessions may be opened again from copies.

    Args:
        provider: Short name of the execution provider; what others make of a file is no graph that could be written down.
        config: The session configuration.
        codes: Type of the tap. ONNX Runtime packs no weights of 16 bits but makes floats of them in every run, which beside the
            pages of a file takes more memory at a time.
    """
    return provider == "CPU" and codes not in _NOT_PACKED and not any(_IN_THE_WAY.search(key) for key in config)


def new_folder() -> Path | None:
    """Make a folder for copies that nobody else can look into; None where there is no disk for temporary files."""
    for place in (Path(tempfile.gettempdir()), _LARGE_FILES):
        if place.is_dir() and not in_memory(place):
            try:
                return Path(tempfile.mkdtemp(prefix="qcam-packed-", dir=place))
            except OSError:
                continue
    return None


def remove_folder(folder: Path) -> None:
    """Remove a folder with copies; what another process has open goes when it is closed."""
    shutil.rmtree(folder, ignore_errors=True)


def digest(values: Iterable[NDArray[Any]]) -> str:
    """Return a fingerprint of arrays: of types, shapes and every bit."""
    found = hashlib.sha256()
    for value in values:
        found.update(f"{value.dtype.str} {value.shape};".encode())
        found.update(np.ascontiguousarray(value).data)
    return found.hexdigest()


class PackedCopies:
    """The copies of a run: in a folder that is made when the first is written, and removed with all of them."""

    def __init__(self, folder: Path | None = None) -> None:
        """Write nothing yet.

        Args:
            folder: A folder that workers of one run share, of one who removes it; None: one of this process.
        """
        self._folder = folder
        self._remove: Any = None
        self._why = ""

    @property
    def ended(self) -> bool:
        """Tell whether no copy is made or used any more."""
        return bool(self._why)

    def of(self, facts: Mapping[str, object]) -> PackedCopy:
        """Return the copy, made or not, of a file; facts are all that decides on what ONNX Runtime makes of it."""
        return PackedCopy(self, fingerprint(facts))

    def room(self, bytes_: int) -> Path | None:
        """Return the folder if its disk has room for the copy of a file; otherwise end, which is told.

        Args:
            bytes_: The file's size, with all that belongs to it.
        """
        if self.ended:
            return None
        if self._folder is None:
            self._folder = new_folder()
            if self._folder is None:
                self._end("no folder for temporary files lies on a disk that can be written; TMPDIR names another one")
                return None
            self._remove = weakref.finalize(self, remove_folder, self._folder)
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            self._end(f"{self._folder}: {error.strerror or error}")
            return None
        if free < bytes_ * _LARGEST + _LEFT_FREE:
            self._end(f"{self._folder.parent} has {free >> 20} MiB left; TMPDIR names another place")
            return None
        return self._folder

    def close(self) -> None:
        """Make and use no copy from here on, and remove the folder if it is this process's own."""
        self._why = self._why or "closed"
        if self._remove is not None:
            self._remove()

    def _end(self, why: str) -> None:
        self._why = why
        telling.note(f"networks are opened for their turns from their own files, which takes longer: {why}")


class PackedCopy:
    """One file's copy: being written, there, or not to be used.

    Attributes:
        proven: Whether it has given the same bits as its file.
    """

    def __init__(self, copies: PackedCopies, name: str) -> None:
        """Write nothing yet; see `PackedCopies.of`."""
        self._copies = copies
        self._name = name
        self._writing: Path | None = None
        self._place: Path | None = None
        self._expected = ""
        self.proven = False

    @property
    def usable(self) -> bool:
        """Tell whether a session may be opened from it."""
        return self._place is not None and bool(self._expected) and not self._copies.ended

    @property
    def graph(self) -> str:
        """Return the file to open.

        Raises:
            RuntimeError: If there is none.
        """
        if self._place is None:
            raise RuntimeError("there is no copy to open")
        return str(self._place / GRAPH)

    def begin(self, bytes_: int) -> None:
        """Be written by the next session that is made, unless another process has done so.

        Args:
            bytes_: Size of the file.
        """
        folder = self._copies.room(bytes_)
        if folder is None:
            return
        if (folder / self._name / GRAPH).exists():
            self._place = folder / self._name
            return
        try:
            self._writing = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        except OSError as error:
            telling.note(f"{folder}: no packed copy can be written, {error.strerror or error}")

    def prepare(self, options: Any) -> None:
        """Tell the options of a session to write the copy, if it is to be written.

        Args:
            options: ONNX Runtime's `SessionOptions`.
        """
        if self._writing is not None:
            options.optimized_model_filepath = str(self._writing / GRAPH)
            for key, value in _SAVING.items():
                options.add_session_config_entry(key, value)

    @property
    def writing(self) -> bool:
        """Tell whether the next session writes it."""
        return self._writing is not None

    def finish(self) -> None:
        """Put what was written in its place, whole; where another process was first, its copy stays."""
        written, self._writing = self._writing, None
        if written is None:
            return
        place = written.parent / self._name
        try:
            os.replace(written, place)
        except OSError:
            remove_folder(written)
        if (place / GRAPH).exists():
            self._place = place

    def abandon(self) -> None:
        """Remove what was written so far."""
        if self._writing is not None:
            remove_folder(self._writing)
            self._writing = None

    def expect(self, values: Iterable[NDArray[Any]]) -> None:
        """Take what the file itself gives for the pictures that the copy is shown."""
        self._expected = digest(values)

    def prove(self, values: Iterable[NDArray[Any]]) -> bool:
        """Tell whether the copy has given the same bits as the file."""
        self.proven = digest(values) == self._expected
        return self.proven

    def refuse(self, path: Path, why: str) -> None:
        """Not be used any more; that is told.

        Args:
            path: The user's file.
            why: The reason.
        """
        self.abandon()
        if self._place is not None:
            remove_folder(self._place)
            self._place = None
        telling.note(
            f"{path}: it is opened itself for every turn, not a copy with packed weights, which takes longer and gives the "
            f"same figures: {why}"
        )
