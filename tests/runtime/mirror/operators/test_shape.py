import numpy as np
import onnx
import pytest
import torch
from mirror_single import case, check, check_gradient, each, floats, ints, operator_function, versions
from onnx import TensorProto, helper, numpy_helper

from qcam.common.errors import QcamError

X = floats(2, 3, 4, 5)
SMALLEST, LARGEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
#: First opset at which Squeeze and Unsqueeze have the axes as an input.
AXES_AS_INPUT = 13


def with_axes(operator, label, x, axes):
    older, newer = versions(operator, last=AXES_AS_INPUT - 1), versions(operator, first=AXES_AS_INPUT)
    yield case(operator, f"attribute {label}", x, axes=axes, opsets=older)
    yield case(operator, f"input {label}", x, ints(*axes), opsets=newer)


def slice_case(label, starts, ends, axes=None, steps=None, x=X):
    extra = [values if values is None else ints(*values) for values in (axes, steps)]
    while extra and extra[-1] is None:
        extra.pop()
    return case("Slice", label, x, ints(*starts), ints(*ends), *extra)


CONSTANTS = {
    "tensor": ({"value": numpy_helper.from_array(floats(2, 3))}, 7),
    "tensor of whole numbers": ({"value": numpy_helper.from_array(ints(2, 3))}, 7),
    "tensor of bytes": ({"value": numpy_helper.from_array(np.array([2, 255], np.uint8))}, 7),
    "scalar tensor": ({"value": numpy_helper.from_array(np.float32(0.1).reshape(()))}, 7),
    "int": ({"value_int": 3}, 12),
    "ints": ({"value_ints": [3, -4]}, 12),
    "float": ({"value_float": 0.1}, 12),
    "floats": ({"value_floats": [0.1, -4.0]}, 12),
    "zero": ({"value_int": 0}, 12),
    "zero float": ({"value_float": 0.0}, 12),
}

MOVED = [
    case("Identity", "plain", X),
    case("Dropout", "plain", X),
    case("Dropout", "ratio attribute", X, ratio=0.9, opsets=versions("Dropout", last=11)),
    case("Dropout", "inputs", X, np.array(0.9, np.float32), np.array(False), opsets=versions("Dropout", 12), seed=1),
    *(case("Constant", label, opsets=versions("Constant", first), **value) for label, (value, first) in CONSTANTS.items()),
    case("Reshape", "explicit", X, ints(6, 20)),
    case("Reshape", "zero keeps", X, ints(0, 0, 20)),
    case("Reshape", "inferred", X, ints(2, -1)),
    case("Reshape", "zero and inferred", X, ints(0, -1, 5)),
    case("Reshape", "allowzero", floats(0, 3), ints(3, 0), allowzero=1, opsets=versions("Reshape", 14)),
    case("Reshape", "allowzero unused", X, ints(6, -1), allowzero=1, opsets=versions("Reshape", 14)),
    case("Flatten", "default", X),
    *(case("Flatten", f"axis {axis}", X, axis=axis) for axis in (0, 2, 4)),
    *(case("Flatten", f"axis {axis}", X, axis=axis, opsets=versions("Flatten", 11)) for axis in (-1, -4)),
    case("Squeeze", "every axis", floats(1, 3, 1, 2)),
    *with_axes("Squeeze", "one axis", floats(1, 3, 1, 2), [2]),
    *with_axes("Squeeze", "two axes", floats(1, 3, 1, 2), [0, 2]),
    case("Squeeze", "attribute from the end", floats(1, 3, 1, 2), axes=[-2], opsets=(11,)),
    case("Squeeze", "input from the end", floats(1, 3, 1, 2), ints(-2, -4), opsets=versions("Squeeze", 13)),
    *with_axes("Unsqueeze", "one axis", floats(3, 2), [1]),
    *with_axes("Unsqueeze", "two axes", floats(3, 2), [0, 3]),
    # onnx.reference inserts axes of an attribute in the order given, which must not matter.
    case("Unsqueeze", "attribute unsorted axes", floats(3, 2), axes=[3, 1], opsets=(7, 11), reference=None),
    case("Unsqueeze", "input unsorted axes", floats(3, 2), ints(3, 1), opsets=versions("Unsqueeze", 13)),
    case("Unsqueeze", "attribute from the end", floats(3, 2), axes=[-1, 0], opsets=(11,)),
    case("Unsqueeze", "input from the end", floats(3, 2), ints(-1, 0), opsets=versions("Unsqueeze", 13)),
    case("Transpose", "reversed", X),
    case("Transpose", "channels last", X, perm=[0, 2, 3, 1]),
    case("Concat", "one tensor", X, axis=1),
    case("Concat", "two tensors", floats(2, 3), floats(2, 1, seed=1), axis=1),
    case(
        "Concat",
        "axis from the end",
        floats(2, 3),
        floats(2, 1, seed=1),
        floats(2, 2, seed=2),
        axis=-1,
        opsets=versions("Concat", 11),
    ),
    case("Concat", "shapes", ints(2), ints(-1, 3), axis=0),
]

