"""What run.json, summary.json and placement.json say, with types: read once per run, used by every part of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.fields import Fields
from qcam.evaluate.results.folder import PLACEMENT, RUN, SUMMARY


@dataclass(frozen=True)
class Entry:
    """One figure of a summary.

    Attributes:
        model: Model id.
        precision: f32, int16, int8, or a name of another tool's.
        comparison: What was compared, or measured.
        metric: By which metric or measure.
        mean: Over images; None where it is defined for none.
        std: Standard deviation of the population.
        low: Lower end of the mean's interval; None of fewer than two images.
        high: Upper end.
        n: Images for which it is defined.
        undefined: Images for which it is not.
    """

    model: str
    precision: str
    comparison: str
    metric: str
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    n: int
    undefined: int


@dataclass(frozen=True)
class Flip:
    """Drift where the top-1 class changed, apart from drift where it did not.

    Attributes:
        model: Model id.
        precision: The quantized precision.
        flipped: Images with another top-1 class than f32.
        kept: Images with the same.
        means: Metric → mean v. f32 of the flipped and of the kept images; None where there are none.
    """

    model: str
    precision: str
    flipped: int
    kept: int
    means: dict[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class PairedTest:
    """One precision against another, image by image: `second` less `first`.

    Attributes:
        model: Model id.
        comparison: What both were compared with.
        metric: By which metric.
        first: A precision.
        second: Another one.
        n: Images.
        differing: Images on which the two differ; None if it was not counted.
        mean_difference: Over images.
        low: Lower end of its interval; None without one.
        high: Upper end.
        p: After Holm's correction; None if it was not made.
        effect: Rank-biserial correlation, -1..1.
    """

    model: str
    comparison: str
    metric: str
    first: str
    second: str
    n: int
    differing: int | None
    mean_difference: float
    low: float | None
    high: float | None
    p: float | None
    effect: float


@dataclass(frozen=True)
class Summary:
    """The content of summary.json.

    Attributes:
        entries: Every figure.
        tests: Paired tests.
        flips: Class flips.
        statuses: Model → status → images.
        interval: How intervals were made, in words.
        complete: Whether it is of every image.
    """

    entries: tuple[Entry, ...]
    tests: tuple[PairedTest, ...]
    flips: tuple[Flip, ...]
    statuses: dict[str, dict[str, int]]
    interval: str
    complete: bool


@dataclass(frozen=True)
class PrecisionRecord:
    """One precision of a model, as it ran.

    Attributes:
        tap: The CAM layer; empty if it is not told.
        arithmetic: What it computes in, in words.
        fallback: Why it is not wholly on the provider that was asked for; empty if it is.
        by_count: Share of Conv, Gemm and MatMul that ran as integer kernels; None if unknown.
        by_work: The same by multiply-accumulates; None if unknown.
        placed: Whether its kernels are known: what the paper's protocol runs is placed nowhere.
        kernels: Operator, provider and how often.
    """

    tap: str
    arithmetic: str
    fallback: str
    by_count: float | None
    by_work: float | None
    placed: bool
    kernels: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class ModelRecord:
    """One model of a run.

    Attributes:
        bundle: Name of the bundle's folder.
        weights: Their name.
        weights_sha256: Their fingerprint.
        trained: Whether they mean something.
        geometry: The crop in words.
        fingerprint: Of the bundle.
        precisions: By name.
    """

    bundle: str
    weights: str
    weights_sha256: str
    trained: bool
    geometry: str
    fingerprint: str
    precisions: dict[str, PrecisionRecord]


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json, as far as a report tells of it.

    Attributes:
        complete: Whether every image was evaluated.
        protocol: `deployed` or `paper`.
        fixes: Slips of the paper's code that were switched off.
        provider: Where it ran.
        images: How many; None if it is not told.
        image_set: Fingerprint of the images.
        plan: Further names of the plan, as they were written: saliency, device, shard_size.
        options: The options of the study, without the sessions'.
        settings: The options of the sessions.
        versions: Of Python and packages.
        machine: Facts of the machine.
        kernels: Family of the CPU provider's kernels.
        kernels_why: Why it is not known; empty if it is.
        saturates: Whether int8 kernels saturate in pairs.
        models: By id.
        conventions: What the measures are.
        notes: What the figures depend on.
        warnings: What changes their meaning.
        seconds: Wall time by stage.
    """

    complete: bool
    protocol: str
    fixes: tuple[str, ...]
    provider: str
    images: int | None
    image_set: str
    plan: dict[str, Any]
    options: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, Any]
    machine: dict[str, Any]
    kernels: str
    kernels_why: str
    saturates: bool
    models: dict[str, ModelRecord]
    conventions: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]


