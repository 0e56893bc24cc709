import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from rich.console import Console

from qcam.commands import console
from qcam.common.files import sha256_file
from qcam.evaluate.check.gates import GATES
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import load_onnx
from qcam.runtime.codes import quantized_tensors
from qcam.runtime.deployed import probe
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import find_groups
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror.integer.exposure import exposure


def risks(bundle):
    graph = Graph(load_onnx(bundle, "int8"))
    return exposure(graph, find_groups(graph))


def test_a_bundle_holds_and_everything_is_written(tiny_bundle, some_photographs, known_cpu, check):
    done = check(tiny_bundle.folder, "--images", some_photographs, "--every-tensor")
    assert done.code == 0, done.err
    assert "tiny, 4 images, provider CPU" in done.out
    assert "tiny int8 on CPU: integer kernels (4 of 4, 100 % of" in done.out
    assert "tiny int16 on CPU: float arithmetic between Q and DQ (0 of 4 integer kernels" in done.out
    assert "tiny has random weights: no figure made with it means anything" in done.err
    pictures = ["tensors-tiny-int16-integer.png", "tensors-tiny-int8-integer.png"]
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "check.json", "junit.xml", "placement.json", *pictures, "verdict.json", "verdict.md",
    ]  # fmt: skip
    for name in pictures:
        with Image.open(done.folder / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.width > 800

    report = done.report
    assert (report["schema_version"], report["verdict"], report["holds"], report["provider"]) == (2, "holds", True, "CPU")
    assert report["kernels"] == probe.probe_kernels().to_json()
    assert report["kernel"] == known_cpu
    assert report["bundles"]["tiny"]["fingerprint"] == tiny_bundle.fingerprint
    assert report["bundles"]["tiny"]["trained"] is False
    assert {item["kernel"] for item in report["other_cpus"]} <= set(KERNELS) - {known_cpu}
    f32, int16, int8 = report["results"]
    assert (f32["arithmetic"], f32["tensors"][0]["name"], len(f32["tensors"])) == ("float", "logits", 1)
    assert f32["figures"]["codes"] is f32["figures"]["tap"] is None
    assert (int16["exact"], int8["exact"]) == (False, True)
    assert int8["figures"]["codes"] == int8["figures"]["tap"] == int8["figures"]["logits"] == 1.0
    assert int8["figures"]["cc"] == pytest.approx(1.0, abs=1e-12)
    assert (int8["largest_code_difference"], int8["first_difference"]) == (0, None)
    names = sorted(path.name for path in some_photographs.iterdir())
    assert [image["image"] for image in int8["images"]] == names
    assert set(int8["worst_images"]) <= set(names)
    tensors = quantized_tensors(Graph(load_onnx(tiny_bundle, "int8")))
    assert [tensor["name"] for tensor in int8["tensors"]] == [*tensors, "logits"]
    assert all(tensor["equal"] == tensor["equal_fed_with_deployed_codes"] == 1.0 for tensor in int8["tensors"])
    assert int8["tensors"][0]["elements"] == 4 * 3 * 32 * 32
    gates = {result["precision"]: {gate["name"]: gate["threshold"] for gate in result["gates"]} for result in report["results"]}
    assert gates == {
        "f32": {"cc": 0.99, "logits_close": 1}, "int16": {"cc": 0.99}, "int8": {"cc": 0.99, "codes": 1, "logits": 1},
    }  # fmt: skip

    suites = ElementTree.parse(done.folder / "junit.xml").getroot()
    assert dict(suites.attrib) == {"name": "qcam-check", "tests": "6", "failures": "0", "errors": "0", "skipped": "0"}
    assert [suite.get("tests") for suite in suites] == ["2", "1", "3"]
    placement = json.loads((done.folder / "placement.json").read_text())["tiny"]
    assert [placement[name]["integer_coverage"]["count"] for name in ("f32", "int16", "int8")] == [0, 0, 1]
    assert placement["int8"]["nodes"]


def test_pictures_of_an_earlier_run_do_not_stay(tiny_bundle, some_photographs, check, tmp_path):
    arguments = (tiny_bundle.folder, "--images", some_photographs, "--precision", "int8", "--no-other-cpus")
    check(*arguments, "--every-tensor", "--arithmetic", "fake_quant")
    (tmp_path / "out" / "thesis.png").write_bytes(b"years of work")
    check(*arguments)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"check.json", "junit.xml", "placement.json", "verdict.json", "verdict.md", "thesis.png"}


