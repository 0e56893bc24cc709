"""A study held against gates: a gate holds, or falls short, only where its interval leaves no doubt; else it is undecided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common.verdict import Verdict, together, told_apart
from qcam.evaluate.gates.asked import FIGURES, Figure, GateRequest, least_value
from qcam.evaluate.maps.statistics import LEVEL, exact_share, paired_ratio_interval, sign_test, studentized_interval
from qcam.evaluate.results.folder import Columns, Results
from qcam.evaluate.results.summary import right_answers, shared_places

#: Fewer images than so many have no interval of a mean: too many resamples of two or three are of one image alone.
_FEWEST = 4
#: More images than so many are not asked for: the figure lies on its bound.
_MOST_IMAGES = 10_000_000
_Array = NDArray[np.float64]
_Interval = tuple[float, float]
_ModelColumns = dict[tuple[str, str], Columns]


@dataclass(frozen=True)
class JudgedGate:
    """A gate of one model at one precision.

    Attributes:
        model: Model id.
        precision: Precision.
        request: What was asked.
        verdict: What came out.
        value: The figure; for `drift` the share of images on which it is below that of the reference; None if undefined.
        low: Lower end of its interval; None where there is none: of the worst image, of too few images.
        high: Upper end.
        n: Of how many images.
        undefined: Images left out, for the figure is undefined there.
        copies: Images left out, for others have the same file: they are no further evidence.
        needed: How many images would decide it if the figure stays as it is; None where it is decided, or no number would.
        worst: The image that moves most; empty where none is known.
        why: Why it is undecided without an interval; empty where it is not.
        p: One-sided p of `drift`'s test; None of the others.
    """

    model: str
    precision: str
    request: GateRequest
    verdict: Verdict
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    undefined: int = 0
    copies: int = 0
    needed: int | None = None
    worst: str = ""
    why: str = ""
    p: float | None = None

    @property
    def sentence(self) -> str:
        """Return figure, interval, bound and verdict in words."""
        asked = self.request
        if self.value is None:
            return f"{self.model} {self.precision}: {asked.figure} undecided: {self.why} ({FIGURES[asked.figure]})"
        if asked.reference is not None:
            p = "" if self.p is None else f", p {self.p:.2g}"
            below = f"{round(self.value * self.n)} of {self.n} images"
            found = f"drift below {asked.reference} on {below}{p}, more than half wanted"
        else:
            shown = [told_apart(of, asked.threshold) for of in (self.low, self.high) if of is not None]
            spread = f"{100 * LEVEL:g} %: {' to '.join(shown)}, " if shown else ""
            found = f"{asked.figure} = {told_apart(self.value, asked.threshold)} ({spread}n {self.n})"
            found += f", at least {asked.threshold:.15g} wanted"
        told = f"{self.model} {self.precision}: {found}: {self.verdict}"
        if self.undefined:
            told += f"; {self.undefined} more images are without the figure"
        if self.copies:
            told += f"; {self.copies} more images are copies of these"
        if self.verdict is not Verdict.UNDECIDED:
            return told
        if self.needed is None:
            return f"{told}; {self.why or 'the figure lies on its bound, and no number of images decides that'}"
        return f"{told}; about {self.needed:,} images would decide it, if the figure stays as it is"

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; what is infinite is left out."""
        told = asdict(self) | {"request": str(self.request), "verdict": self.verdict.value, "sentence": self.sentence}
        return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in told.items()}


