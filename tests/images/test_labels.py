"""Where labels come from: a CSV file, the archive, the folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_writing import parquet, picture, tar
from labelling import with_labels

from qcam.common.errors import ImageSetError, QcamError
from qcam.common.wording import in_options
from qcam.images import imagenet as imagenet_module
from qcam.images.account import Account
from qcam.images.labels import Labelled, label_images
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
        (("0/a.jpg", "3/b.jpg", "3/c.jpg"), [0, 3, 3]),
        (("5/a.jpg", "-1/b.jpg", "207/c.jpg"), [None, None, None]),
        (("tench/a.jpg", "golden_retriever/deep/b.jpg", "Golden Retriever/c.jpg"), [0, 1, 1]),
        (("toilet-tissue/a.jpg", "unheard of/b.jpg", "c.jpg"), [3, None, None]),
        (("n4/a.jpg", "n1/b.jpg", "n3/c.jpg", "n2/d.jpg", "n1/e.jpg"), [None] * 5),  # 4 folders, 5 classes
        # As many folders as classes, but some have names: the odd one is no class.
        (
            ("tench/a.jpg", "golden retriever/b.jpg", "odd/c.jpg", "toilet tissue/d.jpg", "more/e.jpg"),
            [0, 1, None, 3, None],
        ),
        (("n5/a.jpg", "n1/b.jpg", "n3/c.jpg", "n2/d.jpg", "n4/e.jpg", "n1/f.jpg", "g.jpg"), [4, 0, 2, 1, 3, 0, None]),
    ],
    ids=["index", "no-such-index", "name", "unknown-names", "too-few-for-order", "names-before-order", "order"],
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
        "image,label\nd/a.jpg,Toilet_tissue\nb.jpg,Golden_Retriever\n",
        "\ufefflabel,image,more\r\ntoilet tissue,d/a.jpg,x\r\ngolden retriever, b.jpg ,y\r\n",
        'image,label\n"d/a.jpg","3"\n"b.jpg","1"\nnot-here.jpg,0\n\n',
        "Image, LABEL \nd/a.jpg,3\nb.jpg,1\n",
        "image;label;score\nd/a.jpg;3;0,9\nb.jpg;1;\n",
        "image\tlabel\nd/a.jpg\ttoilet tissue\nb.jpg\tgolden retriever\n",
        "sep=;\r\nimage;label\r\nd/a.jpg;3\r\nb.jpg;1\r\n",
        '\ufeff"sep=,"\nimage,label\nd/a.jpg,3\nb.jpg,1\n',
    ],
    ids=[
        "plain",
        "bom-crlf-other-order",
        "quotes-and-blank-line",
        "case-and-spaces",
        "semicolons",
        "tabs",
        "sep",
        "sep-quoted",
    ],
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
    path.write_text("image,label\na.jpg,0\nx/b.jpg,1\n")
    assert labels_of(with_labels(images("x/b.jpg", "y/x/b.jpg", "y/a.jpg"), CLASSES, path)) == [1, None, 0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_csv_is_read_in_the_encoding_of_its_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image;label\nü.jpg;tench\n", encoding=encoding)
    assert labels_of(with_labels(images("ü.jpg"), CLASSES, path)) == [0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,label\nb.jpg,1\na.jpg,maillot, tank suit\n", r"line 3: 3 values under 2 columns; a value that holds a comma"),
        ("label,image\n1\n0,a.jpg\n", "line 2: 1 value under 2 columns; .* needs quotes around it, and each column a value"),
        ("sep=;\nimage;label\na.jpg;1;2\n", r"line 3: 3 values under 2 columns; a value that holds a semicolon"),
        ("image,label,x,label\na.jpg,1,2,3\n", "its header names the column label 2 times; keep one of them"),
        ("Image,label,image\na.jpg,1,a.jpg\n", "its header names the column image 2 times"),
        ('image,label\na.jpg,"1\nb.jpg,2\n', "cannot read labels from .*: unexpected end of data"),
        ("sep=|\nimage|label\na.jpg|1\n", r"its first line says that '\|' separates values; use a comma"),
        ("image|label\na.jpg|1\n", r"columns image and label; its first line is 'image\|label'"),
        ("image,label,;image;label\n", "its header can be read with a comma or a semicolon between values"),
    ],
    ids=["more", "fewer", "more-behind-sep", "label-twice", "image-twice", "open-quote", "sep-bar", "bars", "two-separators"],
)
def test_a_csv_whose_rows_or_header_do_not_agree_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(rows)
    with pytest.raises(ImageSetError, match=message) as raised:
        with_labels(images("a.jpg", "b.jpg"), CLASSES, path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.jpg,1\n", "needs a header line with the columns image and label"),
        (b"", "needs a header line with the columns image and label; it is empty"),
        (b"image,label\na.jpg,unheard of\n", r"class 'unheard of' of a\.jpg is none of the model's 5 classes"),
        (b"image,label\na.jpg,6\n", r"class '6' of a\.jpg is none of the model's 5 classes, which are 0 to 4 here"),
        (b"image,label\na.jpg,5\n", r"labels go up to 5 and none is 0.*label_format index1"),
        (b"image,label\na.jpg,-2\n", r"class '-2' of a\.jpg is none of"),
        (b"\xff\xfe\x00", "cannot read labels from"),
        ("image,label\na.jpg,1\n".encode("utf-32"), "is written in UTF-32; write it in UTF-8"),
        ("image,label\na.jpg,1\n".encode("utf-16-le"), "as UTF-16 without a byte order mark does; write it in UTF-8"),
        (b"image,label\na.jpg," + b"x" * 200_000 + b"\n", "cannot read labels from"),
    ],
    ids=[
        "column",
        "empty",
        "name",
        "index",
        "from-one",
        "negative",
        "not-utf-8",
        "utf-32",
        "utf-16-unmarked",
        "field-too-long",
    ],
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
    (tmp_path / "x-1.tar").write_bytes(tar([("shark/c.png", picture(2)), ("shark/d.png", picture(3)), ("shark/d.cls", b"0")]))
    (tmp_path / "x-2.tar").write_bytes(tar([("goldfish/e.png", picture(4)), ("odd/f.png", picture(5)), ("odd/f.cls", b"2")]))
    return find_images(tmp_path)


def test_archives_are_no_class_folders_and_their_labels_count_first(labelled: list[ImageFile]) -> None:
    # As many archives as classes: by their order they would be classes, were they folders.
    assert labels_of(with_labels(labelled, THREE, None)) == [2, None, 2, 0, 1, 2]


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
    path.write_text("image,label\nx-0.tar/a.png,tench\nf.png,goldfish\nc.png,shark\n")
    assert labels_of(with_labels(labelled, THREE, path)) == [0, None, 2, 0, None, 1]


def test_labels_of_other_classes_count_as_none(labelled: list[ImageFile]) -> None:
    # 2 is no index of two classes: then the archives were made for others, and 0 is not to be trusted either.
    found = label_images(labelled, THREE[:2], None)
    assert labels_of(found.images) == [None, None, None, None, 1, None]
    assert "3 labels in the archives are no classes here (0, 2)" in told(found)


# ---- situations that people brought

NUMBERS = tuple(map(str, range(12)))
IMAGENET = tuple(f"class number {index}" for index in range(1000))


@pytest.fixture(scope="module")
def imagenet() -> tuple[str, ...]:
    """The names that bundles of ImageNet's models carry."""
    meta = pytest.importorskip("torchvision.models._meta")
    return tuple(meta._IMAGENET_CATEGORIES)


