"""What a process that evaluates is: its models as they were placed, its kernels, its versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from qcam.common import machine
from qcam.common.wording import in_options
from qcam.evaluate.results.records import WorkerRecord
from qcam.evaluate.run.protocol import Evaluator
from qcam.evaluate.run.ran import Deployed, Ran
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import Bundle, PrecisionEntry
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.deployed.probe import KernelProbe, probe_kernels, saturates_in_pairs
from qcam.runtime.deployed.provider_options import NVIDIA
from qcam.runtime.deployed.providers import PROVIDERS
from qcam.runtime.gpu import Gpu, read_gpu
from qcam.runtime.session_config import probed


@dataclass(frozen=True)
class ModelFacts:
    """One evaluator, as far as tables tell of it.

    Attributes:
        bundle: The bundle.
        preprocessing: How photographs become its inputs.
        precisions: Precision → what was run.
        notes: What has to be said below a table.
        rows: Result rows of an image.
        references: Reference rows of an image that has any.
    """

    bundle: Bundle
    preprocessing: Preprocessing
    precisions: dict[str, Ran]
    notes: list[str]
    rows: int
    references: int

    @property
    def deployed(self) -> dict[str, Deployed]:
        """Return precision → session; empty where nothing is deployed."""
        return {name: ran for name, ran in self.precisions.items() if isinstance(ran, Deployed)}


@dataclass(frozen=True)
class WorkerFacts:
    """A process with open sessions.

    Attributes:
        models: One per bundle, in the order of the run.
        kernels: What the CPU provider's kernels answered; None if no session computes on it.
        saturates: Whether a figure depends on 16-bit saturation in this CPU's int8 kernels.
        provider: The execution provider that was asked for.
        node: Name of the machine.
        cpu_features: Its instruction sets.
        versions: Of Python and of the packages that can change a figure.
        gpu: The GPU that takes part; None where none does.
    """

    models: tuple[ModelFacts, ...]
    kernels: KernelProbe | None
    saturates: bool
    provider: str
    node: str
    cpu_features: list[str]
    versions: dict[str, str]
    gpu: Gpu | None = None

    @property
    def kernel(self) -> str:
        """Return the family of the CPU provider's kernels: vnni, avx2, arm64 or unknown; `none` where it computes nothing."""
        return "none" if self.kernels is None else self.kernels.name

    @property
    def rows(self) -> int:
        """Return how many result rows an image has, of all models."""
        return sum(model.rows for model in self.models)

    @property
    def references(self) -> int:
        """Return how many reference rows an image has that has any, of all models."""
        return sum(model.references for model in self.models)

    @property
    def record(self) -> WorkerRecord:
        """Return what each part records of its worker."""
        fallbacks = {in_options(session.placement.fallback) for model in self.models for session in model.deployed.values()}
        return WorkerRecord(
            node=self.node,
            kernel=self.kernel,
            kernel_reason="" if self.kernels is None else self.kernels.reason,
            fallback=tuple(sorted(fallbacks - {""})),
            saturates_in_pairs=self.saturates,
            provider=self.provider,
            cpu_features=tuple(self.cpu_features),
            versions=self.versions,
            gpu=self.gpu,
        )


def gather_facts(evaluators: Sequence[Evaluator], settings: SessionSettings, device: str = "cpu") -> WorkerFacts:
    """Return the facts of this process.

    Args:
        evaluators: With open sessions.
        settings: How these were made.
        device: PyTorch device of the mirrors, once it is settled.

    Raises:
        ProviderError: If a GPU takes part, and nothing tells which.
    """
    models = tuple(_model_facts(evaluator) for evaluator in evaluators)
    sessions = [session for model in models for session in model.deployed.values()]
    on_cpu = settings.provider == "CPU" or any(session.placement.fallback for session in sessions)
    # What sessions are deployed with counts for the machine's answer where all of them agree.
    asked = [probed(session.entry.session, settings.config) for session in sessions]
    alike = asked[0] if asked and all(config == asked[0] for config in asked) else settings.config
    kernels = probe_kernels(alike) if sessions and on_cpu else None
    saturates = kernels is not None and any(
        may_saturate(session) and saturates_in_pairs(config) for session, config in zip(sessions, asked, strict=True)
    )
    return WorkerFacts(
        models=models,
        kernels=kernels,
        saturates=saturates,
        provider=settings.provider,
        node=platform.node(),
        cpu_features=machine.cpu_features(),
        versions=machine.versions(),
        gpu=read_gpu(settings.device_index) if device == "cuda" or _on_gpu(sessions) else None,
    )


def may_saturate(session: Deployed) -> bool:
    """Tell whether a session's sums may saturate on a CPU whose int8 kernels do."""
    entry = session.entry
    return bool(session.placement.integer_kernels) and _unsigned(entry) and not entry.quantization.weight_reduced_range


def _unsigned(entry: PrecisionEntry) -> bool:
    """Tell whether activations are, or may be, codes of uint8: by what the manifest says of them, else by the tap."""
    kind = entry.quantization.activation or (entry.tap.dtype.upper() if entry.tap.dtype != "float32" else "")
    return kind in ("UINT8", "")


def _on_gpu(sessions: Sequence[Deployed]) -> bool:
    """Tell whether any kernel really runs on an NVIDIA GPU, whatever was asked for."""
    theirs = {PROVIDERS[name] for name in NVIDIA}
    return any(provider in theirs for session in sessions for _, provider in session.placement.kernels)


def _model_facts(evaluator: Evaluator) -> ModelFacts:
    return ModelFacts(
        bundle=evaluator.bundle,
        preprocessing=evaluator.preprocessing,
        precisions=evaluator.facts(),
        notes=evaluator.notes(),
        rows=len(evaluator.refused("", "", None, "")),
        references=len(evaluator.refused_references("", "", None, "")),
    )
