"""How a file takes pictures is found in the file, or asked for by the name of the option."""

import numpy as np
import pytest
from foreign_graphs import INSIDE, SIDE, before_input, channelwise, fixed_batch, normalising, operator, quantized
from onnx import ModelProto, TensorProto

from qcam.common.errors import QcamError
from qcam.exporters.importing.decisions import Decisions, decisions_of
from qcam.exporters.importing.inputs import Asked, find_input, fixed_size
from qcam.runtime.feeding import Input
from qcam.runtime.graph import Graph
from qcam.runtime.normal import normalised


def found(model: ModelProto, **asked: object) -> Input:
    told = Asked(**asked)  # type: ignore[arg-type]
    fixed_size(model, told.size, told.layout)
    return find_input(Graph(normalised(model)), told, "x.onnx", Decisions())


def test_the_plain_file_takes_what_preprocessing_gives() -> None:
    assert found(quantized()) == Input("image", "NCHW", "float32", (SIDE, SIDE), 3, None, "normalised")


@pytest.mark.parametrize("name", INSIDE)
def test_normalisation_inside_says_what_the_values_are(name: str) -> None:
    taken = found(normalising(name))
    assert taken.values == INSIDE[name][0]
    assert taken.dtype == ("uint8" if INSIDE[name][3] == TensorProto.UINT8 else "float32")


def test_what_was_decided_is_kept_with_its_reason_and_read_back() -> None:
    noted = Decisions()
    find_input(Graph(normalised(normalising("0..1, Sub and Mul"))), Asked(), "x.onnx", noted)
    told = {decision.what: (decision.value, decision.because) for decision in decisions_of(noted.to_json())}
    assert told["input"] == ("picture, NCHW, float32", "the operators behind it")
    assert told["size"] == ("32 × 32, 3 channels, fed as R, G, B", "the file")
    assert told["batch"] == ("any", "the file")
    assert told["values"] == ("0..1", "the graph normalises: x · 4 + -2")


def by_one(model: ModelProto) -> ModelProto:
    return before_input(model, operator("Mul", ["picture", "m"], "image"), held={"m": channelwise(1.05, 1.02, 0.98)})


def test_a_scale_that_tells_nothing_is_asked_for() -> None:
    with pytest.raises(QcamError, match=r"x.onnx: x · 1.05,1.02,0.98 \+ 0 behind input picture, which does not tell"):
        found(by_one(quantized()))
    assert found(by_one(quantized()), values="normalised").values == "normalised"
    assert found(quantized(), values="pixels").values == "pixels"


def test_values_that_contradict_the_file_are_refused() -> None:
    with pytest.raises(QcamError, match=r"values says unit, but x · .* its values are pixels; leave values out"):
        found(normalising("pixels, Sub and Div"), values="unit")
    with pytest.raises(QcamError, match="input picture is of uint8, so its values are pixels"):
        found(normalising("pixels of uint8, dequantized"), values="normalised")


def channels_last(shape: tuple[object, ...] = ("batch", SIDE, SIDE, 3)) -> ModelProto:
    turned = operator("Transpose", ["picture"], "image", perm=[0, 3, 1, 2])
    return before_input(quantized(), turned, shape=shape)  # type: ignore[arg-type]


def test_channels_behind_height_and_width_are_told_by_the_operators() -> None:
    taken = found(channels_last())
    assert (taken.layout, taken.size, taken.channels) == ("NHWC", (SIDE, SIDE), 3)


def test_a_size_that_the_file_leaves_open_is_asked_for_and_taken_in_its_layout() -> None:
    with pytest.raises(QcamError, match=r"input picture has shape \?×\?×\?×3, so its size is not known; give size H,W"):
        found(channels_last(("batch", "h", "w", 3)))
    taken = found(channels_last(("batch", "h", "w", 3)), size=(SIDE, 48))
    assert (taken.layout, taken.size) == ("NHWC", (SIDE, 48))
    open_file = quantized()
    for axis in (2, 3):
        open_file.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    assert found(open_file, size=(40, 32)).size == (40, 32)


def test_a_size_that_is_not_the_file_s_is_refused() -> None:
    with pytest.raises(QcamError, match=r"has shape \?×3×32×32, which is not the size 64,64 that was asked for"):
        found(quantized(), size=(64, 64))


def test_a_layout_that_is_not_the_file_s_is_refused() -> None:
    with pytest.raises(QcamError, match="input image is NCHW, layout says NHWC; leave it out"):
        found(quantized(), layout="NHWC")


def test_a_layout_that_nothing_tells_is_asked_for() -> None:
    flat = operator("Reshape", ["picture", "to"], "image")
    held = {"to": np.array([-1, 3, SIDE, SIDE], np.int64)}
    with pytest.raises(QcamError, match="neither sizes nor operators tell the layout of input picture; give layout"):
        found(before_input(quantized(), flat, held=held, shape=("batch", "a", "b", "c")))
    square = before_input(quantized(), flat, held={**held}, shape=("batch", 3, SIDE * SIDE // 3, 3))
    assert found(square, layout="NHWC").layout == "NHWC"


@pytest.mark.parametrize("count", [1, 2])
def test_a_fixed_batch_is_found(count: int) -> None:
    assert found(fixed_batch(quantized(), count)).batch == count


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        (TensorProto.FLOAT, ("batch", 3, 32), "has shape .×3×32; a picture has four dimensions"),
        (TensorProto.FLOAT16, ("batch", 3, 32, 32), "is of type float16; float32 and uint8 are imported"),
        (TensorProto.INT8, ("batch", 3, 32, 32), "is of type int8; float32 and uint8 are imported"),
        (TensorProto.FLOAT, ("batch", 4, 32, 32), "takes 4 channels; a photograph has 3"),
    ],
)
def test_an_input_that_is_no_picture_is_refused(kind: int, shape: tuple[object, ...], said: str) -> None:
    model = before_input(quantized(), operator("Identity", ["picture"], "image"), kind=kind, shape=shape)  # type: ignore[arg-type]
    with pytest.raises(QcamError, match=f"x.onnx: input picture {said}"):
        found(model)


def test_means_in_the_order_of_caffe_are_refused() -> None:
    means = {"m": channelwise(103.94, 116.78, 123.68)}
    model = before_input(quantized(), operator("Sub", ["picture", "m"], "image"), held=means)
    with pytest.raises(QcamError, match="those are ImageNet's means of B, G, R"):
        found(model)
