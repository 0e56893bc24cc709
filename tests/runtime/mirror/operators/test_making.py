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
    case("Range", "fractions", *(np.array(each_, np.float32) for each_ in (0.1, 2, 0.3))),
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
