"""Weights go into a model: every name, shape, type and value one that can be meant, or refused by name."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from qcam.common.errors import WeightsError

StateDict = dict[str, torch.Tensor]

#: What a floating-point parameter may be given as; whatever is narrower was quantized.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip
_ADVICE = "give the float weights; a quantized checkpoint cannot be exported"


def load_strictly(
    model: torch.nn.Module, state: StateDict, origin: str, versions: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Put a state dict into a model, every name, shape and type fitting, and every value one that can be meant.

    Args:
        model: The model; left as it is if anything is refused.
        state: Parameter name → tensor.
        origin: Where the weights come from, for the error.
        versions: Module path → what torch recorded of its version when the weights were saved; some classes ask for it.

    Returns:
        The names of weights of two or more dimensions that are zero throughout. A network may have some.

    Raises:
        WeightsError: If names are missing or left over, or shapes or types differ, or values are not finite, or a variance is
            negative, or all weights are zero; the first of each kind is named.
    """
    refuse_odd_entries(state, origin)
    own = model.state_dict()
    # A whole checkpoint cast to another float type has cast BatchNorm's counters as well; inference does not need them.
    state = {name: tensor for name, tensor in state.items() if not (counts_batches(name) and tensor.is_floating_point())}
    # Older checkpoints do not count batches.
    missing = [name for name in own if name not in state and not counts_batches(name)]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        told = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        told += [f"{len(unknown)} unknown (first: {unknown[0]})"] if unknown else []
        raise WeightsError(f"weights from {origin} do not fit the model: parameters {', '.join(told)}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"weights from {origin} do not fit the model: {name} has shape {tuple(tensor.shape)}, "
                f"the model wants {tuple(own[name].shape)}"
            )
        _check_type(name, tensor, own[name].dtype, origin)
    zero = {name: _check_values(name, tensor, own[name].dtype, origin) for name, tensor in state.items()}
    weights = matrices(model)
    zeros = [name for name in weights if zero.get(name)]
    if weights and len(zeros) == len(weights):
        raise WeightsError(
            f"weights from {origin}: all {len(zeros)} weights of two or more dimensions are zero (first: {zeros[0]}); "
            "give the weights of a trained network"
        )
    ordered = OrderedDict(state)
    if versions:
        ordered._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    model.load_state_dict(ordered, strict=False)
    return zeros


def counts_batches(name: str) -> bool:
    """Tell whether a buffer is BatchNorm's counter of batches."""
    return name.endswith("num_batches_tracked")


def matrices(model: torch.nn.Module) -> list[str]:
    """Return the names of a model's floating-point parameters and buffers of two or more dimensions."""
    return [name for name, tensor in model.state_dict().items() if tensor.dim() >= 2 and tensor.is_floating_point()]


def zip_in_order(model: torch.nn.Module, state: StateDict, origin: str) -> StateDict:
    """Rename a state dict to a model's names, by order, for an architecture that exists under other names.

    Raises:
        WeightsError: If the number of tensors, or the last part of the name, the shape or the type of one pair differs.
    """
    refuse_odd_entries(state, origin)
    own = model.state_dict()
    if len(own) != len(state):
        raise WeightsError(f"weights from {origin} do not fit the model: {len(state)} tensors, the model has {len(own)}")
    renamed = {}
    for (name, mine), (other, tensor) in zip(own.items(), state.items(), strict=True):
        if name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise WeightsError(
                f"weights from {origin} do not fit the model: {other} stands where {name} belongs; give them under the model's "
                "names, or in its order"
            )
        if mine.shape != tensor.shape:
            raise WeightsError(f"weights from {origin} do not fit the model: {other} {tuple(tensor.shape)} for {name}")
        if not (counts_batches(name) and tensor.is_floating_point()):
            _check_type(other, tensor, mine.dtype, origin, f" for {name}")
        renamed[name] = tensor
    return renamed


