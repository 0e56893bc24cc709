"""Which photographs a folder holds, and in which order."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from archive_writing import tar
from PIL import Image

from qcam.common.errors import ImageSetError
from qcam.common.storage import open_location
from qcam.images.account import Account, AccountLine
from qcam.images.decoding import decode
from qcam.images.listing import find_images, find_masks, one_photograph
from qcam.images.sources import ImageFile


def folder_with(tmp_path: Path, names: Sequence[str]) -> Path:
    folder = tmp_path / "photos"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_images_are_found_at_any_depth_sorted_by_name(tmp_path: Path) -> None:
    names = [
        "b.JPG",
        "a.jpeg",
        "n/deep/er.png",
        "a-b/x.webp",
        "a/x.webp",
        "a.b/x.tif",
        "B.bmp",
        "ü ö.gif",
        "10.ppm",
        "9.tiff",
    ]
    folder = folder_with(tmp_path, [*names, "labels.csv", "readme.txt", "x.jpg.part", "jpg", "n/y.pdf"])
    found = find_images(folder)
    assert [image.name for image in found] == sorted(names)
    assert all(image.path == folder / image.name and image.label is None for image in found)


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / ".hidden parent", ["a.jpg", ".b.jpg", "._a.jpg", ".trash/c.jpg", "d/.e/f.jpg", ".jpg"])
    assert [image.name for image in find_images(folder)] == ["a.jpg"]


def test_links_that_lead_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["inside.jpg"])
    outside = folder_with(tmp_path / "other", ["secret.jpg"])
    (folder / "out.jpg").symlink_to(outside / "secret.jpg")
    (folder / "relative.jpg").symlink_to("../other/photos/secret.jpg")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "again.jpg").symlink_to(folder / "inside.jpg")
    (folder / "folder.jpg").mkdir()
    assert [image.name for image in find_images(folder)] == ["inside.jpg"]  # again.jpg is the same


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["a.jpg"])
    (tmp_path / "link").symlink_to(folder)
    assert [image.name for image in find_images(tmp_path / "link")] == ["a.jpg"]


@pytest.mark.parametrize(("limit", "count"), [(None, 5), (1, 1), (3, 3), (5, 5), (99, 5)])
def test_the_limit_takes_the_first(tmp_path: Path, limit: int | None, count: int) -> None:
    names = [f"{index}.jpg" for index in range(5)]
    found = find_images(folder_with(tmp_path, names), limit=limit)
    assert [image.name for image in found] == names[:count]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no image folder at .*photos; give a folder"),
        (lambda path: (path.parent / "photo").mkdir(), r"no image folder at .*photos; did you mean .*photo\?"),
        (lambda path: path.touch(), "no image folder at .*photos"),
        (lambda path: path.mkdir(), r"no image in .*photos; looked for files ending in \.apng .*\.webp"),
        (lambda path: folder_with(path.parent, ["a.txt", ".b.jpg"]), "no image in"),
    ],
    ids=["absent", "near", "file", "empty", "nothing-fits"],
)
def test_folders_without_images_are_refused(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    prepare(tmp_path / "photos")
    with pytest.raises(ImageSetError, match=message):
        find_images(tmp_path / "photos")


# ---- situations that people brought


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((24, 16), 60).save(stream, kind, **options)
    return stream.getvalue()


def account_of(folder: Path) -> tuple[list[str], AccountLine]:
    account = Account()
    found = [image.name for image in find_images(folder, account=account)]
    (line,) = account.lines
    return found, line


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
READ = {
    "a.jfif": ("JPEG", {}), "b.jpe": ("JPEG", {}), "c.avif": ("AVIF", {}), "d.jp2": ("JPEG2000", {}), "e.pgm": ("PPM", {}),
    "no ending": ("JPEG", {}), "IMG_1": ("PNG", {}), "odd.xyz": ("WEBP", {}), "f.JPEG": ("JPEG", {}), "g.dat": ("TIFF", {}),
    "h.bin": ("GIF", {}), "i.0001": ("BMP", {}),
}  # fmt: skip


def test_i1_pictures_are_found_by_their_content_and_all_else_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcam.images.kinds.reads_heif", lambda: False)
    monkeypatch.setattr("qcam.images.listing.reads_heif", lambda: False)
    for name, (kind, options) in READ.items():
        (tmp_path / name).write_bytes(encoded(kind, **options))
    (tmp_path / "x.tga").write_bytes(encoded("TGA"))
    (tmp_path / "y.heic").write_bytes(HEIC)
    (tmp_path / "raw.nef").write_bytes(encoded("TIFF"))  # what TIFF's decoder finds in one is a thumbnail
    (tmp_path / "z.jpg.part").write_bytes(encoded("JPEG"))
    (tmp_path / "P1 of the plan").write_text("P1\nis no picture\n")
    (tmp_path / "BM").write_text("BM, a text")
    (tmp_path / ".DS_Store").touch()
    found, line = account_of(tmp_path)
    assert found == sorted(READ)
    assert [decode(tmp_path / name).refusal for name in found] == [""] * len(READ)
    assert line.counts == {"taken": 12, "found": 12, "not_taken": 7}
    assert line.text.startswith("12 taken; 6 of them were found by content; 7 files not taken: 2 without an ending, ")
    for said in ("1 .tga", "1 .heic", "1 .nef", "1 .part", "1 hidden", 'pip install "qcam[heic]" reads them'):
        assert said in line.text


def test_i1_in_an_archive_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcam.images.kinds.reads_heif", lambda: False)
    members = [(name, encoded(kind)) for name, (kind, _) in READ.items()]
    (tmp_path / "x.tar").write_bytes(
        tar([*members, ("y.heic", HEIC), ("a.json", b"{}"), ("b.json", b"{}"), ("note", b"hello")])
    )
    found, line = account_of(tmp_path)
    assert found == [f"x.tar/{name}" for name in READ]
    assert "6 of them were found by content; 4 files not taken: 2 .json" in line.text


def test_i1_behind_a_url_likewise(memory_store: str) -> None:
    place = open_location(memory_store)
    for name, (kind, _) in READ.items():
        (place / name).write_bytes(encoded(kind))
    (place / "short").write_bytes(b"x")
    (place / "a.json").write_bytes(b"{}")
    account = Account()
    assert [image.name for image in find_images(place, account=account)] == sorted(READ)
    assert "2 files not taken: 1 .json, 1 without an ending" in account.lines[0].text


def test_i1_heic_is_read_where_the_extra_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    (tmp_path / "a.heic").write_bytes(encoded("HEIF"))
    (tmp_path / "b").write_bytes(encoded("HEIF"))
    found, line = account_of(tmp_path)
    assert found == ["a.heic", "b"]
    assert line.counts["not_taken"] == 0
    assert [decode(tmp_path / name).refusal for name in found] == ["", ""]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.heic", HEIC, r'x\.heic is a HEIF picture, which is not read here; pip install "qcam\[heic\]"'),
        ("x", HEIC, r"x is a HEIF picture"),
        ("x.tga", b"\0\0\2" + bytes(20), r"x\.tga is no picture of a kind that is read"),
        ("x.txt", b"hello", r"x\.txt is no picture of a kind that is read"),
    ],
)
def test_i1_one_file_that_is_not_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, message: str
) -> None:
    monkeypatch.setattr("qcam.images.kinds.reads_heif", lambda: False)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageSetError, match=message):
        one_photograph(tmp_path / name)


def test_i1_one_file_is_taken_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "IMG_1").write_bytes(encoded("JPEG"))
    assert one_photograph(tmp_path / "IMG_1") == ImageFile("IMG_1", tmp_path / "IMG_1")
    assert one_photograph(tmp_path) is None


def test_i2_links_to_folders_are_followed(tmp_path: Path) -> None:
    elsewhere = folder_with(tmp_path / "elsewhere", ["a.jpg", "deep/b.jpg"])
    folder = folder_with(tmp_path, ["goldfish/c.jpg"])
    (folder / "tench").symlink_to(elsewhere)
    (elsewhere / "deep" / "inner.jpg").symlink_to(elsewhere / "a.jpg")  # inside what is followed
    (folder / "nowhere").symlink_to(tmp_path / "absent")
    found, line = account_of(folder)
    assert found == ["goldfish/c.jpg", "tench/a.jpg", "tench/deep/b.jpg"]
    assert "1 image is also reached through links (tench/deep/inner.jpg): each is taken once" in line.text
    assert "1 link leads nowhere: left out" in line.text


def test_i2_loops_of_links_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["a/x.jpg", "b/y.jpg"])
    (folder / "a" / "self").symlink_to(folder / "a")
    (folder / "a" / "up").symlink_to("..")
    (folder / "a" / "above").symlink_to(tmp_path)
    (folder / "a" / "to_b").symlink_to(folder / "b")
    (folder / "b" / "to_a").symlink_to(folder / "a")
    found, line = account_of(folder)
    assert found == ["a/x.jpg", "b/y.jpg"]
    assert "links lead to folders that hold them: left out" in line.text


def test_i2_what_several_names_lead_to_is_taken_once_and_told(tmp_path: Path) -> None:
    elsewhere = folder_with(tmp_path / "elsewhere", ["out.jpg"])
    folder = folder_with(tmp_path, ["run/1.jpg", "run/2.jpg"])
    (folder / "latest").symlink_to("run")
    (folder / "b").symlink_to(elsewhere)
    (folder / "c").symlink_to(elsewhere)
    found, line = account_of(folder)
    assert found == ["b/out.jpg", "run/1.jpg", "run/2.jpg"]
    told = "3 images are also reached through links (c/out.jpg, latest/1.jpg, latest/2.jpg): each is taken once"
    assert line.text == f"3 taken; {told}"
    assert line.counts["found"] == 3


def test_i2_of_what_is_taken_once_only_that_is_found_by_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded("PNG"))
    (tmp_path / "y").symlink_to("x")
    found, line = account_of(tmp_path)
    assert found == ["x"]
    assert line.text == "1 taken; 1 of them was found by content; 1 image is also reached through links (y): each is taken once"


def test_i2_an_archive_that_two_names_lead_to_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar([("a.png", encoded("PNG"))]))
    (tmp_path / "again.tar").symlink_to("x.tar")
    found, line = account_of(tmp_path)
    assert found == ["x.tar/a.png"]
    assert "1 archive is also reached through links (again.tar): each is taken once" in line.text


def test_i2_a_mask_of_several_images_may_be_a_link(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["a.png"])
    (folder / "b.png").symlink_to("a.png")
    assert [mask.name for mask in find_masks(folder).images] == ["a.png", "b.png"]


def test_with_a_limit_of_the_run_the_account_speaks_of_its_images(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    account = Account()
    assert len(find_images(folder, account=account, run=1)) == 3  # folders of classes count as a whole
    assert account.lines[0].text == "1 of 3 taken; 0 files not taken"
    assert account.lines[0].counts == {"taken": 1, "found": 3, "not_taken": 0}


def test_an_empty_place_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_with(tmp_path, ["a.jpg"]))
    with pytest.raises(ImageSetError, match=r"the images' place is empty; give a folder \(\. is the current one\)"):
        find_images("")
    assert len(find_images(".")) == 1


def test_i2_a_folder_of_links_out_of_it_says_so(tmp_path: Path) -> None:
    outside = folder_with(tmp_path / "other", ["a.jpg", "b.jpg"])
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).symlink_to(outside / name)
    with pytest.raises(ImageSetError, match=r"no image in .*photos.*; there: 2 files are links out of the folder: left out"):
        find_images(folder)


@pytest.mark.usefixtures("on_terminal")
def test_without_an_account_what_is_not_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find_images(folder_with(tmp_path, ["a.jpg", "b.tga"]))
    assert "photos: 1 file not taken: 1 .tga" in capsys.readouterr().err
