from types import SimpleNamespace

from qcam.evaluate.report.answer import answers
from qcam.evaluate.results.records import Flip, NonInferiority, Spread


def summary(model, *, worst=0.01, below=18, p=0.001, above=1.0, precision="int8", tested=True, undefined=0):
    drift = Spread(model, precision, "vs_f32", 20, 0.002, 0.001, 0.003, worst, f"{model}.jpg")
    test = NonInferiority(
        model=model, precision=precision, reference="jpeg95", n=20, below=below, median=-0.1, p=p, p_holm=p, p_above=above,
        p_above_holm=above,
    )  # fmt: skip
    entry = SimpleNamespace(
        model=model, precision=precision, comparison="vs_f32", metric="CC", mean=0.9973, undefined=undefined
    )
    flips = [Flip(model, precision, 1, 19)]
    return SimpleNamespace(drift=[drift], non_inferiority=[test] if tested else [], flips=flips, entries=[entry])


def test_one_model_is_answered_in_a_sentence_and_few_images_are_called_so():
    first, last = answers([("net", "net", summary("net"))])
    assert first == (
        "Yes: int8 keeps the maps. It moves them less than JPEG 95 does on 18 of 20 images; mean CC 0.997, worst image 0.990 "
        "(net.jpg); top-1 class changed in 1 of 20."
    )
    assert last == "20 images are too few for a claim about accuracy."


def test_a_single_image_is_one_image():
    one = summary("net")
    one.drift = [Spread("net", "int8", "vs_f32", 1, 0.002, 0.001, 0.003, 0.01, "net.jpg")]
    assert answers([("net", "net", one)])[-1] == "1 image is too few for a claim about accuracy."


def test_no_and_undecided_are_said_and_without_a_test_nothing_is_answered():
    no = answers([("net", "net", summary("net", below=2, p=1.0, above=0.0002))])[0]
    assert no.startswith("No: int8 moves the maps more than JPEG 95 does on 18 of 20 images; mean CC 0.997")
    assert answers([("net", "net", summary("net", below=13, p=0.13))])[0].startswith("Undecided: int8 moves the maps less than")
    assert answers([("net", "net", summary("net", tested=False))])[0].startswith("int8 against f32: mean CC 0.997, worst image")


def test_images_without_a_map_are_not_left_out_in_silence():
    line = answers([("net", "net", summary("net", undefined=7))])[0]
    assert line.endswith("top-1 class changed in 1 of 20; 7 more images are without a figure.")


def test_several_models_are_grouped_by_their_answer():
    found = [("a", "a", summary("a")), ("b", "b", summary("b", below=13, p=0.13, worst=0.2)), ("c", "c", summary("c"))]
    line = answers(found)[0]
    assert line.startswith("Does int8 move the maps less than JPEG 95 does? Yes of a, c; undecided of b. Mean CC 0.997 (a) to")
    assert "worst image 0.800 (b.jpg, b); top-1 class changed in 3 of 60." in line


def test_nothing_held_against_f32_has_no_answer():
    assert answers([("net", "net", SimpleNamespace(drift=[]))]) == []
