"""What several commands take: bundles, photographs, thresholds, devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qcam.commands import console
from qcam.common import machine
from qcam.common.errors import QcamError

if TYPE_CHECKING:
    from qcam.images.sources import ImageFile
    from qcam.runtime.bundle import Bundle


def load_bundles(given: tuple[str | Path, ...]) -> list[Bundle]:
    """Read the bundles given, or all of bundles/; warn where weights are random.

    Args:
        given: Paths and URLs of their folders.

    Raises:
        QcamError: If there is none, or one cannot be read.
    """
    from qcam.runtime.bundle import MANIFEST, load_bundle

    folders: list[str | Path] = list(given)
    if not folders:
        folders = sorted(path.parent for path in Path("bundles").glob(f"[!.]*/{MANIFEST}"))
        if not folders:
            raise QcamError("no bundle given and none in bundles/; make one with qcam-export")
    bundles = [load_bundle(folder) for folder in folders]
    for bundle in bundles:
        if not bundle.trained:
            console.warn(f"{bundle.model_id} has random weights: no figure made with it means anything")
    return bundles


def find_photographs(location: str | Path | None) -> list[ImageFile]:
    """Return the photographs of a folder or of archives, or the demo's.

    Args:
        location: A path or a URL, as `find_images` takes it; None for the demo's.

    Raises:
        QcamError: If there are none.
    """
    from qcam.images.embedded import evaluation_photographs
    from qcam.images.listing import find_images

    if location is not None:
        return find_images(location)
    photographs = evaluation_photographs()
    console.note(f"no --images: taking the {len(photographs)} demo photographs that foolbox ships")
    return photographs


def read_places(
    given: Sequence[str | Path], bundles: Sequence[Bundle], images: str | Path | None, saliency: str = "none"
) -> list[tuple[str, str | Path]]:
    """Return the places that a run reads, in words and as paths or URLs: results must not go there.

    Args:
        given: Bundles as given on the command line; none if all of bundles/ are taken.
        bundles: The same, read.
        images: The image set, as given; None for the demo's.
        saliency: As given; a folder of masks is a place of its own.
    """
    kind, _, masks = saliency.partition(":")
    places: list[tuple[str, str | Path]] = [("the bundle", place) for place in given or [bundle.folder for bundle in bundles]]
    if images is not None:
        places.append(("the image set", images))
    if kind == "masks" and masks:
        places.append(("the mask folder", masks))
    return places


def torch_device(wanted: str, threads: int) -> str:
    """Set PyTorch up and return its device: cpu or cuda.

    Raises:
        QcamError: If PyTorch is not installed, or the device cannot be had.
    """
    machine.let_idle_threads_rest()
    try:
        import torch
    except ImportError as error:
        raise QcamError(f'PyTorch is not installed ({error}); the mirror needs it: pip install "qcam[host]"') from error
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise QcamError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    return "cuda" if wanted != "cpu" and available else "cpu"


def key_value(text: str, option: str) -> tuple[str, str]:
    """Split KEY=VALUE.

    Raises:
        QcamError: If it is not of that form.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise QcamError(f"{option} {text!r} is not of the form KEY=VALUE")
    return key, value
