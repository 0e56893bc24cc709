import pytest

from qcam.evaluate.check.words import share, some


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (1.0, "100 %"), (1 - 1e-12, "99.999999 %"), (0.99995, "99.995000 %"), (0.5, "50.00 %"), (0.0, "0.00 %")],
)
def test_a_share_is_never_rounded_up_to_all(value, text):
    assert share(value) == text


def test_three_names_stand_for_many():
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
