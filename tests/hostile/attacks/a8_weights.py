"""A8: weights files whose tensors are no trained weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from hostile.harness import Attack, Scene, Verdict, fell

_State = dict[str, torch.Tensor]
#: One weight, where one is enough.
_ONE = "classifier.1.weight"


@functools.cache
def _good() -> _State:
    """Return weights of MobileNetV2 with real shapes, seeded."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state: _State = torchvision.models.mobilenet_v2(weights=None).state_dict()
    return state


def _cast(dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
    return (tensor * 20).to(dtype) if dtype == torch.int8 else tensor.to(dtype)


def _quantized(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8)


def _with(value: float, tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[7] = value
    return changed


def _huge(tensor: torch.Tensor) -> torch.Tensor:
    return _with(1e300, tensor.double())


def _half_overflow(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, 1e38)


def _weights(change: Callable[[torch.Tensor], torch.Tensor], ending: str, scene: Scene, *, every: bool) -> Verdict:
    """Export with all floating weights changed, or one of them."""
    state = {
        name: change(tensor) if tensor.is_floating_point() and (every or name == _ONE) else tensor
        for name, tensor in _good().items()
    }
    path = scene.work / f"weights{ending}"
    _save(state, path)
    outcome = scene.run("qcam-export", "mobilenet_v2", "--weights", path, "--precision", "f32", "--output", "bundles")
    if (scene.work / "bundles" / "mobilenet_v2").exists():
        return fell("accepted, a bundle is made")
    return outcome.refused(path.name)


def _save(state: _State, path: Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)


_BOTH = [
    ("int8", partial(_cast, torch.int8), True),
    ("one int8", partial(_cast, torch.int8), False),
    ("bool", partial(_cast, torch.bool), True),
    ("float8_e4m3fn", partial(_cast, torch.float8_e4m3fn), True),
    ("complex64", partial(_cast, torch.complex64), True),
    ("one complex64", partial(_cast, torch.complex64), False),
    ("int64", partial(_cast, torch.int64), True),
    ("all zero", torch.zeros_like, True),
    ("a last layer of zeros", torch.zeros_like, False),
    ("one NaN", partial(_with, float("nan")), False),
    ("one infinity", partial(_with, float("inf")), False),
    ("one 1e300 in float64", _huge, False),
    ("all 1e38", _half_overflow, True),
]
_PICKLED = [
    ("one sparse", torch.Tensor.to_sparse, False),
    ("one sparse by rows", torch.Tensor.to_sparse_csr, False),
    ("one meta", lambda tensor: tensor.to("meta"), False),
    ("all meta", lambda tensor: tensor.to("meta"), True),
    ("one quantized", _quantized, False),
]
_RUNS = [
    *(
        (f"{kind}, {ending}", partial(_weights, change, ending, every=every))
        for kind, change, every in _BOTH
        for ending in (".safetensors", ".pth")
    ),
    *((f"{kind}, .pth", partial(_weights, change, ".pth", every=every)) for kind, change, every in _PICKLED),
]
ATTACKS = [Attack(f"A8.{number}", f"weights: {kind}", run) for number, (kind, run) in enumerate(_RUNS, 1)]
