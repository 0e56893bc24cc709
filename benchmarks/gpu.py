"""Records what qcam does on a GPU, and writes it into docs/gpu.md: `make gpu`.

    python benchmarks/gpu.py [BUNDLE]... [--images N] [--rehearse]

Each step runs in a process of its own and leaves a record in build/gpu; a step that has one of the same files and versions is
not run again, and one that fails leaves its message in the table and does not stop the others. Nothing is fetched: bundles and
photographs have to be there (`make gpu-pieces` packs them, with the wheels that another machine lacks, into pieces that are
small enough to be carried). Without a GPU nothing is recorded: the reason is printed, and the page stays as it is.

`--rehearse` takes the CPU provider in CUDA's place, to try the steps where there is no GPU. It prints the page, and writes
none: nothing of it comes from a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from gpu_steps import STEPS, Asked, why_not

from qcam.common import machine
from qcam.common.files import fingerprint, readable_json, sha256_file, write_atomically
from qcam.runtime.bundle import load_bundle

BUILD = Path("build") / "gpu"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "gpu.md"
#: What is between these lines of the page is written by this script alone.
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
#: Longest time of a step, in seconds.
_PATIENCE = 540


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
@click.option("--images", "count", default=20, show_default=True, type=click.IntRange(1, 20), help="Photographs.")
@click.option("--step", "only", multiple=True, type=click.Choice(list(STEPS)), help="Run these alone; all by default.")
@click.option("--rehearse", is_flag=True, help="Take the CPU in the GPU's place, and write no page.")
@click.option("--inside", is_flag=True, hidden=True, help="This is the process of a step: print its record.")
def main(bundles: tuple[Path, ...], count: int, only: tuple[str, ...], rehearse: bool, inside: bool) -> None:
    """Record every step and write the page."""
    # SqueezeNet ends in a Conv: its null row asks for more than a Gemm's. Its weights are seeded, for equality alone.
    usual = [Path("bundles") / name for name in ("efficientnet_lite0", "squeezenet1_1")]
    folders = bundles or tuple(folder for folder in usual if folder.is_dir()) or tuple(usual[:1])
    asked = Asked(tuple(folder.resolve() for folder in folders), count, "CPU" if rehearse else "CUDA", BUILD.resolve())
    if inside:
        click.echo(json.dumps(STEPS[only[0]].run(asked)))
        return
    for folder in asked.bundles:
        if not (folder / "bundle.json").is_file():
            raise click.UsageError(f"{folder} is no bundle; make it with qcam-export")
    reason = why_not(asked.provider)
    if reason:
        click.echo(f"skipped, nothing is recorded: {reason}")
        return
    records = {}
    for name in only or STEPS:
        click.echo(f"{name} …", err=True)
        records[name] = record = _record(name, asked)
        click.echo(f"{name}: {record.get('failed') or 'recorded'}", err=True)
    text = page(records, asked)
    if rehearse:
        click.echo("REHEARSAL on the CPU: nothing of this comes from a GPU\n\n" + text)
    elif not only:
        write_page(PAGE, text)
        click.echo(f"written: {PAGE.name}")


def _record(name: str, asked: Asked) -> dict[str, Any]:
    """Run a step in a process of its own, or read what an earlier run of the same left."""
    key = fingerprint(
        [name, asked.to_json(), machine.versions(), sha256_file(Path(__file__).with_name("gpu_steps.py"))]
        + [sha256_file(folder / "bundle.json") for folder in asked.bundles]
    )
    stored = BUILD / f"{asked.provider}-{name}-{key[:12]}.json"
    if stored.is_file():
        found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        return found
    command = [sys.executable, __file__, "--inside", "--step", name, "--images", str(asked.count)]
    command += ["--rehearse"] * (asked.provider == "CPU") + [str(folder) for folder in asked.bundles]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end within {_PATIENCE} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, without a word"])[-1]
        return {"failed": last[:300]}
    record: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    BUILD.mkdir(parents=True, exist_ok=True)
    write_atomically(stored, readable_json(record))
    return record


def page(records: dict[str, dict[str, Any]], asked: Asked) -> str:
    """Return the measured part of the page, Markdown.

    Args:
        records: Step → its record, or its failure.
        asked: What was asked for.
    """
    names = ", ".join(_described(folder) for folder in asked.bundles)
    lines = [f"`make gpu`: {names}, {asked.count} photographs. What failed is said where its figures would stand.", ""]
    for name, record in records.items():
        step = STEPS[name]
        lines += [f"### {step.title}", ""]
        lines += [f"Failed: {record['failed']}"] if "failed" in record else step.show(record)
        lines += [""]
    return "\n".join(lines)


def _described(folder: Path) -> str:
    """Return a bundle's name, and that its weights are random if they are."""
    trained = load_bundle(str(folder)).trained
    return folder.name if trained else f"{folder.name} (RANDOM weights: what is equal counts, no other figure)"


def write_page(path: Path, text: str) -> None:
    """Put the measured part into the page.

    Args:
        path: The page.
        text: The part, Markdown.

    Raises:
        click.ClickException: If the page does not say where the part begins and ends.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"{path} lacks the lines {BEGIN} and {END}; put them where the measured part belongs")
    write_atomically(path, f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
