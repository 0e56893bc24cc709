"""Do CAM methods agree? On maps, and on how far quantization moves them: every method on one bundle and the demo's photographs.

    python benchmarks/cam_methods.py bundles/efficientnet_lite0

Every map is of a deployed run, of the class that f32 chooses, enlarged to the network's input size and stretched to 0..1. The
drift of a method on a photograph is CC of int8's map and f32's. Prints tables in Markdown.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from qcam.common.vocabulary import CamMethod, words
from qcam.evaluate.maps.cam import enlarge
from qcam.evaluate.maps.metrics import all_metrics
from qcam.evaluate.run.evaluator import BundleEvaluator
from qcam.evaluate.run.protocol import Sample
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import Bundle, load_bundle
from qcam.runtime.deployed import SessionSettings

#: The quantized precision, and what it is held against.
QUANTIZED, REFERENCE = "int8", "f32"
#: What the other methods are held against.
USUAL = CamMethod.GRADCAM_PLUS_PLUS.value

Maps = NDArray[np.float64]


def photographs(bundle: Bundle, limit: int) -> list[Sample]:
    """Return the demo's photographs as the network sees them."""
    samples = []
    for file in evaluation_photographs()[:limit]:
        image = decode(file.path).image
        if image is None:
            raise SystemExit(f"{file.name} cannot be decoded")
        samples.append(Sample(file.name, "", None, "", bundle.preprocessing.crop_image(image), None))
    return samples


def maps_of(bundle: Bundle, method: str, samples: list[Sample], batch: int, threads: int) -> dict[str, Maps]:
    """Return precision → maps as they are compared, photographs × height × width."""
    settings = SessionSettings(threads=threads, batch=batch)
    evaluator = BundleEvaluator(bundle, [REFERENCE, QUANTIZED], settings, method=method, fake_quant=False, null_row=False)
    evaluator.build("cpu")
    found: dict[str, list[Maps]] = {REFERENCE: [], QUANTIZED: []}
    for start in range(0, len(samples), batch):
        for precision, explained in evaluator.explain(samples[start : start + batch]).items():
            found[precision].append(enlarge(explained.maps, bundle.preprocessing.crop))
    return {precision: np.concatenate(parts) for precision, parts in found.items()}


def correlation(first: Maps, second: Maps) -> NDArray[np.float64]:
    """Return CC of each photograph's two maps; NaN where one is constant."""
    return all_metrics(first, second)["CC"]


def spread(values: NDArray[np.float64]) -> str:
    """Return mean ± standard deviation of what is defined, and how many are where not all are."""
    known = values[np.isfinite(values)]
    count = "" if len(known) == len(values) else f" (n = {len(known)})"
    return f"{known.mean():.3f} ± {known.std():.3f}{count}"


def agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of two drifts over photographs."""
    both = np.isfinite(first) & np.isfinite(second)
    return float(np.asarray(spearmanr(first[both], second[both]))[0])


@click.command()
@click.argument("folder")
@click.option("--method", "methods", multiple=True, type=click.Choice(words(CamMethod)), help="A method; several; all if none.")
@click.option("--limit", default=20, show_default=True, help="Photographs.")
@click.option("--batch-size", default=8, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write the figures of each photograph here.")
def main(folder: str, methods: tuple[str, ...], limit: int, batch_size: int, threads: int, output: Path | None) -> None:
    bundle = load_bundle(folder)
    samples = photographs(bundle, limit)
    chosen = list(dict.fromkeys([USUAL, *(methods or words(CamMethod))]))
    maps, seconds = {}, {}
    for method in chosen:
        begun = time.perf_counter()
        maps[method] = maps_of(bundle, method, samples, batch_size, threads)
        seconds[method] = time.perf_counter() - begun
        click.echo(f"{method}: {seconds[method]:.0f} s", err=True)
    drift = {method: correlation(found[QUANTIZED], found[REFERENCE]) for method, found in maps.items()}
    click.echo(f"{bundle.model_id}, {len(samples)} photographs, {QUANTIZED} v. {REFERENCE}, deployed maps\n")
    click.echo(
        f"| method | {QUANTIZED} v. {REFERENCE}: CC | drift: rank correlation with {USUAL} | CC with the map of {USUAL} |"
    )
    click.echo("|---|--:|--:|--:|")
    for method in chosen:
        own = [
            f"{agreement(drift[method], drift[USUAL]):.2f}",
            spread(correlation(maps[method][REFERENCE], maps[USUAL][REFERENCE])),
        ]
        click.echo(f"| `{method}` | {spread(drift[method])} | {' | '.join(own if method != USUAL else ['', ''])} |")
    click.echo(f"\nCC of two methods' {REFERENCE} maps, mean over photographs:\n")
    click.echo("| | " + " | ".join(f"`{method}`" for method in chosen[1:]) + " |")
    click.echo("|---|" + "--:|" * (len(chosen) - 1))
    for row, method in enumerate(chosen[:-1]):
        pairs = [np.nanmean(correlation(maps[method][REFERENCE], maps[other][REFERENCE])) for other in chosen[row + 1 :]]
        click.echo(f"| `{method}` | " + " | ".join([""] * row + [f"{value:.2f}" for value in pairs]) + " |")
    if output is not None:
        kept = {"photographs": [sample.name for sample in samples], "seconds": seconds}
        output.write_text(json.dumps(kept | {"drift": {name: values.tolist() for name, values in drift.items()}}, indent=1))


if __name__ == "__main__":
    main()
