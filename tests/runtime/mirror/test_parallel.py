"""Parts of a batch by several threads: all are done, once each, by threads that compute alone; the caller keeps its own."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from qcam.runtime.mirror.parallel import PART, across, parts_of

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 5, 16, 1000])
@pytest.mark.parametrize("size", [1, 3000, PART // 3, 5 * PART])
def test_parts_cover_a_batch_and_fit(threads, count, size):
    parts = parts_of(count, size, CPU)
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    lengths = [len(range(count)[part]) for part in parts]
    assert all(length == 1 or length * size <= PART for length in lengths)
    if size > 2**14:
        assert len(parts) >= min(threads, count)  # there is work for all


def test_every_part_is_done_once_and_alone(threads):
    parts, done, alone = parts_of(40, PART // 4, CPU), torch.zeros(40), []

    def work(part):
        done[part] += 1
        alone.append((torch.get_num_threads(), torch.is_grad_enabled(), threading.current_thread().name))

    across(parts, work)
    assert done.tolist() == [1] * 40
    assert not any(gradients for _, gradients, _ in alone)
    if threads > 1:
        assert {count for count, _, _ in alone} == {1}
        assert all(name.startswith("qcam-mirror") for _, _, name in alone)
    assert torch.get_num_threads() == threads
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [threads]  # a thread that begins later has what the caller has


def test_what_a_part_raises_is_raised(threads):
    def work(part):
        if part.start:
            raise ValueError(f"part {part.start}")

    with pytest.raises(ValueError, match="part "):
        across([slice(0, 1), slice(1, 2), slice(2, 3)], work)


def test_nothing_is_worked_on_after_something_was_raised(threads):
    begun = []

    def work(part):
        begun.append(part.start)
        time.sleep(0.02)
        if part.start == 0:
            raise ValueError("the first part")

    with pytest.raises(ValueError, match="the first part"):
        across([slice(begin, begin + 1) for begin in range(50)], work)
    there = len(begun)
    assert there <= 2 * threads
    time.sleep(0.1)
    assert len(begun) == there
