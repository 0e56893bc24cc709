"""A file becomes a further precision of a bundle that is there: what does not belong to it is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from qcam.common.errors import BundleError, QcamError
from qcam.exporters.importing.parts import Part, plain
from qcam.exporters.importing.taps import map_size
from qcam.runtime.bundle import MANIFEST, Bundle, PrecisionEntry, load_bundle, load_onnx
from qcam.runtime.graph import Graph
from qcam.runtime.manifest import SCHEMA_VERSION, files_of, ordered_precisions
from qcam.runtime.normal import normalised


def taking(place: Path) -> Bundle:
    """Return the bundle that takes a further precision, every file of it held against its manifest.

    Args:
        place: Its folder.

    Raises:
        QcamError: If there is none, or its manifest does not say how files take pictures.
    """
    if not (place / MANIFEST).is_file():
        raise QcamError(f"{place} is no bundle in a folder here; {{into}} adds to one, {{output}} makes a new one")
    bundle = load_bundle(str(place))
    if bundle.schema != SCHEMA_VERSION:
        raise BundleError(
            f"{place} has a manifest of schema version {bundle.schema}, which does not say how files take pictures; export it "
            "again with {force}, then add to it"
        )
    return bundle


def refuse_beside(into: Bundle, part: Part, *, replace: bool) -> None:
    """Refuse a file that is another network than the bundle's, or looks at another place, or is there already.

    Args:
        into: The bundle.
        part: The file.
        replace: Whether a precision of its name is replaced.

    Raises:
        QcamError: If it cannot stand beside the others.
    """
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
            f"{part.file.path.name} has a CAM layer of {plain(one)}, {other.name} of {into.folder} one of {plain(two)} "
            f"({other.tap.tensor}): they are not seen at one place; correct {{cam_layer}}"
        )


def float_beside(into: Bundle, part: Part) -> PrecisionEntry | None:
    """Return the f32 that a file stands beside, as the file that hands out scores and tap; None if there is none."""
    if part.name == "f32" or all(entry.name != "f32" for entry in into.precisions):
        return None
    return replace(into.precision("f32"), original=None)


def put_beside(into: Bundle, bundle: Bundle, folder: Path) -> Bundle:
    """Put the other precisions of a bundle beside one that is in a folder already.

    Args:
        into: The bundle of the others.
        bundle: The one precision, in the folder.
        folder: The folder.

    Returns:
        The bundle of all of them, in the folder.

    Raises:
        BundleError: If two of them would have one file.
    """
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
