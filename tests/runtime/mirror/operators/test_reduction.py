import numpy as np
import pytest
from mirror_single import case, check, check_gradient, each, floats, ints, operator_function, versions

X = floats(2, 3, 4, 5)
WHOLE = np.arange(12, dtype=np.int32).reshape(3, 4)
#: First opset at which the axes are an input.
AXES_AS_INPUT = {"ReduceMean": 18, "ReduceSum": 13, "ReduceMax": 18, "ReduceMin": 18, "ReduceL2": 18}


def axes_as_attribute(operator, label, x=X, axes=None, **attributes):
    opsets = versions(operator, last=AXES_AS_INPUT[operator] - 1)
    if axes is not None:
        attributes["axes"] = axes
    return case(operator, f"attribute {label}", x, opsets=opsets, **attributes)


def axes_as_input(operator, label, x=X, axes=None, **attributes):
    opsets = versions(operator, first=AXES_AS_INPUT[operator])
    inputs = (x,) if axes is None else (x, ints(*axes))
    return case(operator, f"input {label}", *inputs, opsets=opsets, **attributes)


CASES = [
    *(
        make(operator, label, axes=axes, **attributes)
        for operator in AXES_AS_INPUT
        for make in (axes_as_attribute, axes_as_input)
        for label, axes, attributes in (
            ("all", None, {}),
            ("all without dimensions", None, {"keepdims": 0}),
            ("positions", [2, 3], {}),
            ("positions from the end", [-1, -2], {"keepdims": 0}),
            ("channels", [1], {"keepdims": 0}),
            ("apart", [0, 3], {"keepdims": 1}),
        )
    ),
    *(axes_as_input(operator, "empty", axes=[]) for operator in AXES_AS_INPUT),
    *(axes_as_input(operator, "empty noop", axes=[], noop_with_empty_axes=1) for operator in AXES_AS_INPUT),
    *(axes_as_input(operator, "absent noop", noop_with_empty_axes=1) for operator in AXES_AS_INPUT),
    *(axes_as_input(operator, "named noop", axes=[1], noop_with_empty_axes=1) for operator in AXES_AS_INPUT),
    *(
        make(operator, "whole numbers", WHOLE, [1])
        for operator in ("ReduceSum", "ReduceMax")
        for make in (axes_as_attribute, axes_as_input)
    ),
    case("ReduceMax", "booleans", WHOLE > 5, ints(1), opsets=versions("ReduceMax", 20)),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize("attributes", [{"axes": [2, 3]}, {"axes": [1], "keepdims": 0}, {}], ids=str)
@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum", "ReduceMax"])
def test_gradient_equals_finite_differences(operator, attributes):
    check_gradient(operator_function(operator, opset=11, **attributes), floats(2, 3, 2, 2))
