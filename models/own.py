"""A network that somebody built himself: what a `torch.nn.Module` has to be, for its export to be the network that it is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from qcam.common import telling
from qcam.common.errors import QcamError, WeightsError, first_line
from qcam.images.preprocessing import Preprocessing
from qcam.models.checkpoints import read_checkpoint
from qcam.models.code import where_it_failed
from qcam.models.sources import LoadedModel, fill_in, local_weights
from qcam.models.weights import hash_parameters
from qcam.models.wishes import Wishes, class_names

#: What wraps a network without changing what it computes → where the network is in it.
_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
#: Largest difference, as a share of the largest logit, between a picture alone and the same one in a batch.
_ALIKE = 1e-3


@dataclass(frozen=True)
class Own:
    """What is told of a network of one's own.

    Attributes:
        name: What it is called.
        source: Where it comes from, for the manifest.
        preprocessing: How a photograph becomes its input.
        classes: How many classes it has, or their names; None for as many as it returns.
        trained: Whether its weights are trained; None if nobody says.
        weights: A file of weights that is put into it; None for those that it has.
        weights_key: Which weights of that file.
        called: What the manifest calls the weights that it has.
    """

    name: str
    source: str
    preprocessing: Preprocessing
    classes: int | tuple[str, ...] | None = None
    trained: bool | None = None
    weights: str | None = None
    weights_key: str | None = None
    called: str = "its own"


def own_model(module: torch.nn.Module, own: Own) -> LoadedModel:
    """Make a network of one's own ready for export; the one that was given is left as it is.

    Args:
        module: The network, on any device, in any mode.
        own: What is told of it.

    Returns:
        A copy in evaluation mode on the CPU, with its weights.

    Raises:
        QcamError: If its export would be another network: hooks, types other than float32, TorchScript; if it does not run; if
            what it returns are no class scores, are by chance, or depend on the other pictures of a batch.
        WeightsError: If weights do not fit, or its scores are not finite.
    """
    module = _unwrapped(module, own.name)
    _refuse_kinds(module, own.name)
    _tell_training(module, own.name)
    try:
        module = copy.deepcopy(module).cpu()
    except Exception as error:  # whatever a network holds that cannot be copied
        raise QcamError(
            f"{own.name} cannot be copied, and the network itself is not to be changed: {first_line(error)}; give one that "
            "copy.deepcopy takes"
        ) from error
    module.eval().requires_grad_(False)
    still = [path or "it" for path, part in module.named_modules() if part.training]
    if still:
        raise QcamError(f"{own.name}: {still[0]} stays in training mode after eval(); let its train() go into evaluation mode")
    record: dict[str, Any] = {}
    file = None if own.weights is None else local_weights(own.weights)
    if own.weights is not None and file is None:
        raise WeightsError(f"weights {own.weights!r}: give a file of weights; {own.name} has no weights that have a name")
    if file is not None:
        record = fill_in(module, read_checkpoint(file), own.name, Wishes(own.weights_key, own.classes))
    _refuse_types(module, own.name)
    outputs = _outputs(module, own)
    weights = {"name": own.called if file is None else file.name, "sha256": hash_parameters(module)}
    told = {} if own.trained is None else {"trained": own.trained}
    classes = class_names(outputs, own.classes, own.name)
    return LoadedModel(own.name, own.source, module, own.preprocessing, classes, weights | told | record, "")


def _unwrapped(module: torch.nn.Module, name: str) -> torch.nn.Module:
    while (inner := _WRAPPERS.get(type(module).__name__)) and isinstance(getattr(module, inner, None), torch.nn.Module):
        telling.note(f"{name}: taken out of {type(module).__name__}")
        module = getattr(module, inner)
    return module


def _refuse_kinds(module: torch.nn.Module, name: str) -> None:
    """Refuse what cannot be exported as what it is."""
    if isinstance(module, torch.jit.ScriptModule):
        raise QcamError(f"{name} is a TorchScript module; give the torch.nn.Module that it was made of")
    for path, value in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(value) or value.is_meta:
            raise QcamError(f"{name}: {path} has no values yet; give the network with its weights")
    for path, part in module.named_modules():
        hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
        if hooks:
            what = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
            raise QcamError(
                f"{name}: {path or 'the network itself'} has a forward hook ({what}), and an ONNX file has none; remove it "
                "(for weight_norm and spectral_norm: torch.nn.utils.remove_weight_norm, remove_spectral_norm)"
            )


def _refuse_types(module: torch.nn.Module, name: str) -> None:
    for path, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise QcamError(f"{name}: its state dict holds {path}, of type {type(value).__name__}; keep tensors alone in it")
    for path, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.dtype != torch.float32 and (value.is_floating_point() or value.is_complex() or value.is_quantized):
            raise QcamError(
                f"{name}: {path} is of {str(value.dtype).removeprefix('torch.')}, and float32 is exported; give module.float()"
            )


def _tell_training(module: torch.nn.Module, name: str) -> None:
    training = [(path, type(part).__name__) for path, part in module.named_modules() if path and part.training]
    kinds = sorted({kind for _, kind in training if kind.startswith(("BatchNorm", "Dropout", "InstanceNorm", "SyncBatchNorm"))})
    if training:
        which = f" ({', '.join(kinds)})" if kinds else ""
        telling.note(f"{name}: was in training mode{which}; a copy in evaluation mode is exported")


def _outputs(module: torch.nn.Module, own: Own) -> int:
    """Run two pictures, together, again, and one alone; return how many scores there are."""
    crop = own.preprocessing.crop
    blank = torch.zeros(1, own.preprocessing.channels, *crop)
    noise = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0))
    both = torch.cat((blank, noise))
    try:
        with torch.no_grad():
            logits, again, alone = module(both), module(both), module(noise)
    except Exception as error:  # whatever somebody's code does
        raise QcamError(
            f"{own.name} does not take two pictures of {'×'.join(map(str, blank.shape[1:]))}: {where_it_failed(error)}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or logits.shape[0] != 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise QcamError(f"{own.name} returns {what} for two pictures; let it return class scores alone, batch × classes")
    if logits.dtype != torch.float32:
        raise QcamError(f"{own.name} returns {str(logits.dtype).removeprefix('torch.')}; class scores are float32")
    if not torch.isfinite(logits).all():
        raise WeightsError(f"{own.name} returns NaN or infinity with these weights; they are damaged or do not belong to it")
    if not torch.equal(logits, again):
        raise QcamError(
            f"{own.name} answers one picture in two ways, in evaluation mode: something in it is by chance (a dropout that is "
            "called as a function has to be told training=self.training)"
        )
    scale = float(logits.abs().max())
    if float((logits[1:] - alone).abs().max()) > _ALIKE * max(scale, 1e-12):
        raise QcamError(
            f"{own.name} answers a picture otherwise in a batch than alone: it uses statistics of the batch (a BatchNorm with "
            "track_running_stats=False?), so that no map is of one picture"
        )
    if own.trained is not False and torch.equal(logits[0], logits[1]):
        raise WeightsError(
            f"{own.name}: these weights make the network answer the same whatever the picture, so there is nothing to explain; "
            "give the weights of a trained network, or say with {trained} that they are not"
        )
    return int(logits.shape[1])
