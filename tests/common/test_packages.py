"""Folders of installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qcam.common.errors import MissingExtraError
from qcam.common.packages import find_package, package_folder


def test_a_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_package("numpy") == Path(np.__file__).parent
    (tmp_path / "a_package_of_the_test").mkdir()
    (tmp_path / "a_package_of_the_test" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("a_package_of_the_test", "") == tmp_path / "a_package_of_the_test"
    assert "a_package_of_the_test" not in sys.modules


def test_a_module_that_is_no_folder_counts_as_absent() -> None:
    assert find_package("this_one") is None
    assert find_package("colorsys") is None
    with pytest.raises(MissingExtraError, match="package this_one is not installed; it is needed here"):
        package_folder("this_one", "it is needed here")
    with pytest.raises(MissingExtraError, match="package colorsys is not installed"):
        package_folder("colorsys", "one file, not a package")
