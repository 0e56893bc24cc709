"""What a file would compute on other CPUs than this one, in words."""

from __future__ import annotations

from qcam.evaluate.check.result import CheckResult
from qcam.evaluate.showing.numbers import agreement
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.mirror.integer.exposure import Exposure


def saturation_warning(result: CheckResult, other: KernelFamily, risks: Exposure) -> str:
    """Say what saturation changes, with figures, and its cures.

    Args:
        result: The other family's mirror against this CPU's run.
        other: The other family.
        risks: What the file's weights risk.
    """
    figures = result.figures
    where = "CPUs with AVX2 but without VNNI" if other.pairs_saturate else f"CPUs whose sums do not saturate ({other})"
    cures = "Cures: {qcam-export} {reduce_range}, or session configuration session.x64quantprecision=1 on the AVX2 device"
    if figures["codes"] == 1 and figures["logits"] == 1:
        return (
            f"{result.model} int8 can differ on {where}: {risks.saturable} of {risks.pairs} pairs of weights can saturate, "
            f"though none did on these images. {cures}"
        )
    flips, count = sum(not image.top1 for image in result.images), len(result.images)
    changed = {name: None if (value := figures[name]) is None else 1 - value for name in ("codes", "tap")}
    cams = "undefined" if figures["cc"] is None else f"{figures['cc']:.3f} (smallest {figures['cc_min']:.3f})"
    return (
        f"{result.model} int8 is another model on {where}: {agreement(changed['codes'])} of all codes and "
        f"{agreement(changed['tap'])} at the tap would change, CC of its CAMs {cams}, top-1 of {flips} of {count} images. "
        f"{cures}"
    )


def lowest_weight_warning(name: str, risks: Exposure, *, here: bool) -> str:
    """Say that a file holds weights on which some CPUs overflow.

    Args:
        name: Model and precision.
        risks: What the file's weights risk.
        here: Whether this CPU is one of them.
    """
    also = ", as this one does" if here else ""
    return (
        f"{name}: {risks.lowest} weights are -128, on which ARM CPUs without dot-product instructions overflow{also}; "
        "export with {reduce_range}"
    )
