"""The two ends of a network that people change: the layer that gives the classes, and the layer that takes the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from qcam.common.errors import QcamError, WeightsError

#: Numbers in one layer, at most: what fits into one ONNX file in float32 (2 GiB).
_MOST_NUMBERS = 2**29
#: Modules that only training uses and that have layers of their own that look like a head.
_TRAINING_ONLY = ("aux1", "aux2", "AuxLogits")


@dataclass(frozen=True)
class Head:
    """The layer whose outputs are the class scores.

    Attributes:
        path: Its path in the model.
        kind: `Linear`, or `Conv2d` of 1×1.
        features: What it reads, a number of features.
        outputs: Number of class scores.
        bias: Whether it adds one.
    """

    path: str
    kind: str
    features: int
    outputs: int
    bias: bool

    def may_lack(self, name: str, given: Mapping[str, torch.Tensor]) -> bool:
        """Tell whether a parameter of the head may be absent: its bias, where the weight is there."""
        return name == f"{self.path}.bias" and f"{self.path}.weight" in given

    def found_elsewhere(self, given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Size]) -> list[tuple[str, str]]:
        """Find the head under another name: with a Dropout in front, or in place of several layers.

        Args:
            given: Names in the file → tensors.
            own: The model's names.

        Returns:
            Name in the file and in the model, for the weight and the bias; nothing if the head lies where it belongs, or
            several layers stand in its place.
        """
        if f"{self.path}.weight" in given:
            return []
        top = self.path.split(".")[0]
        strange = [name for name in given if name.split(".")[0] == top and name not in own]
        layers = {name.rpartition(".")[0] for name in strange if name.rpartition(".")[2] in ("weight", "bias", "running_mean")}
        if len(layers) != 1:
            return []
        (layer,) = layers
        weight = given.get(f"{layer}.weight")
        if weight is None or weight.dim() not in (2, 4) or tuple(weight.shape[1:]) not in (
            (self.features,), (self.features, 1, 1),
        ):  # fmt: skip
            return []
        return [(f"{layer}.{part}", f"{self.path}.{part}") for part in ("weight", "bias") if f"{layer}.{part}" in given]


def find_head(model: nn.Module) -> Head | None:
    """Return a model's head: its last Linear or 1×1 convolution; None if it has none, or not one alone."""
    inside: nn.Module = model
    at = ""
    get = getattr(model, "get_classifier", None)
    if callable(get):  # timm says which it is
        classifier = get()
        if not isinstance(classifier, nn.Module) or isinstance(classifier, nn.Identity):
            return None
        paths = [path for path, module in model.named_modules() if module is classifier]
        if not paths:
            return None
        inside, at = classifier, paths[0]
    found: Head | None = None
    for path, module in inside.named_modules(prefix=at):
        if path.split(".")[0] in _TRAINING_ONLY:
            continue
        if type(module) is nn.Linear:
            found = Head(path, "Linear", module.in_features, module.out_features, module.bias is not None)
        elif type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1:
            found = Head(path, "Conv2d", module.in_channels, module.out_channels, module.bias is not None)
    return found


def put_head(model: nn.Module, head: Head, state: dict[str, torch.Tensor], origin: str, classes: int | None = None) -> None:
    """Give a model the head that weights are for, and the weights the head's form.

    Args:
        model: The model.
        head: Its head.
        state: The weights under the model's names; the head's may become 1×1 convolutions or plain matrices.
        origin: Where they come from, for the error.
        classes: Number of classes that the caller wants; None takes what the weights have.

    Raises:
        WeightsError: If the weights have another number of classes than is wanted.
    """
    name = f"{head.path}.weight"
    weight = state.get(name)
    if weight is None or weight.dim() not in (2, 4) or weight.numel() == 0:
        return
    outputs = int(weight.shape[0])
    if classes is not None and classes != outputs:
        raise WeightsError(
            f"{origin} has a head of {outputs} {'output' if outputs == 1 else 'classes'} ({name}), "
            f"{{classes}} asks for {classes}; leave {{classes}} out, or give as many"
        )
    flat = weight.reshape(outputs, -1)
    if flat.shape[1] != head.features:
        return  # refused with its shape
    state[name] = flat if head.kind == "Linear" else flat.reshape(outputs, head.features, 1, 1)
    bias = f"{head.path}.bias" in state
    if (outputs, bias) != (head.outputs, head.bias):
        replace_head(model, head, outputs, bias=bias)


def replace_head(model: nn.Module, head: Head, outputs: int, *, bias: bool = True) -> None:
    """Put a head of another number of outputs into a model, with fresh weights.

    Raises:
        QcamError: If no ONNX file could hold it.
    """
    if outputs * head.features >= _MOST_NUMBERS:
        raise QcamError(
            f"a head of {outputs:,} classes that reads {head.features:,} features does not fit into one ONNX file (2 GiB); "
            f"{(_MOST_NUMBERS - 1) // head.features:,} classes are possible"
        )
    layer = (
        nn.Linear(head.features, outputs, bias=bias)
        if head.kind == "Linear"
        else nn.Conv2d(head.features, outputs, 1, bias=bias)
    )
    model.set_submodule(head.path, layer)
    if hasattr(model, "num_classes"):
        model.__dict__["num_classes"] = outputs


def set_channels(model: nn.Module, channels: int, name: str) -> None:
    """Make a model's first convolution take another number of channels, with fresh weights.

    Args:
        model: The model.
        channels: Number of input channels.
        name: What the model is called, for the error.

    Raises:
        QcamError: If it does not begin with a convolution of three channels.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if type(module) is not nn.Conv2d or module.in_channels != 3 or module.groups != 1:
                break
            layer = nn.Conv2d(
                channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None, padding_mode=module.padding_mode,
            )  # fmt: skip
            model.set_submodule(path, layer)
            if hasattr(model, "transform_input"):  # it would reckon with R, G and B
                model.__dict__["transform_input"] = False
            return
    raise QcamError(f"{name} does not begin with a convolution of three channels; {{channels}} cannot change it")
