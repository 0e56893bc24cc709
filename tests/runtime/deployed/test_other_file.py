"""Another file in the place of a bundle's: its tap and logits are found whatever they are called, or it is refused by name."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from foreign_graphs import operator, returning_codes, with_outputs, with_softmax
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import BundleError
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.deployed.inspection import InspectedModel
from qcam.runtime.deployed.other_file import other_file
from qcam.runtime.graph import Graph

IMAGES = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def model(tiny_bundle):
    """The bundle's int8 file as a tool leaves it that knows nothing of taps: the logits are its output, called `scores`."""
    found = load_onnx(tiny_bundle, "int8")
    entry = tiny_bundle.precision("int8")
    (gemm,) = [node for node in found.graph.node if entry.logits in node.output]
    gemm.output[0] = "scores"
    del found.graph.output[:], found.graph.value_info[:]
    found.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10]))
    for node in found.graph.node:
        for names in (node.input, node.output):
            names[:] = ["map_codes" if name == entry.tap.output else name for name in names]
    return found


@pytest.fixture
def opened(tiny_bundle, tmp_path):
    def get(model, precision="int8"):
        onnx.save(model, tmp_path / "vendor.onnx")
        return other_file(tiny_bundle, precision, tmp_path / "vendor.onnx")

    return get


def run(bundle, other):
    return InspectedModel(bundle, "int8", SessionSettings(threads=1), tuple(other.partners), other=other).run(IMAGES)


def own_run(bundle):
    names = tuple(other_file(bundle, "int8", bundle.path("int8")).partners)
    return InspectedModel(bundle, "int8", SessionSettings(threads=1), names).run(IMAGES)


def test_tap_and_logits_of_other_names_are_found_and_codes_come_under_the_bundle_s(tiny_bundle, model, opened):
    other, tap = opened(model), tiny_bundle.precision("int8").tap
    assert (other.entry.logits, other.entry.tap) == ("scores", replace(tap, output="map_codes"))
    assert other.partners[tap.output] == "map_codes"
    assert (other.missing, other.others, other.ambiguous, other.told) == ((), (), (), ())
    assert all(other.same(name) for name in other.partners)
    found, own = run(tiny_bundle, other), own_run(tiny_bundle)
    assert found.faithful
    assert found.undisturbed
    assert np.array_equal(found.outputs.logits, own.outputs.logits)
    assert found.codes.keys() == own.codes.keys()
    assert all(np.array_equal(codes, found.codes[name]) for name, codes in own.codes.items())


def test_logits_are_not_the_first_output_but_those_of_their_position(tiny_bundle, model, opened):
    model.graph.node.append(operator("Neg", ["scores"], "negated"))
    other = opened(with_outputs(model, "negated", "map_codes", first=True))
    assert other.entry.logits == "scores"
    assert np.array_equal(run(tiny_bundle, other).outputs.logits, own_run(tiny_bundle).outputs.logits)


def test_logits_are_in_front_of_a_softmax_and_that_is_told(tiny_bundle, model, opened):
    other = opened(with_softmax(model))
    assert other.entry.logits == "scores"
    assert other.told == ("its output probabilities is a softmax: logits are scores, in front of it",)
    assert np.array_equal(run(tiny_bundle, other).outputs.logits, own_run(tiny_bundle).outputs.logits)


def test_logits_of_other_operators_go_by_their_shape_and_that_is_told(model, opened):
    model.graph.node.append(operator("Neg", ["scores"], "negated"))
    model.graph.node.append(operator("Neg", ["negated"], "again"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["batch", 10]))
    other = opened(model)
    assert other.entry.logits == "again"
    assert other.told == ("logits are its output again by the shape alone: the operators in front of it are not the bundle's",)


def test_where_nothing_is_quantized_at_the_cam_layer_its_float_tensor_is_taken_and_that_is_told(tiny_bundle, model, opened):
    (quantizer,) = [node for node in model.graph.node if "map_codes" in node.output]
    for reader in [node for node in model.graph.node if "map_codes" in node.input]:
        for node in model.graph.node:
            node.input[:] = [quantizer.input[0] if name == reader.output[0] else name for name in node.input]
        model.graph.node.remove(reader)
    model.graph.node.remove(quantizer)
    model.graph.node.append(operator("Relu", [quantizer.input[0]], "clipped"))  # the Relu that the quantizer's range was
    for node in model.graph.node:
        if node.op_type != "Relu":
            node.input[:] = ["clipped" if name == quantizer.input[0] else name for name in node.input]
    other = opened(model)
    assert (other.entry.tap.output, other.entry.tap.dtype) == ("clipped", "float32")
    assert other.missing[0] == tiny_bundle.precision("int8").tap.output
    assert other.told[-1].endswith("its float tensor clipped is taken")


def test_a_file_of_a_fixed_batch_runs_as_often_as_it_takes(tiny_bundle, model, opened):
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    other = opened(model)
    assert other.entry.input.batch == 2
    assert np.array_equal(run(tiny_bundle, other).outputs.logits, own_run(tiny_bundle).outputs.logits)


def test_scores_that_are_codes_and_outputs_that_may_both_be_scores_are_refused_by_name(model, opened):
    several = onnx.ModelProto.FromString(model.SerializeToString())
    for name in ("one", "two"):
        several.graph.node.append(operator("Neg", ["scores"], name))
        several.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10]))
    del several.graph.output[0]
    with pytest.raises(BundleError, match=r"vendor.onnx has several outputs that may be the class scores: one, two; "):
        opened(several)
    with pytest.raises(BundleError, match=r"vendor.onnx hands out its class scores as codes, scores_codes; make"):
        opened(returning_codes(model))


def sizes(model, *shape, kind=TensorProto.FLOAT):
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("images", kind, shape))


def test_another_network_is_refused_in_one_line_that_says_what_differs(tiny_bundle, model, opened):
    sizes(model, "n", 3, 64, 64)
    with pytest.raises(BundleError, match=r"another network than .*int8.onnx: its input is N×3×64×64, the bundle's N×3×32×32$"):
        opened(model)
    sizes(model, "n", 3, 32, 32)
    graph = Graph(model)
    (gemm,) = [node for node in model.graph.node if "scores" in node.output]
    weight, bias = (graph.producer[name] for name in gemm.input[1:3])
    for name in {*weight.input, *bias.input}:
        held = graph.initializers[name]
        if held.dims and held.dims[0] == 10:
            held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held)[:9], name))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 9]))
    with pytest.raises(BundleError, match=r"is another network than .*: it has 9 classes, the bundle 10$"):
        opened(model)
    for node in model.graph.node:
        for held in node.attribute:
            if node.op_type == "Conv" and held.name == "strides":
                held.ints[:] = [3, 3]
    with pytest.raises(BundleError, match=r"9 classes, the bundle 10; none of its \d quantized tensors stands where"):
        opened(model)


def test_an_input_of_other_axes_is_another_layout_not_another_network(model, opened):
    sizes(model, "n", 32, 32, 3, kind=TensorProto.UINT8)
    model.graph.input[0].name = "picture"
    model.graph.node.insert(0, operator("Cast", ["turned"], "images", to=1))
    model.graph.node.insert(0, operator("Transpose", ["picture"], "turned", perm=[0, 3, 1, 2]))
    with pytest.raises(BundleError, match=r"with the axes in another order \(N×32×32×3\) than .* \(N×3×32×32\)"):
        opened(model)
