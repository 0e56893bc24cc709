"""Result rows, maps and pictures: their Parquet files, and how they are read back. docs/results.md describes every column.

Nothing here holds a whole study in memory: files are read by column, by model or by image.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qcam.common.errors import ResultsError
from qcam.common.files import fingerprint, readable_json, sha256_file, write_atomically
from qcam.common.places import near_folders, refuse_unprintable, require_text
from qcam.common.records import AGAIN, as_record, read_record
from qcam.evaluate.results.clipping import CLIPPING, CLIPPING_SCHEMA
from qcam.evaluate.results.records import Placements, RunRecord, Summary
from qcam.evaluate.results.tables import TableForm, read_table, require_columns, wrong_figures, wrong_maps, wrong_pictures
from qcam.images.decoding import PictureError, open_picture

#: Files of a result folder.
RESULTS, MAPS, PICTURES, IMAGES = "results.parquet", "maps.parquet", "pictures.parquet", "images.parquet"
#: Rows of `Reference`, in the columns of the results; results of earlier versions have no such file.
REFERENCES = "references.parquet"
SUMMARY, RUN, PLACEMENT, TABLE, REPORT = "summary.json", "run.json", "placement.json", "table.md", "report.html"
#: Most pixels of a stored picture: it has 224 a side at most.
STORED_PIXELS = 256 * 256
#: Where the time went, if asked for.
PROFILE = "profile.json"
#: Version of run.json and of the files beside it.
SCHEMA_VERSION = 2
#: Comparisons in the order of every table. `vs_itself` is the null row of a bundle without f32: its first precision run twice.
#: `on_model` is no comparison of maps: the picture under its CAM, shown to the model.
COMPARISONS = ("vs_saliency", "vs_f32", "vs_itself", "fake_quant_vs_deployed", "on_model")
#: Measures of a CAM besides SIM, CC and KLD, by column.
MEASURES = ("rank_correlation", "overlap", "energy_in_object", "native_SIM", "native_CC")
#: Measures of the explanation on the deployed model, by column.
FAITHFULNESS = ("drop", "increase")
#: What is counted of a CAM, by column.
COUNTS = ("crossings",)
#: Parts of summary.json whose entries are each of one model of the run.
_OF_MODELS = ("entries", "tests", "flips", "crossings", "scale", "drift", "non_inferiority", "clipping")
#: Per-image figures of the run rather than of maps, by column.
FIGURES = ("logit_error", "top1_agrees", "codes_equal")


@dataclass(frozen=True)
class Row:
    """One image × model × precision × comparison.

    Attributes:
        image: The image's name in its set.
        image_sha256: Fingerprint of its file.
        model: Model id.
        precision: f32, int16, int8, or a name of another tool's.
        comparison: One of `COMPARISONS`, or in references.parquet of `Reference`.
        SIM: Similarity, 0..1; None where undefined.
        CC: Correlation, -1..1; None where undefined.
        KLD: Divergence in nats; None where undefined.
        rank_correlation: Spearman's correlation, -1..1, at the tap's resolution; None where undefined.
        overlap: Intersection over union of the top 20 % of positions, 0..1; None where undefined.
        energy_in_object: Share of the CAM's energy inside the salient object, 0..1; vs_saliency only.
        native_SIM: Similarity at the tap's resolution, 0..1; None where undefined.
        native_CC: Correlation at the tap's resolution, -1..1; None where undefined.
        drop: Share of the class's probability that is lost when only what the CAM shows is left, 0..1; on_model only.
        increase: Whether the probability rises instead; on_model only.
        target_class: The class that was explained.
        top1: The deployed run's own top-1 class.
        label: The true class, where known.
        top1_agrees: Whether top-1 is that of the reference (f32 deployed; for the null row: the first run's; for the
            fake-quant comparison: the mirror's).
        logit_error: Relative error of the logits, |difference| / |reference| in the Euclidean norm.
        codes_equal: Share of equal codes at the tap, mirror against deployed; None for float taps.
        crossings: Positions at which Grad-CAM++'s denominator is not positive, of the CAM that is compared (for the fake-quant
            comparison, the deployed one); None of other methods.
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
    rank_correlation: float | None = None
    overlap: float | None = None
    energy_in_object: float | None = None
    native_SIM: float | None = None
    native_CC: float | None = None
    drop: float | None = None
    increase: bool | None = None
    target_class: int | None = None
    top1: int | None = None
    label: int | None = None
    top1_agrees: bool | None = None
    logit_error: float | None = None
    codes_equal: float | None = None
    crossings: int | None = None
    status: str = "ok"
    remark: str = ""


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


