"""Judges bundles: every precision and arithmetic asked for, each against the deployed run of the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qcam.common import telling
from qcam.common.counted import counted
from qcam.common.errors import ImageSetError, UnsupportedGraphError, in_file
from qcam.common.files import sha256_file
from qcam.common.vocabulary import Arithmetic
from qcam.evaluate.check.batches import batches
from qcam.evaluate.check.checked import Checked
from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.elsewhere import adds_as, lowest_weight_warning, other_families, saturation_warning
from qcam.evaluate.check.gates import CODE_GATES, default_gates
from qcam.evaluate.check.held import Wanted
from qcam.evaluate.check.kernels import Kernels
from qcam.evaluate.check.matching import of_other_scales, of_partners, refuse_meaningless
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.plan import left_out, plan
from qcam.evaluate.check.reading import Reading
from qcam.evaluate.check.result import CheckResult
from qcam.evaluate.check.slopes import Slopes
from qcam.evaluate.check.timing import PREPARING, Stopwatch, shares
from qcam.evaluate.check.verdicts import Gate, Judged
from qcam.evaluate.check.words import some
from qcam.evaluate.run.arithmetic import float_arithmetic, seven_bits
from qcam.evaluate.run.inputs import calibrating
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import Bundle, load_onnx
from qcam.runtime.deployed.inspection import InspectedModel
from qcam.runtime.deployed.other_file import other_file
from qcam.runtime.deployed.placement import Placement
from qcam.runtime.deployed.provider_options import NVIDIA
from qcam.runtime.deployed.providers import PROVIDERS
from qcam.runtime.deployed.tail_session import TailSession
from qcam.runtime.gpu import Gpu, read_gpu
from qcam.runtime.grouping import disagreements
from qcam.runtime.kernels import KERNELS, KernelFamily
from qcam.runtime.mirror.integer.exposure import Exposure, exposure
from qcam.runtime.session_config import EXACT_SUMS, described, merged


def run_check(bundles: Sequence[Bundle], photographs: Sequence[ImageFile], options: CheckOptions | None = None) -> Checked:
    """Hold what is simulated against what really runs.

    Warnings are told as they come up (`qcam.common.telling`), and are in the result as well.

    Args:
        bundles: The bundles.
        photographs: What both sides are shown.
        options: What is asked for; None: every precision, integer arithmetic, the default gates.

    Returns:
        The verdict, and everything that it rests on. Nothing is written.

    Raises:
        QcamError: If something cannot be judged: a file or provider that cannot be had, nothing to compare.
    """
    options = options or CheckOptions()
    todo = plan(bundles, options)
    if not photographs:
        raise ImageSetError("no image to compare; give a folder with photographs")
    check = _Check(photographs, options)
    check.tell_left_out(bundles)
    for bundle, precision in todo:
        with in_file(bundle.path(precision)):
            check.judge(bundle, precision)
    return check.finish()


class _Check:
    """A check under way: what has been found so far."""

    def __init__(self, photographs: Sequence[ImageFile], options: CheckOptions) -> None:
        self._photographs = photographs
        self._options = options
        self._kernels = Kernels.of(options)
        self._judged: list[Judged] = []
        self._elsewhere: list[CheckResult] = []
        self._bundles: dict[str, dict[str, Any]] = {}
        self._placements: dict[str, dict[str, Any]] = {}
        self._seconds: dict[str, dict[str, dict[str, float]]] = {}
        self._remarks: list[str] = []
        self._warnings: list[str] = []
        self._refused: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._ran: dict[str, tuple[Bundle, list[str]]] = {}
        self._on_gpu = options.device == "cuda"
        probe = self._kernels.probe
        if probe is not None and self._kernels.own is None:
            family = self._kernels.family
            self._warn(f"equal codes are promised nowhere, the mirror follows {family}: on this CPU {probe.reason}")

    def tell_left_out(self, bundles: Sequence[Bundle]) -> None:
        """Warn of each precision of a whole bundle that the provider does not run itself, and that is not judged."""
        for bundle in {bundle.folder.resolve(): bundle for bundle in bundles}.values():
            for name, reason in left_out(bundle, self._options).items():
                self._warn(f"{name} of {bundle.model_id} is left out: {reason}")

    def judge(self, bundle: Bundle, precision: str) -> None:
        """Judge one precision of one bundle; its file is read here and nowhere else."""
        watch = Stopwatch()
        with watch.stage(PREPARING):
            self._judge(bundle, precision, watch)
        seconds = self._seconds.setdefault(bundle.model_id, {}).setdefault(precision, {})
        for stage, spent in watch.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent

    def _judge(self, bundle: Bundle, precision: str, watch: Stopwatch) -> None:
        options = self._options
        session = bundle.precision(precision).session
        kernels = Kernels.of(options, session)
        reading = Reading(load_onnx(bundle, precision), merged(session, options.settings.config), kernels.own)
        settings = replace(options.settings, batch=options.batch_size)
        if options.deployed is None:
            other, runtime = None, InspectedModel(bundle, precision, settings, reading.kept, model=reading.file)
        else:
            other = other_file(bundle, precision, options.deployed, reading.graph)
            runtime = InspectedModel(bundle, precision, settings, reading.tensors, other=other)
        device = options.device
        checker = Checker(
            bundle, precision, runtime, device=device, reading=reading, own=kernels.own, other=other,
            threads=options.settings.threads, slopes=self._slopes(bundle, precision, reading),
        )  # fmt: skip
        if other is not None:
            refuse_meaningless(options.gates, checker, other.path)
            self._remarks += [f"{other.path}: {sentence}" for sentence in other.told]
        self._ran.setdefault(bundle.fingerprint, (bundle, []))[1].append(precision)
        self._bundles[bundle.model_id] = {
            "folder": str(bundle.folder), "trained": bundle.weights.trained, "fingerprint": bundle.fingerprint,
        }  # fmt: skip
        self._note_placement(bundle, precision, runtime.deployed.placement)
        risks = None
        if options.settings.provider == "CPU" and checker.eight_bit:
            risks = self._risks(bundle, precision, reading, runtime.deployed.placement)
        promised = checker.same_codes if other is not None else bundle.precision(precision).promised
        trusted = promised and reading.deployed is not None and kernels.trusted(risks)
        arithmetics = options.arithmetics if reading.tensors else (Arithmetic.FAKE_QUANT,)
        wanted = [
            Wanted(
                arithmetic,
                kernels.family,
                exact=trusted and arithmetic == Arithmetic.INTEGER,
                every_tensor=options.every_tensor,
            )
            for arithmetic in arithmetics
        ]
        others: dict[str, bool | UnsupportedGraphError] = {}
        if risks is not None and options.other_cpus and kernels.own is not None and options.deployed is None:
            others = other_families(reading, risks, kernels.own)
        # A family that is judged anyway is not run again.
        done = {kernels.family.name} if Arithmetic.INTEGER in arithmetics else set()
        further = [KERNELS[name] for name, differs in others.items() if differs is True and name not in done]
        count = len(wanted) + len(further)
        mirrors = f"{count} mirror{'' if count == 1 else 's'}"
        with telling.progress(f"{bundle.model_id} {precision}, {mirrors}", len(self._photographs)) as advance:
            results, elsewhere = checker.run(
                lambda: batches(self._photographs, bundle, options.batch_size, self._refused, self._hashes),
                wanted,
                elsewhere=further,
                advance=advance,
                stopwatch=watch,
            )
        for result in results:
            if other is not None and reading.tensors:
                result.remarks += of_other_scales(result, other.path)
            self._judged.append(Judged(result, self._gates(result)))
            if result.arithmetic == Arithmetic.INTEGER:
                elsewhere[result.kernel] = result
        if risks is not None and kernels.own is not None:
            found = {name: elsewhere[name] if differs is True else differs for name, differs in others.items()}
            cure = seven_bits([bundle.precision(precision)])
            self._tell_elsewhere(f"{bundle.model_id} {precision}", reading, risks, kernels.own, found, cure)

    def finish(self) -> Checked:
        """Return what was found, with warnings of what is incomplete."""
        for item in self._judged:
            self._warn_of_gaps(item.result)
        reasons: dict[str, list[str]] = {}
        for name, reason in self._refused.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            self._warn(f"refused: {reason}: {some(names)}")
        for bundle, precisions in self._ran.values() if self._options.deployed is None else ():
            if told := calibrating(bundle, precisions, self._hashes.values()):
                self._warn(told)
        deployed, gpu = self._options.deployed, self._gpu()  # which is remarked
        self._remarks.append(f"time: {shares(stages for ran in self._seconds.values() for stages in ran.values())}")
        return Checked(
            options=self._options,
            kernels=self._kernels,
            judged=tuple(self._judged),
            elsewhere=tuple(self._elsewhere),
            bundles=self._bundles,
            placements=self._placements,
            remarks=tuple(self._remarks),
            warnings=tuple(self._warnings),
            refused=self._refused,
            deployed_sha256=None if deployed is None else sha256_file(deployed),
            images=self._hashes,
            gpu=gpu,
            seconds=self._seconds,
        )

    def _gpu(self) -> Gpu | None:
        """Return the GPU that took part, and remark which; None where none did."""
        settings = self._options.settings
        if not self._on_gpu:
            return None
        gpu = read_gpu(settings.device_index)
        self._remarks.append(f"GPU: {gpu.describe()}; {float_arithmetic(settings)}")
        return gpu

    def _slopes(self, bundle: Bundle, precision: str, reading: Reading) -> Slopes | None:
        """Return what measures the deployed tail's slopes; None where nobody asked, or the CAM layer hands out no codes."""
        if not self._options.finite_differences:
            return None
        if bundle.precision(precision).tap.dtype == "float32":
            self._remarks.append(f"{bundle.model_id} {precision}: no finite differences, the CAM layer hands out no codes")
            return None
        return Slopes(TailSession(bundle, precision, self._options.settings, model=reading.file))

    def _note_placement(self, bundle: Bundle, precision: str, placement: Placement) -> None:
        self._placements.setdefault(bundle.model_id, {})[precision] = placement.to_json(nodes=True)
        self._on_gpu |= not placement.providers.isdisjoint(PROVIDERS[name] for name in NVIDIA)
        if placement.fallback:
            self._warn(f"{bundle.model_id} {precision}: fallback accepted: {placement.fallback}")
        what = "float" if precision == "f32" and placement.float_kernels else placement.describe()
        if told := described(placement.config):
            what = f"{what}; {told}"
        self._remarks.append(f"{bundle.model_id} {precision} on {self._options.settings.provider}: {what}")
        if (remark := bundle.precision(precision).remark) and self._options.deployed is None:
            self._warn(f"{bundle.model_id} {precision}: {remark}")

    def _risks(self, bundle: Bundle, precision: str, reading: Reading, placement: Placement) -> Exposure:
        """Return what a file of integer kernels risks; warn of kernels and weights that are not what the mirror expects."""
        name = f"{bundle.model_id} {precision}"
        graph, groups = reading.followed
        risks = exposure(graph, groups)
        if self._options.deployed is None and bundle.precision(precision).promised:  # else it is another file's placement
            known = reading.deployed
            wrong = disagreements(groups, graph, placement.kernel_of) if known is None else known.differing(placement.kernel_of)
            self._placements[bundle.model_id][precision]["disagreements"] = wrong
            if wrong:
                self._warn(f"{name}: kernels are not those that the mirror takes for granted: {some(wrong)}")
            if others := reading.second_opinion():
                self._remarks.append(
                    f"{name}: ONNX Runtime's own graph is followed where the file reads otherwise: {some(others)}"
                )
        if risks.lowest and (self._options.other_cpus or self._kernels.wraps):
            cure = seven_bits([bundle.precision(precision)])
            self._warn(lowest_weight_warning(name, risks, cure, here=self._kernels.wraps))
        return risks

    def _gates(self, result: CheckResult) -> tuple[Gate, ...]:
        wanted = dict(
            self._options.gates
            or default_gates(
                exact=result.exact,
                coded=bool(result.coded) or not result.comparable,
                float_logits=result.float_logits,
                provider=self._options.settings.provider,
            )
        )
        if not self._options.gates and result.exact and result.float_tap:
            wanted["tap"] = 1.0  # codes of other tensors say nothing of it
        figures = result.figures
        return tuple(
            Gate(name, threshold, figures[name]) for name, threshold in wanted.items() if result.coded or name not in CODE_GATES
        )

    def _tell_elsewhere(
        self,
        name: str,
        reading: Reading,
        risks: Exposure,
        own: KernelFamily,
        found: Mapping[str, CheckResult | UnsupportedGraphError | bool],
        cure: str,
    ) -> None:
        """Tell what other families' kernels would change.

        Args:
            name: Model and precision.
            reading: The file.
            risks: What its weights risk.
            own: This CPU's family.
            found: Family → its mirror's result, the error where its graph is not known, or False where nothing differs.
            cure: What keeps weights to 7 bits, from `seven_bits`.
        """
        if not found:
            return
        same: list[str] = []
        unknown: list[str] = []
        floats = reading.float_operators
        for other in KERNELS.values():
            if (shown := adds_as(other, reading)) not in (own, other):
                self._remarks.append(f"{name}: under {EXACT_SUMS}=1, {other} CPUs compute as {shown} CPUs do")
        for family, result in found.items():
            other = KERNELS[family]
            if isinstance(result, UnsupportedGraphError):
                self._remarks.append(f"{name}: what CPUs of family {other} compute is not foretold: {result.template}")
                continue
            if not isinstance(result, CheckResult):
                (unknown if floats else same).append(other.name)
                continue
            self._elsewhere.append(result)
            if floats:
                self._remarks.append(
                    f"{name}, {other}: {len(floats)} float operators between quantizers ({some(floats)}) are in PyTorch's "
                    "order there, which is not the kernels'"
                )
            if other.pairs_saturate != own.pairs_saturate:
                self._warn(saturation_warning(result, other, risks, cure))
        if unknown:
            self._remarks.append(
                f"{name}: {' and '.join(unknown)} CPUs compute the integer operators as this one ({own}); how they round "
                f"{len(floats)} float operators between quantizers is not foretold"
            )
        if same:
            self._remarks.append(
                f"{name}: {' and '.join(same)} CPUs compute the same codes as this one "
                f"({own}): the file has nothing that they treat otherwise"
            )

    def _warn_of_gaps(self, result: CheckResult) -> None:
        """Warn of tensors that could not be compared and of CAMs that have no figure."""
        for sentence in of_partners(result, self._options.deployed):
            self._warn(sentence)
        if result.undefined:
            shown = f"{result.undefined} of {counted(len(result.images), 'image')}"
            self._warn(f"{result.title}: CAMs of {shown} are constant or not finite and have no CC")

    def _warn(self, message: str) -> None:
        self._warnings.append(message)
        telling.warn(message)
