"""What is counted as clipped is what NumPy counts in the float tensors that ONNX Runtime quantizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from block_graph import CODES, entry_of, images, mirror_of, runtime_values, skip_graph, tap
from onnx import numpy_helper

from qcam.runtime.feeding import Input
from qcam.runtime.mirror import Mirror
from qcam.runtime.mirror.clipped import ABOVE, BELOW, HIGH, LOW, SQUARES, VALUES, ClippedValues

#: What the graph quantizes; s and v come out of a Relu, and their ranges begin at 0.
TENSORS = ("x", "s", "t", "u", "v", "g")
RELU = ("s", "v")


def wide(count):
    """Images of which a part lies outside the range of x, -16 to 15.875."""
    return images(count) * np.float32(2.5)


def counted_by_numpy(batch, dtype):
    """Return tensor → what is counted of each image, from ONNX Runtime's float tensors."""
    floats = runtime_values(skip_graph(dtype), {"x": batch}, [name for name in TENSORS if name != "x"]) | {"x": batch}
    ends, found = np.iinfo(dtype), {}
    for name in TENSORS:
        scale, zero = CODES[name]
        values = floats[name].astype(np.float64).reshape(len(batch), -1)
        steps = values / scale
        low, high = -zero, ends.max - ends.min - zero
        below, above = np.maximum(low - steps, 0), np.maximum(steps - high, 0)
        # What rounds to the last code is not clipped.
        below, above = (np.where(excess > 0.5, excess, 0) for excess in (below, above))
        rows = np.zeros((len(batch), 6))
        rows[:, VALUES] = values.shape[1]
        rows[:, LOW], rows[:, HIGH] = (below > 0).sum(1), (above > 0).sum(1)
        rows[:, BELOW], rows[:, ABOVE] = below.max(1) * scale, above.max(1) * scale
        rows[:, SQUARES] = (below**2).sum(1) + (above**2).sum(1)
        found[f"{name}_q"] = rows
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(("count", "threads"), [(1, 1), (3, 1), (1, 2), (11, 2)])
def test_counts_are_those_of_the_float_tensors_that_the_runtime_quantizes(dtype, count, threads, with_loops):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mirror, batch = mirror_of(dtype), wide(count)
        counts = ClippedValues(mirror.ranges, count, mirror.device)
        outputs, plain = mirror.forward(batch, clipped=counts), mirror.forward(batch)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs.logits, plain.logits)
    assert torch.equal(outputs.tap, plain.tap)
    wanted, found = counted_by_numpy(batch, dtype), counts.counted()
    assert list(found) == list(wanted)
    for name, rows in wanted.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-12, err_msg=name)
    assert all(wanted["x_q"][:, [LOW, HIGH]].sum(0) > 0)


def test_an_observer_does_not_change_what_is_counted():
    mirror, batch = mirror_of(), wide(4)
    one, other = (ClippedValues(mirror.ranges, 4, mirror.device) for _ in range(2))
    mirror.forward(batch, clipped=one)
    mirror.forward(batch, lambda _name, _codes: None, clipped=other)
    for name, rows in one.counted().items():
        np.testing.assert_array_equal(other.counted()[name], rows, err_msg=name)


def test_a_file_of_a_fixed_batch_counts_the_images_given_and_not_what_fills_them_up():
    model = skip_graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    entry = replace(entry_of("logits", tap("t", np.uint8), tap("s", np.uint8)), input=Input(batch=4))
    mirror, batch = Mirror(model, entry), wide(6)
    counts = ClippedValues(mirror.ranges, 6, mirror.device)
    mirror.forward(batch, clipped=counts)
    for name, rows in counted_by_numpy(batch, np.uint8).items():
        np.testing.assert_allclose(counts.counted()[name], rows, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("known", [True, False], ids=["float graph known", "not known"])
def test_what_an_activation_function_cuts_off_is_not_clipped(known, with_loops):
    """Without its Relu the same file clips at 0 what the Relu cut off: of the calibration, only what is above counts."""
    model = skip_graph()
    for node in [node for node in model.graph.node if node.op_type == "Relu"]:
        model.graph.node.remove(node)
        (before,) = [other for other in model.graph.node if other.output[0] == node.input[0]]
        before.output[0] = node.output[0]
    floats = {name: (0.0 if name in RELU else -np.inf, np.inf) for name in TENSORS} if known else None
    mirror = Mirror(model, entry_of("logits", tap("t", np.uint8), tap("s", np.uint8)), floats=floats)
    batch = wide(4)
    counts = ClippedValues(mirror.ranges, 4, mirror.device)
    mirror.forward(batch, clipped=counts)
    wanted = counted_by_numpy(batch, np.uint8)
    for name in ("s_q", "t_q", "u_q", "v_q"):
        np.testing.assert_allclose(counts.counted()[name], wanted[name], rtol=1e-12, err_msg=name)
    assert wanted["s_q"][:, HIGH].sum() > 0
    # With the float graph known to limit nothing, the same values are lost.
    lost = Mirror(model, mirror.entry, floats=dict.fromkeys(TENSORS, (-np.inf, np.inf)))
    counts = ClippedValues(lost.ranges, 4, lost.device)
    lost.forward(batch, clipped=counts)
    assert counts.counted()["s_q"][:, LOW].sum() > 0


def test_above_a_range_that_ends_below_six_only_what_a_relu6_lets_through_is_lost(with_loops):
    """Values are 0..20 in a range up to 15.94, of which a Clip at 16.5 would let a little more through."""
    model = skip_graph()
    floats = {"s": (0.0, 16.5)}
    mirror = Mirror(model, entry_of("logits", tap("t", np.uint8), tap("s", np.uint8)), floats=floats)
    batch = wide(4)
    counts = ClippedValues(mirror.ranges, 4, mirror.device)
    mirror.forward(batch, clipped=counts)
    (range_,) = [each for each in mirror.ranges if each.codes == "s_q"]
    found, free = counts.counted()["s_q"], counted_by_numpy(batch, np.uint8)["s_q"]
    np.testing.assert_array_equal(found[:, HIGH], free[:, HIGH])
    assert found[:, ABOVE].max() == 16.5 - range_.highest < free[:, ABOVE].max()
    assert numpy_helper.to_array(next(held for held in model.graph.initializer if held.name == "s_scale")) == range_.step
