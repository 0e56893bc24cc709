"""Photographs become batches of a bundle's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qcam.common.counted import counted
from qcam.common.errors import ImageSetError
from qcam.images.decoding import decode
from qcam.images.sources import ImageFile
from qcam.runtime.bundle import Bundle

Item = TypeVar("Item")


def batches(
    photographs: Sequence[ImageFile],
    bundle: Bundle,
    size: int,
    refused: dict[str, str],
    hashes: dict[str, str] | None = None,
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Read, crop and normalise photographs.

    Args:
        photographs: The photographs.
        bundle: Whose preprocessing is taken.
        size: Photographs at a time.
        refused: Name → why it cannot be read; grows.
        hashes: Name → SHA-256 of the file of those that can; grows.

    Yields:
        Names, and float32, batch × 3 × height × width; photographs that cannot be read are left out.

    Raises:
        ImageSetError: If not one can be read.
    """
    readable = False
    for start in range(0, len(photographs), size):
        names, crops = [], []
        for photograph in photographs[start : start + size]:
            decoded = decode(photograph.path)
            if decoded.image is None:
                refused[photograph.name] = decoded.refusal
                continue
            names.append(photograph.name)
            if hashes is not None:
                hashes[photograph.name] = decoded.sha256
            crops.append(bundle.preprocessing.crop_image(decoded.image))
        if names:
            readable = True
            yield names, bundle.preprocessing.normalise(np.stack(crops))
    if not readable:
        name, reason = next(iter(refused.items()))
        every = counted(len(photographs), "image")
        raise ImageSetError(f"not one of {every} could be read ({name}: {reason}); nothing was compared")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items in their order, each made in a thread of its own while the one before it is at work.

    Args:
        items: None of them None. What making one raises, the caller gets in its place.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "batches") as maker:
        waiting = maker.submit(next, iterator, None)
        while (item := waiting.result()) is not None:
            waiting = maker.submit(next, iterator, None)
            yield item
