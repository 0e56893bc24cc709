"""Which slip of the paper's code makes which part of its drift: an ablation on real weights and real photographs.

    python benchmarks/paper_ablation.py BUNDLE[=WEIGHTS FILE]... [--output build/ablation] [--minutes N] [--limit N]

For each model: the authors' procedure as they ran it; every single slip switched off; the same again with the class scores
left in float, so that no map is empty and every mean is over the same images; slips switched off one after the other. Every
configuration has its null row: the same f32 model run a second time. Where dropout or stochastic depth is active, a
configuration is run with several seeds. At the end, how many maps are empty once the moving averages have settled.

Finished runs are kept in --output and not run again. Prints Markdown, of what is finished, and writes it to table.md there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
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
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import Bundle, load_bundle

PRECISIONS = ("f32", "int16", "int8")
#: The last is no slip.
ORDER = tuple(FIXES)
AS_RUN: frozenset[str] = frozenset()
ALONE = {f"`{name}` alone": frozenset({name}) for name in ORDER[1:]}  # the first stands under CUMULATIVE
WITH_LOGITS = {f"`logits` and `{name}`": frozenset({"logits", name}) for name in ORDER[2:]}
CUMULATIVE = {
    f"{'' if count == 1 else '+ '}`{ORDER[count - 1]}`": frozenset(ORDER[:count]) for count in range(1, len(ORDER) + 1)
}
#: What the argument rests on: run first.
FIRST = (AS_RUN, frozenset({"logits"}), frozenset({"logits", "f32-top1"}), *CUMULATIVE.values())
#: Passes over the photographs after which a moving average has forgotten where it began: 0.99^400 is 2 %.
SETTLING_PASSES = 20
#: Configurations whose moving averages are let settle.
SETTLED = {"as they ran": AS_RUN, "`eval-mode`": frozenset({"eval-mode"})}

#: Of one run: `noisy`, `logits_quantized`, `images`, and precision → what `_figures` returns.
Figures = dict[str, Any]
#: Slips switched off and passes → one run for each seed.
Found = dict[tuple[frozenset[str], int], list[Figures]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("build/ablation"), show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many photographs.")
@click.option("--more", is_flag=True, help="Also the photographs that calibrate; give another --output.")
@click.option("--first", is_flag=True, help="Only what the argument rests on: no single slips, nothing settled.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Where the network draws noise.")
@click.option("--minutes", type=click.FloatRange(0), help="Start no run after so long; the table shows what is finished.")
@click.option("--threads", type=click.IntRange(1), default=machine.available_cores(), show_default=True)
def main(
    bundles: tuple[str, ...], output: Path, limit: int | None, more: bool, first: bool, seeds: int, minutes: float | None,
    threads: int,
) -> None:  # fmt: skip
    """Run every configuration on the photographs that foolbox ships."""
    torch.set_num_threads(threads)
    models = []
    for text in bundles:
        folder, _, weights = text.partition("=")
        models.append((load_bundle(Path(folder)), weights or None))
    photographs = (evaluation_photographs() + (calibration_photographs() if more else []))[:limit]
    wanted: list[tuple[frozenset[str], int]] = [(fixes, 0) for fixes in dict.fromkeys(FIRST)]
    if not first:
        rest = [*ALONE.values(), *WITH_LOGITS.values()]
        wanted += [(fixes, 0) for fixes in dict.fromkeys(rest) if fixes not in FIRST]
        wanted += [(fixes, SETTLING_PASSES) for fixes in SETTLED.values()]
    end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    found: dict[str, Found] = {bundle.model_id: {} for bundle, _ in models}
    with console.progress("configurations", len(models) * len(wanted)) as advance:
        for fixes, passes in wanted:
            for bundle, weights in models:
                same = _same(fixes, found[bundle.model_id].get((AS_RUN, 0)))
                runs = found[bundle.model_id].setdefault((same, passes), [])
                for seed in range(len(runs), seeds):
                    if seed and not runs[0]["noisy"]:
                        break
                    run = Run(bundle, weights, same, passes, seed, photographs)
                    figures = run.kept(output)
                    if figures is None and time.monotonic() < end:
                        figures = run.measured(output)
                    if figures is None:
                        break
                    runs.append(figures)
                advance(1)
    text = "\n".join(_tables(found))
    console.out.print(text, markup=False)
    write_atomically(output / "table.md", text + "\n")


class Run:
    """One model, one configuration, one seed."""

    def __init__(
        self, bundle: Bundle, weights: str | None, fixes: frozenset[str], passes: int, seed: int, photographs: list[ImageFile]
    ) -> None:
        """Plan it.

        Args:
            bundle: Names the model.
            weights: Its weights file, if it was made from one.
            fixes: Slips that are switched off.
            passes: How often the observers see the photographs before they are evaluated.
            seed: Of dropout and stochastic depth.
            photographs: Those to evaluate, in this order.
        """
        self._bundle, self._weights, self._photographs, self._passes = bundle, weights, photographs, passes
        self._options = PaperOptions(fixes, seed)
        code = sorted(Path(qcam.evaluate.paper.__file__).parent.glob("*.py"))
        self._plan = {
            "bundle": bundle.fingerprint,
            "fixes": sorted(fixes),
            "passes": passes,
            "seed": seed,
            "threads": torch.get_num_threads(),  # training mode amplifies the order of a sum
            "images": [sha256_file(photograph.path) for photograph in photographs],
            "code": fingerprint({path.name: sha256_file(path) for path in code}),
            "versions": machine.versions(),
        }
        name = "+".join(name for name in ORDER if name in fixes) or "as-run"
        self._file = f"{bundle.folder.name}-{name}{'-settled' if passes else ''}{f'-seed{seed}' if seed else ''}.json"

    def kept(self, output: Path) -> Figures | None:
        """Return its figures from a folder, if it was run with the same plan."""
        path = output / self._file
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"plan": None}
        return held["figures"] if held["plan"] == self._plan else None

    def measured(self, output: Path) -> Figures:
        """Run it, and keep its figures in a folder."""
        evaluator = PaperEvaluator(self._bundle, PRECISIONS, self._options, weights=self._weights)
        evaluator.build("cpu")
        samples = []
        for photograph, content in zip(self._photographs, self._plan["images"], strict=True):
            image = decode(photograph.path).image
            if image is None:
                raise SystemExit(f"{photograph.path} cannot be read")
            crop = evaluator.preprocessing.crop_image(image)
            reason = "no_reference: not asked for"
            samples.append(Sample(photograph.name, str(content), photograph.label, "", crop, None, reason, image.size))
        for _ in range(self._passes):
            evaluator.observe(samples)
        rows, clock = [], StageClock()
        for sample in samples:
            rows += evaluator.evaluate([sample], clock)()[0]
        figures: Figures = {"logits_quantized": evaluator.logits_quantized(), "noisy": evaluator.noisy, "images": len(samples)}
        for precision in PRECISIONS:
            mine = [row for row in rows if (row.precision, row.comparison) == (precision, "vs_f32")]
            figures[precision] = {metric: [getattr(row, metric) for row in mine] for metric in METRICS} | {
                "same_top1": sum(bool(row.top1_agrees) for row in mine),
                "right": sum(row.top1 == row.label for row in mine if row.label is not None),
            }
        write_atomically(output / self._file, readable_json({"plan": self._plan, "figures": figures}))
        return figures


def _same(fixes: frozenset[str], as_run: list[Figures] | None) -> frozenset[str]:
    """Return the configuration that computes the same: where no class score is quantized, `logits` switches nothing off."""
    return fixes - {"logits"} if as_run and not as_run[0]["logits_quantized"] else fixes


def _tables(found: dict[str, Found]) -> Iterable[str]:
    for title, noisy in (("Networks that draw noise in training mode", True), ("Networks that draw none", False)):
        chosen = {model: of for model, of in found.items() if (runs := of.get((AS_RUN, 0))) and runs[0]["noisy"] is noisy}
        if chosen:
            yield f"\n## {title}"
        for model, of_model in chosen.items():
            yield from (f"\n### {model}\n", *_table(model, of_model))
    settled = list(_empty_table(found))
    if len(settled) > 2:
        yield from ("\n### Empty maps\n", *settled)


def _table(model: str, found: Found) -> list[str]:
    heads = ["null row: f32 again v. f32", "int16 v. f32", "int8 v. f32", "empty int16, int8", "f32 top-1 right", "seeds"]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    known = [_published(model, precision) for precision in ("int16", "int8")]
    if all(known):
        lines.append(f"| *published* | – | {known[0]} | {known[1]} | – | – | – |")
    rows = {"**as they ran**": AS_RUN} | ALONE
    as_run = found[AS_RUN, 0]
    if as_run[0]["logits_quantized"]:
        rows |= WITH_LOGITS
    else:  # they are the rows above, and it is no row at all
        rows.pop("`logits` alone")
    for name, fixes in (*rows.items(), *CUMULATIVE.items()):
        runs = found.get((_same(fixes, as_run), 0))
        if runs and not (name == "+ `logits`" and not as_run[0]["logits_quantized"]):
            cells = [_cell(runs, precision) for precision in PRECISIONS]
            empty = ", ".join(_range(runs, _empty(precision)) for precision in ("int16", "int8"))
            right = _range(runs, lambda run: run["f32"]["right"])
            count = runs[0]["images"]
            lines.append(f"| {name} | {' | '.join(cells)} | {empty} of {count} | {right} | {len(runs)} |")
    return lines


def _cell(runs: list[Figures], precision: str) -> str:
    """Return CC as mean ± standard deviation over all images and seeds, then that of the seeds' means; SIM; KLD."""
    values = {metric: [[v for v in run[precision][metric] if v is not None] for run in runs] for metric in METRICS}
    pooled = {metric: [v for of_seed in lists for v in of_seed] for metric, lists in values.items()}
    cc = pooled["CC"]
    if not cc:
        return "–"
    text = f"{np.mean(cc):.3f}" + (f" ± {np.std(cc):.3f}" if len(cc) > 1 else "")
    if len(runs) > 1 and all(len(of_seed) > 1 for of_seed in values["CC"]):
        text += f" ({np.std([np.mean(of_seed) for of_seed in values['CC']], ddof=1):.3f})"
    return f"{text}; {np.mean(pooled['SIM']):.2f}; {abs(np.mean(pooled['KLD'])):.2f}"