def test_an_earlier_check_is_replaced_and_said(tiny_bundle, some_photographs, check):
    arguments = (tiny_bundle.folder, "--images", some_photographs, "--precision", "int8", "--no-other-cpus", "--limit", 1)
    assert "earlier check" not in check(*arguments).err
    again = check(*arguments, "--fail-under", "cc=0.5")
    assert again.code == 0
    assert "out held an earlier check; it was replaced" in again.err
    assert [gate["name"] for gate in again.first["gates"]] == ["cc"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("check.json", "{}"), ("junit.xml", "<testsuites name='pytest'/>"), ("placement.json", "{}"),
        ("tensors-mine.png", "mine"),
    ],
)  # fmt: skip
def test_what_is_no_check_s_is_not_replaced(tiny_bundle, some_photographs, check, tmp_path, name, text):
    place = tmp_path / "out" / name
    place.parent.mkdir()
    place.write_text(text)
    done = check(tiny_bundle.folder, "--images", some_photographs)
    assert done.code == 2
    assert f"{name} is there already and was not written by qcam-check: move it away, or give another --output" in done.err
    assert [path.name for path in place.parent.iterdir()] == [name]
    assert place.read_text() == text


def test_the_placement_of_a_study_is_not_replaced(tiny_bundle, some_photographs, check, tmp_path):
    place = tmp_path / "out" / "placement.json"
    place.parent.mkdir()
    for name in ("placement.json", "run.json"):
        (place.parent / name).write_text("{}")
    done = check(tiny_bundle.folder, "--images", some_photographs)
    assert done.code == 2
    assert "placement.json is that of the results there, not of a check: give another --output" in done.err
    assert place.read_text() == "{}"


def test_the_batch_size_changes_no_figure_of_integer_kernels_and_others_by_rounding_alone(tiny_bundle, some_photographs, check):
    arguments = (tiny_bundle.folder, "--images", some_photographs, "--every-tensor", "--arithmetic", "integer",
                 "--arithmetic", "fake_quant", "--no-other-cpus")  # fmt: skip
    one, three = (check(*arguments, "--batch-size", size).report["results"] for size in (1, 3))
    for first, second in zip(one, three, strict=True):
        if (first["precision"], first["arithmetic"]) == ("int8", "integer"):
            assert first["figures"] == second["figures"]
        for name in {"top1", "logits_close", "cc", "cc_min", "sim", "sim_min", "kld"}:
            assert second["figures"][name] == pytest.approx(first["figures"][name], abs=1e-5), name


def test_falling_short_is_exit_code_1_and_told_everywhere(tiny_bundle, some_photographs, check):
    gates = ("--fail-under", "codes=1", "--fail-under", "cc=0")
    done = check(tiny_bundle.folder, "--images", some_photographs, "--precision", "int16", *gates)
    assert done.code == 1
    share = done.first["figures"]["codes"]
    assert 0.9 < share < 1
    assert f"does not hold: tiny int16, integer: codes = {share:.6g}, at least 1 wanted" in done.err
    assert "the first that differs" in done.err
    assert done.report["holds"] is done.first["holds"] is False
    assert done.report["verdict"] == done.first["verdict"] == "falls short"
    suites = ElementTree.parse(done.folder / "junit.xml").getroot()
    assert (suites.get("tests"), suites.get("failures")) == ("2", "1")
    (failure,) = suites.iter("failure")
    assert failure.get("message").startswith("codes = 0.9")


