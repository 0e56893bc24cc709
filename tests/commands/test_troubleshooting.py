"""Every message of docs/troubleshooting.md is one that a command ends with."""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime
import pytest
from click.testing import CliRunner

from qcam.commands import eval as evaluate
from qcam.commands import export, importing
from qcam.runtime.bundle import Bundle

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
#: The first column of the first table, without the warnings below it.
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8").partition("Two warnings")[0], re.MULTILINE)

#: The beginning of a message on the page → the command, its arguments, and its exit code.
#: BUNDLE, PHOTOS, LABELS and STUDY stand for what `places` makes.
ENDS: dict[str, tuple[object, str, int]] = {
    "no bundle given": (evaluate.main, "", 2),
    "… is a file inside": (evaluate.main, "BUNDLE/int8.onnx --images PHOTOS", 2),
    "model '…' is unknown": (export.main, "resnet_50", 2),
    "nothing in the graph": (importing.main, "BUNDLE/int8.onnx", 2),
    "neither in": (evaluate.main, "BUNDLE --images PHOTOS --saliency u2netp", 2),
    "… holds results": (evaluate.main, "BUNDLE --images PHOTOS --saliency none --limit 1 --output STUDY", 2),
    "class '…' of": (evaluate.main, "BUNDLE --images PHOTOS --saliency none --labels LABELS", 2),
    "target label": (evaluate.main, "BUNDLE --images PHOTOS --saliency none --target label", 2),
    "the installed package": (evaluate.main, "BUNDLE --images PHOTOS --saliency none --provider CUDA", 2),
    "undecided:": (evaluate.main, "BUNDLE --images PHOTOS --saliency none --output STUDY --fail-under top1=0.99", 3),
}


@pytest.fixture(scope="module")
def places(tiny_bundle: Bundle, some_photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("troubles")
    first = sorted(some_photographs.iterdir())[0].name
    (folder / "bad.csv").write_text(f"image,label\n{first},tenhc\n", encoding="utf-8")
    options = f"--images {some_photographs} --saliency spectral --no-report --output {folder / 'out'}"
    done = CliRunner().invoke(evaluate.main, [str(tiny_bundle.folder), *options.split()])
    assert done.exit_code == 0, done.stderr
    return {
        "BUNDLE": str(tiny_bundle.folder),
        "PHOTOS": str(some_photographs),
        "LABELS": str(folder / "bad.csv"),
        "STUDY": str(folder / "out"),
    }


def test_every_message_of_the_page_is_tried() -> None:
    assert len(MESSAGES) == len(ENDS)
    for message in MESSAGES:
        assert sum(message.startswith(beginning) for beginning in ENDS) == 1, message


@pytest.mark.parametrize("message", MESSAGES)
def test_a_command_ends_with_it(message: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if message.startswith("the installed package") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has the CUDA provider")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    command, line, code = next(end for beginning, end in ENDS.items() if message.startswith(beginning))
    if message.startswith("undecided:"):  # a study of its own: one with gates, of these settings
        places = {**places, "STUDY": str(tmp_path / "out")}
    words = [re.sub("BUNDLE|PHOTOS|LABELS|STUDY", lambda name: places[name.group()], word) for word in line.split()]
    done = CliRunner().invoke(command, words)  # type: ignore[arg-type]
    assert done.exit_code == code, done.output
    pattern = ".+".join(re.escape(part) for part in message.split("…"))
    assert re.search(pattern.replace(r"\ ", r"\s+"), done.output, re.DOTALL), done.output
