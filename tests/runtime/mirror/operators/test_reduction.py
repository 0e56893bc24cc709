import numpy as np
import pytest
import torch
from mirror_single import case, check, check_gradient, each, floats, ints, operator_function, versions

from qcam.common.errors import QcamError

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
    *(
        # onnx.reference has no value for the mean and the extremes of nothing.
        make(operator, f"nothing {kind.__name__}", np.zeros((2, 0, 3), kind), [1], reference=None)
        for operator in AXES_AS_INPUT
        for kind in (np.float32, np.int32)
        if kind is np.float32 or operator in ("ReduceMax", "ReduceMin")
        for make in (axes_as_attribute, axes_as_input)
    ),
    *(
        make("ReduceL2", label, x.astype(kind), [1], reference=None, tolerance=tolerance)
        for make in (axes_as_attribute, axes_as_input)
        for label, x, kind, tolerance in (
            ("zeros", np.zeros((2, 3)), np.float32, 0),
            ("float16", np.full((2, 3), 300), np.float16, 0),
            ("too large and too small", np.array([[1e30, 1e30], [1e-30, 1e-30]]), np.float32, 0),
            ("one value each", np.random.default_rng(0).normal(size=(100000, 1)), np.float32, 0),
        )
    ),
    case("ReduceMax", "booleans", WHOLE > 5, ints(1), opsets=versions("ReduceMax", 20)),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize("attributes", [{"axes": [2, 3]}, {"axes": [1], "keepdims": 0}, {}], ids=str)
@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"])
def test_gradient_equals_finite_differences(operator, attributes):
    check_gradient(operator_function(operator, opset=11, **attributes), floats(2, 3, 2, 2))


def test_gradient_of_reduce_l2_is_that_of_pytorchs_norm_at_zeros_too():
    x = torch.from_numpy(floats(3, 4, 5))
    x[1] = 0
    x[2, 1] = 0
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.from_numpy(floats(3, 4, seed=1))
    (operator_function("ReduceL2", opset=11, axes=[2], keepdims=0)(mine) * weights).sum().backward()
    (torch.linalg.vector_norm(theirs, dim=2) * weights).sum().backward()
    assert (mine.grad[1] == 0).all()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_refuses_reduce_l2_of_whole_numbers():
    with pytest.raises(QcamError, match="ReduceL2 of int64 is not supported; only floats are"):
        operator_function("ReduceL2", opset=11)(torch.tensor([3, 4]))
