"""What a file holds beside the weights that were taken: averages of them, layers on top of the network, heads of their own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from qcam.common.errors import WeightsError
from qcam.models.heads import Head
from qcam.models.weights import StateDict

#: Words in names of a second set of weights of the same network.
_AVERAGED = frozenset({"ema", "shadow", "teacher", "averaged", "average", "avg", "momentum", "swa", "polyak"})
#: Names that a layer for the classes goes by.
_HEADS = frozenset(
    {"fc", "head", "heads", "classifier", "cls", "linear", "logits", "arc", "arcface", "cls_head", "last_linear"}
)
#: Names of what changes a network's pictures or its logits without being a layer.
_APPLIED = frozenset(
    {"temperature", "logit_scale", "logit_bias", "mean", "std", "pixel_mean", "pixel_std", "image_mean", "image_std"}
)
#: A second set has about as many numbers as the network.
_LIKE = (0.5, 1.5)


@dataclass(frozen=True)
class Surroundings:
    """Tensors of a file that could have been meant with those that were taken.

    Attributes:
        origin: The file, for messages.
        tensors: Name in the file → tensor, what was taken left out.
        way_out: The `{weights_key}` that takes what was taken, knowing of the rest.
    """

    origin: str
    tensors: Mapping[str, torch.Tensor]
    way_out: str

    def refuse_averages(self, parameters: Iterable[torch.Tensor]) -> None:
        """Refuse a second set of weights whose names are not the network's, as averaging leaves them.

        Args:
            parameters: The network's own.

        Raises:
            WeightsError: If a group is called an average and is about as large as the network.
        """
        wanted = sum(parameter.numel() for parameter in parameters)
        groups: dict[str, list[torch.Tensor]] = {}
        for name, tensor in self.tensors.items():
            parts = name.split(".")
            for index, part in enumerate(parts):
                if _of_optimizer(part):
                    break
                if _AVERAGED & set(_words(part)):
                    groups.setdefault(".".join(parts[: index + 1]), []).append(tensor)
                    break
        for group, tensors in groups.items():
            if _LIKE[0] * wanted <= sum(tensor.numel() for tensor in tensors) <= _LIKE[1] * wanted:
                raise WeightsError(
                    f"{self.origin} holds a second set of weights, {group} ({len(tensors)} tensors), whose names are not the "
                    f"model's; if the first is meant, say so with {{weights_key}} {self.way_out}; else save the other alone, "
                    "under the model's names"
                )

    def refuse_layers_on_top(self, head: Head, outputs: int) -> None:
        """Refuse layers that could read what the network returns, or stand in place of its head.

        Args:
            head: The network's head.
            outputs: How many outputs it has in this file.

        Raises:
            WeightsError: If there is one.
        """
        for name, tensor in self.tensors.items():
            parts = name.split(".")
            if any(map(_of_optimizer, parts)) or not _is_layer(tensor):
                continue
            features = int(tensor.shape[1])
            if features == outputs or (features == head.features and _HEADS & set(parts)):
                shape = "×".join(map(str, tensor.shape))
                reads = "the network's outputs" if features == outputs else "the network's features"
                raise WeightsError(
                    f"{self.origin} holds a layer beside the network that may read {reads}: {name} ({shape}), which an export "
                    f"of the network leaves out; if the network alone is meant, say so with {{weights_key}} {self.way_out}"
                )

    def not_applied(self) -> tuple[str, ...]:
        """Return the names of what may change pictures or logits and is left out."""
        return tuple(
            name
            for name in self.tensors
            if _APPLIED & set(name.split(".")) and not any(map(_of_optimizer, name.split(".")))
        )  # fmt: skip


def head_beside(tensors: Mapping[str, torch.Tensor], head: Head, origin: str) -> dict[str, str]:
    """Find the head of a backbone that lies beside it, under a prefix of its own.

    Args:
        tensors: Name in the file → tensor, the backbone's left out.
        head: The model's head.
        origin: The file, for the error.

    Returns:
        Name in the file → the model's, for weight and bias; empty if there is none.

    Raises:
        WeightsError: If several layers could be it, or other layers lie beside the backbone.
    """
    layers = {
        name: tensor
        for name, tensor in tensors.items()
        if _is_layer(tensor) and not any(_of_optimizer(part) or _AVERAGED & set(_words(part)) for part in name.split("."))
    }
    fitting = [
        name.removesuffix(".weight")
        for name, tensor in layers.items()
        if name.endswith(".weight") and tensor.shape[1] == head.features and _HEADS & set(name.split("."))
    ]
    if not fitting:
        return {}
    if len(layers) > 1:
        raise WeightsError(
            f"weights from {origin} do not fit the model: beside the backbone lie {len(layers)} layers "
            f"({', '.join(list(layers)[:4])}), and the model has one, {head.path}: what lies between several layers stands in "
            "no weights file"
        )
    (layer,) = fitting
    return {f"{layer}.{part}": f"{head.path}.{part}" for part in ("weight", "bias") if f"{layer}.{part}" in tensors}


def shares_enough(state: StateDict, own: Mapping[str, torch.Size], parameters: Collection[str]) -> bool:
    """Tell whether weights that lack some of the parameters are still a set of the same network: more than half, alike."""
    alike = [name for name in parameters if name in state and state[name].shape == own.get(name)]
    return len(alike) * 2 > len(parameters)


def followable(labels: Sequence[str]) -> list[str]:
    """Return labels of sets of weights as `{weights_key}` takes them; a dot at the end means: these names, no prefix more."""
    listed = list(dict.fromkeys(labels))
    exact = [f"{one}." if not one or any(other.startswith(f"{one}.") for other in listed) else one for one in listed]
    return [repr(one) if " " in one else one for one in exact]


def _is_layer(tensor: torch.Tensor) -> bool:
    """Tell a matrix, or a convolution of 1×1."""
    return tensor.is_floating_point() and (tensor.dim() == 2 or (tensor.dim() == 4 and tuple(tensor.shape[2:]) == (1, 1)))


def _of_optimizer(part: str) -> bool:
    return part.lower().startswith(("optim", "momentum_buffer"))


def _words(part: str) -> list[str]:
    """Return the words of a name: `model_ema` and `modelEMA` hold `ema`."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)]