def told(found: Labelled, limit: int | None = None) -> str:
    account = Account()
    found.tell(account, limit)
    (line,) = account.lines
    return in_options(str(line))


def table(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("image,label\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("classes", [NUMBERS, IMAGENET], ids=["classes-called-by-numbers", "others"])
def test_l1_numbers_as_data_frames_write_them(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path = table(tmp_path, "a,1.0", "b,2.0", "c,10.0", "d,-1", "e,", "f,-1.0")
    found = label_images(images(*"abcdef"), classes, path)
    assert labels_of(found.images) == [1, 2, 10, None, None, None]
    assert "3 of 6 images labelled" in told(found)
    assert "3 labels say none (-1 or empty)" in told(found)


def test_l1_a_number_that_is_not_whole_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=r"class '1\.5' of a is none of"):
        with_labels(images("a"), NUMBERS, table(tmp_path, "a,1.5"))


def test_l1_numbers_that_are_names_and_indices_are_refused(tmp_path: Path) -> None:
    from_one = tuple(map(str, range(1, 11)))
    assert labels_of(with_labels(images("a", "b"), from_one, table(tmp_path, "a,1", "b,10"))) == [0, 9]  # names, all of them
    with pytest.raises(ImageSetError, match="'1' is a class of that name and the index of another"):
        with_labels(images("a", "b"), from_one, table(tmp_path, "a,1", "b,0"))
    assert labels_of(with_labels(images("a", "b"), from_one, table(tmp_path, "a,1", "b,0"), "index")) == [1, 0]


def test_l1_numbers_among_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=r"labels are numbers \('3'\) as well as names \('tench'\)"):
        with_labels(images("a", "b"), CLASSES, table(tmp_path, "a,3", "b,tench"))


def test_l2_exact_name_first(tmp_path: Path, imagenet: tuple[str, ...]) -> None:
    path = table(tmp_path, "a,cardigan", "b,Cardigan")
    assert labels_of(with_labels(images("a", "b"), imagenet, path)) == [474, 264]
    assert labels_of(with_labels(images("cardigan/a", "Cardigan/b"), imagenet, None)) == [474, 264]


def test_l2_a_name_that_may_be_two_classes_is_refused_with_both(tmp_path: Path, imagenet: tuple[str, ...]) -> None:
    for given in (images("CARDIGAN/a"), images("a")):
        path = None if given[0].name != "a" else table(tmp_path, "a,CARDIGAN")
        with pytest.raises(ImageSetError, match=r"'CARDIGAN' may be class 264 \(Cardigan\) or 474 \(cardigan\)"):
            with_labels(given, imagenet, path)
    with pytest.raises(ImageSetError, match=r"folder crane: 'crane' may be class 2 \(crane\) or 4 \(crane\)"):
        with_labels(images("crane/a.jpg"), CLASSES, None)
    assert labels_of(with_labels(images("tench/crane/a.jpg"), CLASSES, None)) == [0]  # nobody asks what is inside
    assert labels_of(with_labels(images("crane/a.jpg"), CLASSES, None, "none")) == [None]


def test_l2_names_differ_in_what_is_no_spelling(tmp_path: Path) -> None:
    languages = ("C", "C++", "C#")
    path = table(tmp_path, "a,c++", "b,C", "c,C#")
    assert labels_of(with_labels(images("a", "b", "c"), languages, path)) == [1, 0, 2]
    with pytest.raises(ImageSetError, match=r"class 'C!' of a is none of"):
        with_labels(images("a"), languages, table(tmp_path, "a,C!"))


def test_l3_a_row_that_fits_two_images_is_refused_with_both(tmp_path: Path) -> None:
    given = images("dogs/1.jpg", "not_dogs/1.jpg")
    with pytest.raises(ImageSetError, match=r"line 2: 1\.jpg may be dogs/1\.jpg or not_dogs/1\.jpg"):
        with_labels(given, CLASSES, table(tmp_path, "1.jpg,tench"))
    assert labels_of(with_labels(given, CLASSES, table(tmp_path, "dogs/1.jpg,tench"))) == [0, None]
    deeper = images("a/dogs/1.jpg", "a/not_dogs/1.jpg")
    assert labels_of(with_labels(deeper, CLASSES, table(tmp_path, "dogs/1.jpg,tench"))) == [0, None]
    assert labels_of(with_labels(deeper, CLASSES, table(tmp_path, r".\a\dogs\1.jpg,tench"))) == [0, None]


@pytest.mark.parametrize("names", [("00000/a", "00001/b", "00003/c"), ("03/a", "3/b"), ("998/a", "1000/b", "0/c")])
def test_l4_numbers_that_are_no_plain_indices_are_no_labels_unless_asked(names: tuple[str, ...]) -> None:
    found = label_images(images(*names), IMAGENET, None)
    assert labels_of(found.images) == [None] * len(names)
    assert "folders that are numbers" in told(found)
    assert ("--label-format index takes them" in told(found)) == ("1000/b" not in names)  # it refuses 1000
    if "1000/b" not in names:
        asked = with_labels(images(*names), IMAGENET, None, "index")
        assert labels_of(asked) == [int(name.partition("/")[0]) for name in names]


def test_l4_folders_that_count_from_one_are_refused_and_the_format_named(tmp_path: Path) -> None:
    given = images(*(f"{index}/a.jpg" for index in range(1, 1001)))
    with pytest.raises(ImageSetError, match=r"folders go up to 1000 and none is 0.*label_format index1.*label_format none"):
        with_labels(given, IMAGENET, None)
    assert labels_of(with_labels(given, IMAGENET, None, "index1")) == list(range(1000))
    with pytest.raises(ImageSetError, match="folder 1000 is none of the model's 1000 classes, which are 0 to 999 here"):
        with_labels(given, IMAGENET, None, "index")
    path = table(tmp_path, "a,1", "b,5")
    assert labels_of(with_labels(images("a", "b"), CLASSES, path, "index1")) == [0, 4]


def test_l4_all_indices_in_one_width_are_indices() -> None:
    given = images(*(f"{index:03d}/a.jpg" for index in range(1000)))
    assert labels_of(with_labels(given, IMAGENET, None)) == list(range(1000))


def test_l4_names_beside_numbers_are_the_labels() -> None:
    found = label_images(images("tench/a", "3/b"), CLASSES, None)
    assert labels_of(found.images) == [0, None]
    assert "folders that are numbers (3) are no labels: others are class names" in told(found)


def hugging_face(
    tmp_path: Path, labels: Sequence[object], column: str = "label", names: Sequence[str] | None = None
) -> list[ImageFile]:
    given = pa.table({"image": [picture(seed) for seed in range(len(labels))], column: labels})
    if names is not None:
        features = {column: {"names": list(names), "_type": "ClassLabel"}}
        given = given.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(given, tmp_path / "x.parquet")
    return find_images(tmp_path / "x.parquet")


def test_l5_class_names_in_a_schema_are_mapped_by_name(tmp_path: Path) -> None:
    found = label_images(hugging_face(tmp_path, [0, 1, 2, -1], names=["shark", "tench", "cat"]), THREE, None)
    assert labels_of(found.images) == [2, 0, None, None]
    assert "2 of 4 images labelled, by name, from the archives" in told(found)
    assert "1 label in the archives is no class here (cat)" in told(found)


def test_l5_the_very_list_of_the_model_is_taken_by_its_order(tmp_path: Path, imagenet: tuple[str, ...]) -> None:
    synsets = [f"{name}, and so on" for name in imagenet]
    synsets[134] = "crane"  # as the 517th is called; the model's is "crane bird"
    found = with_labels(hugging_face(tmp_path, [0, 134, 517, 264, 474], names=synsets), imagenet, None)
    assert labels_of(found) == [0, 134, 517, 264, 474]


@pytest.mark.parametrize("column", ["label", "labels"])
def test_l5_labels_in_words(tmp_path: Path, column: str) -> None:
    found = with_labels(hugging_face(tmp_path, ["Goldfish", "shark", None, ""], column), THREE, None)
    assert labels_of(found) == [1, 2, None, None]


ZEROS = ("01", "02", "03")


def test_l5_names_with_zeros_before_them_are_names_in_archives_as_in_a_csv(tmp_path: Path) -> None:
    members = [("a.png", picture(0)), ("a.cls", b"01"), ("b.png", picture(1)), ("b.cls", b"02")]
    (tmp_path / "x.tar").write_bytes(tar(members))
    in_tar = find_images(tmp_path / "x.tar")
    in_parquet = hugging_face(tmp_path, ["01", "02"])
    path = table(tmp_path, "a,01", "b,02")
    for given, file in ((in_tar, None), (in_parquet, None), (images("a", "b"), path)):
        assert labels_of(with_labels(given, ZEROS, file)) == [0, 1]
        assert labels_of(with_labels(given, THREE, file)) == [1, 2]  # of other classes: indices


def test_l5_numbers_among_names_are_refused_in_archives_as_in_a_csv(tmp_path: Path) -> None:
    members = [("a.png", picture(0)), ("a.cls", b"1"), ("b.png", picture(1)), ("b.cls", b"tench")]
    (tmp_path / "x.tar").write_bytes(tar(members))
    for given in (find_images(tmp_path), hugging_face(tmp_path, ["1", "tench"])):
        with pytest.raises(ImageSetError, match=r"in the archives: labels are numbers \('1'\) as well as names \('tench'\)"):
            label_images(given, THREE, None)


@pytest.mark.parametrize("names", [None, THREE])
def test_l5_what_says_none_in_a_parquet_file_is_counted(tmp_path: Path, names: Sequence[str] | None) -> None:
    found = label_images(hugging_face(tmp_path, [1.0, -1.0, float("nan"), None], names=names), THREE, None)
    assert labels_of(found.images) == [1, None, None, None]
    assert "1 of 4 images labelled" in told(found)
    assert "3 labels say none (-1 or empty)" in told(found)
    without = label_images(find_images(_saved(tmp_path, tar([("a.png", picture(0))]))), THREE, None)
    assert told(without) == "labels: 0 of 1 image labelled"


def _saved(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "saved.tar").write_bytes(data)
    return tmp_path / "saved.tar"


@pytest.mark.parametrize("names", [None, THREE])
def test_l5_other_numbers_below_0_are_no_classes_and_counted(tmp_path: Path, names: Sequence[str] | None) -> None:
    found = label_images(hugging_face(tmp_path, [-2, 2**40], names=names), THREE, None)
    assert labels_of(found.images) == [None, None]
    assert "2 labels in the archives are no classes here (-2, 1099511627776)" in told(found)


@pytest.mark.parametrize("labels", [[0, 2, None], [0.0, 2.0, None], [0.0, 2.0, float("nan")], ["0", "2", "-1"]])
def test_l5_labels_in_numbers(tmp_path: Path, labels: list[object]) -> None:
    assert labels_of(with_labels(hugging_face(tmp_path, labels, "labels"), THREE, None)) == [0, 2, None]


@pytest.mark.parametrize("odd", [1.5, float("inf"), float("-inf")])
def test_l5_numbers_that_are_not_whole_are_refused(tmp_path: Path, odd: float) -> None:
    with pytest.raises(ImageSetError, match=rf"column label holds {odd}, no label"):
        hugging_face(tmp_path, [0.0, odd])


def test_l5_numbers_that_count_from_one_are_refused(tmp_path: Path) -> None:
    given = hugging_face(tmp_path, [1, 2, 3])
    with pytest.raises(ImageSetError, match="labels in the archives: labels go up to 3 and none is 0"):
        with_labels(given, THREE, None)
    assert labels_of(with_labels(given, THREE, None, "index1")) == [0, 1, 2]


def test_l5_two_columns_of_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet({"image": [picture(0)], "label": [0], "labels": [1]}))
    with pytest.raises(ImageSetError, match="has the columns label and labels"):
        find_images(tmp_path)


