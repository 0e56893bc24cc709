"""The manifest of a bundle, `bundle.json` (schema in docs/bundle.md): this module is the one place that knows its fields.

Beside the manifest lies one ONNX file per precision. The precisions of qcam's own exports are `PRECISIONS`; files of other
tools come under names of their own, which `precision_order` puts behind them in every table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common import html
from qcam.common.errors import BundleError, QcamError
from qcam.common.files import fingerprint, readable_json
from qcam.common.places import refuse_unprintable
from qcam.common.records import as_record, read_record
from qcam.common.vocabulary import PRECISION_NAME, PRECISIONS, InputValues
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.described import Calibration, CamLayer, Quantization, Weights
from qcam.runtime.external import normal_location
from qcam.runtime.feeding import Input, refuse_lost_pixels
from qcam.runtime.session_config import session_of_schema_1, wrong_in_session
from qcam.runtime.tables import CODE_BITS

#: Version of the manifests that are written; those of `SCHEMAS` are read.
SCHEMA_VERSION = 2
SCHEMAS = (1, 2)
#: Name of the manifest in a bundle's folder.
MANIFEST = "bundle.json"

#: What the manifest says of a copy with a tap: its logits are bitwise those of the original, or they are not.
BITWISE, DIFFERS = "bitwise", "differs"

_AGAIN = "export the bundle again with {force}"
#: What a precision has from schema 2 on.
_SINCE_2 = ("input", "session", "original", "proof")
#: Most bytes of a file's name, folders included: what file systems allow for a name.
_LONGEST_FILE = 255
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
class Original:
    """A file that somebody else made, byte for byte, beside the copy that also hands out the tap.

    Attributes:
        file: File name in the bundle's folder.
        sha256: Fingerprint of the file.
        external: Files that it keeps weights in: location relative to its folder → SHA-256; empty for most.
    """

    file: str
    sha256: str
    external: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse files that are none.

        Raises:
            ValueError: Names what is wrong.
        """
        if not self.file or not _SHA256.fullmatch(self.sha256):
            raise ValueError("it has to give a file name and its SHA-256")
        _refuse_external(self.external)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values; without external files there is no word of them."""
        value = {"file": self.file, "sha256": self.sha256}
        return value | {"external": self.external} if self.external else value


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
        input: How the file takes pictures.
        session: ONNX Runtime's session configuration that the user deploys with, name → value; what is not in it is ONNX
            Runtime's default.
        original: What the user deploys, where `file` is a copy of it with the tap; None where `file` itself is deployed.
        proof: Whether the copy's logits are the original's: `bitwise` or `differs`; empty without an original.
    """

    name: str
    file: str
    sha256: str
    logits: str
    tap: Tap
    skips: tuple[Tap, ...] = ()
    quantization: Quantization = field(default_factory=Quantization)
    external: dict[str, str] = field(default_factory=dict)
    input: Input = field(default_factory=Input)
    session: dict[str, str] = field(default_factory=dict)
    original: Original | None = None
    proof: str = ""

    @property
    def promised(self) -> bool:
        """Tell whether logits and codes are both of what the user deploys; otherwise nothing is promised of the two."""
        return self.original is None or self.proof == BITWISE

    @property
    def remark(self) -> str:
        """Return what has to be said wherever results of it are told; empty for most."""
        if self.promised:
            return ""
        return (
            "logits come from the file as it was given, codes from a copy that also hands out the CAM layer and runs "
            "otherwise: nothing is promised"
        )

    def to_json(self, schema: int = SCHEMA_VERSION) -> dict[str, Any]:
        """Return the precision as JSON-ready values; of what is empty with most precisions there is no word.

        Args:
            schema: Version of the manifest.
        """
        value = {
            "name": self.name,
            "file": self.file,
            "sha256": self.sha256,
            "logits": self.logits,
            "tap": asdict(self.tap),
            "skips": [asdict(skip) for skip in self.skips],
            "quantization": self.quantization.to_json(),
        }
        if self.external:
            value["external"] = self.external
        if schema > 1:
            value |= {"input": self.input.to_json(), "session": self.session}
            if self.original is not None:
                value |= {"original": self.original.to_json(), "proof": self.proof}
        return value


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
        schema: Version of the manifest.
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
    schema: int = SCHEMA_VERSION

    @property
    def trained(self) -> bool | None:
        """Tell whether the weights are trained; None if that is not known. With random ones no figure means anything.

        In a manifest of schema 1, weights of which nobody says that they are trained count as random, as they always did.
        """
        return self.weights.trained is True if self.schema == 1 else self.weights.trained

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

    def deployed_path(self, precision: str) -> Path:
        """Return the ONNX file that the user deploys: of most precisions its own file, otherwise the original beside it."""
        entry = self.precision(precision)
        return self.folder / (entry.file if entry.original is None else entry.original.file)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON-ready values."""
        return {
            "schema_version": self.schema,
            "model": {"id": self.model_id, "source": self.source, "weights": self.weights.to_json()},
            "preprocessing": self.preprocessing.to_json(),
            "cam_layer": self.cam_layer.to_json(),
            "calibration": self.calibration.to_json(),
            "precisions": [entry.to_json(self.schema) for entry in self.precisions],
            "versions": self.versions,
            "classes": list(self.classes),
        }

    def _repr_html_(self) -> str:
        """Return the bundle as a notebook shows it."""
        meaning = {True: "", None: " (trained: unknown)", False: ", RANDOM: no figure means anything"}[self.trained]
        return html.facts(
            f"{self.model_id} ({self.folder})",
            {
                "precisions": ", ".join(entry.name for entry in self.precisions),
                "weights": f"{self.weights.name}{meaning}",
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
    if type(version) is not int or version not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        raise BundleError(f"{where} has schema version {ascii(version)[:80]}, this qcam reads {known}; export the bundle again")
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
            _entry(entry, said, version, f"{where}: precisions[{place}]")
            for place, (entry, said) in enumerate(zip(told.precisions, value["precisions"], strict=True))
        ),
        versions=told.versions,
        schema=version,
    )
    refuse_unprintable([bundle.model_id], where)
    _refuse_names([entry.name for entry in bundle.precisions], where)
    for tap in (tap for entry in bundle.precisions for tap in (entry.tap, *entry.skips)):
        if (tap.dtype != "float32" and tap.dtype not in CODE_BITS) or tap.scale <= 0:
            raise BundleError(
                f"{where} describes tap {tap.output} with dtype {tap.dtype}, scale {tap.scale}; export the bundle again"
            )
    if version > 1:
        _refuse_inputs(bundle, where)
    return bundle


def files_of(bundle: Bundle, where: str) -> dict[str, str]:
    """Return every file of a bundle but the manifest: name relative to its folder → SHA-256.

    Args:
        bundle: The bundle.
        where: What messages call the manifest.

    Raises:
        BundleError: If one lies outside the folder, also through links, has two SHA-256, or a name that no file has.
    """
    root = bundle.folder.resolve()
    files: dict[str, str] = {}
    known: dict[Path, str] = {}
    for entry in bundle.precisions:
        for name, sha256 in [found for held in (entry, entry.original) if held is not None for found in _held(held)]:
            if len(name.encode()) > _LONGEST_FILE:
                raise BundleError(f"{where} names a file of {len(name):,} characters, {name[:80]!a} …; {_AGAIN}")
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise BundleError(
                    f"{where} names {name}, which lies outside the bundle; export the bundle again with {{force}}"
                )
            if known.setdefault(path, sha256) != sha256:
                raise BundleError(f"{where} gives two SHA-256 of {name}; export the bundle again with {{force}}")
            files[name] = sha256
    return files


def _held(file: PrecisionEntry | Original) -> Iterator[tuple[str, str]]:
    """Return an ONNX file of a bundle and the files that it keeps weights in: name relative to the bundle's folder, SHA-256."""
    yield file.file, file.sha256
    beside = PurePosixPath(file.file).parent
    yield from ((str(beside / location), sha256) for location, sha256 in file.external.items())


