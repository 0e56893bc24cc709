"""The emulated kernels start, differ where their processors do, and give the same bits however they are fed."""

import numpy as np
import pytest
import setup
from emulation import KERNELS, NATIVE, EmulationError, Job, qemu, run, why_not
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.deployed.probe import saturates_in_pairs

CHANNELS = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (5, CHANNELS, 4, 4), np.uint8)


def convolution(weight: np.ndarray, scale: float) -> bytes:
    """Return a model of one QLinearConv, 1 × 1, whose scales are all one but the output's."""
    constants = {
        "one": np.float32(1), "zero": np.uint8(0), "weight": weight.astype(np.int8)[:, :, None, None],
        "weight_zero": np.int8(0), "scale": np.float32(scale),
    }  # fmt: skip
    inputs = ["x", "one", "zero", "weight", "one", "weight_zero", "scale", "zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["y"], name="conv")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", CHANNELS, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["batch", CHANNELS, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString())


#: 16 products of 255 · 127 make 253 units of 2048; in pairs saturated to 32,767 they make 128.
LARGE = Job(convolution(np.full((CHANNELS, CHANNELS), 127), 2048), {"x": np.full((1, CHANNELS, 4, 4), 255, np.uint8)})
WEIGHT = np.random.default_rng(1).integers(-63, 64, (CHANNELS, CHANNELS))
AT_ONCE = Job(convolution(WEIGHT, 512), {"x": IMAGES}, profile=True)
SPLIT = Job(convolution(WEIGHT, 512), {"x": IMAGES}, outputs=["y"], batch=2)
CURED = Job(LARGE.model, LARGE.inputs, config={"session.x64quantprecision": "1"})


@pytest.fixture(scope="module", params=[NATIVE, *KERNELS])
def family(request):
    if reason := why_not(request.param):
        pytest.skip(reason)
    return request.param, run(request.param, [LARGE, AT_ONCE, SPLIT, CURED])


@pytest.mark.slow
def test_only_avx2_saturates_in_pairs(family):
    kernel, (large, *_) = family
    saturates = saturates_in_pairs() if kernel == NATIVE else kernel == "avx2"
    assert np.unique(large.outputs["y"]).tolist() == [128 if saturates else 253]


@pytest.mark.slow
def test_the_precise_kernels_saturate_nowhere(family):
    assert np.unique(family[1][3].outputs["y"]).tolist() == [253]


@pytest.mark.slow
def test_codes_are_those_of_exact_integers(family):
    exact = np.einsum("oc,nchw->nohw", WEIGHT, IMAGES.astype(np.int64))
    expected = np.clip(np.rint(exact.astype(np.float32) / np.float32(512)), 0, 255)
    assert (expected > 0).any()
    np.testing.assert_array_equal(family[1][1].outputs["y"], expected)


@pytest.mark.slow
def test_portions_change_no_bit(family):
    _, (_, at_once, split, _) = family
    assert split.outputs["y"].dtype == np.uint8
    np.testing.assert_array_equal(at_once.outputs["y"], split.outputs["y"])


@pytest.mark.slow
def test_a_profile_names_the_kernels(family):
    _, (large, at_once, *_) = family
    (name,) = [node for node, operator in at_once.kernels if operator == "QLinearConv"]
    assert name.startswith("conv")  # the layout's transposes around it rename it
    assert large.kernels == ()


def test_a_failing_job_tells_what_the_process_wrote():
    with pytest.raises(EmulationError, match="job 1 of 2 failed") as caught:
        run(NATIVE, [LARGE, Job(LARGE.model, {"nothing": np.zeros(1)})])
    assert "nothing" in str(caught.value)


def test_time_is_limited():
    with pytest.raises(EmulationError, match=r"more than 0\.01 seconds"):
        run(NATIVE, [LARGE], timeout=0.01)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match=r"choose from avx2, arm64, .*native"):
        run("pentium", [])


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_emulators_the_reason_says_what_to_do(kernel, monkeypatch, tmp_path):
    monkeypatch.setattr("emulation.EMULATORS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    qemu.cache_clear()
    assert "run `make emulators`" in why_not(kernel)
    qemu.cache_clear()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "this is Linux riscv64" in why_not(kernel)


def test_a_part_is_whole_or_stays_as_it_was(monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "EMULATORS", tmp_path)

    def good(folder, apt):
        (folder / "file").write_text("good")

    def bad(folder, apt):
        (folder / "file").write_text("half")
        raise setup.Unreachable("gone")

    assert setup.stale({"part": "1"}) == {"part": "1"}
    setup.make("part", good, "1", None)
    assert not setup.stale({"part": "1"})
    with pytest.raises(setup.Unreachable):
        setup.make("part", bad, "2", None)
    assert setup.stale({"part": "2"})
    assert (tmp_path / "part/file").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
