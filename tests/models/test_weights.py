"""Weights that cannot be meant are refused by name; good ones go in as they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qcam.common.errors import QcamError
from qcam.images.preprocessing import Preprocessing
from qcam.models import sources
from qcam.models.checkpoints import plain, read_checkpoint
from qcam.models.sources import load_model
from qcam.models.weights import StateDict, hash_parameters, load_strictly, zip_in_order

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)


def state_of_file(path: Path) -> StateDict:
    return plain(read_checkpoint(path))


class Net(nn.Module):
    """A convolution, a BatchNorm, a mask and a Linear: each kind of parameter and buffer."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("mask", torch.ones(4, dtype=torch.bool))
        self.linear = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)) * self.mask)
        return result


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def state_of(net: Net) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def written(folder: Path, state: dict[str, Any], form: str) -> Path:
    """Write a state dict as a file of this form, without torch's remarks about unusual tensors."""
    path = folder / f"weights.{form}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
    return path


def load(net: Net, path: Path) -> None:
    load_strictly(net, state_of_file(path), str(path))


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_each_float_type_is_taken_and_becomes_the_models_own(net, tmp_path, form, dtype):
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state_of(net).items()}
    fresh = Net()
    load(fresh, written(tmp_path, state, form))
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype)), name
        assert tensor.dtype == net.state_dict()[name].dtype


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool, *FLOAT8, torch.float8_e8m0fnu, torch.complex64])
@pytest.mark.parametrize("name", ["conv.weight", "norm.running_mean"])
def test_no_other_type_stands_for_a_float(net, tmp_path, form, dtype, name):
    state = state_of(net) | {name: torch.ones_like(net.state_dict()[name]).to(dtype)}
    path = written(tmp_path, state, form)
    before = hash_parameters(net)
    with pytest.raises(QcamError) as refused:
        load(net, path)
    said = str(refused.value)
    assert str(path) in said
    assert f"{name} is {str(dtype).removeprefix('torch.')}" in said
    assert said.endswith("give the float weights; a quantized checkpoint cannot be exported")
    assert hash_parameters(net) == before


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex32])
def test_complex_weights_of_every_size_are_refused(net, tmp_path, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = state_of(net) | {"norm.bias": torch.zeros(4).to(dtype)}
    with pytest.raises(QcamError, match=f"norm.bias is {str(dtype).removeprefix('torch.')}.*; give the float weights"):
        load(net, written(tmp_path, state, "pth"))


@pytest.mark.parametrize("dtype", [*INTEGERS])
def test_a_counter_is_any_integer(net, dtype):
    load_strictly(net, state_of(net) | {"norm.num_batches_tracked": torch.tensor(7).to(dtype)}, "x")
    assert net.norm.num_batches_tracked is not None
    assert net.norm.num_batches_tracked.dtype == torch.int64
    assert int(net.norm.num_batches_tracked) == 7


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_a_counter_is_nothing_else(net, dtype):
    with pytest.raises(QcamError, match=rf"norm\.num_batches_tracked is {str(dtype)[6:]}"):
        load_strictly(net, state_of(net) | {"norm.num_batches_tracked": torch.tensor(1).to(dtype)}, "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_checkpoint_that_was_cast_as_a_whole_loads(net, dtype):
    wanted = {name: tensor if tensor.dtype == torch.bool else tensor.to(dtype) for name, tensor in state_of(net).items()}
    wanted["norm.num_batches_tracked"] = torch.tensor(1e6).to(dtype)  # beyond what float16 holds
    load_strictly(net, wanted, "x")
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, wanted[name].to(tensor.dtype)), name


def test_a_counter_that_does_not_fit_is_refused(net):
    huge = torch.tensor(2**63, dtype=torch.uint64)
    with pytest.raises(QcamError, match=r"norm\.num_batches_tracked holds 9223372036854775808, .* int64"):
        load_strictly(net, state_of(net) | {"norm.num_batches_tracked": huge}, "x")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_a_mask_of_truths_is_nothing_else(net, dtype):
    with pytest.raises(QcamError, match=rf"mask is {str(dtype)[6:]}, the model wants bool"):
        load_strictly(net, state_of(net) | {"mask": torch.ones(4).to(dtype)}, "x")


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(4, 3, 3, 3), 0.1, 0, torch.qint8)


def quantized_by_channel() -> torch.Tensor:
    return torch.quantize_per_channel(torch.ones(4, 3, 3, 3), torch.ones(4), torch.zeros(4), 0, torch.qint8)


ODD_KINDS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "sparse": (lambda: torch.ones(4, 3, 3, 3).to_sparse(), r"conv\.weight is sparse .*sparse_coo.*to_dense"),
    "sparse rows": (lambda: torch.eye(4).to_sparse_csr(), r"conv\.weight is sparse .*sparse_csr"),
    "sparse blocks": (lambda: torch.eye(4).to_sparse_bsr((2, 2)), r"conv\.weight is sparse .*sparse_bsr"),
    "quantized": (quantized, r"conv\.weight is quantized .*qint8.*a quantized checkpoint cannot be exported"),
    "quantized by channel": (quantized_by_channel, r"conv\.weight is quantized .*qint8"),
    "meta": (lambda: torch.empty(4, 3, 3, 3, device="meta"), r"conv\.weight is a meta tensor, a shape without values"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"conv\.weight is a nested tensor"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        r"conv\.weight is a nested tensor",
    ),
}


