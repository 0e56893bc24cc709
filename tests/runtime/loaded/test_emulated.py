"""The graph of another processor, asked for here, is the one that its real kernels run: files whose activations have a sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from emulation import Job, Result, run, why_not
from foreign_graphs import CODES, pictures, quantized, tapped
from integer_cases import by_node
from onnx import ModelProto

from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.graph import Graph
from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded import as_loaded
from qcam.runtime.mirror import Mirror
from qcam.runtime.session_config import EXACT_SUMS, S8_AS_IT_IS
from qcam.runtime.tables import is_integer_kernel

pytestmark = pytest.mark.slow

#: Emulated processor → the family whose graph is asked for.
FAMILIES = {"avx2": "avx2", "arm64": "arm64", "arm64-nodot": "arm64"}
#: What the session is told of signed activations: nothing, or the one or the other.
SETTINGS: dict[str, dict[str, str]] = {"default": {}, "as unsigned": {S8_AS_IT_IS: "0"}, "as they are": {S8_AS_IT_IS: "1"}}
FOREIGN = Path(__file__).parents[2] / "data" / "foreign"
#: The small classifier with signed activations: one scale a weight, or one a channel.
OWN = {"one scale": False, "a scale a channel": True}


def signed(model: ModelProto) -> bool:
    """Tell whether a quantizer of activations writes codes of 8 bits with a sign."""
    graph = Graph(model)
    of_activations = [
        node for node in model.graph.node if node.op_type == "QuantizeLinear" and not graph.fixed.issuperset(node.output)
    ]
    zeros = [node.input[2] for node in of_activations if len(node.input) > 2]
    return any(name in graph.initializers and graph.array(name).dtype == np.int8 for name in zeros)


def files() -> dict[str, ModelProto]:
    """Return files of other tools with signed activations, by name, and the small classifier."""
    read = {path.name: onnx.load(path) for path in sorted(FOREIGN.glob("*.onnx")) if "espdlint16" not in path.name}
    own = {name: tapped(quantized("QDQ", "QInt8", "QInt8", per_channel=each)) for name, each in OWN.items()}
    return {name: model for name, model in read.items() if signed(model)} | own


def picture(model: ModelProto) -> dict[str, np.ndarray]:
    name = Graph(model).image_input
    return {name: pictures(1)}


@pytest.fixture(scope="module", params=FAMILIES)
def ran(request: pytest.FixtureRequest) -> tuple[str, dict[str, dict[str, tuple[ModelProto, Result]]]]:
    """Run all files under all settings in one emulated process."""
    if reason := why_not(request.param):
        pytest.skip(reason)
    given = files()
    jobs = [
        Job(model.SerializeToString(), picture(model), config, profile=True)
        for config in SETTINGS.values()
        for model in given.values()
    ]
    results = iter(run(request.param, jobs, threads=1))
    return FAMILIES[request.param], {told: {name: (model, next(results)) for name, model in given.items()} for told in SETTINGS}


@pytest.mark.parametrize("told", SETTINGS)
def test_its_integer_kernels_are_those_that_ran(ran: tuple[str, dict], told: str) -> None:
    family, results = ran
    counts = []
    for name, (model, result) in results[told].items():
        asked = as_loaded(model, SETTINGS[told], KERNELS[family]).kernels
        wanted = {node: kernel for node, kernel in asked.items() if is_integer_kernel(kernel)}
        assert {node: kernel for node, kernel in by_node(result.kernels).items() if is_integer_kernel(kernel)} == wanted, name
        counts.append(len(wanted))
    assert len(counts) > 10
    assert sum(counts) > 3 * len(counts)


def test_files_are_among_them_that_run_otherwise_where_signed_codes_stay(ran: tuple[str, dict]) -> None:
    family, results = ran
    kernels = {
        told: {name: sorted(kernel for _, kernel in result.kernels) for name, (_, result) in of.items()}
        for told, of in results.items()
    }
    other = "as they are" if family == "avx2" else "as unsigned"
    same = "as unsigned" if family == "avx2" else "as they are"
    assert kernels["default"] == kernels[same]
    assert sum(kernels["default"][name] != kernels[other][name] for name in kernels["default"]) > 5


def mirrored(model: ModelProto, family: str, settings: dict[str, str], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes at the tap and scores that the mirror gives, all of them of integer operators."""
    graph = Graph(model)
    scale, zero = (graph.array(place).reshape(()) for place in graph.producer[CODES].input[1:3])
    tap = Tap("last", CODES, zero.dtype.name, float(scale), int(zero))
    entry = PrecisionEntry("int8", "", "", "scores", tap, session=settings)
    mirror = Mirror(model, entry, arithmetic="integer", family=KERNELS[family])
    assert mirror.unordered == ()
    outputs = mirror.forward(pictures(count))
    return outputs.tap.numpy(), outputs.logits.numpy()


@pytest.mark.parametrize("name", OWN)
def test_codes_and_scores_are_those_that_ran_where_all_is_integer(ran: tuple[str, dict], name: str) -> None:
    family, results = ran
    told = "as they are" if family == "avx2" else "default"
    model, result = results[told][name]
    codes, scores = mirrored(model, family, SETTINGS[told], 1)
    np.testing.assert_array_equal(codes, result.outputs[CODES].astype(np.float32))
    np.testing.assert_array_equal(scores, result.outputs["scores"])


def test_under_the_setting_of_exact_sums_avx2_computes_as_vnni_does() -> None:
    if reason := why_not("avx2"):
        pytest.skip(reason)
    model, exact = tapped(quantized()), {EXACT_SUMS: "1"}
    jobs = [Job(model.SerializeToString(), {"image": pictures(4)}, config) for config in ({}, exact)]
    for result, (family, settings) in zip(run("avx2", jobs, threads=1), (("avx2", {}), ("vnni", exact)), strict=True):
        codes, scores = mirrored(model, family, settings, 4)
        np.testing.assert_array_equal(codes, result.outputs[CODES].astype(np.float32))
        np.testing.assert_array_equal(scores, result.outputs["scores"])
    assert not np.array_equal(*(mirrored(model, family, {}, 4)[0] for family in ("avx2", "vnni")))


def test_float_kernels_are_in_blocks_on_x86_alone(ran: tuple[str, dict]) -> None:
    family, results = ran
    blocked = {
        name: {node for node, _ in result.kernels if node.endswith("_nchwc")}
        for name, (_, result) in results["default"].items()
    }
    for name, (model, _) in results["default"].items():
        assert {f"{tensor}_nchwc" for tensor in as_loaded(model, {}, KERNELS[family]).blocked} == blocked[name], name
    assert any(blocked.values()) == (family == "avx2")
