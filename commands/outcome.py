"""What a finished run tells: the table on the terminal and in files, what is odd, the pictures and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc

from qcam.commands import console
from qcam.common.errors import QcamError
from qcam.common.files import write_atomically
from qcam.evaluate.report import COLORMAPS, ReportOptions
from qcam.evaluate.report.table import as_markdown, as_rich, placement_section
from qcam.evaluate.report.table_files import as_csv, as_latex, flip_section, interval_section, paired_section, paper_section
from qcam.evaluate.results.folder import PROFILE, RESULTS, TABLE, Results
from qcam.evaluate.run.stages import StageClock, describe, to_trace

#: Images that are named of each oddity.
_NAMED = 3


def known_colormap(name: str) -> None:
    """Refuse a colour map that is not one of the report's.

    Raises:
        QcamError: Names the choices.
    """
    if name not in COLORMAPS:
        raise QcamError(f"colour map {name!r} is unknown; choose one of {', '.join(COLORMAPS)}")


def tell(results: Results, where: str) -> None:
    """Print the table, write it in Markdown, CSV and LaTeX, and name what is odd.

    Args:
        results: A run.
        where: Where results go, for messages.

    Raises:
        QcamError: If not one image could be evaluated, or the disk refuses.
    """
    run, summary, folder = results.run, results.summary, results.folder
    entries = summary["entries"]
    title = f"{len(results.images)} images, provider {run['provider']}"
    if any(line.startswith("fallback accepted") for line in run["warnings"]):
        title += " — NOT WHOLLY ON IT, see below"
    for table in as_rich(entries, title, console.out.width if console.out.is_terminal else None):
        console.out.print(table)
    untrained = [model for model, of in run["models"].items() if not of["weights"].get("trained")]
    compared = paper_section(entries, untrained)
    if compared is not None:
        console.out.print(compared.as_rich())
    for line in run["notes"]:
        console.out.print(line, style="dim", markup=False)
    for warning in run["warnings"]:
        console.warn(warning)
    footer = "".join(f"- {line}\n" for line in [*run["notes"], *run["warnings"]])
    below = (compared, interval_section(summary), flip_section(summary), paired_section(summary))
    sections = [
        f"{title}\n\n{as_markdown(entries)}\n{footer}",
        *(section.as_markdown() for section in below if section is not None),
        placement_section(results.placement),
    ]
    write_atomically(folder / TABLE, "\n".join(section for section in sections if section))
    write_atomically(folder / "table.csv", as_csv(summary, untrained))
    write_atomically(folder / "table.tex", as_latex(summary))
    _name_what_is_odd(results, where)


def draw(results: Results, where: str, *, grid_rows: int, report: bool, colormap: str) -> None:
    """Write the picture grids and the report.

    Args:
        results: A run.
        where: Where results go, for the last line.
        grid_rows: Images in each grid; 0 for none.
        report: Whether to write report.html and figures/.
        colormap: Colours of CAMs.
    """
    folder = results.folder
    with console.err.status("drawing"):
        if grid_rows:
            from qcam.evaluate.report.grid import write_grids

            write_grids(results, grid_rows, colormap)
        if report:
            from qcam.evaluate.report.write import write_report

            write_report([results], folder, ReportOptions(colormap=colormap))
    shown = ["report.html"] * report + ["table.md", "results.parquet", "maps.parquet", "summary.json", "run.json"]
    console.out.print(f"results: {where}/ ({', '.join(shown)} …)", markup=False)


def write_profile(clock: StageClock, folder: Path) -> None:
    """Print where the time went since the sessions were opened, and write each stage's spans in Chrome's trace format.

    Args:
        clock: Of the run; it has kept its spans.
        folder: Where profile.json goes.
    """
    for line in describe(clock.spans, clock.elapsed):
        console.out.print(line, markup=False, highlight=False)
    write_atomically(folder / PROFILE, json.dumps(to_trace(clock.spans) | {"seconds": clock.elapsed}))


def _name_what_is_odd(results: Results, where: str) -> None:
    table = results.read(RESULTS, columns=["image", "status", "top1"])
    if pc.all(pc.is_null(table["top1"])).as_py() is not False:
        count = len(results.images)
        raise QcamError(f"not one of {count} images could be evaluated; {where}/results.parquet says why for each")
    odd = table.filter(pc.not_equal(table["status"], "ok"))
    names: dict[str, dict[str, None]] = {}
    for status, image in zip(odd["status"].to_pylist(), odd["image"].to_pylist(), strict=True):
        if not status.startswith("no_reference: no salient-object maps"):
            names.setdefault(status, {})[image] = None
    for status, found in names.items():
        unique = list(found)
        more = f" and {len(unique) - _NAMED} more" if len(unique) > _NAMED else ""
        console.warn(f"{status}: {', '.join(unique[:_NAMED])}{more}")
