"""`qcam-report`: result folders become a page, a table and figures; several of them are compared side by side."""

from __future__ import annotations

from pathlib import Path

import click

import qcam
from qcam.commands import console, options
from qcam.commands.options import INPUT, OUTPUT, option

#: The group of options that only this command has.
SHOWN = "What is shown"

_EPILOG = """\b
Examples:
  qcam-report out/demo
      the report of one run again, in out/report
  qcam-report out/demo --output out/demo
      in place of the one that qcam-eval wrote
  qcam-report out/demo --output paper/ --colormap jet --pictures 40
      in the paper's colours, with more pictures
  qcam-report out/cpu out/openvino --output out/compare --names CPU,OpenVINO
      two providers side by side: what differs, image by image
  qcam-report out/demo --check out/check --output out/demo
      with drift by depth, from qcam-check --every-tensor
Results: report.html (one file that loads nothing), table.csv, table.tex, and
figures/ as PNG and SVG.
Exit code: 0 done, 2 a folder cannot be read or holds results of another version,
70 a bug in qcam, 130 interrupted.
"""


@click.command("qcam-report", cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, metavar="RESULT...", type=click.Path(path_type=Path))
@option(
    "--check",
    "checks",
    group=INPUT,
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of qcam-check, for drift by depth; by default a fitting one beside the results.",
)
@option("--names", group=INPUT, metavar="A,B,…", help="What the runs are called, in their order; by default as their folders.")
@options.colormap(SHOWN)
@option(
    "--pictures",
    group=SHOWN,
    type=click.IntRange(0),
    default=24,
    show_default=True,
    help="Images shown of each model: the worst, the best, and some at random. Fewer where the page would pass 15 MB.",
)
@option(
    "--output",
    group=OUTPUT,
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out") / "report",
    show_default=True,
    help="Folder for the report; an earlier report there is replaced, other files stay.",
)
def main(
    folders: tuple[Path, ...], output: Path, checks: tuple[Path, ...], colormap: str, pictures: int, names: str | None
) -> None:
    """Write the report of each RESULT, a folder of qcam-eval; several are compared side by side, the first with all others."""
    chosen = tuple(name.strip() for name in names.split(",")) if names else ()
    written = qcam.report(folders, output, names=chosen, checks=checks, colormap=colormap, pictures=pictures)
    size = written[0].stat().st_size / 1e6
    console.out.print(f"report: {written[0]} ({size:.1f} MB), and {len(written) - 1} files beside it", markup=False)


if __name__ == "__main__":
    main()
