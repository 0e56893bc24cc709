"""Other tools' files of the tiny network become fixtures of the tests: no test needs a tool.

    python benchmarks/foreign/fixtures.py [FILES] [--output tests/data/foreign]

FILES is what `make.py` wrote. Files of at most 100 kB are taken, with the float file that all were made of; manifest.json says
of each which tool wrote it, in which version, how it was asked, and its SHA-256; README.md the same for readers. Of files with
the same bytes the first is kept, and the manifest names the others. The folder is written anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from qcam.commands import console
from qcam.common.files import readable_json, write_atomically

BUILD = Path("build") / "foreign"
FOLDER = Path("tests") / "data" / "foreign"
TINY = "tiny"
#: The largest file that is taken.
LARGEST = 100_000

_README = """# Files of other tools

Made by `make foreign`, then `python benchmarks/foreign/fixtures.py`: one network of 6,000 random weights (seed 16; 3 × 32 × 32
in, 10 logits out; convolution, depthwise convolution, residual Add, pooling, Gemm), quantized by tools of other people, each in
an environment of its own, calibrated with the 20 evaluation photographs. They prove that codes are equal and that files are
read right; no figure made with them means anything else. `tiny.onnx` is the float file, `tiny.json` says how it takes pictures.

The scripts are `benchmarks/foreign/tools/TOOL.py`; `manifest.json` is the table below for tests, with every file's SHA-256.

| file | tool | version | asked for as | bytes |
|---|---|---|---|---:|
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", type=click.Path(path_type=Path), default=BUILD / "files")
@click.option("--inputs", type=click.Path(path_type=Path), default=BUILD / "inputs", show_default=True, help="Of make.py.")
@click.option("--output", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Written anew.")
def main(files: Path, inputs: Path, output: Path) -> None:
    """Copy the tiny network's files, and write manifest and README."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(files.glob(f"*-{TINY}.json"))]
    entries = list(_entries(rows, files))
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for suffix in (".onnx", ".json"):
        shutil.copyfile(inputs / f"{TINY}{suffix}", output / f"{TINY}{suffix}")
    for entry in entries:
        shutil.copyfile(files / entry["file"], output / entry["file"])
    source = {"file": f"{TINY}.onnx", "sha256": hashlib.sha256((inputs / f"{TINY}.onnx").read_bytes()).hexdigest()}
    write_atomically(output / "manifest.json", readable_json({"float": source, "files": entries}))
    write_atomically(output / "README.md", _README + "\n".join(_lines(entries)) + "\n")
    console.out.print(f"written: {output}, {len(entries)} files", markup=False)


def _entries(rows: Sequence[dict[str, Any]], files: Path) -> Iterable[dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["message"] or len(row["files"]) != 1 or row["bytes"] > LARGEST:
            console.note(f"{row['tool']}-{row['variant']}: {row['message'] or 'not a single small file'}; left out")
            continue
        ((name, sha256),) = row["files"].items()
        if any(str(folder).encode() in (files / name).read_bytes() for folder in (Path.cwd(), Path.home(), sys.prefix)):
            raise click.ClickException(f"{name} names a folder of this machine: let the tool's script leave that out")
        package = row["requirements"][0].partition("==")[0].partition("[")[0]
        found = {
            "file": name, "tool": row["name"], "package": package, "version": row["versions"][package.lower()],
            "variant": row["variant"], "how": row["how"], "sha256": sha256, "bytes": row["bytes"],
        }  # fmt: skip
        first = seen.setdefault(sha256, found)
        if first is not found:
            first.setdefault("same_as", []).append(f"{row['tool']}-{row['variant']}")
    return seen.values()


def _lines(entries: Iterable[dict[str, Any]]) -> Iterable[str]:
    for entry in entries:
        same = f"; the same bytes: {', '.join(entry['same_as'])}" if "same_as" in entry else ""
        tool = f"{entry['tool']} | `{entry['package']}` {entry['version']}"
        yield f"| `{entry['file']}` | {tool} | {entry['how']}{same} | {entry['bytes']:,} |"


if __name__ == "__main__":
    main()
