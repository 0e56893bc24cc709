"""What every attack uses: a tree's commands, what became of one, and the judgements that are the same for many."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hostile.ground import Ground

#: This repository.
HERE = Path(__file__).resolve().parents[2]
#: Seconds after which a command counts as hanging.
_PATIENCE = 240.0
#: Seconds between two signals.
_BETWEEN = 0.1
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Verdict(NamedTuple):
    """What became of an attack: whether the product held, and one short sentence."""

    held: bool
    told: str


def held(told: str) -> Verdict:
    """Return that the product held."""
    return Verdict(True, told)


def fell(told: str) -> Verdict:
    """Return that it fell."""
    return Verdict(False, told)


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        id: Letter, number, variant: `A3.4`.
        kind: What it is, in a few words.
        run: Makes the hostile input in a scene, runs the commands, judges.
    """

    id: str
    kind: str
    run: Callable[[Scene], Verdict]


@dataclass(frozen=True)
class Outcome:
    """What became of one command.

    Attributes:
        code: Exit code, negative for a signal; None if it did not end.
        out: Standard output.
        err: Standard error.
        peak: Largest resident memory in MB, as far as it was seen.
    """

    code: int | None
    out: str
    err: str
    peak: float = 0.0

    @property
    def errors(self) -> list[str]:
        """Return the lines that tell an error."""
        return [line for line in self.err.splitlines() if line.startswith(("error:", "Error:", "does not hold:"))]

    def fault(self) -> str:
        """Say what breaks the contract whatever the exit code is; empty if nothing does."""
        if self.code is None:
            return "it did not end"
        if "Traceback (most recent call last)" in self.err + self.out:
            lines = [line for line in self.err.splitlines() if line and not line[0].isspace()]
            return f"traceback ({lines[-1].partition(':')[0]})" if lines else "traceback"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if self.code not in (0, 1, 2, 3):
            return f"exit {self.code}"
        if _CONTROL.search(self.err + self.out):
            return "control characters reach the terminal"
        return ""

    def refused(self, *names: str) -> Verdict:
        """Judge a command that has to refuse its input: exit 2, one line, which names what is wrong by one of `names`."""
        fault = self.fault()
        if fault:
            return fell(fault)
        if self.code != 2:
            return fell(f"exit {self.code}, as if nothing were wrong")
        if len(self.errors) != 1:
            return fell(f"exit 2 with {len(self.errors)} lines of error")
        if names and not any(name in self.errors[0] for name in names):
            return fell(f"exit 2, and {names[0]} is not named: {brief(self.errors[0])}")
        return held(f"refused, {next(name for name in names if name in self.errors[0])} named" if names else "refused")


class Case(NamedTuple):
    """One of the many inputs of an attack.

    Attributes:
        told: What is wrong with it.
        words: The command's arguments.
        names: What a refusal has to name: each of them.
        harmless: Whether the command may as well take it and end with 0.
    """

    told: str
    words: tuple[object, ...]
    names: tuple[str, ...] = ()
    harmless: bool = False

    def judge(self, outcome: Outcome) -> Verdict:
        """Judge what became of it."""
        if self.harmless and outcome.code == 0:
            return fell(outcome.fault()) if outcome.fault() else held("taken")
        for name in self.names or ("",):
            verdict = outcome.refused(name) if name else outcome.refused()
            if not verdict.held:
                return verdict
        return verdict


def brief(text: str, length: int = 90) -> str:
    """Return a message without the paths of this machine, cut to a length."""
    clean = re.sub(r"(?:/[\w.@+-]+)+/", "", _CONTROL.sub("?", text))
    return clean if len(clean) <= length else clean[: length - 1] + "…"


