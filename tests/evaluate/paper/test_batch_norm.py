"""BatchNorm that was folded gets statistics again, and the function stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qcam.evaluate.paper.batch_norm import is_folded, restore_statistics


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


@pytest.fixture
def folded() -> Net:
    """Scale in the convolutions, BatchNorm only shifts: variance 1 - epsilon, as dequantized graphs leave it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net().eval().requires_grad_(False)
        for layer in (net.bn1, net.bn2):
            layer.running_var.fill_(1 - layer.eps)
            layer.bias.normal_()
    return net


@pytest.fixture
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 + 2 * torch.randn(2, 3, 12, 12, generator=generator) for _ in range(3)]


def test_only_batch_norm_that_does_not_scale_is_folded(folded: Net) -> None:
    assert is_folded(folded)
    assert not is_folded(nn.Sequential(nn.Conv2d(3, 4, 3)))
    folded.bn2.weight[3] = 1.1
    assert not is_folded(folded)
    folded.bn2.weight[3] = 1
    folded.bn1.running_mean[0] = 0.1
    assert not is_folded(folded)


def test_statistics_are_those_of_the_images_and_the_function_stays(folded: Net, images: list[torch.Tensor]) -> None:
    inputs = torch.cat([folded.conv1(batch) for batch in images])
    before = [folded(batch) for batch in images]
    restore_statistics(folded, images)
    torch.testing.assert_close(folded.bn1.running_mean, inputs.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(folded.bn1.running_var, inputs.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)
    assert not is_folded(folded)
    for batch, expected in zip(images, before, strict=True):
        torch.testing.assert_close(folded(batch), expected, rtol=1e-4, atol=1e-5)


def test_in_training_mode_a_batch_with_those_statistics_gives_the_same(folded: Net, images: list[torch.Tensor]) -> None:
    """What folding had destroyed: all images as one batch have the very statistics that were restored."""
    everything = torch.cat(images)
    expected = folded(everything)
    destroyed = folded.train()(everything)
    assert (destroyed - expected).abs().max() > 1
    fresh = folded.eval()
    for layer in (fresh.bn1, fresh.bn2):  # training mode has moved them
        layer.reset_running_stats()
        layer.running_var.fill_(1 - layer.eps)
    restore_statistics(fresh, images)
    torch.testing.assert_close(fresh.train()(everything), expected, rtol=1e-4, atol=1e-4)
