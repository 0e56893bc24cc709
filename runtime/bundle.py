"""Opening a bundle: the folder that an export writes and everything else reads, here or behind a URL.

What its manifest says is in qcam.runtime.manifest; its names are imported from here by whoever opens bundles.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from qcam.common.errors import BundleError
from qcam.common.files import sha256_file
from qcam.common.places import near_folders, require_text
from qcam.common.records import record_bytes
from qcam.common.storage import Location, open_location, reason
from qcam.common.vocabulary import PRECISIONS
from qcam.runtime.agreement import check_agreement
from qcam.runtime.external import load_external, parse_onnx, refuse_unhashed
from qcam.runtime.feeding import Input
from qcam.runtime.fetch import fetch_bundle
from qcam.runtime.manifest import (
    MANIFEST,
    Bundle,
    Original,
    PrecisionEntry,
    Tap,
    changed,
    files_of,
    no_bundle,
    ordered_precisions,
    parse_manifest,
    precision_order,
)
from qcam.runtime.wellformed import refuse_damaged, refuse_no_text

__all__ = [
    "MANIFEST",
    "PRECISIONS",
    "Bundle",
    "Input",
    "Original",
    "PrecisionEntry",
    "Tap",
    "load_bundle",
    "load_onnx",
    "ordered_precisions",
    "precision_order",
    "read_onnx",
]


#: Where bundles are looked for unless told otherwise.
BUNDLES = Path("bundles")


def load_bundle(location: str | Location, *, verify: bool = True) -> Bundle:
    """Read a bundle's manifest and check its files against it.

    Args:
        location: The bundle's folder; one behind a URL is fetched into a cache folder, if it is not there (`fetch_bundle`).
        verify: Whether to compare each file's fingerprint.

    Raises:
        BundleError: If the folder is no bundle, its schema is another one, a file is missing, was changed, or would
            lie outside the folder; if a URL cannot be read.
    """
    folder = open_location(location)
    if not isinstance(folder, Path):
        folder, verify = fetch_bundle(folder), False  # held against the manifest as it was fetched
    require_text(folder, "the bundle")
    path = folder / MANIFEST
    try:
        data = record_bytes(path)
    except FileNotFoundError as error:
        if not folder.exists():
            advice = near_folders(folder, BUNDLES, holding=MANIFEST) or "; make one with {qcam-export}"
            raise BundleError(f"{folder} is no bundle: there is no such folder{advice}") from error
        raise BundleError(no_bundle(str(folder))) from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {reason(error)}; export the bundle again with {{force}}") from error
    bundle = parse_manifest(data, folder, str(path))
    for name, sha256 in files_of(bundle, str(path)).items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file} is missing; export the bundle again with {{force}}")
        if verify and sha256_file(file) != sha256:
            raise BundleError(changed(str(file)))
    return bundle


def load_onnx(bundle: Bundle, precision: str) -> onnx.ModelProto:
    """Read the ONNX file of one precision, with its weights.

    Raises:
        BundleError: If it is no ONNX file, is damaged, refers to files without a hash in the manifest, or is not what the
            manifest says.
    """
    entry, path = bundle.precision(precision), bundle.path(precision)
    model = parse_onnx(path)
    refuse_no_text(model, str(path))
    refuse_unhashed(model, str(path), entry.external)
    load_external(model, path.parent, str(path))
    refuse_damaged(model, str(path))
    check_agreement(model, entry, str(path))
    return model


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with all its weights; those in other files have to lie beside or below it.

    Raises:
        BundleError: If it cannot be read, or a weight cannot, or would be read from outside the file's own folder.
    """
    model = parse_onnx(path)
    refuse_no_text(model, str(path))
    load_external(model, path.parent, str(path))
    refuse_damaged(model, str(path))
    return model