class Tree:
    """A checkout whose commands are attacked.

    Attributes:
        root: Its folder.
        commands: Command name → module.
    """

    def __init__(self, root: Path, links: Path | None) -> None:
        """Take a checkout.

        Args:
            root: Its folder.
            links: Folder in which `qcam` is put together out of links to the tree's rooms, to come first on the path; None if
                the installed package is this very tree.
        """
        self.root = root
        scripts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
        self.commands = {name: target.partition(":")[0] for name, target in scripts.items()}
        self._links = links
        self._server: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        if links is not None:
            shutil.rmtree(links, ignore_errors=True)
            (links / "qcam").mkdir(parents=True)
            for room in root.iterdir():
                if room.name != "tests" and (room / "__init__.py").is_file():
                    (links / "qcam" / room.name).symlink_to(room)
            for file in (root / "src" / "qcam").glob("*.py"):
                (links / "qcam" / file.name).symlink_to(file)
            # A tree without the file: a package all the same, or the installed one, which has it, would come first.
            if not (root / "src" / "qcam" / "__init__.py").is_file():
                (links / "qcam" / "__init__.py").touch()

    def environment(self, work: Path) -> dict[str, str]:
        """Return the environment of a command: the tree first, no caches but the work folder's own."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "PYTHON"))}
        if self._links is not None:
            environment["PYTHONPATH"] = str(self._links)
        return environment | {
            "QCAM_CACHE": str(work / "cache"), "XDG_CACHE_HOME": str(work / "cache"), "COLUMNS": "200",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def origin(self, module: str) -> Path:
        """Return the file that a module is loaded from."""
        code = f"import importlib.util; print(importlib.util.find_spec({module!r}).origin)"
        command, environment = [sys.executable, "-c", code], self.environment(Path("/nonexistent"))
        found = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
        return Path(found.stdout.strip()).resolve()

    def start(self, request: Mapping[str, Any]) -> tuple[int, Callable[[], int]]:
        """Start a command by the server; return its process id, and what waits for its exit code."""
        if self._server is None:
            environment = self.environment(Path("/nonexistent")) | {"OMP_NUM_THREADS": "1"}
            self._server = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("starter.py"))],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            )  # fmt: skip
        server = self._server
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        pid = int(server.stdout.readline())
        stream = server.stdout
        return pid, lambda: int(stream.readline())

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(timeout=30)
            self._server = None


@dataclass
class Scene:
    """The place of one attack.

    Attributes:
        tree: What is attacked.
        ground: Good bundles and runs to start from, made by the tree.
        work: An empty folder; everything is written in it.
        thorough: Whether random attacks are tried a hundred times rather than a dozen.
    """

    tree: Tree
    ground: Ground
    work: Path
    thorough: bool = False
    variables: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        command: str,
        *arguments: object,
        prelude: str = "",
        alone: bool = False,
        most: float = 0.0,
        until: Callable[[], bool] | None = None,
        patience: float = _PATIENCE,
        signals: Sequence[int] = (),
        group: bool = True,
    ) -> Outcome:
        """Run a command in the work folder.

        Args:
            command: `qcam-eval` …
            arguments: Its arguments.
            prelude: Python code to run before it in its process.
            alone: Whether it gets an interpreter of its own, so that its memory can be told.
            most: Memory in MB above which the command is killed; 0 for any.
            until: If given, the command is killed with SIGKILL as soon as this is true.
            patience: Seconds after which it counts as hanging.
            signals: What it is sent then instead of SIGKILL, one after the other.
            group: Whether the processes that it started are sent them, too, as a terminal does.
        """
        folder = self.work / ".told"
        folder.mkdir(exist_ok=True)
        out, err = folder / "out", folder / "err"
        environment = self.tree.environment(self.work) | self.variables
        module = self.tree.commands[command]
        words = [str(argument) for argument in arguments]
        if alone:
            with out.open("wb") as stdout, err.open("wb") as stderr:
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *words], cwd=self.work, env=environment, stdin=subprocess.DEVNULL,
                    stdout=stdout, stderr=stderr, start_new_session=True,
                )  # fmt: skip
            pid, wait = process.pid, process.wait
        else:
            run = {"arguments": words, "stdout": str(out), "stderr": str(err), "code": ""}
            request = {"module": module, "runs": [run], "cwd": str(self.work), "env": environment, "prelude": prelude}
            pid, wait = self.tree.start(request)
        code, peak = _watch(pid, wait, most, until, patience, signals, os.killpg if group else os.kill)
        return Outcome(code, _text(out), _text(err), peak)

    def each(
        self, command: str, runs: Sequence[Sequence[object]], *, at_once: int = 20, prelude: str = ""
    ) -> Iterator[Outcome]:
        """Run a command many times, many runs in one process: what is refused at once takes milliseconds.

        Args:
            command: `qcam-report` …
            runs: The arguments of each run.
            at_once: Runs of a process: so many are made before the first outcome can be seen.
            prelude: Python code to run before them in each process.

        Yields:
            What became of each, in their order; a process that dies costs one run, and the others are made by another.
        """
        folder = self.work / ".told"
        folder.mkdir(exist_ok=True)
        environment = self.tree.environment(self.work) | self.variables
        done = 0
        while done < len(runs):
            asked: list[dict[str, Any]] = [
                {key: str(folder / f"{place}.{key}") for key in ("stdout", "stderr", "code")}
                | {"arguments": list(map(str, words))}
                for place, words in enumerate(runs[done : done + at_once])
            ]
            for file in folder.glob("*.code"):
                file.unlink()
            request = {
                "module": self.tree.commands[command], "runs": asked, "cwd": str(self.work), "env": environment,
                "prelude": prelude,
            }  # fmt: skip
            pid, wait = self.tree.start(request)
            ended, peak = _watch(pid, wait, 0.0, None, _PATIENCE)
            for run in asked:
                file = Path(run["code"])
                out, err = (_text(Path(run[key])) for key in ("stdout", "stderr"))
                done += 1
                if not file.exists():
                    yield Outcome(ended, out, err, peak)
                    break
                yield Outcome(int(file.read_text()), out, err, peak)

    def refused(self, command: str, cases: Iterable[Case], what: str, *, at_once: int = 20) -> Verdict:
        """Give a command many inputs, each of which it has to refuse.

        Args:
            command: `qcam-report` …
            cases: The inputs.
            what: What they are, in the plural.
            at_once: As for `each`.
        """
        every = list(cases)
        assert every
        taken = 0
        outcomes = self.each(command, [case.words for case in every], at_once=at_once)
        for place, (case, outcome) in enumerate(zip(every, outcomes, strict=True), 1):
            verdict = case.judge(outcome)
            if not verdict.held:
                return fell(f"{case.told}: {verdict.told} (number {place} of {len(every)} {what})")
            taken += outcome.code == 0
        told = f"{len(every) - taken} refused, {taken} harmless" if taken else "each refused"
        return held(f"{len(every)} {what}: {told}")

    def copy(self, source: Path, name: str = "out") -> Path:
        """Copy a folder of the ground into the work folder."""
        return Path(shutil.copytree(source, self.work / name, symlinks=True))


def _watch(
    pid: int,
    wait: Callable[[], int],
    most: float,
    until: Callable[[], bool] | None,
    patience: float,
    signals: Sequence[int] = (),
    send: Callable[[int, int], None] = os.killpg,
) -> tuple[int | None, float]:
    """Wait for a process, looking at its memory; kill it if it hangs or takes too much, send signals when `until` says so."""
    code: list[int] = []
    thread = threading.Thread(target=lambda: code.append(wait()))
    thread.start()
    peak, late, killed = 0.0, time.monotonic() + patience, False
    left, next_one = list(signals or [signal.SIGKILL]), 0.0
    while thread.is_alive():
        peak = max(peak, _resident(pid))
        if not killed and (time.monotonic() > late or (most and peak > most)):
            os.killpg(pid, signal.SIGKILL)
            killed = True
        if until is not None and left and time.monotonic() > next_one and until():
            with suppress(ProcessLookupError):  # it has just ended
                send(pid, left.pop(0))
            next_one = time.monotonic() + _BETWEEN
        thread.join(0.002 if until is not None else 0.01)
    return (None if killed else code[0]), peak


def _text(path: Path) -> str:
    """Return what a command has printed."""
    return path.read_text("utf-8", "replace") if path.exists() else ""


def _resident(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    match = re.search(r"VmHWM:\s+(\d+)", text)
    return int(match.group(1)) / 1024 if match else 0.0


def snapshot(folder: Path, *, but: tuple[Path, ...] = ()) -> dict[str, str]:
    """Return every file, folder and link below a folder with what it holds, less some folders."""
    skipped = (folder / ".told", folder / "cache", *but)
    return {
        str(path.relative_to(folder)): _content(path)
        for path in _walk(folder)
        if not any(path == other or other in path.parents for other in skipped)
    }


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        yield path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path)


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Name what appeared, vanished or changed between two snapshots."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def canonical_digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sign_results(folder: Path) -> None:
    """Make every digest of a result folder right again, as an attacker would, where the format has any."""
    path = folder / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(record.get("files"), dict):
        for name, before in record["files"].items():
            if (folder / name).is_file() and isinstance(before, str):
                record["files"][name] = sha256(folder / name)
    if "digest" in record:
        record["digest"] = canonical_digest({key: value for key, value in record.items() if key != "digest"})
    path.write_text(json.dumps(record, indent=2, allow_nan=True), encoding="utf-8")


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value, indent=2, allow_nan=True), encoding="utf-8")


def flip_bit(path: Path, bit: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
