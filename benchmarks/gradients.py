"""What the arithmetic of the tail decides of a gradient: a section of docs/fidelity.md.

    python benchmarks/gradients.py [BUNDLE]... [--images N] [--kernel vnni|avx2|arm64]... [--page docs/fidelity.md]

The tail of a mirror is fed with the tap that a family's real kernels gave (natively or under qemu, see `make emulators`). It
runs forward once in float32 and once in that family's arithmetic. Where gates behind the tap open otherwise, gradients differ.
Behind a default CAM layer there is often no gate: bundles with early and signed ones are the ones to take. Without BUNDLE,
EfficientNet-Lite0 is exported with its real weights and an early CAM layer, and VGG-16 with seeded ones. Finished figures are
kept in build/fidelity, and `fidelity.py` takes them from there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import fingerprint, readable_json, write_atomically
from qcam.common.vocabulary import CamMethod
from qcam.evaluate.check.slopes import Slopes, best
from qcam.evaluate.maps.cam import enlarge
from qcam.evaluate.maps.metrics import correlation
from qcam.evaluate.run.explained import explain
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.models.sources import load_model
from qcam.runtime.bundle import Bundle, PrecisionEntry, load_bundle, load_onnx
from qcam.runtime.deployed import DeployedOutputs, SessionSettings
from qcam.runtime.deployed.tail_session import TailSession
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror import Mirror

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "emulation"))
from emulated import EmulatedModel, where_to_run
from emulation import NATIVE, why_not

#: Where no bundle is given: name of the folder → model, weights, CAM layer.
NETWORKS = {"efficientnet_lite0-blocks.4": ("efficientnet_lite0", None, "blocks.4"), "vgg16": ("vgg16", "random:0", None)}
BUILD = Path("build") / "fidelity"
BATCH = 4
#: Relative difference of two gradients up to which they only round otherwise: 1e-6 was the most without another gate.
ROUNDING = 1e-5
#: How sections and sentences of the page begin.
HEADING = "## The tail's gradient with and without exact arithmetic"
QUESTION = "- **Does the tail's gradient need exact arithmetic?**"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
@click.option("--images", "count", default=8, show_default=True, type=click.IntRange(1, 20), help="Photographs.")
@click.option("--kernel", "kernels", multiple=True, type=click.Choice(list(KERNELS)), help="Families; vnni, avx2 by default.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of ONNX Runtime and PyTorch.")
@click.option(
    "--page", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Page whose section and sentence are replaced."
)
def main(bundles: tuple[Path, ...], count: int, kernels: tuple[str, ...], threads: int, page: Path | None) -> None:
    """Measure gradients of both arithmetics at the deployed tap, and put the section into a page."""
    torch.set_num_threads(threads)
    families = [name for name in KERNELS if name in (kernels or ("vnni", "avx2"))]
    for family in families:
        if reason := why_not(where_to_run(family)[0]):
            raise click.ClickException(f"{family}: {reason}")
    for bundle in [load_bundle(folder) for folder in bundles] or [_exported(name) for name in NETWORKS]:
        for family in families:
            click.echo(json.dumps(_measure(bundle, count, family, threads)))
    if page is None:
        console.out.print("\n".join(section()), markup=False)
    else:
        write_atomically(page, replaced(page.read_text(encoding="utf-8")))
        console.out.print(f"written: {page}", markup=False)


def _exported(name: str) -> Bundle:
    folder = BUILD / "bundles" / name
    if (folder / "bundle.json").is_file():
        return load_bundle(folder)
    model, weights, layer = NETWORKS[name]
    console.note(f"exporting {name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    options = ExportOptions(cam_layer=layer, precisions=("int8",))
    return export_bundle(load_model(model, weights), calibration_photographs(), options, folder)


def _measure(bundle: Bundle, count: int, family: str, threads: int) -> dict[str, Any]:
    """Measure one bundle on one family, or read what an earlier run of the same versions measured."""
    what = {"bundle": bundle.fingerprint, "images": count, "versions": machine.versions(), "family": family}
    stored = BUILD / f"gradients-{bundle.folder.name}-{family}-{fingerprint(what)[:12]}.json"
    value: dict[str, Any] = {}
    if stored.is_file():
        value = json.loads(stored.read_text(encoding="utf-8"))
        if value["slopes"]["integer"] is not None or not value["trained"]:
            return value
    kernel, config = where_to_run(family)
    console.note(f"{bundle.model_id}, {bundle.cam_layer.tensor}: int8 on {family} kernels ({kernel})")
    photographs = evaluation_photographs()[:count]
    crops = [bundle.preprocessing.crop_image(decode(photograph.path).image) for photograph in photographs]
    images = bundle.preprocessing.normalise(np.stack(crops))
    model, entry = load_onnx(bundle, "int8"), bundle.precision("int8")
    if value:
        return _kept(stored, value | {"slopes": _slopes_elsewhere(model, entry, images, family, threads)})
    real = EmulatedModel(bundle, "int8", images, family, batch=BATCH, threads=threads, tensors=())
    mirrors = {
        "fake_quant": Mirror(model, entry, tail_only=True),
        "integer": Mirror(model, entry, arithmetic="integer", family=KERNELS[family], tail_only=True, threads=threads),
    }
    slopes = None
    if kernel == NATIVE:
        slopes = Slopes(TailSession(bundle, "int8", SessionSettings(threads=threads, config=config), model=model))
    found = {name: [] if slopes is None else slopes.empty() for name in mirrors}
    method = CamMethod.GRADCAM_PLUS_PLUS_RELU if _signed(entry) else CamMethod.GRADCAM_PLUS_PLUS
    apart: list[float] = []
    equal, agreement = 0, []
    for start in range(0, count, BATCH):
        outputs = real.run(images[start : start + BATCH]).outputs
        targets = outputs.logits.argmax(axis=1)
        gradients: list[torch.Tensor] = []
        maps: list[NDArray[Any]] = []
        for mirror in mirrors.values():
            values = zip(real.taps, (outputs.tap, *outputs.skips), strict=True)
            activation, *skips = (mirror.dequantize(tap, value) for tap, value in values)
            gradients.append(mirror.gradient(activation, targets, skips).flatten(1).double())
            cams = explain(mirror, activation, targets, skips, method=method)
            maps.append(enlarge(cams.maps, bundle.preprocessing.crop))
        plain, exact = gradients
        equal += int((plain == exact).all(dim=1).sum())
        apart += ((plain - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-300)).tolist()
        agreement += correlation(maps[0], maps[1]).tolist()
        if slopes is not None:
            slopes.add(outputs, targets, [(mirror, found[name]) for name, mirror in mirrors.items()])
    finite = [value for value in agreement if np.isfinite(value)]
    chosen = {name: best(steps) for name, steps in found.items()}
    record = {
        "model": bundle.model_id,
        "trained": bundle.trained,
        "layer": f"`{bundle.cam_layer.requested}`" if bundle.cam_layer.requested else "default",
        "signed": _signed(entry),
        "family": family,
        "images": count,
        "follows": mirrors["fake_quant"].follows(KERNELS[family]),
        "equal": equal,
        "relative_differences": apart,
        "cc": float(np.mean(finite)) if finite else None,
        "cc_min": min(finite) if finite else None,
        "slopes": {name: None if step is None else step.correlation for name, step in chosen.items()},
        "versions": machine.versions(),
    }
    if slopes is None and bundle.trained:
        record["slopes"] = _slopes_elsewhere(model, entry, images, family, threads)
    return _kept(stored, record)


def _kept(place: Path, record: dict[str, Any]) -> dict[str, Any]:
    write_atomically(place, readable_json(record))
    return record


class _ExactTail:
    """The tail of an integer mirror, in the place of that of a file that would run under an emulator."""

    def __init__(self, mirror: Mirror) -> None:
        self.entry, self.taps, self._mirror = mirror.entry, (mirror.entry.tap, *mirror.entry.skips), mirror

    def run(self, tap: NDArray[Any], skips: Sequence[NDArray[Any]] = ()) -> NDArray[np.float32]:
        """Return the logits; arguments as of `TailSession.run`."""
        mirror, given = self._mirror, dict(zip(self.taps, (tap, *skips), strict=True))
        values = {told.output: torch.from_numpy(codes.astype(np.float32)) for told, codes in given.items()}
        dequantized = {told.output: mirror.dequantize(told, codes) for told, codes in given.items()}
        values |= dict.fromkeys(mirror._tail._entries, dequantized[self.entry.tap.output])
        values |= {read: dequantized[source] for read, source in mirror._skip_reads.items()}
        with torch.no_grad():
            found: NDArray[np.float32] = mirror._tail.program.run(values, mirror._placed)[self.entry.logits].numpy()
        return found

    def prove(self, outputs: DeployedOutputs) -> None:
        """Refuse a tail that does not give the logits of the whole."""
        if not np.array_equal(self.run(outputs.tap, outputs.skips), outputs.logits):
            raise click.ClickException("the integer mirror's tail gives other logits than the whole mirror")


def _slopes_elsewhere(
    model: onnx.ModelProto, entry: PrecisionEntry, images: NDArray[np.float32], family: str, threads: int
) -> dict[str, float | None]:
    """Return r of both gradients with slopes of the integer mirror of a family, whose codes are those of its kernels."""
    exact = Mirror(model, entry, arithmetic="integer", family=KERNELS[family], threads=threads)
    mirrors = {"fake_quant": Mirror(model, entry, tail_only=True), "integer": exact}
    tail: Any = _ExactTail(exact)
    slopes = Slopes(tail)
    found = {name: slopes.empty() for name in mirrors}
    for start in range(0, len(images), BATCH):
        passed = exact.forward(images[start : start + BATCH])
        taps = zip(tail.taps, (passed.tap, *passed.skips), strict=True)
        tap, *skips = (codes.numpy().astype(told.dtype) for told, codes in taps)
        outputs = DeployedOutputs(passed.logits.numpy(), tap, tuple(skips))
        slopes.add(outputs, outputs.logits.argmax(axis=1), [(mirror, found[name]) for name, mirror in mirrors.items()])
    chosen = {name: best(steps) for name, steps in found.items()}
    return {name: None if step is None else step.correlation for name, step in chosen.items()}


def _signed(entry: PrecisionEntry) -> bool:
    """Tell whether codes at the tap reach below 0."""
    return int(np.iinfo(entry.tap.dtype).min) < entry.tap.zero_point


def stored_records() -> list[dict[str, Any]]:
    """Return all records of these versions, trained networks first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(BUILD.glob("gradients-*.json"))]
    records = [record for record in found if record["versions"] == machine.versions()]
    return sorted(records, key=lambda record: (not record["trained"], record["model"], record["layer"]))