@dataclass(frozen=True)
class Picture:
    """What a network sees of an image, and the salient object under the same crop, small enough to keep for every image.

    Attributes:
        image: The image's name in its set.
        geometry: The crop in words: `resize 256, crop 224×224`. Models with the same one share the picture.
        width: Of the crop, in pixels.
        height: Of the crop, in pixels.
        photo: JPEG, RGB, of the crop.
        saliency: PNG, 8-bit grey, of at most 112 pixels a side; None without a map.
    """

    image: str
    geometry: str
    width: int
    height: int
    photo: bytes
    saliency: bytes | None


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
PICTURE_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("geometry", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("photo", pa.binary()),
        ("saliency", pa.binary()),
    ]
)
IMAGE_SCHEMA = pa.schema([("name", pa.string()), ("sha256", pa.string()), ("label", pa.int64())])
_ROWS = TableForm(
    ROW_SCHEMA,
    nullable=[field.name for field in fields(Row) if str(field.type) != "str"],
    later=MEASURES + FAITHFULNESS + COUNTS,
    wrong=wrong_figures,
)
#: File → what it holds.
FORMS = {
    RESULTS: _ROWS,
    REFERENCES: _ROWS,
    MAPS: TableForm(MAP_SCHEMA, wrong=wrong_maps),
    PICTURES: TableForm(PICTURE_SCHEMA, nullable=["saliency"], wrong=wrong_pictures),
    IMAGES: TableForm(IMAGE_SCHEMA, nullable=["label"]),
    CLIPPING: TableForm(CLIPPING_SCHEMA),
}

#: One comparison of one model: column → values in the order of the images, NaN where undefined; `image` as text.
Columns = dict[str, NDArray[Any]]


