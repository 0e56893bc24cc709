"""The summary of a run: every figure with its interval and counts, paired tests, class flips apart from drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common.vocabulary import UNITS, Reference, words
from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.maps.statistics import (
    LEVEL,
    RESAMPLES,
    SEED,
    PairedTest,
    bootstrap_intervals,
    holm,
    mcnemar_test,
    paired_test,
    sign_test,
    skill,
    wilson_interval,
)
from qcam.evaluate.results.folder import COMPARISONS, FAITHFULNESS, MEASURES, SCHEMA_VERSION, Columns
from qcam.evaluate.results.records import Clipping
from qcam.runtime.bundle import ordered_precisions, precision_order

#: Figures that are a share of images.
_PROPORTIONS = ("top1_agreement", "accuracy", "increase")
_ORDER = (*COMPARISONS, *words(Reference))
#: The comparisons of one model: (precision, comparison) → columns.
ModelColumns = Mapping[tuple[str, str], Columns]


def summarise(
    models: Iterable[tuple[str, ModelColumns]],
    references: Callable[[str], ModelColumns] = lambda _model: {},
    non_inferior_to: str = UNITS[0].value,
    clipping: Iterable[Clipping] = (),
) -> dict[str, Any]:
    """Return the content of summary.json, less whether the run is complete (docs/results.md).

    Args:
        models: Model id and its figures, one model at a time.
        references: Returns the reference rows of a model.
        non_inferior_to: The reference that drift is tested against.
        clipping: What quantizers clipped (`read_clipping`).
    """
    entries: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    flips: list[dict[str, Any]] = []
    statuses: dict[str, dict[str, int]] = {}
    crossings: list[dict[str, Any]] = []
    scale: list[dict[str, Any]] = []
    drift: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []
    for model, columns in models:
        units = references(model)
        entries += [*_entries(model, {**columns, **units}), *_skills(model, columns)]
        scale += _scale(model, columns, units)
        drift += _drift(model, columns, units)
        held += _held(model, columns, units, non_inferior_to)
        tests += _tests(model, columns)
        flips += _flips(model, columns)
        statuses[model] = _statuses(columns)
        crossings += _crossings(model, columns)
    # Each is one question, asked of every model: corrected over the study.
    for family, p in ((tests, "p"), (held, "p"), (held, "p_above")):
        for test, corrected in zip(family, holm([test[p] for test in family]), strict=True):
            test[f"{p}_holm"] = corrected
    return {
        "schema_version": SCHEMA_VERSION,
        "std": "of the population",
        "interval": f"{100 * LEVEL:.0f} % percentile bootstrap of the mean over images, {RESAMPLES} resamples, seed {SEED}; "
        "of shares of images (top-1, increase) Wilson's",
        "entries": entries,
        "tests": tests,
        "flips": flips,
        "statuses": statuses,
        "crossings": crossings,
        "scale": scale,
        "drift": drift,
        "non_inferiority": held,
        "clipping": [asdict(of) for of in clipping],
    }


def compared_pairs(precisions: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of precisions that are tested against each other: f32 v. every other, and each other v. the next.

    Args:
        precisions: Those that were run.

    >>> compared_pairs(["int8", "f32", "int16"])
    [('f32', 'int16'), ('f32', 'int8'), ('int16', 'int8')]
    >>> compared_pairs(["vendor", "int8"])
    [('int8', 'vendor')]
    """
    every = ordered_precisions(precisions)
    others = [name for name in every if name != "f32"]
    return [*(("f32", name) for name in others if "f32" in every), *pairwise(others)]


def _entries(model: str, columns: ModelColumns) -> list[dict[str, Any]]:
    """Return mean, standard deviation, interval and counts of every figure of one model."""
    named: list[tuple[str, str, str]] = []
    figures: list[NDArray[np.float64]] = []
    for precision, comparison in sorted(columns, key=lambda key: (_ORDER.index(key[1]), precision_order(key[0]))):
        for where, metric, values in _figures(comparison, columns[(precision, comparison)]):
            named.append((precision, where, metric))
            figures.append(np.where(np.isfinite(values), values, np.nan))
    entries = []
    # Figures of the same number of images share their resamples; all do, unless rows were left out.
    for _, group in groupby(range(len(named)), key=lambda place: len(figures[place])):
        places = list(group)
        block = np.stack([figures[place] for place in places], axis=1)
        low, high = bootstrap_intervals(block)
        for place, column, lower, upper in zip(places, block.T, low, high, strict=True):
            precision, where, metric = named[place]
            defined = column[np.isfinite(column)]
            if metric in _PROPORTIONS and len(defined) > 1:
                lower, upper = wilson_interval(int(defined.sum()), len(defined))
            entries.append(
                {
                    "model": model, "precision": precision, "comparison": where, "metric": metric,
                    "mean": float(np.mean(defined)) if len(defined) else None,
                    "std": float(np.std(defined)) if len(defined) else None,
                    "low": _number(lower), "high": _number(upper),
                    "n": len(defined), "undefined": len(column) - len(defined),
                }
            )  # fmt: skip
    return entries


