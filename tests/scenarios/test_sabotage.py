"""A deployed file that is not the mirrored one: one number changed, and the check names the operator that it belongs to."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from qcam.common.files import sha256_file
from qcam.runtime.bundle import load_onnx
from qcam.runtime.graph import Graph

PLACES = ("first", "middle", "last")
KINDS = ("activation scale", "activation zero point", "bias code", "weight code", "weight scale")


class Sabotage:
    """A copy of a bundle's int8 file in which numbers can be changed."""

    def __init__(self, bundle):
        self.model = load_onnx(bundle, "int8")
        self.graph = Graph(self.model)
        nodes = self.model.graph.node
        self.operators = [node for node in nodes if node.op_type in ("Conv", "Gemm")]
        live = self.graph.downstream(self.graph.image_input)
        self.quantizers = [node for node in nodes if node.op_type == "QuantizeLinear" and node.output[0] in live]

    def change(self, kind, place):
        """Change one number; return the node that must be named."""
        found = self.quantizers if kind.startswith("activation") else self.operators
        node = found[{"first": 0, "middle": len(found) // 2, "last": -1}[place]]
        if kind.startswith("activation"):
            if kind == "activation scale":
                self.set(node.input[1], lambda scale: scale * np.float32(1.01))
            else:
                self.set(node.input[2], lambda zero: zero + 1 if zero < 255 else zero - 1)
            return self.graph.producer.get(node.input[0], node)  # photographs come out of no operator but the quantizer
        weight = self.graph.producer[node.input[1]]
        bias = self.graph.producer[node.input[2]]
        channel = self.channel(node)
        if kind == "bias code":
            self.set(bias.input[0], lambda codes: codes + 64, channel)
        elif kind == "weight scale":
            self.set(weight.input[1], lambda scale: scale * np.float32(1.01), channel)
        else:  # the largest weight of the channel, one step nearer to zero
            codes = self.array(weight.input[0])
            at = (channel, *np.unravel_index(np.abs(codes[channel].astype(int)).argmax(), codes[channel].shape))
            self.set(weight.input[0], lambda code: code - np.sign(code), at)
        return node

    def channel(self, node, share=0.5):
        """Return an output channel, by the rank of its weights' scale: a dead channel has next to none."""
        scales = self.array(self.graph.producer[node.input[1]].input[1])
        return int(np.argsort(scales, kind="stable")[int(share * (scales.size - 1))])

    def array(self, name):
        return np.array(self.graph.array(name))

    def set(self, name, change, at=()):
        values = self.array(name)
        before = values[at].copy()
        values[at] = change(before)
        assert values[at] != before
        self.graph.initializers[name].CopyFrom(numpy_helper.from_array(values, name))

    def save(self, folder):
        path = folder / "changed.onnx"
        onnx.save(self.model, path)
        return path


def assert_named(done, node, *, meaning=False):
    """Hold the operator to blame against the one that was changed; with `meaning`, its codes stand for something else."""
    assert done.code == 1, done.err
    first = done.first["first_difference"]
    # A float island is named by all its operators, the last one's name behind them.
    operators, name = first["operator"].removesuffix(" (float)").split(" ")
    assert (operators.split("+")[0], name) == (node.op_type, node.name)
    # Codes of another scale or zero point are not compared: that they mean something else is what differs.
    how = "the first that differs: its codes mean" if meaning else "fed with the deployed codes"
    named = f"{first['operator']} → {first['tensor']}, {how}"
    assert [tensor["name"] for tensor in done.first["values"]] == ([first["tensor"]] if meaning else [])
    assert named in done.out
    assert f"does not hold: {done.first['model']} int8" in done.err
    assert named in done.err


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_number_is_found_and_its_operator_named(
    tiny_bundle, some_photographs, known_cpu, check, tmp_path, kind, place
):
    sabotage = Sabotage(tiny_bundle)
    node = sabotage.change(kind, place)
    file = sabotage.save(tmp_path)
    done = check(tiny_bundle.folder, "--deployed", file, "--every-tensor", "--images", some_photographs)
    if kind == "activation zero point" and done.code == 0:
        # Codes that are one higher and mean one step less stand for the same values, unless a Relu was their range's lower end.
        assert place != "middle"
        assert done.first["figures"]["logits"] == done.first["values_within_one_step"] == 1.0
        assert any(said.startswith("1 of ") and "zero point or type in" in said for said in done.first["remarks"])
        return
    assert_named(done, node, meaning=kind.startswith("activation"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "place"), list(zip(KINDS, PLACES * 2, strict=False)))
def test_one_changed_number_of_a_trained_network_is_found_and_its_operator_named(
    lite0_bundle, some_photographs, known_cpu, check, tmp_path, kind, place
):
    sabotage = Sabotage(lite0_bundle)
    node = sabotage.change(kind, place)
    file = sabotage.save(tmp_path)
    done = check(lite0_bundle.folder, "--deployed", file, "--every-tensor", "--images", some_photographs, "--limit", 2)
    assert_named(done, node, meaning=kind.startswith("activation"))


@pytest.mark.slow
def test_a_bias_code_is_found_where_its_step_is_smallest(lite0_bundle, known_cpu, check, tmp_path):
    """64 steps of a bias move a linear convolution's result by 64 · x_scale · w_scale / y_scale, here 0.02 codes.

    That flips only the results that lie so near to the edge between two codes: some of 20 photographs' 980. Where a channel's
    results are all clamped to one code (ReLU6), or its scale is next to nothing (a dead filter), no image can show the change,
    because the file computes the same all the same: `test_what_changes_no_result_holds`.
    """
    sabotage = Sabotage(lite0_bundle)
    consumers = sabotage.graph.consumers

    def step(node):
        w = sabotage.array(sabotage.graph.producer[node.input[1]].input[1])
        x = sabotage.array(sabotage.graph.producer[node.input[0]].input[1])
        y = sabotage.array(consumers[node.output[0]][0].input[1])
        return 64 * float(x * w.min() / y)

    linear = [node for node in sabotage.operators if node.op_type == "Conv" and not node.output[0].startswith("hardtanh")]
    node = min(linear, key=step)
    assert len(linear) > 10
    assert step(node) < 0.03
    bias = sabotage.graph.producer[node.input[2]].input[0]
    sabotage.set(bias, lambda code: code + 64, sabotage.channel(node, share=0))
    done = check(lite0_bundle.folder, "--deployed", sabotage.save(tmp_path), "--every-tensor")
    assert_named(done, node)


def test_what_changes_no_result_holds(tiny_bundle, some_photographs, known_cpu, check, tmp_path):
    """A filter without weights and with a bias far below zero: 64 steps more are still clamped to code 0."""
    sabotage = Sabotage(tiny_bundle)
    node = sabotage.operators[0]  # in front of a ReLU
    bias = sabotage.graph.producer[node.input[2]].input[0]
    sabotage.set(bias, lambda code: np.int32(-(2**28)), 3)
    dead = sabotage.save(tmp_path)
    assert check(tiny_bundle.folder, "--deployed", dead, "--images", some_photographs).code == 1
    # The bundle's own file becomes the dead one, the deployed file has 64 more.
    folder = tmp_path / "dead"
    shutil.copytree(tiny_bundle.folder, folder)
    shutil.copy(dead, folder / "int8.onnx")
    entries = tuple(
        replace(entry, sha256=sha256_file(folder / entry.file)) if entry.name == "int8" else entry
        for entry in tiny_bundle.precisions
    )
    (folder / "bundle.json").write_text(replace(tiny_bundle, folder=folder, precisions=entries).manifest_text())
    sabotage.set(bias, lambda code: code + 64, 3)
    done = check(folder, "--deployed", sabotage.save(tmp_path), "--every-tensor", "--images", some_photographs)
    assert done.code == 0, done.err
    assert done.first["figures"]["codes"] == done.first["figures"]["logits"] == 1.0


@pytest.mark.parametrize("bundle", ["tiny_bundle", pytest.param("lite0_bundle", marks=pytest.mark.slow)])
def test_the_unchanged_copy_holds(bundle, request, some_photographs, known_cpu, check, tmp_path):
    bundle = request.getfixturevalue(bundle)
    copy = Sabotage(bundle).save(tmp_path)
    done = check(bundle.folder, "--deployed", copy, "--every-tensor", "--images", some_photographs, "--limit", 2)
    assert done.code == 0, done.err
    assert done.first["first_difference"] is None
    assert all(tensor["equal_fed_with_deployed_codes"] == 1.0 for tensor in done.first["tensors"])


def test_a_scale_behind_the_last_codes_is_found(export_tiny, some_photographs, known_cpu, check, tmp_path):
    """Only the last DequantizeLinear reads the changed scale: every code is equal, the logits alone tell."""
    sabotage = Sabotage(export_tiny(tmp_path / "tiny"))
    reader = sabotage.graph.consumers[sabotage.quantizers[-1].output[0]][0]
    scale = numpy_helper.from_array(sabotage.array(reader.input[1]) * np.float32(1.01), "other_scale")
    sabotage.model.graph.initializer.append(scale)
    reader.input[1] = "other_scale"
    done = check(tmp_path / "tiny", "--deployed", sabotage.save(tmp_path), "--every-tensor", "--images", some_photographs)
    assert_named(done, sabotage.operators[-1])
    assert done.first["figures"]["codes"] == 1.0


@pytest.mark.parametrize("amount", [0.01, float("nan")])
def test_a_changed_float_tail_is_found_by_its_logits(tiny_bundle, some_photographs, check, tmp_path, amount):
    """No CAM depends on the last bias, and f32 has no codes."""
    model = load_onnx(tiny_bundle, "f32")
    graph = Graph(model)
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    values = np.array(graph.array(gemm.input[2]))
    values[3] += np.float32(amount)
    graph.initializers[gemm.input[2]].CopyFrom(numpy_helper.from_array(values, gemm.input[2]))
    onnx.save(model, tmp_path / "changed.onnx")
    arguments = (tiny_bundle.folder, "--images", some_photographs, "--precision", "f32", "--deployed")
    done = check(*arguments, tmp_path / "changed.onnx")
    assert done.code == 1
    assert "logits_close = 0, at least 1 wanted" in done.err
    assert "operators cannot be told apart" in done.err
    assert check(*arguments, tiny_bundle.path("f32")).code == 0


@pytest.mark.parametrize("kind", ["activation scale", "activation zero point"])
def test_a_changed_tap_leads_no_kernel_astray(export_tiny, known_cpu, check, tmp_path, kind):
    """The deployed tap's activation leads beyond the bundle's codes; the tail behind it looks codes up in tables."""
    bundle = export_tiny(tmp_path / "stem", cam_layer="stem")
    sabotage = Sabotage(bundle)
    tap = bundle.precision("int8").tap.output
    (quantizer,) = [node for node in sabotage.quantizers if node.output[0] == tap]
    if kind == "activation scale":
        sabotage.set(quantizer.input[1], lambda scale: scale * np.float32(2))
    else:
        sabotage.set(quantizer.input[2], lambda zero: zero + 30)
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (32, 32, 3))  # beyond any photograph
    (tmp_path / "noise").mkdir()
    Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "noise" / "noise.png")
    done = check(bundle.folder, "--deployed", sabotage.save(tmp_path), "--every-tensor", "--images", tmp_path / "noise")
    assert_named(done, sabotage.graph.producer[quantizer.input[0]], meaning=True)
