"""Compare the figures of an old commit with those of this checkout, on this machine: `make figures`, docs/figures.md.

Figures, not files: both trees export, evaluate and check the same, and every value that they write is compared bit for bit.
What changed but is no figure (a title, a word, a new column) is listed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from equal import Comparison, compare_csv, compare_records, compare_tables, compare_titles, leave_out_schema_2, read_json
from hostile.harness import HERE, Tree

from qcam.common.assets import ASSETS, asset_files
from qcam.common.machine import versions

#: The commit whose figures are the standard.
REFERENCE = "7ea68d2"
_MODEL = "efficientnet_lite0"
_BUILD = HERE / "build" / "figures"
_PAGE = HERE / "docs" / "figures.md"
#: The Parquet files of a run, and what names a row.
_TABLES = {
    "results.parquet": ("image", "model", "precision", "comparison"),
    "maps.parquet": ("image", "model", "precision", "kind"),
    "pictures.parquet": ("image", "geometry"),
    "images.parquet": ("name",),
}
_CSV_KEYS = ("model", "precision", "comparison", "metric")
#: What of check.json was measured; the rest says where and with what.
_CHECKED = ("holds", "results", "other_cpus", "refused_images", "deployed_sha256")
#: The one exception of check.json: the relative error of logits was defined twice, in PyTorch (float32 norms) and in NumPy
#: (float64), and one definition is left. Largest relative difference that this may make.
_REDEFINED = {"logit_error": 1e-8}
_SUMMARY = ("entries", "tests", "flips", "statuses")
_MOST_LISTED = 40
_HEAD = """# Do the figures stay the same?

`make figures` runs commit {reference} and this checkout (here: {state}) on the same machine, one after the other, with the
same number of threads, and compares every value that they write, bit for bit (`benchmarks/figures.py`): floats by their bytes,
tables sorted by the columns that name a row, JSON leaf by leaf. Titles, words and new columns are listed below: they are no
figures. All but the export itself starts from the bundle that the old commit exported. Exit code 1 if a figure differs.