def test_l5_a_column_of_lists_gives_no_labels_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet({"image": [picture(0)], "labels": [[0, 1]]}))
    account = Account()
    (image,) = find_images(tmp_path, account=account)
    assert image.label is None
    assert "column labels of x.parquet holds list" in str(account.lines[0])


def test_l5_names_in_a_webdataset(tmp_path: Path) -> None:
    members = [("a.png", picture(0)), ("a.cls", b"goldfish\n"), ("b.png", picture(1)), ("b.cls", b"-1")]
    (tmp_path / "x.tar").write_bytes(tar(members))
    found = label_images(find_images(tmp_path), THREE, None)
    assert labels_of(found.images) == [1, None]
    assert "1 label says none" in told(found)


def test_l6_the_outermost_folder_that_is_a_class(tmp_path: Path) -> None:
    found = label_images(images("val/559/b.jpg", "val/x/243/7/c.jpg", "val/x/d.jpg"), IMAGENET, None)
    assert labels_of(found.images) == [559, 243, None]
    assert "2 of 3 images labelled, by index, from the folders" in told(found)
    (tmp_path / "x.tar").write_bytes(tar([("imagenet/val/243/a.png", picture(0))]))
    assert labels_of(with_labels(find_images(tmp_path), IMAGENET, None)) == [243]
    assert labels_of(with_labels(images("val/tench/a.jpg", "train/old/toilet tissue/b.jpg"), CLASSES, None)) == [0, 3]
    given = images(*(f"set/val/n{index}/a.jpg" for index in (3, 1, 2)))
    assert labels_of(with_labels(given, THREE, None)) == [2, 0, 1]  # by their order


