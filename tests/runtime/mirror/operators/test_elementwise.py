import numpy as np
import pytest
from mirror_single import case, check, check_gradient, each, floats, ints, operator_function, versions

A = floats(2, 3, 4)
B = floats(2, 3, 4, seed=1)
SHAPES = (
    ("same shape", A, B),
    ("one value", A, floats(seed=1)),
    ("per channel", floats(2, 3, 4, 4), floats(3, 1, 1, seed=1)),
    ("both ways", floats(2, 1, 4), floats(3, 1, seed=1)),
)
WHOLE = np.array([-7, 7, -1, 6], np.int64)
NAN_OR_INF = np.array([-2, 0, 4], np.float32)
MANY = np.random.default_rng(0).random(20_000, np.float32) * 9 + np.float32(0.01)

CASES = [
    *(case(operator, label, a, b) for operator in ("Add", "Sub", "Mul", "Div") for label, a, b in SHAPES),
    *(case(operator, "whole numbers", WHOLE, ints(2, -2, 3, 3), tolerance=0) for operator in ("Add", "Sub", "Mul", "Div")),
    *(case("Pow", label, abs(a), b) for label, a, b in SHAPES),
    case("Pow", "negative base", NAN_OR_INF, np.array([3, 2, -0.5], np.float32)),
    case("Pow", "whole exponent", A, ints(2), opsets=versions("Pow", 12)),
    case("Pow", "whole base", ints(1, 4, 9), np.array([0.5], np.float32), opsets=versions("Pow", 12)),
    case("Pow", "whole numbers", ints(1, -4, 9), ints(3, 2, 0), opsets=versions("Pow", 12)),
    *(case(operator, label, a, b, tolerance=0) for operator in ("Max", "Min") for label, a, b in SHAPES),
    *(case(operator, "one tensor", A, tolerance=0) for operator in ("Max", "Min")),
    *(case(operator, "three tensors", A, B, floats(4, seed=2), tolerance=0) for operator in ("Max", "Min")),
    *(
        case(operator, "whole numbers", WHOLE, ints(0), opsets=versions(operator, 12), tolerance=0)
        for operator in ("Max", "Min")
    ),
    *(case(operator, "plain", A) for operator in ("Neg", "Abs", "Reciprocal", "Exp", "Erf")),
    *(case(operator, "positive", abs(A)) for operator in ("Sqrt", "Log")),
    *(case(operator, "outside", NAN_OR_INF) for operator in ("Sqrt", "Log", "Reciprocal")),
    case("Sqrt", "many, rounded once", MANY, tolerance=0),  # a vectorized square root is one digit off now and then
    *(case(operator, "many, rounded once", MANY, MANY[::-1].copy(), tolerance=0) for operator in ("Add", "Sub", "Mul", "Div")),
    *(case(operator, "whole numbers", WHOLE, tolerance=0) for operator in ("Neg", "Abs")),
    *(
        case(operator, "halves", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.49, 7], np.float32), tolerance=0)
        for operator in ("Round", "Floor", "Ceil")
    ),
    *(case(operator, "plain", A * 9) for operator in ("Sin", "Cos")),
    *(case("Equal", label, np.rint(a), np.asarray(np.rint(b)), opsets=versions("Equal", 11)) for label, a, b in SHAPES),
    case("Equal", "whole numbers", WHOLE, ints(7, 7, -1, 0)),
    case("Not", "plain", WHOLE > 0),
    case("Where", "same shape", A > 0, A, B, tolerance=0),
    case("Where", "broadcast", np.array([[True], [False], [True]]), floats(4), floats(2, 1, 1, seed=1), tolerance=0),
    case("Where", "whole numbers", WHOLE > 0, WHOLE, ints(5), tolerance=0),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_gradient_of_two_tensors_equals_finite_differences(operator):
    a, b = np.array([[0.5, -1.2, 2.0], [0.7, 3.1, -0.4]]), np.array([1.1, -0.6, 1.7])
    check_gradient(operator_function(operator), a, b)


def test_gradient_of_power_equals_finite_differences():
    check_gradient(operator_function("Pow"), np.array([[0.5, 1.2, 2.0]]), np.array([[2.0], [-0.5]]))


@pytest.mark.parametrize("operator", ["Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Sin", "Cos"])
def test_gradient_of_one_tensor_equals_finite_differences(operator):
    check_gradient(operator_function(operator), np.array([0.3, 0.9, 2.5]))
