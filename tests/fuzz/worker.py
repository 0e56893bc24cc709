"""One target in a process of its own, which an input may end: `python -m fuzz.worker TARGET --folder FOLDER --seconds N`.

Inputs come from libFuzzer through atheris, guided by the branches of qcam's own modules that they take; where atheris cannot be
imported, hypothesis changes the bytes of the corpus. What one of them finds the other one takes up: both keep files.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

#: Modules whose functions are compiled: they are not to be changed on import.
_LEFT_ALONE = ("qcam.runtime.mirror.compiled",)
_LARGEST = 1 << 17
#: Seconds in which one input may keep the process busy before it is ended.
_HANGS = 120
_EXAMPLES = 200


def main() -> None:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--folder", type=Path, required=True, help="state: corpus/, findings/, told.json, current")
    parser.add_argument("--seconds", type=float, required=True, help="of this process's CPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driver", choices=("auto", "atheris", "hypothesis"), default="auto")
    given = parser.parse_args()
    guided = given.driver == "atheris" or (given.driver == "auto" and importlib.util.find_spec("atheris") is not None)
    if guided:
        import atheris

        atheris.instrument_imports(include=["qcam"], exclude=list(_LEFT_ALONE)).__enter__()  # for imports within functions, too
    from fuzz.harness import target

    session = Session(given.target, target(given.target), given.folder, given.seconds)
    session.replay()
    if guided:
        _atheris(session, given.seed)
    _hypothesis(session, given.seed)


class Session:
    """What a run has done so far; it is on disk at any time.

    Attributes:
        found: Target's inputs that were kept, newest last.
    """

    def __init__(self, name: str, target: Any, folder: Path, seconds: float) -> None:
        """Take up what earlier runs left in the folder."""
        self.name, self.target, self.folder, self._seconds = name, target, folder, seconds
        self.corpus, self.findings = folder / "corpus", folder / "findings"
        for place in (self.corpus, self.findings):
            place.mkdir(parents=True, exist_ok=True)
        self._known = {path.stem for path in self.findings.glob("*.txt")}
        self._current = (folder / "current").open("wb", buffering=0)
        self._inputs = self._accepted = self._refused = 0
        self._start, self._written = time.process_time(), 0.0

    def replay(self) -> None:
        """Give the door every good input, and what was found before."""
        for data in [*self.target.seeds(), *(path.read_bytes() for path in self.target.corpus())]:
            self.give(data)

    def give(self, data: bytes) -> None:
        """Give the door one input, and keep a finding that is new; ends the process when time is over."""
        from fuzz.harness import judged, minimised

        self._current.seek(0)
        self._current.truncate()
        self._current.write(data)
        found, refusal = judged(self.target.one, data)
        self._inputs += 1
        self._refused += bool(refusal)
        self._accepted += not refusal and found is None
        if found is not None and found.key not in self._known:
            self._known.add(found.key)
            small = minimised(self.target.one, data, found.kind)
            (self.findings / f"{found.key}.bin").write_bytes(small)
            (self.findings / f"{found.key}.txt").write_text(f"{found.kind}\n\n{found.told}", "utf-8", "replace")
        self.tell()
        if self.spent > self._seconds:
            self.end()

    @property
    def spent(self) -> float:
        """Return the CPU seconds of this process since the target was loaded."""
        return time.process_time() - self._start

    def tell(self, *, now: bool = False) -> None:
        """Write what was done, once a second."""
        if now or time.monotonic() - self._written > 1:
            self._written = time.monotonic()
            told = {"inputs": self._inputs, "accepted": self._accepted, "refused": self._refused, "seconds": self.spent}
            path = self.folder / "told.json"
            path.with_suffix(".new").write_text(json.dumps(told))
            path.with_suffix(".new").replace(path)

    def end(self) -> NoReturn:
        """End the process; libFuzzer would go on."""
        import shutil

        from fuzz.harness import scratch

        self.tell(now=True)
        shutil.rmtree(scratch(), ignore_errors=True)
        sys.stderr.flush()
        os._exit(0)


def _atheris(session: Session, seed: int) -> NoReturn:
    import atheris

    first = session.folder / "seeds"
    first.mkdir(exist_ok=True)
    for place, data in enumerate(session.target.seeds()):
        (first / f"{place:03d}").write_bytes(data)
    from fuzz.harness import CORPUS

    kept = CORPUS / session.name
    options = [
        f"-seed={seed}", f"-max_len={_LARGEST}", "-len_control=0", f"-timeout={_HANGS}", "-rss_limit_mb=0", "-verbosity=0",
        "-print_final_stats=0", "-use_value_profile=1", f"-artifact_prefix={session.folder}/native-",
    ]  # fmt: skip
    folders = [session.corpus, first, *([kept] if kept.is_dir() else [])]
    atheris.Setup([sys.argv[0], *options, *map(str, folders)], session.give)
    atheris.Fuzz()
    session.end()


def _hypothesis(session: Session, seed: int) -> NoReturn:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    known = [*session.target.seeds(), *(path.read_bytes() for path in session.target.corpus())]
    known += [path.read_bytes() for path in sorted(session.corpus.iterdir())]
    change = st.tuples(st.integers(0, 4), st.integers(0, _LARGEST), st.binary(max_size=8))
    inputs = st.one_of(st.builds(changed, st.sampled_from(known), st.lists(change, max_size=6)), st.binary(max_size=4096))
    profile = settings(max_examples=_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    give: Callable[[], None]
    while True:
        give = seeded(seed)(profile(given(inputs)(session.give)))
        give()
        seed += 1


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Return bytes with changes: some replaced, inserted, left out, or repeated; way 4 counts from the end."""
    for way, where, value in changes:
        place = (len(data) - 1 - where % 16 if way == 4 else where % (len(data) + 1)) if data else 0
        place = max(place, 0)
        if way == 1:
            data = data[:place] + value + data[place:]
        elif way == 2:
            data = data[:place] + data[place + max(len(value), 1) :]
        elif way == 3:
            data = data[:place] + data[place : place + 16] + data[place:]
        else:
            data = data[:place] + value + data[place + len(value) :]
    return data


if __name__ == "__main__":
    main()