def _skills(model: str, columns: ModelColumns) -> Iterator[dict[str, Any]]:
    """Yield how much of a precision's drift from f32 its simulation foretells, by SIM and by CC, where there is any drift."""
    for precision in ordered_precisions(precision for precision, _ in columns):
        simulated, drifted = columns.get((precision, "fake_quant_vs_deployed")), columns.get((precision, "vs_f32"))
        if simulated is None or drifted is None or precision == "f32":
            continue
        for metric in ("SIM", "CC"):
            missed, moved = 1 - simulated[metric], 1 - drifted[metric]
            found = skill(missed, moved)
            yield {
                "model": model, "precision": precision, "comparison": "fake_quant_vs_deployed", "metric": f"skill_{metric}",
                "mean": found.value, "std": None, "low": found.low, "high": found.high,
                "n": found.n, "undefined": len(missed) - found.n,
            }  # fmt: skip


def _scale(model: str, columns: ModelColumns, references: ModelColumns) -> Iterator[dict[str, Any]]:
    """Yield how large a precision's drift from f32 is in units of what moves f32's own maps, on the same images."""
    for precision in ordered_precisions(precision for precision, _ in columns):
        drifted = columns.get((precision, "vs_f32"))
        if drifted is None or precision == "f32":
            continue
        for (_, reference), moved in references.items():
            if reference not in UNITS:
                continue
            shared = shared_places(drifted, moved)
            for metric in ("CC", "SIM"):
                found = skill(1 - drifted[metric][shared], 1 - moved[metric])
                if found.value is not None:
                    yield {
                        "model": model, "precision": precision, "reference": reference, "metric": metric,
                        "ratio": 1 - found.value, "low": None if found.high is None else 1 - found.high,
                        "high": None if found.low is None else 1 - found.low, "n": found.n,
                    }  # fmt: skip


def _figures(comparison: str, columns: Columns) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """Yield comparison, metric and values of what one group of rows tells."""
    if comparison in words(Reference):
        told = {metric: columns[metric] for metric in (*METRICS, *MEASURES, "logit_error")}
        for metric, values in (told | {"top1_agreement": columns["top1_agrees"]}).items():
            if np.isfinite(values).any():
                yield comparison, metric, values
        return
    if comparison == "on_model":
        yield from ((comparison, metric, columns[metric]) for metric in FAITHFULNESS)
        return
    yield from ((comparison, metric, columns[metric]) for metric in METRICS)
    for metric in MEASURES:
        if np.isfinite(columns[metric]).any():
            yield comparison, metric, columns[metric]
    if comparison != "vs_saliency":
        yield comparison, "top1_agreement", columns["top1_agrees"]
        yield comparison, "logit_error", columns["logit_error"]
    elif np.isfinite(columns["label"]).any():
        yield "vs_label", "accuracy", right_answers(columns)
    if comparison == "fake_quant_vs_deployed" and np.isfinite(columns["codes_equal"]).any():  # a float tap has no codes
        yield comparison, "codes_equal", columns["codes_equal"]


def _tests(model: str, columns: ModelColumns) -> list[dict[str, Any]]:
    """Test precisions against each other, image by image.

    The null row is not tested: that a quantized map differs from f32's where f32's does not is known before.
    """
    told: list[dict[str, Any]] = []
    differences: list[NDArray[np.float64]] = []
    pairs = compared_pairs(precision for precision, _ in columns)
    for comparison in ("vs_saliency", "vs_f32"):
        for first, second in pairs:
            if comparison == "vs_f32" and first == "f32":
                continue
            one, other = columns.get((first, comparison)), columns.get((second, comparison))
            if one is None or other is None:
                continue
            for metric in METRICS:
                found = paired_test(one[metric], other[metric])
                if found.n == 0:
                    continue
                differences.append(other[metric] - one[metric])
                told.append(_test(model, metric, comparison, first, second, found))
    for first, second in pairs:
        one, other = columns.get((first, "vs_saliency")), columns.get((second, "vs_saliency"))
        if one is None or other is None:
            continue
        right = [right_answers(found) for found in (one, other)]
        found = mcnemar_test(*right)
        if found.n:
            differences.append(right[1] - right[0])
            told.append(_test(model, "accuracy", "vs_label", first, second, found))
    if told:
        low, high = bootstrap_intervals(np.stack(differences, axis=1))
        for test, lower, upper in zip(told, low, high, strict=True):
            test["low"], test["high"] = _number(lower), _number(upper)
    return told