One exception has a name: `logit_error` of check.json. It stood twice, with norms in PyTorch and in NumPy, which add in another
order; NumPy's is left, in float64, as in `results.parquet` all along. It may differ by one part in 10⁸: *rounded*.
"""


@dataclass(frozen=True)
class Task:
    """One command that both trees run.

    Attributes:
        name: The folder that it writes.
        title: What it is, for the page.
        command: `qcam-eval` …
        arguments: Its arguments; BUNDLE stands for the bundle that the old commit exported.
    """

    name: str
    title: str
    command: str
    arguments: tuple[str, ...]


def tasks(threads: int) -> list[Task]:
    """Return what both trees run, in this order."""
    on_cpu = ("--threads", str(threads))
    study = (*on_cpu, "--workers", "1", "--saliency-cache", "none")
    checked = ("--precision", "int8", "--precision", "int16", "--arithmetic", "integer", "--arithmetic", "fake_quant")
    return [
        Task("bundles", "export of EfficientNet-Lite0, real weights", "qcam-export", ()),
        Task("demo", "demo: 20 photographs, u2netp", "qcam-eval", ("BUNDLE", "--provider", "CPU", *study)),
        Task("check", "check: 4 photographs, every tensor", "qcam-check",
             ("BUNDLE", *checked, "--every-tensor", "--limit", "4", *on_cpu)),
        Task("paper", "the paper's protocol: 4 photographs, u2netp", "qcam-eval",
             ("BUNDLE", "--protocol", "paper", "--limit", "4", *study)),
    ]  # fmt: skip


def main() -> None:
    """Run both trees, compare, write the page; exit with 1 if a figure differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--now", metavar="COMMIT", help="compare this commit rather than the files of this checkout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reuse", action="store_true", help="take what an earlier call left of the old commit on this machine")
    parser.add_argument("--no-page", action="store_true", help="print only")
    given = parser.parse_args()
    for folder in (_BUILD / "now", *([] if given.reuse else [_BUILD / "before"])):
        shutil.rmtree(folder, ignore_errors=True)
    begun = time.monotonic()
    with ExitStack() as stack:
        old = stack.enter_context(worktree(REFERENCE))
        new = stack.enter_context(worktree(given.now)) if given.now else HERE
        for side, root in (("before", old), ("now", new)):
            run_tree(side, root, given.threads)
    found = compare_all(given.threads)
    different = sum(len(comparison.different) for _, _, comparison in found)
    page = written(found, given.now or _state(), given.threads)
    if not given.no_page:
        _PAGE.write_text(page, encoding="utf-8")
    print(page)
    print(f"{different} figures differ; {time.monotonic() - begun:.0f} s", file=sys.stderr)
    sys.exit(bool(different))


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out into a folder of its own for the time of the block."""
    folder = _BUILD / f"tree-{commit}"
    _git("worktree", "prune")
    if _git("cat-file", "-e", f"{commit}^{{commit}}"):
        sys.exit(f"error: commit {commit} is not in this repository's history; fetch it whole (git fetch --unshallow)")
    _git("worktree", "remove", "--force", str(folder))  # what an interrupted call has left
    if _git("worktree", "add", "--force", "--detach", str(folder), commit):
        sys.exit(f"error: git cannot make a worktree of {commit} at {folder}; remove what is there")
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> int:
    return subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, check=False).returncode


def _state() -> str:
    """Return the commit of this checkout, and whether files differ from it."""
    told = [
        subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    return told[0] + (" with uncommitted changes" if told[1] else "")


def run_tree(side: str, root: Path, threads: int) -> None:
    """Run every task with one tree's commands, in `build/figures/SIDE`."""
    tree = Tree(root, _BUILD / f"links-{side}")
    lend_assets(_BUILD / f"links-{side}")
    work = _BUILD / side
    work.mkdir(parents=True, exist_ok=True)
    for command, module in tree.commands.items():
        if not tree.origin(module).is_relative_to(root.resolve()):
            sys.exit(f"error: {command} would be loaded from {tree.origin(module)}, which is not in {root}")
    # The user's cache: networks and photographs that were fetched lie there. Saliency maps are computed anew (see `tasks`).
    own = {key: os.environ[key] for key in ("QCAM_CACHE", "XDG_CACHE_HOME") if key in os.environ}
    inherited = {key: value for key, value in tree.environment(work).items() if key not in ("QCAM_CACHE", "XDG_CACHE_HOME")}
    environment = inherited | own | {"OMP_NUM_THREADS": str(threads)}
    for task in tasks(threads):
        bundle = str(_BUILD / "before" / "bundles" / _MODEL)
        words = [bundle if word == "BUNDLE" else word for word in task.arguments]
        command = [sys.executable, "-m", tree.commands[task.command], *words, "--output", str(work / task.name)]
        ended = work / f"{task.name}.ended"  # with --reuse, the same command with the same packages is not run again
        state = json.dumps([words, threads, versions()])
        if ended.is_file() and ended.read_text(encoding="utf-8") == state:
            continue
        shutil.rmtree(work / task.name, ignore_errors=True)
        print(f"{side:7}{task.title} …", file=sys.stderr, flush=True)
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1, 3):  # falls short, undecided: figures all the same
            sys.exit(f"error: {task.command} of {side} ended with exit code {done.returncode}:\n{done.stderr}")
        ended.write_text(state, encoding="utf-8")


def lend_assets(links: Path) -> None:
    """Put photographs and network where an old commit looks for them: into packages of the names that ship them.

    Args:
        links: The folder that comes first on the tree's path.
    """
    for asset in ASSETS.values():
        for name, file in zip(asset.files, asset_files(asset), strict=True):
            place = links / name
            place.parent.mkdir(parents=True, exist_ok=True)
            (links / asset.package / "__init__.py").touch()
            place.symlink_to(file)


def compare_all(threads: int) -> list[tuple[Task, str, Comparison]]:
    """Compare everything that was written: for each task and file what was found."""
    found = []
    for task in tasks(threads):
        before, now = _BUILD / "before" / task.name, _BUILD / "now" / task.name
        compare = {"qcam-export": compare_bundles, "qcam-check": compare_checks, "qcam-eval": compare_runs}[task.command]
        found += [(task, name, comparison) for name, comparison in compare(before, now)]
    return found


