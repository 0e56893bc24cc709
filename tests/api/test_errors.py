"""Which kind of error tells what, as docs/api.md has it."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

import qcam
from qcam.runtime.devices import torch_device
from qcam.runtime.kernels import kernel_family


def test_results_that_are_not_there_or_damaged_are_a_results_error(studied, tmp_path) -> None:
    with pytest.raises(qcam.ResultsError, match=r"holds no results: it has no run\.json"):
        qcam.load_results(tmp_path)
    (tmp_path / "demo").mkdir()
    with pytest.raises(qcam.ResultsError, match=rf"there is no such folder; did you mean {tmp_path}/demo\?"):
        qcam.load_results(tmp_path / "dmo")
    with pytest.raises(qcam.ResultsError, match=r"there is no such folder; make some with qcam\.study"):
        qcam.load_results(tmp_path / "nowhere")
    folder = shutil.copytree(studied.folder, tmp_path / "damaged")
    (folder / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(qcam.ResultsError, match=r"results\.parquet"):
        qcam.load_results(folder).to_arrow()


def test_results_are_loaded_from_this_machine_only(studied) -> None:
    with pytest.raises(qcam.ResultsError, match="s3://bucket/out is a URL; load_results reads a folder of this machine"):
        qcam.load_results("s3://bucket/out")
    assert qcam.load_results(f"file://{studied.folder}").models == studied.models


@pytest.mark.parametrize("package", ["fsspec", "upath"])
def test_what_reads_urls_is_a_missing_extra(monkeypatch, package) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(qcam.MissingExtraError, match=r"pip install .qcam\[s3\]"):
        qcam.load_bundle("s3://bucket/bundle")


def test_a_gpu_that_is_not_there_is_a_provider_error(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(qcam.ProviderError, match="PyTorch finds no CUDA device"):
        torch_device("cuda", 1)


def test_a_mistyped_word_is_no_provider_error() -> None:
    with pytest.raises(qcam.QcamError, match="kernel family 'typo' is unknown") as raised:
        kernel_family("typo")
    assert raised.type is qcam.QcamError


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("random:x", "the seed must be a whole number"),
        ("NOSUCH_V1", "weights 'NOSUCH_V1' of squeezenet1_1 are unknown"),
        ("{folder}/nowhere.pt", "nowhere.pt"),
        ("{folder}/text.pt", "cannot read weights from"),
    ],
)
def test_weights_that_cannot_be_had_are_a_weights_error(tmp_path, weights, message) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(qcam.WeightsError, match=message):
        qcam.export("squeezenet1_1", weights=weights.format(folder=tmp_path), precisions="f32", output=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("name", ["provider_options", "session_config"])
@pytest.mark.parametrize("function", ["check", "study", "explain"])
def test_options_that_map_no_text_to_text_are_one_line(tiny_bundle, some_photographs, tmp_path, function, name) -> None:
    given = {
        "check": {"bundle": tiny_bundle, "images": some_photographs},
        "study": {"bundles": tiny_bundle, "images": some_photographs, "output": tmp_path / "out"},
        "explain": {"bundle": tiny_bundle, "image": np.zeros((32, 32, 3), np.uint8)},
    }
    with pytest.raises(qcam.QcamError, match=rf"^{name} .'device_id'.: give a mapping of text to text$"):
        getattr(qcam, function)(**given[function], **{name: ["device_id"]})