def right_answers(columns: Columns) -> NDArray[np.float64]:
    """Return for each image whether its top-1 class is the labelled one, NaN where either is not known."""
    known = np.isfinite(columns["label"]) & np.isfinite(columns["top1"])
    return np.where(known, columns["label"] == columns["top1"], np.nan)


def _test(model: str, metric: str, comparison: str, first: str, second: str, found: PairedTest) -> dict[str, Any]:
    return {
        "model": model, "metric": metric, "comparison": comparison, "first": first, "second": second,
        "n": found.n, "differing": found.differing, "mean_difference": found.mean_difference, "low": None, "high": None,
        "p": found.p, "p_holm": None, "effect": found.effect,
    }  # fmt: skip


def _drift(model: str, columns: ModelColumns, references: ModelColumns) -> Iterator[dict[str, Any]]:
    """Yield how 1 - CC lies over the images: of each precision against f32, and of what else moves f32's maps."""
    found = {key: of for key, of in columns.items() if key[1] == "vs_f32" and key[0] != "f32"}
    found |= {key: of for key, of in references.items() if key[1] in UNITS}
    for precision, comparison in sorted(found, key=lambda key: (_ORDER.index(key[1]), precision_order(key[0]))):
        of = found[precision, comparison]
        values, known = 1 - of["CC"], np.isfinite(of["CC"])
        if not known.any():
            continue
        q1, median, q3 = np.percentile(values[known], [25, 50, 75])
        worst = int(np.nanargmax(values))
        yield {
            "model": model, "precision": precision, "comparison": comparison, "n": int(known.sum()), "median": float(median),
            "q1": float(q1), "q3": float(q3), "worst": float(values[worst]), "worst_image": str(of["image"][worst]),
        }  # fmt: skip


def _held(model: str, columns: ModelColumns, references: ModelColumns, name: str) -> Iterator[dict[str, Any]]:
    """Yield for each precision whether its 1 - CC from f32 is below that of a reference, image by image."""
    moved = next((of for (_, reference), of in references.items() if reference == name), None)
    for precision in ordered_precisions(precision for precision, _ in columns):
        drifted = columns.get((precision, "vs_f32"))
        if drifted is None or moved is None or precision == "f32":
            continue
        # CC of the reference less that of the precision: what the precision drifts more.
        found = sign_test(moved["CC"] - drifted["CC"][shared_places(drifted, moved)])
        if found.n:
            yield {"model": model, "precision": precision, "reference": name} | asdict(found)


def shared_places(every: Columns, some: Columns) -> NDArray[np.int64]:
    """Return where the images of some columns stand in others that have all of them."""
    place = {image: index for index, image in enumerate(every["image"])}
    return np.array([place[image] for image in some["image"]], np.int64)


def _flips(model: str, columns: ModelColumns) -> list[dict[str, Any]]:
    """Tell drift with a changed top-1 class from drift without one."""
    told = []
    for precision in ordered_precisions(precision for precision, _ in columns):
        found = columns.get((precision, "vs_f32"))
        if found is None or precision == "f32":
            continue
        agrees = found["top1_agrees"]
        groups = {"flipped": agrees == 0, "kept": agrees == 1}
        entry: dict[str, Any] = {"model": model, "precision": precision}
        entry |= {name: int(group.sum()) for name, group in groups.items()}
        entry["unknown"] = int(np.isnan(agrees).sum())
        for metric in METRICS:
            values = {name: found[metric][group & np.isfinite(found[metric])] for name, group in groups.items()}
            entry[metric] = {
                name: {"mean": float(some.mean()) if len(some) else None, "n": len(some)} for name, some in values.items()
            }
        told.append(entry)
    return told


def _crossings(model: str, columns: ModelColumns) -> list[dict[str, Any]]:
    """Tell of which precisions some CAM's denominator was not positive somewhere."""
    told = []
    for precision in ordered_precisions(precision for precision, _ in columns):
        found = columns.get((precision, "vs_saliency"))
        counts = np.empty(0) if found is None else found["crossings"][np.isfinite(found["crossings"])]
        if counts.any():
            told.append(
                {
                    "model": model, "precision": precision, "images": int(np.count_nonzero(counts)), "n": len(counts),
                    "mean": float(counts.mean()),
                }
            )  # fmt: skip
    return told


def _statuses(columns: ModelColumns) -> dict[str, int]:
    """Count images by what became of them at any precision: refused, without a salient object, with a constant CAM."""
    by_image: dict[str, str] = {}
    for (_, comparison), found in columns.items():
        if comparison == "vs_saliency":
            for image, status in zip(found["image"], found["status"], strict=True):
                if by_image.get(image, "ok") == "ok":
                    by_image[image] = str(status).split(":")[0]
    heads = list(by_image.values())
    return {head: heads.count(head) for head in dict.fromkeys(heads)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
