from qcam.evaluate.check.words import some


def test_three_names_stand_for_many():
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
