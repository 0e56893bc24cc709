"""Class scores and CAM layer of a foreign file are found by shape, or asked for by the name of the option."""

import numpy as np
import pytest
from foreign_graphs import (
    CLASSES,
    CODES,
    VARIANTS,
    float_graph,
    operator,
    quantized,
    returning_codes,
    variant,
    with_outputs,
    with_softmax,
)
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qcam.common.errors import QcamError
from qcam.exporters.importing.copies import tensors_of
from qcam.exporters.importing.decisions import Decisions
from qcam.exporters.importing.outputs import Scores, find_scores
from qcam.exporters.importing.taps import find_taps, map_size
from qcam.runtime.graph import Graph
from qcam.runtime.manifest import Tap
from qcam.runtime.normal import normalised


def scores(model: ModelProto, asked: str | None = None, classes: int | None = None) -> Scores:
    return find_scores(Graph(normalised(model)), asked, classes, "x.onnx", Decisions())


def taps(model: ModelProto, asked: str | None = None, logits: str = "scores") -> tuple[Tap, tuple[Tap, ...]]:
    return find_taps(Graph(normalised(model)), tensors_of(model), asked, logits, "x.onnx", Decisions())


def test_the_one_output_holds_the_scores() -> None:
    assert scores(quantized()) == Scores("scores", CLASSES, "scores", codes=False, flat=True)


def test_outputs_that_are_no_scores_do_not_count_wherever_they_stand() -> None:
    assert scores(with_outputs(quantized(), "last", first=True)).tensor == "scores"


def test_several_outputs_of_the_shape_of_scores_are_asked_about() -> None:
    model = with_outputs(quantized(), "flat", first=True)
    with pytest.raises(QcamError, match=r"several outputs .*: flat \(batch×16\), scores \(batch×5\); name one with logits"):
        scores(model)
    assert scores(model, classes=CLASSES).tensor == "scores"
    assert scores(model, asked="flat").classes == 16


def test_no_output_of_the_shape_of_scores_is_told_with_all_outputs() -> None:
    model = quantized()
    del model.graph.output[:]
    with pytest.raises(QcamError, match=r"no output has the shape of class scores, batch × classes: last \(batch×16×8×8\)"):
        scores(with_outputs(model, "last"))


@pytest.mark.parametrize(
    ("asked", "classes", "said"),
    [
        ("scors", None, "has no tensor scors for logits; nearest: scores"),
        ("last", None, "logits last has shape batch×16×8×8; scores are batch × classes"),
        ("flat", 5, "flat has 16 classes, 5 are asked for; name another output with logits"),
        (None, 7, r"no output has 7 classes: scores \(batch×5\); correct classes"),
    ],
)
def test_scores_that_cannot_be_what_was_asked_for_are_refused(asked: str | None, classes: int | None, said: str) -> None:
    with pytest.raises(QcamError, match=f"x.onnx.*{said}"):
        scores(quantized(), asked, classes)


def test_scores_are_taken_in_front_of_a_softmax_unless_it_is_asked_for() -> None:
    model = with_softmax(quantized())
    assert scores(model) == Scores("scores", CLASSES, "probabilities", codes=False, flat=True)
    assert scores(model, "probabilities").tensor == "probabilities"


def test_a_softmax_over_another_axis_is_no_end_of_a_classifier() -> None:
    model = with_softmax(quantized())
    model.graph.node[-1].attribute[0].i = 0
    assert scores(model).tensor == "probabilities"


def test_a_softmax_that_others_change_stays_and_is_told() -> None:
    model = with_softmax(quantized())
    model.graph.initializer.append(numpy_helper.from_array(np.float32(100), "percent"))
    model.graph.node.append(operator("Mul", ["probabilities", "percent"], "percents"))
    del model.graph.output[:]
    noted = Decisions()
    found = find_scores(Graph(normalised(with_outputs(model, "percents"))), None, None, "x.onnx", noted)
    assert found.tensor == "percents"
    assert "a softmax is inside" in noted.made[0].because


def test_scores_that_are_codes_and_scores_of_one_place_are_seen_as_such() -> None:
    assert scores(returning_codes(quantized())) == Scores("scores_codes", CLASSES, "scores_codes", codes=True, flat=True)
    model = quantized()
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, CLASSES, 1, 1], np.int64), "to"))
    model.graph.node.append(operator("Reshape", ["scores", "to"], "placed"))
    del model.graph.output[:]
    assert scores(with_outputs(model, "placed")) == Scores("placed", CLASSES, "placed", codes=False, flat=False)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_cam_layer_is_the_codes_of_the_last_map_however_the_file_is_written(name: str) -> None:
    model = variant(name)
    if name == "local functions":
        model = normalised(model)  # an import takes functions apart before it looks
    tap, skips = taps(model)
    assert (tap.tensor, tap.dtype, skips) == ("last", "uint8", ())
    assert name == "local functions" or tap.output == CODES
    assert map_size(Graph(normalised(model)), tap) == (16, 8, 8)