def test_l7_rows_that_name_no_image_and_images_without_a_row_are_counted(tmp_path: Path) -> None:
    path = table(tmp_path, "a.jpg,tench", "gone.jpg,tench", "lost.jpg,tench")
    found = label_images(images("a.jpg", "b.jpg"), CLASSES, path)
    assert told(found) == (
        "labels: 1 of 2 images labelled, by name, from labels.csv; 2 rows name no image (gone.jpg, lost.jpg); "
        "1 image matches no row (b.jpg)"
    )
    account = Account()
    found.tell(account)
    counts = {"images": 2, "labelled": 1, "none": 0, "rows_without_image": 2, "images_without_row": 1}
    assert account.to_json() == [{"topic": "labels", "text": account.lines[0].text, "counts": counts}]
    assert "1 of 1 image labelled" in told(found, limit=1)


def test_l7_with_a_limit_only_the_images_of_the_run_are_told_of(tmp_path: Path) -> None:
    members = [("a.png", picture(0)), ("a.cls", b"tench"), ("b.png", picture(1)), ("b.cls", b"-1"), ("odd/c.png", picture(2))]
    members += [("d.png", picture(3)), ("d.cls", b"cat")]
    found = label_images(find_images(_saved(tmp_path, tar(members))), THREE, None)
    assert told(found, limit=1) == "labels: 1 of 1 image labelled, by name, from the archives"
    assert told(found) == (
        "labels: 1 of 4 images labelled, by name, from the archives; 1 label says none (-1 or empty); "
        "1 label in the archives is no class here (cat); 1 folder is no class (odd)"
    )


