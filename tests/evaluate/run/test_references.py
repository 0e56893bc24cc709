"""Reference rows: each is what its name says, of the right images, whatever the batches, and old results do without."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from qcam.common.errors import QcamError
from qcam.common.vocabulary import Reference, words
from qcam.evaluate.maps.cam import closest, enlarge, upsample
from qcam.evaluate.maps.metrics import correlation, similarity
from qcam.evaluate.results.folder import REFERENCES, RUN, Results, Row
from qcam.evaluate.results.parts import DamagedPartError, PartStore, read_part, write_part
from qcam.evaluate.results.summary import _scale
from qcam.evaluate.run.comparing import Compared, SalientObjects
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.run.explained import Run
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.run.protocol import Sample
from qcam.evaluate.run.references import CHANGES, Chosen, centred_gaussian
from qcam.evaluate.saliency.spectral import SpectralSaliency
from qcam.evaluate.study.study import Study
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.images.listing import find_images

CHANGED = [change.value for change in CHANGES]
OBJECTS = ["objects_shuffled", "objects_centred", "objects_best", "objects_area"]


@pytest.fixture
def photographs(tmp_path):
    """Five photographs, of which two are the same picture, and a file that is none."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for image in evaluation_photographs()[:4]:
        shutil.copy(image.path, folder / image.name)
    shutil.copy(sorted(folder.iterdir())[3], folder / "imagenet_04_again.jpg")
    (folder / "text.png").write_text("no picture")
    return folder


def study(bundle, images, folder, references="fast", **options):
    chosen = {"precisions": ("f32", "int8"), "saliency": "spectral", "fake_quant": False} | options
    return Study([bundle], images, SpectralSaliency(), StudyOptions(references=references, **chosen), folder)


def finish(made) -> Results:
    planned = made.prepare("cpu", force=False)
    planned.run()
    return planned.results()


def rows_of(results: Results) -> dict[tuple[str, str], Row]:
    return {(row["image"], row["comparison"]): Row(**row) for row in results.read(REFERENCES).to_pylist()}


def test_a_row_says_what_the_change_does_to_f32_s_own_map(tiny_bundle, photographs, tmp_path):
    results = finish(study(tiny_bundle, find_images(photographs), tmp_path / "out"))
    found = rows_of(results)
    options = StudyOptions(("f32",), target="own-top1", fake_quant=False)
    evaluator = BundleEvaluator.of(tiny_bundle, options)
    evaluator.build("cpu")
    first, *_ = find_images(photographs)
    crop = tiny_bundle.preprocessing.crop_image(decode(first.path).image)
    sha256 = decode(first.path).sha256

    def explained(pixels, label):
        evaluator._target = "label"  # one class for both, whatever the change makes of the scores
        sample = Sample(first.name, sha256, label, "", pixels, None)
        return enlarge(evaluator.explain([sample])["f32"].maps, tiny_bundle.preprocessing.crop)

    label = found[first.name, "jpeg95"].target_class
    plain = explained(crop, label)
    for change in CHANGES:
        row = found[first.name, change.value]
        moved = explained(CHANGES[change](crop, sha256), label)
        assert row.precision == "f32"
        assert pytest.approx(correlation(moved, plain)[0], abs=1e-6) == row.CC
        assert pytest.approx(similarity(moved, plain)[0], abs=1e-6) == row.SIM
        assert row.logit_error > 0


@pytest.mark.parametrize("precisions", [("f32", "int8"), ("int8",)])
def test_a_changed_picture_explains_the_class_of_the_picture_as_it_was(tiny_bundle, photographs, tmp_path, precisions):
    bundle = replace(tiny_bundle, precisions=tuple(of for of in tiny_bundle.precisions if of.name in precisions))
    results = finish(study(bundle, find_images(photographs), tmp_path / "out", precisions=precisions, target="own-top1"))
    base = precisions[0]
    own = {row.image: row.target_class for row in results.rows() if (row.precision, row.comparison) == (base, "vs_saliency")}
    rows = [row for (_, name), row in rows_of(results).items() if name in CHANGED and row.status == "ok"]
    assert len(rows) >= 16
    assert all((row.precision, row.target_class) == (base, own[row.image]) for row in rows)


