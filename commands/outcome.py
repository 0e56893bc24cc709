"""What a finished study prints: the table, what is to be known of it, where the time went."""

from __future__ import annotations

from qcam import StudyResults
from qcam.commands import console
from qcam.common.errors import GateError, UndecidedError
from qcam.common.printable import printable
from qcam.common.verdict import Verdict
from qcam.common.wording import in_options
from qcam.evaluate.report.finishing import answered, compared_with_paper, in_units, title
from qcam.evaluate.report.sections import drift_section
from qcam.evaluate.report.terminal import main_tables, section_table


def show(found: StudyResults, *, full: bool = False) -> None:
    """Print the answer, drift beside what else moves maps, and the notes below it.

    Args:
        found: A run.
        full: Whether every figure is printed, as it stands in table.md.
    """
    results = found.stored
    width = console.out.width if console.out.is_terminal else None
    drift = drift_section(results.statistics, short=not full)
    whole = full or drift is None or not any(of.comparison == "vs_f32" for of in results.statistics.drift)
    if not whole:
        console.out.print(printable(title(results)), style="bold", markup=False)
    for table in main_tables(results.statistics.entries, title(results), width) if whole else ():
        console.out.print(table)
    for line in [*answered(results), *in_units(results)]:
        console.out.print(printable(line), markup=False, highlight=False)
    if drift is not None:
        console.out.print(section_table(drift, width))
    compared = compared_with_paper(results) if whole else None
    if compared is not None:
        console.out.print(section_table(compared, width))
    if not whole:
        console.out.print("every other figure: table.md, or --full-table", style="dim", markup=False)
    for line in [*map(str, results.record.account), *results.record.notes]:
        console.out.print(printable(line), style="dim", markup=False)


def show_end(found: StudyResults, *, report: bool) -> None:
    """Print where the results are, and where the time went, if that was asked for.

    Args:
        found: The run.
        report: Whether report.html was written.
    """
    shown = ["table.md", "results.parquet", "maps.parquet", "summary.json", "run.json"]
    if report:
        shown.insert(0, "report.html")
    console.out.print(f"results: {printable(found.place)}/ ({', '.join(shown)} …)", markup=False)
    for line in found.profile:
        console.out.print(line, markup=False, highlight=False)


def show_verdict(found: StudyResults) -> None:
    """Print what the gates say, if any were asked for.

    Args:
        found: The run.

    Raises:
        GateError: If one falls short.
        UndecidedError: If one is undecided, and none falls short.
    """
    judged = found.verdict
    if judged is None:
        return
    blamed = judged.reason.splitlines()  # which the error says
    for gate in judged.gates:
        if gate.sentence not in blamed:
            console.out.print(printable(in_options(gate.sentence)), markup=False, highlight=False)
    console.out.print(f"verdict: {judged.verdict} (verdict.md, verdict.json, junit.xml)", markup=False)
    if judged.verdict is Verdict.FALLS_SHORT:
        raise GateError(judged.reason)
    if judged.verdict is Verdict.UNDECIDED:
        raise UndecidedError(judged.reason)
