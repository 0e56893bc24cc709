"""What the figures of a part can be at all: a part with others was made by a broken machine, or was not made by qcam.

Whether a figure within its bounds is right is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

#: Rounding may take a figure so far beyond its bounds.
_ROUNDING = 1e-6
#: Column of a row → lowest and highest value; None for any finite one. Where a figure is undefined it is null, never NaN.
BOUNDS: Mapping[str, tuple[float, float | None]] = {
    "SIM": (0, 1), "CC": (-1, 1), "KLD": (0, None), "rank_correlation": (-1, 1), "overlap": (0, 1), "energy_in_object": (0, 1),
    "native_SIM": (0, 1), "native_CC": (-1, 1), "drop": (0, 1), "target_class": (0, None), "top1": (0, None),
    "label": (0, None), "logit_error": (0, None), "codes_equal": (0, 1), "crossings": (0, None),
}  # fmt: skip
#: How the status of a row begins whose network returned NaN or infinity: its maps may hold NaN.
_NOT_FINITE = "not_finite"
_COUNTS = ("values", "low", "high")
#: All that is counted of a quantizer; none of it is negative.
_COUNTED = (*_COUNTS, "below", "above", "squares")


def out_of_bounds(table: pa.Table) -> str:
    """Say what in a part cannot be; empty if all of it can.

    Looked at are the ranges of figures in rows and reference rows, that every image has the same rows and none twice, the sizes
    and values of maps, the sizes of pictures, and the counts of clipped values.

    Args:
        table: The part: one row per image, with the columns `rows`, `references`, `maps`, `pictures` and `clipping`.
    """
    for column in ("rows", "references"):
        wrong = _wrong_rows(column, pc.list_flatten(table[column]))
        if wrong:
            return wrong
    rows = pc.list_flatten(table["rows"])
    keys = zip(*(pc.struct_field(rows, name).to_pylist() for name in ("model", "precision", "comparison")), strict=True)
    images = [list(islice(keys, count)) for count in pc.list_value_length(table["rows"]).to_pylist()]
    if any(len(set(each)) < len(each) for each in images):
        return "holds a row twice"
    if any(set(each) != set(images[0]) for each in images):
        return "holds other rows of one image than of another"
    return _wrong_maps(table) or _wrong_pictures(table) or _wrong_clipping(table)


def _wrong_rows(column: str, rows: pa.ChunkedArray) -> str:
    for name, (low, high) in BOUNDS.items():
        values = pc.drop_null(pc.struct_field(rows, name))
        if not len(values):
            continue
        if not pa.types.is_integer(values.type) and not _all(pc.is_finite(values)):
            return f"holds NaN or infinity as {name} in {column}"
        found = pc.min_max(values)
        least, most = found["min"].as_py(), found["max"].as_py()
        if least < low - _ROUNDING or (high is not None and most > high + _ROUNDING):
            value, allowed = least if least < low else most, f"{low} to {high}" if high is not None else f"{low} or more"
            return f"holds {name} {value:g} in {column}, which is {allowed}"
    return ""


def _wrong_maps(table: pa.Table) -> str:
    maps = pc.list_flatten(table["maps"])
    values, height, width = (pc.struct_field(maps, name) for name in ("values", "height", "width"))
    sizes = pc.multiply(height, width)
    if not _all(pc.and_(pc.equal(pc.list_value_length(values), sizes), pc.and_(pc.greater(height, 0), pc.greater(width, 0)))):
        return "holds a map with another number of values than its height and width say"
    parents = pc.list_parent_indices(values)
    strange = set(pc.unique(pc.filter(parents, pc.is_nan(pc.list_flatten(values)))).to_pylist())
    if not strange:
        return ""
    rows = pc.list_flatten(table["rows"])
    undefined = pc.filter(rows, pc.starts_with(pc.struct_field(rows, "status"), _NOT_FINITE)).to_pylist()
    allowed = {(row["image"], row["model"], row["precision"]) for row in undefined}
    told = maps.take(pa.array(sorted(strange), pa.int64())).to_pylist()
    if any((each["image"], each["model"], each["precision"]) not in allowed for each in told):
        return "holds NaN in a map whose network returned finite values"
    return ""


def _wrong_pictures(table: pa.Table) -> str:
    pictures = pc.list_flatten(table["pictures"])
    sizes = [pc.greater(pc.struct_field(pictures, name), 0) for name in ("width", "height")]
    filled = pc.greater(pc.binary_length(pc.struct_field(pictures, "photo")), 0)
    return "" if all(map(_all, (*sizes, filled))) else "holds an empty picture"


def _wrong_clipping(table: pa.Table) -> str:
    clipping = pc.list_flatten(table["clipping"])
    columns = {name: pc.struct_field(clipping, name) for name in ("tensors", "lowest", "highest", *_COUNTED)}
    lengths = [pc.list_value_length(column) for column in columns.values()]
    if not all(_all(pc.equal(length, lengths[0])) for length in lengths[1:]):
        return "holds counts of other quantizers than it names"
    counted = {name: pc.list_flatten(columns[name]) for name in _COUNTED}
    if any(pc.any(pc.less(values, 0), min_count=0).as_py() for values in counted.values()):
        return "holds a negative count of clipped values"
    if not _all(pc.less_equal(pc.add(counted["low"], counted["high"]), counted["values"])):
        return "holds more clipped values than values"
    return ""


def _all(found: pa.ChunkedArray) -> bool:
    """Tell whether all of some answers are yes, and none is missing."""
    return found.null_count == 0 and bool(pc.all(found, min_count=0).as_py())
