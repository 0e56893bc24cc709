"""Compiled loops give what PyTorch's operators give, bit for bit, and nothing depends on them but time."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from qcam.runtime.codes import Codes
from qcam.runtime.mirror import compiled
from qcam.runtime.mirror.fused import FakeQuantize
from qcam.runtime.mirror.integer.kernel import requantize, requantize_sums

#: Sums that an int32 accumulator can hold as float32, ties and both signs of nothing among them.
SUMS = [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 254.5, 255.5, -128.5, 2.0**24, -(2.0**31), 2.0**31]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("zero", [0, 3, 127])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 4), (1, 64, 9, 9)])
def test_sums_become_the_codes_of_the_plain_formula(dtype, zero, shape, with_loops):
    numbers = torch.Generator().manual_seed(0)
    output = Codes("y", np.float32(1), dtype(zero), 0)
    for spread in (1.0, 100.0, 1e6, 3e9):
        sums = torch.randn(shape, generator=numbers).mul_(spread).round_()
        sums.view(-1)[: len(SUMS)] = torch.tensor(SUMS)[: sums.numel()]
        sums = sums.contiguous(memory_format=torch.channels_last)
        for multiplier in (torch.ones(shape[1]), torch.rand(shape[1], generator=numbers).add_(1e-3)):
            wanted = requantize(sums * multiplier.reshape(-1, 1, 1), output)
            into = torch.empty_like(wanted, memory_format=torch.channels_last)
            requantize_sums(sums.clone(memory_format=torch.preserve_format), multiplier, output, into)
            assert torch.equal(into, wanted)


@pytest.mark.parametrize("threads", [1, 2])
def test_quantized_values_are_the_same_bits(threads):
    """Ties, both signs of nothing, infinity and what is no number included, whatever the threads."""
    codes = Codes("x", np.asarray(0.1, np.float32), np.asarray(3, np.uint8), 1)
    special = torch.tensor([0.05, 0.15, 0.25, -0.05, 0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, -1e-45, 3e38])
    x = torch.cat([special, torch.randn(2**20 + 3, generator=torch.Generator().manual_seed(0)) * 20])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = FakeQuantize(codes, torch.device("cpu"))(x)
    finally:
        torch.set_num_threads(before)
    steps = (x / torch.tensor(np.float32(0.1))).clamp(-3, 252).round() * torch.tensor(np.float32(0.1))
    assert torch.equal(found.view(torch.int32)[~x.isnan()], steps.view(torch.int32)[~x.isnan()])
    assert found[x.isnan()].isnan().all()


@pytest.mark.parametrize("why", ["switched off", "not installed"])
def test_without_numba_the_mirror_computes_the_same(why, tiny_bundle, tmp_path):
    program = """
import sys
if sys.argv[2] == "not installed":
    sys.modules["numba"] = None
import numpy as np, qcam
from qcam.runtime.bundle import load_onnx
from qcam.runtime.mirror import Mirror, compiled
bundle = qcam.load_bundle(sys.argv[1])
images = np.random.default_rng(0).normal(size=(2, 3, *bundle.preprocessing.crop)).astype(np.float32)
found = [
    Mirror(load_onnx(bundle, "int8"), bundle.precision("int8"), arithmetic=arithmetic).forward(images)
    for arithmetic in ("integer", "fake_quant")
]
np.savez(sys.argv[3], *[value.numpy() for each in found for value in (each.logits, each.tap)])
print("compiled" if compiled.loops() else "plain")
"""
    said = []
    for name, off in (("with", ""), ("without", why)):
        environment = dict(os.environ) | ({"NUMBA_DISABLE_JIT": "1"} if off == "switched off" else {})
        run = subprocess.run(
            [sys.executable, "-c", program, str(tiny_bundle.folder), off, str(tmp_path / f"{name}.npz")],
            env=environment, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        said.append(run.stdout.strip())
    assert said == ["compiled", "plain"]
    one, other = (np.load(tmp_path / f"{name}.npz") for name in ("with", "without"))
    assert one.files == other.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])


def test_loops_that_cannot_be_kept_are_compiled_all_the_same(tmp_path):
    """Neither beside the file nor in the user's cache: a place that nothing can be written to."""
    program = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
from qcam.runtime.mirror import compiled
print(compiled.loops() is not None)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert run.stdout.strip() == "True"


def test_a_numba_that_fails_is_done_without(monkeypatch):
    def broken(_numba):
        raise OSError("LLVM is not what it was")

    monkeypatch.setattr(compiled, "_compiled", broken)
    with pytest.warns(RuntimeWarning, match="numba does not work here .OSError: LLVM is not what it was.: mirrors compute the"):
        assert compiled.loops.__wrapped__() is None


def test_a_second_process_finds_all_that_a_first_one_compiled_and_damaged_files_do_not_matter(tmp_path):
    program = "from qcam.runtime.mirror import compiled; print(compiled.loops() is not None)"
    environment = dict(os.environ) | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def kept():
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=300, check=True,
            env=environment,
        )  # fmt: skip
        assert run.stdout.strip() == "True"
        return {path: path.read_bytes() for path in tmp_path.rglob("*.nb?")}

    first = kept()
    assert len(first) > 8
    assert kept() == first
    for number, path in enumerate(sorted(first)):
        path.write_bytes(first[path][: len(first[path]) // 2 * (number % 2)])
    kept()


def test_only_bytes_on_the_cpu_are_worked_on():
    assert compiled.loops_for(torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int8)) is compiled.loops()
    assert compiled.loops_for(torch.zeros(1)) is None
    assert compiled.loops_for(torch.zeros(1, dtype=torch.uint8, device="meta")) is None
