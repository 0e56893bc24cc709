"""A3, continued: files of a complete run, damaged; never read as good, made again by the same command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hostile.ground import SAME
from hostile.harness import Attack, Scene, Verdict, fell, flip_bit, held, sha256

FIRST = 25
_FILES = ("results.parquet", "maps.parquet", "pictures.parquet", "images.parquet", "summary.json", "run.json")


def _flip(path: Path, _other: Path) -> None:
    flip_bit(path, 8 * (path.stat().st_size // 3) + 1)


def _empty(path: Path, _other: Path) -> None:
    path.write_bytes(b"")


def _swap(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def _delete(path: Path, _other: Path) -> None:
    path.unlink()


def _damaged(name: str, damage: Callable[[Path, Path], None], scene: Scene) -> Verdict:
    """Damage a file, report, then give the command again."""
    good = scene.ground.run
    out = scene.copy(good)
    damage(out / name, scene.ground.other_run / name)
    damaged = sha256(out / name) if (out / name).exists() else ""
    # Whose record another run's is, nobody can tell: then whatever does not fit it may be named.
    names = _FILES if name == "run.json" else (name,)
    report = scene.run("qcam-report", out, "--output", scene.work / "report", "--pictures", 1).refused(*names)
    if not report.held:
        return fell(f"qcam-report: {report.told}")
    outcome = scene.ground.eval(scene.ground.bundle, "--images", scene.ground.photographs, output=out)
    if outcome.fault():
        return fell(f"qcam-eval: {outcome.fault()}")
    if name == "run.json" and outcome.code == 2:
        # Without its record nobody knows whose the folder is: it is refused, and left as it was.
        left = (sha256(out / name) if (out / name).exists() else "") == damaged
        verdict = outcome.refused(name, "results of other settings")
        return held("refused by both, named") if verdict.held and left else fell(f"qcam-eval: {verdict.told}")
    if outcome.code != 0:
        return fell(f"qcam-eval: exit {outcome.code}: the files are not made again")
    unequal = [each for each in SAME if (out / each).read_bytes() != (good / each).read_bytes()]
    if unequal:
        return fell(f"qcam-eval: exit 0, and {unequal[0]} stays wrong")
    if name not in outcome.err:
        return fell("qcam-eval: made again without a word")
    return held("refused, named; made again, files equal")


_DAMAGES = [("one bit flipped", _flip), ("emptied", _empty), ("another run's", _swap), ("deleted", _delete)]
_RUNS = [(f"{name}: {kind}", partial(_damaged, name, damage)) for name in _FILES for kind, damage in _DAMAGES]
ATTACKS = [Attack(f"A3.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, FIRST)]
