"""torchvision's own builders, with the reading of files taken over: their flags and names of parameters, our safe reading."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from qcam.models.checkpoints import Checkpoint

#: Builders are changed while they run; one at a time.
_LOCK = threading.Lock()


def build(
    name: str, member: Any, checkpoint: Checkpoint, fill: Callable[[torch.nn.Module, Checkpoint], None]
) -> torch.nn.Module:
    """Let torchvision build a model with weights that were read before.

    A builder does more than fill a model: it sets flags that the weights were trained with (`transform_input`), and gives
    older names of parameters their names of today (densenet). It is therefore run as it is, and only what reads a file and
    what puts tensors into the model is exchanged.

    Args:
        name: The model's name.
        member: The published weights that it believes to load: an entry of torchvision's enumeration.
        checkpoint: The weights.
        fill: Called with the model, its flags set, and the weights under the names that the builder gave them.

    Returns:
        The model as the builder returns it.
    """
    from torchvision import models  # type: ignore[import-untyped,unused-ignore]

    handed: OrderedDict[str, torch.Tensor] = OrderedDict(checkpoint.tensors)

    def take(model: torch.nn.Module, state: Any) -> None:
        before = {id(tensor): old for old, tensor in checkpoint.tensors.items()}
        holders = {new: checkpoint.holders.get(before.get(id(tensor), new), "") for new, tensor in state.items()}
        fill(model, replace(checkpoint, tensors=dict(state), holders=holders))

    with _taken_over(member, handed, take), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: torch.nn.Module = models.get_model(name, weights=member)
    return module


@contextlib.contextmanager
def _taken_over(
    member: Any, handed: OrderedDict[str, torch.Tensor], take: Callable[[torch.nn.Module, Any], None]
) -> Iterator[None]:
    """Make one entry of the enumeration hand out weights, and loading exactly those go another way; all else is untouched."""
    load = torch.nn.Module.load_state_dict

    def exchanged(model: torch.nn.Module, state: Any, *options: Any, **named: Any) -> Any:
        if state is handed:
            return take(model, state)
        return load(model, state, *options, **named)

    with _LOCK:
        member.get_state_dict = lambda *_options, **_named: handed
        torch.nn.Module.load_state_dict = exchanged  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            torch.nn.Module.load_state_dict = load  # type: ignore[method-assign]
            del member.get_state_dict