def no_bundle(where: str) -> str:
    """Return the message about a place without a manifest."""
    return f"{where} is no bundle: it has no {MANIFEST}; make one with {{qcam-export}}"


def changed(where: str) -> str:
    """Return the message about a file whose fingerprint is not the manifest's."""
    return f"{where} is not the file that was exported (its SHA-256 differs); export the bundle again with {{force}}"


def _refuse_names(names: list[str], where: str) -> None:
    """Refuse precisions whose names are none, or stand twice; and none at all."""
    if not names:
        raise BundleError(f"{where}: precisions is empty, so that there is nothing to run; {_AGAIN}")
    for name in names:
        if not PRECISION_NAME.fullmatch(name):
            raise BundleError(
                f"{where} names a precision {ascii(name)[:80]}: a name has 1 to 40 letters, digits, '.', '_' and '-'; "
                "export the bundle again under such a name"
            )
        if names.count(name) > 1:
            raise BundleError(f"{where} holds precision {name} twice; give every precision its own name")


def _entry(told: _Entry, said: Mapping[str, Any], schema: int, where: str) -> PrecisionEntry:
    """Return a precision as it is meant.

    Args:
        told: What the manifest says, with types.
        said: The same, as it stands there.
        schema: Version of the manifest.
        where: What messages call the place.

    Raises:
        BundleError: If what came with schema 2 is missing, cannot be, or stands in a manifest of schema 1.
    """
    values = {part.name: getattr(told, part.name) for part in fields(PrecisionEntry)}
    values["quantization"] = told.quantization.with_further(said["quantization"])
    if schema == 1:
        if early := [name for name in _SINCE_2 if name in said]:
            raise BundleError(f"{where}.{early[0]} has a meaning from schema version 2 on, and the manifest has 1; {_AGAIN}")
        return PrecisionEntry(**values | {"input": Input(), "session": session_of_schema_1(told.tap.dtype)})
    for name, value in (("input", told.input), ("session", told.session)):
        if value is None:
            raise BundleError(f"{where}.{name} is missing; {_AGAIN}")
    if wrong := wrong_in_session(values["session"]):
        raise BundleError(f"{where}.session: {wrong}; {_AGAIN}")
    if (told.original is None) != (told.proof == "") or told.proof not in ("", BITWISE, DIFFERS):
        raise BundleError(
            f"{where}: beside an original, proof is {BITWISE} or {DIFFERS}, and there is none without; it is "
            f"{ascii(told.proof)[:80]}; {_AGAIN}"
        )
    if told.original is not None and told.original.file == told.file:
        raise BundleError(f"{where} names one file as the original and as its copy; {_AGAIN}")
    return PrecisionEntry(**values | {"input": Input.from_json(told.input, f"{where}.input", _AGAIN)})