def test_the_floor_is_the_next_image_of_the_shard_around_its_end(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)[:3]
    results = finish(study(tiny_bundle, images, tmp_path / "out"))
    found = rows_of(results)
    maps = {item.image: item.array[None] for item in results.maps(model="tiny") if item.precision == "f32"}
    names = [image.name for image in images]
    for name, after in zip(names, [*names[1:], names[0]], strict=True):
        shown = [enlarge(maps[each], tiny_bundle.preprocessing.crop) for each in (after, name)]
        assert pytest.approx(correlation(*shown)[0], abs=1e-5) == found[name, "floor"].CC
        assert found[name, "floor"].top1_agrees is None


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_rows_do_not_depend_on_batches(tiny_bundle, photographs, tmp_path, batch_size):
    images = find_images(photographs)
    one = rows_of(finish(study(tiny_bundle, images, tmp_path / "one", batch_size=batch_size)))
    other = rows_of(finish(study(tiny_bundle, images, tmp_path / "other", batch_size=16)))
    assert one.keys() == other.keys() == {(image.name, name) for image in images for name in words(Reference)}
    for key, row in one.items():
        assert (row.status, row.target_class) == (other[key].status, other[key].target_class)
        for name in ("SIM", "CC", "KLD", "energy_in_object", "native_CC"):
            assert getattr(row, name) == pytest.approx(getattr(other[key], name), abs=1e-5), key


def test_what_cannot_be_held_against_the_next_image_says_why(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)
    found = rows_of(finish(study(tiny_bundle, images, tmp_path / "out")))
    *_, third, again, text = [image.name for image in images]
    same = "no_partner: the next image is the same picture"
    assert found[third, "floor"].status == found[third, "objects_shuffled"].status == same
    assert found[again, "floor"].status.startswith("no_partner: there is no next image")
    assert found[again, "jpeg95"].status == "ok"
    assert all(found[text, name].status.startswith("refused: ") for name in words(Reference))
    alone = rows_of(finish(study(tiny_bundle, images[:1], tmp_path / "one")))[images[0].name, "floor"]
    assert alone.status.startswith("no_partner")
    assert alone.CC is None


