"""BatchNorm that was folded gets statistics again, and the function stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qcam.common.errors import QcamError
from qcam.evaluate.paper.batch_norm import folded_layers, restore_statistics


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


@pytest.fixture
def partly_folded() -> Net:
    """Statistics in BatchNorm's own scale and shift, as the decoded ResNet-50 has them: mean 0, variance 1, a slope left."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = Net().eval().requires_grad_(False)
        for layer in (net.bn1, net.bn2):
            layer.weight.uniform_(0.05, 0.4)
            layer.bias.normal_()
    return net


def test_folded_are_layers_without_mean_or_without_variance_whatever_slope_is_left(folded: Net, partly_folded: Net) -> None:
    assert folded_layers(folded) == folded_layers(partly_folded) == ["bn1", "bn2"]
    assert folded_layers(nn.Sequential(nn.Conv2d(3, 4, 3))) == []
    partly_folded.bn1.running_mean[0] = 0.1  # the variance alone was folded
    partly_folded.bn2.running_var[0] = 0.5  # the mean alone
    assert folded_layers(partly_folded) == ["bn1", "bn2"]
    partly_folded.bn1.running_var[0] = 0.5
    assert folded_layers(partly_folded) == ["bn2"]


def test_layers_that_have_statistics_keep_them(partly_folded: Net, images: list[torch.Tensor]) -> None:
    kept = partly_folded.bn1
    kept.running_mean.normal_()
    kept.running_var.uniform_(0.5, 2)
    before = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
    expected = [partly_folded(batch) for batch in images]
    restore_statistics(partly_folded, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.state_dict().items())
    assert folded_layers(partly_folded) == []
    for batch, output in zip(images, expected, strict=True):
        torch.testing.assert_close(partly_folded(batch), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm2d(4, affine=False), "neither statistics nor a scale of its own"),
        (nn.BatchNorm2d(4, track_running_stats=False), "keeps no running statistics"),
    ],
)
def test_what_cannot_be_restored_is_refused_by_name(folded: Net, layer: nn.BatchNorm2d, words: str) -> None:
    folded.bn1 = layer
    with pytest.raises(QcamError, match=f"BatchNorm bn1 .*{words}"):
        folded_layers(folded)


def test_statistics_are_those_of_the_images_and_the_function_stays(folded: Net, images: list[torch.Tensor]) -> None:
    inputs = torch.cat([folded.conv1(batch) for batch in images])
    before = [folded(batch) for batch in images]
    restore_statistics(folded, images)
    torch.testing.assert_close(folded.bn1.running_mean, inputs.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(folded.bn1.running_var, inputs.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)
    assert folded_layers(folded) == []
    for batch, expected in zip(images, before, strict=True):
        torch.testing.assert_close(folded(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["folded", "partly_folded"])
def test_in_training_mode_a_batch_with_those_statistics_gives_the_same(
    which: str, images: list[torch.Tensor], request: pytest.FixtureRequest
) -> None:
    """What folding had destroyed: all images as one batch have the very statistics that were restored."""
    net: Net = request.getfixturevalue(which)
    buffers = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    everything = torch.cat(images)
    expected = net(everything)
    destroyed = net.train()(everything)
    assert (destroyed - expected).abs().max() > 1
    net.eval().load_state_dict(buffers)  # training mode has moved them
    restore_statistics(net, images)
    torch.testing.assert_close(net.train()(everything), expected, rtol=1e-4, atol=1e-4)
