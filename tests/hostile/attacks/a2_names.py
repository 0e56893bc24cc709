"""A2: names from files that become names of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.ground import OPTIONS
from hostile.harness import Attack, Outcome, Scene, Verdict, changes, edit_json, fell, held, sign_results, snapshot

_REPORTED = (*(word for word in OPTIONS if word != "--no-report"), "--grid-rows", "2")


def _judge(scene: Scene, before: dict[str, str], outcome: Outcome, output: Path, *names: str) -> Verdict:
    """Nothing may appear outside the output folder, and no file in it with a name that is a trap."""
    after = snapshot(scene.work, but=(output,))
    outside = [name for name in changes(before, after) if scene.work / name not in output.parents]
    if outside:
        done = "deleted" if all(name not in after for name in outside) else "written"
        return fell(f"a file was {done} outside --output")
    if outcome.fault():
        return fell(outcome.fault())
    inside = [path.name for path in output.rglob("*")] if output.is_dir() else []
    if any(not name.isprintable() for name in inside):
        return fell("a file with control characters in its name was written")
    if outcome.code == 0:
        return held("nothing outside --output")
    return outcome.refused(*names)


def _place(scene: Scene) -> Path:
    """Return an output folder with folders of others around it."""
    output = scene.work / "place" / "deep" / "report"
    output.parent.mkdir(parents=True)
    return output


def _bundle_name(name: str) -> Callable[[Scene], Verdict]:
    """Record a bundle under a name that is a path."""

    def run(scene: Scene) -> Verdict:
        out = scene.copy(scene.ground.run)
        told = name.replace("WORK", str(scene.work))

        def edit(record: Any) -> None:
            for model in record["models"].values():
                model["bundle"] = told

        edit_json(out / "run.json", edit)
        sign_results(out)
        output = _place(scene)
        before = snapshot(scene.work)
        return _judge(scene, before, scene.run("qcam-report", out, "--pictures", 2, "--output", output), output, "run.json")

    return run


def _model_id(name: str) -> Callable[[Scene], Verdict]:
    """Evaluate a bundle whose manifest calls the model by a path, and report."""

    def run(scene: Scene) -> Verdict:
        bundle = scene.copy(scene.ground.bundle, "bundle")
        edit_json(bundle / "bundle.json", lambda manifest: manifest["model"].update(id=name))
        output = _place(scene)
        before = snapshot(scene.work)
        words = ("--images", scene.ground.photographs, "--saliency", "none", *_REPORTED, "--precision", "f32", "--limit", 2)
        outcome = scene.run("qcam-eval", bundle, *words, "--output", output)
        verdict = _judge(scene, before, outcome, output, "bundle.json")
        if not verdict.held or outcome.code != 0:
            return verdict
        report = scene.work / "place" / "deep" / "again"
        before = snapshot(scene.work)
        return _judge(scene, before, scene.run("qcam-report", output, "--pictures", 2, "--output", report), report, "run.json")

    return run


def _checked(name: str) -> Callable[[Scene], Verdict]:
    """Give a check of a model whose id is a path."""

    def run(scene: Scene) -> Verdict:
        check = scene.copy(scene.ground.check, "check")

        def edit(value: Any) -> None:
            for item in value["results"]:
                item["model"] = name

        edit_json(check / "check.json", edit)
        output = _place(scene)
        before = snapshot(scene.work)
        outcome = scene.run("qcam-report", scene.ground.run, "--check", check, "--pictures", 2, "--output", output)
        return _judge(scene, before, outcome, output, "check.json")

    return run


def _linked(name: str, target: str) -> Callable[[Scene], Verdict]:
    """Put a link that leads outside where the report writes."""

    def run(scene: Scene) -> Verdict:
        output, elsewhere = _place(scene), scene.work / "elsewhere"
        output.mkdir()
        elsewhere.mkdir()
        (elsewhere / "report.html").write_text("another's")
        (output / name).symlink_to(elsewhere / target)
        before = snapshot(scene.work, but=(output,))
        outcome = scene.run("qcam-report", scene.ground.run, "--pictures", 2, "--output", output)
        return _judge(scene, before, outcome, output, name)

    return run


def _linked_run(scene: Scene) -> Verdict:
    """Put a link that leads outside where qcam-eval's report has its figures."""
    output, elsewhere = _place(scene), scene.work / "elsewhere"
    output.mkdir()
    elsewhere.mkdir()
    (output / "figures").symlink_to(elsewhere)
    before = snapshot(scene.work, but=(output,))
    words = ("--images", scene.ground.photographs, "--saliency", "none", *_REPORTED, "--precision", "f32", "--limit", 2)
    outcome = scene.run("qcam-eval", scene.ground.bundle, *words, "--output", output)
    return _judge(scene, before, outcome, output, "figures")


def _forced_link(scene: Scene) -> Verdict:
    """Let --force delete old figures where figures is a link to another's."""
    output, elsewhere = scene.copy(scene.ground.run), scene.work / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "overview.png").write_bytes(b"another's")
    (output / "figures").symlink_to(elsewhere)
    before = snapshot(scene.work, but=(output,))
    outcome = scene.ground.eval(scene.ground.bundle, "--images", scene.ground.photographs, "--force", output=output)
    return _judge(scene, before, outcome, output, "figures")


