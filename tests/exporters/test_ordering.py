"""Several models, one order: what is in the way is refused before the first, what is kept costs nothing."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from qcam.common import telling
from qcam.common.errors import BundleError
from qcam.exporters import ordering
from qcam.exporters.ordering import ExportOrder, export_models


@pytest.fixture
def exported(monkeypatch):
    """Names that were exported; nothing is, and every name is one of a model."""
    done = []
    monkeypatch.setattr(ordering, "refuse_unknown", lambda _name: None)
    monkeypatch.setattr(ordering, "calibration_images", lambda _order: done.append("photographs") or [])

    def export_model(name, order, images, on_stage):
        on_stage("loading")
        done.append(name)
        return f"bundle of {name}"

    monkeypatch.setattr(ordering, "export_model", export_model)
    return done


def test_a_bundle_in_the_way_is_refused_before_the_first_export(exported, tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(BundleError, match=r"b exists already; use force=True to replace it, keep=True to leave it, or output$"):
        list(export_models(["a", "b"], ExportOrder(output=tmp_path)))
    assert exported == []


def test_a_bundle_that_is_kept_is_not_exported_and_what_is_no_bundle_is(exported, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "bundle.json").write_text("{}")
    stages = []

    class Listener:
        @contextmanager
        def status(self, text):
            stages.append(text)
            yield

    with telling.listening(Listener()):
        found = list(export_models(["a", "b", "b"], ExportOrder(output=tmp_path), keep=True))
    assert found == [(tmp_path / "a", None), (tmp_path / "b", "bundle of b")]
    assert exported == ["photographs", "b"]
    assert stages == ["b", "b: loading"]


def test_where_all_is_kept_no_photograph_is_looked_for(exported, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bundle.json").write_text("{}")
    assert list(export_models(["a"], ExportOrder(output=tmp_path), keep=True)) == [(tmp_path / "a", None)]
    assert exported == []


def test_force_replaces_what_is_there(exported, tmp_path):
    (tmp_path / "a").mkdir()
    assert list(export_models(["a"], ExportOrder(output=tmp_path, force=True))) == [(tmp_path / "a", "bundle of a")]
