"""Closed vocabularies: defined once, checked where they enter the library."""

from __future__ import annotations

import numpy as np
import pytest

from qcam.common.errors import QcamError
from qcam.common.vocabulary import CamMethod, Engine, Target, near, require
from qcam.evaluate.engine.choice import EngineOptions
from qcam.evaluate.maps.cam import METHODS, cam
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.perturbed import PERTURBING
from qcam.exporters.export import ExportOptions
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.devices import torch_device


def test_a_word_is_itself_and_anything_else_is_refused_with_the_choices() -> None:
    assert require(Target, "label", "target") is Target.LABEL
    with pytest.raises(QcamError, match="engine 'slurm' is unknown; choose one of local, ray"):
        require(Engine, "slurm", "engine")


def test_every_cam_method_has_its_formula() -> None:
    of_gradients = {*METHODS, CamMethod.HIRESCAM, CamMethod.LAYERCAM, CamMethod.EIGENCAM}
    assert of_gradients | PERTURBING == set(CamMethod)
    assert not of_gradients & PERTURBING
    for method in of_gradients:
        assert cam(np.ones((1, 2, 3, 4)), np.ones((1, 2, 3, 4)), method).shape == (1, 3, 4)


@pytest.mark.parametrize(("word", "what"), [("target", "target"), ("method", "CAM method")])
def test_an_evaluator_refuses_a_typo(tiny_bundle, word, what) -> None:
    """It used to mean another target, silently."""
    with pytest.raises(QcamError, match=f"{what} 'typo' is unknown; choose one of"):
        BundleEvaluator(tiny_bundle, ["f32"], SessionSettings(), **{word: "typo"})


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: StudyOptions((), target="typo"), "target"),
        (lambda: StudyOptions((), method="typo"), "CAM method"),
        (lambda: StudyOptions((), protocol="typo"), "protocol"),
        (lambda: EngineOptions("typo"), "engine"),
        (lambda: ExportOptions(method="typo"), "calibration method"),
        (lambda: ExportOptions(scheme="typo"), "scheme"),
        (lambda: ExportOptions(("f32", "typo")), "precision"),
        (lambda: torch_device("typo", 1), "device"),
    ],
)
def test_words_are_checked_where_they_enter(make, what) -> None:
    with pytest.raises(QcamError, match=f"{what} 'typo' is unknown; choose one of"):
        make()


def test_near_names_are_found_and_far_ones_are_not() -> None:
    assert near("resnet5O", ["vgg16", "resnet50"]) == ["resnet50"]
    assert near("nonesuch", ["vgg16", "resnet50"]) == []
