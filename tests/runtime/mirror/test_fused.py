"""Steps taken together give what they give one by one, bit for bit; the tail's shortcuts give the whole tail's gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.bundle import load_onnx
from qcam.runtime.mirror import Mirror
from qcam.runtime.mirror.fused import FakeQuantize, find_pairs
from qcam.runtime.mirror.integer.elementwise import PairLookup
from qcam.runtime.mirror.integer.kernel import Lookup
from qcam.runtime.mirror.integer.summation import map_sums, row_sums
from qcam.runtime.mirror.steps import Program
from qcam.runtime.mirror.tail import Tail

NETWORKS = ("efficientnet_b0", "squeezenet1_1")


def images(bundle, count=2):
    height, width = bundle.preprocessing.crop
    noise = np.random.default_rng(0).normal(size=(count, 3, height, width))
    return torch.from_numpy(noise.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("precision", "arithmetic"), [("int8", "fake_quant"), ("int16", "fake_quant"), ("int8", "integer")])
def test_the_fused_forward_equals_the_one_that_can_be_observed(seeded_bundle, name, precision, arithmetic):
    bundle = seeded_bundle(name)
    mirror = Mirror(load_onnx(bundle, precision), bundle.precision(precision), arithmetic=arithmetic)
    assert len(mirror._forward.steps) < len(mirror._stepwise.steps) or arithmetic == "integer"
    fast, seen = mirror.forward(images(bundle)), set()
    slow = mirror.forward(images(bundle), observe=lambda tensor, codes: seen.add(tensor))
    assert torch.equal(fast.logits, slow.logits)
    assert torch.equal(fast.tap, slow.tap)
    assert seen == set(mirror.quantized)


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_parts_of_a_batch_give_what_the_batch_gives(tiny_bundle, precision):
    """Threads take images through the whole graph: codes are those of the whole, and of images alone."""
    entry, model, x = tiny_bundle.precision(precision), load_onnx(tiny_bundle, precision), images(tiny_bundle, 11)
    before = torch.get_num_threads()
    for arithmetic in ("integer", "fake_quant"):
        mirror = Mirror(model, entry, arithmetic=arithmetic)
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(mirror.forward(x))
        torch.set_num_threads(before)
        found.append(mirror.forward(x, observe=lambda _name, _codes: None))  # as one
        for other in found[1:]:
            assert other.tap.shape == found[0].tap.shape
            if arithmetic == "integer" and precision == "int8":
                assert torch.equal(other.tap, found[0].tap)
                assert torch.equal(other.logits, found[0].logits)
            else:
                torch.testing.assert_close(other.logits, found[0].logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arithmetic", ["integer", "fake_quant"])
@pytest.mark.parametrize(("count", "threads"), [(11, 2), (16, 2), (17, 3), (9, 2), (1, 2)])
def test_observers_of_parts_see_what_an_observer_of_the_whole_sees(tiny_bundle, arithmetic, count, threads):
    entry, x = tiny_bundle.precision("int8"), images(tiny_bundle, count)
    mirror = Mirror(load_onnx(tiny_bundle, "int8"), entry, arithmetic=arithmetic)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seen, parts = {}, []

        def observer(part):
            parts.append(part)
            return lambda name, codes: seen.setdefault(name, {}).update({part.start: codes.clone()})

        outputs, plain = mirror.forward(x, observers=observer), mirror.forward(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs.logits, plain.logits)
    covered = sorted((part.start, part.stop) for part in parts)
    assert [start for start, _ in covered] == [0, *(stop for _, stop in covered[:-1])]
    assert covered[-1][1] == count
    assert all(stop - start > 1 for start, stop in covered) or count == 1  # over one image alone, means are others
    assert count < 11 or len(parts) > 1
    assert set(seen) == set(mirror.quantized)
    if arithmetic == "integer":
        whole = {}
        mirror.forward(x, lambda name, codes: whole.update({name: codes.clone()}))
        for name, codes in whole.items():
            assert torch.equal(torch.cat([seen[name][start] for start in sorted(seen[name])]), codes)


def test_what_observers_of_parts_return_goes_on(tiny_bundle):
    entry, x = tiny_bundle.precision("int8"), images(tiny_bundle, 16)
    mirror = Mirror(load_onnx(tiny_bundle, "int8"), entry, arithmetic="integer")
    tap = entry.tap.output
    given = torch.randint(0, 255, mirror.forward(x).tap.shape, dtype=torch.uint8)
    outputs = mirror.forward(x, observers=lambda part: lambda name, _: given[part] if name == tap else None)
    assert torch.equal(outputs.tap, given.float())


@pytest.mark.slow
def test_silu_is_one_table_where_nothing_looks_at_the_sigmoid(seeded_bundle):
    bundle = seeded_bundle("efficientnet_b0")
    mirror = Mirror(load_onnx(bundle, "int8"), bundle.precision("int8"), arithmetic="integer")
    kinds = [type(step.compute) for step in mirror._forward.steps]
    before = [type(step.compute) for step in mirror._stepwise.steps]
    assert before.count(PairLookup) > kinds.count(PairLookup)
    assert kinds.count(Lookup) > 10
    assert len(kinds) < len(before)  # the sigmoids themselves are gone


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_fake_quantize_is_dequantize_of_quantize(dtype, with_loops):
    from qcam.runtime.codes import Codes
    from qcam.runtime.mirror.operators.quantization import dequantize_linear, quantize_linear

    zero = np.asarray(np.iinfo(dtype).max // 3, dtype)
    codes = Codes("x", np.asarray(0.037, np.float32), zero, 1)
    x = torch.linspace(-40, 40, 10_001) * (np.iinfo(dtype).max / 255)
    scale, point = torch.tensor(codes.scale), torch.from_numpy(zero.reshape(1)).reshape(())
    expected = dequantize_linear(quantize_linear(x, scale, point), scale, point)
    quantize = FakeQuantize(codes, torch.device("cpu"))
    assert torch.equal(quantize(x), expected)
    assert torch.equal(quantize.in_place(x.clone()), expected)


def test_pairs_leave_alone_what_is_wanted(tiny_bundle):
    from qcam.runtime.graph import Graph

    graph = Graph(load_onnx(tiny_bundle, "int8"))
    tap = tiny_bundle.precision("int8").tap.output
    everything = {pair.quantizer.output[0] for pair in find_pairs(graph, [])}
    assert everything - {pair.quantizer.output[0] for pair in find_pairs(graph, [tap])} == {tap}


LAYOUTS = {
    "planes": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "a part": lambda x: x[:, :, 1:],
    "turned": lambda x: x.permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("result", [torch.uint8, torch.int8, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 3, 1), (1, 3, 5, 7), (2, 16, 70, 90)])
def test_a_lookup_finds_the_result_of_each_code_whatever_the_layout(layout, signed, result, shape, with_loops):
    numbers = torch.Generator().manual_seed(0)
    table = torch.randint(0, 120, (256,), generator=numbers).to(result)
    places = LAYOUTS[layout](torch.randint(0, 256, shape, generator=numbers))
    given = (places - 128).to(torch.int8) if signed else places.to(torch.uint8)
    found = Lookup(table, -128 if signed else 0)(given)
    assert found.dtype == result
    assert torch.equal(found, table[places])


def test_a_lookup_of_codes_that_begin_anywhere(with_loops):
    table = torch.arange(256).flip(0).to(torch.uint8)
    stored = torch.arange(28, dtype=torch.uint8).reshape(4, 7)
    for begin in range(4):
        assert torch.equal(Lookup(table, 0)(stored[begin : begin + 2]), 255 - stored[begin : begin + 2])


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("lows", [(0, 0), (-128, 0), (0, -128), (-128, -128)])
@pytest.mark.parametrize("broadcast", [False, True])
def test_a_lookup_of_pairs_finds_the_result_of_each_pair(first, second, lows, broadcast, with_loops):
    numbers = torch.Generator().manual_seed(0)
    table = torch.randint(0, 256, (2**16,), generator=numbers).to(torch.uint8)
    x = LAYOUTS[first](torch.randint(0, 256, (2, 6, 6, 6), generator=numbers))
    y = LAYOUTS[second](torch.randint(0, 256, (2, 6, 6, 6), generator=numbers))
    shape = torch.broadcast_shapes(x.shape[2:], y.shape[2:]) if x.shape == y.shape else None
    if shape is None:
        x, y = x[:, :, :5, :5], y[:, :, :5, :5]
    y = y[:, :, :1, :1] if broadcast else y
    given = [(value + low).to(torch.int8 if low else torch.uint8) for value, low in zip((x, y), lows, strict=True)]
    found = PairLookup(table, lows, (None, None))(*given)
    assert torch.equal(found, table[x * 256 + y])


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (8, 16), (7, 49), (12, 50), (6, 51), (9, 12_544)])
@pytest.mark.parametrize("neighbours", [False, True])
def test_row_sums_add_in_eigens_order(shape, neighbours, with_loops):
    x = torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    wanted = [one_sum(x.numpy(), row, neighbours) for row in range(shape[0])]
    assert row_sums(x, neighbours=neighbours).tolist() == wanted
    maps = x.reshape(1, shape[0], 1, shape[1])  # as channels, in either layout
    for given in (maps, maps.contiguous(memory_format=torch.channels_last)):
        assert map_sums(given, neighbours=neighbours).flatten().tolist() == wanted


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 6), (3, 3), (4, 4), (7, 7), (6, 6), (14, 14), (5, 13)])
@pytest.mark.parametrize("channels", [1, 3, 8, 37])
def test_sums_of_maps_are_those_of_rows(size, channels, with_loops):
    """Over several images, each map's place in the row of all decides where it is cut; threads take images by themselves."""
    x = torch.randn(5, channels, *size, generator=torch.Generator().manual_seed(0))
    for neighbours in (False, True):
        wanted = row_sums(x.reshape(5 * channels, -1), neighbours=neighbours).view(5, channels)
        assert torch.equal(map_sums(x.contiguous(memory_format=torch.channels_last), neighbours=neighbours), wanted)


