"""What a profile says about the nodes of a file, by hand; and what real sessions say."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import ProviderError
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.filenodes import FileNodes
from qcam.runtime.deployed.placement import Coverage, NodePlacement, Placement, percent, read_profile
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import disagreements, find_groups

CPU = "CPUExecutionProvider"

#: Multiply-accumulates of `network` for one image of 3 × 8 × 8, by hand.
MACS = {
    "stem": 6 * 4 * 4 * (3 * 3 * 3),  # stride 2
    "depthwise": 6 * 4 * 4 * (1 * 3 * 3),
    "grouped": 10 * 4 * 4 * (3 * 1 * 1),
    "up": 10 * 4 * 4 * (2 * 2 * 2),  # transposed: every input value goes to 2 channels of 2 × 2
    "classifier": 5 * 128,
    "projection": 7 * 5,
}


def network(*, named: bool = True) -> onnx.ModelProto:
    """One node of every kind that multiplies; weights partly behind Constant, Transpose and DequantizeLinear nodes."""
    generator = np.random.default_rng(0)
    weights = {
        "stem_w": (6, 3, 3, 3), "depthwise_w": (6, 1, 3, 3), "grouped_w": (10, 3, 1, 1), "up_w": (10, 2, 2, 2),
        "classifier_w": (5, 128), "projection_w": (7, 5),
    }  # fmt: skip
    initializers = [
        numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()
    ]
    held = numpy_helper.from_array(generator.integers(-9, 9, (6, 3, 3, 3)).astype(np.int8), "stem_codes")
    initializers = [held, *initializers[1:], numpy_helper.from_array(np.float32(0.1), "scale")]
    nodes = [
        ("DequantizeLinear", "stem_dq", ["stem_codes", "scale"], "stem_w", {}),
        ("Conv", "stem", ["x", "stem_w"], "a", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Relu", "relu", ["a"], "b", {}),
        ("Conv", "depthwise", ["b", "depthwise_w"], "c", {"group": 6, "pads": [1, 1, 1, 1]}),
        ("Conv", "grouped", ["c", "grouped_w"], "d", {"group": 2}),
        ("ConvTranspose", "up", ["d", "up_w"], "e", {"strides": [2, 2]}),
        ("Flatten", "flat", ["e"], "f", {}),
        ("Gemm", "classifier", ["f", "classifier_w"], "g", {"transB": 1}),
        ("Transpose", "turn", ["projection_w"], "turned", {}),
        ("MatMul", "projection", ["g", "turned"], "y", {}),
    ]
    graph = helper.make_graph(
        [
            helper.make_node(operator, inputs, [output], name=name if named else "", **attributes)
            for operator, name, inputs, output, attributes in nodes
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def event(name, kernel, inputs=(), outputs=(), provider=CPU, suffix="_kernel_time"):
    arguments = {"op_name": kernel, "provider": provider}
    if inputs:
        arguments |= {"input_type_shape": [dict([pair]) for pair in inputs]}
    if outputs:
        arguments |= {"output_type_shape": [dict([pair]) for pair in outputs]}
    return {"cat": "Node", "name": name + suffix, "args": arguments}


@pytest.fixture
def read(tmp_path):
    def reader(*events, model=None, expected=6, fallback=""):
        path = tmp_path / "profile.json"
        path.write_text(json.dumps([{"cat": "Session", "name": "model_run"}, *events]))
        return read_profile(path, expected, fallback, None if model is None else FileNodes(model))

    return reader


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ({"traceEvents": []}, "the whole is an object and has to be a list"),
        ([{"cat": "Node", "name": 3}], r"\[0\].name is a whole number and has to be text"),
        ([{"cat": "Node", "name": "a_kernel_time"}], "'a_kernel_time': the whole is missing and has to be an object"),
        ([{"cat": "Node", "name": "a_kernel_time", "args": {"provider": CPU}}], "'a_kernel_time': op_name is missing"),
        ([event("a", "Conv", [("float", [1, "3"])])], r"input_type_shape\[0\].float\[1\] is text and has to be a whole number"),
    ],
)
def test_what_is_no_profile_is_refused_by_field(tmp_path, events, words):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    with pytest.raises(ProviderError, match=rf"^ONNX Runtime's profile of this session.*{words}"):
        read_profile(path, 0, "")


def real(model, tmp_path, **options):
    """Run a model once in ONNX Runtime and read the profile."""
    settings = onnxruntime.SessionOptions()
    settings.enable_profiling = True
    settings.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=[CPU])
    session.run(None, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    from pathlib import Path

    return read_profile(Path(session.end_profiling()), 6, "", FileNodes(model))


QUIET = (
    event("Transpose", "Transpose", [("uint8", [1, 3, 8, 8])], [("uint8", [1, 8, 8, 3])]),
    event("stem_token_17", "QLinearConv", [("uint8", [1, 8, 8, 3])], [("uint8", [1, 4, 4, 6])]),
    event("stem_token_17", "QLinearConv", suffix="_fence_before"),
    event("fused depthwise", "FusedConv", [("float", [1, 6, 4, 4])], [("float", [1, 6, 4, 4])]),
    event("d_nchwc", "Conv", [("float", [1, 8, 4, 4])], [("float", [1, 16, 4, 4])]),
    event("up", "ConvTranspose", [("float", [1, 10, 4, 4])], [("float", [1, 2, 8, 8])]),
    event("classifier", "QGemm", [("uint8", [1, 128])], [("float", [1, 5])]),
    event("projection/MatMulAddFusion", "Gemm", [("float", [1, 5])], [("float", [1, 7])]),
)


def test_kernels_are_traced_to_the_nodes_of_the_file(read):
    placement = read(*QUIET, model=network())
    assert placement.nodes == (
        NodePlacement("Transpose", "", "Transpose", CPU, True, 0),
        NodePlacement("stem", "Conv", "QLinearConv", CPU, True, MACS["stem"]),
        NodePlacement("depthwise", "Conv", "FusedConv", CPU, False, MACS["depthwise"]),
        NodePlacement("grouped", "Conv", "Conv", CPU, False, MACS["grouped"]),  # not 16 channels: they fill the last block
        NodePlacement("up", "ConvTranspose", "ConvTranspose", CPU, False, MACS["up"]),
        NodePlacement("classifier", "Gemm", "QGemm", CPU, True, MACS["classifier"]),
        NodePlacement("projection", "MatMul", "Gemm", CPU, False, MACS["projection"]),
    )
    assert placement.kernel_of["stem"] == "QLinearConv"
    assert "Transpose" not in placement.kernel_of
    assert (placement.integer_kernels, placement.float_kernels, placement.count("QLinearConv")) == (2, 4, 1)


def test_coverage_counts_kernels_and_multiply_accumulates(read):
    coverage = read(*QUIET, model=network()).coverage
    assert coverage.count == pytest.approx(2 / 6)
    assert coverage.total_macs == sum(MACS.values())
    assert coverage.macs == pytest.approx((MACS["stem"] + MACS["classifier"]) / sum(MACS.values()))
    said = read(*QUIET, model=network()).describe()
    assert said == "mixed: 2 of 6 kernels integer, 54.9 % of 5.89 k multiply-accumulates, the rest float"


def test_without_node_names_only_kernels_are_counted(read):
    events = [
        event("QuantizeLinear_106", "QuantizeLinear", [("float", [1, 3, 8, 8])], [("uint8", [1, 3, 8, 8])]),
        event("_token_11", "QLinearConv", [("uint8", [1, 8, 8, 3])], [("uint8", [1, 4, 4, 6])]),
        event("Gemm_7", "Gemm", [("float", [1, 128])], [("float", [1, 5])]),
    ]
    placement = read(*events, model=network(named=False), expected=2)
    assert [node.operator for node in placement.nodes] == ["", "", ""]
    assert placement.coverage == Coverage(0.5, None, None)
    assert dict(placement.kernel_of) == {}
    assert placement.describe() == "mixed: 1 of 2 kernels integer, the rest float"


def test_a_name_that_two_nodes_share_tells_nothing(read):
    model = network()
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = "stem"
    placement = read(*QUIET[:2], model=model, expected=1)
    assert [node.operator for node in placement.nodes] == ["", ""]


def test_a_name_that_only_looks_like_the_runtimes_is_the_files_own(read):
    model = network()
    model.graph.node[1].name = "stem_token_17"
    model.graph.node[3].name = "stem"
    assert read(*QUIET[:2], model=model).nodes[1].name == "stem_token_17"


def test_a_batch_normalization_that_runs_as_a_convolution_is_none(read):
    """As DenseNet's in float: ONNX Runtime makes a depthwise 1 × 1 convolution of it."""
    model = network()
    model.graph.node[2].CopyFrom(helper.make_node("BatchNormalization", ["a", "s", "t", "m", "v"], ["b"], name="norm"))
    model.graph.node.insert(3, helper.make_node("BatchNormalization", ["b", "s", "t", "m", "v"], ["b2"], name="norm2"))
    model.graph.node[4].input[0] = "b2"
    shape = [("float", [1, 8, 4, 4])]
    placement = read(event("b2_bn_nchwc", "Conv", shape, shape), event("c_nchwc", "Conv", shape, shape), model=model)
    assert [(node.name, node.operator) for node in placement.nodes] == [
        ("norm2", "BatchNormalization"), ("depthwise", "Conv"),
    ]  # fmt: skip
    assert (placement.integer_kernels, placement.float_kernels) == (0, 1)
    assert placement.coverage.total_macs == MACS["depthwise"]


