"""The probe's literals against the mirror's kernels, and against the real kernels of every processor that can be emulated."""

import numpy as np
import onnx
import onnxruntime
import pytest
from emulation import KERNELS as EMULATED
from emulation import NATIVE, Job, run, why_not
from onnx import TensorProto, helper, numpy_helper

from qcam.common import machine
from qcam.runtime.bundle import PrecisionEntry, Tap
from qcam.runtime.deployed import probe
from qcam.runtime.deployed.probe import judge, name_answer, probe_kernels, questions, saturates_in_pairs
from qcam.runtime.kernels import KERNELS, UNKNOWN
from qcam.runtime.mirror import Mirror

PRECISE = {"session.x64quantprecision": "1"}
#: Positions of (codes, scale, zero point) among an integer operator's inputs, and the float operator.
OPERANDS = {
    "QLinearConv": ("Conv", [(0, 1, 2), (3, 4, 5)], (6, 7)),
    "QGemm": ("Gemm", [(0, 1, 2), (3, 4, 5)], (7, 8)),
    "QLinearAdd": ("Add", [(0, 1, 2), (3, 4, 5)], (6, 7)),
}


def mirrored(question, family):
    """Compute a question by the mirror: its model as a QDQ graph of one float input."""
    graph = onnx.load_from_string(question.model).graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in held.items()}
    first, *others = question.feeds
    constants |= {name: question.feeds[name] for name in others}
    nodes = list(graph.node)
    if nodes[0].op_type in OPERANDS:
        (node,) = nodes
        operator, operands, output = OPERANDS[node.op_type]
        nodes = [
            helper.make_node("DequantizeLinear", [node.input[place] for place in places], [f"real{index}"])
            for index, places in enumerate(operands)
        ]
        reals = [f"real{index}" for index in range(len(operands))]
        extra = list(node.attribute)
        nodes.append(helper.make_node(operator, reals, ["result"], name="it"))
        nodes[-1].attribute.extend(extra)
        nodes.append(helper.make_node("QuantizeLinear", ["result", *(node.input[place] for place in output)], ["y"]))
    scale, zero = nodes[0].input[1:3]
    image = ((question.feeds[first].astype(np.float32) - constants[zero]) * constants[scale]).astype(np.float32)
    nodes.insert(0, helper.make_node("QuantizeLinear", ["image", scale, zero], [first]))
    nodes.append(helper.make_node("DequantizeLinear", ["y", *nodes[-1].input[1:3]], ["logits"]))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "question",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape)],
            [helper.make_empty_tensor_value_info(name) for name in ("logits", "y")],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    tap = Tap("y", "y", "uint8", float(constants[nodes[-1].input[1]]), int(constants[nodes[-1].input[2]]))
    seen = {}
    mirror = Mirror(model, PrecisionEntry("int8", "", "", "logits", tap), arithmetic="integer", family=family)
    mirror.forward(image, lambda name, codes: seen.update({name: codes.cpu().numpy()}))
    return seen["y"].astype(np.uint8)


@pytest.mark.parametrize("family", KERNELS.values(), ids=str)
@pytest.mark.parametrize("name", questions())
def test_the_answers_are_those_of_the_mirrors_kernels(family, name):
    question = questions()[name]
    expected = probe.HOLDS if question.expected is None else question.expected(family)
    assert name_answer(question, mirrored(question, family)) == expected


@pytest.mark.parametrize("name", questions())
def test_answers_differ_from_each_other_in_codes_that_are_no_limits(name):
    answers = list(questions()[name].answers.values())
    codes = answers[0]
    assert len({answer.tobytes() for answer in answers}) == len(answers)
    if questions()[name].expected is not None:
        assert ((codes > 0) & (codes < 255)).mean() > 0.8


def test_the_fused_sum_of_old_processors_is_none():
    """x86 without FMA rounds both products: found on an emulated Sandy Bridge, recomputed here."""
    question = questions()["addition"]
    a, b = (question.feeds[name].astype(np.float32) for name in ("a", "b"))
    left, right = (np.float32(scale) / np.float32(0.0558) for scale in (0.0594, 0.0261))
    offset = np.float32(118) - (left * np.float32(102) + right * np.float32(101))
    codes = np.clip(np.rint(a * left + (b * right + offset)), 0, 255).astype(np.uint8)
    assert name_answer(question, codes) == probe.UNFUSED


@pytest.mark.parametrize("family", KERNELS.values(), ids=str)
def test_a_familys_answers_give_the_family(family):
    asked = questions()
    answers = {name: q.expected(family) if q.expected else probe.HOLDS for name, q in asked.items()}
    found = judge(answers)
    assert (found.name, found.reason, found.wraps_lowest_weight) == (family.name, "", False)
    assert found.family is family
    assert judge(answers | {"weights of -128": probe.WRAPS}).wraps_lowest_weight is True
    assert judge(answers | {"weights of -128": "failed (x)"}).wraps_lowest_weight is None


def test_answers_that_fit_no_family_are_unknown_and_told():
    answers = dict(probe_kernels(PRECISE).answers)
    found = judge(answers | {"depthwise convolution": "neither [7]", "addition": probe.UNFUSED})
    assert found.name == UNKNOWN
    assert found.family is None
    assert "depthwise convolution: neither [7]" in found.reason
    assert f"addition: {probe.UNFUSED}" in found.reason
    assert found.to_json()["reason"] == found.reason


def test_an_answer_outside_shows_its_codes():
    question = questions()["depthwise convolution"]
    assert name_answer(question, np.full((1, 16, 1, 1), 9, np.uint8)) == "neither [9]"


def test_a_kernel_that_fails_is_an_answer(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such kernel\n")

    probe._probe.cache_clear()
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    found = probe_kernels({"some": "entry"})
    monkeypatch.undo()
    probe._probe.cache_clear()
    assert found.name == UNKNOWN
    assert found.answers["matrix product"] == "failed (no such kernel)"
    assert found.wraps_lowest_weight is None


def test_the_precise_kernels_never_saturate():
    assert saturates_in_pairs(PRECISE) is False
    assert saturates_in_pairs() is (probe_kernels().answers["convolution"] == probe.PAIRS)


def test_this_machine_is_of_a_known_family():
    features = machine.cpu_features()
    if not features:
        pytest.skip("this system does not tell the processor's features")
    if "avx512_vnni" in features:
        assert probe_kernels().name == "vnni"
    elif "asimd" in features:
        assert probe_kernels().name == "arm64"
    assert probe_kernels() is probe_kernels({})


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, PRECISE], ids=["plain", "precise"])
@pytest.mark.parametrize("kernel", [NATIVE, *EMULATED])
def test_real_kernels_answer_as_their_family(kernel, config):
    if reason := why_not(kernel):
        pytest.skip(reason)
    asked = questions()
    results = run(kernel, [Job(question.model, question.feeds, config) for question in asked.values()])
    codes = (result.outputs["y"] for result in results)
    found = judge({name: name_answer(question, code) for (name, question), code in zip(asked.items(), codes, strict=True)})
    if kernel == NATIVE:
        assert found == probe_kernels(config)
        return
    if kernel == "sandybridge":
        assert found.name == UNKNOWN
        assert found.reason.endswith(f"nearest is vnni, but for addition: {probe.UNFUSED}")
    elif kernel == "avx2" and config:
        assert found.name == "vnni"
    else:
        assert found.name == kernel.removesuffix("-nodot")
    assert found.wraps_lowest_weight is (kernel == "arm64-nodot")
