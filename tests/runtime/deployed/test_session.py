import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from qcam.common.errors import QcamError
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings, provider_name, require_provider
from qcam.runtime.deployed.providers import captured_output

IMAGES = np.random.default_rng(1).normal(size=(7, 3, 32, 32)).astype(np.float32)


def joined(session, size):
    outputs = list(session.batches(IMAGES, size))
    return np.concatenate([o.logits for o in outputs]), np.concatenate([o.tap for o in outputs])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_integer_results_do_not_depend_on_the_batch(tiny_bundle, size):
    session = DeployedModel(tiny_bundle, "int8", SessionSettings())
    for found, wanted in zip(joined(session, size), joined(session, 7), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bound", [False, True])
def test_integer_results_do_not_depend_on_threads_or_binding(tiny_bundle, threads, bound):
    session = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=threads, io_binding=bound))
    plain = DeployedModel(tiny_bundle, "int8", SessionSettings())
    for found, wanted in zip(joined(session, 3), joined(plain, 7), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("precision", ["f32", "int16"])
def test_float_results_agree_closely_between_batches(tiny_bundle, precision):
    session = DeployedModel(tiny_bundle, precision, SessionSettings())
    (one, _), (all_, _) = joined(session, 1), joined(session, 7)
    np.testing.assert_allclose(one, all_, rtol=1e-3, atol=1e-3)


def test_placement_counts_the_kernels_that_really_ran(tiny_bundle):
    counted = {p: DeployedModel(tiny_bundle, p, SessionSettings()).placement for p in ("f32", "int16", "int8")}
    assert (counted["int8"].integer_kernels, counted["int8"].float_kernels, counted["int8"].expected) == (4, 0, 4)
    assert counted["int8"].count("QLinearConv") == 3
    assert counted["int8"].count("QGemm") == 1
    assert (counted["int16"].integer_kernels, counted["int16"].float_kernels) == (0, 4)
    assert (counted["f32"].integer_kernels, counted["f32"].float_kernels) == (0, 4)
    assert "integer kernels" in counted["int8"].describe()
    assert "float arithmetic" in counted["int16"].describe()


def test_no_profile_is_left_behind(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = DeployedModel(tiny_bundle, "int8", SessionSettings())
    session.run(IMAGES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "short"), [("cpu", "CPU"), ("CUDAExecutionProvider", "CUDA"), ("tensorrt", "TensorRT")])
def test_providers_have_short_names(text, short):
    assert provider_name(text) == short


def test_an_unknown_provider_lists_the_known_ones():
    with pytest.raises(QcamError, match="choose one of CPU, CUDA"):
        provider_name("GPU9000")


def test_a_provider_that_the_package_lacks_names_the_package_to_install(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(QcamError, match=r"has no CUDA provider, only CPU; .*qcam\[cuda\]"):
        require_provider("CUDA")


def test_a_package_that_does_not_tell_where_its_nodes_run_is_refused_by_name(monkeypatch):
    """onnxruntime-openvino 1.23, say."""
    monkeypatch.setattr(onnxruntime.capi.onnxruntime_inference_collection, "InferenceSession", object)
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.0")
    with pytest.raises(QcamError, match=r"^onnxruntime 1\.23\.0 does not tell which node .*pip install .onnxruntime>=1\.24"):
        require_provider("CPU")


def test_tensorrt_refuses_what_it_cannot_load_before_it_tries(tiny_bundle):
    with pytest.raises(QcamError, match="TensorRT has no 16-bit quantization"):
        DeployedModel(tiny_bundle, "int16", SessionSettings(provider="TensorRT"))
    with pytest.raises(QcamError, match=r"again with qcam\.export scheme s8s8"):
        DeployedModel(tiny_bundle, "int8", SessionSettings(provider="TensorRT"))


def test_a_file_that_cannot_be_loaded_is_named(tiny_bundle, tmp_path):
    import shutil

    shutil.copytree(tiny_bundle.folder, tmp_path / "b")
    (tmp_path / "b" / "int8.onnx").write_bytes(b"nonsense")
    with pytest.raises(QcamError, match=r"CPU cannot load .*int8\.onnx"):
        DeployedModel(load_bundle(tmp_path / "b", verify=False), "int8", SessionSettings())


def test_a_wrong_batch_is_an_error_that_names_the_file(tiny_bundle):
    session = DeployedModel(tiny_bundle, "int8", SessionSettings())
    with pytest.raises(QcamError, match=r"int8\.onnx failed on CPU with a batch of 2"):
        session.run(np.zeros((2, 3, 16, 16), np.float32))


def test_captured_output_takes_what_c_code_writes_and_python_prints(capfd):
    import os

    with captured_output() as captured:
        os.write(2, b"from below\n")
        print("from python")
    assert (captured.errors, captured.printed, captured.text) == ("from below\n", "from python\n", "from below\nfrom python")
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("", "after\n")


def test_the_deployed_runtime_imports_neither_torch_nor_torchvision(tiny_bundle):
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from qcam.runtime.bundle import load_bundle; from qcam.runtime.deployed import DeployedModel, SessionSettings\n"
        "bundle = load_bundle(Path(sys.argv[1]))\n"
        "for p in ('f32', 'int16', 'int8'):\n"
        "    DeployedModel(bundle, p, SessionSettings()).run(np.zeros((1, 3, 32, 32), np.float32))\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('torch', 'torchvision', 'timm')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_bundle.folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("precision", ["f32", "int16", "int8"])
def test_memory_shared_by_sessions_changes_no_bit(tiny_bundle, precision):
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    shared, own = (
        DeployedModel(tiny_bundle, precision, SessionSettings(config=config)).run(images)
        for config in ({}, {"session.use_env_allocators": "0"})
    )
    assert np.array_equal(shared.logits, own.logits)
    assert np.array_equal(shared.tap, own.tap)


def test_sessions_share_their_memory(seeded_bundle):
    """Each of several sessions would keep what its largest batch took."""
    folder = seeded_bundle("squeezenet1_1").folder
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from qcam.runtime.bundle import load_bundle\n"
        "from qcam.runtime.deployed import DeployedModel, SessionSettings\n"
        f"bundle = load_bundle(Path({str(folder)!r}))\n"
        "settings = SessionSettings(threads=1, config=dict(entry.split('=') for entry in sys.argv[1:]))\n"
        "sessions = [DeployedModel(bundle, 'f32', settings) for _ in range(8)]\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "before, images = resident(), np.zeros((8, 3, 224, 224), np.float32)\n"
        "for session in sessions: session.run(images)\n"
        "print(resident() - before)\n"
    )
    shared, own = (
        int(subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, check=True).stdout)
        for more in ([], ["session.use_env_allocators=0"])
    )
    assert shared < own / 2


def test_an_output_that_is_asked_for_twice_is_given_twice_bound_or_not(tiny_bundle):
    """qcam-check asks for the tap, and for every tensor of codes: the tap is one of them."""
    plain, bound = (DeployedModel(tiny_bundle, "int8", SessionSettings(io_binding=binding)) for binding in (False, True))
    tap = plain.entry.tap.output
    asked = [tap, plain.entry.logits, tap]
    for found, wanted in zip(bound.values(IMAGES, asked), plain.values(IMAGES, asked), strict=True):
        np.testing.assert_array_equal(found, wanted)
