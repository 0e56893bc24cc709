from dataclasses import replace

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.plan import plan
from qcam.runtime.deployed import SessionSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gates": {"speed": 1.0}}, "speed: no such gate"),
        ({"arithmetics": ("exact",)}, "arithmetic 'exact' is unknown; choose one of"),
        ({"arithmetics": ()}, "no arithmetic to judge"),
        ({"kernel": "sse2"}, "kernel family 'sse2' is unknown"),
        ({"batch_size": 0}, "batch_size 0: give a whole number, 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused_where_they_enter(options, message):
    with pytest.raises(QcamError, match=message):
        CheckOptions(**options)


def test_a_deployed_file_has_to_be_there_and_is_judged_against_one(tiny_bundle, tmp_path):
    with pytest.raises(QcamError, match=r"deployed file .*nowhere\.onnx: there is no such file"):
        CheckOptions(deployed=tmp_path / "nowhere.onnx")
    file = tiny_bundle.path("int8")
    with pytest.raises(QcamError, match="give one bundle, and one precision"):
        CheckOptions(deployed=file, precisions=("f32", "int8"))
    options = CheckOptions(deployed=file)
    with pytest.raises(QcamError, match="give one bundle"):
        plan([tiny_bundle, tiny_bundle], options)
    assert plan([tiny_bundle], options) == [(tiny_bundle, "int8")]


def test_what_is_judged_is_planned_before_anything_runs(tiny_bundle, tmp_path):
    assert [precision for _, precision in plan([tiny_bundle, tiny_bundle], CheckOptions())] == ["f32", "int16", "int8"]
    on_tensorrt = SessionSettings(provider="TensorRT")  # which cannot load u8s8, or 16 bits
    assert plan([tiny_bundle], CheckOptions(settings=on_tensorrt)) == [(tiny_bundle, "f32")]
    named = CheckOptions(precisions=("int8",), settings=on_tensorrt)
    assert plan([tiny_bundle], named) == [(tiny_bundle, "int8")]  # its session refuses it by name
    assert plan([tiny_bundle], CheckOptions(precisions=("int8", "f32"))) == [(tiny_bundle, "f32"), (tiny_bundle, "int8")]
    twin = replace(tiny_bundle, folder=tmp_path / "twin")
    names = [bundle.model_id for bundle, _ in plan([tiny_bundle, twin], CheckOptions(precisions=("f32",)))]
    assert names == ["tiny (tiny)", "tiny (twin)"]
    with pytest.raises(QcamError, match="gate codes: f32 has no codes"):
        plan([tiny_bundle], CheckOptions(precisions=("f32",), gates={"codes": 1.0}))
    with pytest.raises(QcamError, match="no bundle to judge"):
        plan([], CheckOptions())
