"""Run the attacks on an old commit and on this checkout, and write what fell into docs/security.md: `make hostile`.

make hostile                        # both, at once
make hostile HOSTILE_ARGS=--reuse   # the old commit's verdicts as they were found before on this machine, if they were
make hostile HOSTILE_ARGS="--only B6,C1"   # these alone; the page keeps its rows of the others
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hostile.attacks import every_attack
from hostile.harness import HERE

#: The commit that was attacked first.
REFERENCE = "7ea68d2"
_BUILD = HERE / "build" / "hostile"
_PAGE = HERE / "docs" / "security.md"
_BEGIN, _END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
_Found = dict[str, dict[str, object]]


def main() -> None:
    """Attack both, write the table, and exit with 1 if anything falls here."""
    _BUILD.mkdir(parents=True, exist_ok=True)
    reuse = "--reuse" in sys.argv and (_BUILD / "before.json").exists()
    old = _BUILD / REFERENCE
    _git("worktree", "prune")
    if _git("cat-file", "-e", f"{REFERENCE}^{{commit}}"):
        sys.exit(f"error: commit {REFERENCE} is not in this repository's history; fetch it whole (git fetch --unshallow)")
    _git("worktree", "remove", "--force", str(old))  # what an interrupted run has left
    if _git("worktree", "add", "--detach", str(old), REFERENCE):
        sys.exit(f"error: git cannot make a worktree of {REFERENCE} at {old}; remove what is there")
    try:
        # At once: each waits for one process at a time.
        running = [_attack(tree, name) for tree, name in ((old, "before"), (HERE, "now")) if name == "now" or not reuse]
        for process in running:
            process.wait()
    finally:
        _git("worktree", "remove", "--force", str(old))
    before, now = _found("before"), _found("now")
    _write(before, now)
    fallen = [name for name, item in now.items() if not item["held"]]
    counts = f"{_fallen(before)} fell on {REFERENCE}, {len(fallen)} fall now"
    print(f"{len(now)} attacks: {counts}: {', '.join(fallen) or 'none'}")
    sys.exit(bool(fallen))


def _attack(tree: Path, name: str) -> subprocess.Popen[bytes]:
    """Start the attacks on a tree in a process of their own."""
    path = _BUILD / f"{name}.json"
    path.unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": str(HERE / "tests"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "hostile.run", str(tree), "--name", name, "--json", str(path)]
    command += [word for word in sys.argv[1:] if word != "--reuse"]
    return subprocess.Popen(command, env=environment)


def _found(name: str) -> _Found:
    path = _BUILD / f"{name}.json"
    if not path.exists():
        sys.exit(f"error: the attacks did not come to an end: {path} is missing")
    found: _Found = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(before: _Found, now: _Found) -> None:
    """Put the table between the marks of the page; rows of attacks that were not run stay."""
    rows = _written() if any(word.startswith("--only") for word in sys.argv) else {}
    rows |= {
        name: f"| {name} | {_cell(item['kind'])} | {_said(before.get(name))} | {_said(item)} |" for name, item in now.items()
    }
    rows = {attack.id: rows[attack.id] for attack in every_attack() if attack.id in rows}
    fell = [[cell.startswith(" **fell**") for cell in re.split(r"(?<!\\)\|", row)[3:5]] for row in rows.values()]
    then, still = (sum(each) for each in zip(*fell, strict=True))
    head = f"{len(rows)} attacks; {then} fell on {REFERENCE}, {still} fall now."
    write_between(_BEGIN, _END, [head, "", f"| id | attack | {REFERENCE} | now |", "|---|---|---|---|", *rows.values()])


def _written() -> dict[str, str]:
    """Return the rows that the page has, by id."""
    table = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]
    found = re.findall(r"^\| ([A-Z]\d+\.\d+) \|.*$", table, re.MULTILINE)
    lines = [line for line in table.splitlines() if re.match(r"\| [A-Z]\d+\.\d+ \|", line)]
    return dict(zip(found, lines, strict=True))


def write_between(begin: str, end: str, lines: Sequence[str]) -> None:
    """Put lines between two marks of docs/security.md."""
    text = _PAGE.read_text(encoding="utf-8")
    head, rest = text.split(begin)
    _PAGE.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{rest.split(end)[1]}", encoding="utf-8")


def _fallen(found: _Found) -> int:
    return sum(not item["held"] for item in found.values())


def _said(item: dict[str, object] | None) -> str:
    if item is None:
        return "not run"
    return f"{'held' if item['held'] else '**fell**'}: {_cell(item['told'])}"


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("<", "&lt;")


def _git(*arguments: str) -> int:
    return subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, check=False).returncode


if __name__ == "__main__":
    main()
