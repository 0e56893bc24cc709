"""What a file would compute on other CPUs than this one, in words."""

from __future__ import annotations

from qcam.common.counted import counted
from qcam.common.errors import UnsupportedGraphError
from qcam.evaluate.check.reading import Reading
from qcam.evaluate.check.result import CheckResult
from qcam.evaluate.showing.numbers import agreement
from qcam.runtime.kernels import KERNELS, KernelFamily
from qcam.runtime.mirror.integer.exposure import Exposure
from qcam.runtime.session_config import EXACT_SUMS


def other_families(reading: Reading, risks: Exposure, own: KernelFamily) -> dict[str, bool | UnsupportedGraphError]:
    """Tell of each other kernel family whether it treats something in a file otherwise than this CPU.

    Args:
        reading: The file.
        risks: What its weights risk.
        own: This CPU's family.

    Returns:
        Family → whether it may compute something else; the error, where the graph that it runs is not known. One that
        computes as a third family does, by a session's setting, is left out.
    """
    found: dict[str, bool | UnsupportedGraphError] = {}
    for other in KERNELS.values():
        shown = adds_as(other, reading)
        if other == own or shown not in (own, other):
            continue
        try:
            found[other.name] = risks.differs(own, shown) or not reading.same_kernels(own, shown)
        except UnsupportedGraphError as error:
            found[other.name] = error
    return found


def adds_as(family: KernelFamily, reading: Reading) -> KernelFamily:
    """Return the family as which another one adds under the settings that a file is deployed with."""
    exact = reading.settings.get(EXACT_SUMS) == "1"
    return KERNELS["vnni"] if exact and family.pairs_saturate else family


def saturation_warning(result: CheckResult, other: KernelFamily, risks: Exposure, cure: str) -> str:
    """Say what saturation changes, with figures, and how to mend it.

    Args:
        result: The other family's mirror against this CPU's run.
        other: The other family.
        risks: What the file's weights risk.
        cure: What keeps weights to 7 bits, from `seven_bits`.
    """
    name, figures = f"{result.model} {result.precision}", result.figures
    where = "x86 CPUs without VNNI" if other.pairs_saturate else f"CPUs whose sums do not saturate ({other})"
    fix = f"Fix: {cure}, or session configuration session.x64quantprecision=1 where there is no VNNI"
    if figures["codes"] == 1 and figures["logits"] == 1:
        return (
            f"{name}: on {where} this file may behave differently: {risks.saturable} of {risks.pairs} pairs of weights can "
            f"saturate, though none did on these images. {fix}"
        )
    flips, every = sum(not image.top1 for image in result.images), len(result.images)
    changed = {name: None if (value := figures[name]) is None else 1 - value for name in ("codes", "tap")}
    cams = "undefined" if figures["cc"] is None else f"{figures['cc']:.3f} (worst {figures['cc_min']:.3f})"
    top1 = f"top-1 changed on {flips} of {counted(every, 'image')}" if flips else "no top-1 changed"
    return (
        f"{name}: on {where} this file behaves differently: maps CC {cams}, {top1}; "
        f"{agreement(changed['codes'])} of all codes and {agreement(changed['tap'])} at the CAM layer change. {fix}"
    )


def lowest_weight_warning(name: str, risks: Exposure, cure: str, *, here: bool) -> str:
    """Say that a file holds weights on which some CPUs overflow.

    Args:
        name: Model and precision.
        risks: What the file's weights risk.
        cure: What keeps weights to 7 bits, from `seven_bits`.
        here: Whether this CPU is one of them.
    """
    also = ", as this one does" if here else ""
    return (
        f"{name}: {risks.lowest} weights are -128, on which ARM CPUs without dot-product instructions overflow{also}. "
        f"Fix: {cure}"
    )