def test_the_cam_layer_of_kernels_of_codes_is_the_kernel_s_result() -> None:
    model = quantized("QOperator")
    tap, skips = taps(model)
    assert tap.output in tensors_of(model)
    assert (tap.tensor, tap.dtype, skips) == (tap.output, "uint8", ())
    assert Graph(model).producer[tap.output].op_type == "QLinearConv"


def test_the_cam_layer_of_a_float_file_is_the_map_itself() -> None:
    assert taps(float_graph()) == (Tap("last", "last", "float32"), ())


def test_a_map_in_front_of_pooling_is_taken_not_the_pooled_one() -> None:
    model = quantized()
    pooled = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    model.graph.node.insert(
        list(model.graph.node).index(pooled),
        operator("MaxPool", [pooled.input[0]], "smaller", kernel_shape=[2, 2], strides=[2, 2]),
    )
    pooled.input[0] = "smaller"
    assert taps(model)[0].output == CODES


def test_a_map_that_is_asked_for_by_its_activation_or_its_codes_is_taken_with_what_the_tail_needs_besides() -> None:
    by_activation, skips = taps(quantized(), "branch")
    assert by_activation.tensor == "branch"
    assert [skip.tensor for skip in skips] == ["stem_relu"]
    assert [skip.dtype for skip in skips] == ["uint8"]
    assert taps(quantized(), by_activation.output) == (by_activation, skips)


def per_channel(model: ModelProto) -> ModelProto:
    """The quantizer behind the last map has a scale for each channel."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    quantizer = Graph(model).quantize_of("last")
    assert quantizer is not None
    scale, zero = (numpy_helper.to_array(held[name]) for name in quantizer.input[1:])
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.full(16, scale, np.float32), "each"),
            numpy_helper.from_array(np.full(16, zero), "each_zero"),
        ]
    )
    for node in Graph(model).consumers[quantizer.output[0]] + [quantizer]:
        node.input[1], node.input[2] = "each", "each_zero"
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", 1))
    return model


def test_a_map_of_several_scales_is_taken_as_float_and_told() -> None:
    noted = Decisions()
    model = per_channel(quantized())
    tap, _ = find_taps(Graph(normalised(model)), tensors_of(model), None, "scores", "x.onnx", noted)
    assert tap == Tap("last", "last", "float32")
    assert noted.made[0].because.endswith("float, for its quantizer has no single scale")


def test_a_map_that_others_read_besides_its_quantizer_is_taken_as_float_so_that_no_gradient_is_missed() -> None:
    model = quantized()
    pooled = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    quantizer = Graph(model).quantize_of("last")
    assert quantizer is not None
    again = helper.make_node("QuantizeLinear", list(quantizer.input), ["again_codes"], name="again")
    model.graph.node.extend([again, operator("DequantizeLinear", ["again_codes", *quantizer.input[1:]], "again_float")])
    model.graph.node.extend([operator("GlobalAveragePool", ["again_float"], "again_pooled")])
    reader = next(node for node in model.graph.node if pooled.output[0] in node.input)
    both = operator("Add", [pooled.output[0], "again_pooled"], "both")
    model.graph.node.append(both)
    reader.input[0] = "both"
    noted = Decisions()
    tap, skips = find_taps(Graph(normalised(model)), tensors_of(model), None, "scores", "x.onnx", noted)
    assert (tap, skips) == (Tap("last", "last", "float32"), ())
    assert noted.made[0].because.endswith("; float, for 2 operators read it")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("lst", "has no tensor lst for cam_layer; maps with similar names: last"),
        ("flat", "cam_layer flat is no map .shape batch×16.; the last one is last"),
    ],
)
def test_what_is_no_map_is_refused_with_what_is_near(asked: str, said: str) -> None:
    with pytest.raises(QcamError, match=f"x.onnx.*{said}"):
        taps(quantized(), asked)


def test_a_map_that_the_scores_do_not_need_is_refused() -> None:
    model = quantized()
    model.graph.node.append(operator("Relu", ["last"], "aside"))
    with pytest.raises(QcamError, match="the logits do not depend on cam_layer aside"):
        taps(model, "aside")


def test_a_file_without_maps_is_refused() -> None:
    nodes = [operator("Flatten", ["image"], "flat"), operator("Gemm", ["flat", "w"], "scores")]
    graph = helper.make_graph(
        nodes, "flat", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.ones((48, 5), np.float32), "w")],
    )  # fmt: skip
    with pytest.raises(QcamError, match="no map with height and width leads to the logits"):
        taps(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
