"""What this CPU's kernels really do, asked with tiny models rather than guessed from the processor's name.

Each question is a model whose answer differs between the kernel families (qcam.runtime.kernels). The answers are compared
with what each arithmetic gives; a machine whose answers fit no family is `unknown`, and nothing is assumed about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import first_line
from qcam.runtime.kernels import KERNELS, UNKNOWN, KernelFamily

#: Answers, in the words of the record.
EXACT_SUMS, PAIRS = "exact sums", "sums saturate in pairs"
FLOAT, FIXED, UNFUSED = "float ratios", "fixed-point ratios", "float ratios, no fused multiply-add"
ROUNDED_TWICE, FUSED = "multiplied, rounded, added", "fused multiply-add"
HOLDS, WRAPS = "exact sums", "wraps"
NEITHER = "neither"


@dataclass(frozen=True)
class Question:
    """A model of one operator, and what the arithmetics answer.

    Attributes:
        model: The ONNX file.
        feeds: Its inputs.
        answers: Answer in words → codes.
        expected: Tells which answer a family gives; None if families do not differ by it.
    """

    model: bytes
    feeds: dict[str, NDArray[Any]]
    answers: dict[str, NDArray[Any]]
    expected: Callable[[KernelFamily], str] | None


@dataclass(frozen=True)
class KernelProbe:
    """What the CPU provider's kernels answered.

    Attributes:
        name: vnni, avx2, arm64 or unknown.
        answers: Question → answer.
        reason: Why the family is unknown; empty if it is known.
        wraps_lowest_weight: Whether sums with weights of -128 overflow (ARM64 without dot product); None if that could not be
            told.
    """

    name: str
    answers: dict[str, str]
    reason: str = ""
    wraps_lowest_weight: bool | None = None

    @property
    def family(self) -> KernelFamily | None:
        """Return the family; None if it is unknown."""
        return KERNELS.get(self.name)

    def to_json(self) -> dict[str, Any]:
        """Return the probe as JSON-ready values."""
        return {
            "family": self.name,
            "reason": self.reason,
            "wraps_lowest_weight": self.wraps_lowest_weight,
            "answers": self.answers,
        }


def probe_kernels(config: Mapping[str, str] | None = None) -> KernelProbe:
    """Find out which kernel family the CPU provider computes in on this machine.

    Args:
        config: Session configuration entries the answer shall hold for; `session.x64quantprecision=1` makes a machine with
            AVX2 compute as one with VNNI does.
    """
    return _probe(tuple(sorted((config or {}).items())))


def saturates_in_pairs(config: Mapping[str, str] | None = None) -> bool:
    """Tell whether this CPU's kernels for unsigned activations and signed weights (u8s8) lose large products.

    x86 kernels for AVX2 without VNNI add products in pairs into 16 bits, which saturates: the same file then gives other
    codes than on other CPUs. Cures: bundles exported with a reduced range, or the session configuration
    `session.x64quantprecision=1`.

    Args:
        config: Session configuration entries the answer shall hold for.
    """
    answers = probe_kernels(config).answers
    return any(answers[name] == PAIRS for name in ("convolution", "convolution, odd", "matrix product"))


def questions() -> dict[str, Question]:
    """Return all questions by name."""
    return {
        "convolution": _convolution(channels=16, window=1),
        "convolution, odd": _convolution(channels=3, window=3),
        "depthwise convolution": _depthwise(),
        "matrix product": _matrix_product(),
        "addition": _addition(),
        "batch normalization": _batch_normalization(),
        "weights of -128": _lowest_weight(),
    }


def judge(answers: Mapping[str, str]) -> KernelProbe:
    """Find the family that answers give.

    Args:
        answers: Question → answer in words, of all `questions`.
    """
    asked = {name: question for name, question in questions().items() if question.expected is not None}
    lowest = answers["weights of -128"]
    wraps = {HOLDS: False, WRAPS: True}.get(lowest)
    wrong = {
        family.name: [name for name, question in asked.items() if answers[name] != _of(question, family)]
        for family in KERNELS.values()
    }
    for name, differing in wrong.items():
        if not differing:
            return KernelProbe(name, dict(answers), "", wraps)
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    said = "; ".join(f"{name}: {answers[name]}" for name in wrong[nearest])
    reason = f"the kernels fit no known family; nearest is {nearest}, but for {said}"
    return KernelProbe(UNKNOWN, dict(answers), reason, wraps)


def name_answer(question: Question, codes: NDArray[Any]) -> str:
    """Return a question's answer in words; `neither` with the codes if it is none of those foreseen."""
    for words, wanted in question.answers.items():
        if np.array_equal(codes, wanted):
            return words
    return f"{NEITHER} {np.unique(codes).tolist()[:8]}"


