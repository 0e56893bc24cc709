"""A whole import, from a file to its bundle: the one place that both `qcam.import_onnx` and `qcam-import` call."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qcam.common import machine, telling
from qcam.common.errors import BundleError, QcamError
from qcam.common.files import new_folder, write_atomically
from qcam.common.places import refuse_unprintable
from qcam.common.vocabulary import PRECISION_NAME, InputValues, Interpolation, Layout, require
from qcam.exporters.export import bundle_folder_name, override_preprocessing
from qcam.exporters.importing.copies import hand_out_scores, hand_out_taps, store, tensors_of
from qcam.exporters.importing.decisions import Decisions
from qcam.exporters.importing.inputs import Asked, find_input
from qcam.exporters.importing.outputs import find_scores
from qcam.exporters.importing.proof import Held, Shown, hold, mirrors_of, pictures, prove
from qcam.exporters.importing.quantization import codes_of, described, name_for, producer_of
from qcam.exporters.importing.reading import ForeignFile, analysed, read_foreign
from qcam.exporters.importing.taps import find_taps, map_size
from qcam.images.preprocessing import Preprocessing
from qcam.models.wishes import class_names
from qcam.runtime.bundle import MANIFEST, Bundle, PrecisionEntry, load_bundle, load_onnx
from qcam.runtime.described import Calibration, CamLayer, Weights
from qcam.runtime.feeding import refuse_lost_pixels
from qcam.runtime.graph import Graph
from qcam.runtime.manifest import BITWISE, DIFFERS, SCHEMA_VERSION, files_of, ordered_precisions
from qcam.runtime.mirror import Mirror
from qcam.runtime.normal import normalised
from qcam.runtime.session_config import described as settings_described
from qcam.runtime.session_config import wrong_in_session

#: Bits of the codes that a precision of this name computes with.
_BITS = {"int8": 8, "int16": 16}
#: How trained weights are told.
_NOTHING = "nothing is promised"
_TIME = "time and placement, the copy the CAM layer, and nothing is promised of the two"
_TRAINED = {True: "yes", False: "no: no figure means anything", None: "not known"}


@dataclass(frozen=True)
class ImportOrder:
    """What a file is imported with; None leaves it to the file.

    Attributes:
        file: The quantized file.
        float_file: The float file that it was made of, which becomes f32.
        like: A bundle whose preprocessing and classes are those of the file.
        into: A bundle of the same network that the file becomes a further precision of; its preprocessing and classes are
            taken.
        size: Height and width of the input.
        mean: Mean of R, G, B on the 0..1 scale, or one number.
        std: Standard deviation likewise.
        resize: Shorter side before the crop, or height and width.
        squash: Whether the picture is squashed to the size instead.
        interpolation: Resampling filter.
        classes: How many classes there are, or their names in order.
        cam_layer: The tensor that carries the CAM layer.
        float_cam_layer: Likewise in the float file.
        logits: The tensor of class scores.
        values: What the input holds: normalised, unit or pixels.
        layout: NCHW or NHWC.
        precision: What the precision is called.
        session: ONNX Runtime's session configuration that the file is deployed with.
        trained: Whether the weights are trained; None if that is not known.
        name: What the bundle is called.
        output: Folder that the bundle's own folder goes into.
        force: Whether a bundle that exists is replaced.
    """

    file: Path
    float_file: Path | None = None
    like: str | None = None
    into: Path | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    squash: bool = False
    interpolation: str | None = None
    classes: int | tuple[str, ...] | None = None
    cam_layer: str | None = None
    float_cam_layer: str | None = None
    logits: str | None = None
    values: str | None = None
    layout: str | None = None
    precision: str | None = None
    session: dict[str, str] = field(default_factory=dict)
    trained: bool | None = None
    name: str | None = None
    output: Path = Path("bundles")
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and words that there are not.

        Raises:
            QcamError: Names the option.
        """
        if self.values is not None:
            require(InputValues, self.values, "{values}")
        if self.layout is not None:
            require(Layout, self.layout, "{layout}")
        if self.interpolation is not None:
            require(Interpolation, self.interpolation, "interpolation")
        if self.precision is not None and not PRECISION_NAME.fullmatch(self.precision):
            raise QcamError(f"{{precision}} {ascii(self.precision)[:80]}: a name has 1 to 40 letters, digits, '.', '_' and '-'")
        if self.precision == "f32" and self.float_file is not None:
            raise QcamError("{precision} f32 is what the file of {float} is called; give the quantized one another name")
        if (self.mean is None) != (self.std is None):
            raise QcamError("{mean} and {std} belong together; give both, or none")
        if self.squash and self.resize is not None:
            raise QcamError("{resize} is a size or squash, not both")
        if self.into is not None:
            others = {
                "{like}": self.like, "{float}": self.float_file, "{name}": self.name, "{trained}": self.trained,
            }  # fmt: skip
            if both := [option for option, value in others.items() if value is not None]:
                raise QcamError(f"{{into}} says what {both[0]} says too; leave one of them out")
        if self.like is not None or self.into is not None:
            told = {
                "{size}": self.size, "{mean}": self.mean, "{std}": self.std, "{resize}": self.resize or self.squash or None,
                "{interpolation}": self.interpolation, "{classes}": self.classes,
            }  # fmt: skip
            if both := [option for option, value in told.items() if value is not None]:
                raise QcamError(f"{self.option} says what {both[0]} says too; leave one of them out")
        if self.float_cam_layer is not None and self.float_file is None:
            raise QcamError("{float_cam_layer} is of the file of {float}, and there is none")
        if wrong := wrong_in_session(self.session):
            raise QcamError(f"{{session_config}}: {wrong}")
        if self.name is not None and not self.name.strip():
            raise QcamError("{name} is empty; give the bundle a name")
        refuse_unprintable([self.model_id], str(self.file))

    @property
    def option(self) -> str:
        """Return the option that names a bundle of the same network."""
        return "{like}" if self.into is None else "{into}"

    @property
    def whose(self) -> str:
        """Return which bundle of the same network was named, and by which option."""
        return f"{self.option} {self.like if self.into is None else self.into}"

    @property
    def model_id(self) -> str:
        """Return what the bundle is called: by default as the file is."""
        return self.name or self.file.name.removesuffix(".onnx")

    @property
    def place(self) -> Path:
        """Return where the bundle goes."""
        if self.into is not None:
            return self.into
        return self.output / bundle_folder_name(self.model_id)


