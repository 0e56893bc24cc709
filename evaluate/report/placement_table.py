"""The placement of one session as a table: which kernel ran each kind of operator, where, and in which arithmetic."""

from __future__ import annotations

from collections import Counter

from qcam.evaluate.showing.markdown import table_markdown
from qcam.runtime.deployed.placement import Placement, percent
from qcam.runtime.tables import COPY_KERNELS

HEADINGS = ("operator", "kernel", "provider", "arithmetic", "count", "multiply-accumulates")
#: Stands for the operator of kernels that the runtime added.
ADDED = "(added by the runtime)"


def placement_rows(placement: Placement) -> list[list[str]]:
    """Return a row of texts for each kind of operator, kernel and provider.

    Args:
        placement: What ran.

    Returns:
        Cells as in `HEADINGS`; Conv, Gemm and MatMul first, then by count. The last cell is the share of the model's
        multiply-accumulates, a dash for what multiplies nothing, a question mark where they are unknown.
    """
    counts: Counter[tuple[bool, str, str, str, bool]] = Counter()
    macs: Counter[tuple[bool, str, str, str, bool]] = Counter()
    for node in placement.nodes:
        key = (node.computes, node.operator, node.kernel, node.provider, node.integer)
        counts[key] += 1
        macs[key] += node.macs
    total = placement.coverage.total_macs
    rows = []
    for key in sorted(counts, key=lambda key: (not key[0], -macs[key], not key[1], -counts[key], key)):
        computes, operator, kernel, provider, integer = key
        share = "–" if not computes else "?" if total is None else percent(macs[key] / total)
        # A convolution of a file without node names is as little the runtime's own as any other.
        name = operator or ("?" if computes else ADDED)
        arithmetic = "none, a copy" if kernel in COPY_KERNELS else "integer" if integer else "float"
        rows.append([name, kernel, provider.removesuffix("ExecutionProvider"), arithmetic, str(counts[key]), share])
    return rows


def placement_as_markdown(placement: Placement) -> str:
    """Return the placement as a Markdown table."""
    return table_markdown(HEADINGS, 4, placement_rows(placement))
