"""Old results that a new run replaces: set aside until it has evaluated an image, and brought back if it never does.

A provider may fail with its first batch, every image may be refused: then nothing would be left but the wish. What is set aside
lies in a hidden folder below the results, on the same disk. A process that is killed at any moment leaves enough to go on from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from qcam.common.errors import QcamError
from qcam.evaluate.results.parts import PARTS

_ASIDE = ".replaced"
#: What begins the name of results that are being deleted.
_FORGOTTEN = ".forgotten"
#: Says that everything was set aside: what lies in the folder since then is the new run's.
_WHOLE = ".whole"


class ReplacedResults:
    """The results that were in a folder before.

    Attributes:
        there: Whether some are set aside.
        whole: Whether all are: what lies in the folder since then is the new run's.
    """

    def __init__(self, folder: Path, ours: Callable[[], Sequence[str]]) -> None:
        """Take the result folder.

        Args:
            folder: The folder.
            ours: Returns the names of this program's files in it, at any depth, parts left out.
        """
        self._folder = folder
        self._ours = ours
        self._aside = folder / _ASIDE

    @property
    def there(self) -> bool:
        """Tell whether results are set aside."""
        return self._aside.is_dir()

    @property
    def whole(self) -> bool:
        """Tell whether everything was set aside, and nothing brought back yet."""
        return (self._aside / _WHOLE).exists()

    def set_aside(self) -> None:
        """Set the results aside.

        Raises:
            QcamError: If the disk refuses.
        """
        try:
            (self._aside / PARTS).mkdir(parents=True)
            for name in self._ours():
                self._move(self._folder / name, self._aside / name)
            if (self._folder / PARTS).is_dir():
                (self._folder / PARTS).replace(self._aside / PARTS)
            (self._aside / _WHOLE).touch()
        except OSError as error:
            raise self._refused(error) from error

    def bring_back(self) -> None:
        """Put the old results where they were, in place of what the new run has left.

        Raises:
            QcamError: If the disk refuses; the same command goes on.
        """
        try:
            if self.whole:
                for name in self._ours():
                    (self._folder / name).unlink(missing_ok=True)
                shutil.rmtree(self._folder / PARTS, ignore_errors=True)
                (self._aside / _WHOLE).unlink()
            if (self._aside / PARTS).is_dir() and any((self._aside / PARTS).iterdir()):
                (self._aside / PARTS).replace(self._folder / PARTS)
            for path in sorted(self._aside.rglob("*")):
                if path.is_file():
                    self._move(path, self._folder / path.relative_to(self._aside))
            shutil.rmtree(self._aside)
        except OSError as error:
            raise self._refused(error) from error

    def forget(self) -> None:
        """Delete the old results: at once for whoever looks, and then as far as the disk lets.

        Raises:
            QcamError: If the disk does not even rename.
        """
        try:
            if self.there:
                self._aside.rename(self._folder / f"{_FORGOTTEN}-{os.urandom(4).hex()}")
        except OSError as error:
            raise self._refused(error) from error
        for folder in self._folder.glob(f"{_FORGOTTEN}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)

    def _refused(self, error: OSError) -> QcamError:
        return QcamError(
            f"cannot replace the results in {self._folder}: {error.strerror or error}; the old ones are in {_ASIDE} there"
        )