@pytest.mark.parametrize("second", ["a.jpg,crane", "a.jpg,tench", "x/a.jpg,", "./x/a.jpg,tench"])
def test_l7_an_image_that_is_labelled_twice_is_refused(tmp_path: Path, second: str) -> None:
    with pytest.raises(ImageSetError, match=r"labels x/a\.jpg twice: 'tench' in line 2 and '.*' in line 3"):
        with_labels(images("x/a.jpg"), ("tench", "crane"), table(tmp_path, "a.jpg,tench", second))


@pytest.mark.parametrize(("stored", "written"), [("cafe\u0301.jpg", "caf\u00e9.jpg"), ("caf\u00e9.jpg", "cafe\u0301.jpg")])
def test_l8_names_compare_in_one_form(tmp_path: Path, stored: str, written: str) -> None:
    for folder in ("", "x/"):
        assert labels_of(with_labels(images(folder + stored), CLASSES, table(tmp_path, f"{written},tench"))) == [0]
    classes = ("tench", "caf\u00e9")
    assert labels_of(with_labels(images("cafe\u0301/a.jpg"), classes, None)) == [1]
    assert labels_of(with_labels(images("a.jpg"), classes, table(tmp_path, "a.jpg,cafe\u0301"))) == [1]


def test_l8_two_names_of_one_form_are_told_apart_as_they_are_written(tmp_path: Path) -> None:
    given = images("cafe\u0301.jpg", "caf\u00e9.jpg")
    path = table(tmp_path, "caf\u00e9.jpg,tench", "cafe\u0301.jpg,golden retriever")
    assert labels_of(with_labels(given, CLASSES, path)) == [1, 0]


