"""Numbers and names as they enter."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from qcam.common import arguments
from qcam.common.errors import QcamError


def test_examples_hold() -> None:
    tried = doctest.testmod(arguments)
    assert tried.attempted > 3
    assert tried.failed == 0


def test_numbers_of_numpy_become_pythons_own() -> None:
    assert type(arguments.whole(np.int64(3), "n")) is int
    assert type(arguments.real(np.float32(0.5), "n")) is float


@pytest.mark.parametrize("value", [None, "1", 1.0, True, np.bool_(True), -1, float("nan"), [1]])
def test_what_is_no_whole_number_is_refused(value) -> None:
    with pytest.raises(QcamError, match=r"n .*: give a whole number, 0 or more"):
        arguments.whole(value, "n", least=0)


def test_a_long_value_is_told_in_one_line() -> None:
    with pytest.raises(QcamError) as raised:
        arguments.real("x\n" * 10_000, "n")
    assert len(str(raised.value)) < 80
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["device_id=1", ["device_id"], {1: "x"}, {"device_id": 1}, 7])
def test_what_maps_no_text_to_text_is_refused(value) -> None:
    with pytest.raises(QcamError, match=r"^provider_options .*: give a mapping of text to text$"):
        arguments.texts(value, "{provider_option}")