def test_what_was_appended_to_a_convolution_is_the_convolution(read):
    shape = [("float", [1, 8, 4, 4])]
    (node,) = read(event("b_nchwc", "Conv", shape, shape), model=network()).nodes
    assert (node.name, node.operator, node.macs) == ("stem", "Conv", MACS["stem"])


def test_nothing_visible_is_said(read):
    placement = read(event("TRTKernel_1", "TRTKernel_graph_0", provider="TensorrtExecutionProvider"), model=network())
    assert placement.coverage == Coverage(None, None, None)
    assert "compiled by the provider (6 Conv/Gemm/MatMul inside" in placement.describe()
    assert placement.to_json()["integer_coverage"] == {"count": None, "macs": None}


def test_what_is_partly_visible_is_said(read):
    placement = read(QUIET[1], model=network())
    assert placement.describe().endswith("; 5 more not visible in the profile")


def test_a_placement_of_counts_alone_still_tells_its_share():
    placement = Placement({("QLinearConv", CPU): 3, ("Conv", CPU): 1}, 4)
    assert placement.coverage == Coverage(0.75, None, None)


@pytest.mark.parametrize(("share", "text"), [(0, "0 %"), (1, "100 %"), (0.5, "50.0 %"), (1e-9, "0.1 %"), (1 - 1e-9, "99.9 %")])
def test_shares_never_round_to_nothing_or_all(share, text):
    assert percent(share) == text


