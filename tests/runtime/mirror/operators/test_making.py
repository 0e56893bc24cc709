import numpy as np
import pytest
import torch
from mirror_single import case, check, each, floats, ints, operator_function
from onnx import numpy_helper

from qcam.common.errors import QcamError


def value(array):
    return {"value": numpy_helper.from_array(array)}


CASES = [
    case("ConstantOfShape", "nothing told", ints(2, 3), tolerance=0),
    case("ConstantOfShape", "float", ints(2, 3), **value(np.array([0.1], np.float32)), tolerance=0),
    case("ConstantOfShape", "whole number", ints(4), **value(ints(7)), tolerance=0),
    case("ConstantOfShape", "bool", ints(1, 2), **value(np.array([True])), tolerance=0),
    case("ConstantOfShape", "empty", ints(0, 2), tolerance=0),
    case("ConstantOfShape", "one value", ints(), **value(np.array([3], np.float32)), tolerance=0),
    *(
        case("Range", f"{kind.__name__} {label}", *(np.array(each_, kind) for each_ in values), tolerance=0)
        for kind in (np.int64, np.float32)
        for label, values in (("up", (1, 8, 2)), ("down", (9, -2, -3)), ("nothing", (3, 3, 1)), ("away", (3, 5, -1)))
    ),
    *(
        # Each value is the one before + delta; onnx.reference multiplies.
        case("Range", f"{kind.__name__} fractions {values}", *(np.array(each_, kind) for each_ in values), tolerance=0,
             reference=None)
        for kind in (np.float32, np.float64)
        for values in ((0.1, 2, 0.3), (0, 1e5, 0.1), (0, 21, 0.7), (0.1, 3.4, 0.3), (1, -3, -0.3), (0, 1, np.inf))
    ),
    *(
        # More than a float counts exactly.
        case("Range", f"large {values}", *map(np.array, values), tolerance=0, reference=None)
        for values in ((0, 2**60 + 1, 2**58), (0, 2**53 + 1, 2**53), (2**62, -(2**62), -(2**60) - 3))
    ),
    *(
        case("CumSum", f"exclusive {exclusive} reverse {reverse} axis {axis}", floats(2, 3, 4), np.array(axis),
             exclusive=exclusive, reverse=reverse)
        for exclusive in (0, 1)
        for reverse in (0, 1)
        for axis in (1, -1)
    ),
    case("CumSum", "whole numbers", ints(1, 2, 3), np.array(0), tolerance=0),
]  # fmt: skip


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


def test_refuses_steps_of_nothing():
    with pytest.raises(QcamError, match="Range with steps of 0"):
        operator_function("Range")(torch.tensor(1), torch.tensor(3), torch.tensor(0))


@pytest.mark.parametrize("values", [(np.nan, 1, 1), (0, np.inf, 1), (0, 1, np.nan), (np.inf, 0, 1)], ids=str)
def test_refuses_ranges_that_cannot_be_counted(values):
    with pytest.raises(QcamError, match=r"Range from .* has no number of values"):
        operator_function("Range")(*(torch.tensor(float(value)) for value in values))


def test_refuses_a_range_of_the_cam_layer():
    with pytest.raises(QcamError, match="Range of values that depend on the CAM layer"):
        operator_function("Range")(torch.tensor(0.0, requires_grad=True), torch.tensor(3.0), torch.tensor(1.0))


def test_refuses_sums_of_a_single_number():
    with pytest.raises(QcamError, match="CumSum of a single number"):
        operator_function("CumSum")(torch.tensor(1.0), torch.tensor(0))
