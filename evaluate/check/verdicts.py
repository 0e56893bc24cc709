"""What a check found, as a table, as JSON, as JUnit XML, and as a picture of agreement over depth."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

from rich.markup import escape
from rich.table import Table

from qcam.common.files import readable_json
from qcam.evaluate.check.checker import LOGITS, CheckResult, TensorResult

CHECK_JSON, JUNIT_XML = "check.json", "junit.xml"
#: Version of check.json.
SCHEMA_VERSION = 1
#: Figures that can be gated on, with what they are.
GATES = {
    "codes": "share of equal codes over all tensors",
    "tap": "share of equal codes at the tap",
    "logits": "share of images with bitwise equal logits",
    "logits_close": "share of images with logits equal within float rounding",
    "top1": "share of images with the same top-1 class",
    "cc": "mean CC of simulated v. deployed CAM",
    "cc_min": "smallest CC of any image",
    "sim": "mean SIM",
    "sim_min": "smallest SIM of any image",
}
#: Those of them that need codes: they say nothing about float.
CODE_GATES = frozenset({"codes", "tap"})
#: What a result is, in the words of the table.
HOLDS, FALLS_SHORT, UNDEFINED, INFORMATION = "holds", "falls short", "undefined", "–"


@dataclass(frozen=True)
class Gate:
    """A threshold that a figure has to reach.

    Attributes:
        name: One of `GATES`.
        threshold: The smallest value that holds.
        value: What was measured; None if it could not be.
    """

    name: str
    threshold: float
    value: float | None

    @property
    def holds(self) -> bool:
        """Tell whether the figure reaches the threshold; an undefined one does not."""
        return self.value is not None and self.value >= self.threshold

    @property
    def sentence(self) -> str:
        """Return figure and threshold in words."""
        found = "undefined" if self.value is None else f"{self.value:.6g}"
        return f"{self.name} = {found}, at least {self.threshold:g} wanted ({GATES[self.name]})"


@dataclass(frozen=True)
class Judged:
    """A result with its gates.

    Attributes:
        result: What was measured.
        gates: What it has to reach; empty where it is told for information only.
    """

    result: CheckResult
    gates: tuple[Gate, ...]

    @property
    def holds(self) -> bool:
        """Tell whether every gate holds."""
        return all(gate.holds for gate in self.gates)

    @property
    def verdict(self) -> str:
        """Return the verdict: `HOLDS`, `FALLS_SHORT`, `UNDEFINED` (a figure is) or `INFORMATION` (nothing was asked of it)."""
        if not self.gates:
            return INFORMATION
        if any(gate.value is not None and not gate.holds for gate in self.gates):
            return FALLS_SHORT
        return HOLDS if self.holds else UNDEFINED


_HEADINGS = (
    "precision", "simulated as", "codes at tap", "all codes", "max diff", "logit error", "top-1", "SIM", "CC", "CC min", "KLD",
    "verdict",
)  # fmt: skip
#: Columns that the headings, and one result, take in a terminal when results stand side by side.
_HEAD_WIDTH, _CELL_WIDTH = 17, 20


def as_tables(judged: Sequence[Judged], title: str, width: int | None = None) -> list[Table]:
    """Return the verdict as one table a model, one row for each precision and arithmetic.

    Args:
        judged: What was measured.
        title: Stands behind the model's name.
        width: Columns of the terminal; where rows do not fit, results stand side by side instead. None does not limit.
    """
    tables = []
    for model in dict.fromkeys(item.result.model for item in judged):
        rows = [_cells(item) for item in judged if item.result.model == model]
        heading = escape(f"{model}, {title}")
        lengths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        if width is None or sum(lengths) + 3 * len(lengths) + 1 <= width:
            tables.append(_table(heading, _HEADINGS, rows, left=2))
            continue
        at_once = max(1, (width - _HEAD_WIDTH) // _CELL_WIDTH)
        for start in range(0, len(rows), at_once):
            turned = list(zip(_HEADINGS, *rows[start : start + at_once], strict=True))
            tables.append(_table(heading, turned[0], turned[1:], left=1))
    return tables


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(escape(heading), justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _cells(item: Judged) -> list[str]:
    result, figures = item.result, item.result.figures
    error = sum(image.logit_error for image in result.images) / len(result.images)
    largest = result.largest_difference
    return [
        result.precision,
        result.arithmetic + (f" ({result.kernel})" if result.kernel else ""),
        share(figures["tap"]),
        share(figures["codes"]),
        "–" if largest is None else f"{largest:.0f}",
        f"{error:.1e}" if error else "0",
        share(figures["top1"]),
        *(_number(figures[name]) for name in ("sim", "cc", "cc_min", "kld")),
        item.verdict,
    ]


def tensor_table(result: CheckResult) -> Table:
    """Return every tensor in graph order: equal from the images on, and with its operator fed with the deployed codes."""
    table = Table(title=escape(f"{result.title}: every tensor"), title_justify="left", title_style="bold")
    for name in ("tensor", "operator"):
        table.add_column(name, overflow="fold")
    for name in ("end to end", "max diff", "fed", "max diff"):
        table.add_column(name, justify="right", no_wrap=True)
    for tensor in result.tensors:
        table.add_row(
            escape(tensor.name.removesuffix("_QuantizeLinear_Output")), escape(tensor.operator), share(tensor.share),
            f"{tensor.largest:.3g}", share(tensor.forced_share), f"{tensor.forced_largest:.3g}",
        )  # fmt: skip
    table.caption = "fed: with the deployed codes of its inputs; only an operator that computes something else differs then"
    table.caption_justify = "left"
    return table


def share(value: float | None) -> str:
    """Return a share in per cent, never rounded up to 100 %."""
    if value is None:
        return "–"
    if value == 1:
        return "100 %"
    return f"{value * 100:.2f} %" if value < 0.9999 else f"{min(value * 100, 99.999999):.6f} %"


def json_text(judged: Sequence[Judged], further: Mapping[str, Any]) -> str:
    """Return check.json: everything that was measured, and what was run."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "holds": all(item.holds for item in judged),
        **further,
        "results": [result_json(item) for item in judged],
    }
    return readable_json(_finite(value))


