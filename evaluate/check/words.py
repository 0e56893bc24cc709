"""Lists of names and the operator to blame, in words."""

from __future__ import annotations

from collections.abc import Sequence

from qcam.evaluate.check.result import LOGITS, CheckResult, ValuesResult
from qcam.evaluate.showing.numbers import agreement


def some(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def blame(result: CheckResult) -> str:
    """Say which operator differs first, if any does."""
    tensor = result.first_difference()
    if tensor is None:
        return f"{result.title}: no operator differs"
    if isinstance(tensor, ValuesResult):
        return (
            f"{result.title}: {tensor.operator} → {tensor.name}, the first that differs: its codes mean "
            f"{tensor.partner_meaning} in the deployed file ({tensor.partner}), {tensor.meaning} in the bundle"
        )
    if not result.coded:
        return f"{result.title}: the logits differ; without codes, operators cannot be told apart"
    fed = tensor.forced_share is not None
    value = tensor.forced_share if fed else tensor.share
    largest = tensor.forced_largest if fed else tensor.largest
    what = "values" if tensor.name == LOGITS else "codes"
    how = "fed with the deployed codes" if fed else "the first that differs"
    return (
        f"{result.title}: {tensor.operator} → {tensor.name}, {how}: {agreement(value)} of its {what} equal, "
        f"largest difference {largest:g}"
    )
