"""How far simulation is from deployment, and one CPU from another: the tables of docs/fidelity.md.

    python benchmarks/fidelity.py [BUNDLE]... [--images N] [--kernel vnni|avx2|arm64]... [--output docs/fidelity.md]

Each bundle's int8 file runs on the real kernels of each family (natively or under qemu, see `make emulators`) with every
quantized tensor exposed; both arithmetics of the mirror are held against that. Without BUNDLE, the study's models and four
architectures that no rule was fitted on are exported with seeded weights, EfficientNet-Lite0 with its real ones. Finished
figures are kept in build/fidelity and not measured again. The section on gradients comes from what `gradients.py` kept there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from gradients import answer, section
from numpy.typing import NDArray

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import fingerprint, readable_json, write_atomically
from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.held import Wanted
from qcam.evaluate.maps.cam import cam, enlarge
from qcam.evaluate.maps.metrics import correlation
from qcam.exporters.export import ExportOptions, bundle_folder_name, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.models.sources import load_model
from qcam.runtime.bundle import Bundle, load_bundle, load_onnx
from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror import Mirror

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "emulation"))
from emulated import EmulatedModel, where_to_run
from emulation import why_not

#: Model → weights, where no bundle is given.
MODELS = {
    "efficientnet_lite0": None,
    **dict.fromkeys(("vgg16", "resnet50", "densenet121", "mobilenet_v2", "squeezenet1_0", "efficientnet_b0"), "random:0"),
    **dict.fromkeys(("regnet_x_400mf", "mnasnet1_0", "shufflenet_v2_x1_0", "timm:resnet26d"), "random:0"),
}
BATCH = 4
BUILD = Path("build") / "fidelity"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
@click.option("--images", "count", default=20, show_default=True, type=click.IntRange(1, 20), help="Photographs.")
@click.option("--kernel", "kernels", multiple=True, type=click.Choice(list(KERNELS)), help="Families; all by default.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of ONNX Runtime and PyTorch.")
@click.option(
    "--before", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An earlier page, to list what moved."
)
@click.option("--why", default="", help="Markdown beside that list: why it moved.")
@click.option("--output", type=click.Path(path_type=Path), default=BUILD / "fidelity.md", show_default=True, help="Markdown.")
def main(
    bundles: tuple[Path, ...],
    count: int,
    kernels: tuple[str, ...],
    threads: int,
    before: Path | None,
    why: str,
    output: Path,
) -> None:
    """Measure codes, logits and CAMs of both arithmetics against real kernels, and write the tables."""
    torch.set_num_threads(threads)
    families = [name for name in KERNELS if not kernels or name in kernels]
    for family in families:
        if reason := why_not(where_to_run(family)[0]):
            raise click.ClickException(f"{family}: {reason}")
    loaded = [load_bundle(folder) for folder in bundles] or [_exported(name, weights) for name, weights in MODELS.items()]
    records = [_measure(bundle, count, families, threads) for bundle in loaded]
    command = "python benchmarks/fidelity.py" + "".join(f" {folder.name}" for folder in bundles)
    page = _document(records, families, command, count)
    if before is not None:
        page += _moved(before.read_text(encoding="utf-8"), page, why)
    write_atomically(output, page)
    console.out.print(f"written: {output}", markup=False)


def _exported(name: str, weights: str | None) -> Bundle:
    folder = BUILD / "bundles" / bundle_folder_name(name)
    if (folder / "bundle.json").is_file():
        return load_bundle(folder)
    console.note(f"exporting {name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    return export_bundle(load_model(name, weights), calibration_photographs(), ExportOptions(), folder)


def _measure(bundle: Bundle, count: int, families: Sequence[str], threads: int) -> dict[str, Any]:
    """Measure one bundle, or read what an earlier run of the same versions measured."""
    what = {"bundle": bundle.fingerprint, "images": count, "versions": machine.versions(), "families": list(families)}
    key = fingerprint(what)
    stored = BUILD / f"{bundle.folder.name}-{key[:12]}.json"
    if stored.is_file():
        value: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        return value
    photographs = evaluation_photographs()[:count]
    crops = [bundle.preprocessing.crop_image(decode(photograph.path).image) for photograph in photographs]
    images = bundle.preprocessing.normalise(np.stack(crops))
    names = [photograph.name for photograph in photographs]

    def batches() -> Iterator[tuple[Sequence[str], NDArray[np.float32]]]:
        for start in range(0, count, BATCH):
            yield names[start : start + BATCH], images[start : start + BATCH]

    rows: list[dict[str, Any]] = []
    between: list[dict[str, Any]] = []
    first: dict[str, NDArray[Any]] | None = None
    for family in families:
        console.note(f"{bundle.model_id}: int8 on {family} kernels ({where_to_run(family)[0]})")
        real = EmulatedModel(bundle, "int8", images, family, batch=BATCH, threads=threads)
        checker = Checker(bundle, "int8", real, threads=threads)
        wanted = [
            Wanted(arithmetic, KERNELS[family], exact=arithmetic == "integer") for arithmetic in ("fake_quant", "integer")
        ]
        for result in checker.run(batches, wanted)[0]:
            different = result.first_difference()
            rows.append(
                {
                    "arithmetic": result.arithmetic,
                    "kernel": family,
                    **result.figures,
                    "different_codes": sum(tensor.elements - tensor.equal for tensor in result.coded),
                    "elements": sum(tensor.elements for tensor in result.coded),
                    "tensors": len(result.coded),
                    "largest": result.largest_difference,
                    "logit_error": float(np.mean([image.logit_error for image in result.images])),
                    "float_logits": result.tensors[-1].operator.endswith("(float)"),
                    "first": None if different is None else different.operator,
                    "first_share": None if different is None else different.forced_share,
                }
            )
            click.echo(f"  {result.arithmetic}: {result.figures}", err=True)
        values = _deployed(bundle, real, batches)
        if first is None:
            first = values
        else:
            between.append({"kernel": family, **_between(first, values)})
    record = {
        "model": bundle.model_id,
        "trained": bundle.trained,
        "weights": bundle.weights.name,
        "rows": rows,
        "between": between,
        "native": probe_kernels().name,
        "versions": machine.versions(),
    }
    write_atomically(stored, readable_json(record))
    return record


def _deployed(bundle: Bundle, real: EmulatedModel, batches: Any) -> dict[str, NDArray[Any]]:
    """Return logits, CAMs, tap and last codes of a deployed run, over all images."""
    mirror = Mirror(load_onnx(bundle, "int8"), bundle.precision("int8"))
    parts: dict[str, list[NDArray[Any]]] = {"logits": [], "cam": [], "tap": [], "codes": []}
    for _, images in batches():
        inspected = real.run(images)
        outputs = inspected.outputs
        taps = [mirror.dequantize(tap, value) for tap, value in zip(real.taps, (outputs.tap, *outputs.skips), strict=True)]
        targets = outputs.logits.argmax(axis=1)
        gradient = mirror.gradient(taps[0], targets, taps[1:])
        parts["logits"].append(outputs.logits)
        parts["tap"].append(outputs.tap)
        maps = cam(taps[0].numpy(), gradient.numpy())
        parts["cam"].append(enlarge(maps, bundle.preprocessing.crop))
        parts["codes"].append(
            np.concatenate([inspected.codes[name].reshape(len(images), -1) for name in real.tensors], axis=1).astype(np.int16)
        )
    return {name: np.concatenate(values) for name, values in parts.items()}


def _between(first: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> dict[str, Any]:
    values = correlation(other["cam"], first["cam"])
    return {
        "codes": float(np.mean(first["codes"] == other["codes"])),
        "tap": float(np.mean(first["tap"] == other["tap"])),
        "top1": float(np.mean(first["logits"].argmax(1) == other["logits"].argmax(1))),
        "cc": float(np.nanmean(values)) if np.isfinite(values).any() else None,
        "cc_min": float(np.nanmin(values)) if np.isfinite(values).any() else None,
    }


def _document(records: Sequence[dict[str, Any]], families: Sequence[str], command: str, count: int) -> str:
    versions = records[0]["versions"]
    lines = [
        "# Fidelity: what is simulated, what runs, and where",
        "",
        f"`{command}` — {count} photographs, onnxruntime {versions.get('onnxruntime')}, torch {versions.get('torch')}, "
        f"native kernels: {records[0]['native']}, other families under qemu. int8 (u8s8, per channel), CPU provider.",
        "Weights marked “seeded” are random: such nets amplify noise, their rows test the machinery only. Where trained "
        "weights come from: [measurements.md](measurements.md).",
        "",
        "## In short",
        "",
        *_answers(records, families),
        "",
        "## Simulation against deployment",
        "",
        "Codes: share of equal codes, the mirror running from the photograph on. Logits: images whose logits are equal bit for "
        "bit, and the relative error. CAM CC: simulated CAM against deployed CAM, mean (minimum).",
        "",
        "| model | weights | arithmetic | kernels | codes at tap | codes, all tensors | codes compared | logits equal "
        "| logit error | top-1 | CAM CC |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        for row in record["rows"]:
            note = " ¹" if row["float_logits"] else ""
            lines.append(
                f"| {_model(record)} | {row['arithmetic']} | {row['kernel']} | {_share(row['tap'])} | {_share(row['codes'])} "
                f"| {row['elements'] / 1e6:.0f} M | {_share(row['logits'])}{note} | {_error(row['logit_error'])} "
                f"| {_share(row['top1'])} | {_cc(row)} |"
            )
    lines += [
        "",
        "¹ The last operator is a float one, a mean behind the last quantized tensor.",
        "",
    ]
    exact = [(record, row) for record in records for row in record["rows"] if row["arithmetic"] == "integer"]
    inexact = [(record, row) for record, row in exact if row["codes"] < 1]
    if inexact:
        lines += ["Where `integer` falls short, the first operator that differs when fed with the deployed codes:", ""]
        lines += [
            f"- {record['model']} on {row['kernel']}: {row['first']}; {row['different_codes']:,} of {row['elements']:,} differ"
            for record, row in inexact
        ]
    else:
        compared = sum(row["elements"] for _, row in exact)
        lines.append(f"`integer` differs in none of {compared:,} codes.")
    lines += [
        "",
        f"## One CPU against another: the same file, deployed on {families[0]} and on another family",
        "",
        "| model | weights | kernels | codes at tap | codes, all tensors | top-1 | CAM CC |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for record in records:
        for row in record["between"]:
            lines.append(
                f"| {_model(record)} | {row['kernel']} | {_share(row['tap'])} | {_share(row['codes'])} | {_share(row['top1'])} "
                f"| {_cc(row)} |"
            )
    lines += ["", *section()]
    return "\n".join(lines) + "\n"


def _moved(before: str, page: str, why: str) -> str:
    """Return a section that lists the figures of the first table that an earlier page had otherwise."""
    old, new = _rows(before), _rows(page)
    columns = ("codes at tap", "codes, all tensors", "logit error", "top-1", "CAM CC")
    lines = []
    for key, now in new.items():
        was = old.get(key)
        moved = [name for name in columns if was is not None and was[name] != now[name]]
        if was is None:
            lines.append(f"| {' | '.join(key)} | | new | |")
        lines += [f"| {' | '.join(key)} | {name} | {(was or {})[name]} | {now[name]} |" for name in moved]
    gone = [key for key in old if key not in new]
    head = ["", "## Figures that moved", "", why, "", "| model | weights | arithmetic | kernels | figure | before | now |"]
    told = [*head, "|---|---|---|---|---|---:|---:|", *lines, ""] if lines else [*head[:3], "None."]
    if gone:
        told += ["No longer here: " + "; ".join(", ".join(key) for key in gone) + "."]
    return "\n".join(told).rstrip() + "\n"


def _rows(page: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the rows of a page's first table: model, weights, arithmetic and kernels → column → text."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    names: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| model | weights | arithmetic |"):
            names = cells
        elif names and line.startswith("|---"):
            continue
        elif names and line.startswith("|"):
            found[tuple(cells[:4])] = dict(zip(names, cells, strict=True))
        elif names:
            break
    return found


def _answers(records: Sequence[dict[str, Any]], families: Sequence[str]) -> list[str]:
    """Answer the questions in a sentence each; figures of trained networks, as ranges over them."""
    exact = [row for record in records for row in record["rows"] if row["arithmetic"] == "integer"]
    different, compared = (sum(row[name] for row in exact) for name in ("different_codes", "elements"))
    logits = all(row["logits"] == 1 for row in exact if not row["float_logits"])
    lines = [
        f"- **Does the integer mirror compute what the kernels compute?** {different:,} of {compared:,} codes differ, over "
        f"{len(records)} networks and {', '.join(families)}; logits that an integer operator computes are "
        f"{'all' if logits else 'not all'} bitwise equal."
    ]
    trained = [record for record in records if record["trained"]]
    names = ", ".join(record["model"] for record in trained)
    for family in families:
        rows = [row for record in trained for row in record["rows"] if row["kernel"] == family]
        rows = [row for row in rows if row["arithmetic"] == "fake_quant"]
        if rows:
            lines.append(
                f"- **How far is float32 fake-quant from int8 deployed on {family}?** Trained networks ({names}): "
                f"{_range(rows, 'tap', _share)} of the codes at the tap equal, logit error "
                f"{_range(rows, 'logit_error', _error)}, {_cams(rows)}"
            )
    for family in families[1:]:
        rows = [row for record in trained for row in record["between"] if row["kernel"] == family]
        if rows:
            lines.append(
                f"- **How far is {family} from {families[0]}?** The same files of the same networks: "
                f"{_range(rows, 'tap', _share)} of the codes at the tap equal, {_cams(rows)}"
            )
    return [*lines, answer()]


def _cams(rows: Sequence[dict[str, Any]]) -> str:
    worst = min(row["cc_min"] for row in rows)
    return f"top-1 {_range(rows, 'top1', _share)}, CAM CC {_range(rows, 'cc', _figure)} (worst image {worst:.3f})."


def _range(rows: Sequence[dict[str, Any]], name: str, show: Callable[[float], str]) -> str:
    values = [row[name] for row in rows if row[name] is not None]
    return show(min(values)) if min(values) == max(values) else f"{show(min(values))} to {show(max(values))}"


def _error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _model(record: dict[str, Any]) -> str:
    return f"{record['model']} | {'trained' if record['trained'] else 'seeded'}"


def _share(value: float | None) -> str:
    """Return a share in per cent; never rounded up to 100 %."""
    if value is None:
        return "–"
    if value == 1:
        return "100 %"
    return f"{min(value * 100, 99.9999):.4f} %" if value > 0.999 else f"{value * 100:.2f} %"


def _cc(row: dict[str, Any]) -> str:
    return "–" if row["cc"] is None else f"{row['cc']:.4f} ({row['cc_min']:.4f})"


if __name__ == "__main__":
    main()