def junit_text(judged: Sequence[Judged]) -> str:
    """Return JUnit XML: a suite for each result, a test case for each gate (a figure that is undefined is an error)."""
    root = ElementTree.Element("testsuites", name="qcam-check")
    for item in judged:
        suite = ElementTree.SubElement(root, "testsuite", name=item.result.title)
        simulated = f"{item.result.arithmetic} {item.result.kernel}".strip()
        classname = f"qcam.{item.result.model}.{item.result.precision}"
        for gate in item.gates:
            name = f"{simulated} {gate.name} >= {gate.threshold:g}"
            case = ElementTree.SubElement(suite, "testcase", classname=classname, name=name)
            if not gate.holds:
                kind = "error" if gate.value is None else "failure"
                ElementTree.SubElement(case, kind, message=gate.sentence).text = blame(item.result)
        if not item.gates:
            case = ElementTree.SubElement(suite, "testcase", classname=classname, name=simulated)
            ElementTree.SubElement(case, "skipped", message="none of the gates asked for applies; for information only")
        _count(suite)
    _count(root)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _count(suite: ElementTree.Element) -> None:
    """Write the numbers of test cases and of what became of them into a suite's attributes."""
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(list(suite.iter(tag)))))


def blame(result: CheckResult) -> str:
    """Say which operator differs first, if any does."""
    tensor = result.first_difference()
    if tensor is None:
        return f"{result.title}: no operator differs"
    if not result.coded:
        return f"{result.title}: the logits differ; without codes, operators cannot be told apart"
    fed = tensor.forced_share is not None
    value = tensor.forced_share if fed else tensor.share
    largest = tensor.forced_largest if fed else tensor.largest
    what = "values" if tensor.name == LOGITS else "codes"
    how = "fed with the deployed codes" if fed else "the first that differs"
    return (
        f"{result.title}: {tensor.operator} → {tensor.name}, {how}: {share(value)} of its {what} equal, "
        f"largest difference {largest:g}"
    )


def depth_picture(result: CheckResult) -> bytes:
    """Draw the share of equal codes over depth, both ways; returns PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    tensors = result.coded
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions = range(1, len(tensors) + 1)
    axes.plot(
        positions, [tensor.share for tensor in tensors], color="#0072b2", marker="o", linewidth=4, label="from the image on"
    )
    if tensors and tensors[0].forced is not None:
        fed = [tensor.forced_share or 0.0 for tensor in tensors]
        axes.plot(positions, fed, color="#d55e00", marker=".", label="each operator fed with the deployed codes")
    axes.set(
        title=f"{result.title} v. deployed on {result.provider}",
        xlabel="quantized tensor, in graph order",
        ylabel="share of equal codes",
    )
    lowest = min((min(tensor.share, tensor.forced_share or 1) for tensor in tensors), default=0)
    margin = 0.05 * (1 - lowest) or 0.005
    axes.set_ylim((0.9 if lowest == 1 else lowest) - margin, 1 + 2 * margin)
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    first = result.first_difference()
    if first in tensors:
        at = tensors.index(first)
        value = first.share if first.forced_share is None else first.forced_share
        label = f"first to differ: {first.operator}"
        side = "right" if at > len(tensors) / 2 else "left"
        axes.annotate(label, (at + 1, value), xytext=(0, 10), textcoords="offset points", ha=side, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def result_json(item: Judged) -> dict[str, Any]:
    """Return a result with its gates as JSON-ready values."""
    result = item.result
    first = result.first_difference()
    return {
        "model": result.model,
        "precision": result.precision,
        "arithmetic": result.arithmetic,
        "kernel": result.kernel,
        "provider": result.provider,
        "exact": result.exact,
        "holds": item.holds,
        "verdict": "for information" if item.verdict == INFORMATION else item.verdict,
        "gates": [asdict(gate) | {"holds": gate.holds} for gate in item.gates],
        "figures": result.figures,
        "undefined_cams": result.undefined,
        "largest_code_difference": result.largest_difference,
        "first_difference": None if first is None else {"tensor": first.name, "operator": first.operator},
        "worst_images": [image.image for image in result.worst_images()],
        "missing_tensors": list(result.missing),
        "remarks": result.remarks,
        "images": [asdict(image) for image in result.images],
        "tensors": [_tensor_json(tensor) for tensor in result.tensors],
    }


def _tensor_json(tensor: TensorResult) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "operator": tensor.operator,
        "elements": tensor.elements,
        "equal": tensor.share,
        "largest_difference": tensor.largest,
        "equal_fed_with_deployed_codes": tensor.forced_share,
        "largest_difference_fed_with_deployed_codes": tensor.forced_largest if tensor.forced is not None else None,
    }


def _finite(value: Any) -> Any:
    """Return JSON-ready values with None for what JSON has no number for: a broken file may return anything."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _number(value: float | None) -> str:
    """Return a figure with four places; what is nearly 1 does not pass for 1."""
    if value is None:
        return "–"
    return "> 0.9999" if 0.99995 <= value < 1 - 1e-6 else f"{abs(value) if abs(value) < 5e-5 else value:.4f}"
