"""Verdicts as JUnit XML, which every build server reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from qcam.common.printable import printable
from qcam.common.verdict import Verdict

#: What a gate becomes that does not hold.
_TAGS = {Verdict.FALLS_SHORT: "failure", Verdict.UNDECIDED: "error"}


@dataclass(frozen=True)
class Case:
    """One test case.

    Attributes:
        classname: What it belongs to.
        name: What was asked.
        verdict: What came out; None: nothing was judged, and `message` says why.
        message: In one sentence.
        text: Further words on what does not hold.
    """

    classname: str
    name: str
    verdict: Verdict | None
    message: str
    text: str = ""


def junit_text(title: str, suites: Sequence[tuple[str, Sequence[Case]]]) -> str:
    """Return JUnit XML.

    A gate that falls short is a `failure`. One that is undecided is an `error`: the test could not tell, and no build server
    takes that for passed, as it would take `skipped`. What was not judged is `skipped`.

    Args:
        title: Of the whole.
        suites: Name and test cases of each suite.
    """
    root = ElementTree.Element("testsuites", name=title)
    for name, cases in suites:
        suite = ElementTree.SubElement(root, "testsuite", name=name)
        for of in cases:
            case = ElementTree.SubElement(suite, "testcase", classname=of.classname, name=of.name)
            if of.verdict is None:
                ElementTree.SubElement(case, "skipped", message=of.message)
            elif of.verdict in _TAGS:
                found = ElementTree.SubElement(case, _TAGS[of.verdict], message=of.message, type=of.verdict.value)
                found.text = of.text or None
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
