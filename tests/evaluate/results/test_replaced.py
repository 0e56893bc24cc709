"""--force: old results are gone only when a new run has evaluated an image."""

import json
import shutil

import pytest

from qcam.common.errors import QcamError
from qcam.evaluate.results.folder import RUN
from qcam.evaluate.results.replaced import ReplacedResults
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study.study import Study
from qcam.images.embedded import evaluation_photographs
from qcam.images.listing import find_images


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for image in evaluation_photographs()[:4]:
        shutil.copy(image.path, folder / image.name)
    return folder


def make(bundle, folder, output, **options):
    return Study([bundle], find_images(folder), None, StudyOptions(("f32", "int8"), saliency="none", **options), output)


def run(study, *, force=False):
    study.recover()
    planned = study.prepare("cpu", force=force)
    if not planned.complete:
        planned.run()


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def before(tiny_bundle, photographs, tmp_path):
    """Complete results, with a report, a figure and somebody's own file."""
    out = tmp_path / "out"
    run(make(tiny_bundle, photographs, out))
    (out / "figures").mkdir()
    for name in ("report.html", "figures/grid-tiny.svg", "mine.txt"):
        (out / name).write_text(name)
    return content(out)


def broken_provider(*_):
    raise QcamError("the provider fails with its first batch")


def interrupted(*_):
    raise KeyboardInterrupt


def bug(*_):
    raise ZeroDivisionError


@pytest.mark.parametrize("what", [broken_provider, interrupted, bug])
def test_a_run_that_evaluates_nothing_leaves_what_was_there(tiny_bundle, photographs, tmp_path, before, monkeypatch, what):
    monkeypatch.setattr(BundleEvaluator, "evaluate_all", what)
    study = make(tiny_bundle, photographs, tmp_path / "out", method="gradcam")
    with pytest.raises((QcamError, KeyboardInterrupt, ZeroDivisionError)):
        run(study, force=True)
    assert study.place.kept_old
    assert content(tmp_path / "out") == before


def test_images_that_are_all_refused_leave_what_was_there(tiny_bundle, tmp_path, before):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(QcamError, match="not one of 1 image could be evaluated"):
        run(make(tiny_bundle, folder, tmp_path / "out"), force=True)
    assert content(tmp_path / "out") == before


def test_labels_that_are_all_missing_leave_what_was_there(tiny_bundle, photographs, tmp_path, before):
    with pytest.raises(QcamError, match="not one of 4 images"):
        run(make(tiny_bundle, photographs, tmp_path / "out", target="label"), force=True)
    assert content(tmp_path / "out") == before


def test_a_run_that_evaluates_replaces_all_but_what_is_not_ours(tiny_bundle, photographs, tmp_path, before):
    study = make(tiny_bundle, photographs, tmp_path / "out", method="gradcam")
    run(study, force=True)
    assert not study.place.kept_old
    after = content(tmp_path / "out")
    assert after.keys() == before.keys() - {"report.html", "figures/grid-tiny.svg"}
    assert after["results.parquet"] != before["results.parquet"]
    assert json.loads(after[RUN])["plan"]["options"]["method"] == "gradcam"


def test_parts_of_an_unfinished_run_come_back_too(tiny_bundle, photographs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    (out / "parts" / "000000-abababababababab-cdcdcdcdcdcdcdcd.parquet").write_bytes(b"a part")
    (out / RUN).write_text('{"schema_version": 2, "plan": {}}')
    before = content(out)
    monkeypatch.setattr(BundleEvaluator, "evaluate_all", broken_provider)
    with pytest.raises(QcamError):
        run(make(tiny_bundle, photographs, out), force=True)
    assert content(out) == before


def test_what_cannot_be_deleted_is_forgotten_all_the_same(tiny_bundle, photographs, tmp_path, before, monkeypatch):
    monkeypatch.setattr("qcam.evaluate.results.replaced.shutil.rmtree", lambda *_, **__: None)  # as with open files on NFS
    study = make(tiny_bundle, photographs, tmp_path / "out", method="gradcam")
    run(study, force=True)
    assert not study.place.kept_old
    assert json.loads((tmp_path / "out" / RUN).read_text())["complete"] is True
    monkeypatch.undo()
    run(make(tiny_bundle, photographs, tmp_path / "out", method="gradcam++"), force=True)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moves", range(10))
def test_killed_while_an_unfinished_run_is_set_aside_nothing_of_it_is_lost(
    tiny_bundle, photographs, tmp_path, monkeypatch, moves
):
    """Old parts hold figures: they must not be taken for those of the new run."""
    out = tmp_path / "out"
    monkeypatch.setattr("qcam.evaluate.study.plan.SHARD_SIZE", 2)
    first = make(tiny_bundle, photographs, out, batch_size=2)
    real = first.executor.runner.evaluate

    def half(*arguments):
        yield next(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(first.executor.runner, "evaluate", half)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    old = content(out)
    assert len([name for name in old if name.startswith("parts/")]) == 1
    left = [moves]
    real_move = type(out).replace

    def dying(self, target):
        if ".replaced" in str(self) + str(target):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        return real_move(self, target)

    second = make(tiny_bundle, photographs, out, batch_size=2, method="gradcam")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", dying)
        patch.setattr(BundleEvaluator, "evaluate_all", broken_provider)
        with pytest.raises((Killed, QcamError)):
            run(second, force=True)
    make(tiny_bundle, photographs, out, batch_size=2).recover()
    assert content(out) == old


@pytest.mark.parametrize("moves", range(14))
def test_killed_at_any_move_it_comes_back_whole(tmp_path, monkeypatch, moves):
    """The process dies at each of its moves, setting aside and bringing back; the next one brings all back."""
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    (out / "figures").mkdir()
    names = ["run.json", "results.parquet", "figures/a.png", "parts/000000.parquet"]
    for name in names:
        (out / name).write_text(f"old {name}")

    def ours():
        found = [path.relative_to(out).as_posix() for path in [*out.glob("*"), *out.glob("figures/*")] if path.is_file()]
        return sorted(found)

    left = [moves]

    def dying(real):
        def move(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        return move

    old = ReplacedResults(out, ours)
    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "touch", "mkdir"):
            patch.setattr(f"pathlib.Path.{name}", dying(getattr(type(out), name)))
        try:
            old.set_aside()
            with monkeypatch.context() as alive:
                alive.setattr("pathlib.Path.mkdir", type(tmp_path).mkdir)
                left[0] += 2
                (out / "parts").mkdir()
                for name in ("run.json", "images.parquet"):
                    (out / name).write_text("new")
            old.bring_back()
        except Killed:
            pass
    if old.there:
        ReplacedResults(out, ours).bring_back()
    assert content(out) == {name: f"old {name}".encode() for name in names}
