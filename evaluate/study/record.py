"""run.json: what was run, in which words its figures are to be read, and what a reader has to be warned of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qcam.common import machine
from qcam.common.counted import counted
from qcam.common.files import fingerprint
from qcam.common.printable import printable
from qcam.common.wording import in_options
from qcam.evaluate.results.clipping import clipping_lines
from qcam.evaluate.results.folder import SCHEMA_VERSION
from qcam.evaluate.results.pictures import geometry
from qcam.evaluate.results.records import Crossing, Summary, WorkerRecord
from qcam.evaluate.run.arithmetic import arithmetic_lines, fallback_reasons, float_arithmetic, seven_bits
from qcam.evaluate.run.evaluator import null_precision
from qcam.evaluate.run.explained import cam_convention
from qcam.evaluate.run.facts import WorkerFacts, may_saturate
from qcam.evaluate.run.inputs import calibrating, random_weights, unknown_weights
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.study.conditions import Conditions
from qcam.images.account import Account

_CONVENTIONS = {
    "SIM": "sum min(P, Q), both summing to 1",
    "CC": "Pearson",
    "KLD": "sum P log(eps + P / (eps + Q)), P the evaluated map, Q the reference, eps 2.2204e-16",
    "rank_correlation": "Spearman at the tap's resolution; salient-object maps averaged over its cells",
    "overlap": "intersection over union of the top 20 % of positions",
    "energy_in_object": "share of the CAM's sum where the salient-object map is at least 0.5",
    "drop": "max(0, Y - O) / Y, Y the class's softmax probability, O that of the picture multiplied with its CAM",
    "increase": "O > Y",
    "vs_f32 of f32": "the null row: f32 run a second time, against its first run",
    "vs_itself": "the null row of a bundle without f32: its first precision run a second time, against its first run",
    "fake_quant_vs_deployed": "P fake-quant, Q deployed",
}


def run_record(
    facts: WorkerFacts,
    conditions: Conditions,
    seconds: Mapping[str, float],
    workers: Sequence[WorkerRecord],
    account: Account,
    summary: Summary | None = None,
    hashes: Iterable[str] = (),
    *,
    complete: bool,
) -> dict[str, Any]:
    """Return the content of run.json.

    Args:
        facts: What evaluates.
        conditions: All that can change a figure.
        seconds: Wall time by stage, of this process.
        workers: What evaluated the parts, with the number of these.
        account: What became of what was given.
        summary: Of the results; None as long as there are none.
        hashes: SHA-256 of the file of every image.
        complete: Whether every shard is finished.
    """
    options = conditions.options
    summary = summary or Summary()
    seen = list(hashes)
    fitted = [text for model in facts.models if (text := calibrating(model.bundle, model.deployed, seen))]
    told = [*warnings(facts, workers), *fitted, *negative_activations(summary.crossings)]
    calibrated = {model.bundle.model_id: model.bundle.calibration.images for model in facts.models}
    classes: dict[str, list[str]] = {}
    models = {}
    for model in facts.models:
        bundle = model.bundle
        key = fingerprint(bundle.classes)[:12]
        classes[key] = list(bundle.classes)
        models[bundle.model_id] = {
            "bundle": printable(bundle.folder.name),
            "weights": _said(bundle.weights.to_json()) | {"trained": bundle.weights.trained},
            "geometry": geometry(model.preprocessing),
            "classes": key,
            "calibration_images": bundle.calibration.images,
            "precisions": {name: ran.to_json() for name, ran in model.precisions.items()},
        }
    paper = options.protocol == "paper"
    return {
        "schema_version": SCHEMA_VERSION,
        "complete": complete,
        "protocol": {"name": options.protocol, "fixes": list(options.fixes)},
        "plan": conditions.to_json(),
        "account": account.to_json(),
        "machine": machine.describe(),
        "kernels": {"family": "not applicable"} if facts.kernels is None else facts.kernels.to_json(),
        "int8_kernels_saturate_in_pairs": facts.saturates or any(worker.saturates_in_pairs for worker in workers),
        "workers": [worker.to_json() for worker in workers],
        "provider": "PyTorch" if paper else options.settings.provider,
        "models": models,
        "classes": classes,
        "conventions": _conventions(options.method, paper=paper),
        "notes": [*notes(facts, options), *clipping_lines(summary.clipping, calibrated)],
        # With names of options: a file does not depend on who ran.
        "warnings": [in_options(text) for text in told],
        "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
    }


def _said(told: Mapping[str, object]) -> dict[str, object]:
    """Return what a manifest says, without what it says nothing of."""
    return {name: value for name, value in told.items() if value is not None}


def notes(facts: WorkerFacts, options: StudyOptions) -> list[str]:
    """Return the lines below every table: what the figures depend on, and what really ran."""
    lines = [options.describe(), *arithmetic_lines(facts.models, facts.provider)]
    if facts.gpu is not None:
        lines.append(f"GPU: {facts.gpu.describe()}; {float_arithmetic(options.settings)}")
    lines += _without_f32(facts, options)
    lines += [unknown_weights(model.bundle) for model in facts.models if model.bundle.weights.trained is None]
    for model in facts.models:
        lines += model.notes
    return list(dict.fromkeys(lines))


def _without_f32(facts: WorkerFacts, options: StudyOptions) -> list[str]:
    """Say of the models of which no f32 was run what there is nothing of, in one line for all that are alike."""
    models: dict[str, list[str]] = {}
    for model in facts.models:
        if "f32" not in model.deployed and model.deployed:
            held = any(entry.name == "f32" for entry in model.bundle.precisions)
            told = "f32 was not run" if held else "no f32 in the bundle"
            told += ": nothing is held against it"
            if options.null_row:
                told += f"; the null row is {null_precision(model.deployed)} against itself"
            models.setdefault(told, []).append(model.bundle.model_id)
    return [f"{', '.join(names)}: {told}" for told, names in models.items()]


def warnings(facts: WorkerFacts, workers: Sequence[WorkerRecord] = ()) -> list[str]:
    """Return what changes the meaning of figures, with tokens for options (`wording`).

    Args:
        facts: What evaluates.
        workers: What evaluated the parts, with the number of these.
    """
    told = [random_weights(model.bundle) for model in facts.models if model.bundle.weights.trained is False]
    fallbacks: dict[str, str] = {}
    for reason in (*fallback_reasons(facts.models), *(text for worker in workers for text in worker.fallback)):
        fallbacks.setdefault(in_options(reason), reason)  # what a part says of its worker has no tokens
    told += [f"fallback accepted: {reason}" for reason in fallbacks.values()]
    if facts.saturates or any(worker.saturates_in_pairs for worker in workers):
        run = [session.entry for model in facts.models for session in model.deployed.values() if may_saturate(session)]
        told.append(
            "this CPU's int8 kernels saturate (AVX2 without VNNI): int8 figures are what this machine computes, other CPUs "
            f"compute others. Cures: {seven_bits(run)}, or {{session_config}} session.x64quantprecision=1"
        )
    unknown = {worker.kernel_reason for worker in workers if worker.kernel_reason}
    if facts.kernels is not None and facts.kernels.family is None:
        unknown.add(facts.kernels.reason)
    told += [
        f"this CPU computes as no kernel family that qcam knows ({reason}): int8 figures are what this "
        "machine computes; how they compare with other CPUs is not known"
        for reason in sorted(unknown)
    ]
    return told + mixtures(workers)


def negative_activations(crossings: Iterable[Crossing]) -> list[str]:
    """Warn of models whose CAMs are made by weights that explode or change their sign; crossings: what a summary says."""
    told: dict[str, list[str]] = {}
    for found in crossings:
        told.setdefault(found.model, []).append(f"{found.precision} {found.images:,} of {found.n:,}")
    return [
        f"{model}: activations at the CAM layer are negative, and Grad-CAM++'s denominator is not positive somewhere in CAMs "
        f"of {', '.join(counts)} images: weights explode there and change their sign, and what such maps drift by says little "
        "of quantization; {cam} gradcam++-relu takes the sum of what is positive, or choose another {cam_layer}"
        for model, counts in told.items()
    ]


def mixtures(workers: Sequence[WorkerRecord]) -> list[str]:
    """Name what differs between the workers of a run, and how many shards each evaluated; with tokens for options."""
    told = []
    families: Counter[str] = Counter()
    packages: dict[str, Counter[str]] = {}
    for worker in workers:
        families[worker.kernel] += worker.shards
        for package, version in worker.versions.items():
            packages.setdefault(package, Counter())[version] += worker.shards
    if len(families) > 1:
        told.append(
            f"shards of differing int8 kernels are mixed ({_counts(families)}): the same file computes other codes on each; "
            "{require} kernel=NAME keeps a run to one"
        )
    for package, versions in packages.items():
        if len(versions) > 1:
            told.append(f"shards of differing versions of {package} are mixed ({_counts(versions)})")
    return told


def _counts(shards: Counter[str]) -> str:
    return ", ".join(f"{name}: {counted(many, 'shard')}" for name, many in sorted(shards.items()))


def _conventions(method: str, *, paper: bool) -> dict[str, str]:
    if paper:
        head = {
            "CAM": "on the logit before softmax, enlarged bicubically to the image's size; what the paper's code ran",
            "maps": "every map min-max to 0..1, in 8 bits unless that slip is switched off",
        }
    else:
        head = {
            "CAM": cam_convention(method),
            "maps": "CAMs enlarged bilinearly to the network's input size, then every map min-max to 0..1",
        }
    return head | _CONVENTIONS
