"""What CUDA would leave to the CPU: real graphs against figures worked out beforehand, small ones by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import ProviderError
from qcam.runtime.deployed.partition import foretell, offered, partition

#: Nodes on CUDA and on the CPU of EfficientNet-Lite0's files, as they are: desk-checked against ONNX Runtime's sources.
AS_THEY_ARE = {"f32": (94, 0), "int8": (242, 50), "int16": (61, 231)}
#: The same with int32 biases folded, as qcam's sessions on CUDA are made.
FOLDED = {"f32": (94, 0), "int8": (242, 0), "int16": (61, 181)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(AS_THEY_ARE))
def test_the_partition_of_efficientnet_lite0_is_what_was_worked_out(lite0_bundle, precision):
    as_it_is = foretell(lite0_bundle.path(precision), folded=False)
    assert (as_it_is.on_cuda, as_it_is.on_cpu) == AS_THEY_ARE[precision]
    assert as_it_is.quantizers_on_cpu == as_it_is.on_cpu  # nothing else stays behind
    folded = foretell(lite0_bundle.path(precision))
    assert (folded.on_cuda, folded.on_cpu) == FOLDED[precision]


@pytest.mark.slow
def test_int16_copies_every_activation_down_and_up(lite0_bundle):
    found = foretell(lite0_bundle.path("int16"))
    assert (len(found.down), found.copies) == (60, 180)
    assert found.describe().startswith(
        "181 of its Q/DQ run on the CPU, with 180 copies for each batch (at least 27.8 MB down and "
    )


def test_nothing_of_the_tiny_networks_int8_is_left_behind(tiny_bundle):
    found = foretell(tiny_bundle.path("int8"))
    assert (found.on_cpu, found.copies, found.quantizers_on_cpu) == (0, 0, 0)
    assert foretell(tiny_bundle.path("int8"), folded=False).on_cpu == 4  # one bias each of three Conv and a Gemm


def test_a_file_that_cannot_be_loaded_is_named(tiny_bundle, tmp_path):
    whole = offered(tiny_bundle.path("f32"))
    whole.graph.node[0].op_type = "Nonsense"
    (tmp_path / "x.onnx").write_bytes(whole.SerializeToString())
    with pytest.raises(ProviderError, match=r"ONNX Runtime cannot load .*x\.onnx"):
        foretell(tmp_path / "x.onnx")


def graph(*nodes, inputs=(("x", TensorProto.FLOAT, ["n", 3, 4, 4]),), outputs=(), known=(), held=()):
    """A graph by hand; nodes as (operator, inputs, output, attributes)."""
    made = [
        helper.make_node(operator, read, [written], name=written, **attributes) for operator, read, written, attributes in nodes
    ]
    told = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs, known)]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in held]
    return helper.make_model(helper.make_graph(made, "by hand", told[0], told[1], held, value_info=told[2]))


def placed(found):
    return {node.name: node.on_cuda for node in found.nodes}


@pytest.mark.parametrize(
    ("zero", "there"), [(np.uint8(3), True), (np.int8(0), True), (np.uint16(3), False), (np.int16(0), False)]
)
def test_quantizers_are_placed_by_the_type_of_their_codes(zero, there):
    found = partition(
        graph(
            ("Relu", ["x"], "a", {}),
            ("QuantizeLinear", ["a", "scale", "zero"], "q", {}),
            ("DequantizeLinear", ["q", "scale", "zero"], "d", {}),
            ("Relu", ["d"], "y", {}),
            known=[("a", TensorProto.FLOAT, ["n", 3, 4, 4])],
            held=[("scale", np.float32(0.1)), ("zero", zero)],
        )
    )
    assert placed(found) == {"a": True, "q": there, "d": there, "y": True}
    # One image of 3 × 4 × 4 floats goes down to be quantized, and comes up again.
    assert (found.down, found.up) == (((), ()) if there else ((192,), (192,)))


def test_a_tensor_that_two_nodes_of_the_cpu_read_is_copied_once():
    found = partition(
        graph(
            ("Relu", ["x"], "a", {}),
            ("Acos", ["a"], "b", {}),  # CUDA has none
            ("Acos", ["a"], "c", {}),
            ("Add", ["b", "c"], "y", {}),
            known=[(name, TensorProto.FLOAT, ["n", 3, 4, 4]) for name in "abc"],
        )
    )
    assert placed(found) == {"a": True, "b": False, "c": False, "y": True}
    assert (found.down, found.up, found.quantizers_on_cpu) == ((192,), (192, 192), 0)
    assert found.describe().startswith("0 of its Q/DQ run on the CPU, and 2 other nodes, with 3 copies")


def test_an_input_that_both_sides_read_is_copied_up():
    found = partition(graph(("Acos", ["x"], "a", {}), ("Relu", ["x"], "b", {})))
    assert (found.down, found.up) == ((), (192,))


def test_shapes_are_computed_on_the_cpu_and_copy_nothing():
    found = partition(
        graph(
            ("Relu", ["x"], "a", {}),
            ("Shape", ["a"], "shape", {}),
            ("Gather", ["shape", "first"], "n", {}),
            ("Concat", ["n", "rest"], "wanted", {"axis": 0}),
            ("Reshape", ["a", "wanted"], "y", {}),
            held=[("first", np.array([0])), ("rest", np.array([-1]))],
        )
    )
    assert placed(found) == {"a": True, "shape": True, "n": False, "wanted": False, "y": True}
    assert found.copies == 0


def test_an_operator_that_nobody_knows_is_left_to_the_cpu():
    whole = graph(("Relu", ["x"], "y", {}))
    whole.graph.node[0].domain = "org.somebody"
    assert placed(partition(whole)) == {"y": False}


def test_a_size_that_is_not_known_is_said_to_be_a_lower_bound():
    found = partition(graph(("Relu", ["x"], "a", {}), ("Acos", ["a"], "y", {})))
    assert found.down == (None,)
    assert "(at least 0 MB down and 0 MB up per image)" in found.describe()
