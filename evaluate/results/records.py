"""What run.json, summary.json, placement.json and a part say, with types; docs/results.md describes every field.

Each is read through `common/records.py`. What an earlier version did not write has a default that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from qcam.common.vocabulary import CAM_NAMES, UNITS, CamMethod, Reference, words
from qcam.images.account import AccountLine
from qcam.runtime.gpu import Gpu

#: What is said of weights of which nobody says whether they are trained.
UNKNOWN_WEIGHTS = "weights: not known whether trained"


def _refuse_unknown(name: str, field_name: str) -> None:
    if name not in words(Reference):
        raise ValueError(f"{field_name} is {name!r}, which is none of {', '.join(words(Reference))}")


@dataclass(frozen=True, kw_only=True)
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
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    n: int
    undefined: int = 0


@dataclass(frozen=True)
class Mean:
    """A mean over images; None where there are none."""

    mean: float | None = None


@dataclass(frozen=True)
class Drift:
    """Mean v. f32 of the images with another top-1 class than f32, and of those with the same."""

    flipped: Mean = Mean()
    kept: Mean = Mean()


@dataclass(frozen=True)
class Flip:
    """Drift where the top-1 class changed, apart from drift where it did not.

    Attributes:
        model: Model id.
        precision: The quantized precision.
        flipped: Images with another top-1 class than f32.
        kept: Images with the same.
        SIM: Their drift by similarity.
        CC: By correlation.
        KLD: By divergence.
    """

    model: str
    precision: str
    flipped: int
    kept: int
    SIM: Drift = Drift()
    CC: Drift = Drift()
    KLD: Drift = Drift()

    @property
    def means(self) -> dict[str, tuple[float | None, float | None]]:
        """Return metric → mean v. f32 of the flipped and of the kept images; None where there are none."""
        drifts = {"SIM": self.SIM, "CC": self.CC, "KLD": self.KLD}
        return {metric: (drift.flipped.mean, drift.kept.mean) for metric, drift in drifts.items()}


@dataclass(frozen=True)
class Crossing:
    """How often Grad-CAM++'s denominator was not positive.

    Attributes:
        model: Model id.
        precision: The precision.
        images: Images with a CAM of which it was so at one position at least.
        n: Images of which it is known.
        mean: Positions of all channels, on average over the `n`.
    """

    model: str
    precision: str
    images: int
    n: int
    mean: float


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A precision's drift from f32 in units of what else moves f32's maps: sum of 1 - metric of both, over the same images.

    Attributes:
        model: Model id.
        precision: The precision.
        reference: The unit, one of `Reference`.
        metric: CC or SIM.
        ratio: Drift by unit.
        low: Lower end of its interval; None of fewer than two images.
        high: Upper end.
        n: Images.
    """

    model: str
    precision: str
    reference: str
    metric: str
    ratio: float
    low: float | None = None
    high: float | None = None
    n: int

    def __post_init__(self) -> None:
        """Refuse a unit that nobody knows.

        Raises:
            ValueError: Names the field.
        """
        _refuse_unknown(self.reference, "reference")


@dataclass(frozen=True)
class Spread:
    """How 1 - CC lies over the images.

    Attributes:
        model: Model id.
        precision: The precision that drifts, or whose maps a reference moves.
        comparison: vs_f32, or one of `Reference`.
        n: Images.
        median: Of 1 - CC.
        q1: Its lower quartile.
        q3: Its upper quartile.
        worst: Its largest value.
        worst_image: The image of that.
    """

    model: str
    precision: str
    comparison: str
    n: int
    median: float
    q1: float
    q3: float
    worst: float
    worst_image: str

    def __post_init__(self) -> None:
        """Refuse a comparison that nobody knows.

        Raises:
            ValueError: Names the field.
        """
        if self.comparison != "vs_f32":
            _refuse_unknown(self.comparison, "comparison")


