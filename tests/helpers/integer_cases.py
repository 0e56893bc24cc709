"""QDQ models of one operator, and what ONNX Runtime and the mirror make of them.

A case is drawn from `Choices`, whose numbers come from hypothesis (which then shrinks it) or from a seed (for the emulated
processors, where one process runs all cases).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.deployed.probe import saturates_in_pairs
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import disagreements, find_groups
from qcam.runtime.kernels import KERNELS, KernelFamily
from qcam.runtime.mirror import Mirror

#: Signed activations stay signed, as in qcam's own sessions.
CONFIG = {"session.qdqisint8allowed": "1"}
PROVIDERS = ["CPUExecutionProvider"]
#: Half of all codes are uniform.
PATTERNS = (*["uniform"] * 6, "extremes", "highest", "lowest", "alternating", "narrow")


class Choices:
    """A source of decisions."""

    def __init__(self, integer: Callable[[int, int], int]) -> None:
        self.integer = integer

    @classmethod
    def seeded(cls, seed: int) -> Choices:
        generator = np.random.default_rng(seed)
        return cls(lambda low, high: int(generator.integers(low, high, endpoint=True)))

    def pick(self, *options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def yes(self) -> bool:
        return bool(self.integer(0, 1))

    def numbers(self) -> np.random.Generator:
        """Return a generator of the numbers that make up an array; they are not worth shrinking."""
        return np.random.default_rng(self.integer(0, 2**20))

    def scale(self, low: int = -10, high: int = 3) -> float:
        """Return a float32 scale; every other one is a power of two, so that ties occur."""
        exponent = self.integer(low, high)
        mantissa = 1.0 if self.yes() else 1 + self.integer(1, 2**12) / 2**12
        return float(np.float32(np.ldexp(mantissa, exponent)))

    def zero_point(self, dtype: Any) -> int:
        limits = np.iinfo(dtype)
        return int(self.pick(limits.min, (int(limits.min) + int(limits.max) + 1) // 2, limits.max, None) or
                   self.integer(limits.min, limits.max))  # fmt: skip

    def codes(self, dtype: Any, shape: Sequence[int], *, narrow: bool = False) -> np.ndarray:
        """Return codes of a type, in patterns of which some let sums grow as large as they can."""
        limits, generator = np.iinfo(dtype), self.numbers()
        pattern = self.pick(*PATTERNS)
        lowest, highest = int(limits.min), int(limits.max)
        if narrow and lowest < 0:
            lowest = -highest
        if pattern == "uniform":
            values = generator.integers(lowest, highest, shape, endpoint=True)
        elif pattern == "extremes":
            values = generator.choice([lowest, lowest + 1, highest - 1, highest], shape)
        elif pattern == "alternating":
            values = np.where(np.arange(int(np.prod(shape))).reshape(shape) % 2, lowest, highest)
        elif pattern == "narrow":
            middle = (lowest + highest) // 2
            values = generator.integers(middle - 3, middle + 4, shape)
        else:
            values = np.full(shape, highest if pattern == "highest" else lowest)
            values = np.where(generator.random(shape) < 0.1, (lowest + highest) // 2, values)
        return values.astype(dtype)


@dataclass
class Case:
    """A model of one operator with its input.

    Attributes:
        model: The QDQ model; its input is `x`, its result `y`, every QuantizeLinear's output is a graph output.
        x: What to feed.
        entry: The model as a bundle would describe it, tapped at its first codes.
        kernel: The integer kernel that runs the operator; None if it is a float one.
    """

    model: onnx.ModelProto
    x: np.ndarray
    entry: PrecisionEntry
    kernel: str | None

    def outputs(self) -> list[str]:
        return [output.name for output in self.model.graph.output]


@dataclass
class Codes:
    """Codes in the making: a tensor that a DequantizeLinear returns, and what its codes mean."""

    name: str
    scale: float
    zero_point: int
    dtype: Any


@dataclass
class Nodes:
    """A graph in the making; every method returns what the next node reads."""

    choices: Choices
    dtype: Any
    opset: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    quantized: list[str] = field(default_factory=list)
    x: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    taps: list[Tap] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.opset = self.opset or self.choices.pick(13, 17, 19, 21)

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def add(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{operator}_{output}", **attributes))
        return output

    def inputs(self, *shapes: Sequence[int], scale: float | None = None, dtypes: Sequence[Any] | None = None) -> list[Codes]:
        """Return operands, each quantized from its own part of the graph's input."""
        values, made = [], []
        dtypes = dtypes or [self.dtype] * len(shapes)
        for shape, dtype in zip(shapes, dtypes, strict=True):
            step = scale or self.choices.scale()
            zero = self.choices.zero_point(dtype)
            codes = self.choices.codes(dtype, shape)
            values.append((codes.astype(np.float64) - zero) * step)
            made.append((step, zero))
        if len(shapes) == 1:
            self.x = values[0].astype(np.float32)
            return [self.quantize("x", *made[0], name="x")]
        # The parts lie one behind the other in rows of one batch.
        batch = shapes[0][0]
        rows = [value.reshape(batch, -1) for value in values]
        self.x = np.concatenate(rows, axis=1).astype(np.float32)
        operands, start = [], 0
        for index, (shape, row) in enumerate(zip(shapes, rows, strict=True)):
            ends = [self.constant(f"{edge}{index}", np.array([value], np.int64))
                    for edge, value in (("from", start), ("to", start + row.shape[1]))]  # fmt: skip
            part = self.add("Slice", f"part{index}", "x", *ends, self.constant("one", np.array([1], np.int64)))
            size = self.constant(f"shape{index}", np.array([batch, *shape[1:]], np.int64))
            made_of = self.add("Reshape", f"in{index}", part, size)
            operands.append(self.quantize(made_of, *made[index], name=f"in{index}", dtype=dtypes[index]))
            start += row.shape[1]
        return operands

    def quantize(self, tensor: str, scale: float, zero_point: int, name: str, *, dtype: Any = None) -> Codes:
        """Put QuantizeLinear and DequantizeLinear behind a tensor."""
        dtype = dtype or self.dtype
        parameters = (
            self.constant(f"{name}_scale", np.float32(scale)), self.constant(f"{name}_zero", dtype(zero_point))
        )  # fmt: skip
        codes = self.add("QuantizeLinear", f"{name}_codes", tensor, *parameters)
        self.quantized.append(codes)
        self.taps.append(Tap(tensor, codes, np.dtype(dtype).name, scale, zero_point))
        return Codes(self.add("DequantizeLinear", f"{name}_value", codes, *parameters), scale, zero_point, dtype)

    def held(self, name: str, codes: np.ndarray, scale: Any, zero_point: Any, axis: int | None = None) -> str:
        """Return a constant that is dequantized."""
        attributes = {} if axis is None else {"axis": axis}
        return self.add(
            "DequantizeLinear",
            name,
            self.constant(f"{name}_codes", codes),
            self.constant(f"{name}_scale", np.asarray(scale, np.float32)),
            self.constant(f"{name}_zero", np.asarray(zero_point, codes.dtype)),
            **attributes,
        )

    def values(self, tensor: str) -> np.ndarray:
        """Return a tensor's values in floating point."""
        session = onnxruntime.InferenceSession(self._model([tensor]).SerializeToString(), _options(), providers=PROVIDERS)
        return session.run(None, {"x": self.x})[0]

    def case(self, result: str, kernel: str | None) -> Case:
        """Finish the graph."""
        if result != "y":
            self.add("Identity", "y", result)
        entry = PrecisionEntry("int8", "", "", "y", self.taps[0], session=CONFIG)
        return Case(self._model(["y", *self.quantized]), self.x, entry, kernel)

    def _model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.x.shape)],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def drawn(make: Callable[[Choices], Case]) -> st.SearchStrategy[Case]:
    """Return hypothesis' strategy for the cases that a function draws."""

    @st.composite
    def strategy(draw: Callable[[st.SearchStrategy[int]], int]) -> Case:
        return make(Choices(lambda low, high: draw(st.integers(low, high))))

    return strategy()


