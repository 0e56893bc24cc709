"""Images in tar files and in Parquet files: found, named, labelled and read, wherever the archive lies."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from archive_writing import hugging_face, parquet, picture, tar
from PIL import Image

from qcam.common.errors import QcamError
from qcam.common.files import sha256_bytes
from qcam.common.storage import open_location
from qcam.images import sources
from qcam.images.account import Account
from qcam.images.decoding import CANNOT_BE_READ, decode, decode_all
from qcam.images.listing import find_images
from qcam.images.sources import MAX_BYTES, Cell, ImageFile, Span

CLASSES = ("tench", "goldfish", "shark")


@pytest.fixture(params=["local", "memory_store", "object_store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An empty folder on this machine, in memory, and in an object store."""
    if request.param == "local":
        (tmp_path / "set").mkdir()
        return tmp_path / "set"
    return open_location(f"{request.getfixturevalue(request.param)}/set")


def names(images: list[ImageFile]) -> list[str]:
    return [image.name for image in images]


def labels(images: list[ImageFile]) -> list[int | None]:
    return [image.label for image in images]


def same_picture(image: ImageFile, data: bytes) -> None:
    decoded = decode(image.path)
    assert decoded.refusal == ""
    assert decoded.sha256 == sha256_bytes(data)
    assert np.array_equal(np.asarray(decoded.image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def refusal(image: ImageFile) -> str:
    decoded = decode(image.path)
    assert decoded.image is None
    assert decoded.sha256 == ""
    assert "\n" not in decoded.refusal
    return decoded.refusal


# ---- WebDataset


def test_images_in_tar_files_are_found_read_and_labelled(folder: Any) -> None:
    data = [picture(index) for index in range(5)]
    first = [("000.png", data[0]), ("000.cls", b"2"), ("000.json", b"{}"), ("001.cls", b" 0\n"), ("001.jpg", data[1])]
    (folder / "b-000001.tar").write_bytes(tar([("n/002.PNG", data[2]), ("n/002.CLS", b"1"), ("readme.txt", b"x")]))
    (folder / "b-000000.tar").write_bytes(tar(first))
    (folder / "deep" / "c.TAR").parent.mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "c.TAR").write_bytes(tar([("z.png", data[3]), ("a.png", data[4])], form=tarfile.USTAR_FORMAT))
    (folder / "notes.txt").write_bytes(b"x")
    found = find_images(folder)
    assert names(found) == [
        "b-000000.tar/000.png",
        "b-000000.tar/001.jpg",
        "b-000001.tar/n/002.PNG",
        "deep/c.TAR/z.png",  # in the archive's own order: neighbours stay neighbours
        "deep/c.TAR/a.png",
    ]
    assert labels(found) == [2, 0, 1, None, None]
    for image, each in zip(found, data, strict=True):
        same_picture(image, each)
        assert pickle.loads(pickle.dumps(image)) == image
    assert [decoded.sha256 for decoded in decode_all([image.path for image in found])] == [*map(sha256_bytes, data)]
    assert find_images(folder, limit=2) == found[:2]


def test_one_tar_file_is_an_image_set(folder: Any) -> None:
    (folder / "one.tar").write_bytes(tar([("a.png", picture(0))]))
    (folder / "two.tar").write_bytes(tar([("b.png", picture(1))]))
    for location in (folder / "one.tar", str(folder / "one.tar")):
        (found,) = find_images(location)
        assert found.name == "one.tar/a.png"
        same_picture(found, picture(0))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_kept(tmp_path: Path, form: int) -> None:
    wanted = ["ü ö.png", "/".join(["a" * 60] * 2) + "/b.png"]
    (tmp_path / "a.tar").write_bytes(tar([(name, picture(0)) for name in wanted], form=form))
    found = find_images(tmp_path)
    assert names(found) == [f"a.tar/{name}" for name in wanted]
    same_picture(found[1], picture(0))


def test_member_names_are_names_and_never_places(tmp_path: Path) -> None:
    members = ["./a.png", "/etc/b.png", "../../c.png", "d/../e.png", ".f.png", "._g.png", "h/.i/j.png", "k.png/"]
    (tmp_path / "x.tar").write_bytes(tar([(name, picture(0)) for name in members]))
    account = Account()
    found = find_images(tmp_path, account=account)
    assert names(found) == ["x.tar/a.png", "x.tar/etc/b.png", "x.tar/k.png"]
    assert "5 files not taken: 3 hidden, 2 with .. in the name" in account.lines[0].text
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_names_that_are_no_utf8_are_written_out(tmp_path: Path) -> None:
    data = tar([("aXb.png", picture(0))], form=tarfile.USTAR_FORMAT)
    header = bytearray(data[:512].replace(b"aXb", b"a\xffb"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + data[512:])
    assert names(find_images(tmp_path)) == ["x.tar/a\\udcffb.png"]


def test_of_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar([("a.png", picture(0)), ("b.png", picture(1)), ("./a.png", picture(2))]))
    found = find_images(tmp_path)
    assert names(found) == ["x.tar/b.png", "x.tar/a.png"]
    same_picture(found[1], picture(2))


@pytest.mark.parametrize("text", [b"", b"x", b"-1", b"1.5", b"9" * 40, b"\xb2"])
def test_labels_that_are_no_integers_label_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(tar([("a.png", picture(0)), ("a.cls", text), ("b.cls.txt", b"1")]))
    assert labels(find_images(tmp_path)) == [None]


def test_a_label_that_is_too_long_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar([("a.png", picture(0)), ("a.cls", b"1" + b" " * 256), ("b.cls", b"1" + b" " * 255)]))
    account = Account()
    assert labels(find_images(tmp_path, account=account)) == [None]
    assert "1 file not taken: 1 .cls of more than 256 bytes" in account.lines[0].text


