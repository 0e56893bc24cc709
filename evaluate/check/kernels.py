"""Whose integer kernels: those of this CPU, and those that the mirror follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcam.evaluate.check.options import AUTO, CheckOptions
from qcam.runtime.deployed import probe
from qcam.runtime.kernels import KERNELS, KernelFamily, kernel_family
from qcam.runtime.mirror.integer.exposure import Exposure
from qcam.runtime.session_config import probed


@dataclass(frozen=True)
class Kernels:
    """What is known of the integer kernels.

    Attributes:
        probe: What this CPU's kernels answered; None if the deployed run is not on the CPU provider.
        family: The family that the mirror follows.
    """

    probe: probe.KernelProbe | None
    family: KernelFamily

    @classmethod
    def of(cls, options: CheckOptions, session: Mapping[str, str] | None = None) -> Kernels:
        """Ask this machine's ONNX Runtime, if it is what runs.

        Args:
            options: What was asked for.
            session: The session configuration that a file is deployed with.
        """
        settings = options.settings
        answers = probe.probe_kernels(probed(session or {}, settings.config)) if settings.provider == "CPU" else None
        own = answers.family if answers is not None else None
        return cls(answers, kernel_family(options.kernel) if options.kernel != AUTO else own or KERNELS["vnni"])

    @property
    def own(self) -> KernelFamily | None:
        """Return this CPU's family; None if it is unknown, or other kernels run."""
        return None if self.probe is None else self.probe.family

    @property
    def wraps(self) -> bool:
        """Tell whether this CPU's kernels overflow on weights of -128."""
        return self.probe is not None and bool(self.probe.wraps_lowest_weight)

    def trusted(self, risks: Exposure | None) -> bool:
        """Tell whether a mirror of a file with these risks computes what this CPU computes, code for code."""
        return self.own is not None and self.family == self.own and not (self.wraps and risks is not None and risks.lowest)
