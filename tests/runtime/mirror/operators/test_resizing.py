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
    *(
        # No size changes: ONNX Runtime copies, onnx.reference does not.
        case("Resize", f"{kind} {mode} same sizes {factors}", X, NONE, scales(*factors), mode=kind, nearest_mode="floor",
             coordinate_transformation_mode=mode, tolerance=0, reference=None)
        for kind in ("nearest", "linear")
        for mode in ("half_pixel", "asymmetric")
        for factors in ((1.0001, 1.0001), (1, 1.1))
    ),
    *(
        case("Resize", f"{kind} {mode} one size as it is", X, NONE, scales(1.05, 1.5), mode=kind, nearest_mode="floor",
             coordinate_transformation_mode=mode, tolerance=0 if kind == "nearest" else 1e-6)
        for kind in ("nearest", "linear")
        for mode in ("half_pixel", "asymmetric")
    ),
    *(
        case("Resize", f"linear float16 {label}", (20 * X).astype(np.float16), None, None, ints(2, 3, *size), mode="linear",
             tolerance=0, reference=None, opsets=versions("Resize", 13))
        for label, size in TARGETS.items()
    ),
    *(
        case("Resize", f"nearest {kind.__name__}", (20 * X).astype(kind), None, None, ints(2, 3, 7, 3), tolerance=0,
             opsets=versions("Resize", 13))
        for kind in (np.uint8, np.int8, np.int32)
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


@pytest.mark.parametrize("kind", ["uint8", "int8", "int32"])
def test_refuses_whole_numbers_between_two(kind):
    x = torch.ones(1, 1, 4, 4, dtype=getattr(torch, kind))
    with pytest.raises(QcamError, match=f"Resize with mode linear of {kind} is not supported; only floats are"):
        operator_function("Resize", mode="linear")(x, None, None, torch.tensor([1, 1, 8, 8]))


@pytest.mark.parametrize(
    ("factors", "sizes", "attributes", "message"),
    [
        ([1, 1, -1, 1], None, {}, r"Resize with scales \[1.0, 1.0, -1.0, 1.0\]"),
        ([1, 1, 0, 1], None, {}, "Resize with scales"),
        (None, [8, 8], {}, "Resize of 4 axes with 2 sizes or scales"),
        (None, [8, 8], {"axes": [2, 2]}, r"Resize along axes \[2, 2\] names one twice"),
        (None, [8, 8], {"axes": [2, -2]}, r"Resize along axes \[2, -2\] names one twice"),
        (None, [8], {"axes": [4]}, "Resize along axis 4 of a tensor of 4 dimensions"),
    ],
)
def test_refuses_what_does_not_fit(factors, sizes, attributes, message):
    given = [None if values is None else torch.tensor(values) for values in (factors, sizes)]
    with pytest.raises(QcamError, match=message):
        operator_function("Resize", **attributes)(torch.ones(1, 1, 4, 4), None, *given)


def test_refuses_volumes():
    with pytest.raises(QcamError, match="along 3 axes is not supported; only images are"):
        operator_function("Resize", mode="linear")(torch.ones(1, 1, 4, 4, 4), None, None, torch.tensor([1, 1, 8, 8, 8]))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_gradients_equal_finite_differences(mode):
    resize = operator_function("Resize", mode=mode)
    check_gradient(lambda x: resize(x, None, None, torch.tensor([1, 1, 5, 3])), floats(1, 1, 3, 4).astype(np.float64))
