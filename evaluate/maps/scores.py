"""What class scores say: the class chosen, its probability, and which score is explained. One output is a score by itself.

A network of one output says one of two things, by the side of 0 that its score is on: class 0 below, class 1 above. There is
one logit to explain, whatever it says; its name is class 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def top_classes(logits: NDArray[Any]) -> NDArray[np.int64]:
    """Return each image's class of the largest score; of one output the side of 0 that it is on.

    Args:
        logits: batch × outputs.

    Returns:
        int64, batch.

    >>> top_classes(np.float32([[0.1, 0.3, 0.2]])), top_classes(np.float32([[-0.5], [2.0]]))
    (array([1]), array([0, 1]))
    """
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    classes: NDArray[np.int64] = logits.argmax(axis=1).astype(np.int64)
    return classes


def explained_classes(classes: NDArray[np.int64], outputs: int) -> NDArray[np.int64]:
    """Return the classes that are explained where these are asked for: of one output always class 1, whose score it is."""
    return np.ones_like(classes) if outputs == 1 else classes


def columns(classes: NDArray[np.int64], outputs: int) -> NDArray[np.int64]:
    """Return where in the logits the scores of classes stand."""
    return np.zeros_like(classes) if outputs == 1 else classes


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return softmax probabilities; of one output the sigmoid's, for class 0 and class 1.

    Args:
        logits: batch × outputs.

    Returns:
        float64, batch × classes.
    """
    from scipy.special import softmax

    values = logits.astype(np.float64)
    if values.shape[1] == 1:
        values = np.concatenate((np.zeros_like(values), values), axis=1)  # the softmax of 0 and x is the sigmoid of x
    result: NDArray[np.float64] = softmax(values, axis=1)
    return result
