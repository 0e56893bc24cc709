"""`qcam-import`: what was decided is printed, what is missing is asked for by its option."""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign_graphs import float_graph, quantized, with_outputs

from qcam.commands import importing


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        importing.main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vendor.onnx").write_bytes(quantized().SerializeToString())
    (tmp_path / "float.onnx").write_bytes(float_graph().SerializeToString())
    return tmp_path


def test_what_was_decided_is_printed_in_options_with_what_says_so(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("vendor.onnx", "--float", "float.onnx", "--mean", "0.5", "--std", "0.25", "--precision", "int8-vendor")
    assert run(*arguments) == 0
    told = capsys.readouterr()
    lines = [" ".join(line.split()) for line in told.out.splitlines()]
    assert lines[0] == "int8-vendor: int8-vendor.original.onnx"
    assert "input image, NCHW, float32 (the operators behind it)" in lines
    assert "CAM layer last, uint8 codes last_QuantizeLinear_Output, 16 × 8 × 8 (the last map before pooling)" in lines
    assert "mean, std 0.5,0.5,0.5; 0.25,0.25,0.25 (--mean, --std)" in lines
    assert (
        "resize shorter side 32, centre 32 × 32, bilinear (assumed; give --resize and --interpolation where it is another way)"
        in lines
    )
    assert "session ONNX Runtime's defaults (no --session-config)" in lines
    assert "proof the copy's logits are the file's, bit for bit (8 photographs)" in lines
    assert "top-1 int8-vendor and f32 agree on 8 of 8 (8 photographs)" in lines
    assert lines[-1] == "bundles/vendor: f32, int8-vendor"
    assert "{" not in told.out
    assert run(*arguments) == 2
    assert "bundles/vendor exists already; use --force to replace it, --keep to leave it" in capsys.readouterr().err
    assert run(*arguments, "--keep") == 0
    assert capsys.readouterr().out == "bundles/vendor exists; kept\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "so it was done before it; give the --mean and --std that the network was trained with, or --like with a bundle"),
        (
            ("--mean", "0.5", "--std", "0.25", "--size", "64"),
            "which is not the size 64,64 that was asked for; leave --size out",
        ),
        (("--mean", "123", "--std", "58"), "is on the scale 0..255, qcam's pixels are between 0 and 1"),
        (("--float-cam-layer", "x"), "--float-cam-layer is of the file of --float, and there is none"),
        (("--session-config", "a"), "--session-config 'a' is not of the form KEY=VALUE"),
        (("--like", "nothing"), "nothing is no bundle"),
    ],
)
def test_what_is_missing_or_contradicts_is_one_line_in_options(
    given: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("vendor.onnx", *arguments) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert not (given / "bundles").exists()


def test_outputs_that_may_be_scores_are_named(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = with_outputs(quantized(), "flat", first=True)
    (given / "two.onnx").write_bytes(model.SerializeToString())
    assert run("two.onnx", "--mean", "0.5", "--std", "0.25") == 2
    assert "flat (batch×16), scores (batch×5); name one with --logits" in capsys.readouterr().err
    assert (
        run("two.onnx", "--mean", "0.5", "--std", "0.25", "--logits", "scores", "--resize", "squash", "--trained", "yes") == 0
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "squashed to 32 × 32, bilinear (--resize)" in told
    assert "trained yes (--trained)" in told


def test_help_groups_options_and_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help-all") == 0
    told = capsys.readouterr().out
    for text in (
        "Input:",
        "How it takes pictures:",
        "What is what in the file, where it does not tell:",
        "Examples:",
        "--values",
    ):
        assert text in told
