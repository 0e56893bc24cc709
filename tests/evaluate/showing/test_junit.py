from xml.etree import ElementTree

from qcam.common.verdict import Verdict
from qcam.evaluate.showing.junit import Case, junit_text


def test_an_undecided_case_is_an_error_and_what_nobody_judged_is_skipped():
    cases = [
        Case("c", "holds", Verdict.HOLDS, ""), Case("c", "short", Verdict.FALLS_SHORT, "too small", "Conv a"),
        Case("c", "few", Verdict.UNDECIDED, "too few"), Case("c", "none", None, "for information"),
    ]  # fmt: skip
    root = ElementTree.fromstring(junit_text("title", [("suite \x1b[31m", cases)]).encode())
    (suite,) = root
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    assert "\x1b" not in str(suite.get("name"))
    failure, error = suite.find("testcase/failure"), suite.find("testcase/error")
    assert (failure.get("type"), failure.get("message"), failure.text) == ("falls short", "too small", "Conv a")
    assert (error.get("type"), error.text) == ("undecided", None)
