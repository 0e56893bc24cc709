"""A report of one run or several: the page, the table for a paper, and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from qcam.common import telling
from qcam.common.errors import QcamError
from qcam.common.places import file_names, require_own, write_inside
from qcam.evaluate.report.charts import distribution, overview
from qcam.evaluate.report.checks import check_table, depth_charts, find_checks
from qcam.evaluate.report.choice import choose
from qcam.evaluate.report.clipping import clipping_figures
from qcam.evaluate.report.csv_file import RunFigures, as_csv, several_as_csv
from qcam.evaluate.report.grid import draw_grid
from qcam.evaluate.report.latex import as_latex
from qcam.evaluate.report.options import ReportOptions
from qcam.evaluate.report.page import distribution_heading, page
from qcam.evaluate.report.runs import Column, Run, columns, name_runs, precisions_of
from qcam.evaluate.results.folder import REPORT, Results
from qcam.evaluate.results.records import UNKNOWN_WEIGHTS
from qcam.evaluate.showing.canvas import Chart, figure_bytes

#: Folder of the figures, in that of the report.
FIGURES = "figures"
_FORMS = ("png", "svg")
_CSV, _LATEX = "table.csv", "table.tex"
#: What shows that a file is a report's.
_MARKS = {REPORT: b"<title>qcam", _CSV: b"model,precision,comparison,metric,", _LATEX: b"% mean and standard deviation over"}
#: Rows of a picture grid for a paper: what fits a page.
_GRID_ROWS = 6
_METRICS = ("CC", "SIM", "KLD")
#: Comparisons whose distributions are drawn, in their order.
_DRAWN = ("vs_f32", "vs_saliency", "fake_quant_vs_deployed", "on_model")


def report_on(results: Sequence[Results], output: Path, options: ReportOptions | None = None) -> list[Path]:
    """Write a report, and tell what a reader of it has to know (arguments and errors as in `write_report`).

    Returns:
        The files that were written, the page first.
    """
    earlier = (output / REPORT).exists()
    with telling.status("drawing"):
        written = write_report(results, output, options)
    for item in results:
        if not item.record.complete:
            telling.warn(f"{item.folder} is not complete: the report is of the images that were finished")
        if not item.verified:
            telling.note(f"{item.folder} is of an earlier version, without checksums: its files are not verified")
    if earlier:
        telling.note(f"{output} held an earlier report; it was replaced")
    return written


def write_report(results: Sequence[Results], output: Path, options: ReportOptions | None = None) -> list[Path]:
    """Write report.html, table.csv, table.tex and figures/ of one run, or of several side by side.

    Args:
        results: The runs; the first is what the others are held against.
        output: Folder to write into; an earlier report there is replaced, other files stay.
        options: What can be chosen.

    Returns:
        The files that were written, the page first.

    Raises:
        QcamError: If a run holds nothing to report, names do not fit, a check cannot be read, a file in the way was not written
            for a report, or the disk refuses.
    """
    options = options or ReportOptions()
    runs = name_runs(results, options.names)
    for run in runs:
        run.results.require_readable()
    every = columns(runs)
    if not every:
        raise QcamError(f"{runs[0].results.folder} holds no model; run {{qcam-eval}} again with {{force}}")
    checks = find_checks(runs, options.checks)
    glance = overview(every)
    distributions = []
    for comparison in _DRAWN:
        metrics = ("drop",) if comparison == "on_model" else _METRICS
        found = [chart for metric in metrics if (chart := distribution(every, comparison, metric)) is not None]
        if found:
            distributions.append((distribution_heading(comparison), found))
    depths = depth_charts(checks, precisions_of(every))
    clipping = clipping_figures(every)
    text = page(runs, every, glance, distributions, depths, check_table(checks), options, clipping)
    charts = [chart for _, found in distributions for chart in found] + depths + [each.chart for each in clipping]
    if glance is not None:
        charts.insert(0, glance)
    drawn = [chart.name for chart in charts] + [name for name, _, _ in _named_grids(runs)]
    figures = [name for chart in drawn for name in _figure_files(chart)]
    require_own(output, _MARKS, figures, "qcam")
    written = [
        write_inside(output, name, content) for name, content in ((REPORT, text), (_CSV, _csv(runs)), (_LATEX, _latex(every)))
    ]
    for chart in charts:
        written += _write_figure(output, chart)
    for chart in _grids(runs, options):
        written += _write_figure(output, chart)
    return written


def _write_figure(output: Path, chart: Chart) -> list[Path]:
    return [
        write_inside(output, name, figure_bytes(chart.figure, form))
        for name, form in zip(_figure_files(chart.name), _FORMS, strict=True)
    ]


def _figure_files(chart: str) -> list[str]:
    """Return the names of a chart's files."""
    return [f"{FIGURES}/{chart}.{form}" for form in _FORMS]


def _named_grids(runs: Sequence[Run]) -> list[tuple[str, Run, str]]:
    """Return the picture grids that there may be: name, run and model."""
    every = [(run, model) for run in runs for model in run.results.models]
    bundles = [run.record.models[model].bundle for run, model in every]
    several = len(runs) > 1
    wanted = [
        f"grid-{bundle}-{run.name}" if several else f"grid-{bundle}" for bundle, (run, _) in zip(bundles, every, strict=True)
    ]
    return [(name, run, model) for name, (run, model) in zip(file_names(wanted), every, strict=True)]


def _grids(runs: Sequence[Run], options: ReportOptions) -> Iterator[Chart]:
    """Draw the picture grid of every model of every run."""
    for name, run, model in _named_grids(runs):
        images = [item.image for item in choose(run.figures[model], min(_GRID_ROWS, options.pictures), options.seed)]
        figure = draw_grid(run.results, model, images, options.colormap) if images else None
        if figure is not None:
            yield Chart(name, model, "", figure)


def _csv(runs: Sequence[Run]) -> str:
    """Return every figure, one line each; with a column for the run where there are several."""
    if len(runs) == 1:
        return as_csv(runs[0].summary.entries, _weights(runs[0]))
    return several_as_csv({run.name: RunFigures(run.summary.entries, _weights(run)) for run in runs})


def _weights(run: Run) -> dict[str, str]:
    """Return model → one word for what its weights are."""
    return {model: of.weights.word for model, of in run.record.models.items()}


def _latex(every: Sequence[Column]) -> str:
    """Return the table in the paper's layout; a column for each model and run."""
    entries = (replace(entry, model=column.title) for column in every for entry in column.entries.values())
    return as_latex(entries, [f"{column.title}: {UNKNOWN_WEIGHTS}" for column in every if column.trained is None])
