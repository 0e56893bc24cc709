"""What a study requires of its workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qcam.common import machine
from qcam.common.errors import ProviderError, QcamError
from qcam.common.vocabulary import Requirement, words
from qcam.runtime.gpu import Gpu, gpu_names
from qcam.runtime.kernels import KERNELS

#: What can be required: the family of the CPU provider's int8 kernels, one of the instruction sets that choose it, or a GPU.
KEYS = tuple(words(Requirement))


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

    @property
    def gpu(self) -> Gpu | None:
        """Return the GPU that takes part; None where none does."""
        ...


def check_requirements(requirements: Sequence[tuple[str, str]]) -> None:
    """Refuse what no worker could ever answer.

    Raises:
        QcamError: Names the choices.
    """
    for key, value in requirements:
        if key not in KEYS:
            raise QcamError(f"{{require}} {key}={value}: {key} is unknown; choose {' or '.join(KEYS)}")
        if key == Requirement.GPU and not value.strip():
            raise QcamError("{require} gpu=: give a part of the GPU's name, as gpu=T4")
        if key == Requirement.KERNEL and value not in KERNELS:
            raise QcamError(f"{{require}} kernel={value}: choose one of {', '.join(KERNELS)}")
        if key == Requirement.FEATURE and value not in machine.KERNEL_FEATURES:
            raise QcamError(f"{{require}} feature={value}: choose one of {', '.join(machine.KERNEL_FEATURES)}")


def unmet(requirements: Sequence[tuple[str, str]], worker: Computer) -> str:
    """Return the first requirement that a worker does not meet, in words; empty if it meets all.

    Args:
        requirements: Checked.
        worker: The worker.
    """
    for key, value in requirements:
        if key == Requirement.KERNEL and worker.kernel != value:
            return f"{worker.node} computes with the kernels of {worker.kernel}, and {{require}} kernel={value} wants others"
        if key == Requirement.FEATURE and value not in worker.cpu_features:
            return f"{worker.node} lacks {value}, and {{require}} feature={value} wants it"
        if key == Requirement.GPU and worker.gpu is None:
            return f"{worker.node} computes on no GPU, and {{require}} gpu={value} wants one"
        if key == Requirement.GPU and worker.gpu is not None and not _named(value, worker.gpu.name):
            return f"{worker.node} computes on {worker.gpu.name}, and {{require}} gpu={value} wants another GPU"
    return ""


def refuse_missing_gpu(requirements: Sequence[tuple[str, str]]) -> None:
    """Refuse a GPU that this machine does not have, before anything is opened.

    Args:
        requirements: Checked.

    Raises:
        ProviderError: Lists the GPUs that there are.
    """
    for key, value in requirements:
        if key == Requirement.GPU:
            names = gpu_names()
            if not any(_named(value, name) for name in names):
                have = ", ".join(f"{index}: {name}" for index, name in enumerate(names)) or "none"
                raise ProviderError(f"{{require}} gpu={value}: this machine has no such GPU; it has {have}")


def _named(part: str, name: str) -> bool:
    """Tell whether a text is part of a GPU's name, whatever the case of its letters."""
    return part.strip().lower() in name.lower()
