import numpy as np
import pytest
import torch
from mirror_single import case, check, check_gradient, each, floats, ints, operator_function, versions

from qcam.common.errors import QcamError

X = floats(2, 3, 5, 6)
NONE = np.zeros(0, np.float32)
MODES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
TARGETS = {"larger": (10, 12), "uneven": (7, 11), "smaller": (3, 2), "one": (1, 1), "one axis": (5, 13)}


def scales(*values):
    return np.array([1, 1, *values], np.float32)


CASES = [
    *(
        case("Resize", f"{kind} {mode} {label}", X, left_out, left_out, ints(2, 3, *size), mode=kind, opsets=opsets,
             coordinate_transformation_mode=mode, tolerance=0 if kind == "nearest" else 1e-6)
        for left_out, opsets in ((NONE, (11,)), (None, versions("Resize", 13)))
        for kind in ("nearest", "linear")
        for mode in MODES
        for label, size in TARGETS.items()
    ),
    *(
        case("Resize", f"{rounding} {label}", X, NONE, scales(*factors), nearest_mode=rounding, tolerance=0,
             coordinate_transformation_mode=mode)
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for mode in ("half_pixel", "asymmetric")
        for label, factors in ((f"{mode} twice", (2, 2)), (f"{mode} half", (0.5, 0.5)), (f"{mode} odd", (1.5, 0.55)))
    ),
    *(
        case("Resize", f"linear scales {label}", X, NONE, scales(*factors), mode="linear", tolerance=1e-6)
        for label, factors in (("twice", (2, 2)), ("odd", (1.5, 0.55)), ("nothing", (1, 1)))
    ),
    case("Resize", "axes", X, None, None, ints(4, 9), axes=[2, 3], mode="linear", tolerance=1e-6,
         opsets=versions("Resize", 18)),
]  # fmt: skip


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mode": "cubic"}, "mode cubic is not supported"),
        ({"mode": "linear", "antialias": 1}, "mode linear and antialias is not supported"),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "coordinate_transformation_mode tf_crop_and_resize"),
        ({"keep_aspect_ratio_policy": "not_larger"}, "keep_aspect_ratio_policy not_larger"),
    ],
)
def test_refuses(attributes, message):
    with pytest.raises(QcamError, match=message):
        operator_function("Resize", **attributes)(torch.ones(1, 1, 4, 4), None, None, torch.tensor([1, 1, 8, 8]))


def test_refuses_volumes():
    with pytest.raises(QcamError, match="along 3 axes is not supported; only images are"):
        operator_function("Resize", mode="linear")(torch.ones(1, 1, 4, 4, 4), None, None, torch.tensor([1, 1, 8, 8, 8]))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_gradients_equal_finite_differences(mode):
    resize = operator_function("Resize", mode=mode)
    check_gradient(lambda x: resize(x, None, None, torch.tensor([1, 1, 5, 3])), floats(1, 1, 3, 4).astype(np.float64))
