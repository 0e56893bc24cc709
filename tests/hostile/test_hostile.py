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


#: Of these kinds every eighth attack is a test, for they take seconds each; `make hostile` runs them all, as it does attacks of
#: half a minute.
_MANY = frozenset({"A1", "A2", "A3", "A6", "A8", "B2", "B3", "B4", "B5", "C1", "C3", "C4", "D", "U1"})
_LONG = frozenset({"C4.1", "C4.17", "D.25"})


def _sample() -> list[Attack]:
    """Return the attacks that are tests."""
    every = [attack for attack in every_attack() if attack.id not in _LONG]
    return [attack for attack in every if _kind(attack) not in _MANY or int(attack.id.partition(".")[2]) % 8 == 1]


def _kind(attack: Attack) -> str:
    return attack.id.partition(".")[0]


@pytest.mark.slow
@pytest.mark.parametrize("attack", _sample(), ids=lambda attack: attack.id)
def test_holds(attack: Attack, ground: Ground, tmp_path: Path) -> None:
    verdict = try_attack(attack, ground.tree, ground, tmp_path / "work", thorough=False)
    assert verdict.held, f"{attack.kind}: {verdict.told}"


def test_the_commands_are_those_of_this_repository(ground: Ground) -> None:
    for module in ground.tree.commands.values():
        assert ground.tree.origin(module).is_relative_to(HERE)
