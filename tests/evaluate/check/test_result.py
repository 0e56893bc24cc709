import math

import pytest
import torch

from qcam.common.errors import BundleError
from qcam.evaluate.check.result import FLOAT_ROUNDING, LOGITS, CheckResult, ImageResult, TensorResult, ValuesResult


def tensor(name, simulated, deployed, *, forced=None, operator="Conv a"):
    result = TensorResult(name, operator)
    result.add(torch.tensor(simulated), torch.tensor(deployed))
    if forced is not None:
        result.add(torch.tensor(forced), torch.tensor(deployed), forced=True)
    return result


def image(name="a.jpg", *, tap=1.0, error=0.0, top1=True, **metrics):
    return ImageResult(name, tap, error, error == 0, top1, {"SIM": 1.0, "CC": 1.0, "KLD": 0.0} | metrics)


def result(tensors=(), images=()):
    return CheckResult("m", "int8", "integer", "vnni", "CPU", True, list(images), list(tensors))


def test_shares_and_differences_are_counted_over_batches():
    counted = TensorResult("t", "Conv a")
    counted.add(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 7.0]))
    counted.add(torch.tensor([1.0]), torch.tensor([1.0]))
    assert (counted.elements, counted.equal, counted.share, counted.largest) == (4, 3, 0.75, 4.0)
    assert counted.forced_share is None
    counted.add(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]), forced=True)
    counted.add(torch.tensor([1.0]), torch.tensor([3.0]), forced=True)
    assert (counted.elements, counted.forced_share, counted.forced_largest) == (4, 0.75, 2.0)
    assert math.isnan(TensorResult("t", "Conv a").share)


@pytest.mark.parametrize("deployed", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_infinitely_far_off(deployed):
    counted = tensor(LOGITS, [1.0, 2.0], [1.0, deployed])
    assert (counted.share, counted.largest) == (0.5, math.inf)


def test_tensors_of_other_shapes_are_refused_rather_than_broadcast():
    with pytest.raises(BundleError, match=r"t has shape \(2,\) in the file that was run and \(1, 2\)"):
        TensorResult("t", "Conv a").add(torch.zeros(1, 2), torch.zeros(2))


def test_the_first_operator_that_differs_itself_is_named_not_one_that_inherits():
    inherits = tensor("a", [1.0], [2.0], forced=[2.0])
    differs = tensor("b", [1.0], [2.0], forced=[1.0])
    assert result([inherits, differs, tensor(LOGITS, [1.0], [1.0])]).first_difference() is differs
    assert result([inherits, tensor(LOGITS, [1.0], [1.0], forced=[1.0])]).first_difference() is None
    unfed = tensor("a", [1.0], [2.0])
    assert result([tensor("z", [1.0], [1.0]), unfed, differs]).first_difference() is unfed


@pytest.mark.parametrize(("error", "named"), [(FLOAT_ROUNDING / 10, False), (FLOAT_ROUNDING * 10, True), (math.nan, True)])
def test_float_logits_differ_only_beyond_rounding(error, named):
    logits = tensor(LOGITS, [1.0], [2.0], operator="Gemm a (float)")
    found = result([logits], [image(error=0.0), image(error=error)])
    assert found.float_logits
    assert (found.first_difference() is logits) == named
    assert found.figures["logits_close"] == (0.5 if named else 1.0)
    assert found.figures["logits"] == 0.5
    exact = tensor(LOGITS, [1.0], [2.0], operator="Gemm a")
    assert result([exact], [image(error=1e-9)]).first_difference() is exact


def test_figures_are_means_minima_and_none_where_undefined():
    tensors = [tensor("a", [1.0, 2.0], [1.0, 3.0]), tensor("b", [1.0, 2.0], [1.0, 2.0]), tensor(LOGITS, [1.0], [9.0])]
    images = [
        image("a", tap=0.5, top1=False, CC=0.5, KLD=0.25),
        image("b", CC=None, SIM=None, KLD=None),
        image("c", error=0.5, CC=1.0),
    ]
    found = result(tensors, images)
    assert found.figures == pytest.approx(
        {
            "codes": 0.75, "tap": 2.5 / 3, "logits": 2 / 3, "logits_close": 2 / 3, "top1": 2 / 3, "sim": 1.0, "sim_min": 1.0,
            "cc": 0.75, "cc_min": 0.5, "kld": 0.125, "kld_max": 0.25, "finite_differences": None,
            "finite_differences_slope": None,
        }
    )  # fmt: skip
    assert (found.undefined, found.largest_difference) == (1, 1.0)
    assert [item.image for item in found.worst_images()] == ["a", "c"]
    constant = result([tensor(LOGITS, [1.0], [1.0])], [image(tap=None, CC=None, SIM=None, KLD=None)])
    assert constant.figures["codes"] is constant.figures["tap"] is constant.figures["cc"] is None


def test_values_of_two_scales_count_as_near_within_one_step_of_the_coarser_one():
    found = ValuesResult("t", "Conv a", "p", "uint8, scale 0.1", "uint8, scale 0.3")
    found.add(torch.tensor([0.0, 0.1, 0.5, 2.0]), torch.tensor([0.3, 0.0, 0.9, 0.5]), torch.tensor(0.3))
    assert (found.elements, found.within, found.share) == (4, 2, 0.5)
    assert found.largest == pytest.approx(5.0)
    found.add(torch.tensor([[0.0], [0.0]]), torch.tensor([[0.5], [0.5]]), torch.tensor([[1.0], [0.1]]))  # by channel
    assert (found.elements, found.within) == (6, 3)
    assert found.largest == pytest.approx(5.0)
    found.add(torch.tensor([0.0]), torch.tensor([math.nan]), torch.tensor(1.0))
    assert (found.within, found.largest) == (3, math.inf)
    with pytest.raises(BundleError, match="values cannot be compared"):
        found.add(torch.zeros(1, 2), torch.zeros(2), torch.tensor(1.0))


def test_a_tensor_of_another_scale_stands_in_its_place_and_out_of_the_figure_of_codes():
    one, two = tensor("a", [1.0], [1.0]), tensor("c", [1.0, 2.0], [1.0, 3.0])
    one.place, two.place = 0, 2
    other = ValuesResult("b", "Conv b", "p", "uint8, scale 0.1", "uint8, scale 0.3", elements=1, within=1, place=1)
    found = result([one, two, tensor(LOGITS, [1.0], [1.0])], [image()])
    found.values = [other]
    assert found.figures["codes"] == pytest.approx(2 / 3)
    assert found.values_within == 1.0
    assert found.first_difference() is other
    found.comparable = False
    assert (found.figures["codes"], found.largest_difference) == (None, None)