def test_samples_with_several_files_share_their_label(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(
        tar([("a.b/1.left.png", picture(0)), ("a.b/1.right.png", picture(1)), ("a.b/1.cls", b"7")])
    )
    assert labels(find_images(tmp_path)) == [7, 7]


def test_links_folders_and_sparse_members_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.DIRTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            archive.addfile(about)
        about = tarfile.TarInfo("sparse.png")
        about.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}
        archive.addfile(about)
        about = tarfile.TarInfo("real.png")
        about.size = len(picture(0))
        archive.addfile(about, io.BytesIO(picture(0)))
        about = tarfile.TarInfo("pipe.png")
        about.type = tarfile.FIFOTYPE
        archive.addfile(about)
    account = Account()
    found = find_images(tmp_path, account=account)
    assert names(found) == ["x.tar/real.png"]
    same_picture(found[0], picture(0))
    assert "4 files not taken: 2 linked to others, 1 sparse, 1 of a device" in account.lines[0].text


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.TAR.ZST"])
def test_compressed_tar_files_are_refused_by_their_name(folder: Any, name: str) -> None:
    (folder / name).write_bytes(b"x")
    for location in (folder, folder / name):
        with pytest.raises(QcamError, match=rf"set/{name} is compressed, .*; decompress it"):
            find_images(location)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tar_files_are_refused_whatever_their_name(folder: Any, mode: str) -> None:
    (folder / "x.tar").write_bytes(tar([("a.png", picture(0))], mode))
    with pytest.raises(QcamError, match=r"set/x\.tar is compressed"):
        find_images(folder)


@pytest.mark.parametrize("data", [b"", b"hello", b"x" * 2000, b"\0" * 100])
def test_what_is_no_tar_file_is_refused(folder: Any, data: bytes) -> None:
    (folder / "x.tar").write_bytes(data)
    with pytest.raises(QcamError, match=r"cannot list .*set/x\.tar as a tar file: .*; write it again") as raised:
        find_images(folder)
    assert "\n" not in str(raised.value)


def test_an_archive_without_images_is_refused(folder: Any) -> None:
    (folder / "x.tar").write_bytes(tar([("a.txt", b"x")]))
    with pytest.raises(QcamError, match=r"no image in .*set; looked for"):
        find_images(folder)


