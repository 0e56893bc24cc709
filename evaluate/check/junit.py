"""Verdicts as JUnit XML, which every build server reads."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from qcam.common.printable import printable
from qcam.evaluate.check.verdicts import Judged, Verdict
from qcam.evaluate.check.words import blame

#: What a gate becomes that does not hold.
_TAGS = {Verdict.FALLS_SHORT: "failure", Verdict.UNDECIDED: "error"}


def junit_text(judged: Sequence[Judged]) -> str:
    """Return JUnit XML: a suite for each result, a test case for each gate.

    A gate that falls short is a `failure`. One that is undecided is an `error`: the test could not tell, and no build server
    takes that for passed, as it would take `skipped`. Where no gate applies to a result, its one test case is `skipped`.
    """
    root = ElementTree.Element("testsuites", name="qcam-check")
    for item in judged:
        suite = ElementTree.SubElement(root, "testsuite", name=item.result.title)
        simulated = f"{item.result.arithmetic} {item.result.kernel}".strip()
        classname = f"qcam.{item.result.model}.{item.result.precision}"
        for gate in item.gates:
            name = f"{simulated} {gate.name} >= {gate.threshold:g}"
            case = ElementTree.SubElement(suite, "testcase", classname=classname, name=name)
            if gate.verdict in _TAGS:
                found = ElementTree.SubElement(case, _TAGS[gate.verdict], message=gate.sentence, type=gate.verdict.value)
                found.text = blame(item.result)
        if not item.gates:
            case = ElementTree.SubElement(suite, "testcase", classname=classname, name=simulated)
            ElementTree.SubElement(case, "skipped", message="none of the gates asked for applies; for information only")
        _count(suite)
    _count(root)
    for element in root.iter():  # XML knows no control characters
        element.attrib.update({name: printable(value) for name, value in element.attrib.items()})
        element.text = None if element.text is None else printable(element.text)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _count(suite: ElementTree.Element) -> None:
    """Write the numbers of test cases and of what became of them into a suite's attributes."""
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(list(suite.iter(tag)))))