SELECTED = [
    *(
        made
        for label, axis, sizes in (
            ("first axis", 0, [1, 1]),
            ("uneven", 3, [1, 3, 1]),
            ("with an empty part", 2, [4, 0]),
        )
        for made in (
            case("Split", f"attribute {label}", X, axis=axis, split=sizes, outputs=len(sizes), opsets=(7, 11)),
            case("Split", f"input {label}", X, ints(*sizes), axis=axis, outputs=len(sizes), opsets=versions("Split", 13)),
        )
    ),
    case("Split", "axis from the end", X, ints(2, 3), axis=-1, outputs=2, opsets=versions("Split", 13)),
    *(
        case(
            "Split",
            f"{length} into {parts}",
            floats(2, length),
            axis=1,
            num_outputs=parts,
            outputs=parts,
            opsets=versions("Split", 18),
        )
        for length, parts in ((6, 2), (7, 3), (10, 4), (3, 2), (6, 4), (4, 1))
    ),
    # ONNX Runtime refuses what would leave more than the last part short.
    case("Split", "5 into 4", floats(5), num_outputs=4, outputs=4, opsets=versions("Split", 18), runtime=False),
    slice_case("default axes", [1, 0], [2, 2]),
    slice_case("axes", [1, 0], [3, 2], [2, 1]),
    slice_case("from the end", [-3], [-1], [-1]),
    slice_case("to the end", [1], [LARGEST], [3]),
    slice_case("beyond", [-100], [100], [3]),
    slice_case("empty", [3], [1], [3]),
    slice_case("step 2", [0, 1], [4, 5], [2, 3], [2, 2]),
    slice_case("step beyond the length", [0], [5], [3], [9]),
    slice_case("backwards", [4], [0], [3], [-1]),
    slice_case("backwards to the start", [-1], [SMALLEST], [3], [-1]),
    slice_case("backwards by 2", [100], [-100], [3], [-2]),
    slice_case("backwards and empty", [1], [3], [3], [-1]),
    slice_case("both directions", [3, 0], [0, 5], [2, 3], [-2, 3]),
    slice_case("of a shape", [1], [3], [0], x=ints(2, 3, 4, 5)),
    case("Slice", "32 bit", X, *(np.array(values, np.int32) for values in ([4], [-9], [3], [-2]))),
    case("Gather", "first axis", X, ints(1, 0, 1)),
    case("Gather", "axis", X, ints(2, 0), axis=2),
    case("Gather", "matrix of indices", X, np.array([[0, 2, 1], [1, 1, 0]]), axis=1),
    case("Gather", "one index", X, np.array(2), axis=3),
    case("Gather", "32 bit", X, np.array([[2], [0]], np.int32), axis=1),
    case("Gather", "axis from the end", X, ints(3), axis=-2),
    case("Gather", "of a shape", ints(2, 3, 4), np.array(1)),
    case("Gather", "indices from the end", X, ints(-1, 0, -2), axis=2, opsets=versions("Gather", 11)),
]

