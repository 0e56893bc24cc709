"""What stands beside finished results: tables in files, picture grids, the report, a profile; and what is odd about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from qcam.common import telling
from qcam.common.arguments import whole
from qcam.common.counted import counted
from qcam.common.errors import ResultsError
from qcam.common.files import write_atomically
from qcam.common.vocabulary import ColourMap, require
from qcam.evaluate.report.answer import answers
from qcam.evaluate.report.csv_file import as_csv
from qcam.evaluate.report.latex import as_latex
from qcam.evaluate.report.markdown import main_markdown, placement_markdown, section_markdown
from qcam.evaluate.report.options import ReportOptions
from qcam.evaluate.report.scale import sentences
from qcam.evaluate.report.sections import Section, drift_section, flip_section, interval_section, paired_section, paper_section
from qcam.evaluate.results.folder import PLACEMENT, PROFILE, RESULTS, TABLE, Results
from qcam.evaluate.results.records import UNKNOWN_WEIGHTS
from qcam.evaluate.run.stages import StageClock, to_trace
from qcam.evaluate.showing.markdown import escape_markdown

#: Images that are named of each oddity.
_NAMED = 3


@dataclass(frozen=True)
class Presentation:
    """What is made of finished results.

    Attributes:
        grid_rows: Images in each picture grid; 0 for none.
        report: Whether to write report.html and figures/.
        colormap: Colours of CAMs.
    """

    grid_rows: int = 8
    report: bool = True
    colormap: str = ColourMap.INFERNO

    def __post_init__(self) -> None:
        """Refuse a colour map that is not one of the report's, and a number of rows that there cannot be.

        Raises:
            QcamError: Names the choices.
        """
        object.__setattr__(self, "grid_rows", whole(self.grid_rows, "{grid_rows}", least=0))
        require(ColourMap, self.colormap, "colour map")


def finish(
    results: Results,
    where: str,
    clock: StageClock,
    presentation: Presentation,
    on_results: Callable[[Results], None] = lambda _: None,
    warnings: Iterable[str] = (),
) -> None:
    """Write what stands beside results, and tell what is odd.

    Args:
        results: A run.
        where: Where results go, for messages.
        clock: Where the time goes.
        presentation: What is made of them.
        on_results: Called when the figures are there, before pictures are drawn.
        warnings: What is told then.

    Raises:
        QcamError: If not one image could be evaluated, or the disk refuses.
    """
    with clock.stage("tables"):
        on_results(results)
        for warning in warnings:
            telling.warn(warning)
        write_tables(results)
        for line in oddities(results, where):
            telling.warn(line)
    with clock.stage("pictures and report"):
        draw(results, presentation)


def title(results: Results) -> str:
    """Return what stands above a table."""
    text = f"{counted(len(results.images), 'image')}, provider {results.record.provider}"
    if any(line.startswith("fallback accepted") for line in results.record.warnings):
        text += " — NOT WHOLLY ON IT, see below"
    return text


def answered(results: Results) -> list[str]:
    """Return the answer to the study's question, a sentence for each precision; of trained models where there are any."""
    models = results.record.models
    told = [model for model in results.models if models[model].weights.trained is not False] or results.models
    return answers((model, model, results.statistics) for model in told)


def in_units(results: Results) -> list[str]:
    """Return how large drift is in units of the reference rows; models with random weights are left out."""
    models = results.record.models
    return sentences((of.model, of) for of in results.statistics.scale if models[of.model].weights.trained is not False)


def compared_with_paper(results: Results) -> Section | None:
    """Return the section that holds figures against the paper's; None if no model is one of the paper's."""
    return paper_section(results.statistics.entries, _untrained(results))


def write_tables(results: Results) -> None:
    """Write the table in Markdown, CSV and LaTeX.

    Args:
        results: A run.

    Raises:
        QcamError: If the disk refuses.
    """
    run, summary, folder = results.record, results.statistics, results.folder
    lines = [*map(str, run.account), *run.notes, *run.warnings]
    footer = "".join(f"- {escape_markdown(line)}\n" for line in lines)
    scale = "".join(f"{escape_markdown(line)}\n\n" for line in [*answered(results), *in_units(results)])
    below = (
        drift_section(summary), compared_with_paper(results), interval_section(summary), flip_section(summary),
        paired_section(summary),
    )  # fmt: skip
    sections = [
        f"{escape_markdown(title(results))}\n\n{scale}{main_markdown(summary.entries)}\n{footer}",
        *map(section_markdown, below),
        placement_markdown(results.placement, str(folder / PLACEMENT)),
    ]
    write_atomically(folder / TABLE, "\n".join(section for section in sections if section))
    weights = {model: of.weights.word for model, of in run.models.items()}
    write_atomically(folder / "table.csv", as_csv(summary.entries, weights))
    unknown = [f"{model}: {UNKNOWN_WEIGHTS}" for model, word in weights.items() if word == "unknown"]
    write_atomically(folder / "table.tex", as_latex(summary.entries, unknown))


def oddities(results: Results, where: str) -> list[str]:
    """Say for each status other than ok which images have it.

    Args:
        results: A run.
        where: Where results go, for messages.

    Raises:
        QcamError: If not one image could be evaluated.
    """
    table = results.read(RESULTS, columns=["image", "status", "top1"])
    if pc.all(pc.is_null(table["top1"])).as_py() is not False:
        count = counted(len(results.images), "image")
        raise ResultsError(f"not one of {count} could be evaluated; {where}/results.parquet says why for each")
    odd = table.filter(pc.not_equal(table["status"], "ok"))
    names: dict[str, dict[str, None]] = {}
    for status, image in zip(odd["status"].to_pylist(), odd["image"].to_pylist(), strict=True):
        if not status.startswith("no_reference: no salient-object maps"):
            names.setdefault(status, {})[image] = None
    lines = []
    for status, found in names.items():
        unique = list(found)
        more = f" and {len(unique) - _NAMED} more" if len(unique) > _NAMED else ""
        lines.append(f"{status}: {', '.join(unique[:_NAMED])}{more}")
    return lines


def draw(results: Results, presentation: Presentation) -> None:
    """Write the picture grids and the report.

    Args:
        results: A run.
        presentation: What is made of them.
    """
    with telling.status("drawing"):
        if presentation.grid_rows:
            from qcam.evaluate.report.grid import write_grids

            write_grids(results, presentation.grid_rows, presentation.colormap)
        if presentation.report:
            from qcam.evaluate.report.write import write_report

            write_report([results], results.folder, ReportOptions(colormap=presentation.colormap))


def write_profile(clock: StageClock, folder: Path) -> None:
    """Write each stage's spans in Chrome's trace format.

    Args:
        clock: Of the run; it has kept its spans.
        folder: Where profile.json goes.
    """
    write_atomically(folder / PROFILE, json.dumps(to_trace(clock.spans) | {"seconds": clock.elapsed}))


def _untrained(results: Results) -> list[str]:
    """Return the models of which it is not known that they are trained: nothing of them is held against the paper."""
    return [model for model, of in results.record.models.items() if not of.weights.trained]
