"""What `prepare_qat` makes of a model: which codes, which modules, how observers adapt; and timm's modules taken apart."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from qcam.common.errors import ResultsError
from qcam.evaluate.paper.fake_quant import (
    calibrated,
    code_ranges,
    fake_quantized,
    has_quantized_logits,
    observed_state,
    plain_modules,
    quantized_modules,
    read_states,
    release_logits,
    restore_state,
    state_text,
)
from qcam.evaluate.run.ran import CodeRanges

NONE: frozenset[str] = frozenset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


@pytest.mark.parametrize(
    ("precision", "fixes", "activations", "weights"),
    [
        ("int8", NONE, [0, 127], [-128, 127]),
        ("int8", frozenset({"8bit"}), [0, 255], [-128, 127]),
        ("int16", NONE, [-16384, 16383], [-32768, 32767]),
        ("int16", frozenset({"8bit"}), [-32768, 32767], [-32768, 32767]),
    ],
)
def test_codes_are_those_of_the_authors(
    net: Net, precision: str, fixes: frozenset[str], activations: list[int], weights: list[int]
) -> None:
    model = fake_quantized(net, precision, fixes)
    assert code_ranges(model) == CodeRanges(activations=tuple(activations), weights=tuple(weights))
    assert quantized_modules(model) == {"Conv2d": 1, "BatchNorm2d": 1, "Linear": 1}


def test_a_convolution_s_output_takes_at_most_128_values(net: Net) -> None:
    model = fake_quantized(net, "int8", NONE)
    seen: list[torch.Tensor] = []
    model.get_submodule("conv").register_forward_hook(lambda _m, _i, out: seen.append(out))
    model(torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(1)))
    values = seen[0].unique()
    assert 100 < len(values) <= 128
    # Affine, per tensor: equal steps from the smallest to the largest value.
    steps = values.diff()
    scale = model.get_submodule("conv").activation_post_process.scale  # type: ignore[union-attr]
    torch.testing.assert_close(steps / scale, (steps / scale).round(), atol=1e-3, rtol=0)


def test_weights_are_symmetric_per_tensor_or_per_channel(net: Net) -> None:
    with torch.no_grad():
        net.conv.weight[0] *= 10
    whole, channelwise = (fake_quantized(net, "int8", fixes) for fixes in (NONE, frozenset({"per-channel"})))
    for model in (whole, channelwise):
        model(torch.randn(1, 3, 8, 8))
    one = whole.get_submodule("conv").weight_fake_quant  # type: ignore[union-attr]
    assert one.scale.item() == pytest.approx(2 * net.conv.weight.abs().max().item() / 255, rel=1e-6)  # type: ignore[union-attr]
    assert one.zero_point.item() == 0  # type: ignore[union-attr]
    many = channelwise.get_submodule("conv").weight_fake_quant  # type: ignore[union-attr]
    expected = 2 * net.conv.weight.abs().amax((1, 2, 3)) / 255
    torch.testing.assert_close(many.scale, expected.detach(), rtol=1e-6, atol=0)  # type: ignore[union-attr]


def test_observers_go_on_adapting_by_a_hundredth_and_calibrated_ones_do_not(net: Net) -> None:
    moving, fixed = fake_quantized(net, "int8", NONE), fake_quantized(net, "int8", frozenset({"calibrated"}))
    small = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    calibrated(fixed, [small, 3 * small])

    def largest(model: nn.Module) -> float:
        return model.get_submodule("conv").activation_post_process.activation_post_process.max_val.item()  # type: ignore[union-attr]

    moving(small)
    first = largest(moving)
    moving(100 * small)
    seen: list[torch.Tensor] = []
    float_conv = nn.functional.conv2d(
        100 * small,
        moving.get_submodule("conv").weight_fake_quant(net.conv.weight),
        net.conv.bias,  # type: ignore[union-attr,operator]
    )
    seen.append(float_conv)
    assert largest(moving) == pytest.approx(first + 0.01 * (seen[0].max().item() - first), rel=1e-5)
    before = largest(fixed)
    fixed(100 * small)
    assert largest(fixed) == before


def test_a_state_goes_through_text_and_back_bitwise(net: Net) -> None:
    images = torch.randn(4, 1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    one, other = (fake_quantized(net, "int8", NONE) for _ in range(2))
    for image in images[:2]:
        one(image)
    text = state_text({"int8": observed_state(one)})
    restore_state(other, read_states(text)["int8"])
    assert state_text({"int8": observed_state(other)}) == text
    for image in images[2:]:
        assert torch.equal(one(image), other(image))
    fresh = fake_quantized(net, "int8", NONE)
    assert not torch.equal(one(images[0]), fresh(images[0]))


def test_a_state_of_observers_that_saw_nothing_can_be_kept(net: Net) -> None:
    fresh = fake_quantized(net, "int16", frozenset({"per-channel"}))
    restored = fake_quantized(net, "int16", frozenset({"per-channel"}))
    text = state_text({"int16": observed_state(fresh)})
    assert "Infinity" in text
    restore_state(restored, read_states(text)["int16"])
    assert state_text({"int16": observed_state(restored)}) == text
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(fresh(image), restored(image))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read the state of the observers in a part: Expecting"),
        ('{"int8": {"a": "Infinity"}}', "the state of the observers in a part: int8.a"),
        ('{"int8": {"a": [true]}}', r"the state of the observers in a part: int8.a\[0\]"),
        ('{"int8": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
    ],
)
def test_a_text_that_is_no_state_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(ResultsError, match=words):
        read_states(text)


def test_a_state_of_another_network_is_refused_by_what_differs(net: Net) -> None:
    model = fake_quantized(net, "int8", NONE)
    state = observed_state(model)
    point = next(name for name in state if name.endswith("zero_point"))
    less = {name: value for name, value in state.items() if name != point}
    for wrong, words in (
        (state | {"conv.other": 1.0}, "is of another network \\('conv.other'\\)"),
        (less, f"is of another network \\('{point}'\\)"),
        (state | {point: [0.5]}, f"{point} has to be of whole numbers"),
        (state | {point: [1 << 63]}, f"{point} holds a number beyond torch.int"),
    ):
        with pytest.raises(ResultsError, match=words):
            restore_state(model, wrong)
    assert observed_state(model) == state


@pytest.mark.parametrize(("size", "kernel", "stride"), [(11, 3, 2), (12, 3, 2), (13, 5, 2), (9, 3, 1), (12, 5, 3)])
def test_timm_s_modules_taken_apart_compute_the_same(size: int, kernel: int, stride: int) -> None:
    from timm.layers import BatchNormAct2d, Conv2dSame

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = nn.Sequential(Conv2dSame(3, 6, kernel, stride), BatchNormAct2d(6, act_layer=nn.ReLU6)).eval()
        whole[1].running_mean.normal_()
        whole[1].weight.data.normal_()
        image = torch.randn(1, 3, size, size)
    expected = whole(image)
    plain = plain_modules(whole)
    assert [type(module).__name__ for module in plain[0]] == ["_SamePadding", "Conv2d"]
    assert [type(module).__name__ for module in plain[1]] == ["BatchNorm2d", "Identity", "ReLU6"]
    torch.testing.assert_close(plain(image), expected, rtol=1e-6, atol=1e-6)


def test_logits_are_released_and_nothing_else(net: Net) -> None:
    """The winning score of a brighter image lies above the range seen so far: clamped, it has no gradient."""
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    gradients = []
    for released in (False, True):
        model = fake_quantized(net, "int8", NONE)
        assert has_quantized_logits(model, (8, 8))
        before = json.dumps(observed_state(model))
        if released:
            release_logits(model, (8, 8))
            assert not has_quantized_logits(model, (8, 8))
            assert quantized_modules(model) == {"Conv2d": 1, "BatchNorm2d": 1}
        else:
            assert json.dumps(observed_state(model)) == before
        model.eval()
        model(image)
        bright = (10 * image).requires_grad_()
        scores = model(bright)[0]
        (gradient,) = torch.autograd.grad(scores.max(), bright)
        gradients.append(gradient.abs().max().item())
    assert gradients[0] == 0 < gradients[1]


def test_class_maps_that_are_pooled_into_scores_keep_their_quantizer() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = fake_quantized(pooled, "int8", NONE)
    assert not has_quantized_logits(model, (8, 8))
    release_logits(model, (8, 8))
    assert quantized_modules(model) == {"Conv2d": 1}
