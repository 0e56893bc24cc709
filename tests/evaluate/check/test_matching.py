from pathlib import Path
from types import SimpleNamespace

import pytest
from judged import judged

from qcam.common.errors import QcamError
from qcam.evaluate.check.matching import of_other_scales, of_partners, refuse_meaningless
from qcam.evaluate.check.result import ValuesResult

FILE = Path("vendor.onnx")


def sides(*, codes, tap, quantized=True):
    return SimpleNamespace(quantized=quantized, same_codes=codes, same_tap=tap)


@pytest.mark.parametrize("gate", ["codes", "tap"])
def test_a_gate_is_refused_where_its_codes_mean_something_else_and_no_other_is(gate):
    one = sides(codes=gate != "codes", tap=gate != "tap")
    with pytest.raises(QcamError, match=rf"^gate {gate} means nothing here: .*vendor.onnx"):
        refuse_meaningless([gate], one, FILE)
    other = {"codes": "tap", "tap": "codes"}[gate]
    refuse_meaningless([other, "cc", "logits"], one, FILE)
    refuse_meaningless([gate], sides(codes=False, tap=False, quantized=False), FILE)  # of f32, the plan refuses it


def test_tensors_without_a_partner_are_counted_in_both_directions_and_doubts_are_told():
    result = judged().result
    assert of_partners(result, FILE) == []
    result.missing, result.others, result.ambiguous = ("a",), ("p", "q", "r", "s"), ("b", "c")
    assert of_partners(result, FILE) == [
        f"{result.title}: 1 tensor of the bundle has no partner in vendor.onnx: first a",
        f"{result.title}: 4 tensors of vendor.onnx have no partner in the bundle: first p, q, r and 1 more",
        f"{result.title}: 2 tensors of the bundle have several that may be theirs in vendor.onnx, and none is guessed: "
        "first b, c",
    ]


def test_values_of_another_scale_are_told_with_their_agreement_and_what_that_leaves_out():
    result = judged().result
    assert of_other_scales(result, FILE) == []
    result.values = [ValuesResult("v", "Conv v", "p", "uint8, scale 1", "int8, scale 2", elements=4, within=3, largest=7.5)]
    (told,) = of_other_scales(result, FILE)
    assert told.startswith("1 of 2 tensors have another scale, zero point or type in vendor.onnx")
    assert "75.00 % within one step of the coarser scale, largest difference 7.5 steps" in told
    assert told.endswith("first: v (uint8, scale 1; there int8, scale 2)")
    result.comparable = False
    assert of_other_scales(result, FILE)[1].startswith("no gate on equal codes or logits stands")
