"""Tensors of two files of one network find each other by where they stand, and none is guessed."""

import numpy as np
import pytest
from foreign_graphs import CODES, VARIANTS, float_graph, quantized, variant
from onnx import TensorProto, helper, numpy_helper

from qcam.runtime.graph import Graph
from qcam.runtime.normal import normalised
from qcam.runtime.positions import Positions, match, partners_in_float


def positions(model):
    return Positions(Graph(normalised(model)))


def renamed(model, prefix="other/"):
    """The same file with other names throughout, its input's too."""
    for node in model.graph.node:
        node.name = prefix + node.name
        for names in (node.input, node.output):
            names[:] = [prefix + name if name else "" for name in names]
    for values in (model.graph.initializer, model.graph.input, model.graph.output, model.graph.value_info):
        for value in values:
            value.name = prefix + value.name
    return model


def without_pair(model, codes):
    """Take a quantizer and its dequantizers away."""
    nodes = model.graph.node
    (first,) = [node for node in nodes if codes in node.output]
    for second in [node for node in nodes if codes in node.input]:
        for node in nodes:
            node.input[:] = [first.input[0] if name == second.output[0] else name for name in node.input]
        nodes.remove(second)
    nodes.remove(first)
    return model


def network(*nodes, outputs=("y",), held=None, side=8):
    """A graph of `operator input … > output attribute=value` lines, constants by name, quantizers by `q`."""
    held = {"s": np.float32(0.1), "z": np.uint8(0), "s2": np.float32(0.2), "m": np.uint8(128)} | (held or {})
    made = []
    for line in nodes:
        call, _, results = line.partition(" > ")
        kind, *operands = call.split()
        result, *attributes = results.split()
        if kind == "q":  # q tensor scale zero > name: codes name, floats name_dq
            made.append(helper.make_node("QuantizeLinear", operands, [result]))
            made.append(helper.make_node("DequantizeLinear", [result, *operands[1:]], [f"{result}_dq"]))
            continue
        named = {key: [int(number) for number in value.split(",")] for key, value in (word.split("=") for word in attributes)}
        made.append(helper.make_node(kind, operands, [result], **named))
    for name in {name for line in nodes for name in line.split() if name.startswith("w")}:
        held.setdefault(name, np.ones((4, 4, 1, 1), np.float32))
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, side, side])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_that_is_renamed_and_written_in_another_way_matches_wholly(name):
    own, other = positions(quantized()), positions(renamed(variant(name)))
    found = match(own, other)
    assert (found.missing, found.others, found.ambiguous) == ((), (), ())
    assert len(found.partners) == len(own.quantized) == 8
    if name not in ("local functions", "chains of Identity, and a Dropout"):  # inlined tensors are renamed once more
        assert found.partners == {name: f"other/{name}" for name in own.quantized}


def test_kernels_of_codes_match_the_quantizers_that_they_were_made_of():
    own, other = positions(quantized(per_channel=False)), positions(quantized("QOperator", per_channel=False))
    found = match(own, other)
    assert (found.missing, found.others, found.ambiguous) == ((), (), ())
    for name, partner in found.partners.items():
        assert own.quantized[name].codes.same_meaning(other.quantized[partner].codes), name


def test_a_pair_that_one_file_lacks_has_no_partner_and_the_others_keep_theirs():
    own = positions(quantized())
    other = positions(without_pair(renamed(quantized()), "other/sum_QuantizeLinear_Output"))
    found = match(own, other)
    assert found.missing == ("sum_QuantizeLinear_Output",)
    assert len(found.partners) == 7
    back = match(other, own)
    assert (back.missing, back.others) == ((), ("sum_QuantizeLinear_Output",))


def test_the_quantizer_of_the_image_may_be_absent():
    other = positions(without_pair(quantized(), "image_QuantizeLinear_Output"))
    found = match(positions(quantized()), other)
    assert found.missing == ("image_QuantizeLinear_Output",)
    assert found.partners[CODES] == CODES


