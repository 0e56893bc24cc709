"""What a report says first: the few sentences that its figures come down to, and what a reader has to be warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcam.common.counted import counted
from qcam.evaluate.report.answer import answers
from qcam.evaluate.report.runs import Column, Run, held_against, precisions_of
from qcam.evaluate.report.scale import sentences
from qcam.evaluate.results.records import UNKNOWN_WEIGHTS, Entry
from qcam.evaluate.showing.numbers import figure, share

_PUBLISHED = "published for these models"
#: Settings that a sentence names.
_SETTINGS = 3
#: What is said of a null row that is not 1.
_MOVED = "differs from itself"
_INCOMPLETE = "The run was interrupted: figures are of the images that were finished. The same qcam-eval command goes on."
_RANDOM = "seeded weights stand in for trained ones. The machinery runs; no figure made with them means anything."
_UNKNOWN = f"{UNKNOWN_WEIGHTS}. Figures are shown; none is held against a published one."


def findings(columns: Sequence[Column]) -> list[str]:
    """Return the main results in words; models with random weights are left out where there are any others."""
    trained = [column for column in columns if column.trained is not False]
    told = trained or list(columns)
    wanted = {(column.run.name, column.model): column.title for column in told}
    scaled = [
        (wanted[run.name, of.model], of)
        for run in dict.fromkeys(column.run for column in told)
        for of in run.summary.scale
        if (run.name, of.model) in wanted
    ]
    answered = answers((column.title, column.model, column.run.summary) for column in told)
    lines = [*answered, *sentences(scaled)]
    null_rows = [row for row in (_null_row(told), _other_null_rows(told)) if row]
    lines += [_without_f32(told), *(row for row in null_rows if _MOVED in row)]
    drifts = [_drift(told, precision) for precision in _quantized(told)]
    lines += [line for line in drifts if not answered or _PUBLISHED in line]  # means and classes are in the answers
    # int16 runs in float on most providers; it says something where there is nothing coarser.
    simulated = [precision for precision in _quantized(told) if precision != "int16"] or ["int16"]
    lines += [*(_simulation(told, precision) for precision in simulated), "" if answered else _flips(told)]
    lines += [row for row in null_rows if _MOVED not in row]
    if trained and len(trained) < len(columns):
        left = len({column.model for column in columns} - {column.model for column in trained})
        lines.append(f"These sentences leave out {counted(left, 'model')} with random weights." if left else "")
    return [line for line in lines if line]


def between_runs(
    runs: Sequence[Run], rows: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any]]
) -> tuple[list[str], bool]:
    """Return in words how far runs differ from the first, and in which settings.

    Args:
        runs: All of them, the first with which the others are compared among them.
        rows: From `comparison.image_differences`.
        settings: From `comparison.plan_differences`.

    Returns:
        A sentence or two for each other run; and whether every run holds the same models, precisions and images, with CAMs and
        classes equal to the last bit, so that what is true of one is true of all.
    """
    lines, same = [], True
    base = runs[0]
    for place, other in enumerate(runs[1:], 1):
        found = [row for row in rows if row["run"] == other.name]
        line, equal = _between(base, other, found)
        same &= equal
        changed = [
            f"{of['name'].rpartition('.')[2]} ({mine} and {theirs})"
            for of in settings
            if (mine := of["values"][0]["brief"]) != (theirs := of["values"][place]["brief"])
        ]
        if changed:
            more = f" and {len(changed) - _SETTINGS} more" if len(changed) > _SETTINGS else ""
            line += f" Settings that differ: {', '.join(changed[:_SETTINGS])}{more}."
        lines.append(line)
    if same:
        lines.append(f"The sentences below are about {base.name}, and hold for each of the others.")
    return lines, same


def _between(base: Run, other: Run, found: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """Return what differs, and whether nothing does."""
    held = [row for row in found if row["maps"]]
    maps, equal = sum(row["maps"] for row in held), sum(row["equal_maps"] for row in held)
    if not maps:
        return f"No CAM of {other.name} can be held against one of {base.name}: no model, image and crop in common.", False
    changed, known = sum(row["changed"] for row in found), sum(row["images"] for row in found)
    if equal == maps and not changed:
        whole = all(row["images"] == row["all_images"] and row["maps"] for row in found) and _models(base) == _models(other)
        where = "" if whole else " in what both hold"
        told = f"nothing differs{where}. {counted(maps, 'CAM')} equal, bit for bit; no top-1 class changed."
        return f"{other.name} against {base.name}: {told}", whole
    line = f"{other.name} against {base.name}: {equal:,} of {counted(maps, 'CAM')} equal, bit for bit"
    ranked = sorted((row for row in held if row["smallest"] is not None), key=lambda row: float(row["smallest"]))
    if equal < maps and ranked:
        worst = ranked[0]
        line += f"; smallest CC between two {figure(worst['smallest'])} ({worst['model']} {worst['precision']})"
    return f"{line}; another top-1 class in {changed:,} of {known:,}.", False


def _models(run: Run) -> dict[str, list[str]]:
    return {model: list(run.results.precisions(model)) for model in run.results.models}


def alarms(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return what a reader has to see before any figure: a heading and a sentence each."""
    several = len(runs) > 1
    found = []
    for run in runs:
        of = f" of {run.name}" if several else ""
        if not run.complete:
            found.append((f"Not complete{of}", _INCOMPLETE))
        random = [model for model in run.results.models if run.trained(model) is False]
        if random:
            found.append((f"Random weights{of}", f"{', '.join(random)}: {_RANDOM}"))
        unknown = [model for model in run.results.models if run.trained(model) is None]
        if unknown:
            found.append((f"Warning{of}", f"{', '.join(unknown)}: {_UNKNOWN}"))
        found += [(f"Warning{of}", warning) for warning in run.record.warnings if "random weights" not in warning]
    return found


