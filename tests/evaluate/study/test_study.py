import io
import json
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelling import with_labels
from PIL import Image
from summaries import columns_of

from qcam.common.errors import QcamError
from qcam.common.files import sha256_file
from qcam.common.wording import in_options
from qcam.evaluate.maps.cam import normalise, upsample
from qcam.evaluate.report.finishing import write_tables
from qcam.evaluate.results.clipping import CLIPPING, CLIPPING_SCHEMA, clipping_lines
from qcam.evaluate.results.folder import (
    IMAGES,
    MAP_SCHEMA,
    MAPS,
    PICTURE_SCHEMA,
    PICTURES,
    PLACEMENT,
    REFERENCES,
    RESULTS,
    ROW_SCHEMA,
    RUN,
    SUMMARY,
    TABLE,
    Results,
    read_rows,
    write_run,
)
from qcam.evaluate.results.summary import summarise
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.runner import ShardRunner
from qcam.evaluate.saliency import open_saliency
from qcam.evaluate.saliency.spectral import SpectralSaliency
from qcam.evaluate.study import study as study_module
from qcam.evaluate.study.study import PlannedStudy, Study
from qcam.images.account import Account
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.images.listing import find_images
from qcam.runtime.clipping import quantizer_ranges
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.deployed.probe import probe_kernels

PRECISIONS = ("f32", "int16", "int8")
#: Without --faithfulness.
COMPARISONS = ("vs_saliency", "vs_f32", "fake_quant_vs_deployed")


