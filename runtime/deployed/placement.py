"""Placement: which kernel ran where, integer or float, read from ONNX Runtime's own profile."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcam.runtime.graph import COMPUTE_OPERATORS

#: Kernels of Conv, Gemm and MatMul that multiply integers.
INTEGER_KERNELS = frozenset(
    {
        "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul", "QLinearConvTranspose",
    }
)  # fmt: skip
#: Kernels of the same operators that multiply floats.
FLOAT_KERNELS = COMPUTE_OPERATORS | {"FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "TransposeMatMul"}


@dataclass(frozen=True)
class Placement:
    """Who ran what in one session.

    Attributes:
        kernels: (operator, provider) → number of kernels that ran.
        expected: Number of Conv, Gemm and MatMul nodes in the file.
        fallback: Why the session is not what was asked for; empty if it is.
    """

    kernels: dict[tuple[str, str], int]
    expected: int
    fallback: str = ""

    @property
    def integer(self) -> int:
        """Return how many Conv, Gemm and MatMul ran as integer kernels."""
        return sum(count for (operator, _), count in self.kernels.items() if operator in INTEGER_KERNELS)

    @property
    def float(self) -> int:
        """Return how many ran as float kernels."""
        return sum(count for (operator, _), count in self.kernels.items() if operator in FLOAT_KERNELS)

    def count(self, operator: str) -> int:
        """Return how many kernels of one operator type ran, on any provider."""
        return sum(count for (name, _), count in self.kernels.items() if name == operator)

    def describe(self) -> str:
        """Say in a few words what arithmetic the session computes in."""
        if self.integer + self.float == 0:
            return f"compiled by the provider ({self.expected} Conv/Gemm/MatMul inside; arithmetic not visible from outside)"
        if self.float == 0:
            return f"integer kernels ({self.integer} of {self.integer})"
        if self.integer == 0:
            return f"float arithmetic (0 of {self.float} integer kernels)"
        return f"mixed: {self.integer} of {self.integer + self.float} kernels integer, the rest float"

    def to_json(self) -> dict[str, Any]:
        """Return the placement as JSON-ready values."""
        return {
            "arithmetic": self.describe(),
            "integer_kernels": self.integer,
            "float_kernels": self.float,
            "compute_nodes": self.expected,
            "kernels": [
                {"operator": operator, "provider": provider, "count": count}
                for (operator, provider), count in sorted(self.kernels.items())
            ],
            "fallback": self.fallback,
        }


def read_profile(path: Path, expected: int, fallback: str) -> Placement:
    """Count the kernels of a profile that covers exactly one run.

    Args:
        path: ONNX Runtime's profile, JSON.
        expected: Number of Conv, Gemm and MatMul nodes in the file.
        fallback: Why the session is not what was asked for, or empty.
    """
    events = json.loads(path.read_text(encoding="utf-8"))
    counts: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            arguments = event["args"]
            counts[(arguments["op_name"], arguments.get("provider", ""))] += 1
    return Placement(dict(counts), expected, fallback)