def test_damage_between_members_does_not_shorten_the_list_in_silence(tmp_path: Path) -> None:
    data = bytearray(tar([(f"{index}.png", picture(index)) for index in range(3)]))
    second = data.index(b"1.png")
    data[second + 148 : second + 156] = b"99999999"  # the header's checksum
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(QcamError, match=r"x\.tar as a tar file: damaged at byte 1024"):
        find_images(tmp_path)


@pytest.mark.usefixtures("on_terminal")
def test_a_tar_file_that_was_not_copied_whole_is_told_and_its_last_image_refused(
    folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tar([("0.png", picture(0)), ("1.png", picture(1))])
    (folder / "x.tar").write_bytes(data[: data.index(b"1.png") + 512 + 100])
    found = find_images(folder)
    assert "ends in the middle of an image" in capsys.readouterr().err
    assert names(found) == ["x.tar/0.png", "x.tar/1.png"]
    same_picture(found[0], picture(0))
    assert refusal(found[1]).startswith(f"{CANNOT_BE_READ}: the file ends at byte")


def huge_member(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    about = tarfile.TarInfo("huge.png")
    about.size, about.type = size, kind
    return about.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 1 << 40])
def test_a_member_that_claims_too_much_is_refused_when_it_is_decoded(folder: Any, size: int) -> None:
    (folder / "x.tar").write_bytes(huge_member(size))
    (found,) = find_images(folder)
    assert found.path == Span(folder / "x.tar", 512, size)
    assert refusal(found) == "file larger than 256 MiB"


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [-1024, 2 << 20, 1 << 40])
def test_headers_of_absurd_length_take_no_memory(tmp_path: Path, kind: bytes, size: int) -> None:
    (tmp_path / "x.tar").write_bytes(huge_member(size, kind) + bytes(3 << 20))
    with pytest.raises(QcamError, match=r"x\.tar as a tar file: a header of"):
        find_images(tmp_path)


def test_a_member_of_negative_size_ends_in_an_error_not_in_a_loop(tmp_path: Path) -> None:
    plain = tar([("a.png", picture(0))])
    for data in (huge_member(-512), plain[:1024] + huge_member(-1024)):
        (tmp_path / "x.tar").write_bytes(data + bytes(1024))
        with pytest.raises(QcamError, match=r"x\.tar as a tar file"):
            find_images(tmp_path)


@pytest.mark.parametrize(("offset", "size"), [(10**9, 5), (0, 10**6), (512, 10**6)])
def test_spans_outside_the_file_cannot_be_read(folder: Any, offset: int, size: int) -> None:
    (folder / "x.tar").write_bytes(tar([("a.png", picture(0))]))
    assert refusal(ImageFile("a", Span(folder / "x.tar", offset, size))).startswith(f"{CANNOT_BE_READ}: ")
    assert refusal(ImageFile("a", Span(folder / "absent.tar", 0, 5))).startswith(f"{CANNOT_BE_READ}: ")


def test_random_damage_ends_in_a_list_or_in_an_error_of_ours(tmp_path: Path) -> None:
    whole = tar([("0.png", picture(0)), ("0.cls", b"1"), ("ü" * 80 + ".png", picture(1)), ("2.png", picture(2))])
    chance = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in chance.integers(0, len(data), 4):
            data[place] = chance.integers(0, 256)
        (tmp_path / "x.tar").write_bytes(bytes(data[: chance.integers(1, len(data))]))
        with suppress(QcamError):
            for image in find_images(tmp_path):
                decode(image.path)


def test_listing_reads_headers_once_and_never_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = bytes(4 << 20)
    (tmp_path / "x.tar").write_bytes(tar([(f"{index}.png", big) for index in range(4)]))
    read: list[int] = []
    open_path = Path.open

    class Counting:
        def __init__(self, stream: Any) -> None:
            self._stream = stream
            self.seek, self.tell = stream.seek, stream.tell

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

        def read(self, size: int) -> bytes:
            read.append(size)
            return bytes(self._stream.read(size))

    monkeypatch.setattr(Path, "open", lambda self, *arguments: Counting(open_path(self, *arguments)))
    assert len(find_images(tmp_path)) == 4
    assert sum(read) < 16_000


