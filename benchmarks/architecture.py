"""Draw the floor plan from the imports, and write it into docs/architecture.md: `make architecture`.

Two kinds of parts stand between marks in the page: drawings and arrows, which a test holds against the imports
(tests/test_architecture.py), and sizes, which change with every line and are only made anew here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import grimp
from size import HERE, measure, table, tree_of

PAGE = HERE / "docs" / "architecture.md"
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
    """Write the page anew."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    page = filled(PAGE.read_text(encoding="utf-8"), drawn() | measured([REFERENCE, str(HERE)]))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
