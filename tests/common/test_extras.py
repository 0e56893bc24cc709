"""Optional packages: one that is missing, and one that is there and cannot be loaded, are told in one line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from qcam.common.errors import MissingExtraError
from qcam.common.extras import naming_extras

_MISSING_LIBRARY = "libcudnn.so.9: cannot open shared object file: No such file or directory"


@pytest.fixture
def broken_kornia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that an extra brings, and that raises on import what its __init__ holds."""
    package = tmp_path / "kornia"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "kornia", raising=False)
    return package / "__init__.py"


@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_a_package_whose_shared_library_is_missing_is_named(broken_kornia: Path, kind: str) -> None:
    broken_kornia.write_text(f"raise {kind}({_MISSING_LIBRARY!r})\n")
    told = r"the network needs the package kornia.*cannot be loaded: libcudnn.so.9: cannot"
    with pytest.raises(MissingExtraError, match=told), naming_extras("the network"):
        importlib.import_module("kornia")


def test_another_failing_import_is_no_missing_library(broken_kornia: Path) -> None:
    broken_kornia.write_text("raise ImportError('cannot import name x from y')\n")
    with pytest.raises(ImportError, match="cannot import name x") as caught, naming_extras("the network"):
        importlib.import_module("kornia")
    assert not isinstance(caught.value, MissingExtraError)


def test_a_library_that_no_optional_package_asks_for_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="libother") as caught, naming_extras("the network"):
        raise OSError("libother.so: cannot open shared object file: No such file or directory")
    assert not isinstance(caught.value, MissingExtraError)