def test_a_result_that_no_gate_applies_to_is_not_taken_for_judged(tiny_bundle, some_photographs, known_cpu, check):
    done = check(tiny_bundle.folder, "--images", some_photographs, "--fail-under", "codes=0.9", "--no-other-cpus")
    assert done.code == 0
    assert [result["verdict"] for result in done.report["results"]] == [None, "holds", "holds"]
    assert done.report["verdict"] == "holds"
    suites = ElementTree.parse(done.folder / "junit.xml").getroot()
    assert [(suite.get("tests"), suite.get("skipped")) for suite in suites] == [("1", "1"), ("1", "0"), ("1", "0")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no bundle"),
        ([], "no bundle given and none in bundles/"),
        (["{bundle}", "--fail-under", "speed=1"], "--fail-under speed: no such gate; choose from codes, tap, logits"),
        (["{bundle}", "--fail-under", "cc"], "'cc' is not of the form KEY=VALUE"),
        (["{bundle}", "--fail-under", "cc=much"], "'much' is no number"),
        (["{bundle}", "--fail-under", "cc=nan"], "the figure lies between -1 and 1"),
        (["{bundle}", "--fail-under", "cc=99"], "give 0.99 for 99 %"),
        (["{bundle}", "--fail-under", "codes=1", "--precision", "f32"], "f32 has no codes"),
        (["{bundle}", "--images", "nowhere"], "no image folder at nowhere"),
        (["{bundle}", "--images", "{empty}"], "no image in"),
        (["{bundle}", "--images", "{broken}"], "not one of 2 images could be read (a.jpg: "),
        (["{bundle}", "--provider", "GPU"], "execution provider 'GPU' is unknown"),
        (["{bundle}", "--provider", "QNN"], "has no QNN provider"),
        (["{bundle}", "--session-config", "nonsense"], "is not of the form KEY=VALUE"),
        (["{bundle}", "--session-config", "a=1", "--session-config", "a=2"], "--session-config a is given twice: '1' and '2'"),
        (["{bundle}", "--provider-option", "a=1", "--provider-option", "a=1"], "--provider-option a is given twice: '1'"),
        (["{bundle}", "--fail-under", "cc=0.1", "--fail-under", "cc=0.9"], "--fail-under cc is given twice: '0.1' and '0.9'"),
        (["{small}", "--precision", "int16"], "holds no int16, only f32, int8"),
        (["{bundle}", "{small}", "--precision", "int16"], "holds no int16, only f32, int8"),
        (["{bundle}", "--deployed", "nowhere.onnx"], "deployed file nowhere.onnx: there is no such file"),
        (["{bundle}", "--deployed", "{bundle}/bundle.json"], "bundle.json as an ONNX file"),
        (["{bundle}", "--deployed", "{bundle}/f32.onnx"], "f32.onnx quantizes nothing: it is no int8 network; give"),
        (["{bundle}", "--deployed", "{bundle}/int8.onnx", "--precision", "f32"], "it is no f32 network"),
        (["{bundle}", "--deployed", "{made}/tap.onnx"], "tap.onnx quantizes nothing: it is no int8 network"),
        (["{bundle}", "--deployed", "{made}/shape.onnx"], "which carries the CAM layer, stands in the bundle: tensors are"),
        (["{bundle}", "--deployed", "{made}/classes.onnx"], "classes.onnx returns logits of shape (1, 9) for 10 classes"),
        (["{bundle}", "--deployed", "{made}/outputs.onnx"], "outputs.onnx has no output"),
        (["{bundle}", "{small}", "--deployed", "{bundle}/int8.onnx"], "a deployed file is judged against one file"),
        (["{bundle}", "--deployed", "{bundle}/int8.onnx", "--precision", "f32", "--precision", "int8"], "against one file"),
        (["{bundle}", "--output", "{bundle}/bundle.json/check"], "bundle.json; choose another place"),
        (["{bundle}", "--output", "{bundle}/bundle.json"], "is a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_one_line_exit_code_2_and_nothing_written(
    tiny_bundle, small, made, some_photographs, check, tmp_path, arguments, message
):
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    for name in ("a.jpg", "b.png"):
        (tmp_path / "broken" / name).write_text("no picture")
    places = {"bundle": tiny_bundle.folder, "small": small.folder, "made": made} | {
        name: tmp_path / name for name in ("empty", "broken")
    }
    images = [] if "--images" in arguments else ["--images", some_photographs]
    before = sorted(tmp_path.rglob("*"))
    done = check(*[argument.format(**places) for argument in arguments], *images)
    assert done.code == 2, done.err
    assert message in done.err
    assert done.out == ""
    assert "qcam-inspect" not in done.err  # the copy that was run is none of the user's business
    assert len([line for line in done.err.splitlines() if line.lower().startswith("error")]) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def small(export_tiny, tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("small") / "small", precisions=("f32", "int8"))


@pytest.fixture(scope="module")
def made(tiny_bundle, tmp_path_factory):
    """Deployed files that have little in common with the bundle's."""
    folder = tmp_path_factory.mktemp("made")
    model = load_onnx(tiny_bundle, "int8")
    tap = tiny_bundle.precision("int8").tap.output
    renamed = onnx.ModelProto()
    renamed.CopyFrom(load_onnx(tiny_bundle, "f32"))
    renamed.graph.node.append(onnx.helper.make_node("Identity", [tiny_bundle.precision("f32").tap.output], ["copy"]))
    for node in renamed.graph.node:  # a float tensor of the tap's name, and not one of codes
        node.output[:] = [tap if name == "copy" else name for name in node.output]
    onnx.save(renamed, folder / "tap.onnx")
    graph = Graph(model)
    classes = Graph(load_onnx(tiny_bundle, "f32"))
    (gemm,) = [node for node in classes.model.graph.node if node.op_type == "Gemm"]
    for name in gemm.input[1:]:
        classes.initializers[name].CopyFrom(numpy_helper.from_array(classes.array(name)[:9], name))
    del classes.model.graph.output[:]
    classes.model.graph.output.append(onnx.helper.make_empty_tensor_value_info("logits"))
    tap_quantizer = onnx.helper.make_node("QuantizeLinear", [tiny_bundle.precision("f32").tap.output, "s", "z"], [tap])
    classes.model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    )
    classes.model.graph.node.append(tap_quantizer)
    onnx.save(classes.model, folder / "classes.onnx")
    last = [node for node in graph.model.graph.node if node.op_type == "Conv"][-1]
    (strides,) = [item for item in last.attribute if item.name == "strides"]
    strides.ints[:] = [1, 1]
    del model.graph.value_info[:]
    for output in list(model.graph.output)[1:]:
        model.graph.output.remove(output)
    onnx.save(model, folder / "shape.onnx")
    del model.graph.output[:]
    onnx.save(model, folder / "outputs.onnx")
    return folder