@pytest.fixture(scope="session")
def bomb(tmp_path_factory):
    """A small file of 900 million pixels."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    Image.new("1", (30_000, 30_000)).save(path)
    return path


@pytest.fixture
def photographs(tmp_path, bomb):
    """Six real photographs and five files that are trouble."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for image in evaluation_photographs()[:6]:
        shutil.copy(image.path, folder / image.name)
    data = (folder / "imagenet_00_243.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 3])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    shutil.copy(bomb, folder / "bomb.png")
    Image.linear_gradient("L").resize((50, 40)).save(folder / "gray.png")
    return folder


def make(bundle, images, folder, saliency=None, **options):
    return Study([bundle], images, saliency, StudyOptions(precisions=PRECISIONS, saliency="none", **options), folder)


def finish(study, *, force=False):
    planned = study.prepare("cpu", force=force)
    if not planned.complete:
        planned.run()
    return planned.results().rows()


def entries_of(rows):
    return summarise(columns_of(rows).items())["entries"]


def comparable(rows):
    """Rows as a table without rounding: equal runs must be equal to the last bit."""
    return [tuple(vars(row).values()) for row in rows]


def test_every_image_has_a_row_for_every_precision_and_comparison(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)
    rows = finish(make(tiny_bundle, images, tmp_path / "out"))
    assert len(rows) == len(images) * len(PRECISIONS) * len(COMPARISONS)
    assert {(row.image, row.precision, row.comparison) for row in rows} == {
        (image.name, precision, comparison) for image in images for precision in PRECISIONS for comparison in COMPARISONS
    }
    status = {row.image: row.status for row in rows if row.comparison == "vs_f32" and row.precision == "int8"}
    assert status["truncated.jpg"].startswith("refused: damaged or truncated")
    assert status["text.png"].startswith("refused: not an image")
    assert status["empty.jpg"].startswith("refused: ")
    assert "million" in status["bomb.png"]
    assert status["bomb.png"].startswith("refused: ")
    assert status["gray.png"] == "ok"
    assert sum(value == "ok" for value in status.values()) == 7


def test_the_files_hold_what_the_documentation_says(tiny_bundle, photographs, tmp_path):
    rows = finish(make(tiny_bundle, find_images(photographs), tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {RESULTS, REFERENCES, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY, RUN, PLACEMENT}
    assert pq.read_schema(tmp_path / "out" / RESULTS).equals(ROW_SCHEMA)
    assert pq.read_schema(tmp_path / "out" / REFERENCES).equals(ROW_SCHEMA)
    assert pq.read_schema(tmp_path / "out" / MAPS).equals(MAP_SCHEMA)
    assert pq.read_schema(tmp_path / "out" / PICTURES).equals(PICTURE_SCHEMA)
    assert pq.read_schema(tmp_path / "out" / CLIPPING).equals(CLIPPING_SCHEMA)
    for name in (SUMMARY, RUN, PLACEMENT):
        assert "NaN" not in (tmp_path / "out" / name).read_text()
    run = json.loads((tmp_path / "out" / RUN).read_text())
    assert run["complete"] is True
    assert run["plan"]["bundles"] == {"tiny": tiny_bundle.fingerprint}
    assert run["models"]["tiny"]["precisions"]["int8"]["integer_kernels"] == 4
    assert run["models"]["tiny"]["precisions"]["int16"]["integer_kernels"] == 0
    assert run["kernels"] == probe_kernels().to_json()
    assert run["plan"]["kernels"] == probe_kernels().name
    assert {"decode", "deployed int8", "tail gradient", "metrics"} <= set(run["seconds"])
    assert json.loads((tmp_path / "out" / SUMMARY).read_text())["entries"] == entries_of(rows)


def test_the_placement_names_every_kernel_that_ran(tiny_bundle, photographs, tmp_path):
    finish(make(tiny_bundle, find_images(photographs)[:1], tmp_path / "out"))
    placement = json.loads((tmp_path / "out" / PLACEMENT).read_text())
    assert set(placement) == {"tiny"}
    assert set(placement["tiny"]) == set(PRECISIONS)
    int8, int16 = placement["tiny"]["int8"], placement["tiny"]["int16"]
    assert int8["integer_coverage"] == {"count": 1.0, "macs": 1.0}
    assert int16["integer_coverage"] == {"count": 0.0, "macs": 0.0}
    assert int16["arithmetic"].startswith("float arithmetic between Q and DQ")
    assert int8["macs_per_image"] == int16["macs_per_image"] == sum(node["macs"] for node in int8["nodes"])
    assert sum(entry["count"] for entry in int8["kernels"]) == len(int8["nodes"])
    compute = [node for node in int8["nodes"] if node["macs"]]
    assert [(node["operator"], node["kernel"], node["integer"]) for node in compute] == [
        ("Conv", "QLinearConv", True), ("Conv", "QLinearConv", True), ("Conv", "QLinearConv", True), ("Gemm", "QGemm", True),
    ]  # fmt: skip
    assert {node["provider"] for node in int8["nodes"]} == {"CPUExecutionProvider"}


def test_a_run_that_lost_its_placement_is_not_complete(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)[:1]
    finish(make(tiny_bundle, images, tmp_path / "out"))
    (tmp_path / "out" / PLACEMENT).unlink()
    finish(make(tiny_bundle, images, tmp_path / "out"))
    assert (tmp_path / "out" / PLACEMENT).exists()


def test_kernel_families_are_a_matter_of_the_cpu_provider(tiny_bundle, photographs, tmp_path, monkeypatch):
    study = make(tiny_bundle, find_images(photographs)[:1], tmp_path / "out")
    elsewhere = replace(study.options, settings=SessionSettings(provider="OpenVINO"))
    monkeypatch.setattr(study.executor.runner, "options", elsewhere)
    assert study.facts.kernels is None
    assert study.facts.saturates is False
    finish(study)
    run = json.loads((tmp_path / "out" / RUN).read_text())
    assert run["kernels"] == {"family": "not applicable"}
    assert run["plan"]["kernels"] is None


def test_a_model_against_itself_is_exactly_equal(tiny_bundle, photographs, tmp_path):
    rows = finish(make(tiny_bundle, find_images(photographs), tmp_path / "out"))
    null = [row for row in rows if (row.comparison, row.precision, row.status) == ("vs_f32", "f32", "ok")]
    assert len(null) == 7
    for row in null:
        assert (row.SIM, row.CC, row.rank_correlation, row.overlap) == (1.0, 1.0, 1.0, 1.0)
        assert row.KLD == pytest.approx(0.0, abs=1e-12)
        assert row.logit_error == 0.0
        assert row.top1_agrees is True


def test_the_null_row_is_a_second_run_and_can_fail(tiny_bundle, photographs, tmp_path, monkeypatch):
    """A runtime whose answers change from run to run is caught; one that was not asked twice could not be."""
    study = make(tiny_bundle, find_images(photographs)[2:4], tmp_path / "out")
    session, noise = study.executor.runner.evaluators[0].deployed["f32"], np.random.default_rng(0)
    real = session.run

    def restless(images, *further):
        return real(images + noise.normal(0, 0.05, images.shape).astype(np.float32), *further)

    monkeypatch.setattr(session, "run", restless)
    null = [row for row in finish(study) if (row.comparison, row.precision, row.status) == ("vs_f32", "f32", "ok")]
    assert len(null) == 2
    for row in null:
        assert row.CC < 1.0
        assert row.logit_error > 0.0


def test_the_null_row_can_be_left_out(tiny_bundle, photographs, tmp_path):
    rows = finish(make(tiny_bundle, find_images(photographs)[:2], tmp_path / "out", null_row=False))
    assert {row.comparison for row in rows if row.precision == "f32"} == {"vs_saliency", "fake_quant_vs_deployed"}
    assert {row.comparison for row in rows if row.precision == "int8"} == set(COMPARISONS)


def test_the_deployed_model_is_shown_what_its_cam_leaves(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)[2:4]
    study = make(tiny_bundle, images, tmp_path / "out", faithfulness=True)
    rows = [row for row in finish(study) if row.comparison == "on_model"]
    assert {(row.image, row.precision) for row in rows} == {(i.name, p) for i in images for p in PRECISIONS}
    # By hand, for one of them: crop times CAM, rounded to pixels, into the same session.
    row = next(row for row in rows if row.precision == "int8")
    maps = study.place.results().maps(images=[row.image])
    stored = next(item.array for item in maps if (item.precision, item.kind) == ("int8", "deployed"))
    cam = normalise(upsample(stored[None], (32, 32)))[0]
    with Image.open(photographs / row.image) as picture:
        crop = tiny_bundle.preprocessing.crop_image(picture.convert("RGB"))
    left = np.rint(crop * cam[..., None]).astype(np.uint8)
    session = study.executor.runner.evaluators[0].deployed["int8"]
    logits = session.run(tiny_bundle.preprocessing.normalise(np.stack([crop, left]))).logits
    before, after = (np.exp(each.astype(float)) / np.exp(each.astype(float)).sum() for each in logits)
    y, o = before[row.target_class], after[row.target_class]
    assert row.drop == pytest.approx(max(0.0, y - o) / y, abs=1e-3)  # the map is stored in float32
    assert row.increase == (o > y)


def test_every_image_is_decoded_once_for_all_models_and_precisions(
    tiny_bundle, export_tiny, photographs, tmp_path, monkeypatch
):
    from qcam.images import decoding as module

    other = replace(export_tiny(tmp_path / "other", seed=1), model_id="other")
    decoded = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda path: decoded.append(path.name) or real(path))
    images = find_images(photographs)
    study = Study([tiny_bundle, other], images, None, StudyOptions(PRECISIONS, saliency="none"), tmp_path / "out")
    finish(study)
    assert sorted(decoded) == sorted(image.path.name for image in images)


def test_pictures_show_what_the_network_sees(tiny_bundle, photographs, tmp_path):
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out")
    finish(study)
    pictures = study.place.results().pictures(["imagenet_00_243.jpg", "truncated.jpg"])
    assert [(item.image, item.geometry) for item in pictures] == [("imagenet_00_243.jpg", "resize 36, crop 32×32")]
    with Image.open(io.BytesIO(pictures[0].photo)) as photo, Image.open(photographs / "imagenet_00_243.jpg") as whole:
        crop = tiny_bundle.preprocessing.crop_image(whole.convert("RGB"))
        assert np.abs(np.asarray(photo.convert("RGB")).astype(int) - crop).mean() < 12  # JPEG
    assert pictures[0].saliency is None


def test_negative_activations_are_warned_of_wherever_figures_are(tiny_bundle, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("qcam.evaluate.run.explained.crossings", lambda a, _: np.arange(len(a)))
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out", batch_size=4).prepare("cpu", force=False)
    study.run()
    rows = study.results().rows()
    of_int8 = [row for row in rows if (row.precision, row.comparison) == ("int8", "vs_saliency")]
    known = [row.crossings for row in of_int8 if row.top1 is not None]
    some, count = sum(map(bool, known)), len(known)
    counts = ", ".join(f"{name} {some} of {count}" for name in ("f32", "int16", "int8"))
    (warning,) = [text for text in study.warnings(study.results()) if "denominator" in text]
    assert warning.startswith("tiny: activations at the CAM layer are negative")
    assert f"CAMs of {counts} images" in warning
    assert "{cam} gradcam++-relu" in warning
    assert in_options(warning) in study.results().record.warnings
    assert {row.crossings for row in rows if row.status.startswith("refused")} == {None}


def narrowed(graph, floats):
    """Half of every range: the network was calibrated such that it clips next to nothing."""
    return tuple(replace(of, lowest=of.lowest / 2, highest=of.highest / 2) for of in quantizer_ranges(graph, floats))


def test_what_quantizers_clip_is_summed_over_the_images_that_were_run(tiny_bundle, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("qcam.runtime.mirror.program.quantizer_ranges", narrowed)
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out", batch_size=4).prepare("cpu", force=False)
    study.run()
    results = study.results()
    counted = pq.read_table(tmp_path / "out" / CLIPPING).to_pylist()
    run = {row.image for row in results.rows() if row.top1 is not None}
    assert [(row["image"], row["precision"]) for row in counted] == [
        (image.name, name) for image in find_images(photographs) if image.name in run for name in ("int16", "int8")
    ]
    for told in results.statistics.clipping:
        rows = [row for row in counted if row["precision"] == told.precision]
        assert told.images == len(rows) == len(run)
        assert [tensor.name for tensor in told.tensors] == rows[0]["tensors"]
        for place, tensor in enumerate(told.tensors):
            values = sum(row["values"][place] for row in rows)
            assert tensor.n == values > 0
            assert tensor.low == pytest.approx(sum(row["low"][place] for row in rows) / values)
            assert tensor.high == pytest.approx(sum(row["high"][place] for row in rows) / values)
            assert (tensor.below, tensor.above) == tuple(max(row[key][place] for row in rows) for key in ("below", "above"))
            assert tensor.error == pytest.approx(12 * sum(row["squares"][place] for row in rows) / values)
            assert (tensor.low + tensor.high > 0) == (tensor.below + tensor.above > 0) == (tensor.error > 0)
    assert any(tensor.high > 0 for told in results.statistics.clipping for tensor in told.tensors)
    lines = [line for line in results.record.notes if "quantized tensors clip" in line]
    assert lines == clipping_lines(results.statistics.clipping, {"tiny": tiny_bundle.calibration.images})
    assert [line.partition(": ")[0] for line in lines] == ["tiny, int16", "tiny, int8"]


def test_images_that_calibrated_the_bundle_are_warned_of_wherever_figures_are(tiny_bundle, tmp_path):
    images = [*evaluation_photographs()[:2], *calibration_photographs()[:1]]
    study = make(tiny_bundle, images, tmp_path / "out").prepare("cpu", force=False)
    study.run()
    results = study.results()
    told = "1 of 3 images calibrated tiny: its ranges fit them; evaluate on others"
    assert [text for text in results.record.warnings if "calibrated" in text] == [told]
    assert told in study.warnings(results)
    write_tables(results)
    assert told in (tmp_path / "out" / TABLE).read_text()
    plain = make(tiny_bundle, images[:2], tmp_path / "plain").prepare("cpu", force=False)
    plain.run()
    assert not any("calibrated" in text for text in plain.results().record.warnings)


def test_without_the_simulation_nothing_is_said_of_clipping(tiny_bundle, photographs, tmp_path):
    study = make(tiny_bundle, find_images(photographs)[:4], tmp_path / "out", fake_quant=False).prepare("cpu", force=False)
    study.run()
    assert pq.read_table(tmp_path / "out" / CLIPPING).num_rows == 0
    assert study.results().statistics.clipping == ()
    assert not any("clip" in line for line in study.results().record.notes)


def test_results_from_before_clipping_was_counted_are_gone_on_from(tiny_bundle, photographs, tmp_path, monkeypatch):
    """They are complete as they are; with a larger limit, clipping is told of the images that came later."""
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    images = [image for image in find_images(photographs) if image.name.startswith("imagenet")][:4]
    finish(make(tiny_bundle, images[:2], tmp_path / "out", batch_size=2))
    run = json.loads((tmp_path / "out" / RUN).read_text())
    del run["files"][CLIPPING]
    write_run(tmp_path / "out" / RUN, run)
    (tmp_path / "out" / CLIPPING).unlink()
    assert make(tiny_bundle, images[:2], tmp_path / "out", batch_size=2).prepare("cpu", force=False).complete
    study = make(tiny_bundle, images, tmp_path / "out", batch_size=2).prepare("cpu", force=False)
    assert study.todo == [1]
    study.run()
    assert {told.images for told in study.results().statistics.clipping} == {2}
    assert study.results().record.complete


def test_methods_without_a_denominator_count_nothing(tiny_bundle, photographs, tmp_path):
    rows = finish(make(tiny_bundle, find_images(photographs), tmp_path / "out", method="gradcam++-relu"))
    assert {row.crossings for row in rows} == {None}


def test_the_summary_counts_what_is_undefined_and_averages_the_rest(tiny_bundle, photographs, tmp_path):
    rows = finish(make(tiny_bundle, find_images(photographs), tmp_path / "out"))
    entries = {(e["precision"], e["comparison"], e["metric"]): e for e in entries_of(rows)}
    found = entries[("int8", "vs_f32", "CC")]
    values = [row.CC for row in rows if (row.precision, row.comparison) == ("int8", "vs_f32") and row.CC is not None]
    assert (found["n"], found["undefined"]) == (7, 4)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["std"] == pytest.approx(np.std(values))
    saliency = entries[("int8", "vs_saliency", "CC")]
    assert (saliency["mean"], saliency["n"], saliency["undefined"]) == (None, 0, 11)
    assert entries[("int8", "fake_quant_vs_deployed", "codes_equal")]["n"] == 7
    assert ("f32", "fake_quant_vs_deployed", "codes_equal") not in entries


def test_constant_maps_are_counted_and_never_in_a_mean(export_tiny, photographs, tmp_path):
    bundle = export_tiny(tmp_path / "dead", dead=True)
    rows = finish(make(bundle, find_images(photographs), tmp_path / "out"))
    decoded = [row for row in rows if not row.status.startswith("refused")]
    assert {row.status for row in decoded if row.comparison != "vs_saliency"} == {"constant_cam"}
    assert all(row.SIM is None and row.CC is None and row.KLD is None for row in rows)
    assert all(entry["n"] == 0 for entry in entries_of(rows) if entry["metric"] in ("SIM", "CC", "KLD"))


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_run_goes_on_and_ends_like_an_uninterrupted_one(
    tiny_bundle, photographs, tmp_path, monkeypatch, stop_after
):
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    images = find_images(photographs)
    whole = finish(make(tiny_bundle, images, tmp_path / "whole", batch_size=2))

    real = ShardRunner.evaluate

    def interrupted(self, *arguments):
        for done, outcomes in enumerate(real(self, *arguments)):
            if done == stop_after:
                raise KeyboardInterrupt
            yield outcomes

    monkeypatch.setattr(ShardRunner, "evaluate", interrupted)
    study = make(tiny_bundle, images, tmp_path / "out", batch_size=2)
    study = study.prepare("cpu", force=False)
    with pytest.raises(KeyboardInterrupt):
        study.run()
    partial = read_rows(tmp_path / "out" / RESULTS)
    assert len(partial) == stop_after * 2 * len(PRECISIONS) * len(COMPARISONS)
    assert json.loads((tmp_path / "out" / RUN).read_text())["complete"] is False

    monkeypatch.setattr(ShardRunner, "evaluate", real)
    resumed = finish(make(tiny_bundle, images, tmp_path / "out", batch_size=2))
    assert comparable(resumed) == comparable(whole)
    maps = [pq.read_table(tmp_path / folder / MAPS).to_pylist() for folder in ("whole", "out")]
    assert maps[0] == maps[1]


def test_a_finished_run_is_not_run_again(tiny_bundle, photographs, tmp_path, monkeypatch):
    images = find_images(photographs)
    first = finish(make(tiny_bundle, images, tmp_path / "out"))
    monkeypatch.setattr(BundleEvaluator, "evaluate_all", lambda *_: pytest.fail("evaluated again"))
    assert comparable(finish(make(tiny_bundle, images, tmp_path / "out"))) == comparable(first)


def test_results_of_other_settings_are_refused_by_name(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)
    finish(make(tiny_bundle, images, tmp_path / "out"))
    before = (tmp_path / "out" / RESULTS).read_bytes()
    changes = [
        (images, {"target": "own-top1"}, "target f32-top1 → own-top1"),
        (images, {"settings": SessionSettings(config={"a.b": "1"})}, r"session_config \(none\) → a\.b=1"),
        (images[:3], {}, "only the first 3 of 11 images, as a smaller limit takes them"),
    ]
    for some, options, named in changes:
        with pytest.raises(QcamError, match=f"holds results of other settings .*{named}"):
            make(tiny_bundle, some, tmp_path / "out", **options).prepare("cpu", force=False)
    assert (tmp_path / "out" / RESULTS).read_bytes() == before
    assert len(finish(make(tiny_bundle, images[:3], tmp_path / "out"), force=True)) == 3 * 9


def test_a_changed_image_is_noticed(tiny_bundle, photographs, tmp_path):
    finish(make(tiny_bundle, find_images(photographs), tmp_path / "out"))
    Image.new("RGB", (50, 40), (200, 10, 10)).save(photographs / "gray.png")
    with pytest.raises(QcamError, match=r"other settings \(1 changed: gray\.png\); give another folder, output .*/out-2, or"):
        make(tiny_bundle, find_images(photographs), tmp_path / "out").prepare("cpu", force=False)
    (photographs / "empty.jpg").rename(photographs / "hollow.jpg")
    with pytest.raises(QcamError, match=r"1 changed: gray\.png; 1 new: hollow\.jpg; 1 gone: empty\.jpg"):
        make(tiny_bundle, find_images(photographs), tmp_path / "out").prepare("cpu", force=False)


def test_an_image_that_changes_while_the_run_goes_on_is_an_error(tiny_bundle, photographs, tmp_path):
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out")
    study = study.prepare("cpu", force=False)
    Image.new("RGB", (50, 40), (200, 10, 10)).save(photographs / "gray.png")
    with pytest.raises(QcamError, match=r"gray\.png changed while the run was going on"):
        study.run()


def test_force_deletes_nothing_that_is_not_ours(tiny_bundle, photographs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    finish(make(tiny_bundle, find_images(photographs)[:2], tmp_path / "out"), force=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(("batch_size", "threads", "backwards"), [(1, 2, False), (3, 2, False), (64, 1, False), (64, 2, True)])
def test_figures_do_not_depend_on_batch_threads_or_order(tiny_bundle, photographs, tmp_path, batch_size, threads, backwards):
    images = find_images(photographs)
    options = StudyOptions(PRECISIONS, SessionSettings(threads=threads), saliency="none", batch_size=batch_size)
    given = images[::-1] if backwards else images
    one = finish(Study([tiny_bundle], given, None, options, tmp_path / "one"))
    other = finish(make(tiny_bundle, images, tmp_path / "other", batch_size=64))
    key = lambda row: (row.image, row.precision, row.comparison)  # noqa: E731
    for a, b in zip(sorted(one, key=key), sorted(other, key=key), strict=True):
        assert key(a) == key(b)
        assert (a.top1, a.status, a.target_class) == (b.top1, b.status, b.target_class)
        # How PyTorch adds floats depends on the number of images on some CPUs, and a simulated code at a tie is then one apart.
        bound = 5e-3 if a.comparison == "fake_quant_vs_deployed" else 1e-5
        for name in ("SIM", "CC", "KLD", "rank_correlation", "overlap"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=bound), a


def test_deployed_int8_maps_are_equal_bit_by_bit_whatever_batch_threads_or_order(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)
    found = []
    for batch_size, threads, given in [(64, 2, images), (1, 2, images), (3, 1, images), (5, 2, images[::-1])]:
        folder = tmp_path / f"{batch_size}-{threads}"
        settings = SessionSettings(threads=threads)
        options = StudyOptions(("int8",), settings, "none", "own-top1", batch_size=batch_size, fake_quant=False)
        finish(Study([tiny_bundle], given, None, options, folder))
        table = pq.read_table(folder / MAPS).to_pylist()
        found.append({(row["image"], row["kind"]): row["values"] for row in table})
    assert len(found[0]) >= 4
    assert all(other == found[0] for other in found[1:])


def test_labels_give_accuracy_and_can_be_explained(tiny_bundle, photographs, tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\nimagenet_00_243.jpg,class 3\nimagenet_01_559.jpg,class 4\n")
    images = with_labels(find_images(photographs), tiny_bundle.classes, tmp_path / "labels.csv")
    rows = finish(make(tiny_bundle, images, tmp_path / "out", target="label"))
    explained = {row.image: row.target_class for row in rows if row.status == "ok"}
    assert explained == {"imagenet_00_243.jpg": 3, "imagenet_01_559.jpg": 4}
    assert any(row.status.startswith("refused: no label") for row in rows)
    accuracy = [entry for entry in entries_of(rows) if entry["metric"] == "accuracy"]
    assert [entry["n"] for entry in accuracy] == [2, 2, 2]


def test_own_top1_explains_each_precisions_choice(tiny_bundle, photographs, tmp_path):
    rows = finish(make(tiny_bundle, find_images(photographs), tmp_path / "out", target="own-top1"))
    assert all(row.target_class == row.top1 for row in rows if row.top1 is not None)


def test_masks_are_the_reference_under_the_same_crop(tiny_bundle, photographs, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("imagenet_00_243.jpg", "imagenet_01_559.jpg"):
        with Image.open(photographs / name) as image:
            ramp = np.linspace(0, 255, image.width)[None].repeat(image.height, 0).astype(np.uint8)
        Image.fromarray(ramp).save(masks / (name[:-4] + ".png"))
    Image.new("L", (7, 7)).save(masks / "imagenet_02_438.png")
    (fifth,) = photographs.glob("imagenet_04_*.jpg")
    with Image.open(fifth) as image:
        areas = np.arange(image.width)[None].repeat(image.height, 0) * 3 // image.width  # ids or levels, who knows
    Image.fromarray(np.array([0, 128, 200], np.uint8)[areas]).save(masks / f"{fifth.stem}.png")
    source = open_saliency(f"masks:{masks}")
    options = StudyOptions(precisions=PRECISIONS, saliency="masks")
    rows = finish(Study([tiny_bundle], find_images(photographs), source, options, tmp_path / "out"))
    status = {row.image: row.status for row in rows if row.comparison == "vs_saliency" and row.precision == "int8"}
    assert status["imagenet_00_243.jpg"] == status["imagenet_01_559.jpg"] == "ok"
    assert "imagenet_02_438.png is 7×7, the image" in status["imagenet_02_438.jpg"]
    assert status["imagenet_03_990.jpg"] == "no_reference: no mask named imagenet_03_990.* in the mask folder"
    # A file has the words of the commands.
    assert status[fifth.name].endswith("may be ids or grey levels; say which with --mask-classes (any, levels, or the ids)")


def test_f32_comes_along_as_the_reference(tiny_bundle, photographs, tmp_path):
    options = StudyOptions(precisions=("int8",), fake_quant=False)
    rows = finish(Study([tiny_bundle], find_images(photographs), None, options, tmp_path / "out"))
    assert {(row.precision, row.comparison) for row in rows} == {
        (precision, comparison) for precision in ("f32", "int8") for comparison in ("vs_saliency", "vs_f32")
    }


def test_a_bundle_without_f32_is_not_compared_with_it(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)
    bundle = replace(tiny_bundle, precisions=tuple(entry for entry in tiny_bundle.precisions if entry.name != "f32"))
    with pytest.raises(QcamError, match="target f32-top1 needs precision f32"):
        Study([bundle], images, None, StudyOptions(precisions=("int8",)), tmp_path / "out")
    options = StudyOptions(precisions=("int8",), target="own-top1", fake_quant=False, null_row=False)
    rows = finish(Study([bundle], images, None, options, tmp_path / "out"))
    assert {row.comparison for row in rows} == {"vs_saliency"}


def test_two_bundles_of_one_model_are_refused(tiny_bundle, photographs, tmp_path):
    options = StudyOptions(precisions=PRECISIONS)
    with pytest.raises(QcamError, match=r"two bundles of the same model .* apart, each with its own output, and"):
        Study([tiny_bundle, tiny_bundle], find_images(photographs), None, options, tmp_path / "out")


def test_the_order_in_which_precisions_are_asked_for_changes_nothing(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)
    rows = []
    for number, precisions in enumerate((("f32", "int8"), ("int8", "f32"), ("int8", "f32", "int8"))):
        options = StudyOptions(precisions=precisions, saliency="none")
        rows.append(comparable(finish(Study([tiny_bundle], images, None, options, tmp_path / str(number)))))
    assert rows[0] == rows[1] == rows[2]


def test_a_precision_that_the_bundle_lacks_is_an_error(export_tiny, photographs, tmp_path):
    bundle = export_tiny(tmp_path / "b", precisions=("f32",))
    with pytest.raises(QcamError, match=r"holds no int(8|16), only f32"):
        make(bundle, find_images(photographs), tmp_path / "out")
    everything = Study([bundle], find_images(photographs), None, StudyOptions(precisions=()), tmp_path / "out")
    assert {row.precision for row in finish(everything)} == {"f32"}


def test_logits_that_are_no_numbers_are_named_and_never_averaged(tiny_bundle, photographs, tmp_path, monkeypatch):
    real = BundleEvaluator._deployed_run

    def broken(self, precision, *arguments, **options):
        run, targets = real(self, precision, *arguments, **options)
        if precision == "int8":
            run.logits[0, 3] = np.nan
        return run, targets

    monkeypatch.setattr(BundleEvaluator, "_deployed_run", broken)
    rows = finish(make(tiny_bundle, find_images(photographs)[:1], tmp_path / "out"))
    for row in rows:
        if row.precision == "int8" and row.image == find_images(photographs)[0].name and not row.status.startswith("refused"):
            assert row.status.startswith("not_finite")
            assert (row.top1, row.top1_agrees, row.logit_error, row.CC) == (None, None, None, None)


def spoiling(monkeypatch, study, spoil, *, always=False):
    """Let something happen to the parts when the third shard is finished; once, or in every round."""
    real = study.executor.runner.evaluate
    rounds = []

    def evaluate(*arguments):
        rounds.append(len(arguments[0]))
        for done, outcomes in enumerate(real(*arguments)):
            yield outcomes
            if done == min(2, rounds[-1] - 1) and (always or len(rounds) == 1):
                spoil(study)

    monkeypatch.setattr(study.executor.runner, "evaluate", evaluate)
    return rounds


def part_files(study):
    return sorted((study.place.folder / "parts").glob("*.parquet"))


def swap(study):
    first, second = part_files(study)[:2]
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


SPOILS = {
    "deleted": (lambda study: part_files(study)[0].unlink(), 1, ""),
    "truncated": (lambda study: part_files(study)[0].write_bytes(part_files(study)[0].read_bytes()[:-9]), 1, "is damaged"),
    "swapped": (swap, 2, "is damaged"),
}


@pytest.mark.parametrize("kind", SPOILS)
@pytest.mark.usefixtures("on_terminal")
def test_parts_that_are_spoilt_before_they_are_joined_are_done_again(
    tiny_bundle, photographs, tmp_path, monkeypatch, capsys, kind
):
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    finish(make(tiny_bundle, find_images(photographs), tmp_path / "whole", batch_size=2))
    spoil, shards, said = SPOILS[kind]
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out", batch_size=2)
    rounds = spoiling(monkeypatch, study, spoil)
    finish(study)
    assert rounds == [6, shards]
    assert said in capsys.readouterr().err
    for name in (RESULTS, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY, PLACEMENT):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((tmp_path / "out" / RUN).read_text())["complete"] is True


def test_a_disk_that_damages_parts_again_and_again_ends_the_run(tiny_bundle, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out", batch_size=2)
    spoiling(monkeypatch, study, lambda study: part_files(study)[0].write_bytes(b""), always=True)
    study = study.prepare("cpu", force=False)
    with pytest.raises(QcamError, match=r"damaged or vanish again and again \(shards 0 "):
        study.run()
    run = json.loads((tmp_path / "out" / RUN).read_text())
    assert run["complete"] is False
    assert len({row.image for row in study.place.results().rows()}) == 9


def test_complete_is_not_said_before_every_image_has_its_rows(tiny_bundle, photographs, tmp_path, monkeypatch):
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out")
    real = study_module.join_parts

    def losing(*arguments):
        joined = real(*arguments)
        path = tmp_path / "out" / RESULTS
        pq.write_table(pq.read_table(path).slice(1), path)
        joined.files[RESULTS] = sha256_file(path)
        return joined

    monkeypatch.setattr(study_module, "join_parts", losing)
    study = study.prepare("cpu", force=False)
    with pytest.raises(RuntimeError, match=r"does not hold 9 rows of each of 11 images: 1 differ, bomb\.png has 8"):
        study.run()
    assert json.loads((tmp_path / "out" / RUN).read_text())["complete"] is False


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", [RESULTS, REFERENCES, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY, PLACEMENT])
@pytest.mark.parametrize("spoil", [flip, lambda path: path.write_bytes(b"")])
@pytest.mark.usefixtures("on_terminal")
def test_a_file_that_is_not_what_the_run_wrote_is_never_read_as_good(tiny_bundle, photographs, tmp_path, capsys, name, spoil):
    images = find_images(photographs)[:4]
    finish(make(tiny_bundle, images, tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    spoil(tmp_path / "out" / name)
    results = Results(tmp_path / "out")
    read = {
        RESULTS: results.rows, REFERENCES: lambda: results.references("tiny"), MAPS: results.maps,
        PICTURES: lambda: results.pictures(["gray.png"]),
        IMAGES: lambda: results.images, SUMMARY: lambda: results.summary, PLACEMENT: lambda: results.placement,
        CLIPPING: lambda: results.read(CLIPPING),
    }  # fmt: skip
    with pytest.raises(QcamError, match=f"{name} is not the file that the run wrote"):
        read[name]()
    finish(make(tiny_bundle, images, tmp_path / "out"))
    assert f"{name} is not the file that the run wrote" in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {key: value for key, value in after.items() if key != RUN} == {k: v for k, v in before.items() if k != RUN}


def test_none_of_a_hundred_flipped_bits_of_the_record_passes(tiny_bundle, photographs, tmp_path):
    finish(make(tiny_bundle, find_images(photographs)[:1], tmp_path / "out"))
    path = tmp_path / "out" / RUN
    data = path.read_bytes()
    before = json.loads(data)
    chance = random.Random(20261125)
    for _ in range(100):
        flipped = bytearray(data)
        place = chance.randrange(len(data) * 8)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            run = Results(tmp_path / "out").run
        except QcamError:
            continue
        assert run == before  # a space that became another one


@pytest.mark.usefixtures("on_terminal")
def test_results_of_an_earlier_version_open_and_are_said_to_be_unverified(tiny_bundle, photographs, tmp_path, capsys):
    images = find_images(photographs)[:2]
    rows = finish(make(tiny_bundle, images, tmp_path / "out"))
    path = tmp_path / "out" / RUN
    old = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("files", "digest")}
    path.write_text(json.dumps(old))
    (tmp_path / "out" / CLIPPING).unlink()
    results = Results(tmp_path / "out")
    assert not results.verified
    assert comparable(results.rows()) == comparable(rows)
    study = make(tiny_bundle, images, tmp_path / "out")
    assert study.prepare("cpu", force=False).complete
    assert "of an earlier version, without checksums: they are not verified" in capsys.readouterr().err


def test_accuracy_needs_no_f32(tiny_bundle, photographs, tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\nimagenet_00_243.jpg,3\n")
    images = with_labels(find_images(photographs), tiny_bundle.classes, tmp_path / "labels.csv")
    options = StudyOptions(precisions=("int8",), target="own-top1", saliency="none")
    bundle = replace(tiny_bundle, precisions=tuple(entry for entry in tiny_bundle.precisions if entry.name == "int8"))
    rows = finish(Study([bundle], images, None, options, tmp_path / "out"))
    assert [entry["n"] for entry in entries_of(rows) if entry["metric"] == "accuracy"] == [1]


def test_nothing_is_read_of_no_images(tiny_bundle, photographs, tmp_path):
    study = make(tiny_bundle, find_images(photographs)[2:3], tmp_path / "out")
    finish(study)
    assert study.place.results().pictures([]) == study.place.results().maps(images=[]) == []


def test_force_leaves_no_old_figure(tiny_bundle, photographs, tmp_path):
    study = make(tiny_bundle, find_images(photographs)[2:3], tmp_path / "out")
    finish(study)
    (tmp_path / "out" / "figures").mkdir()
    for name in ("overview.svg", "distribution-vs_f32-CC.png", "grid-old.png", "mine.svg"):
        (tmp_path / "out" / "figures" / name).write_text("old")
    finish(make(tiny_bundle, find_images(photographs)[3:4], tmp_path / "out"), force=True)
    assert [path.name for path in (tmp_path / "out" / "figures").iterdir()] == ["mine.svg"]


# ---- the same set with a larger limit; results that were read under other rules


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in (RESULTS, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY, PLACEMENT)}


@pytest.mark.parametrize(("first", "reused"), [(1, 0), (2, 1), (5, 2), (10, 5)])
@pytest.mark.parametrize("whole_before", [True, False])
@pytest.mark.parametrize("references", ["none", pytest.param("all", marks=pytest.mark.long)])
def test_h14_a_larger_limit_of_the_same_set_goes_on_from_there(
    tiny_bundle, photographs, tmp_path, monkeypatch, first, reused, whole_before, references
):
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    images = find_images(photographs)
    finish(make(tiny_bundle, images, tmp_path / "whole", batch_size=2, references=references))
    study = make(tiny_bundle, images[:first], tmp_path / "out", batch_size=2, references=references)
    if whole_before:
        finish(study)
    else:  # killed before the parts were joined
        monkeypatch.setattr(PlannedStudy, "_collect", lambda self, last=False: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish(study)
        monkeypatch.undo()
        monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    evaluated = []
    real = ShardRunner.evaluate

    def counted(self, shards, *arguments):
        evaluated.extend(shards)
        return real(self, shards, *arguments)

    monkeypatch.setattr(ShardRunner, "evaluate", counted)
    study = make(tiny_bundle, images, tmp_path / "out", batch_size=2, references=references)
    study = study.prepare("cpu", force=False)
    assert not study.complete
    assert len(study.todo) == 6 - reused  # what a dry run tells
    study.run()
    assert len(evaluated) == 6 - reused
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert json.loads((tmp_path / "out" / RUN).read_text())["complete"] is True


def test_h14_results_that_were_damaged_are_not_gone_on_from(tiny_bundle, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    images = find_images(photographs)
    finish(make(tiny_bundle, images, tmp_path / "whole", batch_size=2))
    finish(make(tiny_bundle, images[:6], tmp_path / "out", batch_size=2))
    data = bytearray((tmp_path / "out" / MAPS).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out" / MAPS).write_bytes(data)
    finish(make(tiny_bundle, images, tmp_path / "out", batch_size=2))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_h14_a_smaller_limit_or_another_label_is_refused(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)
    finish(make(tiny_bundle, images[:4], tmp_path / "out"))
    with pytest.raises(QcamError, match=r"\(only the first 3 of 4 images, as a smaller limit takes them\)"):
        make(tiny_bundle, images[:3], tmp_path / "out").prepare("cpu", force=False)
    with pytest.raises(QcamError, match=r"other settings \(1 gone: "):  # no limit leaves out the first
        make(tiny_bundle, images[1:4], tmp_path / "out").prepare("cpu", force=False)
    other = [replace(images[0], label=3), *images[1:]]
    with pytest.raises(QcamError, match=r"1 labelled otherwise: .*; 7 new: "):
        make(tiny_bundle, other, tmp_path / "out").prepare("cpu", force=False)
    with pytest.raises(QcamError, match=r"target f32-top1 → own-top1; 7 new: "):
        make(tiny_bundle, images, tmp_path / "out", target="own-top1").prepare("cpu", force=False)


def test_h14_what_differs_is_said_in_options_without_hashes(tiny_bundle, export_tiny, photographs, tmp_path):
    images = find_images(photographs)[:1]
    finish(make(tiny_bundle, images, tmp_path / "out"))
    (tmp_path / "out-2").mkdir()
    other = export_tiny(tmp_path / "other", seed=1)
    settings = SessionSettings(threads=3)
    with pytest.raises(QcamError) as raised:
        make(other, images, tmp_path / "out", settings=settings, batch_size=4, method="gradcam").prepare("cpu", force=False)
    said = str(raised.value)
    for part in ("bundle tiny is another one", "threads 0 → 3", "batch_size 8 → 4", "method gradcam++ → gradcam"):
        assert part in said
    assert said.endswith(f"give another folder, output {tmp_path / 'out-3'}, or force=True to replace them")
    assert not re.search("[0-9a-f]{10}", said.replace(str(tmp_path), ""))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("masks:there", r"salient objects of masks:there: the masks, .*\(mask_classes, mask_void\), are others"),
        ("onnx:there", r"salient objects of onnx:there: .* settings \(saliency_preset, saliency_options\), are others"),
        ("u2netp", r"salient objects of u2netp: .* settings \(saliency_options\), are others"),
    ],
)
def test_h14_other_salient_objects_name_the_options_that_make_them(tiny_bundle, photographs, tmp_path, source, said):
    images = find_images(photographs)[:1]

    def study(fingerprint):
        objects = SpectralSaliency()
        objects.fingerprint = fingerprint
        return Study([tiny_bundle], images, objects, StudyOptions(precisions=("f32",), saliency=source), tmp_path / "out")

    finish(study("a" * 64))
    with pytest.raises(QcamError, match=said):
        study("b" * 64).prepare("cpu", force=False)


def without_reading(path, name="reading"):
    """Make a run.json what an earlier version wrote."""
    run = json.loads(path.read_text())
    del run["plan"][name]
    run.pop("account")
    write_run(path, {key: value for key, value in run.items() if key != "digest"})


def test_results_that_were_read_under_other_rules_are_not_joined_and_still_open(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)[:2]
    rows = finish(make(tiny_bundle, images, tmp_path / "out"))
    without_reading(tmp_path / "out" / RUN)
    for some in (images, find_images(photographs)):
        with pytest.raises(QcamError, match=r"the rules by which images and labels are read \(not said\) → 4"):
            make(tiny_bundle, some, tmp_path / "out").prepare("cpu", force=False)
    assert comparable(Results(tmp_path / "out").rows()) == comparable(rows)


def test_results_that_were_measured_by_other_rules_are_not_joined_and_still_open(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)[:2]
    rows = finish(make(tiny_bundle, images, tmp_path / "out"))
    without_reading(tmp_path / "out" / RUN, "measuring")
    for some in (images, find_images(photographs)):
        with pytest.raises(QcamError, match=r"the rules by which maps are made and compared \(not said\) → 2"):
            make(tiny_bundle, some, tmp_path / "out").prepare("cpu", force=False)
    assert comparable(Results(tmp_path / "out").rows()) == comparable(rows)


def test_a_uniform_picture_is_not_counted_as_clipped(tiny_bundle, photographs, tmp_path):
    Image.new("RGB", (64, 64), (255, 255, 255)).save(photographs / "white.png")
    study = make(tiny_bundle, find_images(photographs), tmp_path / "out")
    finish(study)
    counted = set(pq.read_table(tmp_path / "out" / CLIPPING)["image"].to_pylist())
    assert "gray.png" in counted
    assert "white.png" not in counted


def test_the_rules_of_reading_are_part_of_every_shard_s_key(tiny_bundle, photographs, tmp_path, monkeypatch):
    images = find_images(photographs)[:2]

    def keys():
        study = make(tiny_bundle, images, tmp_path / "out")
        study = study.prepare("cpu", force=False)
        return study.plan.keys

    before = keys()
    monkeypatch.setattr("qcam.evaluate.study.plan.READING", 5)
    assert set(keys()).isdisjoint(before)


def test_the_account_stands_in_the_record(tiny_bundle, photographs, tmp_path):
    account = Account()
    account.add("labels", "1 of 2 images labelled", labelled=1)
    options = StudyOptions(precisions=("f32",), saliency="none")
    finish(Study([tiny_bundle], find_images(photographs)[:1], None, options, tmp_path / "out", account=account))
    found = Results(tmp_path / "out").run["account"]
    assert found == [{"topic": "labels", "text": "1 of 2 images labelled", "counts": {"labelled": 1}}]
    assert [str(line) for line in Results(tmp_path / "out").record.account] == ["labels: 1 of 2 images labelled"]


def test_i3_a_nearly_uniform_picture_has_a_status_and_no_figure_of_maps(tiny_bundle, photographs, tmp_path):
    Image.new("L", (50, 40), 7).save(photographs / "gray.png")
    rows = finish(make(tiny_bundle, find_images(photographs), tmp_path / "out"))
    found = [row for row in rows if row.image == "gray.png"]
    assert {row.status for row in found} == {"nearly_uniform: all but 0.2 % of its pixels lie within 4 of 256 levels"}
    assert all(row.CC is None and row.top1 is not None for row in found)
