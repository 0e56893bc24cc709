import numpy as np
import pytest
import torch
from mirror_single import case, check, check_gradient, each, floats, operator_function, versions

X = floats(3, 4, 5) * 4
#: Where functions bend, saturate or would overflow.
EXTREMES = np.array([-1000, -100, -88, -6, -3, -1, -1e-3, 0, 1e-3, 1, 3, 6, 50, 88, 100, 1000], np.float32)

WITHOUT_ATTRIBUTES = (
    "Relu",
    "LeakyRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Elu",
    "Softplus",
    "Mish",
    "Gelu",
)

CASES = [
    *(
        case(operator, label, values)
        for operator in WITHOUT_ATTRIBUTES
        for label, values in (("plain", X), ("extremes", EXTREMES))
    ),
    case("LeakyRelu", "alpha", X, alpha=0.3),
    case("HardSigmoid", "alpha and beta", X, alpha=1 / 6, beta=0.4),
    case("Elu", "alpha", X, alpha=2.5),
    case("Gelu", "tanh", X, approximate="tanh"),
    case("Gelu", "erf", X, approximate="none"),
    case("PRelu", "one slope", X, np.array([0.25], np.float32)),
    case("PRelu", "slope per channel", floats(2, 3, 4, 4), floats(3, 1, 1, seed=1)),
    case("PRelu", "slope per element", X, floats(3, 4, 5, seed=1)),
    case("Clip", "no limits", X),
    case("Clip", "both limits", X, np.array(0, np.float32), np.array(6, np.float32)),
    case("Clip", "from below", X, np.array(-1.5, np.float32)),
    case("Clip", "from above", X, None, np.array(1.5, np.float32)),
    case("Clip", "crossed limits", X, np.array(1, np.float32), np.array(-1, np.float32)),
    case("Clip", "whole numbers", np.arange(9), np.array(2), np.array(5), opsets=versions("Clip", 12)),
    case("Softmax", "last axis", X),
    case("Softmax", "first axis", X, axis=0),
    case("Softmax", "axis from the end", X, axis=-2),
    case("Softmax", "large values", EXTREMES),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Relu", {}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Sigmoid", {}),
        ("HardSigmoid", {}),
        ("HardSwish", {}),
        ("Tanh", {}),
        ("Elu", {"alpha": 2.5}),
        ("Softplus", {}),
        ("Mish", {}),
        ("Gelu", {"approximate": "none"}),
        ("Gelu", {"approximate": "tanh"}),
        ("Softmax", {"axis": 1}),
    ],
    ids=str,
)
def test_gradient_equals_finite_differences(operator, attributes):
    values = np.array([[-7.1, -2.9, -1.3, -0.2], [0.4, 1.7, 2.8, 5.2]])  # away from every bend
    check_gradient(operator_function(operator, **attributes), values)


def test_gradient_of_prelu_and_clip_equals_finite_differences():
    values = np.array([[-7.1, -2.9, -1.3], [0.4, 1.7, 5.2]])
    check_gradient(operator_function("PRelu"), values, np.array([[0.3], [0.2]]))
    check_gradient(lambda x: operator_function("Clip")(x, torch.tensor(-2.0).double(), torch.tensor(3.0).double()), values)


@pytest.mark.parametrize(("operator", "at_minus_1000", "at_1000"), [("Softplus", 0, 1), ("Mish", 0, 1), ("Sigmoid", 0, 0)])
def test_gradient_far_out_is_finite(operator, at_minus_1000, at_1000):
    x = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(operator_function(operator)(x).sum(), x)
    assert gradient.tolist() == [at_minus_1000, at_1000]