def _quantized(columns: Sequence[Column]) -> list[str]:
    return [precision for precision in precisions_of(columns) if precision != "f32"]


def _means(columns: Sequence[Column], comparison: str, precision: str) -> list[tuple[float, Column, Entry]]:
    """Return mean CC of every column that has one, the smallest first."""
    found = [(column, column.entries.get((comparison, precision, "CC"))) for column in columns]
    means = [(entry.mean, column, entry) for column, entry in found if entry is not None and entry.mean is not None]
    return sorted(means, key=lambda of: of[0])


def _null_row(columns: Sequence[Column]) -> str:
    found = _means(columns, "vs_f32", "f32")
    if not found:
        return ""
    moved = [(mean, column) for mean, column, _ in found if mean != 1]
    if not moved:
        return "Null row: f32 run a second time gives the very same CAMs (CC exactly 1), so drift is quantization's."
    lowest, worst = moved[0]
    return (
        f"Null row: f32 {_MOVED}, mean CC down to {figure(lowest)} ({worst.title}). "
        "Drift of that size is not quantization's."
    )


def _without_f32(columns: Sequence[Column]) -> str:
    models = [column.title for column in columns if column.without_f32]
    return f"No f32 in the bundle: nothing is held against it ({', '.join(models)})." if models else ""


def _other_null_rows(columns: Sequence[Column]) -> str:
    """Tell of the null rows of bundles without f32."""
    found = [
        (mean, column, precision)
        for precision in precisions_of(columns)
        for mean, column, _ in _means(columns, "vs_itself", precision)
    ]
    if not found:
        return ""
    moved = sorted((of for of in found if of[0] != 1), key=lambda of: of[0])
    if moved:
        lowest, worst, precision = moved[0]
        return f"Null row: {precision} {_MOVED}, mean CC down to {figure(lowest)} ({worst.title})."
    names = ", ".join(dict.fromkeys(precision for _, _, precision in found))
    return f"Null row without f32: {names} run a second time gives the very same CAMs (CC exactly 1)."


def _drift(columns: Sequence[Column], precision: str) -> str:
    found = _means(columns, "vs_f32", precision)
    if not found:
        return ""
    (low, low_column, _), (high, high_column, _) = found[0], found[-1]
    line = f"{precision} against f32: mean CC {figure(low)} ({low_column.title})"
    if len(found) > 1:
        line += f" to {figure(high)} ({high_column.title})"
    known = [paper[0] for _, column, entry in found if column.trained and (paper := held_against(entry)) is not None]
    if known:
        line += f"; {_PUBLISHED}: {_span(known)}"
    return line + "."


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def _simulation(columns: Sequence[Column], precision: str) -> str:
    found = _means(columns, "fake_quant_vs_deployed", precision)
    if not found:
        return ""
    lowest, worst, _ = found[0]
    line = f"Fake-quant simulation predicts the deployed {precision} CAM to mean CC {figure(lowest)} at least ({worst.title})"
    skills = [column.entries.get(("fake_quant_vs_deployed", precision, "skill_SIM")) for column in columns]
    known = sorted(entry.mean for entry in skills if entry is not None and entry.mean is not None)
    if known:
        reach = share(known[0]) if len(known) == 1 else f"{share(known[0])} to {share(known[-1])}"
        line += f"; of the drift from f32 (1 - SIM) it foretells {reach}"
    return f"{line}."


def _flips(columns: Sequence[Column]) -> str:
    wanted = {(column.run.name, column.model) for column in columns}
    told = []
    for precision in _quantized(columns):
        found = [
            flip
            for run in dict.fromkeys(column.run for column in columns)
            for flip in run.summary.flips
            if flip.precision == precision and (run.name, flip.model) in wanted
        ]
        known = sum(flip.flipped + flip.kept for flip in found)
        if known:
            flipped = sum(flip.flipped for flip in found)
            told.append(f"{precision} {flipped:,} of {known:,} ({share(flipped / known)})")
    return f"Top-1 class changed: {', '.join(told)}." if told else ""
