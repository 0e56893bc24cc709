"""What a worker takes is estimated from files, and what is kept open follows from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import workers
from onnx import TensorProto, helper, numpy_helper

from qcam.evaluate.run import memory
from qcam.evaluate.run.memory import BASE, ROOM, Arrangement, Part, Shape, _shape, arranged, parts_of
from qcam.evaluate.run.options import StudyOptions
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.mirror import products_of_codes

GB = 1_000_000_000


def part(model: str, kept: float, turn: float, running: tuple[float, float] = (0, 0), building: float = 0) -> Part:
    """Give gigabytes."""
    return Part(model, "f32", int(kept * GB), (int(running[0] * GB), int(running[1] * GB)), int(building * GB), int(turn * GB))


def test_everything_is_kept_where_it_fits_or_nobody_asks():
    parts = [part("a", 0.5, 0.8, (0.1, 0.2)), part("b", 0.6, 0.9, (0.3, 0.1), 0.4)]
    # Kept: 1.1; besides, either the largest arena and PyTorch's largest share, or building.
    assert arranged(parts, ROOM) == Arrangement(BASE + 1_600_000_000)
    assert arranged([*parts, part("c", 9, 9)], None) == Arrangement(BASE + 10_600_000_000)


def test_the_smallest_are_kept_and_the_others_take_turns():
    parts = [part("large", 3, 1.5), part("small", 0.1, 0.2, (0.1, 0)), part("middle", 1.2, 0.7)]
    found = arranged(parts, BASE + 2 * GB)
    assert found.apart == {("large", "f32"), ("middle", "f32")}
    assert found.all_bytes == BASE + 1_700_000_000  # kept 0.1, its arena, the turn of the largest


def test_what_one_takes_at_its_turn_it_takes_whatever_the_room():
    found = arranged([part("a", 3, 1.5), part("b", 1, 0.5)], 0)
    assert len(found.apart) == 2
    assert found.all_bytes == BASE + 1_500_000_000


def test_a_network_is_measured_from_its_file(tmp_path):
    """Two layers by hand: 3×4 and 4×5 weights, the tap between them; activations alive at a time: 4 and 5 numbers."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["m"]),
            helper.make_node("Relu", ["m"], ["tap"]),
            helper.make_node("MatMul", ["tap", "b"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.ones((3, 4), np.float32), "a"), numpy_helper.from_array(np.ones((4, 5), np.float32), "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    assert _shape(tmp_path / "m.onnx", "tap", "y") == Shape(
        weights=4 * 32, tail=4 * 20, products=0, largest=4 * 20, activations=4 * 9, layers=1
    )


def layers(quantized):
    """Return x → tap → Gemm of 4×6 → Relu → Gemm of 6×5, with the weights of the first as floats or as codes."""
    held = [numpy_helper.from_array(np.ones((6, 5), np.float32), "b")]
    nodes = [helper.make_node("Relu", ["x"], ["tap"])]
    if quantized:
        held += [numpy_helper.from_array(np.ones((4, 6), np.int8), "q"), numpy_helper.from_array(np.float32(1), "scale")]
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale"], ["a"]))
    else:
        held.append(numpy_helper.from_array(np.ones((4, 6), np.float32), "a"))
    nodes += [
        helper.make_node("Gemm", ["tap", "a"], ["m"]),
        helper.make_node("Relu", ["m"], ["n"]),
        helper.make_node("Gemm", ["n", "b"], ["y"]),
        helper.make_node("Gemm", ["tap", "n"], ["of activations"], transA=1),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    logits = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])]
    return helper.make_model(
        helper.make_graph(nodes, "graph", given, logits, held), opset_imports=[helper.make_opsetid("", 17)]
    )


@pytest.mark.parametrize("quantized", [False, True])
def test_large_layers_of_the_tail_are_known_from_floats_and_from_codes(quantized, tmp_path, monkeypatch):
    assert memory._AS_CODES == products_of_codes.LARGE
    onnx.save(layers(quantized), tmp_path / "m.onnx")
    for least, found in ((24, 4 * (24 + 30)), (25, 4 * 30), (31, 0)):
        monkeypatch.setattr(memory, "_AS_CODES", least)
        _shape.cache_clear()
        assert _shape(tmp_path / "m.onnx", "tap", "y").products == found
    _shape.cache_clear()


def test_the_file_counts_as_long_as_the_mirror_is_built(tiny_bundle, monkeypatch):
    """By hand: a float session keeps 1.1 times its weights; a mirror its weights, an int8 one codes of large layers as well."""
    monkeypatch.setattr(memory, "_shape_of", lambda _: Shape(100_000, 60_000, 40_000, 30_000, 0))
    sizes = {"f32": 100_000, "int16": 50_000, "int8": 25_000}
    monkeypatch.setattr(memory, "_size", lambda _, file, __: sizes[file.removesuffix(".onnx")])
    bundle = replace(tiny_bundle, precisions=tuple(replace(e, file=f"{e.name}.onnx") for e in tiny_bundle.precisions))
    options = StudyOptions(())
    f32, int16, int8 = parts_of([bundle], [list(sizes)], options)
    assert [part.kept for part in (f32, int16, int8)] == [110_000 + 100_000, 150_000 + 100_000, 25_000 + 100_000 + 10_000]
    # The file, its codes once more, the largest weight 1.2 times.
    assert [part.building for part in (f32, int16, int8)] == [100_000 + 36_000, 100_000 + 36_000, 50_000 + 36_000]
    assert int8.turn == 110_000 + 86_000
    tails = parts_of([bundle], [["f32", "int8"]], replace(options, fake_quant=False))
    assert [part.kept for part in tails] == [110_000 + 60_000, 25_000 + 60_000 + 10_000]
    monkeypatch.setattr(memory, "_shape_of", lambda _: Shape(100_000, 60_000, 40_000, 30_000, 0, layers=2))
    second = parts_of([bundle], [list(sizes)], options)  # a tail of several layers, once more as the kernels compute it
    assert [part.kept for part in second] == [f32.kept, int16.kept, int8.kept + 75_000]


def test_the_simulation_and_larger_batches_take_more(tiny_bundle):
    options = StudyOptions((), SessionSettings())
    names = [["f32", "int8"]]
    whole, bare, larger = (
        parts_of([tiny_bundle], names, each)
        for each in (options, replace(options, fake_quant=False), replace(options, batch_size=64))
    )
    assert [each.precision for each in whole] == names[0]
    for mine, less, more in zip(whole, bare, larger, strict=True):
        assert less.kept < mine.kept == more.kept
        assert less.running[1] == 0 < mine.running[1]
        assert more.running == (8 * mine.running[0], 8 * mine.running[1])


def test_a_file_that_cannot_be_read_counts_by_its_size_and_is_refused_later(tiny_bundle, tmp_path):
    broken = replace(tiny_bundle, folder=tmp_path)
    for entry in tiny_bundle.precisions:
        (tmp_path / entry.file).write_bytes(b"no ONNX file" * 1000)
    (found,) = parts_of([broken], [["f32"]], StudyOptions(()))
    assert found.kept >= 2 * 12_000


@pytest.mark.parametrize("way", ["kept", "turns"])
def test_the_estimate_is_near_what_a_worker_takes(tiny_bundle, some_photographs, tmp_path, way):
    """Of a tiny network, hardly more than the libraries; benchmarks/workers.py holds large ones against it."""
    told = workers.measure(way, some_photographs, tmp_path / "out", True, (tiny_bundle.folder,), None)
    assert 0.6 < told["estimated_mib"] / told["peak_mib"] < 1.4
