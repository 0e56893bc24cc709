"""What a run reads: bundles and photographs, and the places where results must not go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qcam.common import telling
from qcam.common.counted import counted
from qcam.common.errors import BundleError
from qcam.common.storage import is_url
from qcam.evaluate.results.records import UNKNOWN_WEIGHTS
from qcam.images.account import Account
from qcam.images.embedded import evaluation_photographs
from qcam.images.listing import find_images, one_photograph, require_place
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import BUNDLES, MANIFEST, Bundle, load_bundle


def load_bundles(given: Sequence[str | Path | Bundle]) -> list[Bundle]:
    """Read the bundles given, or all of bundles/; warn where weights are random, and say where nobody knows.

    Args:
        given: Bundles, or paths and URLs of their folders; names in bundles/ are understood, and a folder that holds just one.

    Raises:
        QcamError: If there is none, or one cannot be read.
    """
    places: list[str | Path | Bundle] = list(given)
    if not places:
        places = [*_bundles_in(BUNDLES)]
        if not places:
            raise BundleError("no bundle given and none in bundles/; make one with {qcam-export}")
    bundles = [place if isinstance(place, Bundle) else load_bundle(_settled(place)) for place in places]
    for bundle in bundles:
        if bundle.weights.trained is False:
            telling.warn(random_weights(bundle))
        elif bundle.weights.trained is None:
            telling.note(unknown_weights(bundle))
    return bundles


def random_weights(bundle: Bundle) -> str:
    """Return the warning that a bundle's weights are random."""
    return f"{bundle.model_id} has random weights: no figure made with it means anything"


def unknown_weights(bundle: Bundle) -> str:
    """Return what is said of a bundle's weights where nobody says whether they are trained."""
    return f"{bundle.model_id}: {UNKNOWN_WEIGHTS}"


def calibrating(bundle: Bundle, precisions: Iterable[str], hashes: Iterable[str]) -> str:
    """Return the warning that a bundle was calibrated with images that it is evaluated on; empty if not, or not known.

    Args:
        bundle: The bundle; those of earlier versions, and of other tools, do not tell their calibration images.
        precisions: Those that are evaluated: f32 has no ranges.
        hashes: SHA-256 of the file of every image, as hexadecimal digits.
    """
    told = bundle.calibration
    if told.sha256 is None or set(precisions) <= {"f32"}:
        return ""
    images, known = list(hashes), set(told.sha256)
    seen = sum(sha256 in known for sha256 in images)
    if not seen:
        return ""
    least = "" if told.hashed_all else "at least "
    every = counted(len(images), "image")
    return f"{least}{seen:,} of {every} calibrated {bundle.model_id}: its ranges fit them; evaluate on others"


def find_photographs(location: str | Path | None, account: Account | None = None, run: int | None = None) -> list[ImageFile]:
    """Return the photographs of a folder or of archives, one photograph, or the demo's.

    Args:
        location: A path or a URL, as `find_images` takes it, or one picture's file; None for the demo's.
        account: Takes what was taken and what was not.
        run: Of how many of them, the first ones, the run will be; for the account.

    Raises:
        QcamError: If there are none.
    """
    if location is None:
        photographs = evaluation_photographs()
        telling.note(f"no images given: taking the {len(photographs)} demo photographs that foolbox ships")
        if account is not None:
            count, taken = len(photographs), len(photographs[:run])
            first = f" of {count:,}" if taken < count else ""
            account.add("images", f"{taken:,}{first} taken, the demo's", taken=taken, found=count, not_taken=0)
        return photographs
    one = None if is_url(str(location)) or location == "" else one_photograph(Path(location))
    if one is not None:
        if account is not None:
            account.add("images", "1 taken", taken=1, found=1, not_taken=0)
        return [one]
    return find_images(location, account=account, run=run)


def read_places(
    given: Sequence[str | Path | Bundle], bundles: Sequence[Bundle], images: str | Path | None, saliency: str = "none"
) -> list[tuple[str, str | Path]]:
    """Return the places that a run reads, in words and as paths or URLs: results must not go there.

    Args:
        given: Bundles as given; none if all of bundles/ are taken.
        bundles: The same, read.
        images: The image set, as given; None for the demo's.
        saliency: As given; a folder of masks is a place of its own.

    Raises:
        ImageSetError: If the image set's place is an empty text.
    """
    if images is not None:
        require_place(images if isinstance(images, str) else str(images))
    kind, _, masks = saliency.partition(":")
    read: list[str | Path | Bundle] = list(given) or [*bundles]
    places: list[tuple[str, str | Path]] = [
        ("the bundle", place.folder if isinstance(place, Bundle) else place) for place in read
    ]
    if images is not None:
        places.append(("the image set", images))
    if kind == "masks" and masks:
        places.append(("the mask folder", masks))
    return places


def _bundles_in(folder: Path) -> list[Path]:
    """Return the bundles right below a folder, in the order of their names."""
    return sorted(path.parent for path in folder.glob(f"[!.]*/{MANIFEST}"))


def _settled(place: str | Path) -> str | Path:
    """Return the bundle's folder that a path stands for, or the path itself where there is nothing better.

    Raises:
        BundleError: If it is something near a bundle; says what to give instead.
    """
    path = Path(place)
    if is_url(str(place)) or (path / MANIFEST).is_file():
        return place
    if path.is_file() and path.suffix == ".onnx":
        raise BundleError(f"{path} is a file inside a bundle, or none of qcam's; give the bundle's folder")
    if path.is_dir():
        held = _bundles_in(path)
        if len(held) == 1:
            telling.note(f"{path} holds one bundle, {held[0].name}: taking it")
            return held[0]
        if held:
            names = ", ".join(str(folder) for folder in held)
            default = path.resolve() == BUNDLES.resolve()
            every = "; where none is named, {qcam-eval} and {qcam-check} take all of them" if default else ""
            raise BundleError(f"{path} is no bundle but holds {len(held)}; give those you mean: {names}{every}")
    return place
