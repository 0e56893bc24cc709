"""One file to write: what a tool's script is given. Standard library and numpy only; the rest is the tool's environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Job:
    """A file that a variant of a tool has to write.

    Attributes:
        model: The float network, ONNX: one float32 input N × 3 × H × W, one output of logits.
        pictures: Calibration pictures, normalised, float32, N × 3 × H × W.
        output: The quantized file to write.
    """

    model: Path
    pictures: NDArray[np.float32]
    output: Path

    @property
    def input_name(self) -> str:
        """Return the name of the network's input."""
        import onnx

        graph = onnx.load(str(self.model), load_external_data=False).graph
        return str(graph.input[0].name)

    def feeds(self) -> list[dict[str, Any]]:
        """Return the pictures one by one, as ONNX Runtime takes them."""
        name = self.input_name
        return [{name: self.pictures[i : i + 1]} for i in range(len(self.pictures))]


class Reader:
    """Hands out the pictures one by one, as the quantizers of ONNX Runtime's family ask for them."""

    def __init__(self, job: Job) -> None:
        """Start with the first picture."""
        self._feeds = job.feeds()
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        """Return the next picture, None behind the last."""
        return next(self._iterator, None)

    def rewind(self) -> None:
        """Go back to the first picture."""
        self._iterator = iter(self._feeds)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._feeds)