DESCRIBED = [
    case("Shape", "all", X),
    *(
        case("Shape", f"{bounds}", X, opsets=versions("Shape", 15), **bounds)
        for bounds in (
            {"start": 1},
            {"end": 2},
            {"start": -2},
            {"start": 1, "end": -1},
            {"start": -9, "end": 9},
            {"start": 3, "end": 1},
        )
    ),
    *(
        case("Cast", f"{before.__name__} to {TensorProto.DataType.Name(after)}", np.array(values, before), to=after)
        for before, values, after in (
            (np.float32, [-1.7, 1.5, 2.5], TensorProto.INT64),
            (np.float32, [-1.7, 1.5, 2.5], TensorProto.INT32),
            (np.float32, [-1.7, 0, 2.5], TensorProto.BOOL),
            (np.float32, [0.1, 65504, 1e-8], TensorProto.FLOAT16),
            (np.float32, [0.1, 250.7], TensorProto.UINT8),
            (np.float32, [0.1, -3], TensorProto.DOUBLE),
            (np.int64, [-3, 2**40], TensorProto.FLOAT),
            (np.uint8, [0, 255], TensorProto.FLOAT),
            (np.int64, [-1, 300], TensorProto.INT8),
            (np.bool_, [True, False], TensorProto.FLOAT),
        )
    ),
    case("Cast", "saturate", floats(3), to=TensorProto.DOUBLE, saturate=1, opsets=versions("Cast", 19)),
    case("Expand", "new dimension", floats(3, 1), ints(2, 3, 4)),
    case("Expand", "both ways", floats(3, 1), ints(1, 4)),
    case("Expand", "smaller shape", X, ints(4, 1)),
    case("Expand", "one value", floats(), ints(2, 2)),
    case("Pad", "zeros", X, ints(0, 0, 1, 2, 0, 0, 3, 0)),
    case("Pad", "every axis", X, ints(1, 0, 0, 1, 0, 2, 1, 0), mode="constant"),
    case("Pad", "value", X, ints(0, 0, 1, 1, 0, 0, 1, 1), np.array(-2.5, np.float32)),
    # onnx.reference cannot crop.
    case("Pad", "crop", X, ints(0, 0, -1, 1, 0, 0, 2, -2), np.array(2.5, np.float32), reference=None),
    case("Pad", "axes", X, ints(1, 2, 3, 0), None, ints(3, 1), opsets=versions("Pad", 18)),
    case("Pad", "axes from the end", X, ints(1, 2), np.array(0.5, np.float32), ints(-1), opsets=versions("Pad", 18)),
    *(
        case(
            "Pad",
            f"{mode} {label}",
            X,
            ints(*amounts),
            mode=mode,
            tolerance=0,
            opsets=versions("Pad", 19) if mode == "wrap" else None,
        )
        for mode in ("reflect", "edge", "wrap")
        for label, amounts in (("inside", (0, 0, 1, 2, 0, 0, 3, 0)), ("every axis", (1, 1, 0, 1, 0, 2, 1, 4)))
    ),
    case("Pad", "edge far", X, ints(0, 0, 9, 0, 0, 0, 0, 11), mode="edge", tolerance=0),
    *(
        # Values are cut off first, and what is left is repeated; onnx.reference cannot crop.
        case("Pad", f"{mode} crop {amounts}", floats(4), ints(*amounts), mode=mode, tolerance=0, reference=None,
             opsets=versions("Pad", 19) if mode == "wrap" else None)
        for mode in ("reflect", "edge", "wrap")
        for amounts in ((-1, 2), (2, -1), (-2, 1), (-1, -1))
    ),
    *(
        # Undefined in ONNX; ONNX Runtime takes the last.
        case("Pad", f"{mode} axis twice", floats(2, 8), ints(2, 1, 3, 4), None, ints(1, -1), mode=mode, tolerance=0,
             reference=None, opsets=versions("Pad", 19))
        for mode in ("constant", "reflect", "edge", "wrap")
    ),
    case("Tile", "plain", X, ints(1, 2, 1, 3), tolerance=0),
    case("ScatterND", "rows", X, ints(1, 0).reshape(2, 1), floats(2, 3, 4, 5, seed=1), tolerance=0),
    case("ScatterND", "values", X, ints(1, 2, 0, -1, 0, -3, 1, 2).reshape(2, 4), floats(2, seed=1), tolerance=0),
    case("GatherND", "rows", X, ints(1, -1).reshape(2, 1), tolerance=0),
    case("GatherND", "values", X, ints(1, 2, 0, -1, 0, -3, 1, 2).reshape(2, 4), tolerance=0),
    case("GatherND", "in a grid", X, ints(1, 2, 0, 0, 1, 1).reshape(3, 1, 2), tolerance=0),
    case(
        "GatherND", "of each", X, ints(0, 1, 2, 3, 1, 0, -1, 2).reshape(2, 2, 2), batch_dims=1, opsets=versions("GatherND", 12),
        tolerance=0,
    ),
    case("Pad", "whole numbers", ints(3, 4), ints(1, 2), np.array(7), opsets=versions("Pad", 13)),
]

