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
from contextlib import suppress
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
    places = [_LARGE_FILES]
    with suppress(OSError):  # where there is none at all
        places.insert(0, Path(tempfile.gettempdir()))
    for place in places:
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
        self._full = False
        self.closed = False

    @property
    def shared(self) -> bool:
        """Tell whether other processes may use the copies."""
        return self._folder is not None and self._remove is None

    def place(self, name: str) -> Path | None:
        """Return the folder of a copy that is there whole; None if there is none."""
        if self._folder is None or not (self._folder / name / GRAPH).exists():
            return None
        return self._folder / name

    def of(self, facts: Mapping[str, object]) -> PackedCopy:
        """Return the copy, made or not, of a file; facts are all that decides on what ONNX Runtime makes of it."""
        return PackedCopy(self, fingerprint(facts))

    def room(self, bytes_: int) -> Path | None:
        """Return the folder if its disk has room for the copy of a file; otherwise none is written any more, which is told.

        Args:
            bytes_: The file's size, with all that belongs to it.
        """
        if self._full or self.closed:
            return None
        if self._folder is None:
            self._folder = new_folder()
            if self._folder is None:
                self._stop("no folder for temporary files lies on a disk that can be written; TMPDIR names another one")
                return None
            self._remove = weakref.finalize(self, remove_folder, self._folder)
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            self._stop(f"{self._folder}: {error.strerror or error}")
            return None
        if free < bytes_ * _LARGEST + _LEFT_FREE:
            self._stop(f"{self._folder.parent} has {free >> 20} MiB left; TMPDIR names another place")
            return None
        return self._folder

    def close(self) -> None:
        """Make and use no copy from here on, and remove the folder if it is this process's own."""
        self.closed = True
        if self._remove is not None:
            self._remove()

    def _stop(self, why: str) -> None:
        self._full = True
        telling.note(f"networks are opened for their turns from their own files, which takes longer: {why}")


class PackedCopy:
    """One file's copy: being written, there, or not to be used."""

    def __init__(self, copies: PackedCopies, name: str) -> None:
        """Write nothing yet; see `PackedCopies.of`."""
        self._copies = copies
        self._name = name
        self._writing: Path | None = None
        self._place: Path | None = None
        self._refused = False
        self._expected = ""
        self._proven: object = None

    @property
    def usable(self) -> bool:
        """Tell whether a session may be opened from it; another process may have written it meanwhile."""
        if self._refused or self._copies.closed or not self._expected:
            return False
        if self._place is None:
            self._place = self._copies.place(self._name)
        return self._place is not None

    @property
    def proven(self) -> bool:
        """Tell whether it has given the same bits as its file, and its files are still those that did."""
        return self._proven is not None and self._proven == self._files()

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
        self._place = self._copies.place(self._name)
        if self._place is not None:
            return
        folder = self._copies.room(bytes_)
        if folder is None or any(folder.glob(f".writing-{self._name}-*")):  # one of them is enough
            return
        try:
            self._writing = Path(tempfile.mkdtemp(prefix=f".writing-{self._name}-", dir=folder))
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
        same = digest(values) == self._expected
        self._proven = self._files() if same else None
        return same

    def refuse(self, path: Path, why: str) -> None:
        """Not be used any more; that is told.

        Args:
            path: The user's file.
            why: The reason.
        """
        self.abandon()
        self._refused = True
        if self._place is not None and not self._copies.shared:  # others prove it for themselves
            remove_folder(self._place)
        self._place = None
        telling.note(
            f"{path}: it is opened itself for every turn, not a copy with packed weights, which takes longer and gives the "
            f"same figures: {why}"
        )

    def _files(self) -> object:
        """Return what tells the copy's files from others in their place."""
        if self._place is None:
            return None
        found = [os.stat(self._place / name) for name in sorted(os.listdir(self._place))]
        return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]
