"""Folders of installed packages, found without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from qcam.common.errors import MissingExtraError


def find_package(package: str) -> Path | None:
    """Return an installed package's folder, or None if it is not installed or is a single module.

    Args:
        package: Import name, without dots.
    """
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        return None
    return Path(next(iter(specification.submodule_search_locations)))


def package_folder(package: str, purpose: str) -> Path:
    """Return an installed package's folder.

    Args:
        package: Import name.
        purpose: What it is needed for and how to install it, for the error.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    folder = find_package(package)
    if folder is None:
        raise MissingExtraError(f"package {package} is not installed; {purpose}")
    return folder
