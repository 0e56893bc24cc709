"""What the quantizers of a simulation clipped: one row per image, model and precision, and what they come to together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, isinf
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qcam.common.counted import counted
from qcam.common.errors import ResultsError, first_line
from qcam.common.records import AGAIN
from qcam.evaluate.results.records import ClippedTensor, Clipping
from qcam.runtime.bundle import precision_order

#: File of a result folder.
CLIPPING = "clipping.parquet"
#: Lines that are read at a time.
_LINES = 64
#: Share of a tensor's values above which it counts as clipped in the line under the tables.
NOTABLE = 0.001
#: Mean square of what rounding to the nearest step is off by, in squares of a step: of values spread evenly between steps.
_ROUNDING = 1 / 12


@dataclass(frozen=True)
class ClippedRow:
    """One image × model × precision: of each quantizer, in graph order.

    Attributes:
        image: The image's name in its set.
        model: Model id.
        precision: int16, int8, or a name of another tool's.
        tensors: Names of the quantizers' outputs.
        lowest: Lowest value of each range, in the tensor's units.
        highest: Highest value of each range.
        values: How many values were quantized.
        low: How many of them were clipped at the lowest code.
        high: How many at the highest.
        below: How far the farthest lay below the range, in units of the range; 0 where none did.
        above: How far above.
        squares: Sum over the clipped values of the square of the steps that they lie outside.
    """

    image: str
    model: str
    precision: str
    tensors: list[str]
    lowest: list[float]
    highest: list[float]
    values: list[int]
    low: list[int]
    high: list[int]
    below: list[float]
    above: list[float]
    squares: list[float]


_COUNTS, _SIZES = ("values", "low", "high"), ("lowest", "highest", "below", "above", "squares")
CLIPPING_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("model", pa.string()),
        ("precision", pa.string()),
        ("tensors", pa.list_(pa.string())),
        ("lowest", pa.list_(pa.float64())),
        ("highest", pa.list_(pa.float64())),
        *((name, pa.list_(pa.int64())) for name in _COUNTS),
        ("below", pa.list_(pa.float64())),
        ("above", pa.list_(pa.float64())),
        ("squares", pa.list_(pa.float64())),
    ]
)


def read_clipping(path: Path) -> list[Clipping]:
    """Return what clipping.parquet comes to, of each model and precision that has quantizers.

    Args:
        path: The file; a result folder of an earlier version has none.

    Returns:
        Empty if there is no such file, or nothing was counted. Sums are taken in the order of the images.

    Raises:
        ResultsError: If it cannot be read, or rows of one precision speak of other tensors.
    """
    if not path.is_file():
        return []
    found: dict[tuple[str, str], _Sums] = {}
    try:
        for row in _rows(pq.ParquetFile(path)):
            key = row["model"], row["precision"]
            found.setdefault(key, _Sums(row)).add(row, path)
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(f"cannot read {path}: {first_line(error)}; {AGAIN}") from error
    models = list(dict.fromkeys(model for model, _ in found))
    keys = sorted(found, key=lambda key: (models.index(key[0]), precision_order(key[1])))
    return [found[key].together(*key) for key in keys]


def clipping_lines(clipping: Iterable[Clipping], calibrated: Mapping[str, int | None] | None = None) -> list[str]:
    """Say of each model and precision whether what it loses is rather clipping or rather resolution.

    Args:
        clipping: From `read_clipping`.
        calibrated: Model id → photographs that its ranges come from, where that is known.
    """
    return [_line(each, (calibrated or {}).get(each.model)) for each in clipping if each.tensors]


def _line(told: Clipping, photographs: int | None) -> str:
    total = len(told.tensors)
    clipped = [tensor for tensor in told.tensors if tensor.low + tensor.high > NOTABLE]
    louder = [tensor for tensor in told.tensors if tensor.louder]
    line = (
        f"{told.model}, {told.precision}: {len(clipped)} of {total} quantized tensors clip more than {100 * NOTABLE:g} % of "
        "their values"
    )
    worst = max(told.tensors, key=lambda tensor: tensor.low + tensor.high)
    if worst.low + worst.high > 0:
        farthest = max(tensor.farthest for tensor in told.tensors)
        far = "infinitely far" if isinf(farthest) else f"{farthest:.2g} of its range"
        line += f" (at most {100 * (worst.low + worst.high):.2g} %; the farthest value is {far} outside)"
    source = "" if photographs is None else f" (ranges come from {counted(photographs, 'photograph')})"
    if not louder:
        line += "; rounding is the larger error in every tensor"
    elif len(louder) == total:
        line += f"; clipping is the larger error in every tensor{source}"
    else:
        line += f"; clipping is the larger error in {len(louder)}{source}, rounding in the other {total - len(louder)}"
    return f"{line} (simulation, {counted(told.images, 'image')})"


def _rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    """Yield the rows, numbers as arrays."""
    for batch in file.iter_batches(batch_size=_LINES):
        columns = {name: batch.column(name) for name in batch.schema.names}
        for line in range(batch.num_rows):
            row: dict[str, Any] = {name: columns[name][line].as_py() for name in ("model", "precision", "tensors")}
            yield row | {name: np.asarray(columns[name][line].values.to_numpy()) for name in (*_COUNTS, *_SIZES)}


def _finite(value: float) -> float | None:
    """Return a number that JSON knows, or None."""
    return float(value) if isfinite(value) else None


class _Sums:
    """What the images so far come to, of one model and precision."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._tensors: list[str] = row["tensors"]
        self._lowest, self._highest = row["lowest"], row["highest"]
        self._images = 0
        count = len(self._tensors)
        self._counts: dict[str, NDArray[Any]] = {name: np.zeros(count, np.int64) for name in _COUNTS}
        self._squares = np.zeros(count)
        self._below, self._above = np.zeros(count), np.zeros(count)

    def add(self, row: Mapping[str, Any], path: Path) -> None:
        if row["tensors"] != self._tensors:
            told = f"{row['model']} at {row['precision']}"
            raise ResultsError(f"{path} holds rows of {told} that speak of other tensors; {AGAIN}")
        self._images += 1
        for name, sums in self._counts.items():
            sums += row[name]
        self._squares += row["squares"]
        np.maximum(self._below, row["below"], out=self._below)
        np.maximum(self._above, row["above"], out=self._above)

    def together(self, model: str, precision: str) -> Clipping:
        values, low, high = (self._counts[name] for name in _COUNTS)
        some = np.maximum(values, 1)
        tensors = tuple(
            ClippedTensor(
                name=name,
                lowest=float(self._lowest[place]),
                highest=float(self._highest[place]),
                n=int(values[place]),
                low=float(low[place] / some[place]),
                high=float(high[place] / some[place]),
                below=_finite(self._below[place]),
                above=_finite(self._above[place]),
                error=_finite(self._squares[place] / some[place] / _ROUNDING) if values[place] else None,
            )
            for place, name in enumerate(self._tensors)
        )
        return Clipping(model, precision, self._images, tensors)