@pytest.mark.parametrize("named", [True, False])
def test_real_multiply_accumulates_are_those_by_hand(tmp_path, named):
    placement = real(network(named=named), tmp_path)
    assert (placement.integer_kernels, placement.float_kernels) == (0, 6)
    if named:
        found = {node.name: node.macs for node in placement.nodes if node.computes}
        assert found == MACS
        assert placement.coverage == Coverage(0, 0, sum(MACS.values()))


def test_the_tiny_networks_kernels_are_what_fusion_foretells(tiny_bundle):
    """32 × 32: a stem of stride 2, a convolution, a head of stride 2, a classifier."""
    macs = 8 * 16 * 16 * 27 + 8 * 16 * 16 * 72 + 16 * 8 * 8 * 72 + 10 * 16
    placements = {name: DeployedModel(tiny_bundle, name, SessionSettings()).placement for name in ("f32", "int16", "int8")}
    assert [placements[name].coverage for name in placements] == [
        Coverage(0, 0, macs), Coverage(0, 0, macs), Coverage(1, 1, macs),
    ]  # fmt: skip
    graph = Graph(load_onnx(tiny_bundle, "int8"))
    assert disagreements(find_groups(graph), graph, placements["int8"].kernel_of) == []
    assert placements["int8"].describe() == "integer kernels (4 of 4, 100 % of 277 k multiply-accumulates)"
    assert placements["int16"].describe().startswith("float arithmetic between Q and DQ (0 of 4 integer kernels")
    value = placements["int8"].to_json(nodes=True)
    assert json.loads(json.dumps(value)) == value
    assert [node["kernel"] for node in value["nodes"]].count("QLinearConv") == 3
    assert {"name", "operator", "kernel", "provider", "integer", "macs"} == set(value["nodes"][0])
    assert "nodes" not in placements["int8"].to_json()


def test_kernels_that_the_runtime_added_have_names_without_its_counters(read):
    shape = [("float", [1, 6, 4, 4])]
    events = [
        event(name, kernel, shape, shape)
        for name, kernel in (
            ("ReorderOutput_token_7", "ReorderOutput"), ("ReorderOutput", "ReorderOutput"), ("b_nchwc_token_3", "Conv"),
            ("ReorderOutput_token_5", "ReorderOutput"), ("_token_11", "QLinearConv"), ("_token_4", "QLinearConv"),
            ("x_DequantizeLinear/duplicated_token_9", "DequantizeLinear"), ("Conv_8", "Conv"), ("stem", "Conv"),
            ("stem_2_token_1_token_2", "Conv"),
        )
    ]  # fmt: skip
    model = network()
    model.graph.node[1].name = ""
    model.graph.node[3].name = "QLinearConv_2"
    events.append(event("QLinearConv_2", "Conv", shape, shape))
    assert [node.name for node in read(*events, model=model).nodes] == [
        "ReorderOutput", "ReorderOutput_2", "b_nchwc", "ReorderOutput_3", "QLinearConv", "QLinearConv_3",
        "x_DequantizeLinear/duplicated", "Conv_8", "stem", "stem_2", "QLinearConv_2",
    ]  # fmt: skip
    assert read(*events, model=model).kernel_of == {"b_nchwc": "Conv", "QLinearConv_2": "Conv"}