# ---- Parquet


def test_images_in_a_binary_column_are_named_by_their_row(folder: Any) -> None:
    data = [picture(index) for index in range(10)]
    columns = {"image": data, "label": [2, None, -1, 0, 1, 1, 1, 1, 1, 1], "caption": ["x"] * 10}
    (folder / "b.parquet").write_bytes(parquet(columns))
    (folder / "a.parquet").write_bytes(parquet({"image": pa.array(data[:2], pa.large_binary()), "label": ["x", "y"]}))
    found = find_images(folder)
    assert names(found) == ["a.parquet/000000", "a.parquet/000001", *(f"b.parquet/{row:06d}" for row in range(10))]
    assert labels(found) == [None, None, 2, None, None, 0, 1, 1, 1, 1, 1, 1]
    for image, each in zip(found, data[:2] + data, strict=True):
        same_picture(image, each)
    assert found[7].path == Cell(folder / "b.parquet", 1, 1, "image")
    assert pickle.loads(pickle.dumps(found)) == found


def test_images_in_hugging_face_s_struct_keep_their_paths(folder: Any) -> None:
    data = [picture(index) for index in range(6)]
    paths = ["z.png", "cats/a.JPEG", "b.png", "ü.png", "d.e.png", "0.png"]
    (folder / "train.parquet").write_bytes(
        parquet({"label": pa.array(range(6), pa.int8()), "image": hugging_face(data, paths)})
    )
    for location in (folder, folder / "train.parquet"):
        found = find_images(location)
        assert names(found) == [f"train.parquet/{path}" for path in paths]
        assert labels(found) == [0, 1, 2, 3, 4, 5]
        for image, each in zip(found, data, strict=True):
            same_picture(image, each)


@pytest.mark.parametrize(
    "paths",
    [
        ["a.png", "a.png"],
        ["a.png", None],
        ["a.png", "b"],
        ["a.png", ""],
        ["a.png", "/home/b.png"],
        ["a.png", "../b.png"],
        ["a.png", "c/./b.png"],
        ["a.png", "c//b.png"],
        ["a.png", ".b.png"],
        [None, None],
    ],
)
def test_paths_that_are_no_plain_names_give_way_to_rows(tmp_path: Path, paths: list[str | None]) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet({"image": hugging_face([picture(0), picture(1)], paths)}))
    found = find_images(tmp_path)
    assert names(found) == ["x.parquet/000000", "x.parquet/000001"]
    same_picture(found[1], picture(1))


def test_a_struct_without_paths_is_named_by_row(tmp_path: Path) -> None:
    column = pa.array([{"bytes": picture(0)}], pa.struct([("bytes", pa.binary())]))
    (tmp_path / "x.parquet").write_bytes(parquet({"image": column}))
    assert names(find_images(tmp_path)) == ["x.parquet/000000"]
    same_picture(find_images(tmp_path)[0], picture(0))


def test_empty_cells_cannot_be_read_and_odd_bytes_are_no_image(folder: Any) -> None:
    column = hugging_face([None, b"", b"hello", picture(0)], ["a.png", "b.png", "c.png", "d.png"])
    (folder / "x.parquet").write_bytes(parquet({"image": column}))
    found = find_images(folder)
    assert refusal(found[0]) == f"{CANNOT_BE_READ}: the cell is empty"
    for image, data in ((found[1], b""), (found[2], b"hello")):
        decoded = decode(image.path)
        assert (decoded.refusal, decoded.sha256) == ("not an image that can be identified", sha256_bytes(data))
    same_picture(found[3], picture(0))