def _of(question: Question, family: KernelFamily) -> str:
    return "" if question.expected is None else question.expected(family)


@cache
def _probe(config: tuple[tuple[str, str], ...]) -> KernelProbe:
    return judge({name: _ask(question, config) for name, question in questions().items()})


def _ask(question: Question, config: tuple[tuple[str, str], ...]) -> str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        for key, value in config:
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(question.model, options, providers=["CPUExecutionProvider"])
        (codes,) = session.run(None, question.feeds)
    except Exception as error:  # ONNX Runtime's exceptions share no base class; a build may lack a kernel
        return f"failed ({first_line(error)[:120]})"
    return name_answer(question, codes)


def _pairs(family: KernelFamily) -> str:
    return PAIRS if family.pairs_saturate else EXACT_SUMS


def _sums(x: NDArray[Any], w: NDArray[Any], zero: int) -> dict[str, NDArray[np.int64]]:
    """Return both kinds of sums.

    Args:
        x: Codes, rows × products.
        w: Weights, outputs × products.
        zero: Zero point of the codes.
    """
    products = x.astype(np.int64)[:, None, :] * w.astype(np.int64)[None]
    correction = zero * w.sum(axis=1, dtype=np.int64)
    even = np.pad(products, ((0, 0), (0, 0), (0, products.shape[2] % 2)))
    pairs = np.clip(even[..., ::2] + even[..., 1::2], -(2**15), 2**15 - 1)
    return {EXACT_SUMS: products.sum(axis=2) - correction, PAIRS: pairs.sum(axis=2) - correction}


def _requantized(sums: NDArray[np.int64], scale: int) -> NDArray[np.uint8]:
    codes: NDArray[np.uint8] = (np.clip(np.rint(sums / scale), -128, 127) + 128).astype(np.uint8)
    return codes


#: Zero point of the codes, and scales of the sums: powers of two, by which dividing is exact.
_ZERO, _SCALE = 3, 2048


