"""PyTorch's eager quantization-aware-training modules, used for inference as the authors did.

`prepare_qat` swaps convolutions and linear layers for ones with fake-quantized weights, and fake-quantizes the outputs of
those, of BatchNorm and of a few other leaf modules. Additions, concatenations, poolings and the input stay in float;
BatchNorm is not folded.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from typing import Any

import torch
from torch import nn

from qcam.common.errors import QcamError, ResultsError
from qcam.common.records import AGAIN, read_record
from qcam.evaluate.run.ran import CodeRanges

#: Codes of activations and of weights, before `reduce_range` halves the former.
_RANGES = {"int8": ((0, 255), (-128, 127)), "int16": ((-32768, 32767), (-32768, 32767))}
_STATE = ("activation_post_process", "weight_fake_quant")
#: What messages call the text of `state_text`.
_STATES = "the state of the observers in a part"
#: Buffer's name → its value: a number, or one for each channel.
ObservedState = dict[str, float | int | list[float | int]]


def fake_quantized(module: nn.Module, precision: str, fixes: frozenset[str]) -> nn.Module:
    """Return a fake-quantized copy of a model in training mode, nothing calibrated.

    Args:
        module: The float model.
        precision: int8 or int16.
        fixes: `calibrated` observes by min-max instead of a moving average, `8bit` keeps the whole range of codes,
            `per-channel` has a scale for each output channel of a weight.

    Raises:
        QcamError: If this PyTorch has no eager quantization-aware training any more.
    """
    try:
        from torch.ao.quantization import (
            FakeQuantize,
            MinMaxObserver,
            MovingAverageMinMaxObserver,
            MovingAveragePerChannelMinMaxObserver,
            QConfig,
            prepare_qat,
        )
    except ImportError as error:
        raise QcamError(
            f"PyTorch {torch.__version__} has no eager prepare_qat ({error}), which the paper's code needs; take an older one"
        ) from error
    (low, high), (weight_low, weight_high) = _RANGES[precision]
    with_args: Any = FakeQuantize.with_args
    activation = with_args(
        observer=MinMaxObserver if "calibrated" in fixes else MovingAverageMinMaxObserver,
        quant_min=low,
        quant_max=high,
        dtype=torch.quint8 if precision == "int8" else torch.qint32,
        qscheme=torch.per_tensor_affine,
        reduce_range="8bit" not in fixes,
    )
    channelwise = "per-channel" in fixes
    weight = with_args(
        observer=MovingAveragePerChannelMinMaxObserver if channelwise else MovingAverageMinMaxObserver,
        quant_min=weight_low,
        quant_max=weight_high,
        dtype=torch.qint8 if precision == "int8" else torch.qint32,
        qscheme=torch.per_channel_symmetric if channelwise else torch.per_tensor_symmetric,
        reduce_range=False,
        **({"ch_axis": 0} if channelwise else {}),
    )
    model: Any = plain_modules(copy.deepcopy(module)).train()
    model.qconfig = QConfig(activation=activation, weight=weight)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, and that reduce_range will be
        prepare_qat(model, inplace=True)  # type: ignore[no-untyped-call]
    prepared: nn.Module = model.requires_grad_(False)
    return prepared


def plain_modules(module: nn.Module) -> nn.Module:
    """Take apart timm's modules that are more than one layer, in place: `prepare_qat` knows plain layers only.

    A convolution with SAME padding becomes padding and convolution, BatchNorm with an activation becomes one and the other.
    """
    for name, child in module.named_children():
        kind = type(child).__name__
        if kind == "Conv2dSame" and isinstance(child, nn.Conv2d):
            setattr(module, name, nn.Sequential(_SamePadding(child), _plain_convolution(child)).train(child.training))
        elif kind == "BatchNormAct2d" and isinstance(child, nn.BatchNorm2d):
            plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            plain.load_state_dict({key: value for key, value in child.state_dict().items() if "." not in key})
            rest: Any = child
            setattr(module, name, nn.Sequential(plain, rest.drop, rest.act).train(child.training))
        else:
            plain_modules(child)
    return module


def release_logits(model: nn.Module, size: tuple[int, int]) -> None:
    """Take the fake quantizer off the layer whose output is the class scores, if there is one, in place.

    Class maps that are pooled into scores (SqueezeNet) keep theirs, as `qcam-export` leaves them their codes.

    Args:
        model: From `fake_quantized`.
        size: Height and width of an input.
    """
    for layer in _layers_of_logits(model, size):
        layer.activation_post_process = nn.Identity()


def has_quantized_logits(model: nn.Module, size: tuple[int, int]) -> bool:
    """Tell whether the class scores are themselves fake-quantized, with an input's height and width."""
    return bool(_layers_of_logits(model, size))


