"""`qcam.export`, and what a notebook shows of a bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest

import qcam


def test_an_export_is_a_bundle_that_loads(tmp_path) -> None:
    bundle = qcam.export(
        "squeezenet1_1", weights="random:0", precisions="f32", output=tmp_path, crop=[64, 64], resize=64, mean=0.5
    )
    assert bundle.folder == tmp_path / "squeezenet1_1"
    assert bundle.preprocessing.crop == (64, 64)
    assert bundle.preprocessing.mean == (0.5, 0.5, 0.5)
    assert [entry.name for entry in bundle.precisions] == ["f32"]
    assert qcam.load_bundle(bundle.folder) == bundle
    told_what_to_do = "exists already; use force=True to replace it, keep=True to leave it, or output"
    with pytest.raises(qcam.BundleError, match=told_what_to_do):
        qcam.export("squeezenet1_1", weights="random:0", precisions=["f32"], output=tmp_path)
    told = []
    again = qcam.export(["squeezenet1_1"], output=tmp_path, keep=True, on_bundle=lambda *given: told.append(given))
    assert again == [bundle]
    assert told == [(bundle, True)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "resnet5O"}, r"model 'resnet5O' is unknown \(did you mean resnet50"),
        ({"method": "typo"}, "calibration method 'typo' is unknown"),
        ({"scheme": "typo"}, "scheme 'typo' is unknown"),
        ({"precisions": ["typo"]}, "precision 'typo' is unknown"),
        ({"precisions": "int9"}, "precision 'int9' is unknown"),
        ({"precisions": ()}, "no precision to export; choose one or more of f32, int16, int8"),
        ({"mean": "a"}, "mean 'a': give a number"),
        ({"std": [0.2, "b", 0.2]}, "std 'b': give a number"),
        ({"crop": "64"}, "crop '64': give a whole number, 1 or more"),
        ({"resize": (64,)}, "resize .64,.: give one number of pixels, or height and width"),
        ({"opset": "21"}, "opset '21': give a whole number, 1 or more"),
        ({"calibration_limit": 0}, "calibration_limit 0: give a whole number, 1 or more"),
        ({"classes": "names.txt"}, "classes 'names.txt': give the number of classes, or their names in a list"),
        ({"classes": 2.5}, "classes 2.5: give a whole number"),
    ],
)
def test_what_means_nothing_is_refused_and_nothing_written(tmp_path, wrong, message) -> None:
    arguments = {"name": "squeezenet1_1", "weights": "random:0", "output": tmp_path} | wrong
    with pytest.raises(qcam.QcamError, match=message):
        qcam.export(arguments.pop("name"), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_a_bundle_and_runs_nothing_of_its_names(tiny_bundle) -> None:
    shown = replace(tiny_bundle, model_id="<script>alert(1)</script>")._repr_html_()
    assert "f32, int16, int8" in shown
    assert "RANDOM" in shown
    assert "<script" not in shown
