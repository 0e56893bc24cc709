"""What a check is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qcam.common.arguments import whole
from qcam.common.errors import QcamError
from qcam.common.vocabulary import Arithmetic, require
from qcam.evaluate.check.gates import FINITE_DIFFERENCES, require_gates
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.kernels import kernel_family

#: The kernel family that asks this machine's ONNX Runtime.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What is held against what, and what it has to reach.

    Attributes:
        precisions: Those to judge; empty: all that a bundle holds, or where a deployed file is judged int8, else the only
            quantized one.
        arithmetics: How the mirror computes, one result each.
        kernel: Kernel family of the integer arithmetic; auto asks this machine's ONNX Runtime.
        gates: Figure → smallest value that holds; empty: those of `default_gates`.
        settings: How sessions are made.
        device: PyTorch device of the mirrors: cpu or cuda.
        batch_size: Images at a time, 1 or more.
        every_tensor: Whether each operator is also fed with the deployed codes, and agreement drawn over depth.
        other_cpus: Whether to tell what other CPUs would change.
        deployed: ONNX file to judge in the bundle's place.
        finite_differences: Whether the deployed tail's slopes at the tap are held against the mirror's gradient; a gate on them
            asks for that as well.
    """

    precisions: tuple[str, ...] = ()
    arithmetics: tuple[str, ...] = (Arithmetic.INTEGER,)
    kernel: str = AUTO
    gates: Mapping[str, float] = field(default_factory=dict)
    settings: SessionSettings = field(default_factory=SessionSettings)
    device: str = "cpu"
    batch_size: int = 8
    every_tensor: bool = False
    other_cpus: bool = True
    deployed: Path | None = None
    finite_differences: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            QcamError: If a gate, an arithmetic, a kernel family or the batch size is none, the deployed file is not there, or
                finite differences are asked for where they cannot be had.
        """
        require_gates(self.gates)
        object.__setattr__(self, "gates", {name: float(value) for name, value in self.gates.items()})
        for arithmetic in self.arithmetics:
            require(Arithmetic, arithmetic, "arithmetic")
        if not self.arithmetics:
            raise QcamError("no arithmetic to judge; choose integer or fake_quant")
        if self.kernel != AUTO:
            kernel_family(self.kernel)
        object.__setattr__(self, "batch_size", whole(self.batch_size, "{batch_size}"))
        if self.deployed is not None and len(self.precisions) > 1:
            raise QcamError(_ONE)
        if self.deployed is not None and not self.deployed.is_file():
            raise QcamError(f"deployed file {self.deployed}: there is no such file")
        if FINITE_DIFFERENCES in self.gates:
            object.__setattr__(self, "finite_differences", True)
        if self.finite_differences and self.settings.provider != "CPU":
            raise QcamError(f"{{finite_differences}}: the tail runs alone on CPU only, not on {self.settings.provider}")
        if self.finite_differences and self.deployed is not None:
            raise QcamError("{finite_differences}: the tail is that of the bundle's own file; leave the deployed file out")


_ONE = "a deployed file is judged against one file: give one bundle, and one precision if it is not int8"


def require_one(options: CheckOptions, bundles: int) -> None:
    """Refuse to judge one deployed file against several bundles.

    Raises:
        QcamError: If there is a deployed file, and not one bundle.
    """
    if options.deployed is not None and bundles != 1:
        raise QcamError(_ONE)