def test_a_quantizer_in_front_of_a_relu_is_not_the_one_behind_it():
    """Symmetric codes cannot take a Relu over: tools quantize before and behind it."""
    own = positions(network("Conv x w1 > a", "q a s z > a_q", "Abs a_q_dq > y"))
    signed = ("q a s m > before", "Relu before_dq > r", "q r s m > behind", "Abs behind_dq > y")
    other = positions(network("Conv x w1 > a", *signed))
    found = match(own, other)
    assert (found.partners, found.missing, found.others) == ({"a_q": "behind"}, (), ("before",))


def test_another_network_has_no_partner_but_the_image():
    other = float_graph()
    (stem,) = [node for node in other.graph.node if node.name == "node_stem"]
    next(item for item in stem.attribute if item.name == "strides").ints[:] = [1, 1]
    own = positions(quantized())
    assert partners_in_float(own, "last", positions(other)) == []
    assert partners_in_float(own, "last", positions(float_graph())) == ["last"]


@pytest.mark.parametrize("names", [("a", "b"), ("p", "q")])
def test_branches_that_nothing_tells_apart_go_by_names_that_agree_and_are_never_guessed(names):
    def branches(one, other):
        return positions(network(
            f"Conv x w_{one} > {one}", f"Conv x w_{other} > {other}", f"q {one} s z > {one}_q", f"q {other} s2 z > {other}_q",
            f"Add {other}_q_dq {one}_q_dq > sum", "q sum s z > sum_q", "Relu sum_q_dq > y",
        ))  # fmt: skip

    found = match(branches("b", "a"), branches(*names))
    assert found.partners["sum_q"] == "sum_q"
    if names == ("a", "b"):
        assert (found.partners["a_q"], found.partners["b_q"], found.ambiguous) == ("a_q", "b_q", ())
    else:
        assert (set(found.ambiguous), found.missing) == ({"a_q", "b_q"}, ())
        assert set(found.partners) == {"sum_q"}


def test_branches_of_one_shape_are_told_apart_by_what_reads_them_whatever_their_names_say():
    def branches(first, second):
        return positions(network(
            "Conv x w1 > a", "Conv x w2 > b", "q a s z > a_q", "q b s2 z > b_q",
            f"Concat {first}_q_dq {second}_q_dq > y",
        ))  # fmt: skip

    found = match(branches("a", "b"), branches("b", "a"))
    assert (found.partners, found.ambiguous) == ({"a_q": "b_q", "b_q": "a_q"}, ())


def test_windows_and_channels_tell_branches_apart():
    held = {"w3": np.ones((4, 4, 3, 3), np.float32)}
    first = ("Conv x w1 > a", "Conv x w3 > b pads=1,1,1,1", "q a s z > a_q", "q b s z > b_q", "Add a_q_dq b_q_dq > y")
    second = ("Conv x w3 > p pads=1,1,1,1", "Conv x w1 > r", "q p s2 z > p_q", "q r s2 z > r_q", "Add p_q_dq r_q_dq > y")
    own, other = positions(network(*first, held=held)), positions(network(*second, held=held))
    assert match(own, other).partners == {"a_q": "r_q", "b_q": "p_q"}


@pytest.mark.parametrize(("scale", "partner"), [("s", "first"), ("s2", "second"), ("s3", None)])
def test_of_several_quantizers_of_one_tensor_the_one_of_the_same_meaning_is_taken_and_none_guessed(scale, partner):
    held = {"s3": np.float32(0.3)}
    own = positions(network("Conv x w1 > a", f"q a {scale} z > a_q", "Relu a_q_dq > y", held=held))
    two = ("q a s z > first", "q a s2 z > second", "Relu first_dq > y1", "Relu second_dq > y2")
    other = positions(network("Conv x w1 > a", *two, outputs=("y1", "y2")))
    found = match(own, other)
    assert found.partners.get("a_q") == partner
    assert found.ambiguous == (() if partner else ("a_q",))


