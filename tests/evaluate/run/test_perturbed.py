"""Methods that run the network again, in a study: on the deployed graph, and on the mirror for the simulation."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from brought_files import brought, network
from studies import command, finish

import qcam
from qcam.common.errors import QcamError
from qcam.evaluate.maps.cam import ablation_weights, weighted_map
from qcam.evaluate.maps.masking import RiseMasks
from qcam.evaluate.maps.measures import area_average
from qcam.evaluate.results.folder import MAPS
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.run.perturbed import Ablation, Masking
from qcam.evaluate.run.protocol import Sample
from qcam.evaluate.run.stages import StageClock
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.ablated_tail import AblatedTail


def samples(bundle, count=3):
    noise = np.random.default_rng(8).integers(0, 256, (count, *bundle.preprocessing.crop, 3), np.uint8)
    return [Sample(f"{index}.png", "", None, "", crop, None) for index, crop in enumerate(noise)]


def maps_of(bundle, method, apart=()):
    evaluator = BundleEvaluator(
        bundle, ["f32", "int8"], SessionSettings(threads=1, batch=4), method=method, apart=apart, target="own-top1"
    )
    evaluator.build("cpu")
    (finish,) = evaluator.evaluate_all([samples(bundle)], StageClock())
    return {(item.precision, item.kind, item.image): item.array for item in finish()[1]}


def test_ablation_s_maps_are_those_of_the_deployed_tail(tiny_bundle) -> None:
    maps = maps_of(tiny_bundle, "ablation")
    images = tiny_bundle.preprocessing.normalise(np.stack([sample.crop for sample in samples(tiny_bundle)]))
    for precision in ("f32", "int8"):
        session = DeployedModel(tiny_bundle, precision, SessionSettings(threads=1, batch=4))
        tail = AblatedTail(session, load_onnx(tiny_bundle, precision), tiny_bundle.preprocessing)
        outputs = session.run(images)
        scores = tail.scores(outputs.tap, outputs.skips, outputs.logits.argmax(axis=1))
        expected = weighted_map(ablation_weights(*scores), session.entry.tap.dequantize(outputs.tap))
        for index, wanted in enumerate(expected):
            assert wanted.any()
            np.testing.assert_array_equal(maps[precision, "deployed", f"{index}.png"], wanted.astype(np.float32))
            simulated = maps[precision, "fake_quant", f"{index}.png"]
            # int8 logits of the mirror differ by its float sums; a code apart in the mean is rare
            np.testing.assert_allclose(simulated, wanted, atol=0.02 * wanted.max())


def test_ablation_behind_other_tails_is_the_same_whoever_runs_it_and_tells_its_cost(export_tiny, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "qcam")
    bundle = export_tiny(tmp_path / "tiny", cam_layer="stem", precisions=("int8",))
    evaluator = BundleEvaluator(bundle, ["int8"], SessionSettings(threads=1, batch=4), method="ablation", target="own-top1")
    (told,) = [text for text in caplog.messages if "ablation" in text]
    assert told.startswith("tiny int8: ablation runs the network's tail once for each of 8 channels, about ")
    evaluator.build("cpu")
    (finish,) = evaluator.evaluate_all([samples(bundle)], StageClock())
    found = {(item.kind, item.image): item.array for item in finish()[1]}
    for index in range(3):
        deployed, simulated = (found[kind, f"{index}.png"] for kind in ("deployed", "fake_quant"))
        assert deployed.any()
        assert np.corrcoef(deployed.ravel(), simulated.ravel())[0, 1] > 0.99


def test_maps_do_not_depend_on_whether_sessions_are_kept_open(tiny_bundle) -> None:
    kept, turns = (maps_of(tiny_bundle, "ablation", apart) for apart in ((), ("f32", "int8")))
    assert kept.keys() == turns.keys()
    for key, values in kept.items():
        np.testing.assert_array_equal(values, turns[key])


def test_closed_and_opened_again_ablation_makes_the_same_maps(tiny_bundle) -> None:
    evaluator = BundleEvaluator(tiny_bundle, ["int8"], SessionSettings(threads=1), method="ablation", target="own-top1")
    evaluator.build("cpu")
    before = evaluator.explain(samples(tiny_bundle))["int8"].maps
    evaluator.close()
    evaluator.open()
    np.testing.assert_array_equal(evaluator.explain(samples(tiny_bundle))["int8"].maps, before)


def test_a_run_whose_logits_are_not_the_tail_s_is_refused(tiny_bundle, monkeypatch) -> None:
    session = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1))
    ablation = Ablation(tiny_bundle, session)
    outputs = session.run(tiny_bundle.preprocessing.normalise(samples(tiny_bundle)[0].crop[None]))
    outputs.logits[0, 0] += 1
    with pytest.raises(QcamError, match="tiny int8: the part of the file from the tap on, run on its own, gives other logits"):
        ablation.deployed(session, outputs, np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64))


def test_a_study_by_ablation_has_every_row(tiny_bundle, some_photographs, tmp_path) -> None:
    found = qcam.study(
        tiny_bundle, images=some_photographs, limit=3, saliency="spectral", output=tmp_path / "out", method="ablation",
        threads=1, grid_rows=1,
    )  # fmt: skip
    rows = found.to_arrow().to_pylist()
    assert {row["comparison"] for row in rows} == {"vs_saliency", "vs_f32", "fake_quant_vs_deployed"}
    assert {row["CC"] for row in rows if (row["precision"], row["comparison"]) == ("f32", "vs_f32")} == {1.0}
    assert "y_k without channel k" in found.run["conventions"]["CAM"]
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "Ablation-CAM of every precision" in page
    assert "Grad-CAM" not in page


@pytest.mark.long
def test_workers_tell_the_cost_in_runs_and_find_the_same(tiny_bundle, some_photographs, tmp_path) -> None:
    options = ("--cam", "occlusion", "--limit", 4, "--precision", "int8")
    for workers in (1, 2):
        done = finish(
            command(tiny_bundle.folder, some_photographs, f"out{workers}", "--workers", workers, *options), cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        told = " ".join(done.stderr.split())
        assert "occlusion runs the network 169 times for each map" in told
        assert "reference rows take five maps more of each of the first 64 images; --references none leaves them out" in told
    assert (tmp_path / "out1" / MAPS).read_bytes() == (tmp_path / "out2" / MAPS).read_bytes()


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_masking_shows_the_deployed_network_changed_pictures(tiny_bundle, method, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, "qcam")
    count = {"occlusion": 169, "rise": 30}[method]
    drawn = RiseMasks.of((32, 32), 30)
    monkeypatch.setattr(RiseMasks, "of", lambda _size: drawn)
    maps = maps_of(tiny_bundle, method)
    told = [text for text in caplog.messages if method in text]
    assert [text.partition(", about")[0] for text in told] == [
        f"tiny {precision}: {method} runs the network {count} times for each map" for precision in ("f32", "int8")
    ]
    session = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1, batch=4))
    for sample in samples(tiny_bundle):
        # Picture by picture and patch by patch, or mask by mask; the colour that normalisation makes 0 is (127.5, …) here.
        logits = session.run(tiny_bundle.preprocessing.normalise(sample.crop[None])).logits[0]
        target = int(logits.argmax())
        total, covered = np.zeros((32, 32)), np.zeros((32, 32))
        if method == "occlusion":
            edges = [32 * cell // 14 for cell in range(15)]
            for i in range(13):
                for j in range(13):
                    place = np.s_[edges[i] : edges[i + 2], edges[j] : edges[j + 2]]
                    shown = sample.crop.copy()
                    shown[place] = 128
                    after = session.run(tiny_bundle.preprocessing.normalise(shown[None])).logits[0, target]
                    total[place] += float(logits[target]) - float(after)
                    covered[place] += 1
            cells = [(edges[cell] + edges[cell + 1]) // 2 for cell in range(14)]
            expected = np.maximum(total / covered, 0)[np.ix_(cells, cells)]
        else:
            for index in range(30):
                (mask,) = drawn.some(slice(index, index + 1))
                shown = np.rint(mask[..., None] * (sample.crop - 128.0) + 128.0).astype(np.uint8)
                after = session.run(tiny_bundle.preprocessing.normalise(shown[None])).logits.astype(np.float64)
                total += (np.exp(after) / np.exp(after).sum())[0, target] * mask
            expected = area_average(total[None] / 15, (28, 28))[0]
        assert expected.any()
        found = maps["int8", "deployed", sample.name]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert np.corrcoef(maps["int8", "fake_quant", sample.name].ravel(), expected.ravel())[0, 1] > 0.99


def test_long_work_says_how_far_it_is(tiny_bundle, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, "qcam")
    monkeypatch.setattr("qcam.evaluate.run.perturbed._TOLD_EVERY", -1.0)
    session = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1))
    crops = np.stack([sample.crop for sample in samples(tiny_bundle)])
    outputs = session.run(tiny_bundle.preprocessing.normalise(crops))
    Masking("occlusion", tiny_bundle, session, 100).deployed(session, outputs, crops, np.zeros(3, np.int64))
    told = [text for text in caplog.messages if " of 507 runs" in text]
    assert told[0] == "tiny int8: occlusion: 100 of 507 runs"
    assert told[-1] == "tiny int8: occlusion: 507 of 507 runs"


def test_masking_does_not_depend_on_whether_sessions_are_kept_open(tiny_bundle) -> None:
    kept, turns = (maps_of(tiny_bundle, "occlusion", apart) for apart in ((), ("f32", "int8")))
    for key, values in kept.items():
        np.testing.assert_array_equal(values, turns[key])


@pytest.mark.parametrize("method", ["ablation", "occlusion"])
def test_a_file_of_another_input_and_batch_gives_the_same_maps(tmp_path, method) -> None:
    crops = np.random.default_rng(4).integers(0, 256, (3, 8, 6, 3), np.uint8)
    given = [Sample(f"{index}.png", "", None, "", crop, None) for index, crop in enumerate(crops)]
    found = []
    for name, taken in (("plain", {}), ("other", {"layout": "NHWC", "dtype": "uint8", "values": "pixels", "batch": 2})):
        evaluator = BundleEvaluator(
            brought(tmp_path / name, **taken), ["int8-vendor"], SessionSettings(threads=1, batch=2), target="own-top1",
            method=method,
        )  # fmt: skip
        evaluator.build("cpu")
        (finish,) = evaluator.evaluate_all([given], StageClock())
        found.append({(item.kind, item.image): item.array for item in finish()[1]})
    plain, other = found
    assert {kind for kind, _ in plain} == {"deployed", "fake_quant"}
    for key, values in plain.items():
        np.testing.assert_allclose(other[key], values, rtol=1e-4, atol=1e-5)
    assert plain["deployed", "0.png"].any()


def test_ablation_of_a_file_whose_logits_come_from_another_is_refused(tmp_path) -> None:
    bundle = brought(tmp_path / "b", original=network(tapped=False, bias=2.5), proof="differs")
    with pytest.raises(
        QcamError, match=r"^Ablation-CAM of int8-vendor: .* \(4 of 4 pictures of noise\); choose another method"
    ):
        BundleEvaluator(bundle, ["int8-vendor"], SessionSettings(threads=1), target="own-top1", method="ablation")
