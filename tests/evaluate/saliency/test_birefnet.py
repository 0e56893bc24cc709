"""Models that bring their own code: named and not run unasked, pinned, checked, and computed with as BiRefNet is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcam.common.errors import OutOfMemoryError, QcamError
from qcam.evaluate.engine.worker import SaliencyRequest
from qcam.evaluate.saliency import NoObjectError, open_saliency
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.sources import ImageFile
from qcam.runtime.devices import numbered

FILE = ImageFile("a.jpg", Path("a.jpg"))


def photograph(index: int = 0) -> Image.Image:
    image = decode(evaluation_photographs()[index].path).image
    assert image is not None
    return image


MODELLING = '''
from pathlib import Path

Path({marker!r}).write_text("yes")

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class TinyConfig(PretrainedConfig):
    model_type = "TinySegmentation"


class Tiny(PreTrainedModel):
    """BiRefNet's interface: a list of logits maps, coarse to fine; the last one counts."""

    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.colours = nn.Conv2d(3, 1, 1)
        self.post_init()

    def forward(self, x):
        return [torch.full((len(x), 1, 4, 4), 9.0), self.colours(x)]
'''


@pytest.fixture
def segmentation(tmp_path: Path) -> Path:
    """A model folder as BiRefNet's hub repository is one: configuration, modelling file, weights."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    value = {
        "architectures": ["Tiny"],
        "model_type": "TinySegmentation",
        "auto_map": {"AutoConfig": "tiny.TinyConfig", "AutoModelForImageSegmentation": "tiny.Tiny"},
    }
    (folder / "config.json").write_text(json.dumps(value))
    (folder / "tiny.py").write_text(MODELLING.format(marker=str(tmp_path / "executed")))
    weight = torch.tensor([1.5, -0.5, 2.0]).reshape(1, 3, 1, 1)
    save_file({"colours.weight": weight, "colours.bias": torch.tensor([-0.25])}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_remote_code_is_named_and_does_not_run_unasked(segmentation: Path, tmp_path: Path) -> None:
    with pytest.raises(QcamError) as told:
        open_saliency(f"birefnet:{segmentation}")
    text = str(told.value)
    assert "would execute tiny.py (SHA-256 " in text
    assert f"from {segmentation}" in text
    assert "add trust_remote_code=True" in text
    assert not (tmp_path / "executed").exists()


def test_a_trusted_model_folder_gives_maps(segmentation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    source = open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)
    assert source is not None
    assert (tmp_path / "executed").exists()
    image = photograph()
    found = source.whole_map(image, FILE)
    pixels = np.asarray(image.resize((1024, 1024), Image.Resampling.BILINEAR), np.float64) / 255
    normalised = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    probability = 1 / (1 + np.exp(-(normalised @ [1.5, -0.5, 2.0] - 0.25)))
    assert (found.shape, found.dtype) == ((1024, 1024), np.float32)
    np.testing.assert_allclose(found, probability, rtol=2.0**-11)  # not stretched


def test_other_weights_or_code_are_another_source(segmentation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    before = open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)
    other = shutil.copytree(segmentation, tmp_path / "other")
    same = open_saliency(f"birefnet:{other}", trust_remote_code=True)
    (other / "tiny.py").write_text((other / "tiny.py").read_text() + "\n# changed\n")
    changed = open_saliency(f"birefnet:{other}", trust_remote_code=True)
    assert before is not None
    assert same is not None
    assert changed is not None
    assert before.fingerprint == same.fingerprint != changed.fingerprint


def test_a_hub_model_is_its_folder(segmentation: Path, tmp_path: Path) -> None:
    """A hub's model that is on this machine already, offline: the very folder, so the very fingerprint."""
    home, commit = tmp_path / "home", "c0ffee" * 6 + "c0de"
    held = home / "hub" / "models--someone--net" / "snapshots" / commit
    shutil.copytree(segmentation, held)
    program = f"""
from pathlib import Path
from qcam.common.errors import QcamError
from qcam.evaluate.saliency import open_saliency
try:
    open_saliency("birefnet:someone/net@{commit}")
except QcamError as error:
    print(error)
print(Path({str(tmp_path / "executed")!r}).exists())
source = open_saliency("birefnet:someone/net@{commit}", trust_remote_code=True)
print(source.fingerprint == open_saliency("birefnet:{segmentation}", trust_remote_code=True).fingerprint)
print(Path({str(tmp_path / "executed")!r}).exists())
"""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    told, *rest = done.stdout.splitlines()
    assert f"would download hub model someone/net at revision {commit} and execute tiny.py (SHA-256 " in told
    assert rest == ["False", "True", "True"]


def test_known_code_is_checked_before_it_runs(segmentation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_a, **_k: str(segmentation))
    with pytest.raises(QcamError, match=r"tiny\.py of hub model .* no such file is known; it was not executed"):
        open_saliency("birefnet", trust_remote_code=True)
    assert not (tmp_path / "executed").exists()


def test_the_papers_network_is_named_with_its_code() -> None:
    with pytest.raises(QcamError) as told:
        open_saliency("birefnet")
    assert "download hub model ZhengPeng7/BiRefNet at revision e2bf8e4460fc8fa32bba5ea4d94b3233d367b0e4" in str(told.value)
    assert "birefnet.py (SHA-256 208771ae626f…)" in str(told.value)
    assert "BiRefNet_config.py (SHA-256 e7b8c2a74f6c…)" in str(told.value)


@pytest.mark.parametrize(
    ("where", "trust", "said"),
    [
        (
            ":someone/net@" + "a" * 40,
            False,
            "someone/net at revision aaaa.* execute the Python files that its config.json names",
        ),
        (":someone/net@main", True, "needs a pinned revision.*40 hexadecimal digits"),
        (":someone/net", False, "needs a pinned revision"),
        (":someone/net", True, "needs a pinned revision"),
        (":ZhengPeng7/BiRefNet@main", True, "needs a pinned revision"),
        (":./nowhere", True, "no model folder at ./nowhere"),
        (":nowhere", True, "no model folder at nowhere"),
        (":some/where/else", True, "no model folder at some/where/else"),
    ],
)
def test_what_is_not_pinned_or_not_there_is_refused(where: str, trust: bool, said: str) -> None:
    with pytest.raises(QcamError, match=said):
        open_saliency(f"birefnet{where}", trust_remote_code=trust)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(QcamError, match=r"cannot fetch hub model someone/net at .*a local folder of the model") as told:
        open_saliency("birefnet:someone/net@" + "a" * 40, trust_remote_code=True, cache=tmp_path)
    assert "\n" not in str(told.value)


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QcamError, match=r"cannot read .*config\.json"):
        open_saliency(f"birefnet:{tmp_path}")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(QcamError, match=r"config\.json: the whole is a list and has to be an object; give a folder that holds"):
        open_saliency(f"birefnet:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(QcamError, match=r"cannot load the model in .*give a whole model's folder"):
        open_saliency(f"birefnet:{tmp_path}", trust_remote_code=True)


def test_code_of_another_repository_is_refused(segmentation: Path, tmp_path: Path) -> None:
    value = json.loads((segmentation / "config.json").read_text())
    value["auto_map"]["AutoModelForImageSegmentation"] = "someone/other--tiny.Tiny"
    (segmentation / "config.json").write_text(json.dumps(value))
    for trust in (False, True):
        with pytest.raises(QcamError, match=r"takes its code from another hub repository \(someone/other--tiny\.Tiny\)"):
            open_saliency(f"birefnet:{segmentation}", trust_remote_code=trust)
    assert not (tmp_path / "executed").exists()


def test_missing_code_is_named(segmentation: Path) -> None:
    (segmentation / "tiny.py").unlink()
    with pytest.raises(QcamError, match=r"config\.json names tiny\.\w+, but .*tiny\.py is not there"):
        open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)


def test_weights_that_do_not_fill_the_model_are_refused(segmentation: Path) -> None:
    """transformers would leave the rest at random: a plausible map, and a wrong one."""
    import torch
    from safetensors.torch import save_file

    save_file({"colours.bias": torch.tensor([-0.25])}, segmentation / "model.safetensors", {"format": "pt"})
    with pytest.raises(QcamError, match=r"lack 1 of the model's tensors, colours\.weight first"):
        open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)


def test_pickled_weights_are_refused(segmentation: Path) -> None:
    import torch

    (segmentation / "model.safetensors").unlink()
    torch.save({"colours.weight": torch.zeros(1, 3, 1, 1), "colours.bias": torch.zeros(1)}, segmentation / "pytorch_model.bin")
    with pytest.raises(QcamError, match=r"cannot load the model in .*safetensors"):
        open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)


def test_options_reach_a_model_with_its_own_code(segmentation: Path) -> None:
    options = {"size": "16", "output": "0", "background": "0.99"}
    source = open_saliency(f"birefnet:{segmentation}", trust_remote_code=True, options=options)
    assert source is not None
    found = source.whole_map(photograph(), FILE)
    assert found.shape == (4, 4)  # the coarse one, logits of 9
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-9.0)), rtol=2.0**-11)
    blind = open_saliency(f"birefnet:{segmentation}", trust_remote_code=True, options=options | {"background": "1"})
    assert blind is not None
    with pytest.raises(NoObjectError, match=r"largest probability 1\.00, 1 wanted"):
        blind.whole_map(photograph(), FILE)


def test_maps_are_made_on_the_gpu_that_the_model_is_on_and_a_full_one_is_told(segmentation, tmp_path, monkeypatch) -> None:
    """PyTorch's current GPU is that of one thread: the device has its number, for the model and for what it is shown."""
    import torch

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    moved: list[tuple[str, str]] = []

    def to(self, device: str, *_arguments, **_more):
        moved.append((type(self).__name__, device))
        return self

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.Module, "to", to)
        patched.setattr(torch.Tensor, "to", to)
        source = SaliencyRequest(f"birefnet:{segmentation}", trust_remote_code=True).open(1, numbered("cuda", 1))
        assert source is not None
        moved[:] = [entry for entry in moved if entry[1] == "cuda:1"]
        source.whole_map(photograph(), FILE)
    assert [(name, device) for name, device in moved if device == "cuda:1"] == [("Tiny", "cuda:1"), ("Tensor", "cuda:1")]

    def full(*_arguments, **_more):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Conv2d, "forward", full)
    source = open_saliency(f"birefnet:{segmentation}", trust_remote_code=True)
    assert source is not None
    with pytest.raises(OutOfMemoryError, match=r"memory on the GPU is full .*; take device cpu, or maps of a smaller network"):
        source.whole_map(photograph(), FILE)
