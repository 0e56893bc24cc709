"""What qcam-check found, for the report: agreement over depth, and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qcam.common.errors import QcamError, ResultsError
from qcam.common.places import file_names, refuse_unprintable
from qcam.common.records import as_record, read_record
from qcam.common.vocabulary import Arithmetic
from qcam.evaluate.report.runs import Run
from qcam.evaluate.showing.canvas import Chart, colours_of
from qcam.evaluate.showing.depth import DepthLine, depth_chart
from qcam.evaluate.showing.numbers import figure, share

_FILE = "check.json"
#: Versions of check.json that are read; the first has no verdict of the whole, and words of its own for results.
_VERSIONS = (1, 2)
#: What a result is called that was told for information only.
_INFORMATION = "for information"
#: Name under which the logits stand among the tensors; they have no codes.
_LOGITS = "logits"
_AGAIN = "run {qcam-check} again"


@dataclass(frozen=True)
class CheckedTensor:
    """One tensor of a result.

    Attributes:
        name: Its name.
        equal: Share of equal values from the image on; None if nothing was compared.
        equal_fed_with_deployed_codes: The same with its operator fed with the deployed codes; None if that was not tried.
    """

    name: str
    equal: float | None = None
    equal_fed_with_deployed_codes: float | None = None


@dataclass(frozen=True)
class CheckFigures:
    """Figures of a result, over all images; None where undefined."""

    tap: float | None = None
    codes: float | None = None
    cc: float | None = None
    cc_min: float | None = None


@dataclass(frozen=True)
class FirstDifference:
    """The first tensor whose own operator differs."""

    tensor: str
    operator: str


@dataclass(frozen=True)
class CheckedPrecision:
    """One result of a check.

    Attributes:
        model: Model id.
        precision: f32, int16, int8, or a name of another tool's.
        arithmetic: The mirror's.
        kernel: Kernel family that `integer` followed; empty otherwise.
        provider: Where the deployed run was.
        holds: Whether every gate holds.
        verdict: In the words of its version; None where it was for information only.
        figures: Over all images.
        first_difference: None if no operator differs.
        tensors: In graph order; empty unless every tensor was asked for.
    """

    model: str
    precision: str
    arithmetic: str
    kernel: str = ""
    provider: str = ""
    holds: bool = False
    verdict: str | None = None
    figures: CheckFigures = CheckFigures()
    first_difference: FirstDifference | None = None
    tensors: tuple[CheckedTensor, ...] = ()

    @property
    def simulation(self) -> str:
        """Return arithmetic and kernel family in words."""
        return f"{self.arithmetic} ({self.kernel})" if self.kernel else self.arithmetic

    @property
    def told_verdict(self) -> str:
        """Return the verdict in the words of today: version 1 called what is undecided undefined."""
        return "undecided" if self.verdict == "undefined" else self.verdict or _INFORMATION


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle that was checked."""

    fingerprint: str = ""


@dataclass(frozen=True)
class CheckRecord:
    """The content of check.json, as far as a report tells of it.

    Attributes:
        results: By model, precision and arithmetic.
        bundles: By model id.
    """

    results: tuple[CheckedPrecision, ...]
    bundles: dict[str, CheckedBundle] = field(default_factory=dict)


def read_check(folder: Path) -> CheckRecord:
    """Return the content of a check.json.

    Args:
        folder: Of qcam-check, or the file itself.

    Raises:
        QcamError: If there is none, it is of another version, or a field is of another type.
    """
    path = folder if folder.is_file() else folder / _FILE
    if not path.exists():
        raise QcamError(f"{{check}} {folder}: no {_FILE} there; make one with qcam-check {{output}} {folder}")
    value = read_record(path, dict[str, Any], advice=_AGAIN)
    version = value.get("schema_version")
    if type(version) is not int or version not in _VERSIONS:
        known = " and ".join(map(str, _VERSIONS))
        raise ResultsError(f"{path} has schema version {ascii(version)[:80]}, this qcam reads {known}; {_AGAIN}")
    check = as_record(value, CheckRecord, str(path), advice=_AGAIN)
    refuse_unprintable([item.model for item in check.results], path)
    return check


def find_checks(runs: Sequence[Run], given: Sequence[Path]) -> list[CheckRecord]:
    """Return the checks that were given; without any, those beside the results that are of the very same bundles.

    Raises:
        QcamError: If one that was given cannot be read.
    """
    if given:
        return [read_check(folder) for folder in given]
    found: dict[Path, CheckRecord] = {}
    for run in runs:
        folder, bundles = run.results.folder, run.record.plan.bundles
        for place in (folder / _FILE, folder / "check" / _FILE, folder.parent / "check" / _FILE):
            if not place.is_file() or place.resolve() in found:
                continue
            try:
                check = read_check(place)
            except QcamError:  # nobody asked for it
                continue
            same = {model for model, of in check.bundles.items() if of.fingerprint and of.fingerprint == bundles.get(model)}
            results = tuple(item for item in check.results if item.model in same)
            if results:
                found[place.resolve()] = replace(check, results=results)
    return list(found.values())


def depth_charts(checks: Sequence[CheckRecord], precisions: Iterable[str] = ()) -> list[Chart]:
    """Draw agreement over depth, a chart for each model and check.

    Args:
        checks: The checks.
        precisions: What else the report tells of: a name has one colour in all of its charts.
    """
    charts = []
    colours = colours_of([*precisions, *(item.precision for check in checks for item in check.results)])
    for place, check in enumerate(checks):
        models = list(dict.fromkeys(item.model for item in check.results))
        for model, name in zip(models, file_names(models), strict=True):
            lines = [_line(item) for item in check.results if item.model == model]
            drawn = [line for line in lines if line.shares]
            if drawn:
                charts.append(depth_chart(model, f"depth-{place}-{name}", drawn, colours=colours))
    return charts


def _line(item: CheckedPrecision) -> DepthLine:
    tensors = [of for of in item.tensors if of.name != _LOGITS]
    known = [(of.equal, of.equal_fed_with_deployed_codes) for of in tensors if of.equal is not None]
    return DepthLine(
        label=f"{item.precision}, {item.simulation}",
        precision=item.precision,
        exact=item.arithmetic == Arithmetic.INTEGER,
        shares=[equal for equal, _ in known],
        fed=[fed for _, fed in known],
    )


def check_table(checks: Iterable[CheckRecord]) -> list[dict[str, Any]]:
    """Return verdicts: a row for each model, precision and arithmetic."""
    return [
        {
            "model": item.model,
            "precision": item.precision,
            "arithmetic": item.simulation,
            "provider": item.provider,
            "tap": share(item.figures.tap),
            "codes": share(item.figures.codes),
            "cc": figure(item.figures.cc),
            "cc_min": figure(item.figures.cc_min),
            "first": "none" if (first := item.first_difference) is None else f"{first.operator} → {first.tensor}",
            "verdict": item.told_verdict,
            "holds": item.holds,
        }
        for check in checks
        for item in check.results
    ]
