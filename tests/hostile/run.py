"""Run the attacks on one tree: `python -m hostile.run TREE --json FILE`, with tests/ on the path."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hostile.attacks import every_attack
from hostile.ground import Ground
from hostile.harness import Attack, Scene, Tree, Verdict, brief, fell


def try_attack(attack: Attack, tree: Tree, ground: Ground, work: Path, *, thorough: bool) -> Verdict:
    """Run one attack in a new folder."""
    work.mkdir(parents=True)
    try:
        return attack.run(Scene(tree, ground, work, thorough))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run_attacks(
    root: Path, links: Path, chosen: str = "", *, thorough: bool = True, name: str = ""
) -> dict[str, dict[str, object]]:
    """Run attacks on a tree.

    Args:
        root: The checkout.
        links: Folder for the package's links.
        chosen: Beginning of the ids to run; empty for all.
        thorough: Whether random attacks are tried often.
        name: What progress lines begin with.

    Returns:
        Attack id → `{"kind", "held", "told"}`.
    """
    tree = Tree(root, links)
    for command, module in tree.commands.items():
        origin = tree.origin(module)
        if not origin.is_relative_to(root.resolve()):
            raise SystemExit(f"error: {command} would be loaded from {origin}, which is not in {root}")
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        ground = Ground(tree, Path(folder) / "ground")
        for attack in every_attack():
            if not attack.id.startswith(tuple(chosen.split(","))):
                continue
            begun = time.monotonic()
            try:
                verdict = try_attack(attack, tree, ground, Path(folder) / "work" / attack.id, thorough=thorough)
            except Exception as error:  # an attack that cannot be made is no proof of anything
                traceback.print_exc()
                verdict = fell(f"the attack itself failed: {brief(f'{type(error).__name__}: {error}')}")
            found[attack.id] = {"kind": attack.kind, "held": verdict.held, "told": verdict.told}
            word = "held" if verdict.held else "FELL"
            print(f"{name:7}{attack.id:6} {time.monotonic() - begun:5.1f} s  {word}  {attack.kind}: {verdict.told}", flush=True)
    tree.close()
    return found


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--only", default="", help="beginnings of ids, with commas")
    parser.add_argument("--quick", action="store_true", help="random attacks a few times only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--name", default="", help="what progress lines begin with")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="links-") as links:
        found = run_attacks(given.tree.resolve(), Path(links) / "links", given.only, thorough=not given.quick, name=given.name)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    fallen = sum(not item["held"] for item in found.values())
    print(f"{len(found)} attacks, {fallen} fell")
    sys.exit(bool(fallen))


if __name__ == "__main__":
    main()
