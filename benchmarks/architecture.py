"""Draw the floor plan from the imports, and list the tests of each module: `make architecture`.

The drawings go into docs/architecture.md, the list into tests/README.md.

Two kinds of parts stand between marks in docs/architecture.md: drawings and arrows, which a test holds against the imports
(tests/test_architecture.py), and sizes, which change with every line and are only made anew here.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import grimp
from size import HERE, measure, table, tree_of

PAGE = HERE / "docs" / "architecture.md"
TESTS = HERE / "tests"
TESTS_PAGE = TESTS / "README.md"
#: Modules of qcam that no test imports → the test file that runs them through others.
THROUGH = {
    "__main__": "commands/test_options.py",
    "calibration.minmax": "calibration/test_ranges.py",
    "commands.outcome": "commands/test_eval.py",
    "evaluate.check.elsewhere": "commands/test_check.py",
    "evaluate.check.pictures": "commands/test_check.py",
    "evaluate.report.page": "evaluate/report/test_write.py",
    "evaluate.report.placement_table": "evaluate/report/test_write.py",
    "evaluate.report.record": "evaluate/report/test_write.py",
    "evaluate.results.pictures": "evaluate/report/test_grid.py",
    "evaluate.results.remote": "evaluate/engine/test_remote.py",
    "evaluate.run.differing": "evaluate/study/test_study.py",
    "evaluate.run.loader": "evaluate/study/test_study.py",
    "evaluate.saliency.preparation": "evaluate/saliency/test_saliency.py",
    "evaluate.saliency.remote_code": "evaluate/saliency/test_birefnet.py",
    "evaluate.study.conditions": "evaluate/study/test_plan.py",
    "exporters.importing.beside": "exporters/importing/test_into.py",
    "exporters.importing.findings": "exporters/importing/test_importing.py",
    "exporters.importing.preparing": "exporters/importing/test_importing.py",
    "exporters.own": "exporters/test_own_modules.py",
    "exporters.quantize": "exporters/test_export.py",
    "images.label_rows": "images/test_labels.py",
    "images.levels": "images/test_decoding.py",
    "images.names": "images/test_labels.py",
    "models.beside": "models/test_misread.py",
    "models.choice": "models/test_brought.py",
    "models.code": "exporters/test_own_modules.py",
    "models.own": "exporters/test_own_modules.py",
    "models.published": "models/test_brought.py",
    "runtime.mirror.integer.softmax": "runtime/mirror/integer/test_emulated.py",
}
_TESTS_HEAD = """# Which tests belong to which module

