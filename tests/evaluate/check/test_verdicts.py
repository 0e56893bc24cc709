import json
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from qcam.evaluate.check.checker import LOGITS, CheckResult, ImageResult, TensorResult
from qcam.evaluate.check.verdicts import (
    FALLS_SHORT,
    HOLDS,
    INFORMATION,
    UNDEFINED,
    Gate,
    Judged,
    as_tables,
    json_text,
    junit_text,
    share,
)


def judged(*gates, model="m", arithmetic="integer", error=0.0):
    image = ImageResult("a.jpg", 1.0, error, error == 0, True, {"SIM": 1.0, "CC": 0.99999, "KLD": 0.0})
    tensors = [TensorResult("t", "Conv a"), TensorResult(LOGITS, "Gemm b")]
    tensors[0].add(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensors[1].add(torch.zeros(2), torch.zeros(2))
    kernel = "vnni" if arithmetic == "integer" else ""
    return Judged(CheckResult(model, "int8", arithmetic, kernel, "CPU", True, [image], tensors), gates)


LOW, HIGH, NONE = Gate("codes", 0.9, 0.5), Gate("cc", 0.9, 0.9), Gate("sim", 0.0, None)


@pytest.mark.parametrize(
    ("gates", "verdict", "holds"),
    [((), INFORMATION, True), ((HIGH,), HOLDS, True), ((HIGH, LOW), FALLS_SHORT, False), ((HIGH, NONE), UNDEFINED, False),
     ((NONE, LOW), FALLS_SHORT, False)],
)  # fmt: skip
def test_a_verdict_needs_every_gate(gates, verdict, holds):
    assert (judged(*gates).verdict, judged(*gates).holds) == (verdict, holds)


def test_junit_has_a_suite_for_each_result_and_counts_what_is_in_it():
    root = ElementTree.fromstring(junit_text([judged(HIGH, LOW), judged(NONE, model="<&>"), judged()]))
    counts = [[int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")] for suite in [root, *root]]
    assert counts == [[4, 1, 1, 1], [2, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    (failure,) = root.iter("failure")
    assert failure.get("message") == "codes = 0.5, at least 0.9 wanted (share of equal codes over all tensors)"
    assert "Conv a → t, the first that differs: 50.00 % of its codes equal, largest difference 1" in failure.text
    assert root[1].get("name") == "<&> int8, integer (vnni)"


def test_json_holds_no_nan_whatever_was_measured():
    value = json.loads(json_text([judged(HIGH, error=float("nan"))], {"more": (float("inf"), 1.5)}), parse_constant=pytest.fail)
    assert value["more"] == [None, 1.5]
    assert value["results"][0]["images"][0]["logit_error"] is None
    assert value["results"][0]["first_difference"] == {"tensor": "t", "operator": "Conv a"}


@pytest.mark.parametrize("width", [60, 80, 120, 200, None])
def test_no_figure_is_cut_off_at_any_width(width):
    items = [judged(HIGH), judged(HIGH, arithmetic="fake_quant"), judged(LOW), judged(NONE), judged()]
    console = Console(width=width or 10_000, soft_wrap=True, emoji=False)
    with console.capture() as capture:
        for table in as_tables(items, "4 images [x]", width):
            console.print(table)
    text = capture.get()
    assert "…" not in text
    assert "m, 4 images [x]" in text
    assert max(len(line) for line in text.splitlines() if line[:1] in "│┃┏└") <= (width or 10_000)
    assert text.count("> 0.9999") == 2 * len(items)
    for word in ("falls short", "undefined", "fake_quant", "integer (vnni)"):
        assert word in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (1.0, "100 %"), (1 - 1e-12, "99.999999 %"), (0.99995, "99.995000 %"), (0.5, "50.00 %"), (0.0, "0.00 %")],
)
def test_a_share_is_never_rounded_up_to_all(value, text):
    assert share(value) == text
