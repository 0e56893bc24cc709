"""The manifest of a bundle, `bundle.json` (schema in docs/bundle.md): this module is the one place that knows its fields.

Beside the manifest lies one ONNX file per precision. The precisions of qcam's own exports are `PRECISIONS`; files of other
tools come under names of their own, which `precision_order` puts behind them in every table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common import html
from qcam.common.errors import BundleError
from qcam.common.files import fingerprint, readable_json
from qcam.common.places import refuse_unprintable
from qcam.common.records import as_record, read_record
from qcam.common.vocabulary import PRECISION_NAME, PRECISIONS
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.described import Calibration, CamLayer, Quantization, Weights
from qcam.runtime.external import normal_location
from qcam.runtime.tables import CODE_BITS

#: Version of the manifest; a reader refuses another major number.
SCHEMA_VERSION = 1
#: Name of the manifest in a bundle's folder.
MANIFEST = "bundle.json"

_AGAIN = "export the bundle again with {force}"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Tap:
    """A tensor that the deployed graph hands out.

    Attributes:
        tensor: Name of the float tensor in the graph: the activation itself.
        output: Name of the graph output that carries it: the same tensor in f32, its integer codes in a QDQ graph.
        dtype: numpy type of the output: float32, uint8, int8, uint16 or int16.
        scale: Step between two codes, in the activation's unit; 1 for float.
        zero_point: Code that stands for 0; 0 for float.
    """

    tensor: str
    output: str
    dtype: str
    scale: int | float = 1.0  # a whole number in a manifest stays one: fingerprints are of its text
    zero_point: int = 0

    def dequantize(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Return the activation that the output's values stand for, float32: (codes - zero_point) · scale."""
        if self.dtype == "float32":
            return codes.astype(np.float32, copy=False)
        return (codes.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class PrecisionEntry:
    """One precision of a bundle.

    Attributes:
        name: f32, int16, int8, or a name of another tool's: up to 40 letters, digits, `.`, `_`, `-`.
        file: File name in the bundle's folder.
        sha256: Fingerprint of the file.
        logits: Name of the graph output with the class scores before softmax, float32, batch × classes.
        tap: The CAM layer.
        skips: Further outputs that the tail from tap to logits reads.
        quantization: How it was quantized (scheme, types, options); empty for f32.
        external: Files that the ONNX file keeps weights in: location relative to its folder → SHA-256; empty for most.
    """

    name: str
    file: str
    sha256: str
    logits: str
    tap: Tap
    skips: tuple[Tap, ...] = ()
    quantization: Quantization = field(default_factory=Quantization)
    external: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the precision as JSON-ready values; without external files there is no word of them."""
        value = asdict(self) | {"skips": [asdict(skip) for skip in self.skips], "quantization": self.quantization.to_json()}
        return {key: item for key, item in value.items() if key != "external" or item}


@dataclass(frozen=True)
class Bundle:
    """A bundle's manifest, and where it lies.

    Attributes:
        folder: The bundle's folder.
        model_id: The model's name: `resnet50`, `timm:resnet26d`.
        source: Where the architecture comes from.
        weights: Name, fingerprint and whether they are trained.
        preprocessing: How photographs become inputs.
        classes: Class names in the order of the logits.
        cam_layer: What was asked for, and the tensor that carries it in the float graph.
        calibration: Method, images and fingerprint; nothing without an integer precision.
        precisions: The precisions it holds, in the manifest's order.
        versions: Versions of the packages that made it.
    """

    folder: Path
    model_id: str
    source: str
    weights: Weights
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    cam_layer: CamLayer
    calibration: Calibration
    precisions: tuple[PrecisionEntry, ...]
    versions: dict[str, str]

    @property
    def trained(self) -> bool:
        """Tell whether the weights are trained; with random ones no figure means anything."""
        return self.weights.trained is True

    @property
    def fingerprint(self) -> str:
        """Return one hash of everything that can change a figure: the manifest with its files' hashes, less versions."""
        return fingerprint({key: value for key, value in self.to_json().items() if key != "versions"})

    def precision(self, name: str) -> PrecisionEntry:
        """Return one precision.

        Raises:
            BundleError: If the bundle does not hold it.
        """
        for entry in self.precisions:
            if entry.name == name:
                return entry
        raise BundleError(f"{self.folder} holds no {name}, only {', '.join(entry.name for entry in self.precisions)}")

    def path(self, precision: str) -> Path:
        """Return the ONNX file of a precision."""
        return self.folder / self.precision(precision).file

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON-ready values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": {"id": self.model_id, "source": self.source, "weights": self.weights.to_json()},
            "preprocessing": self.preprocessing.to_json(),
            "cam_layer": self.cam_layer.to_json(),
            "calibration": self.calibration.to_json(),
            "precisions": [entry.to_json() for entry in self.precisions],
            "versions": self.versions,
            "classes": list(self.classes),
        }

    def _repr_html_(self) -> str:
        """Return the bundle as a notebook shows it."""
        return html.facts(
            f"{self.model_id} ({self.folder})",
            {
                "precisions": ", ".join(entry.name for entry in self.precisions),
                "weights": f"{self.weights.name}{'' if self.trained else ', RANDOM: no figure means anything'}",
                "classes": len(self.classes),
                "CAM layer": self.cam_layer.tensor,
                "input": f"{self.preprocessing.crop[0]} × {self.preprocessing.crop[1]}",
            },
        )

    def manifest_text(self) -> str:
        """Return the text of `bundle.json`."""
        return readable_json(self.to_json())