@pytest.fixture(scope="module")
def dead(export_tiny, tmp_path_factory):
    """No class depends on the CAM layer: every CAM is zero, and no figure of CAMs exists."""
    return export_tiny(tmp_path_factory.mktemp("dead") / "dead", dead=True)


def test_what_cannot_be_defined_is_undecided_and_exit_code_3(dead, some_photographs, known_cpu, check):
    arguments = (dead.folder, "--images", some_photographs, "--no-other-cpus", "--precision", "int8")
    done = check(*arguments)
    assert done.code == 3
    assert "undecided: cc cannot be judged, the CAMs of all images are constant or not finite: tiny int8" in done.err
    assert "CAMs of 4 of 4 images are constant" in done.err
    assert (done.report["verdict"], done.report["holds"]) == ("undecided", False)
    assert (done.first["verdict"], done.first["figures"]["cc"], done.first["undefined_cams"]) == ("undecided", None, 4)
    (suite,) = ElementTree.parse(done.folder / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "1")
    assert f"results: {done.folder}/ (check.json, verdict.json, verdict.md, junit.xml, placement.json)" in done.out
    assert check(*arguments, "--fail-under", "codes=1").code == 0


def test_where_one_result_falls_short_and_another_is_undecided_it_falls_short(
    dead, tiny_bundle, some_photographs, known_cpu, check
):
    gates = ("--fail-under", "cc=1", "--fail-under", "cc_min=1")
    done = check(dead.folder, tiny_bundle.folder, "--images", some_photographs, "--precision", "int16", *gates)
    assert [result["verdict"] for result in done.report["results"]] == ["undecided", "falls short"]
    assert (done.code, done.report["verdict"]) == (1, "falls short")
    assert "does not hold: tiny (tiny) int16, integer: cc = " in done.err
    assert "tiny (dead)" not in done.err.partition("does not hold")[2]


def test_unreadable_images_are_named_and_the_others_compared(tiny_bundle, some_photographs, check, tmp_path):
    folder = tmp_path / "photographs"
    shutil.copytree(some_photographs, folder)
    for name in "abcde":
        (folder / f"{name}.jpg").write_text("no picture")
    done = check(tiny_bundle.folder, "--images", folder, "--precision", "f32")
    assert done.code == 0
    assert "warning: refused: not an image that can be identified: a.jpg, b.jpg, c.jpg and 2 more" in done.err
    assert list(done.report["refused_images"]) == [f"{name}.jpg" for name in "abcde"]
    assert len(done.first["images"]) == 4


def test_bundles_of_one_model_are_told_apart_and_none_is_run_twice(tiny_bundle, small, some_photographs, check):
    bundles = (tiny_bundle.folder, small.folder, tiny_bundle.folder)
    twice = ("--precision", "int8", "--precision", "int8")
    done = check(*bundles, *twice, "--images", some_photographs, "--every-tensor", "--no-other-cpus")
    assert [result["model"] for result in done.report["results"]] == ["tiny (tiny)", "tiny (small)"]
    assert set(json.loads((done.folder / "placement.json").read_text())) == {"tiny (tiny)", "tiny (small)"}
    assert len(list(done.folder.glob("*.png"))) == 2