@dataclass(frozen=True, kw_only=True)
class NonInferiority:
    """Whether a precision moves most maps less than a reference does: exact sign test of 1 - CC less the reference's.

    Attributes:
        model: Model id.
        precision: The precision.
        reference: One of `Reference`.
        n: Images.
        below: How many of them the precision moves less.
        median: Of the differences.
        low: One-sided 95 % lower bound of the median; None where there are too few images for one.
        high: One-sided upper bound.
        p: One-sided, that it moves them less.
        p_holm: After Holm's correction over the study.
        p_above: One-sided, that it moves them more.
        p_above_holm: After Holm's correction over the study.
    """

    model: str
    precision: str
    reference: str
    n: int
    below: int
    median: float
    low: float | None = None
    high: float | None = None
    p: float
    p_holm: float
    p_above: float
    p_above_holm: float

    def __post_init__(self) -> None:
        """Refuse a reference that nobody knows.

        Raises:
            ValueError: Names the field.
        """
        _refuse_unknown(self.reference, "reference")
        if self.reference not in [unit.value for unit in UNITS]:
            raise ValueError(f"reference is {self.reference!r}, which drift is not tested against")

    @property
    def verdict(self) -> str:
        """Return `less`, `more` or `undecided`."""
        if self.p_holm < 0.05:
            return "less"
        return "more" if self.p_above_holm < 0.05 else "undecided"


@dataclass(frozen=True, kw_only=True)
class ClippedTensor:
    """What one quantizer of a simulation clipped, of all images together.

    A value is clipped if it lies more than half a step outside the range, and the float network lets it through: what an
    activation function cuts off that the quantizer stands for (ReLU, ReLU6) does not count.

    Attributes:
        name: Name of the quantizer's output.
        lowest: Lowest value of its range, in the tensor's units.
        highest: Highest value of its range.
        n: Values that were quantized.
        low: Share of them that was clipped at the lowest code, 0..1.
        high: Share at the highest code, 0..1.
        below: How far the farthest value lay below the range, in units of the range; None: infinitely far.
        above: How far above.
        error: Mean square of what clipping is off by, by that of rounding (a step squared by 12); None without values, or where
            some were infinite.
    """

    name: str
    lowest: float
    highest: float
    n: int
    low: float
    high: float
    below: float | None
    above: float | None
    error: float | None

    @property
    def endless(self) -> bool:
        """Tell whether some values were infinitely far outside."""
        return self.below is None or self.above is None

    @property
    def farthest(self) -> float:
        """Return how far the farthest value lay outside, in units of the range."""
        return max(inf if far is None else far for far in (self.below, self.above))

    @property
    def louder(self) -> bool:
        """Tell whether clipping is a larger error than rounding."""
        return self.endless or (self.error is not None and self.error > 1)


@dataclass(frozen=True)
class Clipping:
    """What the quantizers of a precision clipped in its simulation.

    Attributes:
        model: Model id.
        precision: The precision.
        images: Images of which it was counted.
        tensors: In graph order.
    """

    model: str
    precision: str
    images: int
    tensors: tuple[ClippedTensor, ...]


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """One precision against another, image by image: `second` less `first`. Of accuracy it is McNemar's test.

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
        p_holm: p after Holm's correction; None if it was not made.
        effect: Rank-biserial correlation, -1..1.
    """

    model: str
    comparison: str
    metric: str
    first: str
    second: str
    n: int
    differing: int | None = None
    mean_difference: float
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    effect: float


