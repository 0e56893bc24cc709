import numpy as np
import pytest
import torch
from mirror_single import case, check, check_gradient, each, floats, operator_function, versions

from qcam.common.errors import QcamError

IMAGE = floats(2, 3, 7, 8)
BELOW_ZERO = IMAGE - 9  # padding with zeros would win
WITH_CEIL = versions("MaxPool", 10)
BOTH = (("excluded", 0), ("included", 1))

# onnx.reference is left out where it errs. Its MaxPool without dilations reads stride-1 pads as pairs by axis, not as
# begins and ends, and rounds sizes down where SAME_LOWER, or ceil_mode with VALID, round up. Its AveragePool refuses
# ceil_mode together with auto_pad, and with uneven pads spreads what ceil_mode adds over both ends.
MAX_POOL = [
    case("MaxPool", "plain", IMAGE, kernel_shape=[2, 2]),
    case("MaxPool", "strides", IMAGE, kernel_shape=[3, 2], strides=[2, 3], storage_order=0, opsets=versions("MaxPool", 8)),
    case("MaxPool", "symmetric pads", BELOW_ZERO, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    case("MaxPool", "asymmetric pads", BELOW_ZERO, kernel_shape=[3, 2], pads=[0, 1, 2, 0], strides=[2, 2]),
    case("MaxPool", "asymmetric pads stride 1", BELOW_ZERO, kernel_shape=[3, 3], pads=[0, 1, 2, 1], reference=None),
    case("MaxPool", "dilations", BELOW_ZERO, kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 1, 0, 2], opsets=WITH_CEIL),
    case("MaxPool", "ceil without need", IMAGE, kernel_shape=[1, 2], strides=[2, 2], ceil_mode=1, opsets=WITH_CEIL),
    case("MaxPool", "ceil partial window", BELOW_ZERO, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1, opsets=WITH_CEIL),
    case(
        "MaxPool",
        "ceil dropped window",
        floats(1, 2, 4, 4) - 9,
        kernel_shape=[2, 2],
        strides=[3, 3],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        opsets=WITH_CEIL,
    ),
    case(
        "MaxPool",
        "ceil asymmetric",
        BELOW_ZERO,
        kernel_shape=[3, 2],
        strides=[3, 3],
        pads=[0, 1, 2, 0],
        ceil_mode=1,
        opsets=WITH_CEIL,
    ),
    case(
        "MaxPool",
        "ceil dilations",
        BELOW_ZERO,
        kernel_shape=[2, 2],
        strides=[2, 3],
        dilations=[2, 3],
        ceil_mode=1,
        opsets=WITH_CEIL,
    ),
    case("MaxPool", "auto pad VALID", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="VALID"),
    case("MaxPool", "auto pad SAME_UPPER", BELOW_ZERO, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", "auto pad SAME_UPPER stride 1", BELOW_ZERO, kernel_shape=[2, 4], auto_pad="SAME_UPPER"),
    case(
        "MaxPool",
        "auto pad SAME_LOWER",
        BELOW_ZERO,
        kernel_shape=[3, 2],
        strides=[2, 2],
        auto_pad="SAME_LOWER",
        reference=None,
    ),
    case(
        "MaxPool",
        "auto pad SAME_LOWER stride 1",
        BELOW_ZERO,
        kernel_shape=[2, 4],
        auto_pad="SAME_LOWER",
        reference=None,
    ),
    # ONNX Runtime forgets the dilations when it computes SAME pads, so that the map shrinks; the mirror keeps its size.
    case(
        "MaxPool",
        "auto pad SAME_UPPER dilated",
        BELOW_ZERO,
        kernel_shape=[2, 2],
        dilations=[2, 2],
        auto_pad="SAME_UPPER",
        opsets=WITH_CEIL,
        runtime=False,
    ),
]

AVERAGE_POOL = [
    # ONNX Runtime has no AveragePool older than version 7; for that version onnx.reference would count the padding.
    case("AveragePool", "before opset 7", IMAGE, kernel_shape=[3, 2], strides=[2, 2], opsets=(6,), runtime=False),
    case("AveragePool", "plain", IMAGE, kernel_shape=[2, 3]),
    case("AveragePool", "strides", IMAGE, kernel_shape=[3, 2], strides=[2, 3]),
    case(
        "AveragePool",
        "dilations of one",
        IMAGE,
        kernel_shape=[3, 2],
        dilations=[1, 1],
        opsets=versions("AveragePool", 19),
    ),
    *(
        case(
            "AveragePool",
            f"{label} {name}",
            image,
            opsets=versions("AveragePool", first),
            count_include_pad=count,
            **attributes,
        )
        for name, count in BOTH
        for label, image, first, attributes in (
            ("symmetric pads", IMAGE, 7, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
            ("asymmetric pads", IMAGE, 7, {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0], "strides": [2, 2]}),
            ("ceil partial window", IMAGE, 10, {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
            (
                "ceil padded",
                IMAGE,
                10,
                {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [3, 2], "ceil_mode": 1},
            ),
            (
                "ceil dropped window",
                floats(1, 2, 4, 4),
                10,
                {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "strides": [3, 3], "ceil_mode": 1},
            ),
            ("auto pad VALID", IMAGE, 7, {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "VALID"}),
            ("auto pad SAME_UPPER", IMAGE, 7, {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
            ("auto pad SAME_LOWER", IMAGE, 7, {"kernel_shape": [2, 4], "strides": [1, 2], "auto_pad": "SAME_LOWER"}),
        )
    ),
    *(
        case(
            "AveragePool",
            f"ceil {label} {name}",
            IMAGE,
            opsets=versions("AveragePool", 10),
            reference=None,
            ceil_mode=1,
            count_include_pad=count,
            **attributes,
        )
        for name, count in BOTH
        for label, attributes in (
            ("asymmetric", {"kernel_shape": [2, 4], "pads": [0, 2, 0, 1], "strides": [3, 3]}),
            ("auto pad SAME_UPPER", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        )
    ),
]

CASES = [
    *MAX_POOL,
    *AVERAGE_POOL,
    case("GlobalAveragePool", "map", IMAGE),
    case("GlobalAveragePool", "sequence", floats(2, 3, 5)),
    case("GlobalMaxPool", "map", IMAGE),
    case("GlobalMaxPool", "negative values", BELOW_ZERO),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


def test_before_opset_7_padding_does_not_count():
    old, new = (operator_function("AveragePool", opset, kernel_shape=[3, 2], pads=[1, 0, 0, 1]) for opset in (6, 7))
    image = torch.from_numpy(IMAGE)
    assert torch.equal(old(image), new(image))


def geometries(count, **choices):
    """Return windows at random, every pad smaller than its window as ONNX Runtime demands."""
    random = np.random.default_rng(7)
    for _ in range(count):
        kernel = random.integers(1, 5, 2).tolist()
        yield {
            "kernel_shape": kernel,
            "pads": [int(random.integers(0, size)) for size in kernel * 2],
            "strides": random.integers(1, 4, 2).tolist(),
            "ceil_mode": int(random.integers(0, 2)),
            **{name: random.choice(values).tolist() for name, values in choices.items()},
        }


@pytest.mark.parametrize("attributes", geometries(60, dilations=[[1, 1], [1, 1], [2, 1], [1, 2]]), ids=str)
def test_max_pool_of_any_geometry_equals_onnx_runtime(attributes):
    check(case("MaxPool", "", BELOW_ZERO, reference=None, tolerance=0, **attributes), 22)


@pytest.mark.parametrize("attributes", geometries(60, count_include_pad=[0, 1]), ids=str)
def test_average_pool_of_any_geometry_equals_onnx_runtime(attributes):
    check(case("AveragePool", "", IMAGE, reference=None, **attributes), 22)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_refuses_volumes(operator):
    with pytest.raises(QcamError, match="pooling over 3 dimensions is not supported"):
        check(case(operator, "", floats(1, 3, 8, 8, 8), kernel_shape=[3, 3, 3]), 21)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2]}, {"pads": [1, 0], "strides": [3]}, {"strides": [2], "ceil_mode": 1}], ids=str
)
def test_pools_sequences(operator, attributes):
    check(case(operator, "", floats(2, 3, 11), kernel_shape=[3], **attributes), 21)


def test_refuses_a_dilated_mean():
    with pytest.raises(QcamError, match="AveragePool with dilations is not supported"):
        check(case("AveragePool", "", IMAGE, kernel_shape=[2, 2], dilations=[1, 2]), 21)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_refuses_an_unknown_auto_pad(operator):
    with pytest.raises(QcamError, match="auto_pad SAME is not supported"):
        check(case(operator, "", IMAGE, kernel_shape=[2, 2], auto_pad="SAME"), 21)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 0, 1], "count_include_pad": 0},
        {"pads": [1, 0, 0, 1], "count_include_pad": 1},
        {"strides": [2, 3], "ceil_mode": 1},
    ],
    ids=str,
)
def test_gradient_of_average_pool_equals_finite_differences(attributes):
    check_gradient(operator_function("AveragePool", kernel_shape=[2, 2], **attributes), floats(1, 2, 5, 4))


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_gradient_of_global_pooling_equals_finite_differences(operator):
    check_gradient(operator_function(operator), floats(2, 2, 3, 3))


def test_gradient_of_max_pool_equals_finite_differences():
    check_gradient(operator_function("MaxPool", kernel_shape=[2, 2], pads=[1, 0, 0, 1]), floats(1, 2, 4, 4))