@dataclass
class Part:
    """One file on its way to a precision.

    Attributes:
        name: What the precision is called; empty until that is known.
        file: The file.
        graph: Its normalised graph.
        entry: What the manifest says of it, as far as it is known.
        scores: The tensor of the scores, in the normalised graph.
        returned: The output that carries the scores; empty where it is another tensor.
        classes: How many classes it has.
        noted: What was decided.
    """

    name: str
    file: ForeignFile
    graph: Graph
    entry: PrecisionEntry
    scores: str
    returned: str
    classes: int
    noted: Decisions


def import_file(order: ImportOrder, on_stage: Callable[[str], None] = lambda _stage: None) -> Bundle:
    """Import a file, and the float file that it was made of where there is one, into a bundle.

    Args:
        order: What it is imported with.
        on_stage: Called with a few words before each stage.

    Returns:
        The bundle; what was decided stands in its manifest (`decisions_in`).

    Raises:
        QcamError: If it cannot be imported, or something has to be told by an option; nothing is written then.
    """
    target = order.place
    into = None if order.into is None else _taking(order.into)
    for source in filter(None, (order.file, order.float_file)):
        if source.resolve().is_relative_to(target.resolve()):
            raise QcamError(
                f"{source} lies in {target}, where its bundle would go; use {{output}} or {{name}} for another place"
            )
    if order.force and target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise QcamError(f"{target} is no bundle; {{force}} replaces bundles only. Use {{output}} for another place")
    like = into if order.like is None else load_bundle(order.like)
    with new_folder(target, replace=order.force or into is not None) as folder:
        on_stage("reading")
        parts = [read_part(order, read_foreign(order.file), like, order.precision or "", order.cam_layer)]
        if order.float_file is not None:
            beside = read_foreign(order.float_file)
            parts.append(read_part(order, beside, like, "f32", order.float_cam_layer or order.cam_layer))
        _refuse_unlike(parts)
        if into is not None:
            _refuse_beside(into, parts[0], replace=order.force)
        preprocessing = preprocessing_of(order, like, parts)
        classes = class_names_of(order, like, parts[0])
        on_stage("writing the copy with the CAM layer")
        entries = [_written(order, part, folder) for part in parts]
        bundle = _bundle(order, folder, preprocessing, classes, parts, entries)
        called = {part.name: part.file.where for part in parts}
        mirrors = mirrors_of(bundle, called)  # what they do not know is refused before any session
        shown = pictures(preprocessing)
        on_stage(f"running {shown.words}")
        held = {
            part.name: hold(folder, bundle.precision(part.name), part.returned, preprocessing, shown, part.file.path.name)
            for part in parts
        }
        _note_agreement(bundle, parts, held, shown)
        for part in parts:
            _note_scores(part, mirrors[part.name], held[part.name], shown)
        bundle = _proven(bundle, parts, held, shown)
        write_atomically(folder / MANIFEST, bundle.manifest_text())
        bundle = load_bundle(str(folder), verify=False)
        prove(bundle, mirrors, shown, {name: found.logits for name, found in held.items()}, called)
        if into is not None:
            on_stage("putting it beside the others")
            bundle = _beside(into, bundle, folder)
            write_atomically(folder / MANIFEST, bundle.manifest_text())
            bundle = load_bundle(str(folder))
    return replace(bundle, folder=target)


