"""Which slip of the paper's code makes which part of its drift: an ablation on real weights and real photographs.

    python benchmarks/paper_ablation.py BUNDLE[=WEIGHTS FILE]... [--output build/ablation] [--limit N]

For each model: the authors' procedure as they ran it; every single slip switched off; the same again with the class scores
left in float, so that no map is empty and every mean is over the same images; slips switched off one after the other. Every
configuration has its null row: the same f32 model run a second time. At the end, how many maps are empty once the moving
averages have settled. Finished configurations are kept in --output and not run again. Prints Markdown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import qcam.evaluate.paper
from qcam.commands import console
from qcam.common import machine
from qcam.common.files import fingerprint, readable_json, sha256_file, write_atomically
from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.paper import FIXES, PaperEvaluator, PaperOptions
from qcam.evaluate.report.published import published
from qcam.evaluate.run.protocol import Sample
from qcam.evaluate.run.stages import StageClock
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import Bundle, load_bundle

PRECISIONS = ("f32", "int16", "int8")
#: The last is no slip.
ORDER = tuple(FIXES)
AS_RUN: frozenset[str] = frozenset()
ALONE = {f"`{name}` alone": frozenset({name}) for name in ORDER}
WITH_LOGITS = {f"`logits` and `{name}`": frozenset({"logits", name}) for name in ORDER if name != "logits"}
CUMULATIVE = {
    f"{'' if count == 1 else '+ '}`{ORDER[count - 1]}`": frozenset(ORDER[:count]) for count in range(1, len(ORDER) + 1)
}
#: Passes over the photographs after which a moving average has forgotten where it began: 0.99^400 is 2 %.
SETTLING_PASSES = 20
#: Configurations whose moving averages are let settle.
SETTLED = {"as they ran": AS_RUN, "`eval-mode`": frozenset({"eval-mode"})}

Figures = dict[str, Any]


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
    wanted = [(fixes, 0) for fixes in dict.fromkeys([AS_RUN, *ALONE.values(), *WITH_LOGITS.values(), *CUMULATIVE.values()])]
    wanted += [(fixes, SETTLING_PASSES) for fixes in SETTLED.values()]
    found: dict[str, dict[tuple[frozenset[str], int], Figures]] = {}
    with console.progress("configurations", len(models) * len(wanted)) as advance:
        for bundle, weights in models:
            for fixes, passes in wanted:
                of_model = found.setdefault(bundle.model_id, {})
                of_model[fixes, passes] = measured(bundle, weights, fixes, output, limit, passes)
                advance(1)
    for model, figures in found.items():
        console.out.print(f"\n### {model}\n", markup=False)
        console.out.print("\n".join(_table(model, figures)), markup=False)
    console.out.print("\n### Empty maps\n", markup=False)
    console.out.print("\n".join(_empty_table(found)), markup=False)


def measured(
    bundle: Bundle, weights: str | None, fixes: frozenset[str], output: Path, limit: int | None, passes: int
) -> Figures:
    """Return the figures of one configuration, from --output if they are there.

    Args:
        bundle: Names the model.
        weights: Its weights file, if it was made from one.
        fixes: Slips that are switched off.
        output: Where finished configurations are kept.
        limit: Only the first so many photographs.
        passes: How often the observers see the photographs before they are evaluated.
    """
    photographs = evaluation_photographs()[:limit]
    code = sorted(Path(qcam.evaluate.paper.__file__).parent.glob("*.py"))
    plan = {
        "bundle": bundle.fingerprint,
        "fixes": sorted(fixes),
        "passes": passes,
        "threads": torch.get_num_threads(),  # training mode amplifies the order of a sum
        "images": [sha256_file(photograph.path) for photograph in photographs],
        "code": fingerprint({path.name: sha256_file(path) for path in code}),
        "versions": machine.versions(),
    }
    name = "+".join(name for name in ORDER if name in fixes) or "as-run"
    path = output / f"{bundle.folder.name}-{name}{'-settled' if passes else ''}.json"
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["plan"] == plan:
            kept: Figures = held["figures"]
            return kept
    evaluator = PaperEvaluator(bundle, PRECISIONS, PaperOptions(fixes), weights=weights)
    evaluator.build("cpu")
    samples = []
    for photograph, content in zip(photographs, plan["images"], strict=True):
        image = decode(photograph.path).image
        if image is None:
            raise SystemExit(f"{photograph.path} cannot be read")
        crop = evaluator.preprocessing.crop_image(image)
        reason = "no_reference: not asked for"
        samples.append(Sample(photograph.name, str(content), photograph.label, "", crop, None, reason, image.size))
    for _ in range(passes):
        evaluator.observe(samples)
    rows, clock = [], StageClock()
    for sample in samples:
        rows += evaluator.evaluate([sample], clock)()[0]
    figures: Figures = {"logits_quantized": evaluator.logits_quantized()}
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


def _table(model: str, found: dict[tuple[frozenset[str], int], Figures]) -> list[str]:
    heads = ["null row: f32 again v. f32", "int16 v. f32", "int8 v. f32", "empty int16, int8", "f32 top-1 right"]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    known = [_published(model, precision) for precision in ("int16", "int8")]
    if all(known):
        lines.append(f"| *published* | – | {known[0]} | {known[1]} | – | – |")
    rows = {"**as they ran**": AS_RUN} | ALONE
    if found[AS_RUN, 0]["logits_quantized"]:
        rows |= WITH_LOGITS  # else they are the rows above
    return lines + [_line(name, found[fixes, 0]) for name, fixes in (*rows.items(), *CUMULATIVE.items())]


def _line(name: str, figures: Figures) -> str:
    cells = []
    for precision in PRECISIONS:
        cc, sim, kld = (figures[precision][metric] for metric in ("CC", "SIM", "KLD"))
        cells.append("–" if cc is None else f"{cc[0]:.3f} ± {cc[1]:.3f}; {sim[0]:.2f}; {abs(kld[0]):.2f}")
    cells.append(f"{figures['int16']['undefined']}, {figures['int8']['undefined']} of {figures['int8']['n']}")
    cells.append(f"{figures['f32']['right']} of {figures['f32']['n']}")
    return f"| {name} | " + " | ".join(cells) + " |"


def _published(model: str, precision: str) -> str:
    cells = [published(model, precision, "vs_f32", metric) for metric in ("CC", "SIM", "KLD")]
    cc, sim, kld = cells
    return "" if cc is None or sim is None or kld is None else f"{cc[0]:.2f} ± {cc[1]:.2f}; {sim[0]:.2f}; {kld[0]:.2f}"


def _empty_table(found: dict[str, dict[tuple[frozenset[str], int], Figures]]) -> list[str]:
    lines = ["| model | | empty int16 | empty int8 | CC int16 | CC int8 | null row |", "| --- | --- |" + " ---: |" * 5]
    for model, of_model in found.items():
        for name, fixes in SETTLED.items():
            figures = of_model[fixes, SETTLING_PASSES]
            cells = [f"{figures[precision]['undefined']} of {figures[precision]['n']}" for precision in ("int16", "int8")]
            for precision in ("int16", "int8", "f32"):
                cc = figures[precision]["CC"]
                cells.append("–" if cc is None else f"{cc[0]:.3f} ± {cc[1]:.3f}")
            lines.append(f"| {model} | {name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