def property_of(make: Callable[[Choices], Case], examples: int = 60) -> Callable[[Callable[[Case], None]], Callable[[], None]]:
    """Return the decorator of a test that takes cases; the same ones on every run."""
    profile = settings(
        derandomize=True, max_examples=examples, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return lambda test: profile(given(drawn(make))(test))


def here() -> KernelFamily:
    """Return this processor's family."""
    import platform

    if platform.machine().lower() in ("arm64", "aarch64"):
        return KERNELS["arm64"]
    return KERNELS["avx2" if saturates_in_pairs() else "vnni"]


def run_runtime(case: Case) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Compute a case by ONNX Runtime as deployed; returns its outputs and node → kernel."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options(optimized=True)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, providers=PROVIDERS)
        values = session.run(case.outputs(), {"x": case.x})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [
        (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    return dict(zip(case.outputs(), values, strict=True)), by_node(ran)


def _options(*, optimized: bool = False) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in CONFIG.items():
        options.add_session_config_entry(key, value)
    return options


def by_node(ran: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return node → kernel by the file's names: layout changes append `_token_` and a number."""
    return {name.partition("_token_")[0]: operator for name, operator in ran}


def run_mirror(case: Case, family: KernelFamily, *, float_kernels: bool = False) -> dict[str, np.ndarray]:
    """Compute a case by the mirror; returns the outputs that it has."""
    mirror = Mirror(case.model, case.entry, arithmetic="integer", family=family, float_kernels=float_kernels)
    seen: dict[str, np.ndarray] = {}

    def observe(name: str, codes: Any) -> None:
        seen[name] = codes.cpu().numpy().copy()

    outputs = mirror.forward(case.x, observe)
    return {"y": outputs.logits.cpu().numpy(), **seen}


def check(case: Case) -> None:
    """Require that the mirror computes every code of ONNX Runtime's here, by the kernels that fusion foretold."""
    theirs, kernels = run_runtime(case)
    compare(case, theirs, kernels, here())


def compare(case: Case, theirs: dict[str, np.ndarray], kernels: dict[str, str], family: KernelFamily) -> None:
    """Require that the mirror computes every code of what a session computed."""
    graph = Graph(case.model)
    groups = find_groups(graph)
    assert disagreements(groups, graph, kernels) == []
    found = [group.kernel for group in groups if not group.result.startswith("in")]
    assert found == [case.kernel] * bool(case.kernel)
    mine = run_mirror(case, family)
    assert set(mine) == set(case.outputs())
    for name in [*case.entry.tap.output.split(), *mine]:
        own = theirs[name].dtype if theirs[name].dtype.itemsize == 1 else np.dtype(np.float32)
        expected = theirs[name].astype(own)
        assert mine[name].shape == expected.shape
        assert mine[name].dtype == own
        wrong = np.flatnonzero(mine[name] != expected)
        assert wrong.size == 0, (
            f"{name}: {wrong.size} of {expected.size} differ, first at {wrong[0]}: "
            f"{mine[name].flat[wrong[0]]!r} instead of {expected.flat[wrong[0]]!r}"
        )