class Results:
    """A result folder, read as far as it is asked for.

    Attributes:
        folder: The folder.
        run: The content of run.json.
        record: The same with types, as far as it is read again.
    """

    def __init__(self, folder: Path) -> None:
        """Read run.json.

        Raises:
            ResultsError: If the folder holds no results of this version, run.json is not as it was written, or a field of it is
                of another type.
        """
        require_text(folder, "the results in")
        self.folder = folder
        path = folder / RUN
        if not folder.exists():
            advice = near_folders(folder) or "; make some with {qcam-eval}"
            raise ResultsError(f"{folder} holds no results: there is no such folder{advice}")
        if not path.is_file():
            raise ResultsError(f"{folder} holds no results: it has no {RUN}; make some with {{qcam-eval}}")
        self.run = read_run(path)
        self.record = as_record(self.run, RunRecord, str(path))
        refuse_unprintable([*self.record.models, *(model.bundle for model in self.record.models.values())], path)
        self._held: set[str] = set()

    @property
    def verified(self) -> bool:
        """Tell whether the files are held against their checksums; results of earlier versions have none."""
        return self.record.files is not None

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        return self._json(SUMMARY)

    @cached_property
    def statistics(self) -> Summary:
        """Return the content of summary.json with types.

        Raises:
            ResultsError: If a field is missing or of another type, speaks of a model that run.json does not name, or of drift
                whose mean is missing.
        """
        path = self.folder / SUMMARY
        summary = as_record(self.summary, Summary, str(path))
        for name in _OF_MODELS:
            unknown = [of.model for of in getattr(summary, name) if of.model not in self.record.models]
            if unknown:
                told = ascii(unknown[0])[:80]
                raise ResultsError(f"{path}: {name} speaks of model {told}, which {RUN} does not name; {AGAIN}")
        # What stands beside the mean of a figure says nothing without it.
        figures = [of for of in summary.entries if (of.comparison, of.metric) == ("vs_f32", "CC") and of.mean is not None]
        means = {(of.model, of.precision) for of in figures}
        for place, of in enumerate(summary.drift):
            if of.comparison == "vs_f32" and (of.model, of.precision) not in means:
                raise ResultsError(f"{path}: drift[{place}] has no mean CC v. f32 among entries; {AGAIN}")
        return summary

    @cached_property
    def placement(self) -> dict[str, Any]:
        """Return the content of placement.json: model → precision → what ran where."""
        return self._json(PLACEMENT)

    @cached_property
    def placements(self) -> Placements:
        """Return the content of placement.json with types.

        Raises:
            ResultsError: If a field is missing or of another type.
        """
        return as_record(self.placement, Placements, str(self.folder / PLACEMENT))

    @property
    def models(self) -> list[str]:
        """Return the model ids in the order of the tables."""
        return list(self.record.models)

    def precisions(self, model: str) -> list[str]:
        """Return the precisions of a model in the order of the tables."""
        return list(self.record.models[model].precisions)

    def classes(self, model: str) -> list[str]:
        """Return a model's class names in the order of its logits.

        Raises:
            ResultsError: If run.json does not say.
        """
        names = self.record.classes.get(self.record.models[model].classes)
        if names is None:
            raise ResultsError(f"{self.folder / RUN} does not name the classes of {model}; {AGAIN}")
        return list(names)

    @cached_property
    def images(self) -> list[str]:
        """Return the names of all images of the run, in its order."""
        names: list[str] = self.read(IMAGES, columns=["name"])["name"].to_pylist()
        return names

    def columns(self, model: str) -> dict[tuple[str, str], Columns]:
        """Return the figures of one model.

        Returns:
            (precision, comparison) → column → values: float64 with NaN where undefined (truth values as 0 and 1), text as
            objects; every array in the order of the images that were evaluated.
        """
        return self._columns(RESULTS, model)

    def references(self, model: str) -> dict[tuple[str, str], Columns]:
        """Return the reference rows of one model, as `columns` does; empty where none were made."""
        return self._columns(REFERENCES, model) if self.has_references else {}

    @property
    def has_references(self) -> bool:
        """Tell whether there is a file of reference rows; results of earlier versions have none."""
        return REFERENCES in (self.record.files or {})

    def _columns(self, name: str, model: str) -> dict[tuple[str, str], Columns]:
        table = self.read(name, filters=pc.field("model") == model)
        keys = list(zip(table["precision"].to_pylist(), table["comparison"].to_pylist(), strict=True))
        places: dict[tuple[str, str], list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        found = {}
        for key, where in places.items():
            part = table.take(pa.array(where))
            found[key] = {field.name: _values(part[field.name], field.type) for field in ROW_SCHEMA}
        return found

    def rows(self, *, model: str | None = None, images: Iterable[str] | None = None) -> list[Row]:
        """Return result rows, of one model or of some images if given; for a whole study prefer `columns`."""
        return [Row(**item) for item in self._some(RESULTS, model=model, images=images).to_pylist()]

    def maps(self, *, model: str | None = None, images: Iterable[str] | None = None) -> list[StoredMap]:
        """Return stored CAMs, of one model or of some images if given."""
        return [StoredMap(**item) for item in self._some(MAPS, model=model, images=images).to_pylist()]

    def pictures(self, images: Iterable[str]) -> list[Picture]:
        """Return the pictures of some images.

        Raises:
            ResultsError: If one of them is not what this program stores: a small JPEG, and a small PNG of the salient object.
        """
        found = [Picture(**item) for item in self._some(PICTURES, images=images).to_pylist()]
        for picture in found:
            for data, form in ((picture.photo, "JPEG"), (picture.saliency, "PNG")):
                try:
                    if data is not None:
                        open_picture(data, formats=(form,), max_pixels=STORED_PIXELS).close()
                except PictureError as error:
                    raise ResultsError(
                        f"{self.folder / PICTURES} holds for image {picture.image} what is no small {form}: {error}; "
                        "run {qcam-eval} again with {force}"
                    ) from error
        return found

    def _some(self, name: str, *, model: str | None = None, images: Iterable[str] | None = None) -> pa.Table:
        chosen = None
        if model is not None:
            chosen = pc.field("model") == model
        if images is not None:
            those = pc.field("image").isin(pa.array(sorted(set(images)), pa.string()))
            chosen = those if chosen is None else chosen & those
        return self.read(name, filters=chosen)

    def read(self, name: str, *, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
        """Read one of the Parquet files, or some columns and rows of it.

        Raises:
            ResultsError: If it cannot be read, or is not the file that the run wrote.
        """
        self._hold(name)
        return read_arrow(self.folder / name, columns=columns, filters=filters)

    def require_readable(self) -> None:
        """Make sure that records and tables can be read, before anything is made of them.

        Raises:
            ResultsError: If one cannot, is not the file that the run wrote, or does not hold what a run writes.
        """
        _ = self.statistics, self.placements
        for name in (RESULTS, MAPS, PICTURES, IMAGES):
            self._hold(name)
            require_columns(self.folder / name, FORMS[name])

    def _hold(self, name: str) -> None:
        """Hold a file against its checksum, once."""
        files = self.record.files
        if name in self._held or files is None:
            return
        path = self.folder / name
        wrong = unlike(path, files.get(name))
        if wrong:
            raise ResultsError(f"{path} {wrong}; run the same {{qcam-eval}} again, which computes it anew")
        self._held.add(name)

    def _json(self, name: str) -> dict[str, Any]:
        self._hold(name)
        path = self.folder / name
        return read_record(path, dict[str, Any])


def _values(column: pa.ChunkedArray, kind: pa.DataType) -> NDArray[Any]:
    if pa.types.is_string(kind):
        return np.array(column.to_pylist(), object)
    numbers: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def read_run(path: Path) -> dict[str, Any]:
    """Return the content of a run.json.

    Raises:
        ResultsError: If it cannot be read, is of another schema version, or not as it was written.
    """
    run = read_record(path, dict[str, Any])
    version = run.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ResultsError(f"{path} has schema version {ascii(version)[:80]}, this qcam reads {SCHEMA_VERSION}; {AGAIN}")
    sealed = isinstance(run.get("files"), dict) and run.get("digest") == _digest(run)
    if {"files", "digest"} & run.keys() and not sealed:
        raise ResultsError(f"{path} is not as it was written (its digest differs): damaged or edited; {AGAIN}")
    return run


def write_run(path: Path, record: dict[str, Any]) -> None:
    """Write a run.json whose digest tells later whether it is as it was written.

    Raises:
        ResultsError: If the disk refuses.
    """
    plain = json.loads(readable_json(record))
    write_atomically(path, readable_json(plain | {"digest": _digest(plain)}))


def unlike(path: Path, sha256: str | None) -> str:
    """Say why a file is not the one of a checksum; empty if it is.

    Args:
        path: The file.
        sha256: What run.json says of it; None if it says nothing.
    """
    if sha256 is None:
        return f"is not among the files that {RUN} says were written"
    try:
        found = sha256_file(path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if found == sha256 else f"is not the file that the run wrote (its SHA-256 differs from {RUN}'s)"


def _digest(run: dict[str, Any]) -> str:
    """Return the fingerprint of a record without its digest."""
    return fingerprint({key: value for key, value in run.items() if key != "digest"})


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write an Arrow table to a Parquet file that appears whole or not at all."""
    write_atomically(path, parquet_bytes(table))


def parquet_bytes(table: pa.Table) -> bytes:
    """Return the content of a Parquet file that holds an Arrow table."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_arrow(path: Path, *, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """Read one of the Parquet files, or some columns and rows of it.

    Args:
        path: The file; its name says what it has to hold.
        columns: Which columns; None for all.
        filters: Which rows, as pyarrow takes it.

    Raises:
        ResultsError: If it cannot be read, or does not hold what a run writes.
    """
    return read_table(path, FORMS[path.name], columns=columns, filters=filters)


def read_rows(path: Path) -> list[Row]:
    """Read result rows (errors as from `read_arrow`)."""
    return [Row(**item) for item in read_arrow(path).to_pylist()]
