"""Ablation-CAM of a deployed f32 file against the package pytorch-grad-cam on the network that the file was made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam import AblationCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import qcam
from qcam.evaluate.maps.cam import enlarge
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.embedded import calibration_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.models.sources import LoadedModel

#: Largest difference of two maps in 0..1. pytorch-grad-cam computes in float32, and PyTorch's products round otherwise than
#: ONNX Runtime's; a weight is a difference of scores that are alike.
TOLERANCE = 1e-4


def pooled() -> nn.Sequential:
    """Behind the layer: a mean over all positions and a linear layer."""
    return nn.Sequential(nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 6))


def convolved() -> nn.Sequential:
    """Behind the layer: a convolution with a ReLU, and the mean only then."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=4), nn.ReLU(), nn.Conv2d(32, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize("make", [pooled, convolved])
def test_maps_are_pytorch_grad_cam_s(make, tmp_path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = make().eval().requires_grad_(False)
    classes = tuple(f"class {index}" for index in range(6))
    preprocessing = Preprocessing(resize=48, crop=(48, 48), mean=(0.5,) * 3, std=(0.25,) * 3)
    weights = {"name": "random:3", "sha256": "0" * 64, "trained": False}
    loaded = LoadedModel("small", "test", module, preprocessing, classes, weights, "1")
    bundle = export_bundle(loaded, calibration_photographs(), ExportOptions(), tmp_path / "small")

    picture = np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)
    ours = qcam.explain(bundle, picture, "f32", method="ablation", threads=1)
    images = torch.from_numpy(preprocessing.normalise(picture[None]))
    assert ours.logits["f32"][ours.target["f32"]] > 0
    with AblationCAM(module, [module[1]]) as explain:
        theirs = explain(images, [ClassifierOutputTarget(ours.target["f32"])])
        assert explain.activations_and_grads.activations[0].min() == 0  # else it takes another value than the paper's 0
    assert ours.maps["f32"].any()
    assert np.abs(enlarge(ours.maps["f32"][None], (48, 48)) - theirs).max() <= TOLERANCE