def one_sum(x, row, neighbours):
    """The same order number by number: up to the boundary, two accumulators of four lanes, the rest."""
    values, length = x[row], x.shape[1]
    start = min(-row * length % 4, length)
    packets = [values[place : place + 4] for place in range(start, length - 3, 4)]
    if not packets:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return float(total)
    total = packets[0]
    if len(packets) > 1:
        other = packets[1]
        for index in range(2, len(packets) - len(packets) % 2, 2):
            total, other = total + packets[index], other + packets[index + 1]
        total = total + other
        if len(packets) % 2:
            total = total + packets[-1]
    a, b, c, d = total
    result = (a + b) + (c + d) if neighbours else (a + c) + (b + d)
    for value in [*values[:start], *values[start + 4 * len(packets) :]]:
        result = result + value
    return float(result)


@pytest.mark.parametrize("precision", ["f32", "int16", "int8"])
def test_the_tails_shortcuts_give_the_whole_tails_gradient(tiny_bundle, precision):
    mirror = Mirror(load_onnx(tiny_bundle, precision), tiny_bundle.precision(precision))
    tail = mirror._tail
    assert tail._pool is not None
    assert tail._last is not None
    whole = Tail(tail.program.steps, tail._entries, mirror.entry.logits, tail.program.constants, whole=True)
    tap = mirror.dequantize(mirror.entry.tap, mirror.forward(images(tiny_bundle, 5)).tap)
    targets = torch.tensor([0, 3, 3, 9, 5])
    short, long = (each.gradient(tap.clone(), targets, {}, lambda value: value) for each in (tail, whole))
    assert short.shape == long.shape == tap.shape
    torch.testing.assert_close(short, long, rtol=1e-6, atol=0)
    assert short.stride()[2:] == (0, 0)
    assert long.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_squeezenets_class_map_is_computed_for_one_class_alone(seeded_bundle, precision):
    bundle = seeded_bundle("squeezenet1_1")
    mirror = Mirror(load_onnx(bundle, precision), bundle.precision(precision))
    tail = mirror._tail
    assert tail._pool is None  # a convolution comes first
    assert tail._last is not None
    whole = Tail(tail.program.steps, tail._entries, mirror.entry.logits, tail.program.constants, whole=True)
    outputs = mirror.forward(images(bundle))
    tap = mirror.dequantize(mirror.entry.tap, outputs.tap)
    targets = outputs.logits.argmax(1)
    short, long = (each.gradient(tap.clone(), targets, {}, lambda value: value) for each in (tail, whole))
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-9)
    assert long.abs().sum() > 0


