"""What was run of a precision, with types: deployed in a session, or fake-quantized in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcam.runtime.bundle import PrecisionEntry
from qcam.runtime.deployed import Placement


@dataclass(frozen=True)
class Deployed:
    """One session, as far as tables tell of it.

    Attributes:
        entry: The precision.
        placement: Which kernels run where.
    """

    entry: PrecisionEntry
    placement: Placement

    def to_json(self) -> dict[str, Any]:
        """Return file, tap and what ran where, as run.json keeps it (read again as `PrecisionRecord`)."""
        return {"sha256": self.entry.sha256, "tap": self.entry.tap.tensor} | self.placement.to_json()


@dataclass(frozen=True)
class CodeRanges:
    """The lowest and the highest code of a precision that is fake-quantized.

    Attributes:
        weights: Of weights.
        activations: Of activations.
    """

    weights: tuple[int, int]
    activations: tuple[int, int]


@dataclass(frozen=True)
class FakeQuantized:
    """What is fake-quantized of a network.

    Attributes:
        codes: Between which codes its numbers lie.
        outputs: Module type → how many of them have fake-quantized outputs.
    """

    codes: CodeRanges
    outputs: dict[str, int]


@dataclass(frozen=True)
class InPyTorch:
    """One precision of the paper's protocol: nothing of it is deployed.

    Attributes:
        layer: Where CAMs are taken.
        quantized: What is fake-quantized; None of f32.
    """

    layer: str
    quantized: FakeQuantized | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is fake-quantized, and in which codes, as run.json keeps it (read again as `PrecisionRecord`)."""
        if self.quantized is None:
            return {"layer": self.layer, "arithmetic": "float arithmetic in PyTorch"}
        codes = self.quantized.codes
        return {
            "layer": self.layer,
            "arithmetic": "float arithmetic between fake quantizers, in PyTorch",
            "codes": {"weights": list(codes.weights), "activations": list(codes.activations)},
            "fake_quantized_outputs": self.quantized.outputs,
        }


#: One precision, as it was run.
Ran = Deployed | InPyTorch
