"""A check's verdicts as JUnit XML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qcam.evaluate.check.verdicts import Judged
from qcam.evaluate.check.words import blame
from qcam.evaluate.showing import junit


def junit_text(judged: Sequence[Judged]) -> str:
    """Return JUnit XML: a suite for each result, a test case for each gate; one that is skipped where no gate applies."""
    return junit.junit_text("qcam-check", [(item.result.title, list(_cases(item))) for item in judged])


def _cases(item: Judged) -> Iterator[junit.Case]:
    simulated = f"{item.result.arithmetic} {item.result.kernel}".strip()
    classname = f"qcam.{item.result.model}.{item.result.precision}"
    for gate in item.gates:
        text = "" if gate.holds else blame(item.result)
        yield junit.Case(classname, f"{simulated} {gate.name} >= {gate.threshold:.15g}", gate.verdict, gate.sentence, text)
    if not item.gates:
        yield junit.Case(classname, simulated, None, "none of the gates asked for applies; for information only")
