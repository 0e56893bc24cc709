"""Which slip of the paper's code makes which part of its drift: an ablation on real weights and real photographs.

    python benchmarks/paper_ablation.py BUNDLE[=WEIGHTS FILE]... [--output build/ablation] [--limit N]

For each model: the authors' procedure as they ran it; every single slip switched off; slips switched off one after the other.
Every configuration has its null row: the same f32 model run a second time. Finished configurations are kept in --output and
not run again. Prints Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from qcam.calibration.images import decode
from qcam.calibration.photographs import evaluation_photographs
from qcam.common import console, machine
from qcam.common.files import readable_json, sha256_file, write_atomically
from qcam.evaluate.evaluator import Sample
from qcam.evaluate.metrics import METRICS
from qcam.evaluate.paper import FIXES, PaperEvaluator, PaperOptions
from qcam.evaluate.published import published
from qcam.evaluate.stages import StageClock
from qcam.runtime.bundle import Bundle, load_bundle

PRECISIONS = ("f32", "int16", "int8")
#: All but the last, which is no slip, one after the other.
ORDER = tuple(FIXES)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("build/ablation"), show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many photographs.")
@click.option("--threads", type=click.IntRange(1), default=machine.available_cores(), show_default=True)
def main(bundles: tuple[str, ...], output: Path, limit: int | None, threads: int) -> None:
    """Run every configuration on the photographs that foolbox ships."""
    torch.set_num_threads(threads)
    models = []
    for text in bundles:
        folder, _, weights = text.partition("=")
        models.append((load_bundle(Path(folder)), weights or None))
    configurations = list(dict.fromkeys([*_alone(), *_cumulative()]))
    with console.progress("configurations", len(models) * len(configurations)) as advance:
        found: dict[str, dict[frozenset[str], dict[str, Any]]] = {}
        for bundle, weights in models:
            for fixes in configurations:
                found.setdefault(bundle.model_id, {})[fixes] = measured(bundle, weights, fixes, output, limit)
                advance(1)
    for model, by_fixes in found.items():
        console.out.print(f"\n### {model}\n", markup=False)
        console.out.print("\n".join(_table(model, by_fixes)), markup=False)


def measured(bundle: Bundle, weights: str | None, fixes: frozenset[str], output: Path, limit: int | None) -> dict[str, Any]:
    """Return the figures of one configuration, from --output if they are there."""
    photographs = evaluation_photographs()[:limit]
    plan = {
        "bundle": bundle.fingerprint,
        "fixes": sorted(fixes),
        "images": [sha256_file(photograph.path) for photograph in photographs],
        "versions": machine.versions(),
    }
    path = output / f"{bundle.folder.name}-{'+'.join(name for name in ORDER if name in fixes) or 'as-run'}.json"
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["plan"] == plan:
            figures: dict[str, Any] = held["figures"]
            return figures
    evaluator = PaperEvaluator(bundle, PRECISIONS, PaperOptions(fixes), weights=weights)
    evaluator.build("cpu")
    rows, clock = [], StageClock()
    for photograph, content in zip(photographs, plan["images"], strict=True):
        image = decode(photograph.path).image
        assert image is not None
        crop = evaluator.preprocessing.crop_image(image)
        sample = Sample(
            photograph.name, str(content), photograph.label, "", crop, None, "no_reference: not asked for", image.size
        )
        rows += evaluator.evaluate([sample], clock)[0]
    figures = {}
    for precision in PRECISIONS:
        mine = [row for row in rows if (row.precision, row.comparison) == (precision, "vs_f32")]
        values = {metric: [v for row in mine if (v := getattr(row, metric)) is not None] for metric in METRICS}
        figures[precision] = {metric: [float(np.mean(v)), float(np.std(v))] if v else None for metric, v in values.items()}
        figures[precision] |= {
            "undefined": sum(row.CC is None for row in mine),
            "same_top1": sum(bool(row.top1_agrees) for row in mine),
            "right": sum(row.top1 == row.label for row in mine),
            "n": len(mine),
        }
    write_atomically(path, readable_json({"plan": plan, "figures": figures}))
    return figures


def _alone() -> Iterable[frozenset[str]]:
    yield frozenset()
    yield from (frozenset({name}) for name in ORDER)


def _cumulative() -> Iterable[frozenset[str]]:
    yield from (frozenset(ORDER[:count]) for count in range(len(ORDER) + 1))


def _table(model: str, found: dict[frozenset[str], dict[str, Any]]) -> list[str]:
    heads = ["null row: f32 again v. f32", "int16 v. f32", "int8 v. f32", "undefined int16, int8", "f32 top-1 right"]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    known = [published(model, precision, "vs_f32", "CC") for precision in ("int16", "int8")]
    if all(known):
        cells = [f"{each[0]:.2f} ± {each[1]:.2f}" for each in known if each is not None]
        lines.append(f"| *published* | – | {cells[0]} | {cells[1]} | – | – |")
    lines.append(_line("**as they ran**", found[frozenset()]))
    lines += [_line(f"`{name}` alone", found[frozenset({name})]) for name in ORDER]
    lines += [
        _line(f"{'' if count == 1 else '+ '}`{ORDER[count - 1]}`", found[frozenset(ORDER[:count])])
        for count in range(1, len(ORDER) + 1)
    ]
    return lines


def _line(name: str, figures: dict[str, Any]) -> str:
    cells = []
    for precision in PRECISIONS:
        cc = figures[precision]["CC"]
        cells.append("–" if cc is None else f"{cc[0]:.3f} ± {cc[1]:.3f}")
    cells.append(f"{figures['int16']['undefined']}, {figures['int8']['undefined']} of {figures['int8']['n']}")
    cells.append(f"{figures['f32']['right']} of {figures['f32']['n']}")
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