def _taking(place: Path) -> Bundle:
    """Return the bundle that takes a further precision, every file of it held against its manifest."""
    if not (place / MANIFEST).is_file():
        raise QcamError(f"{place} is no bundle in a folder here; {{into}} adds to one, {{output}} makes a new one")
    bundle = load_bundle(str(place))
    if bundle.schema != SCHEMA_VERSION:
        raise BundleError(
            f"{place} has a manifest of schema version {bundle.schema}, which does not say how files take pictures; export it "
            "again with {force}, then add to it"
        )
    return bundle


def _refuse_beside(into: Bundle, part: Part, *, replace: bool) -> None:
    """Refuse a file that is another network than the bundle's, or looks at another place, or is there already."""
    names = [entry.name for entry in into.precisions]
    if part.name in names and not replace:
        raise BundleError(
            f"{into.folder} holds {part.name} already; give the file a name of its own with {{precision}}, as "
            f"{part.name}-vendor, or use {{force}} to replace it"
        )
    others = [entry for entry in into.precisions if entry.name != part.name]
    if not others:
        raise BundleError(f"{into.folder} holds nothing but {part.name}; import the file into a bundle of its own")
    other = next((entry for entry in others if entry.name == "f32"), others[0])
    graph = Graph(normalised(load_onnx(into, other.name)))
    one, two = map_size(part.graph, part.entry.tap), map_size(graph, other.tap)
    if one != two:
        raise QcamError(
            f"{part.file.path.name} has a CAM layer of {_plain(one)}, {other.name} of {into.folder} one of {_plain(two)} "
            f"({other.tap.tensor}): they are not seen at one place; correct {{cam_layer}}"
        )