@pytest.mark.parametrize("columns", [{"x": [1]}, {"image": ["text"]}, {"image": [1], "y": [2]}, {"image": [{"data": b"x"}]}])
def test_a_parquet_file_without_images_is_refused(folder: Any, columns: dict[str, Any]) -> None:
    (folder / "x.parquet").write_bytes(parquet(columns))
    with pytest.raises(QcamError, match=rf"set/x\.parquet has no column image.*; its columns: {', '.join(columns)}$"):
        find_images(folder)


@pytest.mark.parametrize("cut", [0, 3, 50, -1])
def test_a_damaged_parquet_file_is_refused(folder: Any, cut: int) -> None:
    (folder / "x.parquet").write_bytes(parquet({"image": [picture(0)]})[:cut])
    with pytest.raises(QcamError, match=r"cannot list .*set/x\.parquet as a Parquet file: .*; write it again") as raised:
        find_images(folder)
    assert "\n" not in str(raised.value)


def test_damage_inside_a_parquet_file_is_refused_by_image(tmp_path: Path) -> None:
    whole = parquet({"image": [picture(index) for index in range(8)]}, 2)
    footer = int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for place in range(4, len(whole) - 8 - footer, 251):
        data = bytearray(whole)
        data[place : place + 8] = b"\xff" * 8
        (tmp_path / "x.parquet").write_bytes(data)
        for image in find_images(tmp_path):
            decoded = decode(image.path)
            assert (decoded.image is None) == bool(decoded.refusal)
            refused += decoded.image is None
    assert refused > 5  # the damage is real