def precision_order(name: str) -> tuple[int, str]:
    """Return what precisions are sorted by: those of `PRECISIONS` in their order, then all others by name.

    Example:
        >>> sorted(["int8-vendor", "int8", "a8", "f32"], key=precision_order)
        ['f32', 'int8', 'a8', 'int8-vendor']
    """
    return (PRECISIONS.index(name), "") if name in PRECISIONS else (len(PRECISIONS), name)


def ordered_precisions(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of precisions, each once, in the order of every table."""
    return tuple(sorted(set(names), key=precision_order))


def parse_manifest(data: bytes, folder: Path, where: str) -> Bundle:
    """Read a manifest.

    Args:
        data: The file's bytes.
        folder: The bundle's folder.
        where: What messages call the manifest.

    Raises:
        BundleError: If it is no manifest, has another schema, or describes what cannot be.
    """
    value = read_record(data, dict[str, Any], where, error=BundleError, advice=_AGAIN)
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(f"{where} has schema version {version}, this qcam reads {SCHEMA_VERSION}; export the bundle again")
    told = as_record(value, _Manifest, where, error=BundleError, advice=_AGAIN)
    for tap in (tap for entry in value["precisions"] for tap in (entry["tap"], *entry["skips"])):
        if unknown := sorted(tap.keys() - {part.name for part in fields(Tap)}):
            raise BundleError(f"{where} says of a tap what this qcam does not know: {ascii(unknown[0])[:80]}; {_AGAIN}")
    bundle = Bundle(
        folder=folder,
        model_id=told.model.id,
        source=told.model.source,
        weights=told.model.weights.with_further(value["model"]["weights"]),
        preprocessing=Preprocessing.from_json(told.preprocessing, where),
        classes=told.classes,
        cam_layer=told.cam_layer.with_further(value["cam_layer"]),
        calibration=told.calibration.with_further(value["calibration"]),
        precisions=tuple(
            PrecisionEntry(**vars(entry) | {"quantization": entry.quantization.with_further(said["quantization"])})
            for entry, said in zip(told.precisions, value["precisions"], strict=True)
        ),
        versions=told.versions,
    )
    refuse_unprintable([bundle.model_id], where)
    _refuse_names([entry.name for entry in bundle.precisions], where)
    for tap in (tap for entry in bundle.precisions for tap in (entry.tap, *entry.skips)):
        if (tap.dtype != "float32" and tap.dtype not in CODE_BITS) or tap.scale <= 0:
            raise BundleError(
                f"{where} describes tap {tap.output} with dtype {tap.dtype}, scale {tap.scale}; export the bundle again"
            )
    return bundle


def files_of(bundle: Bundle, where: str) -> dict[str, str]:
    """Return every file of a bundle but the manifest: name relative to its folder → SHA-256.

    Args:
        bundle: The bundle.
        where: What messages call the manifest.

    Raises:
        BundleError: If one lies outside the folder, also through links, or has two SHA-256.
    """
    root = bundle.folder.resolve()
    files: dict[str, str] = {}
    known: dict[Path, str] = {}
    for entry in bundle.precisions:
        beside = PurePosixPath(entry.file).parent
        for name, sha256 in ((entry.file, entry.sha256), *((str(beside / file), sha) for file, sha in entry.external.items())):
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise BundleError(
                    f"{where} names {name}, which lies outside the bundle; export the bundle again with {{force}}"
                )
            if known.setdefault(path, sha256) != sha256:
                raise BundleError(f"{where} gives two SHA-256 of {name}; export the bundle again with {{force}}")
            files[name] = sha256
    return files


def no_bundle(where: str) -> str:
    """Return the message about a place without a manifest."""
    return f"{where} is no bundle: it has no {MANIFEST}; make one with {{qcam-export}}"


def changed(where: str) -> str:
    """Return the message about a file whose fingerprint is not the manifest's."""
    return f"{where} is not the file that was exported (its SHA-256 differs); export the bundle again with {{force}}"


def _refuse_names(names: list[str], where: str) -> None:
    """Refuse precisions whose names are none, or stand twice."""
    for name in names:
        if not PRECISION_NAME.fullmatch(name):
            raise BundleError(
                f"{where} names a precision {ascii(name)[:80]}: a name has 1 to 40 letters, digits, '.', '_' and '-'; "
                "export the bundle again under such a name"
            )
        if names.count(name) > 1:
            raise BundleError(f"{where} holds precision {name} twice; give every precision its own name")


@dataclass(frozen=True)
class _Model:
    """What a manifest says of the model."""

    id: str
    source: str
    weights: Weights


@dataclass(frozen=True)
class _Entry:
    """A precision as it stands in a manifest, which has to say all but external files; fields as in `PrecisionEntry`."""

    name: str
    file: str
    sha256: str
    logits: str
    tap: Tap
    skips: tuple[Tap, ...]
    quantization: Quantization
    external: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse external files that are none.

        Raises:
            ValueError: Names what is wrong.
        """
        for location, sha256 in self.external.items():
            try:
                normal = normal_location(location)
            except ValueError as error:
                raise ValueError(f"external file {location!r}: {error}") from error
            if normal != location:
                raise ValueError(f"external file {location!r}: it is written {normal!r}")
            if not _SHA256.fullmatch(sha256):
                raise ValueError(f"external file {location!r}: {sha256!r} is no SHA-256")


@dataclass(frozen=True)
class _Manifest:
    """A manifest, which has to say all of this; fields as in `Bundle`."""

    model: _Model
    preprocessing: dict[str, Any]
    classes: tuple[str, ...]
    cam_layer: CamLayer
    calibration: Calibration
    precisions: tuple[_Entry, ...]
    versions: dict[str, str]