def _layers_of_logits(model: nn.Module, size: tuple[int, int]) -> list[nn.Module]:
    """Return the fake-quantized layers whose very output the model returns; the model is left as it was."""
    probe = copy.deepcopy(model).eval()
    outputs: list[tuple[str, Any]] = []
    for name, module in probe.named_modules():
        if _is_fake_quantized(module):
            module.register_forward_hook(lambda _layer, _inputs, output, name=name: outputs.append((name, output)))
    probe.apply(torch.ao.quantization.disable_observer).apply(torch.ao.quantization.disable_fake_quant)
    with torch.no_grad():
        logits = probe(torch.zeros(1, 3, *size, device=next(probe.parameters()).device))
    return [model.get_submodule(name) for name, output in outputs if output is logits]


def calibrated(model: nn.Module, batches: list[torch.Tensor]) -> None:
    """Let observers see some images, then freeze them; the model stays in the mode it is in."""
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.apply(torch.ao.quantization.disable_observer)


def observed_state(model: nn.Module) -> ObservedState:
    """Return what the images so far have left in the observers: ranges, scales, zero points; float32 values exactly."""
    return {
        name: tensor.tolist()
        for name, tensor in model.state_dict().items()
        if any(part in name for part in _STATE) and tensor.dtype not in (torch.uint8, torch.bool)
    }


def restore_state(model: nn.Module, state: ObservedState) -> None:
    """Put observers into a state that `observed_state` returned.

    Raises:
        ResultsError: If it is the state of another network.
    """
    odd = sorted(state.keys() ^ observed_state(model).keys())
    if odd:
        raise ResultsError(f"{_STATES} is of another network ({ascii(odd[0])[:80]}); {AGAIN}")
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        before = owner.get_buffer(leaf)
        numbers = value if isinstance(value, list) else [value]
        if not before.is_floating_point() and not all(isinstance(number, int) for number in numbers):
            raise ResultsError(f"{_STATES}: {name} has to be of whole numbers; {AGAIN}")
        try:
            owner._buffers[leaf] = torch.tensor(value, dtype=before.dtype, device=before.device)
        except (RuntimeError, OverflowError, ValueError) as error:
            raise ResultsError(f"{_STATES}: {name} holds a number beyond {before.dtype}; {AGAIN}") from error


def quantized_modules(model: nn.Module) -> dict[str, int]:
    """Count the modules whose outputs are fake-quantized, by type."""
    counts: dict[str, int] = {}
    for module in model.modules():
        if _is_fake_quantized(module):
            kind = type(module).__name__
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def code_ranges(model: nn.Module) -> CodeRanges:
    """Return the smallest and largest code of activations and of weights of a model from `fake_quantized`."""
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "fake_quant_enabled"):
            kind = "weights" if name.endswith("weight_fake_quant") else "activations"
            found[kind] = (int(module.quant_min), int(module.quant_max))
    return CodeRanges(**found)


def state_text(states: dict[str, ObservedState]) -> str:
    """Return states as JSON text (infinities, of observers that saw nothing, included)."""
    return json.dumps(states, separators=(",", ":"))


def read_states(text: str) -> dict[str, ObservedState]:
    """Return the states that `state_text` wrote.

    Raises:
        ResultsError: If it is no such text.
    """
    return read_record(text, dict[str, ObservedState], _STATES, finite=False)


def _is_fake_quantized(module: nn.Module) -> bool:
    """Tell whether a layer's output goes through a fake quantizer; one holds an observer, under the same name."""
    return hasattr(dict(module.named_children()).get("activation_post_process"), "fake_quant_enabled")


class _SamePadding(nn.Module):
    """TensorFlow's SAME padding, by the input's size."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._geometry = list(zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = []
        for size, (kernel, stride, dilation) in zip(x.shape[2:], self._geometry, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            sides.append((total // 2, total - total // 2))
        return nn.functional.pad(x, (*sides[1], *sides[0]))


def _plain_convolution(same: nn.Conv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        same.in_channels, same.out_channels, same.kernel_size, same.stride,  # type: ignore[arg-type]
        dilation=same.dilation, groups=same.groups, bias=same.bias is not None,  # type: ignore[arg-type]
    )  # fmt: skip
    plain.load_state_dict(same.state_dict())
    return plain
