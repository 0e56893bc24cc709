import pytest
import torch
from mirror_single import OLDEST, case, check, check_gradient, each, floats, operator_function, versions

from qcam.common.errors import QcamError
from qcam.runtime.mirror.operators.convolution import conv
from qcam.runtime.mirror.operators.padding import effective_dilation

IMAGE = floats(2, 4, 7, 8)
WEIGHT = floats(6, 4, 3, 2, seed=1)
BIAS = floats(6, seed=2)
UP = floats(4, 6, 3, 2, seed=1)

CASES = [
    case("Conv", "without bias", IMAGE, WEIGHT),
    case("Conv", "bias", IMAGE, WEIGHT, BIAS, kernel_shape=[3, 2]),
    case("Conv", "symmetric pads", IMAGE, WEIGHT, BIAS, pads=[1, 2, 1, 2]),
    case("Conv", "asymmetric pads", IMAGE, WEIGHT, BIAS, pads=[0, 1, 2, 0]),
    case("Conv", "strides", IMAGE, WEIGHT, BIAS, strides=[2, 3]),
    case("Conv", "dilations", IMAGE, WEIGHT, BIAS, dilations=[2, 3], pads=[2, 1, 2, 1]),
    case("Conv", "groups", IMAGE, floats(6, 2, 3, 3, seed=1), BIAS, group=2, pads=[1, 1, 1, 1]),
    case("Conv", "depthwise", IMAGE, floats(4, 1, 3, 3, seed=1), group=4, pads=[1, 1, 1, 1]),
    case("Conv", "depthwise times two", IMAGE, floats(8, 1, 3, 3, seed=1), group=4, strides=[2, 2], pads=[0, 0, 1, 1]),
    case("Conv", "pointwise with stride", IMAGE, floats(3, 4, 1, 1, seed=1), strides=[2, 2]),
    case(
        "Conv",
        "everything",
        IMAGE,
        floats(6, 2, 2, 3, seed=1),
        BIAS,
        group=2,
        pads=[1, 0, 2, 3],
        strides=[2, 1],
        dilations=[3, 1],
    ),
    case("Conv", "auto pad VALID", IMAGE, WEIGHT, BIAS, auto_pad="VALID", strides=[2, 2]),
    case("Conv", "auto pad NOTSET", IMAGE, WEIGHT, BIAS, auto_pad="NOTSET", pads=[1, 0, 0, 1]),
    *(
        case("Conv", f"auto pad {auto_pad} {label}", IMAGE, WEIGHT, BIAS, auto_pad=auto_pad, strides=strides)
        for auto_pad in ("SAME_UPPER", "SAME_LOWER")
        for label, strides in (("stride 1", [1, 1]), ("stride 2", [2, 2]), ("stride beyond kernel", [4, 3]))
    ),
    case("ConvTranspose", "plain", IMAGE, UP),
    case("ConvTranspose", "bias and strides", IMAGE, UP, BIAS, strides=[2, 3]),
    case("ConvTranspose", "asymmetric pads", IMAGE, UP, BIAS, strides=[2, 2], pads=[0, 1, 2, 0]),
    case("ConvTranspose", "longer at the end", IMAGE, UP, BIAS, strides=[2, 3], output_padding=[1, 2]),
    case("ConvTranspose", "longer and cut", IMAGE, UP, BIAS, strides=[3, 3], output_padding=[2, 1], pads=[1, 0, 1, 2]),
    case("ConvTranspose", "dilations", IMAGE, UP, BIAS, dilations=[2, 3]),
    # onnx.reference cannot take groups.
    case("ConvTranspose", "groups", IMAGE, floats(4, 3, 2, 2, seed=1), BIAS, group=2, strides=[2, 2], reference=None),
    case("Conv", "sequence", floats(2, 4, 9), floats(6, 4, 3, seed=1), BIAS),
    case(
        "Conv",
        "sequence with everything",
        floats(2, 4, 9),
        floats(6, 2, 3, seed=1),
        BIAS,
        group=2,
        pads=[1, 2],
        strides=[2],
        dilations=[2],
    ),
    case("Conv", "sequence SAME_UPPER", floats(2, 4, 9), floats(6, 4, 2, seed=1), auto_pad="SAME_UPPER", strides=[2]),
    # ONNX Runtime refuses dilations with SAME; onnx.reference pads as the mirror does.
    case("Conv", "auto pad SAME_UPPER dilated", IMAGE, WEIGHT, dilations=[2, 2], auto_pad="SAME_UPPER", runtime=False),
    case("Conv", "auto pad SAME_LOWER dilated", IMAGE, WEIGHT, dilations=[2, 3], auto_pad="SAME_LOWER", runtime=False),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize("opset", versions("Conv", OLDEST))
def test_refuses_volumes(opset):
    x, weight = floats(1, 2, 5, 5, 5), floats(3, 2, 3, 3, 3)
    with pytest.raises(QcamError, match="Conv over 3 spatial dimensions is not supported; only images and sequences are"):
        check(case("Conv", "", x, weight), opset)


@pytest.mark.parametrize(
    ("attributes", "said"), [({"auto_pad": "SAME_UPPER"}, "auto_pad SAME_UPPER"), ({"output_shape": [14, 16]}, "output_shape")]
)
def test_refuses_sizes_that_pads_do_not_tell(attributes, said):
    with pytest.raises(QcamError, match=f"ConvTranspose with {said} is not supported; only pads are"):
        check(case("ConvTranspose", "", IMAGE, UP, **attributes), 21)


def test_refuses_an_unknown_auto_pad():
    with pytest.raises(QcamError, match="auto_pad SAME is not supported"):
        check(case("Conv", "", IMAGE, WEIGHT, auto_pad="SAME"), 21)


@pytest.mark.parametrize(
    ("size", "attributes", "message"),
    [
        ((5, 5), {"kernel_shape": [5, 5]}, r"Conv with kernel_shape \[5, 5\] and a weight of shape \[3, 2, 3, 3\]"),
        ((5,), {"kernel_shape": [5]}, r"Conv with kernel_shape \[5\] and a weight of shape \[3, 2, 3\]"),
        ((5, 5), {"pads": [-1, 0, 0, 0]}, r"pads \[-1, 0, 0, 0\] around a window"),
        ((5, 5), {"pads": [1, 1]}, r"pads \[1, 1\] around a window"),
        ((5,), {"pads": [-1, 0]}, r"pads \[0, -1, 0, 0\] around a window"),
        ((5,), {"pads": [1, 1, 1, 1]}, r"Conv over sequences with pads \[1, 1, 1, 1\]"),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit_the_weight(size, attributes, message):
    x, weight = torch.ones(1, 2, *size), torch.ones(3, 2, *[3] * len(size))
    with pytest.raises(QcamError, match=message):
        conv(x, weight, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [1, 0, 0, 2], "strides": [2, 1]}, {"auto_pad": "SAME_UPPER"}, {"group": 2, "dilations": [2, 1]}],
    ids=str,
)
def test_gradient_equals_finite_differences(attributes):
    weight = floats(2, 2 // attributes.get("group", 1), 2, 2, seed=1)
    check_gradient(operator_function("Conv", **attributes), floats(2, 2, 4, 4), weight, floats(2, seed=2))


def test_a_dilation_along_an_axis_of_one_value_means_nothing():
    # With channels last, PyTorch 2.14 crashed on a map one column wide (this would end the process).
    x = torch.randn(1, 4, 8, 1).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(4, 2, 1, 1).contiguous(memory_format=torch.channels_last)
    given = {"dilations": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1], "group": 2}
    found = conv(x, weight, torch.randn(4), **given)
    assert found.shape == (1, 4, 5, 2)
    assert effective_dilation([2, 3], [1, 5]) == [1, 3]