def _large(outputs: int, products: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Return two rows of large codes, and weights most of which are large: many pairs saturate, not all."""
    x = 255 - np.arange(2 * products, dtype=np.int64).reshape(2, products) * 11 % 64
    w = np.arange(outputs * products, dtype=np.int64).reshape(outputs, products) * 67 % 255 - 127
    return x.astype(np.uint8), w.astype(np.int8)


def _convolution(channels: int, window: int) -> Question:
    """A QLinearConv of two positions side by side; products run along rows, columns, channels."""
    outputs = 8
    x, w = _large(outputs, channels * window * window)
    # Two windows beside each other that do not overlap.
    image = x.reshape(2, window, window, channels).transpose(3, 1, 0, 2).reshape(1, channels, window, 2 * window)
    weight = w.reshape(outputs, window, window, channels).transpose(0, 3, 1, 2)
    answers = {words: _requantized(sums, _SCALE).T.reshape(1, outputs, 1, 2) for words, sums in _sums(x, w, _ZERO).items()}
    model = _qlinear_conv(image, weight, _ZERO, _SCALE, outputs, strides=[window, window])
    return Question(model, {"x": np.ascontiguousarray(image)}, answers, _pairs)


def _depthwise() -> Question:
    """Depthwise convolutions never saturate, on any processor."""
    channels = 16
    x, w = _large(channels, 9)
    image = np.ascontiguousarray(np.broadcast_to(x[0].reshape(1, 1, 3, 3), (1, channels, 3, 3)))
    exact = _requantized(_sums(x[:1], w, _ZERO)[EXACT_SUMS], _SCALE).reshape(1, channels, 1, 1)
    model = _qlinear_conv(image, w.reshape(channels, 1, 3, 3), _ZERO, _SCALE, channels, group=channels)
    return Question(model, {"x": image}, {EXACT_SUMS: exact}, lambda _: EXACT_SUMS)


def _matrix_product() -> Question:
    outputs, products = 8, 16
    x, w = _large(outputs, products)
    constants = {
        "one": np.float32(1), "x_zero": np.uint8(_ZERO), "w": np.ascontiguousarray(w.T), "w_zero": np.int8(0),
        "scale": np.float32(_SCALE), "y_zero": np.uint8(128),
    }  # fmt: skip
    inputs = ["x", "one", "x_zero", "w", "one", "w_zero", "", "scale", "y_zero"]
    model = _model([helper.make_node("QGemm", inputs, ["y"], domain="com.microsoft")], constants, {"x": x})
    answers = {words: _requantized(sums, _SCALE) for words, sums in _sums(x, w, _ZERO).items()}
    return Question(model, {"x": x}, answers, _pairs)


def _addition() -> Question:
    """A QLinearAdd at operands where the arithmetics differ (found by search; tests hold them against the mirror)."""
    a, b = np.array([0, 36, 74, 104, 143, 174, 205, 255]), np.array([114, 0, 14, 136, 152, 214, 28, 4])
    answers = {
        FLOAT: [15, 0, 48, 136, 186, 248, 194, 236],
        FIXED: [16, 1, 47, 137, 185, 247, 193, 235],
        UNFUSED: [16, 0, 48, 136, 186, 248, 194, 236],  # x86 older than FMA: no family of ours
    }
    constants = {
        "a_scale": np.float32(0.0594), "a_zero": np.uint8(102), "b_scale": np.float32(0.0261), "b_zero": np.uint8(101),
        "y_scale": np.float32(0.0558), "y_zero": np.uint8(118),
    }  # fmt: skip
    inputs = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    feeds = {"a": _repeated(a), "b": _repeated(b)}
    model = _model([helper.make_node("QLinearAdd", inputs, ["y"], domain="com.microsoft")], constants, feeds)
    return Question(
        model,
        feeds,
        {words: _repeated(np.array(codes)) for words, codes in answers.items()},
        lambda family: FIXED if family.fixed_point_add else FLOAT,
    )


def _batch_normalization() -> Question:
    """A float BatchNormalization between codes: four channels tell how it adds, four how it divides.

    Found by search like the addition's operands.
    """
    x = np.array([4, 132, 75, 185, 7, 62, 99, 174])
    answers = {ROUNDED_TWICE: [82, 188, 53, 204, 31, 115, 66, 145], FUSED: [83, 187, 52, 203, 32, 114, 65, 146]}
    parameters = {
        "gamma": [0.553, 0.492, 0.765, 1.184, 0.45, 0.527, 0.707, 0.806],
        "beta": [0.988, 0.48, -0.015, -0.158, -0.56, 0.384, -0.614, -0.938],
        "mean": [0.538, -0.997, 0.382, 0.462, 0.592, -0.729, 0.486, -0.221],
        "variance": [1.772, 1.007, 0.919, 1.874, 1.972, 1.045, 1.375, 2.072],
    }
    constants = {name: np.array(values, np.float32) for name, values in parameters.items()} | {
        "x_scale": np.float32(0.037), "x_zero": np.uint8(120), "y_scale": np.float32(0.021), "y_zero": np.uint8(131),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["real"]),
        helper.make_node("BatchNormalization", ["real", *parameters], ["normal"], epsilon=1e-5),
        helper.make_node("QuantizeLinear", ["normal", "y_scale", "y_zero"], ["y"]),
    ]
    feeds = {"x": _repeated(x).T[None, :, None]}
    wanted = {words: _repeated(np.array(codes)).T[None, :, None] for words, codes in answers.items()}
    model = _model(nodes, constants, feeds)
    return Question(model, feeds, wanted, lambda family: FUSED if family.fused_batch_norm else ROUNDED_TWICE)


def _lowest_weight() -> Question:
    """Codes of 0 and weights of -128: products of signed 8-bit numbers at their lowest, 2 · 16,384 = 2^15 a pair."""
    channels = 32
    x = np.zeros((1, channels, 1, 2), np.uint8)
    weight = np.full((8, channels, 1, 1), -128, np.int8)
    model = _qlinear_conv(x, weight, 0, _SCALE, 8)
    shape = (1, 8, 1, 2)
    return Question(model, {"x": x}, {HOLDS: np.full(shape, 128, np.uint8), WRAPS: np.zeros(shape, np.uint8)}, None)


def _repeated(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Repeat values so that both a kernel's vectors and its remainder see each of them."""
    return np.tile(codes.astype(np.uint8), (9, 1))


def _qlinear_conv(
    x: NDArray[np.uint8], weight: NDArray[np.int8], zero: int, scale: int, outputs: int, **attributes: Any
) -> bytes:
    constants = {
        "one": np.float32(1), "x_zero": np.uint8(zero), "w": np.ascontiguousarray(weight), "w_zero": np.int8(0),
        "scale": np.float32(scale), "y_zero": np.uint8(128),
    }  # fmt: skip
    inputs = ["x", "one", "x_zero", "w", "one", "w_zero", "scale", "y_zero"]
    return _model([helper.make_node("QLinearConv", inputs, ["y"], **attributes)], constants, {"x": x})


def _model(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Any], feeds: Mapping[str, NDArray[Any]]) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "probe",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
