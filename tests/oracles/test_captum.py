"""Occlusion against Captum's, on the same network, picture, patches and colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from qcam.evaluate.maps.masking import CELLS, mean_colour, occluded, occlusion_map, patches


@pytest.mark.parametrize(("height", "width"), [(28, 28), (56, 42)])
def test_occlusion_is_captum_s(height: int, width: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(32, 5)).double().eval()
    crop = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    colour, target = mean_colour((0.485, 0.456, 0.406)), 3

    def tensor(pictures: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pictures.astype(np.float64) / 255).permute(0, 3, 1, 2)

    with torch.no_grad():
        score = float(network(tensor(crop[None]))[0, target])
        without = network(tensor(occluded(crop, patches((height, width)), colour)))[:, target].numpy()
        down, along = height // CELLS, width // CELLS
        theirs = Occlusion(network).attribute(
            tensor(crop[None]), target=target, sliding_window_shapes=(3, 2 * down, 2 * along), strides=(3, down, along),
            baselines=tensor(np.broadcast_to(colour, (1, height, width, 3))),
        )  # fmt: skip
    ours = np.kron(occlusion_map(score, without), np.ones((down, along)))
    np.testing.assert_allclose(ours, np.maximum(theirs[0, 0].numpy(), 0), rtol=1e-6, atol=1e-12)  # Captum divides in float32
    assert (theirs[0, 0].numpy() > 0).any()
