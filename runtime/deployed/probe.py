"""What this CPU's integer kernels really do, asked with a tiny model rather than guessed from the processor's name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Products of 255 · 127 over 16 channels: 518,160. Saturated in pairs to 32,767 each: 262,136.
_CHANNELS = 16
_SCALE = 1 / 2048


def saturates_in_pairs(config: Mapping[str, str] | None = None) -> bool:
    """Tell whether this CPU's kernels for unsigned activations and signed weights (u8s8) lose large products.

    x86 kernels for AVX2 without VNNI add products in pairs into 16 bits, which saturates: the same file then gives other
    codes than on other CPUs. Cures: bundles exported with `--reduce-range`, or the session configuration
    `session.x64quantprecision=1`.

    Args:
        config: Session configuration entries the answer shall hold for.
    """
    return _probe(tuple(sorted((config or {}).items())))


@cache
def _probe(config: tuple[tuple[str, str], ...]) -> bool:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in config:
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])
    (code,) = np.unique(session.run(None, {"x": np.full((1, _CHANNELS, 4, 4), 255, np.uint8)})[0])
    return int(code) != round(255 * 127 * _CHANNELS * _SCALE)


def _model() -> bytes:
    weight = np.full((_CHANNELS, _CHANNELS, 1, 1), 127, np.int8)
    constants = {
        "one": np.float32(1), "zero": np.uint8(0), "weight": weight, "weight_zero": np.int8(0),
        "scale": np.float32(1 / _SCALE),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", ["x", "one", "zero", "weight", "one", "weight_zero", "scale", "zero"], ["y"])
    shape = [1, _CHANNELS, 4, 4]
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return bytes(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8).SerializeToString())
