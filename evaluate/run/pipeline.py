"""Three stages that overlap: items are loaded ahead and finished behind while one runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Ran = TypeVar("Ran")
Finished = TypeVar("Finished")

#: Items that may wait in front of the run, and behind it: what bounds the memory.
AHEAD = 2


def overlapped(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    run: Callable[[Loaded], Ran],
    finish: Callable[[Ran], Finished],
) -> Generator[Finished, None, None]:
    """Load, run and finish items in their order; only `run` is called in the caller's thread.

    Loading and finishing each have one thread of their own, so that every stage sees the items one by one, in order, whatever
    the overlap: results do not depend on it. What any stage raises, the caller gets; nothing is started any more then, and
    what is under way is waited for.

    Args:
        items: Read as far ahead as `AHEAD`.
        load: Item → what runs.
        run: Runs it.
        finish: Makes the result of it.

    Yields:
        The results, in the order of the items.
    """
    source = iter(items)
    loading: deque[Future[Loaded]] = deque()
    finishing: deque[Future[Finished]] = deque()
    with ThreadPoolExecutor(1, "load") as loader, ThreadPoolExecutor(1, "finish") as finisher:
        try:
            loading.extend(loader.submit(load, item) for item in islice(source, AHEAD))
            while loading:
                loaded = loading.popleft().result()
                loading.extend(loader.submit(load, item) for item in islice(source, 1))
                finishing.append(finisher.submit(finish, run(loaded)))
                while finishing and (len(finishing) > AHEAD or finishing[0].done()):
                    yield finishing.popleft().result()
            while finishing:
                yield finishing.popleft().result()
        finally:
            for waiting in loading:
                waiting.cancel()
            for unfinished in finishing:
                unfinished.cancel()
