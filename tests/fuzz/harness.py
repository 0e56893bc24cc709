"""What a finding is: an input on which a door of qcam does anything but work, or refuse in one line within its budgets."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import pkgutil
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from qcam.common.errors import QcamError

#: Inputs that were found and stay, by target; committed.
CORPUS = Path(__file__).resolve().parent / "corpus"
#: Good files that inputs are made of; committed.
GOOD = Path(__file__).resolve().parent / "good"
#: Seconds and bytes that one input may take.
SECONDS, MEMORY = 10.0, 1 << 30
#: Longest message, in characters, that still is one line to read.
LONGEST = 8000
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Broken(Exception):
    """A promise that a door does not keep; its text says which, and is the same for all inputs that break it so."""

    def __init__(self, promise: str, detail: str = "") -> None:
        """Take the promise, and what is to be known of this input."""
        super().__init__(f"{promise}: {detail}" if detail else promise)
        self.promise = promise


@dataclass(frozen=True)
class Finding:
    """What is wrong with one input.

    Attributes:
        kind: What makes it the same as others: type and place of the exception, the promise, or the budget.
        told: The traceback, or what was measured.
    """

    kind: str
    told: str

    @property
    def key(self) -> str:
        """Return a name for files."""
        return hashlib.sha256(self.kind.encode("utf-8", "replace")).hexdigest()[:12]


@dataclass(frozen=True)
class Target:
    """A door, and what makes inputs for it.

    Attributes:
        name: Its name.
        one: Gives one input to the door.
        seeds: Returns good inputs.
        covered: The modules whose lines are counted.
    """

    name: str
    one: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    covered: tuple[str, ...]

    def corpus(self) -> list[Path]:
        """Return the inputs that were found and stay."""
        return sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())


#: In the order of their worth.
NAMES = ("mirror", "images", "parquet", "tar", "manifest", "results", "labels", "weights", "foreign")


def target(name: str) -> Target:
    """Load a target, and with it the modules of its door."""
    module: ModuleType = importlib.import_module(f"fuzz.targets.{name}")
    return Target(name, module.one, module.seeds, module.COVERED)


def known_targets() -> list[str]:
    """Return the names of the modules of targets."""
    package = importlib.import_module("fuzz.targets")
    return [found.name for found in pkgutil.iter_modules(package.__path__)]


def judged(one: Callable[[bytes], None], data: bytes) -> tuple[Finding | None, str]:
    """Give one input to a door.

    Returns:
        What is wrong, None if nothing is; and the message where the door refused the input.
    """
    refusal = ""
    before, start = _reset_peak(), time.process_time()
    try:
        one(data)
    except QcamError as error:
        refusal = str(error)
        if not refusal.strip() or len(refusal) > LONGEST:
            return Finding(
                f"a refusal of {'no' if not refusal.strip() else 'too many'} characters at {_place(error)}", refusal[:200]
            ), refusal
    except Broken as error:
        return Finding(error.promise, _told(error)), ""
    except MemoryError as error:
        return Finding(f"MemoryError at {_place(error)}", _told(error)), ""
    except Exception as error:
        return Finding(f"{type(error).__name__} at {_place(error)}", _told(error)), ""
    spent = time.process_time() - start
    if spent > SECONDS:
        return Finding(f"more than {SECONDS:g} s", f"{spent:.1f} s; {refusal}"), refusal
    taken = _peak() - before
    if taken > MEMORY:
        return Finding(f"more than {MEMORY >> 20} MiB", f"{taken >> 20} MiB; {refusal}"), refusal
    return None, refusal


def minimised(one: Callable[[bytes], None], data: bytes, kind: str, seconds: float = 20.0) -> bytes:
    """Return a smaller input with the same finding: pieces are left out, ever smaller ones, while time lasts."""
    late = time.monotonic() + seconds
    size = max(len(data) // 2, 1)
    while size and time.monotonic() < late:
        place = 0
        while place < len(data) and time.monotonic() < late:
            shorter = data[:place] + data[place + size :]
            found, _ = judged(one, shorter)
            if found is not None and found.kind == kind:
                data = shorter
            else:
                place += size
        size //= 2
    return data


_scratch: list[Path] = []


def scratch() -> Path:
    """Return a folder of this process for files, in memory where the system has such a place."""
    if not _scratch:
        memory = Path("/dev/shm")
        _scratch.append(Path(tempfile.mkdtemp(prefix="qcam-fuzz-", dir=memory if memory.is_dir() else None)))
        atexit.register(shutil.rmtree, _scratch[0], ignore_errors=True)
    return _scratch[0]


def _place(error: BaseException) -> str:
    """Return function and line of the innermost place inside qcam that an error passed."""
    frames = [
        (frame.f_globals.get("__name__", "?"), frame.f_code.co_name, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    inside = [frame for frame in frames if str(frame[0]).startswith("qcam.")]
    module, function, line = (inside or frames or [("?", "?", 0)])[-1]
    return f"{module}.{function}:{line}"


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-6000:]


def _reset_peak() -> int:
    """Let the system measure the peak of memory anew; return what is resident now."""
    with contextlib.suppress(OSError):
        _RESET.write_text("5")
    return _peak()


def _peak() -> int:
    try:
        text = _STATUS.read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmHWM:")), 0)