def _same_figure(scene: Scene) -> Verdict:
    """Evaluate two models whose bundles lie in folders of one name."""
    one = scene.ground.named_bundle("one", "one/same")
    two = scene.ground.named_bundle("two", "two/same")
    output = scene.work / "out"
    words = ("--images", scene.ground.photographs, "--saliency", "none", *_REPORTED, "--precision", "f32", "--limit", 2)
    outcome = scene.run("qcam-eval", one, two, *words, "--output", output)
    if outcome.fault() or outcome.code:
        return outcome.refused("same")
    grids, figures = len(list(output.glob("grid-*.png"))), len(list(output.glob("figures/grid-*.png")))
    return held("a grid for each") if grids == figures == 2 else fell("one model's grid overwrites the other's")


def _same_letters(scene: Scene) -> Verdict:
    """Evaluate two models whose bundles' names differ in what file names cannot show."""
    one = scene.ground.named_bundle("one", "one/a b")
    two = scene.ground.named_bundle("two", "two/a-b")
    output = scene.work / "out"
    words = ("--images", scene.ground.photographs, "--saliency", "none", *_REPORTED, "--precision", "f32", "--limit", 2)
    outcome = scene.run("qcam-eval", one, two, *words, "--output", output)
    if outcome.fault() or outcome.code:
        return outcome.refused("a-b", "a b")
    grids, figures = len(list(output.glob("grid-*.png"))), len(list(output.glob("figures/grid-*.png")))
    return held("a grid for each") if grids == figures == 2 else fell("one model's grid overwrites the other's")


def _same_depth(scene: Scene) -> Verdict:
    """Give a check of two models whose names become the same file name."""
    check = scene.copy(scene.ground.check, "check")

    def edit(value: Any) -> None:
        value["results"] = [{**item, "model": name} for item in value["results"] for name in ("a/b", "a:b")]

    edit_json(check / "check.json", edit)
    output = scene.work / "report"
    outcome = scene.run("qcam-report", scene.ground.run, "--check", check, "--pictures", 2, "--output", output)
    if outcome.fault() or outcome.code:
        return outcome.refused("check.json")
    charts = len(list(output.glob("figures/depth-*.png")))
    return held("a chart for each") if charts == 2 else fell("one model's chart overwrites the other's")


def _same_run_names(scene: Scene) -> Verdict:
    """Call two runs by names that become the same file name."""
    output = scene.work / "report"
    runs = (scene.ground.run, scene.ground.other_run)
    outcome = scene.run("qcam-report", *runs, "--names", "a/b,a:b", "--pictures", 2, "--output", output)
    if outcome.fault() or outcome.code:
        return outcome.refused("--names")
    grids = len(list(output.glob("figures/grid-*.png")))
    return held("a grid for each") if grids == 2 else fell("one run's grid overwrites the other's")


_LONG = "n" * 5_000
_RUNS = [
    ("run.json: bundle x/../../../name", _bundle_name("x/../../../evil")),
    ("run.json: bundle ../../name", _bundle_name("../../evil")),
    ("run.json: bundle an absolute path", _bundle_name("/WORK/elsewhere/evil")),
    ("run.json: bundle x/ABSOLUTE PATH", _bundle_name("x/../../../../../../../../../../../WORK/evil")),
    ("run.json: bundle ..", _bundle_name("..")),
    ("run.json: bundle with NUL", _bundle_name("a\0b")),
    ("run.json: bundle of 5,000 characters", _bundle_name(_LONG)),
    ("run.json: bundle with newline", _bundle_name("a\nb")),
    ("run.json: bundle with ESC", _bundle_name("a\x1b[31mb")),
    ("run.json: bundle with a lone surrogate", _bundle_name("a\ud800b")),
    ("run.json: bundle is empty", _bundle_name("")),
    ("run.json: bundle with a backslash", _bundle_name("..\\..\\evil")),
    ("model id x/../../../name", _model_id("x/../../../evil")),
    ("model id an absolute path", _model_id("/tmp/evil")),
    ("model id with NUL", _model_id("a\0b")),
    ("model id of 5,000 characters", _model_id(_LONG)),
    ("model id with newline and ESC", _model_id("a\n\x1b[31mb")),
    ("check.json: model x/../../../name", _checked("x/../../../evil")),
    ("check.json: model ..", _checked("..")),
    ("check.json: model with NUL", _checked("a\0b")),
    ("check.json: model of 5,000 characters", _checked(_LONG)),
    ("figures is a link that leads outside", _linked("figures", ".")),
    ("figures is a link to nothing, outside", _linked("figures", "new")),
    ("report.html is a link to another's file", _linked("report.html", "report.html")),
    ("two bundles in folders of one name", _same_figure),
    ("two bundles, names alike as file names", _same_letters),
    ("two models of a check, names alike as file names", _same_depth),
    ("two runs, names alike as file names", _same_run_names),
    ("figures is a link that leads outside, qcam-eval", _linked_run),
    ("figures is a link to another's, qcam-eval --force", _forced_link),
]
ATTACKS = [Attack(f"A2.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
