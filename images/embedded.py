"""The embedded photographs: real ones that packages on PyPI ship.

Evaluation: the 20 ImageNet photographs of foolbox, class index in the file name, fetched by qcam-fetch. Calibration: the
photographs of scikit-image, scikit-learn and matplotlib, which are installed; the two sets share no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qcam.common.assets import DEMO_PHOTOGRAPHS, asset_files
from qcam.common.packages import package_folder
from qcam.images.names import ClassNames
from qcam.images.sources import ImageFile

# Everyday colour photographs only: test patterns, microscopy, scans and textures would calibrate for no photograph.
_CALIBRATION = {
    "skimage": [
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
}

#: What the classes of the evaluation photographs are called.
_CLASSES = {
    22: "bald eagle", 99: "goose", 129: "spoonbill", 243: "bull mastiff", 251: "dalmatian", 305: "dung beetle",
    317: "leafhopper",
    438: "beaker", 455: "bottlecap", 471: "cannon", 541: "drum", 559: "folding chair", 609: "jeep", 630: "loafer",
    741: "prayer rug", 853: "thatch", 915: "yurt", 949: "strawberry", 990: "buckeye",
}  # fmt: skip


def fits_labels(classes: Sequence[str]) -> bool:
    """Tell whether the labels of the evaluation photographs are classes of a model: its names say so, not only their number."""
    known = ClassNames(classes)
    return len(classes) == 1000 and all(known.agrees(index, name) for index, name in _CLASSES.items())


def evaluation_photographs() -> list[ImageFile]:
    """Return the 20 labelled ImageNet photographs that foolbox ships, sorted by name.

    Raises:
        QcamError: If they were not fetched and foolbox is not installed, or one is damaged.
    """
    found = []
    for path in asset_files(DEMO_PHOTOGRAPHS):
        _, _, label = path.stem.rpartition("_")
        found.append(ImageFile(path.name, path, int(label)))
    return found


def calibration_photographs() -> list[ImageFile]:
    """Return the photographs that scikit-image, scikit-learn and matplotlib ship, without labels.

    Raises:
        MissingExtraError: If one of the packages is not installed.
    """
    found = []
    for package, files in _CALIBRATION.items():
        folder = package_folder(
            package, 'calibration photographs come with it: pip install "qcam[demo]", or give photographs of your own'
        )
        found += [ImageFile(Path(file).name, folder / file) for file in files if (folder / file).is_file()]
    return found
