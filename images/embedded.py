"""The embedded photographs: real ones that installed packages ship, so that a demonstration downloads nothing.

Evaluation: the 20 ImageNet photographs of foolbox, class index in the file name. Calibration: the photographs of
scikit-image and scikit-learn; the two sets share no picture.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from qcam.common.errors import QcamError
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
_EVALUATION_NAME = re.compile(r"imagenet_(\d+)_(\d+)\.jpg")


def package_folder(package: str, purpose: str) -> Path:
    """Find an installed package's folder without importing it.

    Args:
        package: Import name.
        purpose: What it is needed for and how to install it, for the error.

    Raises:
        QcamError: If the package is not installed.
    """
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        raise QcamError(f"package {package} is not installed; {purpose}")
    return Path(next(iter(specification.submodule_search_locations)))


def evaluation_photographs() -> list[ImageFile]:
    """Return the 20 labelled ImageNet photographs that foolbox ships.

    Raises:
        QcamError: If foolbox is not installed.
    """
    folder = package_folder("foolbox", "the demo photographs come with it: pip install --no-deps foolbox, or give --images DIR")
    found = []
    for path in sorted((folder / "data").glob("imagenet_*.jpg")):
        match = _EVALUATION_NAME.fullmatch(path.name)
        if match:
            found.append(ImageFile(path.name, path, int(match.group(2))))
    return found


def calibration_photographs() -> list[ImageFile]:
    """Return the photographs that scikit-image, scikit-learn and matplotlib ship, without labels.

    Raises:
        QcamError: If one of the packages is not installed.
    """
    found = []
    for package, files in _CALIBRATION.items():
        folder = package_folder(
            package, 'calibration photographs come with it: pip install "qcam[demo]", or give --calibration DIR'
        )
        found += [ImageFile(Path(file).name, folder / file) for file in files if (folder / file).is_file()]
    return found
