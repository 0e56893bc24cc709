from xml.etree import ElementTree

from judged import HIGH, LOW, NONE, judged

from qcam.evaluate.check.junit import junit_text


def test_junit_has_a_suite_for_each_result_and_counts_what_is_in_it():
    root = ElementTree.fromstring(junit_text([judged(HIGH, LOW), judged(NONE, model="<&>"), judged()]))
    counts = [[int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")] for suite in [root, *root]]
    assert counts == [[4, 1, 1, 1], [2, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    (failure,) = root.iter("failure")
    assert failure.get("message") == "codes = 0.5, at least 0.9 wanted (share of equal codes over all tensors)"
    assert "Conv a → t, the first that differs: 50.00 % of its codes equal, largest difference 1" in failure.text
    assert root[1].get("name") == "<&> int8, integer (vnni)"
    assert {(found.tag, found.get("type")) for found in root.iter() if found.tag in ("failure", "error")} == {
        ("failure", "falls short"), ("error", "undecided"),
    }  # fmt: skip