def compare_bundles(before: Path, now: Path) -> Iterator[tuple[str, Comparison]]:
    """Compare two exports: the manifest, its fingerprint, and the SHA-256 of every ONNX file.

    A manifest of schema 2 is compared with one of schema 1 as far as that says the same; the fingerprint is of that part.
    """
    records = [read_json(folder / _MODEL / "bundle.json") for folder in (before, now)]
    for record in records:
        del record["versions"]
    added = leave_out_schema_2(*records)
    comparison = compare_records(*(json.loads(json.dumps(record)) for record in records))
    comparison.different += [item for item in comparison.listed if not item.startswith("new entry")]  # words count here
    comparison.listed = [item for item in comparison.listed if item.startswith("new entry")] + added
    yield "bundle.json", comparison
    prints = [_digest(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()) for record in records]
    yield "fingerprint", _equal("fingerprint", *prints)
    for file in sorted((before / _MODEL).glob("*.onnx")):
        other = now / _MODEL / file.name
        yield (
            file.name,
            _equal("SHA-256", *(_digest(path.read_bytes()) if path.is_file() else "missing" for path in (file, other))),
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _equal(name: str, before: str, now: str) -> Comparison:
    return Comparison(1, [] if before == now else [f"{name}: {before} before, {now} now"])


def compare_checks(before: Path, now: Path) -> Iterator[tuple[str, Comparison]]:
    """Compare two checks: every figure, of every tensor, and every gate."""
    records = [read_json(folder / "check.json") for folder in (before, now)]
    figures = [{key: record[key] for key in _CHECKED if key in record} for record in records]
    yield "check.json", compare_records(*figures, rounding=_REDEFINED)


def compare_runs(before: Path, now: Path) -> Iterator[tuple[str, Comparison]]:
    """Compare two runs: the Parquet tables, the summary, the printed table."""
    for name, keys in _TABLES.items():
        yield name, compare_tables(before / name, now / name, keys)
    records = [read_json(folder / "summary.json") for folder in (before, now)]
    yield "summary.json", compare_records(*({key: record[key] for key in _SUMMARY if key in record} for record in records))
    yield "table.csv", compare_csv(before / "table.csv", now / "table.csv", _CSV_KEYS)
    yield "table.md (titles)", compare_titles(before / "table.md", now / "table.md")


def written(found: Sequence[tuple[Task, str, Comparison]], state: str, threads: int) -> str:
    """Return docs/figures.md."""
    total = sum(comparison.values for _, _, comparison in found)
    different, rounded = (sum(len(getattr(each, kind)) for _, _, each in found) for kind in ("different", "rounded"))
    family = read_json(_BUILD / "now" / "demo" / "run.json")["kernels"]["family"]
    lines = [
        _HEAD.format(reference=REFERENCE, state=state),
        f"**{total} values compared, {different} differ, {rounded} are rounded otherwise.** "
        f"{threads} threads; kernel family of this CPU: {family}; one run.",
        "",
        "| what | file | values | differ | rounded | listed |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {task.title} | `{name}` | {comparison.values} | {len(comparison.different)} | {len(comparison.rounded)} "
        f"| {len(comparison.listed)} |"
        for task, name, comparison in found
    ]
    for heading, attribute in (
        ("Figures that differ", "different"),
        ("Rounded otherwise", "rounded"),
        ("Listed: no figures", "listed"),
    ):
        lines += ["", f"## {heading}", "", *(_listing(found, attribute) or ["Nothing."])]
    return "\n".join(lines) + "\n"


def _listing(found: Sequence[tuple[Task, str, Comparison]], attribute: str) -> list[str]:
    lines = []
    for task, name, comparison in found:
        items = getattr(comparison, attribute)
        lines += [f"- {task.name}, `{name}`: {item.replace('|', '/')}" for item in items[:_MOST_LISTED]]
        if len(items) > _MOST_LISTED:
            lines.append(f"- {task.name}, `{name}`: and {len(items) - _MOST_LISTED} more")
    return lines


if __name__ == "__main__":
    main()