def hash_parameters(model: torch.nn.Module) -> str:
    """Return the SHA-256 over a model's parameter and buffer names, types, shapes and values, in order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def refuse_odd_entries(state: Any, origin: str) -> None:
    """Refuse what is no state dict, and tensors that are no plain arrays of numbers."""
    mend = "save one with torch.save(model.state_dict(), …)"
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{origin} holds no state dict (names and tensors); {mend}")
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise WeightsError(
                f"{origin} holds no state dict (names and tensors): a name is {name!r}, of type {type(name).__name__}; {mend}"
            )
        if not isinstance(tensor, torch.Tensor):
            raise WeightsError(
                f"{origin} holds no state dict (names and tensors): {name} is of type {type(tensor).__name__}; {mend}"
            )
        refusal = _odd_kind(tensor)
        if refusal:
            raise WeightsError(f"weights from {origin} cannot be used: {name} is {refusal}")


def _odd_kind(tensor: torch.Tensor) -> str:
    """Say what a tensor is that no model takes its weights from, and what to do; nothing if it is a plain array."""
    if tensor.is_quantized:
        return f"quantized ({_name(tensor.dtype)}); {_ADVICE}"
    if tensor.is_nested:
        return "a nested tensor; give one plain tensor for each parameter"
    if tensor.layout != torch.strided:
        return f"sparse ({str(tensor.layout).removeprefix('torch.')}); give the float weights as dense tensors, with to_dense()"
    if tensor.is_meta:
        return "a meta tensor, a shape without values; save the weights of a model that has them"
    if tensor.dtype not in (*_FLOATS, *_INTEGERS, torch.bool):
        return f"{_name(tensor.dtype)}; {_ADVICE}"
    return ""


def _check_type(name: str, tensor: torch.Tensor, wanted: torch.dtype, origin: str, place: str = "") -> None:
    """Refuse a tensor of another kind of number than the model's: floats for floats, integers for integers."""
    if wanted.is_floating_point:
        taken: tuple[torch.dtype, ...] = _FLOATS
    else:
        taken = _INTEGERS if wanted in _INTEGERS else (wanted,)
    if tensor.dtype not in taken:
        mend = _ADVICE if wanted.is_floating_point else "give the state dict of the model itself"
        raise WeightsError(
            f"weights from {origin} do not fit the model: {name} is {_name(tensor.dtype)}, "
            f"the model wants {_name(wanted)}{place}; {mend}"
        )


def _check_values(name: str, tensor: torch.Tensor, wanted: torch.dtype, origin: str) -> bool:
    """Refuse values that are not finite, or would not be in the model's type, and variances below zero.

    Returns:
        Whether all values are zero in the model's type.
    """
    if tensor.numel() == 0 or wanted == torch.bool:
        return False
    low, high = _bounds(tensor.detach())
    where = f"weights from {origin} cannot be used: {name} holds"
    if not wanted.is_floating_point:
        limits = torch.iinfo(wanted)
        for value in (low, high):
            if not limits.min <= value <= limits.max:
                raise WeightsError(f"{where} {value}, which does not fit into the model's {_name(wanted)}; give other weights")
        return low == high == 0
    for value in (low, high):
        if not math.isfinite(value):
            raise WeightsError(f"{where} {value}; the weights are damaged: save them again, or take an earlier checkpoint")
        if not math.isfinite(torch.tensor(value, dtype=torch.float64).to(wanted)):
            raise WeightsError(f"{where} {value:g}, more than {_name(wanted)} can; give weights that were trained in it")
    if name.rpartition(".")[2] == "running_var" and low < 0:
        raise WeightsError(f"{where} {low:g}, and a variance is not negative; the weights are damaged or quantized")
    return not torch.tensor([low, high], dtype=torch.float64).to(wanted).any()


def _bounds(tensor: torch.Tensor) -> tuple[float, float]:
    """Return a tensor's smallest and largest value, NaN if it holds one; integers exactly."""
    if tensor.dtype in _FLOATS:
        low, high = torch.aminmax(tensor)
        return low.item(), high.item()
    values = tensor.numpy()  # torch has no minimum of wide unsigned integers
    return int(values.min()), int(values.max())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