def test_l9_wnids_are_known_for_imagenet(tmp_path: Path, imagenet: tuple[str, ...]) -> None:
    pytest.importorskip("timm")
    path = table(tmp_path, "a,n01440764", "b,n02963159", "c,tench")
    assert labels_of(with_labels(images("a", "b", "c"), imagenet, path)) == [0, 474, 0]
    assert labels_of(with_labels(images("val/n02963159/a"), imagenet, None)) == [474]
    assert labels_of(with_labels(images("val/n02963159/a"), imagenet, None, "wnid")) == [474]
    with pytest.raises(ImageSetError, match=r"class 'tench' of c is none of the WordNet ids \(n01440764 …\) of the model's"):
        with_labels(images("a", "b", "c"), imagenet, path, "wnid")
    for form in ("auto", "wnid"):
        with pytest.raises(ImageSetError, match=r"class 'n00000000' of a is none of the (?!.*ImageNet)"):
            with_labels(images("a"), imagenet, table(tmp_path, "a,n00000000"), form)


def test_l9_what_was_read_by_wnid_is_told_so(tmp_path: Path, imagenet: tuple[str, ...]) -> None:
    pytest.importorskip("timm")
    path = table(tmp_path, "a,n01440764", "b,n02963159")
    assert "by WordNet id, from labels.csv" in told(label_images(images("a", "b"), imagenet, path))
    path = table(tmp_path, "a,n01440764", "b,crane bird")
    assert "by name and by WordNet id, from labels.csv" in told(label_images(images("a", "b"), imagenet, path))
    assert "labelled, by WordNet id, from the folders" in told(label_images(images("val/n02963159/a"), imagenet, None))
    given = hugging_face(tmp_path, [0, 1], names=["n01440764", "n02963159"])
    assert "2 of 2 images labelled, by WordNet id, from the archives" in told(label_images(given, imagenet, None))