Made by `make architecture`; a test fails when it is stale. Named are the files that import a module, have something of it
from the package that offers it, or bear its name; of more than {most} the nearest: those whose name holds the module's, then
those of its folder. A module that no test imports stands with the test that runs it *through* other modules (`THROUGH` in
`benchmarks/architecture.py`); a new one without either fails.
"""
#: So many test files are named for each module.
_MOST = 4
#: The commit before the house was built.
REFERENCE = "7ea68d2"
#: Rooms whose wings get a drawing of their own.
_WINGED = ("evaluate", "runtime")
_Arrows = Mapping[str, set[str]]


def arrows(graph: grimp.ImportGraph, package: str) -> dict[str, set[str]]:
    """Return which parts of a package import which: part → the others it imports, anywhere in it.

    Modules with an underscore beside the rooms are one part: what `qcam` itself offers.

    Args:
        graph: The imports of qcam.
        package: `qcam`, or a room.
    """
    parts: dict[str, list[str]] = {}
    for module in sorted(graph.find_children(package)):
        name = module.rpartition(".")[2]
        if name != "__main__":
            parts.setdefault("API" if name.startswith("_") else name, []).append(module)
    return {
        name: {other for other in parts if other != name and _imports(graph, modules, parts[other])}
        for name, modules in parts.items()
    }


def _imports(graph: grimp.ImportGraph, importers: Sequence[str], imported: Sequence[str]) -> bool:
    """Tell whether any of some modules, or what lies in it, imports any of some others."""
    return any(
        graph.direct_import_exists(importer=importer, imported=other, as_packages=True)
        for importer in importers
        for other in imported
    )


def _reachable(found: _Arrows, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in found[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def floors(found: _Arrows) -> list[list[str]]:
    """Return the parts floor by floor from the top: each stands above everything that it imports.

    Parts that import each other in a circle stand on one floor.
    """
    below = {name: {other for other in _reachable(found, name) if name not in _reachable(found, other)} for name in found}
    height: dict[str, int] = {}
    for name in sorted(found, key=lambda name: len(below[name])):
        height[name] = 1 + max((height[other] for other in below[name]), default=-1)
    return [sorted(name for name in found if height[name] == level) for level in sorted(set(height.values()), reverse=True)]


def drawing(found: _Arrows) -> str:
    """Return a Mermaid drawing: floors from the top, arrows that follow from others left out."""
    lines = ["```mermaid", "flowchart TD"]
    for number, names in enumerate(floors(found)):
        lines += [f"    subgraph floor{number}[ ]", *(f"        {_node(name)}[{name}]" for name in names), "    end"]
    for name in sorted(found):
        implied = {far for other in found[name] for far in _reachable(found, other) if name not in _reachable(found, other)}
        lines += [f"    {_node(name)} --> {_node(other)}" for other in sorted(found[name] - implied)]
    return "\n".join([*lines, "```"])


def _node(name: str) -> str:
    return f"n_{name}"  # `end` and the like are words of Mermaid


def arrow_table(found: _Arrows, title: str) -> str:
    """Return every arrow as a Markdown table, from the top floor down."""
    lines = [f"| {title} | imports | is imported by |", "|---|---|---|"]
    for name in (name for names in floors(found) for name in names):
        users = [other for other in sorted(found) if name in found[other]]
        lines.append(f"| `{name}` | {', '.join(sorted(found[name])) or '–'} | {', '.join(users) or '–'} |")
    return "\n".join(lines)


def size_table(graph: grimp.ImportGraph) -> str:
    """Return modules and lines of every room and wing as a Markdown table."""
    lines = ["| room or wing | modules | lines |", "|---|--:|--:|"]
    for room in sorted(name for name in graph.find_children("qcam") if graph.find_children(name)):
        lines.append(_size_row(graph, room, room.removeprefix("qcam.")))
        wings = [child for child in sorted(graph.find_children(room)) if graph.find_children(child)]
        lines += [_size_row(graph, wing, f"· {wing.removeprefix('qcam.').replace('.', '/')}") for wing in wings]
    return "\n".join(lines)


def _size_row(graph: grimp.ImportGraph, package: str, title: str) -> str:
    folder = HERE / "src" / package.replace(".", "/")
    files = sorted(folder.rglob("*.py"))
    return f"| {title} | {len(files)} | {sum(len(file.read_text(encoding='utf-8').splitlines()) for file in files):,} |"


def drawn() -> dict[str, str]:
    """Return the parts of the page that follow from the imports alone: mark → text."""
    graph = grimp.build_graph("qcam", cache_dir=None)
    parts = {"rooms": arrows(graph, "qcam")} | {room: arrows(graph, f"qcam.{room}") for room in _WINGED}
    texts = {f"{name}: drawing": drawing(found) for name, found in parts.items()}
    return texts | {
        f"{name}: arrows": arrow_table(found, "room" if name == "rooms" else "wing") for name, found in parts.items()
    }


def measured(trees: Sequence[str]) -> dict[str, str]:
    """Return the parts that change with every line: mark → text."""
    sizes = []
    for given in trees:
        with tree_of(given) as root:
            sizes.append((given if given == REFERENCE else "now", measure(root)))
    return {"sizes": size_table(grimp.build_graph("qcam", cache_dir=None)), "before and after": table(sizes)}


def modules() -> dict[str, Path]:
    """Return every module of qcam and its file: packages only where they hold more than a docstring."""
    found = {}
    package = HERE / "src" / "qcam"
    rooms = [file for room in package.iterdir() if room.is_dir() for file in room.rglob("*.py")]  # a room is a link
    for file in sorted([*package.glob("*.py"), *rooms]):
        parts = file.relative_to(HERE / "src").with_suffix("").parts
        if parts[-1] == "__init__" and len(ast.parse(file.read_text(encoding="utf-8")).body) < 2:
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def offered(names: Mapping[str, Path]) -> dict[str, str]:
    """Return what packages offer from modules inside them: `qcam.study` → `qcam._results`.

    Args:
        names: Module → file.
    """
    found = {}
    for name, file in names.items():
        if file.name == "__init__.py":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module in names:
                    found |= {f"{name}.{alias.name}": node.module for alias in node.names}
    return found


def imported(text: str, names: Collection[str], offers: Mapping[str, str]) -> set[str]:
    """Return those modules that a program imports, anywhere in it, or whose contents it has from a package that offers them.

    Args:
        text: The program.
        names: All modules.
        offers: What packages offer (`offered`).
    """
    found: set[str] = set()
    packages: dict[str, str] = {}
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            packages |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | inner | {offers[name] for name in inner & set(offers)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{packages.get(node.value.id)}.{node.attr}"
            found |= {offers[name]} if name in offers else set()
    return found & set(names)


def tests_of() -> dict[str, list[str]]:
    """Return module → files below tests/ that import it or bear its name, in order."""
    names = modules()
    offers = offered(names)
    found: dict[str, list[str]] = {name: [] for name in names}
    for file in sorted(TESTS.rglob("*.py")):
        place = file.relative_to(TESTS)
        mine = {f"qcam.{'.'.join(place.parent.parts)}.{file.stem.removeprefix('test_')}"} & set(names)
        for name in imported(file.read_text(encoding="utf-8"), names, offers) | mine:
            found[name].append(place.as_posix())
    return found


def tests_page() -> str:
    """Return the content of tests/README.md: room by room a table of modules and their tests."""
    found = tests_of()
    text = _TESTS_HEAD.format(most=_MOST)
    for room, group in groupby(sorted(found, key=lambda name: (_room(name), name)), _room):
        text += f"\n## {room}\n\n| module | tests |\n|---|---|\n"
        for name in group:
            short = name.removeprefix("qcam.")
            through = f"through `{THROUGH[short]}`" if short in THROUGH else "**none**"
            text += f"| `{short}` | {_nearest(name, found[name]) or through} |\n"
    return text


def untested(found: Mapping[str, Sequence[str]], through: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the modules that no test imports, a line each.

    Args:
        found: Module → files that import it (`tests_of`).
        through: Modules that need none → the test file that runs them.
    """
    bare = {name.removeprefix("qcam.") for name, files in found.items() if not files}
    gone = {file for file in through.values() if not (TESTS / file).is_file()}
    advice = "write one, or name in THROUGH the one that runs it"
    return [
        *(f"{name} is imported by no test: {advice}" for name in sorted(bare - set(through))),
        *(f"{name} stands in THROUGH without need" for name in sorted(set(through) - bare)),
        *(f"{file} stands in THROUGH and is not there" for file in sorted(gone)),
    ]


def _room(module: str) -> str:
    room = module.removeprefix("qcam.").partition(".")[0]
    return "API" if room == "qcam" or room.startswith("_") else room


def _nearest(module: str, files: Sequence[str]) -> str:
    """Return the names of a module's tests, the nearest first, and how many more there are."""
    folder, _, name = module.removeprefix("qcam.").replace(".", "/").rpartition("/")
    near = sorted(files, key=lambda file: (name not in Path(file).stem, not file.startswith(f"{folder}/"), file))
    more = f" and {len(near) - _MOST} more" if len(near) > _MOST else ""
    return ", ".join(f"`{file}`" for file in near[:_MOST]) + more


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Put each part between its marks in a page.

    Raises:
        ValueError: If the page has no such marks.
    """
    for name, text in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"the page has no marks {begin} and {end}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def main() -> None:
    """Write both pages anew."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    page = filled(PAGE.read_text(encoding="utf-8"), drawn() | measured([REFERENCE, str(HERE)]))
    PAGE.write_text(page, encoding="utf-8")
    TESTS_PAGE.write_text(tests_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