@pytest.mark.parametrize("made", ["imported", "exported"])
def test_the_cure_for_saturation_is_that_of_the_tool_that_made_the_file(
    made, tiny_bundle, some_photographs, known_cpu, check, tmp_path
):
    folder = shutil.copytree(tiny_bundle.folder, tmp_path / "bundle")
    if made == "imported":
        told = json.loads((folder / "bundle.json").read_text())
        for entry in told["precisions"]:
            entry["quantization"]["imported"] = {}
        (folder / "bundle.json").write_text(json.dumps(told))
    done = check(folder, "--images", some_photographs, "--precision", "int8", "--limit", 1)
    (warning,) = [text for text in done.report["warnings"] if "differently" in text]
    own, other = "Fix: qcam-export --reduce-range, or ", "Fix: quantize again with weights of 7 bits in the tool that made the "
    assert (own in warning, other in warning) == (made == "exported", made == "imported")


def test_two_arithmetics_are_two_rows_but_float_is_one(tiny_bundle, some_photographs, check):
    done = check(
        tiny_bundle.folder, "--images", some_photographs, "--arithmetic", "integer", "--arithmetic", "fake_quant",
        "--no-other-cpus", "--precision", "f32", "--precision", "int8",
    )  # fmt: skip
    assert [(r["precision"], r["arithmetic"]) for r in done.report["results"]] == [
        ("f32", "float"), ("int8", "integer"), ("int8", "fake_quant"),
    ]  # fmt: skip
    assert [result["exact"] for result in done.report["results"]][::2] == [False, False]


@pytest.mark.parametrize("bundle", ["tiny_bundle", pytest.param("lite0_bundle", marks=pytest.mark.slow)])
def test_an_unprotected_file_warns_of_saturating_cpus(bundle, request, some_photographs, known_cpu, check):
    bundle = request.getfixturevalue(bundle)
    assert risks(bundle).saturable > 0
    done = check(bundle.folder, "--images", some_photographs, "--precision", "int8", "--limit", 2)
    assert done.code == 0, done.err
    (warning, *others) = [text for text in done.report["warnings"] if "this file behaves differently" in text]
    if known_cpu == "avx2":
        assert "CPUs whose sums do not saturate (vnni)" in warning
        other = next(item for item in done.report["other_cpus"] if item["kernel"] == "vnni")
    else:
        assert not others
        assert "int8: on x86 CPUs without VNNI this file behaves differently: maps CC " in warning
        other = next(item for item in done.report["other_cpus"] if item["kernel"] == "avx2")
    figures = other["figures"]
    assert figures["codes"] < 0.95
    codes, tap = ((1 - figures[name]) * 100 for name in ("codes", "tap"))
    assert f"{codes:.2f} % of all codes and {tap:.2f} % at the CAM layer change. Fix: " in warning
    assert f"maps CC {figures['cc']:.3f} (worst {figures['cc_min']:.3f}), " in warning
    assert "qcam-export --reduce-range" in warning
    assert "session.x64quantprecision=1" in warning
    assert f"warning: {warning}" in done.err
    assert "what other CPUs would compute, v. this one" in done.out


def test_no_cpu_is_warned_of_under_the_setting_that_lets_none_saturate(tiny_bundle, some_photographs, known_cpu, check):
    exact = "session.x64quantprecision=1"
    done = check(
        tiny_bundle.folder, "--images", some_photographs, "--precision", "int8", "--limit", 2, "--session-config", exact
    )
    assert done.code == 0, done.err
    assert not [text for text in done.report["warnings"] if "differently" in text]
    assert "avx2" not in [item["kernel"] for item in done.report["other_cpus"]]
    assert known_cpu in ("vnni", "avx2")
    assert "avx2 CPUs compute the same codes as this one (vnni)" in " ".join(done.out.split())


def test_a_file_of_reduced_range_does_not_warn(export_tiny, some_photographs, known_cpu, check, tmp_path):
    bundle = export_tiny(tmp_path / "reduced", reduce_range=True)
    assert (risks(bundle).saturable, risks(bundle).lowest) == (0, 0)
    done = check(bundle.folder, "--images", some_photographs, "--precision", "int8")
    assert done.code == 0, done.err
    assert not [text for text in done.report["warnings"] if "differently" in text or "-128" in text]
    if known_cpu == "vnni":
        assert "avx2 CPUs compute the same codes as this one (vnni)" in done.out