CASES = [*MOVED, *SELECTED, *DESCRIBED]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "message"),
    [
        ("Dropout", [0.5, True], {}, "Dropout in training mode"),
        ("Cast", [], {"to": TensorProto.INT4}, "Cast to ONNX type INT4 is not supported"),
        ("Cast", [], {"to": TensorProto.BFLOAT16}, "Cast to ONNX type BFLOAT16 is not supported"),
        ("Cast", [], {"to": TensorProto.STRING}, "Cast to ONNX type STRING is not supported"),
        ("Pad", [1], {"mode": "mirror"}, "Pad with mode mirror is not supported"),
        ("Pad", [[1, 1, 1, 1]], {}, "Pad with 4 pads along 1 axes"),
        ("Pad", [[1, 1], 0.0, [1]], {}, "Pad along axis 1 of a tensor of 1 dimensions"),
        ("Pad", [[-4, 4]], {"mode": "wrap"}, "Pad with mode wrap and pads -4 and 4 of 4 values"),
        ("Unsqueeze", [[2]], {}, "Unsqueeze along axis 2 of a tensor of 2 dimensions"),
        ("GatherND", [[[4]]], {}, r"GatherND out of shape \[4\] has an index outside"),
        ("GatherND", [[[0, 0]]], {}, r"GatherND out of shape \[4\] with indices of \[1, 2\]"),
        ("ScatterND", [[[4]], [1.0]], {}, "has an index outside"),
        ("ScatterND", [[[-5]], [1.0]], {}, "has an index outside"),
        ("ScatterND", [[[0, 0]], [1.0]], {}, r"into shape \[4\] with indices of \[1, 2\] and updates of \[1\]"),
        ("ScatterND", [[[0], [1]], 1.0], {}, r"into shape \[4\] with indices of \[2, 1\] and updates of \[\]"),
        ("ScatterND", [[[0], [-4]], [1.0, 2.0]], {}, "an index that is there twice is not supported"),
        ("ScatterND", [[[0]], [1.0]], {"reduction": "add"}, "ScatterND with reduction add is not supported"),
        ("Split", [], {}, "Split without sizes and without num_outputs is not supported"),
    ],
    ids=str,
)
def test_refuses(operator, inputs, attributes, message):
    with pytest.raises(QcamError, match=message):
        operator_function(operator, **attributes)(torch.ones(4), *map(torch.tensor, inputs))


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "BFLOAT16", "FLOAT8E4M3FN"])
def test_refuses_a_constant_of_a_type_torch_lacks(kind):
    value = helper.make_tensor("value", getattr(onnx.TensorProto, kind), [2], [1, 2])
    with pytest.raises(QcamError, match=f"cannot hold a Constant of type {kind}"):
        operator_function("Constant", value=value)()


def test_gradient_of_concat_equals_finite_differences():
    check_gradient(operator_function("Concat", axis=1), floats(2, 3), floats(2, 1, seed=1))


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("Reshape", [[0, -1]], {}),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Flatten", [], {}),
        ("Slice", [[3], [-9], [3], [-2]], {}),
        ("Gather", [[0, 2, 0]], {"axis": 1}),
        ("Pad", [[0, 0, 1, 0, 0, 0, 0, 2]], {}),
        ("Expand", [[2, 2, 1, 2, 4]], {}),
    ],
    ids=str,
)
def test_gradient_of_what_rearranges_equals_finite_differences(operator, inputs, attributes):
    function = operator_function(operator, **attributes)
    check_gradient(lambda x: function(x, *(torch.tensor(value) for value in inputs)), floats(2, 3, 2, 4)[:, :, :1])


def test_gradient_of_split_equals_finite_differences():
    check_gradient(operator_function("Split", axis=1, num_outputs=2), floats(2, 3))
