"""The answer to the one question, first: does the quantized network still look at the same place?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qcam.common.counted import counted
from qcam.common.vocabulary import Reference
from qcam.evaluate.report.layout import in_order
from qcam.evaluate.results.records import NonInferiority, Spread, Summary
from qcam.evaluate.showing.numbers import figure

#: What moves maps, in a sentence.
_UNITS = {
    Reference.ONE_LEVEL: "±1 of 255", Reference.JPEG95: "JPEG 95", Reference.JPEG75: "JPEG 75",
    Reference.ONE_PIXEL: "a shift by 1 pixel", Reference.FLOOR: "another picture",
}  # fmt: skip
#: The verdict of a test, and what it answers.
_WORDS = {"less": "yes", "more": "no"}
_UNDECIDED = "undecided"
#: Below so many images no share of 1 shows that 99 % are kept (the score interval of accuracy, `gates`).
_ENOUGH = 381


@dataclass(frozen=True)
class _Of:
    """What is known of one model at one precision."""

    title: str
    drift: Spread
    mean: float
    test: NonInferiority | None
    flipped: int
    known: int
    undefined: int

    @property
    def word(self) -> str:
        """Return what the test answers; empty without one."""
        return "" if self.test is None else _WORDS.get(self.test.verdict, _UNDECIDED)


def answers(models: Iterable[tuple[str, str, Summary]]) -> list[str]:
    """Answer for each precision in a sentence, and say what the images are too few for.

    Args:
        models: What a model, or a model of a run, is called, its id, and the summary that it stands in; such with trained
            weights, where there are any.

    Returns:
        The answers; none where nothing is held against f32.
    """
    found: dict[str, list[_Of]] = {}
    for title, model, summary in models:
        for drift in summary.drift:
            if drift.model == model and drift.comparison == "vs_f32":
                found.setdefault(drift.precision, []).append(_of(title, drift, summary))
    lines = [_answer(precision, found[precision]) for precision in in_order(found)]
    counts = [of.drift.n for each in found.values() for of in each]
    if counts and min(counts) < _ENOUGH:
        few = min(counts)
        lines.append(f"{counted(few, 'image is', 'images are')} too few for a claim about accuracy.")
    return lines


def _of(title: str, drift: Spread, summary: Summary) -> _Of:
    model, precision = drift.model, drift.precision
    test = next((of for of in summary.non_inferiority if (of.model, of.precision) == (model, precision)), None)
    flip = next((of for of in summary.flips if (of.model, of.precision) == (model, precision)), None)
    mean, undefined = next(
        (of.mean, of.undefined) for of in summary.entries
        if (of.model, of.precision, of.comparison, of.metric) == (model, precision, "vs_f32", "CC") and of.mean is not None
    )  # fmt: skip
    flipped, known = (0, 0) if flip is None else (flip.flipped, flip.flipped + flip.kept)
    return _Of(title, drift, mean, test, flipped, known, undefined)


def _answer(precision: str, found: Sequence[_Of]) -> str:
    line = _one(precision, found[0]) if len(found) == 1 else _several(precision, found)
    flipped, known = sum(of.flipped for of in found), sum(of.known for of in found)
    undefined = sum(of.undefined for of in found)
    line = f"{line}; top-1 class changed in {flipped:,} of {known:,}" if known else line
    return f"{line}; {undefined:,} more images are without a figure." if undefined else f"{line}."


def _one(precision: str, of: _Of) -> str:
    told = f"mean CC {figure(of.mean)}, worst image {figure(1 - of.drift.worst)} ({of.drift.worst_image})"
    if of.test is None:
        return f"{precision} against f32: {told}"
    unit, less, n = _UNITS[Reference(of.test.reference)], of.test.below, of.test.n
    every = counted(n, "image")
    if of.word == "yes":
        return f"Yes: {precision} keeps the maps. It moves them less than {unit} does on {less} of {every}; {told}"
    if of.word == "no":
        return f"No: {precision} moves the maps more than {unit} does on {n - less} of {every}; {told}"
    return f"Undecided: {precision} moves the maps less than {unit} does on {less} of {every}; {told}"


def _several(precision: str, found: Sequence[_Of]) -> str:
    low, high = (end(found, key=lambda of: of.mean) for end in (min, max))
    worst = max(found, key=lambda of: of.drift.worst)
    told = (
        f"mean CC {figure(low.mean)} ({low.title}) to {figure(high.mean)} ({high.title}), "
        f"worst image {figure(1 - worst.drift.worst)} ({worst.drift.worst_image}, {worst.title})"
    )
    tested = [of for of in found if of.test is not None]
    if not tested or tested[0].test is None:
        return f"{precision} against f32: {told}"
    unit = _UNITS[Reference(tested[0].test.reference)]
    groups = {word: [of.title for of in tested if of.word == word] for word in ("yes", _UNDECIDED, "no")}
    said = "; ".join(f"{word} of {', '.join(titles)}" for word, titles in groups.items() if titles)
    return f"Does {precision} move the maps less than {unit} does? {said[:1].upper()}{said[1:]}. {told[:1].upper()}{told[1:]}"