def read_summary(value: Any, file: str = SUMMARY) -> Summary:
    """Return the content of summary.json.

    Args:
        value: From `json.loads`, or of `summary.summarise`.
        file: The file it comes from, for messages.

    Raises:
        ResultsError: If a field is missing or of another type.
    """
    fields = Fields(value, file)
    statuses = fields.part("statuses").items()
    return Summary(
        entries=tuple(_entry(item) for item in fields.parts("entries")),
        tests=tuple(_test(item) for item in fields.parts("tests")),
        flips=tuple(_flip(item) for item in fields.parts("flips")),
        statuses={model: {status: of.needed_count(status) for status in of.raw} for model, of in statuses.items()},
        interval=fields.text("interval"),
        complete=fields.flag("complete", default=True),
    )


def _entry(item: Fields) -> Entry:
    return Entry(
        item.needed_text("model"), item.needed_text("precision"), item.needed_text("comparison"), item.needed_text("metric"),
        item.number("mean"), item.number("std"), item.number("low"), item.number("high"),
        item.needed_count("n"), item.count("undefined") or 0,
    )  # fmt: skip


def _flip(item: Fields) -> Flip:
    groups = {metric: item.part(metric) for metric in METRICS}
    means = {metric: (of.part("flipped").number("mean"), of.part("kept").number("mean")) for metric, of in groups.items()}
    names = item.needed_text("model"), item.needed_text("precision")
    return Flip(*names, item.needed_count("flipped"), item.needed_count("kept"), means)


def _test(item: Fields) -> PairedTest:
    return PairedTest(
        item.needed_text("model"), item.needed_text("comparison"), item.needed_text("metric"), item.needed_text("first"),
        item.needed_text("second"), item.needed_count("n"), item.count("differing"), item.needed_number("mean_difference"),
        item.number("low"), item.number("high"), item.number("p_holm"), item.needed_number("effect"),
    )  # fmt: skip


def read_run_record(run: Mapping[str, Any], file: str = RUN) -> RunRecord:
    """Return the content of run.json.

    Args:
        run: From `json.loads`.
        file: The file it comes from, for messages.

    Raises:
        ResultsError: If a field is of another type.
    """
    fields = Fields(run, file)
    plan, protocol, kernels = fields.part("plan"), fields.part("protocol"), fields.part("kernels")
    bundles, seconds = plan.part("bundles"), fields.part("seconds")
    options = dict(plan.part("options").raw)
    options.pop("settings", None)
    return RunRecord(
        complete=fields.flag("complete", default=False),
        protocol=protocol.text("name", "deployed"),
        fixes=protocol.texts("fixes"),
        provider=fields.text("provider", "?"),
        images=plan.part("images").count("count"),
        image_set=plan.part("images").text("fingerprint"),
        plan={name: plan.raw.get(name) for name in ("saliency", "device", "shard_size")},
        options=options,
        settings=plan.part("options").part("settings").raw,
        versions=plan.part("versions").raw,
        machine=fields.part("machine").raw,
        kernels=kernels.text("family"),
        kernels_why=kernels.text("reason"),
        saturates=fields.flag("int8_kernels_saturate_in_pairs", default=False),
        models={model: _model(of, bundles.text(model)) for model, of in fields.part("models").items().items()},
        conventions=fields.part("conventions").raw,
        notes=fields.texts("notes"),
        warnings=fields.texts("warnings"),
        seconds={stage: seconds.needed_number(stage) for stage in seconds.raw},
    )


def _model(item: Fields, fingerprint: str) -> ModelRecord:
    weights = item.part("weights")
    return ModelRecord(
        bundle=item.text("bundle", "?"),
        weights=weights.text("name", "?"),
        weights_sha256=weights.text("sha256"),
        trained=weights.flag("trained", default=True),
        geometry=item.text("geometry"),
        fingerprint=fingerprint,
        precisions={name: read_precision(of) for name, of in item.part("precisions").items().items()},
    )


def read_precision(item: Fields) -> PrecisionRecord:
    """Return what run.json, or placement.json, says of one precision."""
    coverage = item.part("integer_coverage")
    return PrecisionRecord(
        tap=item.text("tap"),
        arithmetic=item.text("arithmetic"),
        fallback=item.text("fallback"),
        by_count=coverage.number("count"),
        by_work=coverage.number("macs"),
        placed=item.raw.get("integer_coverage") is not None,
        kernels=tuple(
            (kernel.needed_text("operator"), kernel.needed_text("provider"), kernel.needed_count("count"))
            for kernel in item.parts("kernels")
        ),
    )


def read_placement(value: Any, file: str = PLACEMENT) -> dict[str, dict[str, PrecisionRecord]]:
    """Return what placement.json says of every model and precision.

    Args:
        value: From `json.loads`.
        file: The file it comes from, for messages.

    Raises:
        ResultsError: If a field is of another type.
    """
    models = Fields(value, file).items()
    return {model: {name: read_precision(of) for name, of in item.items().items()} for model, item in models.items()}
