"""What is said of a file in the bundle's place: tensors without a partner, codes of another meaning, gates that say nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qcam.common.errors import QcamError
from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.result import CheckResult
from qcam.evaluate.check.words import some
from qcam.evaluate.showing.numbers import agreement


def refuse_meaningless(gates: Iterable[str], checker: Checker, file: Path) -> None:
    """Refuse a gate on equal codes where no code stands for the same value on both sides.

    Args:
        gates: Names of the gates that were asked for.
        checker: Both sides.
        file: The deployed file.

    Raises:
        QcamError: If there is such a gate.
    """
    if not checker.quantized:
        return
    if "codes" in gates and not checker.same_codes:
        raise QcamError(
            f"gate codes means nothing here: in {file} no tensor that an operator computes has the scale, zero point and type "
            "of the bundle's, so equal codes are not equal values; gate on cc, top1 or logits_close"
        )
    if "tap" in gates and not checker.same_tap:
        raise QcamError(
            f"gate tap means nothing here: the CAM layer has another scale, zero point or type in {file} than in the bundle, "
            "or no codes, so equal codes are not equal values; gate on cc, top1 or logits_close"
        )


def of_other_scales(result: CheckResult, file: Path) -> list[str]:
    """Say how many tensors have codes of another meaning, how near their values are, and which gates that leaves out.

    Args:
        result: What was measured.
        file: The deployed file.
    """
    said = []
    if result.values:
        every, first = len(result.values) + len(result.coded), result.values[0]
        said.append(
            f"{len(result.values)} of {every} tensors have another scale, zero point or type in {file}, so values are "
            f"compared, not codes: {agreement(result.values_within)} within one step of the coarser scale, largest difference "
            f"{result.values_largest:.3g} steps; first: {first.name} ({first.meaning}; there {first.partner_meaning})"
        )
    if not result.comparable:
        said.append(
            f"no gate on equal codes or logits stands: in {file} no tensor that an operator computes has the bundle's scale, "
            "so equal codes are not equal values"
        )
    return said


def of_partners(result: CheckResult, file: Path | None) -> list[str]:
    """Say which tensors of one side have no partner on the other.

    Args:
        result: What was measured.
        file: The deployed file; None where it is the bundle's own.
    """
    where = "the deployed file" if file is None else str(file)
    told = (
        (result.missing, "the bundle", f"no partner in {where}"),
        (result.others, where, "no partner in the bundle"),
        (result.ambiguous, "the bundle", f"several that may be theirs in {where}, and none is guessed"),
    )
    return [
        f"{result.title}: {len(names)} {'tensor' if len(names) == 1 else 'tensors'} of {whose} "
        f"{'has' if len(names) == 1 else 'have'} {what}: first {some(names)}"
        for names, whose, what in told
        if names
    ]
