import threading

import pytest

from qcam.common.errors import ImageSetError
from qcam.evaluate.check.batches import batches, one_ahead
from qcam.images.embedded import evaluation_photographs
from qcam.images.sources import ImageFile


def test_the_next_item_is_made_while_one_is_used_and_no_further_one():
    made = [threading.Event() for _ in range(4)]

    def items():
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in one_ahead(items()):
        if number + 1 < len(made):
            assert made[number + 1].wait(10)
        assert not any(event.is_set() for event in made[number + 2 :])


def test_what_making_an_item_raises_comes_in_its_place():
    def items():
        yield 1
        raise ImageSetError("gone")

    found = one_ahead(items())
    assert next(found) == 1
    with pytest.raises(ImageSetError, match="gone"):
        next(found)


def test_photographs_that_cannot_be_read_are_named_and_left_out(tiny_bundle, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    broken = ImageFile("broken.jpg", tmp_path / "broken.jpg")
    refused = {}
    found = list(batches([evaluation_photographs()[0], broken, broken], tiny_bundle, 2, refused))
    assert [names for names, _ in found] == [[evaluation_photographs()[0].name]]
    assert list(refused) == ["broken.jpg"]
    with pytest.raises(ImageSetError, match=r"not one of 1 image could be read \(broken.jpg: "):
        list(batches([broken], tiny_bundle, 2, {}))
