"""Bytes that come as a CSV file of labels, beside image sets of all kinds: every image gets its class, or a line why not."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from fuzz.harness import Broken, scratch
from fuzz.reader import Reader, with_decisions
from qcam.common.vocabulary import LabelFormat, words
from qcam.images.account import Account
from qcam.images.labels import label_images
from qcam.images.sources import ImageFile, Span

COVERED = ("qcam.images.labels", "qcam.images.label_rows", "qcam.images.names")
_CLASSES = (
    ("tench", "goldfish", "crane", "crane", "Café au lait"), ("cat", "dog"), ("0", "1", "2"), ("a", "A", " a "), ("1", "01",
    "x"),
    ("é", "e\u0301", ""), tuple(f"class {index}" for index in range(10)), ("n01440764", "tench"),
)  # fmt: skip
_NAMES = (
    "a.jpg",
    "b/a.jpg",
    "tench/a.jpg",
    "train/cat/1.png",
    "val/0/2.png",
    "x/y/z.jpg",
    "0/a.jpg",
    "01/a.jpg",
    "é.jpg",
    "n01440764/1.JPEG",
    "a\\b.jpg",
)
_WORDS = (
    None,
    "",
    "-1",
    "tench",
    "cat",
    "0",
    "1",
    "01",
    "1.0",
    "n01440764",
    "9" * 40,
    "²",
    "é",
    "\x00",
    "1e3",
    "tench, Tinca tinca",
)


def one(data: bytes) -> None:
    """Label one image set."""
    reader = Reader(data)
    classes = reader.pick(*_CLASSES)
    form = reader.pick(*words(LabelFormat))
    listed = reader.pick((), ("cat", "dog"), classes, ("tench, Tinca tinca", "n01440764"))
    images = []
    for place in range(reader.integer(0, 6)):
        name = reader.pick(*_NAMES) if reader.integer(0, 3) else f"{place}.jpg"
        label, stated = reader.pick(None, None, 0, 1, 2, 10**6, -1), reader.pick(*_WORDS) if reader.integer(0, 3) == 0 else None
        archived = reader.yes()
        images.append(
            ImageFile(name, Span(Path("x.tar"), 0, 0) if archived else Path(name), label, stated, listed if archived else ())
        )
    images = list({image.name: image for image in images}.values())
    text = reader.rest()
    path = None
    if text[:1] != b"\x00":  # no file of labels
        path = scratch() / "labels.csv"
        path.write_bytes(text)
    found = label_images(images, classes, path, form)
    if [image.name for image in found.images] != [image.name for image in images]:
        raise Broken("labelling keeps images and their order")
    if any(image.label is not None and not 0 <= image.label < len(classes) for image in found.images):
        raise Broken("a label is a class of the model")
    account = Account()
    found.tell(account)
    str(account)


def seeds() -> Iterator[bytes]:
    """Yield files of labels as people write them, beside several image sets."""
    texts = (
        b"image,label\na.jpg,tench\nb/a.jpg,crane\n", b"image;label;split\n1.jpg;0;val\n0.jpg;1;val\n",
        b"sep=;\nimage;label\n0.jpg;cat\n",
        b"label\timage\ndog\t2.jpg\n", b'"image","label"\r\n"0.jpg","n01440764"\r\n',
        codecs.BOM_UTF8 + "image,label\né.jpg,é\n".encode(),
        "image,label\n0.jpg,1.0\n1.jpg,-1\n".encode("utf-16"), b"image,label\n", b"", b"\0",
    )  # fmt: skip
    for number, text in enumerate(texts):
        for form in range(5):
            yield with_decisions(text, number % len(_CLASSES), form, number % 4, 5, *([1, number, 0, 0, 1] * 5))
            yield with_decisions(text, form, 0, 0, 6, *([0] * 30))