def test_a_mirror_of_the_tail_alone_gives_the_same_gradient_and_reads_no_other_weights(tiny_bundle):
    model, entry = load_onnx(tiny_bundle, "int8"), tiny_bundle.precision("int8")
    whole, tail = Mirror(model, entry), Mirror(model, entry, tail_only=True)
    tap = whole.dequantize(entry.tap, whole.forward(images(tiny_bundle, 3)).tap)
    targets = torch.tensor([1, 2, 3])
    assert torch.equal(tail.gradient(tap, targets), whole.gradient(tap, targets))
    assert not hasattr(tail, "_forward")
    assert isinstance(tail._tail.program, Program)
    assert len(tail._tail.program.constants) < len(whole._forward.constants)


@pytest.mark.parametrize("precision", ["f32", "int16", "int8"])
def test_a_gradient_does_not_depend_on_batch_order_or_threads(tiny_bundle, precision):
    mirror = Mirror(load_onnx(tiny_bundle, precision), tiny_bundle.precision(precision), tail_only=True)
    tap = mirror.dequantize(
        mirror.entry.tap, Mirror(load_onnx(tiny_bundle, precision), mirror.entry).forward(images(tiny_bundle, 7)).tap
    )
    targets = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    together = mirror.gradient(tap, targets)
    apart = torch.cat([mirror.gradient(tap[index : index + 1], targets[index : index + 1]) for index in range(7)])
    swapped = mirror.gradient(tap.flip(0), targets.flip(0)).flip(0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = mirror.gradient(tap, targets)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, apart)
    assert torch.equal(together, swapped)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("arithmetic", ["fake_quant", "integer"])
def test_a_forward_does_not_depend_on_the_callers_mode(tiny_bundle, arithmetic):
    mirror = Mirror(load_onnx(tiny_bundle, "int8"), tiny_bundle.precision("int8"), arithmetic=arithmetic)
    plain = mirror.forward(images(tiny_bundle, 9))
    with torch.inference_mode():
        given = images(tiny_bundle, 9)
        inside = mirror.forward(given)
    assert torch.equal(plain.logits, inside.logits)
    assert not inside.logits.is_inference()


def test_codes_in_the_place_of_others_have_their_type_and_shape(tiny_bundle):
    mirror = Mirror(load_onnx(tiny_bundle, "int8"), tiny_bundle.precision("int8"), arithmetic="integer")
    tap = tiny_bundle.precision("int8").tap.output
    for other in (lambda codes: codes.float(), lambda codes: codes[:1]):
        with pytest.raises(UnsupportedGraphError, match=f"in the place of {tap} must be torch.uint8"):
            mirror.forward(images(tiny_bundle), lambda name, codes, other=other: other(codes) if name == tap else None)