def _beside(into: Bundle, bundle: Bundle, folder: Path) -> Bundle:
    """Put the other precisions of a bundle beside one that is in a folder already."""
    (entry,) = bundle.precisions
    others = tuple(other for other in into.precisions if other.name != entry.name)
    kept = replace(into, precisions=others)
    mine = set(files_of(bundle, str(folder)))
    for name in files_of(kept, str(into.folder)):
        if name in mine:
            raise BundleError(f"{into.folder} has a file {name} that the new precision would have; give another {{precision}}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(into.folder / name, folder / name)
    by_name = {each.name: each for each in (*others, entry)}
    ordered = tuple(by_name[name] for name in ordered_precisions(by_name))
    return replace(into, folder=folder, precisions=ordered)


def read_part(order: ImportOrder, file: ForeignFile, like: Bundle | None, name: str, cam_layer: str | None) -> Part:
    """Find everything in a file, whose graph gets the scores and the CAM layer as outputs; nothing runs.

    Args:
        order: What it is imported with.
        file: The file.
        like: A bundle of the same network.
        name: What the precision is called; empty: by what is in the file.
        cam_layer: The tensor that carries the CAM layer; None for the last map before pooling.

    Raises:
        QcamError: If something cannot be told, or is not what was asked for; names the option.
    """
    noted = Decisions()
    size = order.size if like is None else like.preprocessing.crop
    # A float file beside it may take other values than the quantized one; what is told is of the quantized one.
    own = file.path == order.file
    asked = Asked(size, order.layout if own else None, order.values if own else None, order.mean is not None)
    graph = analysed(file.model, file, size, asked.layout)
    taken = find_input(graph, asked, file.where, noted)
    classes = _count(order, like)
    logits = order.logits if own or (order.logits is not None and order.logits in graph.producer) else None
    scores = find_scores(graph, logits, classes, file.where, noted)
    how = described(graph, file.model, "as the file has them")
    found = name or name_for(how)
    if own and order.float_file is not None and found == "f32":
        raise QcamError(f"{file.where} is a float file, and so is {{float}}; give the quantized file in its place")
    bits = codes_of(how)
    if found in _BITS and _BITS[found] not in bits:
        raise QcamError(
            f"{file.where}: its activations are {how.activation or 'floats'}, so it is no {found}; leave {{precision}} out, or "
            "give a name of its own"
        )
    if found == "f32" and (how.activation or how.weight):
        raise QcamError(
            f"{file.where} is quantized ({how.activation or how.weight}), so it is no f32; give another {{precision}}"
        )
    copy = file.model
    before = {output.name for output in copy.graph.output}
    output = hand_out_scores(copy, graph, scores, file.where)
    graph = analysed(copy, file, size, asked.layout)
    tap, skips = find_taps(graph, tensors_of(copy), cam_layer, output, file.where, noted)
    hand_out_taps(copy, graph, (tap, *skips))
    changed = file.inlined or before != {output.name for output in copy.graph.output}
    what = " × ".join(filter(None, (how.activation, how.weight))) or "float"
    noted.note("precision", f"{found}: {what}", "{precision}" if name and name != "f32" else "the file")
    entry = PrecisionEntry(
        found, "", "", output, tap, skips, how, input=taken, session=dict(order.session), proof=BITWISE if changed else ""
    )
    return Part(found, file, graph, entry, scores.tensor, scores.returned, scores.classes, noted)


def _count(order: ImportOrder, like: Bundle | None) -> int | None:
    """Return how many classes there are, where that is told."""
    if like is not None:
        return len(like.classes)
    return order.classes if isinstance(order.classes, int) else None if order.classes is None else len(order.classes)


def _refuse_unlike(parts: list[Part]) -> None:
    """Refuse a float file that is another network than the quantized one."""
    if len(parts) < 2:
        return
    one, other = parts
    for what, option, first, second in (
        ("classes", "{logits}", one.classes, other.classes),
        ("an input of", "{float}", one.entry.input.size, other.entry.input.size),
        ("channels", "{float}", one.entry.input.channels, other.entry.input.channels),
        ("a CAM layer of", "{float_cam_layer}", map_size(one.graph, one.entry.tap), map_size(other.graph, other.entry.tap)),
    ):
        if first != second:
            raise QcamError(
                f"{one.file.path.name} has {what} {_plain(first)}, {other.file.path.name} {_plain(second)}: they are not one "
                f"network seen at one place; correct {option}"
            )


def _plain(value: object) -> str:
    return " × ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def preprocessing_of(order: ImportOrder, like: Bundle | None, parts: list[Part]) -> Preprocessing:
    """Return how photographs become inputs; what is assumed is told, mean and std never are."""
    noted = parts[0].noted
    taken = parts[0].entry.input
    if like is not None:
        found = like.preprocessing
        if (found.crop, found.channels) != (taken.size, taken.channels):
            raise QcamError(
                f"{order.file.name} takes {taken.channels} channels of {_plain(taken.size)}, {order.whose} gives "
                f"{found.channels} of {_plain(found.crop)}; give {{size}} and what belongs to it in its place"
            )
        noted.note("preprocessing", _preprocessing_words(found), f"{order.option} {like.model_id}")
    else:
        outside = [part.file.path.name for part in parts if part.entry.input.values == InputValues.NORMALISED]
        if order.mean is None and outside:
            raise QcamError(
                f"{outside[0]}: nothing in the graph normalises pictures, so it was done before it; give the {{mean}} and "
                "{std} that the network was trained with, or {like} with a bundle of the same network "
                "({mean} 0 {std} 1 for pixels "
                "of 0..1, {values} pixels for pixels of 0..255)"
            )
        if order.mean is not None and not outside:
            raise QcamError(f"{order.file.name} normalises pictures by itself; leave {{mean}} and {{std}} out")
        zeros, ones = (0.0,) * taken.channels, (1.0,) * taken.channels
        resize = None if order.squash else order.resize if order.resize is not None else max(taken.size)
        base = Preprocessing(None, taken.size, zeros, ones, order.interpolation or Interpolation.BILINEAR.value)
        found = override_preprocessing(
            base, resize=resize, squash=order.squash, mean=order.mean, std=order.std, interpolation=order.interpolation
        )
        told = [
            option
            for option, value in (("{resize}", order.resize or order.squash), ("{interpolation}", order.interpolation))
            if value
        ]
        assumed = "assumed; give {resize} and {interpolation} where it is another way" if not told else " and ".join(told)
        noted.note("resize", _resize_words(found), assumed)
        noted.note(
            "mean, std", f"{_numbers(found.mean)}; {_numbers(found.std)}",
            "{mean}, {std}" if order.mean is not None else "the graph normalises by itself",
        )  # fmt: skip
    if any(part.entry.input.values != InputValues.NORMALISED for part in parts):
        refuse_lost_pixels(found)
    return found


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _resize_words(found: Preprocessing) -> str:
    height, width = found.crop
    if found.resize is None:
        return f"squashed to {height} × {width}, {found.interpolation}"
    side = _plain(found.resize) if isinstance(found.resize, tuple) else f"shorter side {found.resize}"
    return f"{side}, centre {height} × {width}, {found.interpolation}"


def _preprocessing_words(found: Preprocessing) -> str:
    return f"{_resize_words(found)}; mean {_numbers(found.mean)}, std {_numbers(found.std)}"


def class_names_of(order: ImportOrder, like: Bundle | None, part: Part) -> tuple[str, ...]:
    """Return the classes' names; ImageNet's are assumed for 1,000 of them, which is noted."""
    if like is not None:
        names = like.classes
        if len(names) != part.classes and (part.classes, len(names)) != (1, 2):
            raise QcamError(f"{order.file.name} has {part.classes} classes, {order.whose} {len(names)}")
        because = f"{order.option} {like.model_id}"
    else:
        names = class_names(part.classes, order.classes, order.file.name)
        because = "{classes}" if isinstance(order.classes, tuple) else "numbers, for no names are given"
        if part.classes == 1000 and not isinstance(order.classes, tuple):
            because = "assumed to be ImageNet's, for there are 1,000; give {classes} where they are others"
    part.noted.note("classes", f"{len(names)}: {names[0]}, {names[1]} …", because)
    return names


def _written(order: ImportOrder, part: Part, folder: Path) -> PrecisionEntry:
    """Write the files of one precision."""
    entry = part.entry
    file, sha256, external, original = store(
        part.file.path, part.file.data, part.file.model, bool(entry.proof), folder, part.name
    )
    return replace(entry, file=file, sha256=sha256, external=external, original=original)


def _bundle(
    order: ImportOrder, folder: Path, preprocessing: Preprocessing, classes: tuple[str, ...], parts: list[Part],
    entries: list[PrecisionEntry],
) -> Bundle:  # fmt: skip
    first = parts[0]
    producer = producer_of(first.file.model)
    weights = Weights(
        name=order.file.name, sha256=entries[0].original.sha256 if entries[0].original else entries[0].sha256,
        trained=order.trained,
    )  # fmt: skip
    if order.into is None:  # else the bundle says it
        first.noted.note("trained", _TRAINED[order.trained], "{trained}" if order.trained is not None else "nobody says")
    first.noted.note(
        "session", settings_described(order.session) or "ONNX Runtime's defaults",
        "{session_config}" if order.session else "no {session_config}",
    )  # fmt: skip
    by_name = {entry.name: entry for entry in entries}
    return Bundle(
        folder=folder,
        model_id=order.model_id,
        source=f"imported from {order.file.name}" + (f", written by {producer}" if producer else ""),
        weights=weights,
        preprocessing=preprocessing,
        classes=classes,
        cam_layer=CamLayer(requested=order.cam_layer or "", tensor=first.entry.tap.tensor),
        calibration=Calibration(),
        precisions=tuple(by_name[name] for name in ordered_precisions(by_name)),
        versions=machine.versions(),
    )


def _proven(bundle: Bundle, parts: list[Part], held: dict[str, Held], shown: Shown) -> Bundle:
    """Note what came of holding every copy against its file, and what was decided besides."""
    entries = {}
    for part in parts:
        found = held[part.name]
        if found.entry.input.batch != part.entry.input.batch:
            part.noted.note(
                "batch", f"fixed to {found.entry.input.batch}", "it does not run with more, though its input says any"
            )
        if not found.proof:
            part.noted.note("proof", "the file hands out everything itself", "no copy is needed")
        elif found.proof == BITWISE and found.kernels and part.returned == part.entry.logits:
            # Bit for bit on these pictures is no promise for others: the file itself gives what it hands out.
            found = replace(found, proof=DIFFERS)
            part.noted.note("proof", f"the copy's logits are the file's, {_by_others(found)}", f"{shown.words}; {_NOTHING}")
            telling.warn(f"{part.file.path.name}: {_by_others(found)}: the file itself gives logits, {_TIME}")
        elif found.proof == BITWISE and found.kernels:
            part.noted.note("proof", f"the copy's logits are the file's, {_by_others(found)}", shown.words)
            telling.warn(
                f"{part.file.path.name}: {_by_others(found)}; the file does not return the scores itself, so that all is the "
                f"copy's, whose logits were the file's on {shown.words} and may differ on others"
            )
        elif found.proof == BITWISE:
            part.noted.note("proof", "the copy's logits are the file's, bit for bit", shown.words)
        else:
            _refuse_without_logits(part)
            part.noted.note("proof", "the copy's logits differ from the file's", f"{shown.words}; {_NOTHING}")
            telling.warn(
                f"{part.file.path.name}: the logits of the copy with the CAM layer differ from the file's: the file itself "
                f"gives logits, {_TIME}"
            )
        further = dict(found.entry.quantization.further) | {"imported": part.noted.to_json()}
        how = replace(found.entry.quantization, further=further)
        entries[part.name] = replace(found.entry, proof=found.proof, quantization=how)
    return replace(bundle, precisions=tuple(entries[name] for name in ordered_precisions(entries)))


def _note_scores(part: Part, mirror: Mirror, found: Held, shown: Shown) -> None:
    """Note what is known of the class scores: whether they are quantized, and whether they look like probabilities."""
    if mirror.quantized_scores:
        part.noted.note("gradient", "passes through the quantizer of the scores", "a saturated score would have none")
    scores = found.logits
    if scores.shape[1] > 1 and bool(np.all((scores >= 0) & (scores <= 1))):
        sums = np.allclose(scores.sum(axis=1), 1, atol=1e-2)
        what = "add up to 1, as behind a softmax" if sums else "lie between 0 and 1, as behind a sigmoid"
        part.noted.note("scores", f"all {what}", shown.words)
        telling.warn(
            f"{part.file.path.name}: the scores of {shown.words} {what}: a CAM is of the scores in front of that; name them "
            "with {logits}"
        )


def _by_others(found: Held) -> str:
    """Say that a copy runs by other kernels than its file."""
    count = len(found.kernels)
    return (
        f"but ONNX Runtime runs {count} {'node' if count == 1 else 'nodes'} of the copy with the CAM layer by other kernels "
        f"(first {found.kernels[0]})"
    )


def _refuse_without_logits(part: Part) -> None:
    """Refuse a file that differs from its copy and does not hand out the scores itself: there would be none of the file's."""
    if part.returned != part.entry.logits:
        raise BundleError(
            f"{part.file.where}: handing out {part.entry.logits} and the CAM layer changes what ONNX Runtime computes, and the "
            f"file itself does not return those scores; name an output of the file with {{logits}}, or another {{cam_layer}}"
        )


def _note_agreement(bundle: Bundle, parts: list[Part], held: dict[str, Held], shown: Shown) -> None:
    """Note how often the quantized file and the float file choose the same class: files of two networks hardly do."""
    if len(parts) < 2:
        return
    one, other = (held[part.name].logits.argmax(axis=1) for part in parts)
    same, total = int((one == other).sum()), len(shown.names)
    parts[0].noted.note("top-1", f"{parts[0].name} and f32 agree on {same} of {total}", shown.words)
    if 2 * same < total and bundle.trained is not False:
        telling.warn(
            f"{parts[0].file.path.name} and {parts[1].file.path.name} choose the same class on {same} of {total} photographs; "
            "are they one network, do both take pictures so, and did quantization leave anything of it?"
        )
