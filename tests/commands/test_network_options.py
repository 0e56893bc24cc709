"""What qcam-export and qcam-import both ask of a network is read, and refused, in one way."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from qcam.commands import export, importing
from qcam.commands.network_options import SizeType, TripleType

BOTH = {"qcam-export": export.main, "qcam-import": importing.main}


@pytest.mark.parametrize(("text", "size"), [("224", 224), ("224,128", (224, 128)), ("8192", 8192), ("squash", "squash")])
def test_a_size_is_a_side_height_and_width_or_a_word(text: str, size: object) -> None:
    assert SizeType(squash=True).convert(text, None, None) == size


@pytest.mark.parametrize("text", ["0", "8193", "-1", "1,2,3", "224x128", "224,", "٢٢٤", "squashed", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no size: give a whole number of pixels, .*, or squash"):
        SizeType(squash=True).convert(text, None, None)


def test_squash_is_no_size_where_it_is_no_choice() -> None:
    with pytest.raises(click.BadParameter, match=r"'squash' is no size: .* \(height first\)$"):
        SizeType().convert("squash", None, None)


@pytest.mark.parametrize(("text", "numbers"), [("0.5", (0.5,)), ("0.485,0.456,0.406", (0.485, 0.456, 0.406))])
def test_one_number_or_one_for_each_channel(text: str, numbers: tuple[float, ...]) -> None:
    assert TripleType().convert(text, None, None) == numbers


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--mean", "1,2", "'1,2' is not one number or three with commas"),
        ("--std", "a", "'a' is not one number or three with commas"),
        ("--resize", "squashed", "'squashed' is no size"),
        ("--interpolation", "nearest", "'nearest' is not one of 'bilinear', 'bicubic', 'lanczos'"),
        ("--trained", "maybe", "'maybe' is not one of 'yes', 'no', 'unknown'"),
        ("--values", "bytes", "'bytes' is not one of 'normalised', 'unit', 'pixels'"),
        ("--layout", "CHW", "'CHW' is not one of 'NCHW', 'NHWC'"),
    ],
)
def test_both_commands_refuse_the_same(command: str, option: str, value: str, said: str) -> None:
    result = CliRunner().invoke(BOTH[command], ["net.onnx", option, value])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
