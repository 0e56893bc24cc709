"""A residual block between quantizers, small enough that float32 holds every sum exactly: any order of additions is right."""

from __future__ import annotations

import numpy as np
import onnx
from mirror_single import model_of, run_runtime
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.mirror import Mirror

CLASSES = 3
#: Name → scale and zero point. All are powers of two, so that float32 holds every sum exactly, in any order.
CODES = {
    "x": (1 / 8, 128),
    "s": (1 / 16, 0),
    "t": (1 / 8, 120),
    "u": (1 / 8, 128),
    "v": (1 / 8, 0),
    "g": (1 / 64, 0),
    "flat": (1 / 8, 120),
    "many": (1, 128),
}


class Nodes:
    """A graph under construction; every method returns the name of the tensor it makes."""

    def __init__(self):
        self.nodes = []
        self.constants = []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator, output, *inputs, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"make_{output}", **attributes))
        return output

    def quantized(self, tensor, dtype=np.uint8):
        """Put QuantizeLinear and DequantizeLinear behind a tensor."""
        scale, zero_point = CODES[tensor]
        if np.iinfo(dtype).min < 0:
            zero_point += np.iinfo(dtype).min
        parameters = (
            self.constant(f"{tensor}_scale", np.float32(scale)),
            self.constant(f"{tensor}_zero", dtype(zero_point)),
        )
        self.add("QuantizeLinear", f"{tensor}_q", tensor, *parameters)
        return self.add("DequantizeLinear", f"{tensor}_d", f"{tensor}_q", *parameters)

    def weight(self, name, codes, scale):
        """Return a constant that is dequantized from integers, per output channel."""
        scales = self.constant(f"{name}_scale", np.full(len(codes), scale, np.float32))
        zeros = self.constant(f"{name}_zero", np.zeros(len(codes), codes.dtype))
        return self.add("DequantizeLinear", name, self.constant(f"{name}_q", codes), scales, zeros, axis=0)

    def model(self, outputs, shape=("batch", 2, 4, 4)):
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        values = [helper.make_empty_tensor_value_info(name) for name in outputs]
        return model_of(helper.make_graph(self.nodes, "program", inputs, values, self.constants))


def whole(*shape, low=-4, high=5, seed=0, dtype=np.int8):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def skip_graph(dtype=np.uint8):
    """Return a residual block behind a stem; the tap t lies on the branch, the stem's output s joins behind it."""
    make = Nodes()
    act = (lambda tensor: make.quantized(tensor, dtype)) if dtype else (lambda tensor: tensor)
    stem = make.weight("w1", whole(2, 2, 3, 3), 1 / 8), make.weight("b1", whole(2, seed=1, dtype=np.int32), 1 / 64)
    make.add("Conv", "stem", act("x"), *stem, pads=[1, 1, 1, 1])
    skip = act(make.add("Relu", "s", "stem"))
    make.add("Conv", "t", skip, make.weight("w2", whole(2, 2, 3, 3, seed=2), 1 / 8), pads=[1, 1, 1, 1])
    make.add("Conv", "u", act("t"), make.weight("w3", np.array([[3, -2], [-1, 4]], np.int8)[:, :, None, None], 1 / 2))
    make.add("Add", "sum", act("u"), skip)
    make.add("Relu", "v", "sum")
    make.add("GlobalAveragePool", "g", act("v"))
    make.add("Flatten", "flat", act("g"))
    head = (
        make.weight("w4", whole(CLASSES, 2, seed=4), 1 / 4),
        make.weight("b4", whole(3, seed=5, dtype=np.int32), 1 / 64),
    )
    make.add("Gemm", "logits", "flat", *head, transB=1)
    return make.model(["logits", *(["t_q", "s_q"] if dtype else ["t", "s"])])


def tap(tensor, dtype):
    if dtype is None:
        return Tap(tensor, tensor, "float32")
    scale, zero_point = CODES[tensor]
    return Tap(tensor, f"{tensor}_q", np.dtype(dtype).name, scale, int(zero_point + min(0, np.iinfo(dtype).min)))


def entry_of(logits, at, *skips):
    return PrecisionEntry("int8", "model.onnx", "", logits, at, skips)


def mirror_of(dtype=np.uint8, device="cpu"):
    return Mirror(skip_graph(dtype), entry_of("logits", tap("t", dtype), tap("s", dtype)), device)


def images(count=4):
    return (whole(count, 2, 4, 4, low=-64, high=64, seed=9) / 8).astype(np.float32)


def runtime_values(model, feeds, names):
    """Return named tensors of a model as ONNX Runtime computes them."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, run_runtime(opened, feeds), strict=True))