@pytest.mark.parametrize("named", [True, False])
def test_placements_of_two_processes_are_equal_whatever_was_opened_before(seeded_bundle, tmp_path, named):
    """A network with kernels that ONNX Runtime adds, of which it numbers some through all sessions of a process."""
    bundle = seeded_bundle("timm:mobilenetv3_small_050")
    code = (
        "import sys, onnx; from pathlib import Path\n"
        "from qcam.common.files import readable_json\n"
        "from qcam.runtime.bundle import load_bundle\n"
        "from qcam.runtime.deployed import DeployedModel, SessionSettings\n"
        "bundle = load_bundle(Path(sys.argv[1]))\n"
        "for precision in ['f32', 'int8', 'f32', 'int16'][: int(sys.argv[2])]:\n"
        "    DeployedModel(bundle, precision, SessionSettings())\n"
        "for name in ('f32', 'int16', 'int8'):\n"
        "    file = Path(sys.argv[3]) / f'{name}.onnx'\n"
        "    placement = DeployedModel(bundle, name, SessionSettings(), file=file).placement\n"
        "    print(readable_json(placement.to_json(nodes=True)))\n"
    )
    for entry in bundle.precisions:
        model = load_onnx(bundle, entry.name)
        if not named:
            for node in model.graph.node:
                node.ClearField("name")
        onnx.save(model, tmp_path / entry.file)
    said = [
        subprocess.run(
            [sys.executable, "-c", code, bundle.folder, str(before), tmp_path], capture_output=True, check=True
        ).stdout
        for before in (0, 1, 4)
    ]
    assert platform.machine() not in ("x86_64", "AMD64") or b"ReorderOutput_2" in said[0]  # what is numbered does occur
    assert b"_token_" not in said[0]
    assert said[0] == said[1] == said[2]


def test_keys_of_threads_that_had_nothing_to_do_may_stand_twice(tmp_path):
    """ONNX Runtime writes one for each; with more threads than work there are several."""
    path = tmp_path / "profile.json"
    idle = '"thread::id of a non-executing thread": {"core": -1}'
    stats = f'"thread_scheduling_stats": {{"sub_threads": {{{idle}, {idle}}}}}'
    ran = '"op_name": "Conv", "provider": "CPUExecutionProvider"'
    path.write_text(f'[{{"cat": "Node", "name": "c_kernel_time", "dur": 1, "ts": 0, "args": {{{ran}, {stats}}}}}]')
    assert [node.kernel for node in read_profile(path, 1, "").nodes] == ["Conv"]


def test_a_profile_of_cuda_tells_what_the_cpu_did_and_what_was_copied():
    """Made by hand after the format of ONNX Runtime's profiles: none has been recorded on a GPU yet."""
    profile = Path(__file__).parent / "profiles" / "cuda_int16_made_by_hand.json"
    assert "MADE BY HAND" in profile.read_text()
    found = read_profile(profile, 1, "", FileNodes(network()))
    cuda = "CUDAExecutionProvider"
    assert found.kernels == {
        ("Conv", cuda): 1, ("Relu", cuda): 1, ("MemcpyToHost", cuda): 2, ("MemcpyFromHost", cuda): 1,
        ("QuantizeLinear", CPU): 2, ("DequantizeLinear", CPU): 1,
    }  # fmt: skip
    assert (found.providers, found.quantizers_on_cpu, found.copies) == ({cuda, CPU}, 3, 3)
    assert found.describe().endswith("; 3 Q/DQ on CPU, 3 copies")
    assert found.describe().startswith("float arithmetic between Q and DQ (0 of 1 integer kernels")
    told = found.to_json(nodes=True)
    assert (told["quantizers_on_cpu"], told["copies"]) == (3, 3)
    # Copies have names that do not change from run to run, and are nobody's node.
    assert [(node.name, node.operator) for node in found.nodes if "Memcpy" in node.kernel] == [
        ("Memcpy", ""),
        ("Memcpy_2", ""),
        ("Memcpy_3", ""),
    ]
    again = Placement.from_json(json.loads(json.dumps(told)), "placement.json")
    assert again.describe() == found.describe()


def test_on_the_cpu_alone_nothing_is_said_of_copies(tiny_bundle):
    found = DeployedModel(tiny_bundle, "int16", SessionSettings()).placement
    assert (found.quantizers_on_cpu, found.copies) == (0, 0)
    assert "on CPU" not in found.describe()
