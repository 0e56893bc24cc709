"""What a check found, as a table, as JSON, as JUnit XML, and as a picture of agreement over depth."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.table import Table

from qcam.common.files import readable_json, write_atomically
from qcam.evaluate.check import LOGITS, CheckResult, TensorResult

CHECK_JSON, JUNIT_XML = "check.json", "junit.xml"
#: Version of check.json.
SCHEMA_VERSION = 1
#: Figures that can be gated on, with what they are.
GATES = {
    "codes": "share of equal codes over all tensors",
    "tap": "share of equal codes at the tap",
    "logits": "share of images with bitwise equal logits",
    "top1": "share of images with the same top-1 class",
    "cc": "mean CC of simulated v. deployed CAM",
    "cc_min": "smallest CC of any image",
    "sim": "mean SIM",
    "sim_min": "smallest SIM of any image",
}


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


def as_tables(judged: Sequence[Judged], title: str) -> list[Table]:
    """Return the verdict as one table a model, one row for each precision and arithmetic."""
    models = dict.fromkeys(item.result.model for item in judged)
    return [_table([item for item in judged if item.result.model == model], f"{model}, {title}") for model in models]


def _table(judged: Sequence[Judged], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("precision")
    table.add_column("simulated as")
    for name in ("codes at tap", "all codes", "max diff", "logit error", "top-1", "SIM", "CC", "CC min", "KLD"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for item in judged:
        result, figures = item.result, item.result.figures
        error = sum(image.logit_error for image in result.images) / len(result.images)
        largest = result.largest_difference
        table.add_row(
            result.precision,
            result.arithmetic + (f" ({result.kernel})" if result.kernel else ""),
            share(figures["tap"]),
            share(figures["codes"]),
            "–" if largest is None else f"{largest:.0f}",
            f"{error:.1e}" if error else "0",
            share(figures["top1"]),
            *(_number(figures[name]) for name in ("sim", "cc", "cc_min", "kld")),
            "for information" if not item.gates else "holds" if item.holds else "falls short",
        )
    return table


def tensor_table(result: CheckResult) -> Table:
    """Return every tensor in graph order: equal from the images on, and with its operator fed with the deployed codes."""
    table = Table(title=f"{result.title}: every tensor", title_justify="left")
    for name, justify in (("tensor", "left"), ("operator", "left"), ("end to end", "right"), ("max diff", "right"),
                          ("fed with deployed codes", "right"), ("max diff", "right")):  # fmt: skip
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for tensor in result.tensors:
        table.add_row(
            tensor.name, tensor.operator, share(tensor.share), f"{tensor.largest:g}", share(tensor.forced_share),
            f"{tensor.forced_largest:g}",
        )  # fmt: skip
    return table


def share(value: float | None) -> str:
    """Return a share in per cent, never rounded up to 100 %."""
    if value is None:
        return "–"
    if value == 1:
        return "100 %"
    return f"{value * 100:.2f} %" if value < 0.9999 else f"{min(value * 100, 99.999999):.6f} %"


def write_json(folder: Path, judged: Sequence[Judged], further: Mapping[str, Any]) -> None:
    """Write check.json: everything that was measured, and what was run."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "holds": all(item.holds for item in judged),
        **further,
        "results": [result_json(item) for item in judged],
    }
    write_atomically(folder / CHECK_JSON, readable_json(value))


def write_junit(folder: Path, judged: Sequence[Judged]) -> None:
    """Write JUnit XML: a suite for each result, a test case for each gate."""
    root = ElementTree.Element("testsuites", name="qcam-check")
    for item in judged:
        if not item.gates:
            continue
        failed = [gate for gate in item.gates if not gate.holds]
        suite = ElementTree.SubElement(
            root, "testsuite", name=item.result.title, tests=str(len(item.gates)), failures=str(len(failed)), errors="0",
            skipped="0",
        )  # fmt: skip
        for gate in item.gates:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"qcam.{item.result.model}.{item.result.precision}",
                name=f"{item.result.arithmetic} {item.result.kernel} {gate.name} >= {gate.threshold:g}".replace("  ", " "),
            )  # fmt: skip
            if not gate.holds:
                ElementTree.SubElement(case, "failure", message=gate.sentence).text = blame(item.result)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    write_atomically(folder / JUNIT_XML, text + "\n")


def blame(result: CheckResult) -> str:
    """Say which operator differs first, if any does."""
    tensor = result.first_difference()
    if tensor is None:
        return f"{result.title}: no operator differs"
    fed = tensor.forced_share is not None
    value = tensor.forced_share if fed else tensor.share
    largest = tensor.forced_largest if fed else tensor.largest
    what = "values" if tensor.name == LOGITS else "codes"
    how = "fed with the deployed codes" if fed else "the first that differs"
    return (
        f"{result.title}: {tensor.operator} → {tensor.name}, {how}: {share(value)} of its {what} equal, "
        f"largest difference {largest:g}"
    )


def draw_depth(path: Path, result: CheckResult) -> None:
    """Draw the share of equal codes over depth, both ways, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tensors = result.coded
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions = range(1, len(tensors) + 1)
    axes.plot(positions, [tensor.share for tensor in tensors], color="#0072b2", marker=".", label="from the image on")
    if tensors and tensors[0].forced is not None:
        fed = [tensor.forced_share or 0.0 for tensor in tensors]
        axes.plot(positions, fed, color="#d55e00", marker=".", label="each operator fed with the deployed codes")
    axes.set(
        title=f"{result.title} v. deployed on {result.provider}",
        xlabel="quantized tensor, in graph order",
        ylabel="share of equal codes",
    )
    lowest = min((min(tensor.share, tensor.forced_share or 1) for tensor in tensors), default=0)
    axes.set_ylim(lowest - 0.05 * (1 - lowest) - 1e-9, 1 + 0.05 * (1 - lowest) + 1e-9)
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
    write_atomically(path, buffer.getvalue())


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


def _number(value: float | None) -> str:
    """Return a figure with four places; what is nearly 1 does not pass for 1."""
    if value is None:
        return "–"
    return "> 0.9999" if 0.99995 <= value < 1 - 1e-6 else f"{abs(value) if abs(value) < 5e-5 else value:.4f}"
