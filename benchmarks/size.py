"""Print how large a tree is: files, lines, longest function, most arguments, loose modules.

python benchmarks/size.py 7ea68d2 .
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Named:
    """A count and the function that it belongs to."""

    count: int
    name: str


@dataclass(frozen=True)
class Size:
    """How large a tree's package is.

    Attributes:
        files: Its modules.
        lines: Their lines, comments and blank ones too.
        largest: Lines of the largest module.
        longest: Lines of the longest function, its docstring too.
        widest: Arguments of the function that takes most, `self` left out.
        widest_elsewhere: The like outside of commands, where every option is an argument.
        loose: Modules that lie beside wings, room by room.
        test_files: Modules of tests.
        test_lines: Their lines.
    """

    files: int
    lines: int
    largest: Named
    longest: Named
    widest: Named
    widest_elsewhere: Named
    loose: dict[str, int]
    test_files: int
    test_lines: int


@contextmanager
def tree_of(given: str) -> Iterator[Path]:
    """Give the folder of a tree: the folder itself, or that of a commit, which is taken out of the history for the time.

    Raises:
        SystemExit: If it is neither.
    """
    if Path(given).is_dir():
        yield Path(given).resolve()
        return
    done = subprocess.run(["git", "-C", str(HERE), "archive", given], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {given} is neither a folder nor a commit of this repository's history")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def rooms_of(root: Path) -> list[Path]:
    """Return the folders of a tree that are packages, less the tests."""
    return sorted(folder for folder in root.iterdir() if folder.name != "tests" and (folder / "__init__.py").is_file())


def measure(root: Path) -> Size:
    """Measure a tree."""
    modules = [path for room in rooms_of(root) for path in sorted(room.rglob("*.py"))]
    modules += sorted((root / "src" / "qcam").glob("*.py"))
    functions = [(f"{path.relative_to(root)}: {node.name}", node) for path in modules for node in _functions(path)]
    tests = sorted((root / "tests").rglob("*.py"))
    return Size(
        files=len(modules),
        lines=sum(map(_lines, modules)),
        largest=_most([Named(_lines(path), str(path.relative_to(root))) for path in modules]),
        longest=_most([Named((node.end_lineno or node.lineno) - node.lineno + 1, name) for name, node in functions]),
        widest=_most([Named(_arguments(node), name) for name, node in functions]),
        widest_elsewhere=_most([Named(_arguments(node), name) for name, node in functions if not _is_command(node)]),
        loose={room.name: count for room in rooms_of(root) if (count := _loose(room))},
        test_files=len(tests),
        test_lines=sum(map(_lines, tests)),
    )


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _functions(path: Path) -> Iterator[_Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, _Function):
            yield node


def _arguments(node: _Function) -> int:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    return sum(argument is not None and argument.arg not in ("self", "cls") for argument in given)


def _is_command(node: _Function) -> bool:
    """Tell whether a function is a command of click: one of its decorators is `….command(…)`."""
    return any("command" in ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list)


def _loose(room: Path) -> int:
    """Count the modules beside the wings of a room; none are loose in a room without wings."""
    wings = [folder for folder in room.iterdir() if (folder / "__init__.py").is_file()]
    return len([path for path in room.glob("*.py") if path.name != "__init__.py"]) if wings else 0


def _most(counts: Sequence[Named]) -> Named:
    return max(counts, key=lambda named: named.count)


def table(sizes: Sequence[tuple[str, Size]]) -> str:
    """Return sizes as a Markdown table, a column for each tree."""
    rows = {
        "modules": [str(size.files) for _, size in sizes],
        "lines": [f"{size.lines:,}" for _, size in sizes],
        "largest module": [_told(size.largest) for _, size in sizes],
        "longest function, lines": [_told(size.longest) for _, size in sizes],
        "most arguments": [_told(size.widest) for _, size in sizes],
        "most arguments, commands left out": [_told(size.widest_elsewhere) for _, size in sizes],
        "loose modules beside wings": [", ".join(f"{room} {n}" for room, n in size.loose.items()) or "0" for _, size in sizes],
        "test modules": [str(size.test_files) for _, size in sizes],
        "lines of tests": [f"{size.test_lines:,}" for _, size in sizes],
    }
    lines = ["| | " + " | ".join(name for name, _ in sizes) + " |", "|---|" + "---|" * len(sizes)]
    return "\n".join(lines + [f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows.items()])


def _told(named: Named) -> str:
    return f"{named.count} (`{named.name}`)"


def main() -> None:
    """Measure the trees given and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="+", metavar="FOLDER|COMMIT")
    sizes = []
    for given in parser.parse_args().trees:
        with tree_of(given) as root:
            sizes.append((given, measure(root)))
    print(table(sizes))


if __name__ == "__main__":
    main()
