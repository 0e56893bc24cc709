"""A float ONNX file as a PyTorch module, for tools that quantize modules: so every tool starts from the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn


class TorchNetwork(nn.Module):
    """The convolutional networks of `make foreign`, layer by layer; what else a file holds is refused by name."""

    def __init__(self, path: Path) -> None:
        """Build the layers.

        Args:
            path: The file: Conv, Gemm, Clip between 0 and 6, Relu, Add, Concat, MaxPool, means over height and width, Flatten.

        Raises:
            NotImplementedError: For any other operator.
        """
        super().__init__()
        graph = onnx.load(str(path)).graph
        self._constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._steps: list[tuple[str | Callable[..., Any], list[str], str]] = []
        for index, node in enumerate(graph.node):
            made = self._layer(node)
            if isinstance(made, nn.Module):
                name = f"layer{index}_{node.op_type.lower()}"
                self.add_module(name, made)
                made = name
            values = [name for name in node.input if name and name not in self._constants]
            self._steps.append((made, values, node.output[0]))
        self.eval()

    def forward(self, images: torch.Tensor) -> Any:
        """Return logits, N × classes, of normalised images, N × 3 × H × W."""
        values: dict[str, Any] = {self._input: images}
        for step, names, output in self._steps:
            function = getattr(self, step) if isinstance(step, str) else step
            values[output] = function(*(values[name] for name in names))
        return values[self._output]

    def _layer(self, node: Any) -> Any:
        options = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        constants = [self._constants.get(name) for name in node.input]
        if node.op_type == "Conv":
            return _conv(options, *constants[1:])
        if node.op_type == "Gemm" and options.get("transB") == 1:
            return _filled(nn.Linear(*reversed(constants[1].shape)), *constants[1:])  # type: ignore[union-attr]
        if node.op_type == "Clip" and [float(value) for value in constants[1:]] == [0, 6]:  # type: ignore[arg-type]
            return nn.ReLU6()
        if node.op_type == "Relu":
            return nn.ReLU()
        if node.op_type == "MaxPool":
            pads = options.get("pads", [0] * 4)
            if pads[:2] == pads[2:]:
                ceil = bool(options.get("ceil_mode", 0))
                return nn.MaxPool2d(options["kernel_shape"], options["strides"], pads[:2], ceil_mode=ceil)
        if node.op_type == "GlobalAveragePool" or (node.op_type == "ReduceMean" and _axes(options, constants) == [-2, -1]):
            return nn.AdaptiveAvgPool2d(1)
        if node.op_type in ("Flatten", "Reshape"):
            return lambda features: torch.flatten(features, 1)
        if node.op_type == "Add":
            return torch.add
        if node.op_type == "Concat" and options["axis"] == 1:
            return lambda *parts: torch.cat(parts, 1)
        raise NotImplementedError(f"no PyTorch layer for {node.op_type} with {options}")


def _axes(options: dict[str, Any], constants: list[Any]) -> list[int]:
    axes = options.get("axes", constants[1] if len(constants) > 1 else None)
    return sorted(int(axis) - 4 if axis >= 0 else int(axis) for axis in np.ravel(axes))


def _conv(options: dict[str, Any], weight: Any, bias: Any = None) -> nn.Module:
    pads = options.get("pads", [0] * 4)
    stride, group = options.get("strides", [1, 1]), options.get("group", 1)
    same = pads[:2] == pads[2:]
    dilation, padding = options.get("dilations", [1, 1]), pads[:2] if same else 0
    outputs, inputs, *kernel = weight.shape
    conv = nn.Conv2d(inputs * group, outputs, kernel, stride, padding, dilation, group, bias is not None)
    _filled(conv, weight, bias)
    return conv if same else nn.Sequential(nn.ZeroPad2d((pads[1], pads[3], pads[0], pads[2])), conv)


def _filled(layer: Any, weight: Any, bias: Any) -> nn.Module:
    layer.weight.data = torch.from_numpy(weight.copy())
    if bias is not None:
        layer.bias.data = torch.from_numpy(bias.copy())
    return layer  # type: ignore[no-any-return]
