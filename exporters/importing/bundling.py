"""A whole import, from a file to its bundle: the one place that both `qcam.import_onnx` and `qcam-import` call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.common.files import new_folder, write_atomically
from qcam.exporters.importing.beside import float_beside, put_beside, refuse_beside, taking
from qcam.exporters.importing.copies import store
from qcam.exporters.importing.findings import note_agreement, note_scores, proven
from qcam.exporters.importing.ordering import ImportOrder
from qcam.exporters.importing.parts import Part, read_part, refuse_unlike
from qcam.exporters.importing.preparing import class_names_of, note_trained, preprocessing_of
from qcam.exporters.importing.proof import hold, mirrors_of, pictures, prove
from qcam.exporters.importing.quantization import producer_of
from qcam.exporters.importing.reading import read_foreign
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import MANIFEST, Bundle, PrecisionEntry, load_bundle
from qcam.runtime.described import Calibration, CamLayer, Weights
from qcam.runtime.manifest import ordered_precisions
from qcam.runtime.session_config import described as settings_described


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
    into = None if order.into is None else taking(order.into)
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
        refuse_unlike(parts)
        if into is not None:
            refuse_beside(into, parts[0], replace=order.force)
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
        random = (bundle if into is None else into).trained is False
        if len(parts) > 1:
            note_agreement(parts[0], parts[1].file.path.name, held, shown, of_random_weights=random)
        elif into is not None and (float_entry := float_beside(into, parts[0])) is not None:
            f32 = hold(into.folder, float_entry, "", preprocessing, shown, f"f32 of {into.folder}")
            note_agreement(parts[0], f"f32 of {into.folder}", held | {"f32": f32}, shown, of_random_weights=random)
        for part in parts:
            note_scores(part, mirrors[part.name], held[part.name], shown)
        bundle = proven(bundle, parts, held, shown)
        write_atomically(folder / MANIFEST, bundle.manifest_text())
        bundle = load_bundle(str(folder), verify=False)
        prove(bundle, mirrors, shown, {name: found.logits for name, found in held.items()}, called)
        if into is not None:
            on_stage("putting it beside the others")
            bundle = put_beside(into, bundle, folder)
            write_atomically(folder / MANIFEST, bundle.manifest_text())
            bundle = load_bundle(str(folder))
    return replace(bundle, folder=target)


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
        note_trained(first.noted, order.trained)
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