def test_only_the_first_images_have_rows(tiny_bundle, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("qcam.evaluate.run.options.FAST", 3)
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    images = find_images(photographs)
    fast = rows_of(finish(study(tiny_bundle, images, tmp_path / "fast", batch_size=2)))
    every = rows_of(finish(study(tiny_bundle, images, tmp_path / "all", "all", batch_size=2)))
    assert [name for name, reference in fast if reference == "jpeg95"] == [image.name for image in images[:3]]
    assert len(every) == len(images) * len(Reference)
    for key, row in fast.items():
        assert row.CC == pytest.approx(every[key].CC, abs=1e-6)


def test_without_rows_the_plan_is_that_of_earlier_versions(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)[:2]
    results = finish(study(tiny_bundle, images, tmp_path / "out", "none"))
    assert "references" not in results.run["plan"]["options"]
    assert results.references("tiny") == {}
    assert results.statistics.scale == ()
    with pytest.raises(QcamError, match="references 'some' is unknown; choose one of fast, all, none"):
        StudyOptions(("f32",), references="some")
    with pytest.raises(QcamError, match=r"references \(not said\) → fast"):
        finish(study(tiny_bundle, images, tmp_path / "out", "fast"))
    record = json.loads((tmp_path / "out" / RUN).read_text())
    record = {key: value for key, value in record.items() if key not in ("files", "digest")}
    (tmp_path / "out" / RUN).write_text(json.dumps(record))
    (tmp_path / "out" / REFERENCES).unlink()  # an earlier version's results
    assert Results(tmp_path / "out").references("tiny") == {}
    assert study(tiny_bundle, images, tmp_path / "out", "none").prepare("cpu", force=False).complete


def test_a_part_without_its_reference_rows_is_none(tiny_bundle, photographs, tmp_path):
    images = find_images(photographs)[:2]
    made = study(tiny_bundle, images, tmp_path / "out").prepare("cpu", force=False)
    with_rows = made.plan.parts(made.executor.facts.rows, made.executor.facts.references)
    assert [(part.referenced, part.references) for part in with_rows] == [(2, len(Reference))]
    made.run()
    runner = made.executor.runner
    ((outcomes, _),) = runner.evaluate([images], made.plan.hashes, lambda _: None)
    path = write_part(PartStore(tmp_path / "parts"), with_rows[0], outcomes)
    with pytest.raises(DamagedPartError, match="holds 0 reference rows, not 18"):
        read_part(path, with_rows[0])


def test_the_scale_is_drift_by_what_else_moves_the_same_images(tiny_bundle, photographs, tmp_path):
    results = finish(study(tiny_bundle, find_images(photographs), tmp_path / "out"))
    columns, references = results.columns("tiny"), results.references("tiny")
    told = {(of.precision, of.reference, of.metric): of for of in results.statistics.scale}
    assert {key[0] for key in told} == {"int8"}
    drifted = columns["int8", "vs_f32"]
    drift = {name: 1 - value for name, value in zip(drifted["image"], drifted["CC"], strict=True)}
    moved = references["f32", "jpeg95"]
    known = [index for index, value in enumerate(moved["CC"]) if np.isfinite(value)]
    ratio = sum(drift[moved["image"][index]] for index in known) / sum(1 - moved["CC"][index] for index in known)
    one = told["int8", "jpeg95", "CC"]
    assert one.ratio == pytest.approx(ratio)
    assert one.low <= one.ratio <= one.high
    assert one.n == len(known)
    entries = {(of.comparison, of.metric) for of in results.statistics.entries}
    assert {(name, "CC") for name in (*CHANGED, "floor", *OBJECTS[:3])} <= entries
    assert ("objects_area", "CC") not in entries
    assert ("objects_area", "energy_in_object") in entries


def test_without_units_there_is_no_scale():
    image = np.array(["a"], object)
    columns = {"image": image, "CC": np.array([0.9]), "SIM": np.array([0.9])}
    moved = {"image": image, "CC": np.array([1.0]), "SIM": np.array([np.nan])}
    assert [*_scale("m", {("int8", "vs_f32"): columns}, {("f32", "jpeg95"): moved})] == []


def test_every_value_moves_by_one_level_the_same_way_each_time():
    crop = np.random.default_rng(0).integers(0, 256, (16, 12, 3)).astype(np.uint8)
    moved = CHANGES[Reference.ONE_LEVEL](crop, "ab" * 32)
    inside = (crop > 0) & (crop < 255)
    steps = moved.astype(int) - crop
    assert set(np.unique(steps[inside])) == {-1, 1}
    assert abs(np.mean(steps[inside])) < 0.2
    assert np.array_equal(moved, CHANGES[Reference.ONE_LEVEL](crop, "ab" * 32))
    assert not np.array_equal(moved, CHANGES[Reference.ONE_LEVEL](crop, "cd" * 32))


@pytest.mark.parametrize("quality", [95, 75])
def test_jpeg_is_pillow_s(quality):
    crop = np.random.default_rng(0).integers(0, 256, (16, 12, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "JPEG", quality=quality)
    assert np.array_equal(CHANGES[Reference(f"jpeg{quality}")](crop, ""), np.asarray(Image.open(buffer)))


def test_one_pixel_moves_all_columns_to_the_right():
    crop = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    moved = CHANGES[Reference.ONE_PIXEL](crop, "")
    assert np.array_equal(moved[:, 1:], crop[:, :-1])
    assert np.array_equal(moved[:, 0], crop[:, 0])


def test_the_gaussian_is_scipy_s():
    got = centred_gaussian((7, 10))
    rows, columns = ((np.arange(length) + 0.5) / length for length in (7, 10))
    expected = np.outer(norm.pdf(rows, 0.5, 0.25), norm.pdf(columns, 0.5, 0.25))
    assert np.allclose(got / got.max(), expected / expected.max(), rtol=1e-12)


def test_no_map_of_the_grid_is_closer_than_the_closest():
    rng = np.random.default_rng(0)
    target = rng.random((1, 32, 24)) ** 3
    best = closest(target, (5, 4))
    # Its oracle: least squares over all enlarged unit maps at once, with a constant.
    units = np.stack([upsample(unit.reshape(1, 5, 4), (32, 24)).ravel() for unit in np.eye(20)], axis=1)
    solved = np.linalg.lstsq(units, target.ravel(), rcond=None)[0]
    assert np.allclose(best.ravel(), solved, atol=1e-9)
    largest = correlation(upsample(best, (32, 24)), target)[0]
    for _ in range(50):
        other = best + rng.normal(0, 0.05, best.shape)
        assert correlation(upsample(other, (32, 24)), target)[0] < largest


def test_the_area_is_the_share_of_what_is_known_and_void_has_no_best_map():
    size = (16, 16)
    mask = np.zeros(size, np.float32)
    mask[:8] = 1.0
    void = mask.copy()
    void[:, 12:] = np.nan
    void[:2] = np.nan
    crop = np.zeros((*size, 3), np.uint8)
    samples = [Sample(str(place), str(place), None, "", crop, each, referenced=True) for place, each in enumerate((mask, void))]
    run = Run(np.eye(2, 4, dtype=np.float32), np.random.default_rng(0).random((2, 4, 4)), partial(enlarge, size=size))
    objects = SalientObjects.of([(each.saliency, "") for each in samples], size)
    compared = Compared("m", "f32", "", samples, np.zeros(2, np.int64))
    made = {change: run for change in CHANGED}
    rows = {(row.image, row.comparison): row for row in Chosen.of(samples).rows(compared, run, samples, made, objects)}
    assert rows["0", "objects_area"].energy_in_object == 0.5
    assert rows["1", "objects_area"].energy_in_object == pytest.approx(6 / 14)
    assert rows["0", "objects_best"].CC > 0.9
    assert rows["1", "objects_best"].status.startswith("no_reference: the best map is not sought")
    assert rows["1", "objects_centred"].status == "ok"