@pytest.mark.parametrize("kind", ODD_KINDS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_tensors_that_are_no_plain_arrays_are_refused_by_name(net, tmp_path, kind, wrapped, recwarn):
    make, message = ODD_KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = state_of(net) | {"conv.weight": make()}
    path = written(tmp_path, {"state_dict": state} if wrapped else state, "pth")
    with pytest.raises(QcamError, match=message):
        state_of_file(path)
    with pytest.raises(QcamError, match=message):
        load_strictly(net, state, "a download")
    with pytest.raises(QcamError, match=message):
        zip_in_order(net, state, "a download")
    assert not [str(one.message) for one in recwarn if issubclass(one.category, UserWarning)]


@pytest.mark.parametrize(
    ("entry", "kind"), [(3, "int"), ([1.0, 2.0], "list"), (None, "NoneType"), ("text", "str"), ({"a": 1}, "dict")]
)
def test_entries_that_are_no_tensors_are_refused_by_name_and_type(net, tmp_path, entry, kind):
    state = state_of(net) | {"linear.bias": entry}
    message = rf"holds no state dict \(names and tensors\): linear\.bias is of type {kind}; save one with torch\.save"
    path = written(tmp_path, state, "pth")
    with pytest.raises(QcamError, match=message):
        state_of_file(path)
    with pytest.raises(QcamError, match=message):
        load_strictly(net, state, str(path))


def test_names_that_are_no_text_and_empty_files_are_refused(net, tmp_path):
    with pytest.raises(QcamError, match=r"holds no state dict .*: a name is 3, of type int"):
        state_of_file(written(tmp_path, {3: torch.ones(1)}, "pth"))  # type: ignore[dict-item]
    with pytest.raises(QcamError, match="holds no state dict"):
        state_of_file(written(tmp_path, {}, "pth"))
    with pytest.raises(QcamError, match="holds no state dict"):
        load_strictly(net, [torch.ones(1)], "a download")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("value", "said"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
@pytest.mark.parametrize("name", ["conv.weight", "norm.running_var", "linear.bias"])
def test_values_that_are_no_numbers_are_refused(net, tmp_path, form, dtype, value, said, name):
    state = state_of(net)
    state[name] = state[name].to(dtype)
    state[name].flatten()[1] = value
    with pytest.raises(QcamError, match=rf"{name} holds {said}; .*damaged"):
        load(net, written(tmp_path, state, form))


@pytest.mark.parametrize(("value", "said"), [(1e300, r"1e\+300"), (-3.5e38, r"-3\.5e\+38")])
def test_values_that_overflow_the_models_type_are_refused(net, value, said):
    state = state_of(net)
    state["conv.weight"] = state["conv.weight"].double()
    state["conv.weight"][1, 2, 0, 0] = value
    with pytest.raises(QcamError, match=rf"conv\.weight holds {said}, more than float32 can"):
        load_strictly(net, state, "x")
    net.half()
    state = state_of(net) | {"linear.bias": torch.full((5,), 1e5)}
    with pytest.raises(QcamError, match=r"linear\.bias holds 100000, more than float16 can"):
        load_strictly(net, state, "x")


def test_a_variance_below_zero_is_refused(net, tmp_path):
    state = state_of(net)
    state["norm.running_var"][2] = -0.5
    with pytest.raises(QcamError, match=r"norm\.running_var holds -0\.5, .*variance"):
        load(net, written(tmp_path, state, "safetensors"))
    state["norm.running_var"][2] = 0.0
    state["norm.running_mean"][2] = -0.5
    load_strictly(net, state, "x")


def test_nothing_of_refused_weights_gets_into_the_model(net):
    before = hash_parameters(net)
    state = {name: torch.zeros_like(tensor) for name, tensor in state_of(net).items()}
    state["linear.bias"][0] = float("nan")
    with pytest.raises(QcamError):
        load_strictly(net, state, "x")
    assert hash_parameters(net) == before


@pytest.mark.parametrize("small", [0.0, -0.0, 1e-300])
def test_weights_that_are_all_zero_are_refused(net, small):
    state = state_of(net)
    for name in ("conv.weight", "linear.weight"):
        state[name] = torch.full_like(state[name], small, dtype=torch.float64)
    with pytest.raises(QcamError, match=r"all 2 weights of two or more dimensions are zero \(first: conv\.weight\)"):
        load_strictly(net, state, "x")


def test_single_zero_weights_are_taken_and_named(net):
    state = state_of(net)
    assert load_strictly(net, state, "x") == []
    state["linear.weight"] = torch.zeros(5, 4)
    state["linear.bias"] = torch.zeros(5)  # no matter: a bias often is
    assert load_strictly(net, state, "x") == ["linear.weight"]
    assert torch.equal(net.linear.weight, torch.zeros(5, 4))


def test_a_model_without_matrices_and_empty_tensors_take_their_weights():
    norm = nn.BatchNorm2d(3)
    assert load_strictly(norm, {name: torch.zeros_like(tensor) for name, tensor in norm.state_dict().items()}, "x") == []
    empty = nn.Linear(0, 3)
    assert load_strictly(empty, empty.state_dict(), "x") == []


def test_a_counter_may_be_missing_as_before(net):
    state = state_of(net)
    del state["norm.num_batches_tracked"]
    load_strictly(net, state, "x")


def test_the_order_finds_names_and_refuses_types(net):
    ends = [name.rpartition(".")[2] for name in net.state_dict()]
    state = {f"layer{i}.{end}": tensor for i, (end, tensor) in enumerate(zip(ends, state_of(net).values(), strict=True))}
    assert list(zip_in_order(net, state, "x")) == list(net.state_dict())
    other = f"layer{list(net.state_dict()).index('conv.weight')}.weight"
    state[other] = state[other].to(torch.int8)
    with pytest.raises(QcamError, match=rf"{other} is int8, the model wants float32 for conv\.weight; give the float weights"):
        zip_in_order(net, state, "x")


def test_good_files_load_bit_for_bit_and_leave_the_random_state_alone(net, tmp_path):
    before = torch.get_rng_state()
    for form in ("pth", "safetensors"):
        fresh = Net()
        torch.set_rng_state(before)
        load(fresh, written(tmp_path, state_of(net), form))
        assert hash_parameters(fresh) == hash_parameters(net)
    assert torch.equal(before, torch.get_rng_state())


# What only a whole model shows.

SQUARE = Preprocessing(resize=36, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)


def test_a_network_that_answers_the_same_whatever_the_picture_is_refused(net):
    nn.init.zeros_(net.linear.weight)
    with pytest.raises(QcamError, match=r"these weights \(some\.pth\) make the network answer the same whatever the picture"):
        sources._loaded("net", "test", net, SQUARE, "some.pth", "")


def test_a_network_that_looks_is_loaded_without_touching_it_or_the_random_state(net):
    before, state = torch.get_rng_state(), hash_parameters(net)
    loaded = sources._loaded("net", "test", net, SQUARE, "some.pth", "")
    assert loaded.weights == {"name": "some.pth", "sha256": state, "trained": True}
    assert torch.equal(before, torch.get_rng_state())


def test_an_architecture_that_begins_with_a_head_of_zeros_still_tries_the_machinery(net):
    nn.init.zeros_(net.linear.weight)
    assert sources._loaded("net", "test", net, SQUARE, "random:0", "").weights["trained"] is False


def test_a_network_that_looks_ever_so_little_is_loaded(net):
    net.linear.weight.data.mul_(1e-5)
    sources._loaded("net", "test", net, SQUARE, "some.pth", "")


def test_logits_that_are_no_numbers_are_still_refused_as_such(net):
    net.linear.weight.data.fill_(3e38)
    net.norm.bias.data.fill_(100.0)
    with pytest.raises(QcamError, match="returns NaN or infinity"):
        sources._loaded("net", "test", net, SQUARE, "some.pth", "")


def squeezenet_state() -> StateDict:
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return dict(models.squeezenet1_1(weights=None).state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: (tensor * 100).to(torch.int8), r"features\.0\.weight is int8"),
        (lambda tensor: tensor != 0, r"features\.0\.weight is bool"),
        (torch.zeros_like, r"all 26 weights of two or more dimensions are zero"),
    ],
)
def test_load_model_refuses_what_it_called_trained(tmp_path, change, message):
    state = {name: change(tensor) for name, tensor in squeezenet_state().items()}
    with pytest.raises(QcamError, match=message):
        load_model("squeezenet1_1", str(written(tmp_path, state, "pth")))


@pytest.mark.usefixtures("on_terminal")
def test_load_model_tells_zero_weights_once(tmp_path, capsys):
    state = squeezenet_state()
    for name in ("features.3.squeeze.weight", "features.4.expand1x1.weight"):
        state[name] = torch.zeros_like(state[name])
    path = written(tmp_path, state, "pth")
    with pytest.raises(QcamError, match="answer the same whatever the picture"):  # the first of them cuts the network off
        load_model("squeezenet1_1", str(path))
    capsys.readouterr()
    state["features.3.squeeze.weight"] = squeezenet_state()["features.3.squeeze.weight"]
    load_model("squeezenet1_1", str(written(tmp_path, state, "pth")))
    assert capsys.readouterr().err == (f"1 of 26 weight tensors in {path} is zero throughout (features.4.expand1x1.weight)\n")


def test_a_network_that_joins_its_pictures_is_no_classifier(net):
    class Joined(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            joined: torch.Tensor = net(x).mean(0, keepdim=True)
            return joined

    with pytest.raises(QcamError, match=r"returns shape \(1, 5\) for two pictures; qcam needs a classifier"):
        sources._loaded("net", "test", Joined(), SQUARE, "some.pth", "")
