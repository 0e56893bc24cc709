"""Weights from files: safetensors, or a pickled state dict read with `weights_only=True`, never arbitrary pickle code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qcam.common.errors import QcamError

StateDict = dict[str, torch.Tensor]

#: Keys under which training scripts keep the state dict in a checkpoint.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict from a `.safetensors`, `.pth`, `.pt` or `.bin` file.

    A checkpoint that wraps the state dict (`{"state_dict": …}`) and the prefix of `DataParallel` are unwrapped.

    Args:
        path: The file.

    Returns:
        Parameter name → tensor on the CPU.

    Raises:
        QcamError: If it cannot be read, or holds something else than tensors.
    """
    if not path.is_file():
        raise QcamError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            value: Any = load_file(path, device="cpu")
        else:
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds; each means: this is no state dict
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise QcamError(f"cannot read weights from {path}: {reason}; give a state dict (.pth or .safetensors)") from error
    for key in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if (
        not isinstance(value, Mapping)
        or not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
        or not value
    ):
        raise QcamError(f"{path} holds no state dict (names and tensors); save one with torch.save(model.state_dict(), …)")
    if all(name.startswith("module.") for name in value):
        value = {name.removeprefix("module."): tensor for name, tensor in value.items()}
    return dict(value)


def load_strictly(model: torch.nn.Module, state: StateDict, origin: str) -> None:
    """Put a state dict into a model, every name and shape fitting.

    Args:
        model: The model.
        state: Parameter name → tensor.
        origin: Where the weights come from, for the error.

    Raises:
        QcamError: If names are missing or left over, or shapes differ; the first of each kind is named.
    """
    own = model.state_dict()
    # Older checkpoints do not count batches; BatchNorm does not need the counter for inference.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        told = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        told += [f"{len(unknown)} unknown (first: {unknown[0]})"] if unknown else []
        raise QcamError(f"weights from {origin} do not fit the model: parameters {', '.join(told)}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise QcamError(
                f"weights from {origin} do not fit the model: {name} has shape {tuple(tensor.shape)}, "
                f"the model wants {tuple(own[name].shape)}"
            )
    model.load_state_dict(state, strict=False)


def zip_in_order(model: torch.nn.Module, state: StateDict, origin: str) -> StateDict:
    """Rename a state dict to a model's names, by order, for an architecture that exists under other names.

    Raises:
        QcamError: If the number of tensors or the shape of one pair differs.
    """
    own = model.state_dict()
    if len(own) != len(state):
        raise QcamError(f"weights from {origin} do not fit the model: {len(state)} tensors, the model has {len(own)}")
    renamed = {}
    for (name, mine), (other, tensor) in zip(own.items(), state.items(), strict=True):
        if mine.shape != tensor.shape:
            raise QcamError(f"weights from {origin} do not fit the model: {other} {tuple(tensor.shape)} for {name}")
        renamed[name] = tensor
    return renamed


def hash_parameters(model: torch.nn.Module) -> str:
    """Return the SHA-256 over a model's parameter and buffer names, types, shapes and values, in order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
