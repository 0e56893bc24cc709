"""Every attack on the commands as they are installed: all of them hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the attacks are scripts as well: `python -m hostile.compare`

from hostile.attacks import every_attack
from hostile.ground import Ground
from hostile.harness import HERE, Attack, Tree
from hostile.run import try_attack

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    tree = Tree(HERE, None)
    yield Ground(tree, tmp_path_factory.mktemp("hostile-ground"))
    tree.close()


@pytest.mark.slow
@pytest.mark.parametrize("attack", every_attack(), ids=lambda attack: attack.id)
def test_holds(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    verdict = try_attack(attack, ground.tree, ground, tmp_path / "work", thorough=False)
    assert verdict.held, f"{attack.kind}: {verdict.told}"


def test_the_commands_are_those_of_this_repository(ground: Ground) -> None:
    for module in ground.tree.commands.values():
        assert ground.tree.origin(module).is_relative_to(HERE)