def test_quantizers_that_write_the_same_codes_count_as_one():
    own = positions(network("Conv x w1 > a", "q a s z > a_q", "Abs a_q_dq > y"))
    two = ("q a s z > first", "q a s z > second", "Abs first_dq > y", "Abs second_dq > y2")
    beside = positions(network("Conv x w1 > a", *two, outputs=("y", "y2")))
    behind = positions(network("Conv x w1 > a", "q a s z > first", "q first_dq s z > second", "Abs second_dq > y"))
    for other in (beside, behind):
        found = match(own, other)
        assert (found.partners, found.others) == ({"a_q": "first"}, ())
        assert match(other, own).partners == {"first": "a_q", "second": "a_q"}


def test_of_quantizers_that_follow_each_other_with_other_scales_the_first_is_the_partner():
    own = positions(network("Conv x w1 > a", "q a s z > a_q", "Abs a_q_dq > y"))
    other = positions(network("Conv x w1 > a", "q a s z > first", "q first_dq s2 z > second", "Abs second_dq > y"))
    found = match(own, other)
    assert (found.partners, found.others) == ({"a_q": "first"}, ("second",))


def test_a_signed_quantizer_with_a_relu_behind_it_is_no_partner_of_one_whose_range_is_the_relu():
    own = positions(network("Conv x w1 > a", "q a s z > a_q", "Abs a_q_dq > y"))
    other = positions(network("Conv x w1 > a", "q a s m > a_q", "Relu a_q_dq > r", "Abs r > y"))
    found = match(own, other)
    assert (found.partners, found.missing, found.others) == ({}, ("a_q",), ("a_q",))


def test_ways_of_writing_one_operator_are_one_position():
    held = {"g": np.ones(4, np.float32), "v": np.ones((4, 4), np.float32), "c": np.ones(4, np.float32), "n": np.array([-1, 4])}
    own = positions(network(
        "Conv x w1 > a", "q a s z > a_q", "GlobalAveragePool a_q_dq > p", "q p s z > p_q", "Flatten p_q_dq > f",
        "Gemm f v c > t", "q t s z > t_q", "Abs t_q_dq > y", held=held,
    ))  # fmt: skip
    other = positions(network(
        "Conv x w1 > conv", "BatchNormalization conv g g g g > a", "q a s z > a_q", "ReduceMean a_q_dq > p axes=2,3",
        "q p s z > p_q", "Reshape p_q_dq n > f", "MatMul f v > t1", "Add t1 c > t", "q t s z > t_q", "Abs t_q_dq > y",
        held=held,
    ))  # fmt: skip
    found = match(own, other)
    assert (found.partners, found.others) == ({name: name for name in ("a_q", "p_q", "t_q")}, ())


def test_limits_held_as_codes_are_read():
    """Some tools quantize the constants of a Clip as well."""
    held = {"low": np.uint8(0), "six": np.uint8(60), "dw": np.float32(0.1), "dz": np.uint8(0)}
    own = positions(network("Conv x w1 > a", "q a s m > a_q", "Abs a_q_dq > y"))
    limits = ("DequantizeLinear low dw dz > l", "DequantizeLinear six dw dz > h")
    other = network(*limits, "Conv x w1 > a", "Clip a l h > c", "q c s m > c_q", "Abs c_q_dq > y", held=held)
    found = match(own, positions(other))
    assert (found.partners, found.missing) == ({}, ("a_q",))
    assert positions(other).quantized["c_q"].clips == ((0.0, pytest.approx(6.0)),)


def test_the_float_partner_is_between_the_same_relus():
    own, other = positions(float_graph()), positions(renamed(float_graph()))
    assert partners_in_float(own, "head", other) == ["other/head"]
    assert partners_in_float(own, "last", other) == ["other/last"]
    assert partners_in_float(own, "nowhere", other) == []