def section() -> list[str]:
    """Return the section, of all records."""
    records = stored_records()
    lines = [
        HEADING,
        "",
        f"`python benchmarks/gradients.py BUNDLE...`, {_counts(records)} photographs, int8. Where trained weights come from: "
        "[measurements.md](measurements.md).",
        "",
        "Both mirrors are fed with the tap that the real kernels gave; straight-through estimator. A gradient passes a ReLU, "
        "a max-pool or a clamp by the value there, and float32 and the kernels may have other values. Another gate: images "
        f"whose two gradients are more than {ROUNDING:.0e} apart, relative to the exact one; rounding alone stays below 1e-6. "
        "CAM CC: both gradients' CAMs at the same tap, Grad-CAM++ (at signed CAM layers `gradcam++-relu`), mean (minimum). "
        "r: of slopes of the deployed tail, at the size of step where it is largest "
        "([check.md](check.md#does-the-deployed-tail-follow-the-gradient)); where the kernels do not run natively, of the "
        "integer mirror, whose codes are theirs. Decided: whether float32 is known to open the same gates, from the graph "
        "alone, so that `qcam-eval` keeps to it. Seeded weights show that the machinery runs, and nothing else.",
        "",
        "| model | weights | CAM layer | kernels | decided | gradients bitwise equal | another gate | relative difference, "
        "median | largest | CAM CC | r, float32 | r, exact |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        apart = record["relative_differences"]
        cc = "–" if record["cc"] is None else f"{_figure(record['cc'])} ({_figure(record['cc_min'])})"
        slopes = " | ".join(_figure(record["slopes"][name]) for name in ("fake_quant", "integer"))
        layer = record["layer"] + (", signed" if record["signed"] else "")
        lines.append(
            f"| {record['model']} | {'trained' if record['trained'] else 'seeded: machinery only'} | {layer} "
            f"| {record['family']} "
            f"| {'float32' if record['follows'] else 'exact'} | {record['equal']} of {record['images']} | {_others(apart)} of "
            f"{record['images']} | {_relative(float(np.median(apart)))} | {_relative(max(apart))} | {cc} | {slopes} |"
        )
    return lines if records else [HEADING, "", "Not measured with these versions: `python benchmarks/gradients.py`."]


def answer() -> str:
    """Answer the question in a sentence, of trained networks alone."""
    records = [record for record in stored_records() if record["trained"]]
    if not records:
        return f"{QUESTION} Not measured with these versions."
    parts = []
    for family in dict.fromkeys(record["family"] for record in records):
        chosen = [record for record in records if record["family"] == family and not record["follows"]]
        if chosen:
            apart = _apart(chosen)
            worst = min((record["cc_min"] for record in chosen if record["cc_min"] is not None), default=None)
            parts.append(
                f"Behind several layers, or where products saturate, float32 opens another gate on {_others(apart)} of "
                f"{len(apart)} images on {family}, gradients are up to {_relative(max(apart))} apart, and CAMs have a CC of at "
                f"least {_figure(worst)}."
            )
    kept = _apart([record for record in records if record["follows"]])
    if kept:
        parts.append(
            f"Where one layer at most stands before a gate, and its sums are exact, it opens another gate on "
            f"{_others(kept)} of {len(kept)} images."
        )
    models = ", ".join(dict.fromkeys(record["model"] for record in records))
    return f"{QUESTION} {' '.join(parts)} (Trained {models}.)"


def _apart(records: Sequence[dict[str, Any]]) -> list[float]:
    return [value for record in records for value in record["relative_differences"]]


def _others(apart: Sequence[float]) -> int:
    return sum(value > ROUNDING for value in apart)


def _relative(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def replaced(page: str) -> str:
    """Return a page with the section and the sentence of these records in the place of those that it has.

    Raises:
        click.ClickException: If it has none.
    """
    for mark in (HEADING, QUESTION):
        if page.count(mark) != 1:
            raise click.ClickException(f"the page has not one place for {mark!r}")
    page = re.sub(rf"^{re.escape(QUESTION)}.*$", lambda _: answer(), page, flags=re.MULTILINE)
    before, rest = page.split(HEADING)
    following = rest.find("\n## ")
    after = "\n" if following < 0 else rest[following:]
    return before + "\n".join(section()) + ("" if following < 0 else "\n") + after


def _counts(records: Sequence[dict[str, Any]]) -> str:
    """Return how many photographs records are of."""
    return " or ".join(str(count) for count in sorted({record["images"] for record in records}))


def _figure(value: float | None) -> str:
    """Return a figure with four digits, never rounded up to 1."""
    if value is None:
        return "–"
    return "> 0.9999" if 0.99995 <= value < 1 - 1e-9 else f"{value:.4f}"


if __name__ == "__main__":
    main()