@pytest.mark.parametrize("classes", [CLASSES, IMAGENET], ids=["fewer", "as-many-of-other-names"])
def test_l9_wnids_are_refused_where_the_names_are_not_imagenet_s(tmp_path: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(ImageSetError, match=r"class 'n01440764' of a is none .* known for ImageNet-1k's classes only"):
        with_labels(images("a"), classes, table(tmp_path, "a,n01440764"))


def test_l9_without_timm_one_line_names_the_extra(
    tmp_path: Path, imagenet: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    imagenet_module._wnid_classes.cache_clear()
    monkeypatch.setattr("qcam.common.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(QcamError, match=r'WordNet ids .* needs the package timm, .*pip install "qcam\[host\]"'):
        with_labels(images("a"), imagenet, table(tmp_path, "a,n01440764"))


def test_l6_splits_are_no_classes() -> None:
    two = ("cat", "dog")
    given = images("train/cats/1.jpg", "train/dogs/2.jpg", "val/cats/3.jpg", "val/dogs/4.jpg")
    found = label_images(given, two, None)
    assert labels_of(found.images) == [0, 1, 0, 1]
    assert "by the order of as many folders" in told(found)
    assert "folders that are called as splits are (train, val) are no classes" in told(found)
    assert labels_of(with_labels(images("x/n1/Test_set/1", "x/n2/holdout/2"), two, None)) == [0, 1]
    bare = label_images(images("train2017/1.jpg", "Validation/2.jpg"), two, None)
    assert labels_of(bare.images) == [None, None]
    assert "2 folders are no classes (Validation, train2017)" in told(bare)
    assert labels_of(with_labels(images("car/1", "train/2"), ("train", "car"), None)) == [1, 0]  # a class of that name


def test_l6_folders_of_two_depths_that_may_be_the_classes_are_refused() -> None:
    given = images("north/cats/1.jpg", "north/dogs/2.jpg", "south/cats/3.jpg", "south/dogs/4.jpg")
    with pytest.raises(ImageSetError, match=r"2 classes may be the folders \(north, south\) or \(cats, dogs\)"):
        with_labels(given, ("cat", "dog"), None)
    assert labels_of(with_labels(given, ("cat", "dog"), None, "none")) == [None] * 4
    assert labels_of(with_labels(images("a/x/1", "b/y/2"), ("cat", "dog"), None)) == [0, 1]  # both say the same


def test_folders_that_are_no_class_are_counted() -> None:
    found = label_images(images("cats/a", "cats/b", "dogs/c", "d"), CLASSES, None)
    assert told(found) == "labels: 0 of 4 images labelled; 2 folders are no classes (cats, dogs)"


def test_a_format_that_no_folder_has_is_refused() -> None:
    with pytest.raises(ImageSetError, match=r"label_format name: none of the folders is such a label \(cats\)"):
        with_labels(images("cats/a"), CLASSES, None, "name")


def test_a_label_format_that_is_none_of_the_words_is_refused() -> None:
    with pytest.raises(
        QcamError, match="label format 'number' is unknown; choose one of auto, index, index1, name, wnid, none"
    ):
        with_labels(images("a"), CLASSES, None, "number")


def test_no_labels_and_a_file_of_labels_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match="label_format none reads no labels"):
        with_labels(images("a"), CLASSES, table(tmp_path, "a,tench"), "none")