@dataclass(frozen=True)
class StudyVerdict:
    """What a study's gates say together.

    Attributes:
        gates: Each gate of each model, in the order in which they were asked.
    """

    gates: tuple[JudgedGate, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the verdict of all; undecided where nothing was judged."""
        return together(gate.verdict for gate in self.gates) or Verdict.UNDECIDED

    @property
    def reason(self) -> str:
        """Return why it does not hold, a line for each gate to blame; empty if it holds."""
        return "\n".join(gate.sentence for gate in self.gates if gate.verdict is self.verdict is not Verdict.HOLDS)


def judge(results: Results, gates: Sequence[GateRequest]) -> StudyVerdict:
    """Hold the results of a study against gates.

    Args:
        results: A run.
        gates: What is asked (`read_gates`).

    Returns:
        The verdict: of every model that is run at a gate's precision.
    """
    judged = []
    for model in results.models:
        copies, columns = _without_copies(results.columns(model))
        references = _without_copies(results.references(model))[1]
        run = dict.fromkeys(precision for precision, comparison in columns if comparison == "vs_f32" and precision != "f32")
        for gate in gates:
            wanted = [gate.precision] if gate.precision else list(run)
            found = [_judged(model, name, gate, columns, references) for name in wanted if name in run]
            judged += [replace(each, copies=copies) for each in found]
    return StudyVerdict(tuple(judged))


def _without_copies(columns: _ModelColumns) -> tuple[int, _ModelColumns]:
    """Count images whose file is that of an earlier one, and leave them out."""
    left, found = 0, {}
    for key, of in columns.items():
        places = np.sort(np.unique(of["image_sha256"].astype(str), return_index=True)[1])
        left = max(left, len(of["image_sha256"]) - len(places))
        found[key] = {name: values[places] for name, values in of.items()}
    return left, found


def _judged(model: str, precision: str, gate: GateRequest, columns: _ModelColumns, references: _ModelColumns) -> JudgedGate:
    """Return the gate judged; it holds only if it does with the lowest figures on images where the precision alone has none."""
    found = _defined(model, precision, gate, columns, references)
    count, filled = _lost(precision, columns)
    if found.verdict is not Verdict.HOLDS or not count:
        return found
    if _defined(model, precision, gate, columns | filled, references).verdict is Verdict.HOLDS:
        return found
    why = f"on {count} images f32 has a map or a class, and {precision} has none"
    return replace(found, verdict=Verdict.UNDECIDED, why=why)


def _lost(precision: str, columns: _ModelColumns) -> tuple[int, _ModelColumns]:
    """Count images on which f32 has a map or a class, and a precision none; return its columns with the lowest figures there.

    A map that has become constant, or logits that are no numbers, are as far from f32's as can be. Pictures that were refused,
    and maps that are constant at f32 too, say nothing.
    """
    moved, own, null = columns[precision, "vs_f32"], columns[precision, "vs_saliency"], columns.get(("f32", "vs_f32"))
    maps = ~np.isfinite(moved["CC"])
    if null is None:  # nobody knows whether f32's is constant as well
        maps &= np.array([str(status).startswith(("constant_cam", "not_finite")) for status in moved["status"]], bool)
    else:
        maps &= np.isfinite(null["CC"])
    classes = np.isfinite(columns["f32", "vs_saliency"]["top1"]) & ~np.isfinite(own["top1"])
    worst = {"CC": np.where(maps, -1.0, moved["CC"]), "SIM": np.where(maps, 0.0, moved["SIM"])}
    worst["top1_agrees"] = np.where(classes, 0.0, moved["top1_agrees"])
    none = {"top1": np.where(classes, -1.0, own["top1"])}  # no label
    return int((maps | classes).sum()), {(precision, "vs_f32"): moved | worst, (precision, "vs_saliency"): own | none}


def _defined(model: str, precision: str, gate: GateRequest, columns: _ModelColumns, references: _ModelColumns) -> JudgedGate:
    """Return the gate judged by the images on which its figure is defined."""
    moved = columns[precision, "vs_f32"]
    by = "SIM" if gate.figure in (Figure.SIM, Figure.WORST_SIM) else "CC"
    worst = "" if not np.isfinite(moved[by]).any() else str(moved["image"][int(np.nanargmin(moved[by]))])
    if gate.figure is Figure.DRIFT:
        unit = next((found for (_, name), found in references.items() if name == gate.reference), None)
        return _drift(JudgedGate(model, precision, gate, Verdict.UNDECIDED, None, worst=worst), moved, unit)
    if gate.figure is Figure.ACCURACY:
        both = (columns["f32", "vs_saliency"], columns[precision, "vs_saliency"])
        return _accuracy(JudgedGate(model, precision, gate, Verdict.UNDECIDED, None, worst=worst), *map(right_answers, both))
    values = moved["top1_agrees" if gate.figure is Figure.TOP1 else by]
    known = values[np.isfinite(values)]
    n, undefined = len(known), len(values) - len(known)
    base = JudgedGate(model, precision, gate, Verdict.UNDECIDED, None, n=n, undefined=undefined, worst=worst)
    threshold = _threshold(gate)
    if not n:
        return replace(base, why="no image has the figure")
    if gate.figure in (Figure.WORST_CC, Figure.WORST_SIM):
        least = float(known.min())
        return replace(base, value=least, verdict=Verdict.HOLDS if least >= threshold else Verdict.FALLS_SHORT)
    mean = float(known.mean())
    if gate.figure is Figure.TOP1:
        right = float(known.sum())
        return _decided(base, mean, lambda factor: exact_share(right * factor, n * factor))
    if n < _FEWEST:
        return replace(base, value=mean, why=f"an interval of a mean needs {_FEWEST} images at least; give more")
    low, high = studentized_interval(known)
    low, high = max(low, least_value(gate.figure)), min(high, 1.0)
    # The ends come nearer as one through the root of the number of images.
    return _decided(base, mean, lambda factor: (mean - (mean - low) / factor**0.5, mean + (high - mean) / factor**0.5))


def _decided(base: JudgedGate, value: float, interval: Callable[[float], _Interval]) -> JudgedGate:
    """Return the gate decided by an interval, which is asked for some times as many images too."""
    threshold = _threshold(base.request)

    def verdict(factor: float) -> Verdict:
        low, high = interval(factor)
        return Verdict.HOLDS if low >= threshold else Verdict.FALLS_SHORT if high < threshold else Verdict.UNDECIDED

    low, high = interval(1.0)
    found = replace(base, value=value, low=low, high=high, verdict=verdict(1.0))
    if found.verdict is not Verdict.UNDECIDED:
        return found
    return replace(found, needed=_needed(base.n, lambda count: verdict(count / base.n) is not Verdict.UNDECIDED))


def _accuracy(base: JudgedGate, first: _Array, second: _Array) -> JudgedGate:
    """Hold the accuracy of a precision against f32's, as MLPerf does."""
    known = np.isfinite(first) & np.isfinite(second)
    n = int(known.sum())
    base = replace(base, n=n, undefined=len(known) - n)
    one, other = first[known] == 1, second[known] == 1
    both, gained, lost = (int(part.sum()) for part in (one & other, ~one & other, one & ~other))
    if not n:
        return replace(base, why="no image is labelled; give {labels}")
    if not both + lost:
        return replace(base, why="f32 is right on no image: look at the labels")
    return _decided(
        base, (both + gained) / (both + lost),
        lambda factor: paired_ratio_interval(both * factor, gained * factor, lost * factor, n * factor),
    )  # fmt: skip


def _drift(base: JudgedGate, moved: Columns, unit: Columns | None) -> JudgedGate:
    """Test whether the drift of most images is below that of a reference row, exactly."""
    if unit is None:
        return replace(base, why=f"there are no reference rows of {base.request.reference}")
    shared = shared_places(moved, unit)
    differences = unit["CC"] - moved["CC"][shared]
    found = sign_test(differences)
    base = replace(base, n=found.n, undefined=len(shared) - found.n)
    if not found.n or found.p is None or found.p_above is None:
        return replace(base, why="no image has the figure")
    alpha = 1 - LEVEL
    verdict = Verdict.HOLDS if found.p <= alpha else Verdict.FALLS_SHORT if found.p_above <= alpha else Verdict.UNDECIDED
    share, above = found.below / found.n, float((differences > 0).sum()) / found.n
    base = replace(base, value=share, verdict=verdict, p=found.p)
    if verdict is not Verdict.UNDECIDED:
        return base
    return replace(base, needed=_needed(found.n, lambda count: _sign_decides(share, above, count)))


def _sign_decides(share: float, above: float, count: int) -> bool:
    from scipy.stats import binom

    return min(float(binom.sf(round(part * count) - 1, count, 0.5)) for part in (share, above)) <= 1 - LEVEL


def _needed(n: int, decides: Callable[[int], bool]) -> int | None:
    """Return the least number of images above n that decides, as far as doubling and halving find it; None if none does."""
    low, high = n, 2 * n
    while not decides(high):
        low, high = high, 2 * high
        if low > _MOST_IMAGES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def _threshold(gate: GateRequest) -> float:
    return 0.0 if gate.threshold is None else gate.threshold
