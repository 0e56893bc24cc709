import numpy as np
import pytest
import torch
from mirror_single import case, check, check_gradient, each, floats, operator_function, versions

from qcam.common.errors import QcamError

X = floats(2, 3, 4, 5)
SCALE, BIAS, MEAN = (floats(3, seed=seed) for seed in (1, 2, 3))
VARIANCE = np.array([0.5, 2.0, 1e-6], np.float32)

CASES = [
    *(
        # onnx.reference takes version 9 to be in training mode: it normalizes by the batch's own statistics.
        case("BatchNormalization", label, x, SCALE, BIAS, MEAN, VARIANCE, reference_from=14, **attributes)
        for label, x, attributes in (
            ("map", X, {}),
            ("epsilon", X, {"epsilon": 0.01, "momentum": 0.5}),
            ("vector", floats(4, 3), {}),
        )
    ),
    case(
        "BatchNormalization",
        "evaluation mode",
        X,
        SCALE,
        BIAS,
        MEAN,
        VARIANCE,
        training_mode=0,
        opsets=versions("BatchNormalization", 14),
    ),
    case("LayerNormalization", "last axis", X, floats(5, seed=1), floats(5, seed=2)),
    case("LayerNormalization", "without bias", X, floats(5, seed=1)),
    case("LayerNormalization", "axis", X, floats(3, 4, 5, seed=1), floats(3, 4, 5, seed=2), axis=1),
    case("LayerNormalization", "axis from the end", X, floats(4, 5, seed=1), floats(4, 5, seed=2), axis=-2),
    case("LayerNormalization", "epsilon", X, floats(5, seed=1), epsilon=0.1, stash_type=1),
    # The first version has a scale and a bias for each group.
    *(
        case(
            "GroupNormalization",
            f"{groups} groups {label}",
            floats(2, 6, *size),
            floats(count, seed=1),
            floats(count, seed=2),
            num_groups=groups,
            epsilon=epsilon,
            opsets=(opset,),
        )
        for opset in (18, 21)
        for groups in (1, 2, 6)
        for count in [groups if opset == 18 else 6]
        for label, size, epsilon in (("map", (4, 5), 1e-5), ("epsilon", (4, 5), 0.1), ("sequence", (7,), 1e-5))
    ),
    # As below; one position of one image, which PyTorch's own function refuses.
    *(
        case("GroupNormalization", f"one position of {images}", floats(images, 4, 1, 1), floats(4), floats(4), num_groups=4,
             opsets=(opset,), tolerance=1e-4)
        for opset in (18, 21)
        for images in (1, 2)
    ),
    case("InstanceNormalization", "map", X, SCALE, BIAS),
    case("InstanceNormalization", "epsilon", X, SCALE, BIAS, epsilon=0.1),
    case("InstanceNormalization", "sequence", floats(2, 3, 5), SCALE, BIAS),
    # x - mean(x) is 0 but for rounding, which 1 / sqrt(epsilon) enlarges.
    case("InstanceNormalization", "one position", floats(2, 3, 1, 1), SCALE, BIAS, tolerance=1e-4),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


def test_refuses_training():
    training = operator_function("BatchNormalization", training_mode=1)
    with pytest.raises(QcamError, match="BatchNormalization in training mode"):
        training(*[None] * 5)


@pytest.mark.parametrize(
    ("opset", "scale", "bias", "attributes", "message"),
    [
        (18, 6, 6, {"num_groups": 2}, r"6 channels in 2 groups: its scale is of shape \[6\]; this version takes \[2\]"),
        (18, 1, 1, {"num_groups": 2}, r"its scale is of shape \[1\]; this version takes \[2\]"),
        (21, 2, 2, {"num_groups": 2}, r"its scale is of shape \[2\]; this version takes \[6\]"),
        (21, 6, 2, {"num_groups": 2}, r"its bias is of shape \[2\]; this version takes \[6\]"),
        (21, 6, 6, {"num_groups": 4}, "GroupNormalization of 6 channels in 4 groups is not possible"),
        (21, 6, 6, {"num_groups": 0}, "GroupNormalization of 6 channels in 0 groups is not possible"),
        (21, 6, 6, {"num_groups": 2, "stash_type": 10}, "GroupNormalization with stash_type 10 is not supported"),
    ],
)
def test_refuses_groups_that_do_not_fit(opset, scale, bias, attributes, message):
    normalized = operator_function("GroupNormalization", opset, **attributes)
    with pytest.raises(QcamError, match=message):
        normalized(torch.ones(1, 6, 2, 2), torch.ones(scale), torch.ones(bias))


def test_gradient_of_batch_normalization_equals_finite_differences():
    statistics = torch.from_numpy(floats(2, seed=3)).double(), torch.tensor([0.5, 2.0]).double()
    check_gradient(
        lambda x, scale, bias: operator_function("BatchNormalization")(x, scale, bias, *statistics),
        floats(2, 2, 2, 3),
        floats(2, seed=1),
        floats(2, seed=2),
    )


def test_gradient_of_layer_normalization_equals_finite_differences():
    check_gradient(operator_function("LayerNormalization"), floats(2, 5), floats(5, seed=1), floats(5, seed=2))


def test_gradient_of_instance_normalization_equals_finite_differences():
    check_gradient(operator_function("InstanceNormalization"), floats(2, 2, 2, 3), floats(2, seed=1), floats(2, seed=2))