def _refuse_inputs(bundle: Bundle, where: str) -> None:
    """Refuse precisions that do not take what the preprocessing of the bundle gives."""
    size, channels = tuple(bundle.preprocessing.crop), bundle.preprocessing.channels
    for entry in bundle.precisions:
        taken = entry.input
        if (taken.size, taken.channels) != (size, channels):
            raise BundleError(
                f"{where}: the input of {entry.name} has {taken.channels} channels of {taken.size[0]} × {taken.size[1]}, and "
                f"preprocessing gives {channels} of {size[0]} × {size[1]}; {_AGAIN}"
            )
        if taken.values != InputValues.NORMALISED:
            try:
                refuse_lost_pixels(bundle.preprocessing)
            except QcamError as error:
                raise BundleError(f"{where}: {entry.name} takes pixels, but {error.template}; {_AGAIN}") from error


def _refuse_external(external: Mapping[str, str]) -> None:
    """Refuse external files that are none.

    Raises:
        ValueError: Names what is wrong.
    """
    for location, sha256 in external.items():
        try:
            normal = normal_location(location)
        except ValueError as error:
            raise ValueError(f"external file {location!r}: {error}") from error
        if normal != location:
            raise ValueError(f"external file {location!r}: it is written {normal!r}")
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"external file {location!r}: {sha256!r} is no SHA-256")


@dataclass(frozen=True)
class _Model:
    """What a manifest says of the model."""

    id: str
    source: str
    weights: Weights


@dataclass(frozen=True)
class _Entry:
    """A precision as it stands in a manifest; what it need not say is in its own way for each version (`_entry`)."""

    name: str
    file: str
    sha256: str
    logits: str
    tap: Tap
    skips: tuple[Tap, ...]
    quantization: Quantization
    external: dict[str, str] = field(default_factory=dict)
    input: dict[str, Any] | None = None
    session: dict[str, str] | None = None
    original: Original | None = None
    proof: str = ""

    def __post_init__(self) -> None:
        """Refuse external files that are none.

        Raises:
            ValueError: Names what is wrong.
        """
        _refuse_external(self.external)


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