@pytest.mark.parametrize(("group", "row"), [(9, 0), (0, 9)])
def test_cells_outside_the_file_cannot_be_read(folder: Any, group: int, row: int) -> None:
    (folder / "x.parquet").write_bytes(parquet({"image": [picture(0)]}))
    assert refusal(ImageFile("a", Cell(folder / "x.parquet", group, row, "image"))).startswith(f"{CANNOT_BE_READ}: ")
    assert refusal(ImageFile("a", Cell(folder / "y.parquet", group, row, "image"))).startswith(f"{CANNOT_BE_READ}: ")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that are read, in order."""
    found: list[int] = []
    read = sources._read_column
    monkeypatch.setattr(sources, "_row_groups", sources._RowGroups())
    monkeypatch.setattr(sources, "_read_column", lambda cell: found.append(cell.row_group) or read(cell))
    return found


def test_the_cells_of_a_row_group_cost_one_read(folder: Any, reads: list[int]) -> None:
    (folder / "x.parquet").write_bytes(parquet({"image": [picture(index) for index in range(40)]}, 10))
    images = [image.path for image in find_images(folder)]
    assert all(decoded.image is not None for decoded in decode_all(images))
    assert sorted(reads) == [0, 1, 2, 3]
    assert None not in list(sources.fingerprint_sources(images[::-1]))
    assert sorted(reads) == [0, 1, 2, 3]  # four row groups are kept


def test_kept_row_groups_are_few_and_bounded(tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet({"image": [picture(index) for index in range(6)]}, 1))
    images = [image.path for image in find_images(tmp_path)]
    for path in images + images[1:]:
        assert decode(path).image is not None
    assert reads == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5]  # the fifth drives the first out
    monkeypatch.setattr(sources, "_KEPT_BYTES", 10)
    reads.clear()
    for path in (images[0], images[0], images[1], images[0]):
        decode(path)
    assert reads == [0, 1, 0]  # one that is larger than all may be is kept alone
    assert len(sources._row_groups._columns) == 1


def test_row_groups_that_fit_no_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet({"image": [picture(0)], "other": ["x" * 5000]}))
    (image,) = find_images(tmp_path)
    monkeypatch.setattr(sources, "_LARGEST_ROW_GROUP", 100)
    assert "write the file with fewer rows in a row group" in refusal(image)


def test_a_cell_larger_than_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet({"image": [picture(0)]}))
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    assert refusal(find_images(tmp_path)[0]) == "file larger than 256 MiB"


def test_a_local_file_that_was_written_anew_is_named_and_read_when_it_is_listed_anew(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet({"image": [picture(0)]}))
    (image,) = find_images(tmp_path)
    same_picture(image, picture(0))
    (tmp_path / "x.parquet").write_bytes(parquet({"image": [picture(1)]}))
    os.utime(tmp_path / "x.parquet", (1, 1))
    assert decode(image.path).refusal == f"{CANNOT_BE_READ}: it has changed since it was listed"
    (image,) = find_images(tmp_path)
    same_picture(image, picture(1))


# ---- folders


def test_folders_of_several_kinds_are_refused_by_what_they_hold(folder: Any) -> None:
    (folder / "a.tar").write_bytes(tar([("a.png", picture(0))]))
    (folder / "b.parquet").write_bytes(parquet({"image": [picture(0)]}))
    with pytest.raises(QcamError, match=r"set holds 1 \.tar and 1 \.parquet; give a folder that holds one kind, or one of"):
        find_images(folder)
    (folder / "c.png").write_bytes(picture(0))
    (folder / "d.JPG").write_bytes(picture(0))
    with pytest.raises(QcamError, match=r"set holds 2 images and 1 \.tar and 1 \.parquet; "):
        find_images(folder)


def test_loose_images_behind_urls_follow_the_same_rules(folder: Any) -> None:
    for name in ("b.JPG", "a.png", "n/deep.d/er.png", "ü ö.gif", ".hidden.png", "n/.h/x.png", "x.txt", "x.tar.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(len(name)))
    found = find_images(folder)
    assert names(found) == ["a.png", "b.JPG", "n/deep.d/er.png", "ü ö.gif"]
    for image in found:
        assert image.path == folder / image.name
        same_picture(image, picture(len(image.name)))
    assert [decoded.sha256 for decoded in decode_all([image.path for image in found])] == [
        sha256_bytes(picture(len(image.name))) for image in found
    ]


@pytest.mark.parametrize("name", ["absent", "absent.tar", "photo.png"])
def test_places_without_a_folder_are_refused(folder: Any, name: str) -> None:
    (folder / "photo.png").write_bytes(picture(0))
    with pytest.raises(QcamError, match=rf"no image folder at .*set/{name}; give a folder"):
        find_images(folder / name)


def test_a_folder_without_images_is_refused(folder: Any) -> None:
    (folder / "x.txt").write_bytes(b"x")
    with pytest.raises(QcamError, match=r"no image in .*set; looked for files ending in \.apng .*, or \.tar or \.parquet"):
        find_images(folder)


@pytest.mark.usefixtures("on_terminal")
def test_archives_that_links_lead_to_outside_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outside.tar").write_bytes(tar([("a.png", picture(0))]))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "inside.tar").write_bytes(tar([("b.png", picture(0))]))
    (tmp_path / "set" / "link.tar").symlink_to(tmp_path / "outside.tar")
    assert names(find_images(tmp_path / "set")) == ["inside.tar/b.png"]
    assert "1 file is a link out of the folder: left out" in capsys.readouterr().err


def test_refused_credentials_give_one_line(object_store: str, refuse_credentials: Callable[[], None]) -> None:
    folder = open_location(object_store)
    (folder / "a.png").write_bytes(picture(0))
    (folder / "t" / "x.tar").write_bytes(tar([("a.png", picture(0))]))
    (folder / "p" / "x.parquet").write_bytes(parquet({"image": [picture(0)]}))
    found = find_images(folder / "t") + find_images(folder / "p") + [ImageFile("a.png", folder / "a.png")]
    refuse_credentials()
    for location in (folder, folder / "t", folder / "t" / "x.tar"):
        with pytest.raises(QcamError, match=f"cannot list {object_store}.*Access Key.*; check the URL, and the cred") as raised:
            find_images(location)
        assert "\n" not in str(raised.value)
        assert os.environ["AWS_ACCESS_KEY_ID"] not in str(raised.value)
    sources._row_groups._columns.clear()
    for image in found:
        assert refusal(image).startswith((f"{CANNOT_BE_READ}: The AWS Access Key Id", f"{CANNOT_BE_READ}: Forbidden"))
