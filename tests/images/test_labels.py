"""Where labels come from: a CSV file, the archive, the folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from archive_writing import picture, tar

from qcam.common.errors import ImageSetError
from qcam.images.labels import with_labels
from qcam.images.listing import find_images
from qcam.images.sources import ImageFile

CLASSES = ("tench", "golden retriever", "crane", "toilet tissue", "crane")


def images(*names: str) -> list[ImageFile]:
    return [ImageFile(name, Path("photos") / name) for name in names]


def labels_of(found: Sequence[ImageFile]) -> list[int | None]:
    return [image.label for image in found]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0/a.jpg", "3/b.jpg", "03/c.jpg"), [0, 3, 3]),
        (("5/a.jpg", "-1/b.jpg", "207/c.jpg"), [None, None, None]),
        (("tench/a.jpg", "golden_retriever/deep/b.jpg", "Golden Retriever/c.jpg"), [0, 1, 1]),
        (("crane/a.jpg", "unheard of/b.jpg", "c.jpg"), [2, None, None]),  # of equal names the first
        (("n4/a.jpg", "n1/b.jpg", "n3/c.jpg", "n2/d.jpg", "n1/e.jpg"), [None] * 5),  # 4 folders, 5 classes
        # As many folders as classes, but some have names: the odd one is no class.
        (
            ("tench/a.jpg", "golden retriever/b.jpg", "crane/c.jpg", "toilet tissue/d.jpg", "more/e.jpg"),
            [0, 1, 2, 3, None],
        ),
        (("n5/a.jpg", "n1/b.jpg", "n3/c.jpg", "n2/d.jpg", "n4/e.jpg", "n1/f.jpg", "g.jpg"), [4, 0, 2, 1, 3, 0, None]),
    ],
    ids=["index", "no-such-index", "name", "equal-names", "too-few-for-order", "names-before-order", "order"],
)
def test_class_folders_are_recognised(names: tuple[str, ...], expected: list[int | None]) -> None:
    found = with_labels(images(*names), CLASSES, None)
    assert labels_of(found) == expected
    assert [(image.name, image.path) for image in found] == [(image.name, image.path) for image in images(*names)]


def test_labels_known_before_stay() -> None:
    known = [ImageFile("a.jpg", Path("a.jpg"), 3), ImageFile("tench/b.jpg", Path("b.jpg"), 3)]
    assert labels_of(with_labels(known, CLASSES, None)) == [3, 0]


@pytest.mark.parametrize(
    "text",
    [
        "image,label\nd/a.jpg,3\nb.jpg,Golden_Retriever\n",
        "\ufefflabel,image,more\r\n3,d/a.jpg,x\r\ngolden retriever, b.jpg ,y\r\n",
        'image,label\n"d/a.jpg","3"\n"b.jpg","1"\nnot-here.jpg,0\n\n',
    ],
    ids=["plain", "bom-crlf-other-order", "quotes-and-blank-line"],
)
def test_a_csv_gives_labels(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert labels_of(with_labels(images("d/a.jpg", "b.jpg", "c.jpg", "tench/d.jpg"), CLASSES, path)) == [
        3,
        1,
        None,
        None,
    ]


def test_a_csv_may_name_files_without_their_folder_but_the_full_name_counts_first(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,label\na.jpg,0\nx/a.jpg,1\n")
    assert labels_of(with_labels(images("x/a.jpg", "y/a.jpg"), CLASSES, path)) == [1, 0]


def test_a_csv_row_that_ends_early_labels_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("label,image\n1\n0,a.jpg\n")
    assert labels_of(with_labels(images("a.jpg"), CLASSES, path)) == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.jpg,1\n", "needs a header line with the columns image and label"),
        (b"image;label\na.jpg;1\n", "needs a header line"),
        (b"", "needs a header line"),
        (b"image,label\na.jpg,unheard of\n", r"class 'unheard of' of a\.jpg is none of the model's 5 classes"),
        (b"image,label\na.jpg,5\n", r"class '5' of a\.jpg is none of"),
        (b"image,label\na.jpg\n", r"class '' of a\.jpg is none of"),
        (b"\xff\xfe\x00", "cannot read labels from"),
        (b"image,label\na.jpg," + b"x" * 200_000 + b"\n", "cannot read labels from"),
    ],
    ids=["column", "semicolons", "empty", "name", "index", "short-row", "not-utf-8", "field-too-long"],
)
def test_a_bad_csv_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(ImageSetError, match=message) as raised:
        with_labels(images("a.jpg"), CLASSES, path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_csv_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageSetError, match="cannot read labels from"):
        with_labels(images("a.jpg"), CLASSES, tmp_path / name)


# ---- images in archives

THREE = ("tench", "goldfish", "shark")


@pytest.fixture
def labelled(tmp_path: Path) -> list[ImageFile]:
    (tmp_path / "x-0.tar").write_bytes(tar([("a.png", picture(0)), ("a.cls", b"2"), ("b.png", picture(1))]))
    (tmp_path / "x-1.tar").write_bytes(tar([("1/c.png", picture(2)), ("1/d.png", picture(3)), ("1/d.cls", b"0")]))
    (tmp_path / "x-2.tar").write_bytes(tar([("goldfish/e.png", picture(4)), ("odd/f.png", picture(5)), ("odd/f.cls", b"2")]))
    return find_images(tmp_path)


def test_archives_are_no_class_folders_and_their_labels_count_first(labelled: list[ImageFile]) -> None:
    # As many archives as classes: by their order they would be classes, were they folders.
    assert labels_of(with_labels(labelled, THREE, None)) == [2, None, 1, 0, 1, 2]


def test_folders_in_archives_are_classes_by_their_order(tmp_path: Path) -> None:
    for shard in range(2):
        (tmp_path / f"{shard}.tar").write_bytes(tar([(f"{folder}/{shard}.png", picture(0)) for folder in ("n3", "n1", "n2")]))
    assert labels_of(with_labels(find_images(tmp_path), THREE, None)) == [2, 0, 1, 2, 0, 1]


def test_archives_in_class_folders_hold_that_class(tmp_path: Path) -> None:
    for name in ("shark", "tench"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tar").write_bytes(tar([("a.png", picture(0))]))
    assert labels_of(with_labels(find_images(tmp_path), THREE, None)) == [2, 0]


def test_a_csv_counts_before_the_archive_where_it_names_an_image(labelled: list[ImageFile], tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,label\nx-0.tar/a.png,0\nf.png,1\nc.png,shark\n")
    assert labels_of(with_labels(labelled, THREE, path)) == [0, None, 2, 0, None, 1]


@pytest.mark.usefixtures("on_terminal")
def test_labels_of_other_classes_count_as_none(labelled: list[ImageFile], capsys: pytest.CaptureFixture[str]) -> None:
    assert labels_of(with_labels(labelled, THREE[:2], None)) == [None, None, 1, 0, 1, None]
    assert "2 images have labels that are none of the model's 2 classes" in capsys.readouterr().err
