"""Where the results of a study go: a folder, or the local copy of one behind a URL; both are used in one way.

A place is empty, or holds results: of this plan, of another, finished or not, as they were written or not. Old results that are
replaced stay until the new run has evaluated an image (`replaced.py`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcam.common import telling
from qcam.common.errors import QcamError
from qcam.common.files import sha256_bytes, sha256_file, write_atomically
from qcam.common.storage import Location
from qcam.evaluate.results.clipping import CLIPPING
from qcam.evaluate.results.folder import (
    IMAGES,
    MAPS,
    PICTURES,
    PLACEMENT,
    PROFILE,
    REFERENCES,
    REPORT,
    RESULTS,
    RUN,
    SUMMARY,
    TABLE,
    Results,
    unlike,
    write_run,
)
from qcam.evaluate.results.parts import PARTS, PartStore, holds_figures, remove_leftovers
from qcam.evaluate.results.records import RunRecord
from qcam.evaluate.results.replaced import ReplacedResults

if TYPE_CHECKING:
    from qcam.evaluate.results.remote import RemoteFolder

#: What a complete run has left.
FILES = (RESULTS, REFERENCES, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY, PLACEMENT)
#: What is said of complete results; of others it is not true any more.
VERDICTS = VERDICT_MD, VERDICT_JSON, JUNIT_XML = "verdict.md", "verdict.json", "junit.xml"
_DRAWN = (
    *VERDICTS,
    "grid-*.png", "figures/overview.*", "figures/distribution-*", "figures/depth-*", "figures/clipping-*", "figures/grid-*",
)  # fmt: skip


class ResultPlace:
    """A place for the results of one study.

    Attributes:
        folder: Where files are written: the place itself, or its local copy.
        parts: The finished shards.
        kept_old: Whether results that were to be replaced came back, since nothing was evaluated.
    """

    def __init__(self, folder: Path, remote: RemoteFolder | None = None) -> None:
        """Take a folder.

        Args:
            folder: Where results go.
            remote: The place behind a URL whose copy the folder is, if it is one.
        """
        self.folder = folder
        self.parts = PartStore((remote.location if remote else folder.absolute()) / PARTS)
        self.kept_old = False
        self._remote = remote
        self._old = ReplacedResults(folder, self._ours)
        self._written: dict[str, str] = {}

    def __str__(self) -> str:
        """Return the place for messages: a path, or a URL without credentials."""
        return str(self.folder) if self._remote is None else str(self._remote)

    def beside(self) -> str:
        """Return a folder beside this one that is free, as far as can be seen."""
        if self._remote is not None:
            return f"{self}-2"
        number = 2
        while (free := self.folder.with_name(f"{self.folder.name}-{number}")).exists():
            number += 1
        return str(free)

    @property
    def record(self) -> Location:
        """Return where the record of the run is, for whoever else writes parts."""
        return self.folder.absolute() / RUN if self._remote is None else self._remote.location / RUN

    @property
    def holds_results(self) -> bool:
        """Tell whether there are results or parts, with or without a record."""
        return bool({RESULTS, SUMMARY} & self.names() or self.parts.listing() or self.parts.outdated())

    def names(self) -> set[str]:
        """Return the names of all files there."""
        if self._remote is not None:
            return self._remote.names()
        return {path.relative_to(self.folder).as_posix() for path in self._files()}

    def fetch(self) -> None:
        """Make the local copy's record and image list those of the place; what belongs to another run vanishes here.

        Raises:
            QcamError: If the place cannot be read.
        """
        if self._remote is None:
            return
        path = self.folder / RUN
        held = path.read_bytes() if path.exists() else b""
        self._remote.pull(self.folder, (RUN,))
        if not path.exists() or path.read_bytes() != held:  # the copy is another run's
            self._delete_local()
            self._remote.pull(self.folder, (RUN,))
        self._remote.pull(self.folder, (IMAGES,))

    def recover(self) -> None:
        """Finish what a killed process began: results that it had set aside come back, unless its own have begun.

        The folder has to be this process's alone (`exclusive`).

        Raises:
            QcamError: If the disk refuses.
        """
        if self._old.there:
            if self._old.whole and self.has_figures():
                self._old.forget()
            else:
                self._old.bring_back()

    def take_over(self, record: RunRecord) -> None:
        """Go on from the files of an earlier run of the same plan, as its record says they were written."""
        self._written = {} if record.files is None else dict(record.files)

    def is_damaged(self, record: RunRecord) -> bool:
        """Name those files of complete results that are gone, or not what the run wrote; tell whether there are any."""
        files = record.files
        # Earlier versions made no reference rows, and did not count what is clipped.
        wanted = [name for name in FILES if name not in (REFERENCES, CLIPPING) or name in (files or {})]
        gone = sorted(set(wanted) - self.names())
        for name in gone:
            telling.warn(f"{self}/{name} is gone; the results are computed again")
        if gone:
            return True
        if self._remote is not None:
            paths = {name: self.folder / name for name in wanted}
            stale = {n: not path.exists() if files is None else unlike(path, files.get(n)) for n, path in paths.items()}
            self._remote.pull(self.folder, [name for name, wrong in stale.items() if wrong])
        if files is None:
            telling.note(f"{self} holds results of an earlier version, without checksums: they are not verified")
            return False
        wrong = [(name, why) for name in wanted if (why := unlike(self.folder / name, files.get(name)))]
        for name, why in wrong:
            telling.warn(f"{self}/{name} {why}; the results are computed again")
        return bool(wrong)

    def begin(self, *, anew: bool) -> None:
        """Make the place this run's.

        Args:
            anew: Whether what is there is replaced, rather than gone on from.

        Raises:
            QcamError: If the disk refuses.
        """
        # What an earlier, interrupted run has joined stays readable until it is joined anew.
        self._written = {} if anew else {n: held for n, held in self._written.items() if not unlike(self.folder / n, held)}
        if anew:
            self._replace()
        else:
            remove_leftovers(self.folder)
            self.forget_verdicts()
        outdated = self.parts.outdated()
        for path in outdated:
            self.parts.delete(path)
        if outdated:
            telling.note(f"{len(outdated)} parts of an earlier version carry no checksum: their shards are done again")

    def forget_verdicts(self) -> None:
        """Delete the verdict of an earlier run, also behind a URL: it judges other results, or nobody asks for one any more.

        Raises:
            QcamError: If the disk refuses.
        """
        for name in VERDICTS:
            try:
                (self.folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise QcamError(f"{self}/{name} is an earlier run's verdict and cannot be deleted: {error.strerror}") from error
        if self._remote is not None:
            self._remote.delete(VERDICTS)

    @property
    def replaces(self) -> bool:
        """Tell whether old results are set aside, and no image was evaluated yet."""
        return self._old.there

    def has_figures(self, place: str | None = None) -> bool:
        """Tell whether some image was evaluated; of one shard, if its place is given (`PlannedPart.place`)."""
        listing = self.parts.listing()
        some = listing.values() if place is None else [listing.get(place, [])]
        return any(holds_figures(path) for paths in some for path in paths)

    def forget_old(self) -> None:
        """Delete the results that were set aside."""
        self._old.forget()

    def keep_old(self) -> None:
        """Bring back the results that were set aside, if there are any still."""
        if self._old.there:
            self._old.bring_back()
            self.kept_old = True
            telling.note(f"{self} holds what it held before")

    def write(self, name: str, text: str) -> None:
        """Write a file of the results, and take note of its checksum."""
        data = text.encode()
        write_atomically(self.folder / name, data)
        self._written[name] = sha256_bytes(data)

    def wrote(self, files: Mapping[str, str]) -> None:
        """Take note of files that were written, by name, with their checksums."""
        self._written |= files

    def wrote_images(self) -> None:
        """Take note of the image list, and bring it where it belongs."""
        self._written[IMAGES] = sha256_file(self.folder / IMAGES)
        if self._remote is not None:
            self._remote.push(self.folder, (IMAGES,))

    def write_record(self, record: dict[str, Any]) -> None:
        """Write the record of the run, with the checksums of all files."""
        write_run(self.folder / RUN, record | {"files": dict(sorted(self._written.items()))})
        if self._remote is not None and not record["complete"]:  # once complete, it comes after all it speaks of: see `publish`
            self._remote.push(self.folder, (RUN,))

    def results(self) -> Results:
        """Read the results back, as far as they are asked for."""
        return Results(self.folder)

    def finish(self) -> None:
        """Delete the parts of complete results, unless a push could still be mended from them."""
        if self._remote is None:
            self.parts.clear()

    def publish(self, *, complete: bool, anew: bool) -> None:
        """Bring the finished results to where they belong, if this folder is a copy of a place behind a URL.

        Args:
            complete: Whether the results are complete: then the parts have served.
            anew: Whether this process wrote the data files: what was pulled needs no pushing.

        Raises:
            QcamError: If the place refuses.
        """
        if self._remote is None:
            return
        self._remote.push_all(self.folder, last=RUN, but=set() if anew else set(FILES))
        if complete:  # not before: they are all that a failed push could be mended from
            self.parts.clear()

    def _replace(self) -> None:
        """Take this program's own files from where results go; anything else there is not ours to take.

        Local ones are set aside until the new run has evaluated an image. A place behind a URL cannot rename.
        """
        remove_leftovers(self.folder)
        if self._remote is not None:
            self._delete_local()
            self.parts.clear()
            self._remote.delete(sorted(name for name in self._remote.names() if _is_ours(name)))
        elif self._ours() or self.parts.listing() or self.parts.outdated():
            self._old.set_aside()

    def _ours(self) -> list[str]:
        """Return the names of this program's own files in the folder, parts left out."""
        names = [path.relative_to(self.folder).as_posix() for path in self._files()]
        return [name for name in names if _is_ours(name)]

    def _delete_local(self) -> None:
        """Remove this program's own files from the folder."""
        remove_leftovers(self.folder)
        for name in self._ours():
            (self.folder / name).unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Return the files in the folder and in figures/ below it; it may be a large one that holds all sorts of things."""
        patterns = ("*",) if (self.folder / "figures").is_symlink() else ("*", "figures/*")  # behind a link nothing is ours
        return [path for pattern in patterns for path in self.folder.glob(pattern) if path.is_file()]


def _is_ours(name: str) -> bool:
    """Tell whether a file of a result folder, named below it, was written by this program."""
    return name in (*FILES, RUN, TABLE, REPORT, PROFILE, "table.csv", "table.tex") or any(
        fnmatch.fnmatchcase(name, pattern) for pattern in _DRAWN
    )