@dataclass(frozen=True)
class Summary:
    """The content of summary.json.

    Attributes:
        entries: Every figure.
        tests: Paired tests.
        flips: Class flips.
        statuses: Model → status → images.
        crossings: Where the CAM's formula left its ground; empty if nowhere, or of results of earlier versions.
        scale: Drift in units of the reference rows; empty without any, or of results of earlier versions.
        drift: How 1 - CC lies over the images; empty in results of earlier versions.
        non_inferiority: Drift against a named reference; likewise.
        clipping: What quantizers clipped; empty without a simulation, or of results of earlier versions.
        interval: How intervals were made, in words.
        complete: Whether it is of every image.
    """

    entries: tuple[Entry, ...] = ()
    tests: tuple[PairedTest, ...] = ()
    flips: tuple[Flip, ...] = ()
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)
    crossings: tuple[Crossing, ...] = ()
    scale: tuple[Scaled, ...] = ()
    drift: tuple[Spread, ...] = ()
    non_inferiority: tuple[NonInferiority, ...] = ()
    clipping: tuple[Clipping, ...] = ()
    interval: str = ""
    complete: bool = True


@dataclass(frozen=True)
class IntegerCoverage:
    """How much of Conv, Gemm and MatMul ran as integer kernels.

    Attributes:
        count: Share of kernels; None if unknown.
        macs: Share of multiply-accumulates; None if unknown.
    """

    count: float | None = None
    macs: float | None = None


@dataclass(frozen=True)
class Kernels:
    """Kernels of one kind.

    Attributes:
        operator: What ran.
        provider: ONNX Runtime's name of the execution provider.
        count: How often.
    """

    operator: str
    provider: str
    count: int


@dataclass(frozen=True)
class PrecisionRecord:
    """One precision of a model, as it ran: in run.json, and in placement.json.

    Attributes:
        sha256: Of its file; empty where nothing is deployed.
        tap: The CAM layer; empty if it is not told.
        arithmetic: What it computes in, in words.
        fallback: Why it is not wholly on the provider that was asked for; empty if it is.
        integer_coverage: None of what the paper's protocol runs: it is placed nowhere.
        kernels: What ran where.
    """

    sha256: str = ""
    tap: str = ""
    arithmetic: str = ""
    fallback: str = ""
    integer_coverage: IntegerCoverage | None = None
    kernels: tuple[Kernels, ...] = ()

    @property
    def coverage(self) -> IntegerCoverage:
        """Return the integer coverage, unknown where nothing is placed."""
        return self.integer_coverage or IntegerCoverage()


#: The content of placement.json: model → precision → what ran where.
Placements = dict[str, dict[str, PrecisionRecord]]


@dataclass(frozen=True)
class WeightsRecord:
    """Weights of a model.

    Attributes:
        name: Their name.
        sha256: Their fingerprint.
        trained: Whether they mean something; None where nobody knows, which run.json says as null. Where it has no word of it,
            as of earlier versions, they do not.
    """

    name: str = "?"
    sha256: str = ""
    trained: bool | None = False

    @property
    def word(self) -> str:
        """Return one word for what they are: trained, random or unknown."""
        return "unknown" if self.trained is None else "trained" if self.trained else "random"


