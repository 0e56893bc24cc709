"""What a study requires of its workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.runtime.kernels import KERNELS

#: What can be required: the family of the CPU provider's int8 kernels, or one of the instruction sets that choose it.
KEYS = ("kernel", "feature")


class Computer(Protocol):
    """A worker, as far as something can be required of it: `WorkerFacts` of a process, or `WorkerRecord` of a part."""

    @property
    def node(self) -> str:
        """Return the name of the machine."""
        ...

    @property
    def kernel(self) -> str:
        """Return the family of the CPU provider's kernels."""
        ...

    @property
    def cpu_features(self) -> Sequence[str]:
        """Return its instruction sets."""
        ...


def check_requirements(requirements: Sequence[tuple[str, str]]) -> None:
    """Refuse what no worker could ever answer.

    Raises:
        QcamError: Names the choices.
    """
    for key, value in requirements:
        if key not in KEYS:
            raise QcamError(f"{{require}} {key}={value}: {key} is unknown; choose {' or '.join(KEYS)}")
        if key == "kernel" and value not in KERNELS:
            raise QcamError(f"{{require}} kernel={value}: choose one of {', '.join(KERNELS)}")
        if key == "feature" and value not in machine.KERNEL_FEATURES:
            raise QcamError(f"{{require}} feature={value}: choose one of {', '.join(machine.KERNEL_FEATURES)}")


def unmet(requirements: Sequence[tuple[str, str]], worker: Computer) -> str:
    """Return the first requirement that a worker does not meet, in words; empty if it meets all.

    Args:
        requirements: Checked.
        worker: The worker.
    """
    for key, value in requirements:
        if key == "kernel" and worker.kernel != value:
            return f"{worker.node} computes with the kernels of {worker.kernel}, and {{require}} kernel={value} wants others"
        if key == "feature" and value not in worker.cpu_features:
            return f"{worker.node} lacks {value}, and {{require}} feature={value} wants it"
    return ""
