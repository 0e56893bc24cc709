"""What `--require` asks of a worker."""

from __future__ import annotations

from collections.abc import Sequence

from qcam.common.errors import QcamError
from qcam.evaluate.facts import WorkerFacts
from qcam.runtime.kernels import KERNELS

#: What can be required: the family of the CPU provider's int8 kernels, or an instruction set by its Linux name.
KEYS = ("kernel", "feature")


def check_requirements(requirements: Sequence[tuple[str, str]]) -> None:
    """Refuse what no worker could ever answer.

    Raises:
        QcamError: Names the choices.
    """
    for key, value in requirements:
        if key not in KEYS:
            raise QcamError(f"--require {key}={value}: {key} is unknown; choose {' or '.join(KEYS)}")
        if key == "kernel" and value not in KERNELS:
            raise QcamError(f"--require kernel={value}: choose one of {', '.join(KERNELS)}")


def unmet(requirements: Sequence[tuple[str, str]], facts: WorkerFacts) -> str:
    """Return the first requirement that a process does not meet, in words; empty if it meets all."""
    for key, value in requirements:
        if key == "kernel" and facts.kernel != value:
            return f"{facts.node} computes with the kernels of {facts.kernel}, and --require kernel={value} wants others"
        if key == "feature" and value not in facts.cpu_features:
            return f"{facts.node} lacks {value}, and --require feature={value} wants it"
    return ""