def test_weights_of_the_lowest_code_are_named(export_tiny, some_photographs, known_cpu, check, tmp_path):
    bundle = export_tiny(tmp_path / "lowest")
    graph = Graph(load_onnx(bundle, "int8"))
    conv = next(node for node in graph.model.graph.node if node.op_type == "Conv")
    name = graph.producer[conv.input[1]].input[0]
    codes = np.array(graph.array(name))
    codes[0, 0, 0, :2] = -128
    graph.initializers[name].CopyFrom(numpy_helper.from_array(codes, name))
    onnx.save(graph.model, bundle.folder / "int8.onnx")
    sha256 = sha256_file(bundle.folder / "int8.onnx")
    entries = tuple(replace(entry, sha256=sha256) if entry.name == "int8" else entry for entry in bundle.precisions)
    (bundle.folder / "bundle.json").write_text(replace(bundle, precisions=entries).manifest_text())
    done = check(bundle.folder, "--images", some_photographs, "--precision", "int8")
    assert "2 weights are -128, on which ARM CPUs without dot-product instructions overflow" in done.err
    if not probe.probe_kernels().wraps_lowest_weight:
        assert done.code == 0
    else:  # such a CPU is not promised equal codes
        assert done.first["exact"] is False


def test_another_cpus_kernels_give_the_figures_of_the_second_table(tiny_bundle, some_photographs, known_cpu, check):
    other = "avx2" if known_cpu != "avx2" else "vnni"
    arguments = (tiny_bundle.folder, "--images", some_photographs, "--precision", "int8")
    told = next(item for item in check(*arguments).report["other_cpus"] if item["kernel"] == other)
    done = check(*arguments, "--kernel", other)
    assert done.code == 0, done.err
    assert (done.first["exact"], [gate["name"] for gate in done.first["gates"]]) == (False, ["cc"])
    assert done.first["figures"] == told["figures"]
    # Judged and told from one run.
    assert f"tiny int8, {len(done.report['other_cpus'])} mirror" in done.err


def test_a_cpu_of_no_known_family_is_promised_nothing(tiny_bundle, some_photographs, check, monkeypatch):
    answers = probe.probe_kernels().answers | {"convolution": "neither [0, 1]"}
    monkeypatch.setattr(probe, "probe_kernels", lambda _config=None: probe.judge(answers))
    done = check(tiny_bundle.folder, "--images", some_photographs, "--precision", "int8")
    assert done.code == 0, done.err
    assert "warning: equal codes are promised nowhere, the mirror follows vnni: on this CPU the kernels fit no" in done.err
    assert done.report["kernels"]["family"] == "unknown"
    assert (done.first["exact"], [gate["name"] for gate in done.first["gates"]]) == (False, ["cc"])
    assert done.report["other_cpus"] == []


