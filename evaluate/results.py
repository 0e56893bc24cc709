"""Result rows, their Parquet files, and the summary made from them. docs/results.md describes every column."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.common.files import write_atomically
from qcam.evaluate.metrics import METRICS
from qcam.runtime.bundle import PRECISIONS

#: Comparisons in the order of every table.
COMPARISONS = ("vs_saliency", "vs_f32", "fake_quant_vs_deployed")
#: Per-image figures besides the map metrics, by column, with the comparison they belong to.
FIGURES = ("logit_error", "top1_agrees", "codes_equal")


@dataclass(frozen=True)
class Row:
    """One image × model × precision × comparison.

    Attributes:
        image: The image's name in its set.
        image_sha256: Fingerprint of its file.
        model: Model id.
        precision: f32, int16 or int8.
        comparison: One of `COMPARISONS`.
        SIM: Similarity, 0..1; None where undefined.
        CC: Correlation, -1..1; None where undefined.
        KLD: Divergence in nats; None where undefined.
        target_class: The class that was explained.
        top1: The deployed run's own top-1 class.
        label: The true class, where known.
        top1_agrees: Whether top-1 is that of the reference (f32 deployed; for the fake-quant comparison: the mirror's).
        logit_error: Relative error of the logits, |difference| / |reference| in the Euclidean norm.
        codes_equal: Share of equal codes at the tap, mirror against deployed; None for float taps.
        status: `ok`, or why a metric is missing.
        remark: What was chosen for the user when the image was decoded.
    """

    image: str
    image_sha256: str
    model: str
    precision: str
    comparison: str
    SIM: float | None = None
    CC: float | None = None
    KLD: float | None = None
    target_class: int | None = None
    top1: int | None = None
    label: int | None = None
    top1_agrees: bool | None = None
    logit_error: float | None = None
    codes_equal: float | None = None
    status: str = "ok"
    remark: str = ""


_TYPES = {"int | None": pa.int64(), "float | None": pa.float64(), "bool | None": pa.bool_(), "str": pa.string()}
ROW_SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(Row)])
MAP_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("model", pa.string()),
        ("precision", pa.string()),
        ("kind", pa.string()),  # deployed or fake_quant
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("values", pa.list_(pa.float32())),  # row by row, at the tap's own resolution, not normalised
    ]
)


@dataclass(frozen=True)
class StoredMap:
    """A CAM at the tap's own resolution, as stored in maps.parquet (fields as in `MAP_SCHEMA`)."""

    image: str
    model: str
    precision: str
    kind: str
    height: int
    width: int
    values: list[float]

    @classmethod
    def of(cls, cam: NDArray[np.float64], image: str, model: str, precision: str, kind: str) -> StoredMap:
        """Store a map (height × width) in float32."""
        height, width = cam.shape
        return cls(image, model, precision, kind, height, width, cam.astype(np.float32).ravel().tolist())

    @property
    def array(self) -> NDArray[np.float64]:
        """Return the map as height × width."""
        return np.asarray(self.values, np.float64).reshape(self.height, self.width)


def write_table(path: Path, items: Iterable[Row | StoredMap], schema: pa.Schema) -> None:
    """Write rows or maps to a Parquet file that appears whole or not at all."""
    table = pa.Table.from_pylist([asdict(item) for item in items], schema=schema)
    write_arrow(path, table)


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write an Arrow table to a Parquet file that appears whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def read_arrow(path: Path) -> pa.Table:
    """Read a Parquet file.

    Raises:
        QcamError: If it cannot be read.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise QcamError(f"cannot read {path}: {str(error).splitlines()[0]}; run again with --force") from error


def read_rows(path: Path) -> list[Row]:
    """Read result rows."""
    return [Row(**item) for item in read_arrow(path).to_pylist()]


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return mean, standard deviation and counts of every figure.

    Args:
        rows: Result rows of one run.

    Returns:
        One entry per model × precision × comparison × metric: `mean` and `std` (of the population of defined values;
        null without any), `n` (defined values), `undefined` (images without one: constant maps, refused images, no
        reference). Besides SIM, CC and KLD there are `top1_agreement`, `logit_error` and `codes_equal`, and under the
        comparison `vs_label` the `accuracy`.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.precision, row.comparison), []).append(row)
    entries = []
    for model, precision, comparison in sorted(groups, key=_order(rows)):
        group = groups[(model, precision, comparison)]

        def add(metric: str, values: list[float | None], where: str, head: tuple[str, str] = (model, precision)) -> None:
            defined = [value for value in values if value is not None and math.isfinite(value)]
            entries.append(
                {
                    "model": head[0], "precision": head[1], "comparison": where, "metric": metric,
                    "mean": float(np.mean(defined)) if defined else None,
                    "std": float(np.std(defined)) if defined else None,
                    "n": len(defined), "undefined": len(values) - len(defined),
                }
            )  # fmt: skip

        for metric in METRICS:
            add(metric, [getattr(row, metric) for row in group], comparison)
        if comparison != "vs_saliency":
            add("top1_agreement", [_number(row.top1_agrees) for row in group], comparison)
            add("logit_error", [row.logit_error for row in group], comparison)
        if comparison == "fake_quant_vs_deployed" and precision != "f32":
            add("codes_equal", [row.codes_equal for row in group], comparison)
        if comparison == "vs_saliency" and any(row.label is not None for row in group):
            correct = [None if row.label is None or row.top1 is None else _number(row.label == row.top1) for row in group]
            add("accuracy", correct, "vs_label")
    return entries


def _order(rows: Sequence[Row]) -> Any:
    models = list(dict.fromkeys(row.model for row in rows))
    return lambda key: (models.index(key[0]), COMPARISONS.index(key[2]), PRECISIONS.index(key[1]))


def _number(value: bool | None) -> float | None:
    return None if value is None else float(value)
