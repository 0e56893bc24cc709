r"""docs/performance.md, made from what the benchmarks measured.

    python benchmarks/performance.py --speed build/speed/speed.json --evaluation build/speed/evaluation.json \
        --export build/speed/export.json --growth build/speed/growth.json --output docs/performance.md

Every figure in the page comes from these files; the words around them are in `performance.md.jinja`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qcam.common.files import write_atomically

#: What each section is made of, in the page's order.
SECTIONS = {
    "speed": "Beside bare inference and beside peers",
    "again": "The bars once more, without peers",
    "evaluation": "Whole commands",
    "export": "Export",
    "growth": "Growth",
}
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--speed", type=FILE, help="What benchmarks/speed.py measured.")
@click.option("--again", type=FILE, help="What it measured with --peers none, of this version on an idle machine.")
@click.option("--evaluation", type=FILE, help="What benchmarks/evaluation.py measured.")
@click.option("--export", type=FILE, help="What benchmarks/export.py measured.")
@click.option("--growth", type=FILE, help="What benchmarks/growth.py measured.")
@click.option("--output", default=Path("docs/performance.md"), show_default=True, type=click.Path(path_type=Path))
def main(output: Path, **given: Path | None) -> None:
    """Write the page and its curves. Sections that nothing is given for stay as they are in the page, and it says so."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True)
    environment.filters["bound"] = lambda bar: f"{'≥' if bar['at_least'] else '≤'} {bar['bound']:g}"
    read = {name: None if path is None else json.loads(path.read_text(encoding="utf-8")) for name, path in given.items()}
    about = next((told for told in read.values() if told is not None), None)
    if about is None:
        raise click.UsageError("nothing was measured: give at least one file")
    curves = output.with_suffix(".svg")
    if read["growth"] is not None:
        draw(read["growth"], curves)
    before = sections(output.read_text(encoding="utf-8")) if output.is_file() else {}
    wanted = dict(SECTIONS)
    if read["again"] is None and (read["speed"] is not None or SECTIONS["again"] not in before):
        del wanted["again"]  # it stands beside an older table, until that is made anew
    kept = [title for name, title in wanted.items() if read[name] is None]
    if missing := [title for title in kept if title not in before]:
        raise click.UsageError(f"{output} has no section {', '.join(missing)} to keep; give what was measured for it")
    versions = about["versions"]
    if isinstance(versions["qcam"], dict):  # of speed.py: those of its peers beside them
        versions = versions["qcam"]
    text = environment.get_template("performance.md.jinja").render(
        **read, machine=about["machine"], versions=versions, kept=kept, curves=curves.name,
        growth_of=lambda kind: per_image(read["growth"], kind),
    )  # fmt: skip
    found = sections(text)
    whole = [before[title] if title in kept else found[title] for title in ("", *wanted.values())]
    write_atomically(output, "".join(whole).rstrip() + "\n")


def sections(page: str) -> dict[str, str]:
    """Return the page cut at its second headings: title → text, the heading included; what is in front under no title."""
    parts = re.split(r"(?m)^(?=## )", page)
    return {part.partition("\n")[0].removeprefix("## ") if part.startswith("## ") else "": part for part in parts}


def per_image(growth: dict[str, Any], kind: str) -> list[dict[str, float]]:
    """Return the runs of one kind, with their rate."""
    return [run | {"rate": run["count"] / run["seconds"]} for run in growth[kind]]


def draw(growth: dict[str, Any], path: Path) -> None:
    """Draw time and peak memory against images, networks, batch size, threads and workers."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "qcam", "svg.fonttype": "none", "font.size": 9}):
        kinds = ("images", "networks", "batch_size", "threads", "workers")
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(2, len(kinds))
        for column, kind in enumerate(kinds):
            runs = growth[kind]
            places = [run[kind] for run in runs]
            for row, (key, unit) in enumerate((("seconds", "wall time, s"), ("peak_mib", "peak memory, MiB"))):
                axis = axes[row, column]
                axis.plot(places, [run[key] for run in runs], marker="o", color="#0072b2")
                axis.set_xlabel(kind.replace("_", " "))
                axis.set_ylabel(unit)
                if kind in ("images", "batch_size"):
                    axis.set_xscale("log", base=10 if kind == "images" else 2)
                else:
                    axis.set_xticks(places)
                if kind == "images" and key == "seconds":
                    axis.set_yscale("log")
                else:
                    axis.set_ylim(bottom=0)
                axis.grid(alpha=0.3)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