def test_kernels_that_the_file_does_not_foretell_are_followed_and_told(tiny_bundle, some_photographs, known_cpu, check):
    """Without fusion ONNX Runtime computes the file in float; so does the mirror, by the runtime's own kernels."""
    done = check(
        tiny_bundle.folder, "--images", some_photographs, "--precision", "int8", "--session-config",
        "session.disable_quant_qdq=1", "--fail-under", "codes=1", "--no-other-cpus",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.report["warnings"] == []
    assert json.loads((done.folder / "placement.json").read_text())["tiny"]["int8"]["disagreements"] == []
    assert "own graph is followed where the file reads otherwise: node_Conv_25: float in ONNX Runtime" in done.out
    (result,) = done.report["results"]
    assert result["figures"]["codes"] == 1
    assert any(remark.startswith("float kernels: the runtime's own, for") for remark in result["remarks"])
    assert "float arithmetic between Q and DQ (0 of 4 integer kernels" in done.out


def test_a_terminal_of_80_columns_shows_every_figure(tiny_bundle, some_photographs, known_cpu, check, monkeypatch):
    written = io.StringIO()
    narrow = Console(file=written, width=80, force_terminal=True, color_system=None, soft_wrap=True, highlight=False)
    monkeypatch.setattr(console, "out", narrow)
    done = check(tiny_bundle.folder, "--images", some_photographs, "--every-tensor")
    assert done.code == 0, done.err
    tables = [line for line in written.getvalue().splitlines() if line[:1] in "│┃┏└"]
    assert max(map(len, tables)) <= 80
    assert "…" not in written.getvalue()
    for name in ("codes at tap", "CC min", "KLD", "verdict"):
        assert f"│ {name}" in written.getvalue()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_writes_nothing(tiny_bundle, tmp_path, how):
    folder = tmp_path / "many"
    folder.mkdir()
    photographs = evaluation_photographs()
    for index in range(400):
        shutil.copy(photographs[index % len(photographs)].path, folder / f"{index:03d}.jpg")
    process = subprocess.Popen(
        [sys.executable, "-m", "qcam.commands.check", str(tiny_bundle.folder), "--images", str(folder)],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        # A shell's background job starts with SIGINT ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in process.stderr:
        if "/400" in line:  # a quarter is done
            break
    time.sleep(0.1)
    process.send_signal(how)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many"]


def test_help_teaches_by_example_and_loads_no_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qcam.commands.check", "--help"], capture_output=True, text=True,
        cwd=tmp_path, env={"COLUMNS": "80", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert all(f"  {name}" in done.stdout or f", {name}" in done.stdout for name in GATES)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "torchvision", "onnx", "onnxruntime", "numpy", "pyarrow"}


@pytest.fixture(scope="module")
def rescaled(tiny_bundle, tmp_path_factory):
    """The bundle's int8 file as another calibration would have made it: each activation's scale 1.3 times as large."""
    model = load_onnx(tiny_bundle, "int8")
    graph = Graph(model)
    for name in {graph.producer[tensor].input[1] for tensor in quantized_tensors(graph)}:
        graph.initializers[name].CopyFrom(numpy_helper.from_array(np.array(graph.array(name)) * np.float32(1.3), name))
    path = tmp_path_factory.mktemp("rescaled") / "vendor.onnx"
    onnx.save(model, path)
    return path


def test_values_are_compared_where_codes_mean_something_else_and_no_gate_on_codes_stands(
    tiny_bundle, rescaled, some_photographs, known_cpu, check
):
    done = check(tiny_bundle.folder, "--deployed", rescaled, "--images", some_photographs, "--every-tensor")
    assert done.code in (0, 1), done.err
    first, tensors = done.first, quantized_tensors(Graph(load_onnx(tiny_bundle, "int8")))
    assert [tensor["name"] for tensor in first["values"]] == list(tensors)
    assert [tensor["name"] for tensor in first["tensors"]] == ["logits"]
    assert [gate["name"] for gate in first["gates"]] == ["cc"]
    assert first["exact"] is False
    assert first["figures"]["codes"] is first["figures"]["tap"] is first["largest_code_difference"] is None
    assert 0.9 < first["values_within_one_step"] <= 1
    assert first["values"][0]["within_one_step"] == 1.0  # photographs do not reach the end of either range
    assert 0 < first["values"][0]["largest_difference_in_steps"] <= 1
    assert all(image["tap"] is None for image in first["images"])
    count = len(tensors)
    assert f"{count} of {count} tensors have another scale, zero point or type in {rescaled}" in first["remarks"][0]
    assert first["remarks"][1].startswith("no gate on equal codes or logits stands")
    assert "within a step" in done.out
    assert "tensors of another scale, zero point or type" in done.out


@pytest.mark.parametrize("gate", ["codes", "tap"])
def test_a_gate_on_codes_that_mean_something_else_is_refused_by_name(tiny_bundle, rescaled, some_photographs, check, gate):
    done = check(tiny_bundle.folder, "--deployed", rescaled, "--images", some_photographs, "--fail-under", f"{gate}=0.5")
    assert done.code == 2
    assert f"gate {gate} means nothing here: " in done.err
    assert not done.folder.exists()


def test_a_file_of_another_width_is_compared_by_value(tiny_bundle, some_photographs, known_cpu, check):
    other = tiny_bundle.path("int16")
    done = check(tiny_bundle.folder, "--deployed", other, "--images", some_photographs, "--arithmetic", "fake_quant")
    assert done.code == 0, done.err
    assert done.first["missing_tensors"] == done.first["other_tensors"] == done.first["ambiguous_tensors"] == []
    assert {tensor["deployed_codes"].split(",")[0] for tensor in done.first["values"]} == {"uint16"}
    assert 0.95 < done.first["values_within_one_step"] < 1


def test_where_one_scale_differs_all_other_codes_are_compared_and_its_readers_are_not_fed(
    tiny_bundle, some_photographs, known_cpu, check, tmp_path
):
    model = load_onnx(tiny_bundle, "int8")
    graph = Graph(model)
    tensors = quantized_tensors(graph)
    scale = graph.producer[tensors[1]].input[1]
    graph.initializers[scale].CopyFrom(numpy_helper.from_array(np.array(graph.array(scale)) * np.float32(1.3), scale))
    onnx.save(model, tmp_path / "vendor.onnx")
    done = check(tiny_bundle.folder, "--deployed", tmp_path / "vendor.onnx", "--images", some_photographs, "--every-tensor")
    assert done.code == 1
    assert [tensor["name"] for tensor in done.first["values"]] == [tensors[1]]
    assert [tensor["name"] for tensor in done.first["tensors"]] == [*tensors[:1], *tensors[2:], "logits"]
    fed = {tensor["name"]: tensor["equal_fed_with_deployed_codes"] for tensor in done.first["tensors"]}
    unfed = {name for name, share in fed.items() if share is None}
    readers = {tensors[2], tensors[3]}  # the branch, and the sum that skips it
    assert unfed == readers
    assert all(share == 1 for name, share in fed.items() if name not in unfed)
    told = f"2 of {len(fed)} tensors are not fed with the deployed codes"
    assert any(said.startswith(told) for said in done.first["remarks"])
    assert done.first["first_difference"]["tensor"] == tensors[1]


def test_tensors_without_a_partner_are_counted_and_told_in_both_directions(
    tiny_bundle, some_photographs, known_cpu, check, tmp_path
):
    model = load_onnx(tiny_bundle, "int8")
    graph = Graph(model)
    image = next(name for name in quantized_tensors(graph) if graph.producer[name].input[0] == graph.image_input)
    (reader,) = graph.consumers[image]
    quantizer = graph.producer[image]
    for node in model.graph.node:
        node.input[:] = [graph.image_input if name == reader.output[0] else name for name in node.input]
    scale, zero = (np.array(graph.array(name)) for name in quantizer.input[1:])
    model.graph.initializer.extend([numpy_helper.from_array(scale, "logits_s"), numpy_helper.from_array(zero, "logits_z")])
    logits = tiny_bundle.precision("int8").logits
    graph.producer[logits].output[0] = "before"
    model.graph.node.remove(quantizer)
    model.graph.node.remove(reader)
    model.graph.node.add(op_type="QuantizeLinear", input=["before", "logits_s", "logits_z"], output=["more"])
    model.graph.node.add(op_type="DequantizeLinear", input=["more", "logits_s", "logits_z"], output=[logits])
    onnx.save(model, tmp_path / "vendor.onnx")
    done = check(tiny_bundle.folder, "--deployed", tmp_path / "vendor.onnx", "--images", some_photographs)
    assert (done.first["missing_tensors"], done.first["other_tensors"]) == ([image], ["more"])
    assert f"1 tensor of the bundle has no partner in {tmp_path / 'vendor.onnx'}: first {image}" in done.err
    assert f"1 tensor of {tmp_path / 'vendor.onnx'} has no partner in the bundle: first more" in done.err


def test_slopes_of_the_deployed_tail_are_held_against_the_gradient(tiny_bundle, some_photographs, check):
    asked = ("--images", some_photographs, "--finite-differences", "--no-other-cpus")
    done = check(tiny_bundle.folder, *asked, "--fail-under", "finite_differences=0.9")
    assert done.code == 0, done.err
    assert "tiny f32: no finite differences, the CAM layer hands out no codes" in done.out
    f32, int16, int8 = done.report["results"]
    assert (f32["finite_differences"], f32["verdict"], f32["figures"]["finite_differences"]) == (None, None, None)
    for result, unit in ((int16, 256), (int8, 1)):
        steps = result["finite_differences"]
        assert [step["codes"] for step in steps] == [unit * step for step in (1, 2, 4, 8, 16, 32)]
        assert {step["pairs"] for step in steps} == {4 * 8}
        assert result["figures"]["finite_differences"] == max(step["correlation"] for step in steps)
        assert 0.9 < result["figures"]["finite_differences"] < 1
        assert result["figures"]["finite_differences_slope"] == pytest.approx(1, abs=0.1)
        assert [gate["name"] for gate in result["gates"]] == ["finite_differences"]
    assert f"{int16['figures']['finite_differences']:.4f}"[:5] in done.out

    done = check(tiny_bundle.folder, *asked, "--precision", "int8", "--fail-under", "finite_differences=1")
    assert done.code == 1
    assert "finite_differences = 0.9" in done.err
    done = check(tiny_bundle.folder, *asked, "--precision", "f32", "--fail-under", "finite_differences=0.9")
    assert done.code == 2
    assert "gate finite_differences: f32 has no codes" in done.err
