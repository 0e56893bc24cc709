"""What quantizers clip, for the report: a strip over depth for each model, and the sentence that it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcam.common.places import file_names
from qcam.evaluate.report.runs import Column, precisions_of
from qcam.evaluate.results.clipping import clipping_lines
from qcam.evaluate.results.records import Clipping
from qcam.evaluate.showing.canvas import Chart, colours_of
from qcam.evaluate.showing.clipping import ClippedLine, clipping_chart


@dataclass(frozen=True)
class ClippingFigure:
    """One model of one run.

    Attributes:
        chart: A strip for each precision.
        lines: A sentence for each precision.
    """

    chart: Chart
    lines: Sequence[str]


def clipping_figures(columns: Sequence[Column]) -> list[ClippingFigure]:
    """Draw clipping over depth for each model of each run; none of runs that did not count it.

    Args:
        columns: Every model of every run.
    """
    found = [(column, told) for column in columns if (told := _of(column))]
    colours = colours_of([*precisions_of(columns), *(each.precision for _, told in found for each in told)])
    names = file_names([f"clipping-{column.title}" for column, _ in found])
    return [
        ClippingFigure(
            clipping_chart(column.title, name, list(map(_line, told)), colours),
            clipping_lines(told, {column.model: column.run.record.models[column.model].calibration_images}),
        )
        for (column, told), name in zip(found, names, strict=True)
    ]


def _of(column: Column) -> list[Clipping]:
    return [told for told in column.run.summary.clipping if told.model == column.model and told.tensors]


def _line(told: Clipping) -> ClippedLine:
    shares = [tensor.low + tensor.high for tensor in told.tensors]
    return ClippedLine(told.precision, shares, [tensor.louder for tensor in told.tensors])
