"""The figures that can be gated on, and the gates that stand where none was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from qcam.common.arguments import real
from qcam.common.errors import QcamError

#: The gate that needs the slopes of the deployed tail.
FINITE_DIFFERENCES = "finite_differences"
#: Figures that can be gated on, with what they are.
GATES = {
    "codes": "share of equal codes over all tensors",
    "tap": "share of equal codes at the tap",
    "logits": "share of images with bitwise equal logits",
    "logits_close": "share of images with logits equal within float rounding",
    "top1": "share of images with the same top-1 class",
    "cc": "mean CC of simulated v. deployed CAM",
    "cc_min": "smallest CC of any image",
    "sim": "mean SIM",
    "sim_min": "smallest SIM of any image",
    FINITE_DIFFERENCES: "r of the deployed tail's slopes at the tap with the mirror's gradient",
}
#: Those of them that need codes: they say nothing about float.
CODE_GATES = frozenset({"codes", "tap", FINITE_DIFFERENCES})
#: CAM agreement that a simulation has to reach unless told otherwise.
DEFAULT_CC = 0.99
#: Gates that go by a name; those of `codes` are `default_gates`: equal codes where they are promised.
PRESETS: dict[str, dict[str, float]] = {"codes": {}, "maps": {"cc": DEFAULT_CC}}


def require_gates(gates: Mapping[str, float]) -> None:
    """Refuse gates that cannot be.

    Args:
        gates: Name → smallest value that holds.

    Raises:
        QcamError: If there is no gate of a name, or a value is no number, or beyond what figures reach.
    """
    for name, value in gates.items():
        if name not in GATES:
            raise QcamError(f"{name}: no such gate; choose from {', '.join(GATES)}")
        if not -1 <= real(value, f"gate {name}") <= 1:
            raise QcamError(f"{name}={value:g}: the figure lies between -1 and 1; give 0.99 for 99 %")


def default_gates(*, exact: bool, coded: bool, float_logits: bool, provider: str) -> dict[str, float]:
    """Return the gates of a result that none were asked for.

    Args:
        exact: Whether equal codes are promised.
        coded: Whether there are codes at all.
        float_logits: Whether float operators compute the logits.
        provider: Short name of the execution provider.

    Returns:
        Name → smallest value that holds.
    """
    gates = {"cc": DEFAULT_CC}
    if exact:
        gates |= {"codes": 1.0, "logits_close" if float_logits else "logits": 1.0}
    if not coded and provider == "CPU":
        gates["logits_close"] = 1.0
    return gates