@dataclass(frozen=True)
class ModelRecord:
    """One model of a run.

    Attributes:
        bundle: Name of the bundle's folder.
        weights: Its weights.
        geometry: The crop in words.
        classes: Key of its class names in run.json.
        calibration_images: Photographs that its ranges come from; None where that is not known.
        precisions: By name.
    """

    bundle: str = "?"
    weights: WeightsRecord = WeightsRecord()
    geometry: str = ""
    classes: str = ""
    calibration_images: int | None = None
    precisions: dict[str, PrecisionRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class ProtocolRecord:
    """What was run.

    Attributes:
        name: `deployed` or `paper`.
        fixes: Slips of the paper's code that were switched off.
    """

    name: str = "deployed"
    fixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageSetRecord:
    """The images of a run.

    Attributes:
        count: How many; None if it is not told.
        fingerprint: Of all.
    """

    count: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class PlanRecord:
    """The plan of a run, as far as anyone but the next run tells of it.

    Attributes:
        bundles: Model id → fingerprint.
        images: The image set.
        saliency: Fingerprint of the source of salient-object maps; None without one.
        device: Of PyTorch.
        shard_size: Images in a shard.
        options: The options of the study, by the names that the run's version gave them; `settings` are those of the sessions.
        versions: Of Python and packages.
    """

    bundles: dict[str, str] = field(default_factory=dict)
    images: ImageSetRecord = ImageSetRecord()
    saliency: str | None = None
    device: str | None = None
    shard_size: int | None = None
    options: dict[str, object] = field(default_factory=dict)
    versions: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse options of sessions that are none.

        Raises:
            ValueError: Names the field.
        """
        _ = self.settings

    @property
    def cam(self) -> str:
        """Return the CAM method in prose; `CAM` where it is one that this version does not know."""
        method = self.options.get("method", CamMethod.GRADCAM_PLUS_PLUS)
        return next((name for known, name in CAM_NAMES.items() if known == method), "CAM")

    @property
    def settings(self) -> Mapping[str, object]:
        """Return the options of the sessions; empty where the run's version did not tell them."""
        if "settings" not in self.options:
            return {}
        settings = self.options["settings"]
        if not isinstance(settings, dict):
            raise ValueError("options.settings has to be an object")
        return settings


@dataclass(frozen=True)
class KernelsRecord:
    """The CPU provider's kernels.

    Attributes:
        family: As which they compute.
        reason: Why it is not known; empty if it is.
    """

    family: str = ""
    reason: str = ""


@dataclass(frozen=True)
class WorkerRecord:
    """What evaluated parts.

    Attributes:
        node: Name of the machine.
        kernel: Family of the CPU provider's kernels.
        kernel_reason: Why it is not known; empty if it is.
        fallback: Why sessions are not wholly on the provider that was asked for.
        saturates_in_pairs: Whether a figure depends on 16-bit saturation in its int8 kernels.
        provider: The execution provider that was asked for.
        cpu_features: Its instruction sets.
        versions: Of Python and of the packages that can change a figure.
        shards: How many parts; 0 in a part itself.
        gpu: The GPU that took part; None where none did.
    """

    node: str = "an unknown machine"
    kernel: str = "unknown"
    kernel_reason: str = ""
    fallback: tuple[str, ...] = ()
    saturates_in_pairs: bool = False
    provider: str = ""
    cpu_features: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    shards: int = 0
    gpu: Gpu | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the worker as JSON-ready values; without a GPU there is no word of one."""
        return {name: value for name, value in asdict(self).items() if name != "gpu" or value is not None}

    def of_a_part(self) -> dict[str, Any]:
        """Return what a part says of its worker, as JSON-ready values: all but the number of parts."""
        return {name: value for name, value in self.to_json().items() if name != "shards"}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of run.json, as far as it is read again; `Results.run` has all of it.

    Attributes:
        complete: Whether every image was evaluated.
        protocol: What was run.
        provider: Where it ran.
        plan: All that can change a figure.
        machine: Facts of the machine.
        kernels: The CPU provider's kernels.
        int8_kernels_saturate_in_pairs: Whether they do.
        workers: What evaluated the parts.
        models: By id.
        classes: Key → class names in the order of the logits.
        conventions: What the measures are.
        notes: What the figures depend on.
        warnings: What changes their meaning.
        seconds: Wall time by stage.
        account: What became of what was given; empty of results of earlier versions.
        files: File → SHA-256; None of results of earlier versions.
    """

    complete: bool = False
    protocol: ProtocolRecord = ProtocolRecord()
    provider: str = "?"
    plan: PlanRecord
    machine: dict[str, object] = field(default_factory=dict)
    kernels: KernelsRecord = KernelsRecord()
    int8_kernels_saturate_in_pairs: bool = False
    workers: tuple[WorkerRecord, ...] = ()
    models: dict[str, ModelRecord]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    conventions: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    account: tuple[AccountLine, ...] = ()
    files: dict[str, str] | None = None