def _empty(precision: str) -> Callable[[Figures], int]:
    return lambda run: sum(value is None for value in run[precision]["CC"])


def _range(runs: list[Figures], of: Callable[[Figures], int]) -> str:
    low, high = min(map(of, runs)), max(map(of, runs))
    return str(low) if low == high else f"{low}–{high}"


def _published(model: str, precision: str) -> str:
    cells = [published(model, precision, "vs_f32", metric) for metric in ("CC", "SIM", "KLD")]
    cc, sim, kld = cells
    return "" if cc is None or sim is None or kld is None else f"{cc[0]:.2f} ± {cc[1]:.2f}; {sim[0]:.2f}; {kld[0]:.2f}"


def _empty_table(found: dict[str, Found]) -> Iterable[str]:
    yield from ("| model | | empty int16, int8 | CC int16 | CC int8 | null row | seeds |", "| --- | --- |" + " ---: |" * 5)
    for model, of_model in found.items():
        for name, fixes in SETTLED.items():
            runs = of_model.get((fixes, SETTLING_PASSES))
            if runs:
                empty = ", ".join(_range(runs, _empty(precision)) for precision in ("int16", "int8"))
                cells = [_cell(runs, precision).partition(";")[0] for precision in ("int16", "int8", "f32")]
                yield f"| {model} | {name} | {empty} of {runs[0]['images']} | {' | '.join(cells)} | {len(runs)} |"


if __name__ == "__main__":
    main()
