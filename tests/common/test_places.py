import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcam.common.errors import QcamError
from qcam.common.places import file_name, file_names, inside, refuse_overlap, require_text, write_inside


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet50", "resnet50"),
        ("timm:resnet26d", "timm-resnet26d"),
        ("x/../../../etc/passwd", "x-..-..-..-etc-passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (".hidden", "hidden"),
        ("/etc/passwd", "-etc-passwd"),
        ("a\0b\nc\x1b[31m", "a-b-c--31m"),
        ("C:\\windows", "C--windows"),
        ("nul.png", "nul.png-"),
        ("größe", "größe"),
    ],
)
def test_a_name_becomes_a_file_name(text, name):
    assert file_name(text) == name


def test_a_long_name_keeps_its_beginning_and_stays_itself():
    first, second = file_name("a" * 5000), file_name("a" * 5001)
    assert len(first) == len(second) == 80
    assert first != second
    assert first.startswith("a" * 60)


@given(st.text())
def test_what_comes_out_is_one_step_of_a_path(text):
    name = file_name(text)
    assert name
    assert not name.startswith(".")
    assert len(name.encode("utf-8", "replace")) <= 81
    assert Path(name).name == name
    assert "\0" not in name


def test_names_that_become_the_same_are_kept_apart():
    assert file_names(["a:b", "a/b", "A-B", "c", "a:b"]) == ["a-b", "a-b-2", "A-B-3", "c", "a-b-4"]


def test_what_lies_inside_is_written(tmp_path):
    assert write_inside(tmp_path / "out", "figures/a.png", b"x").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../a", "figures/../../a", "/etc/a", "link/a", "a/link/../../../b", "loop/a", "", ".."])
def test_what_would_lie_outside_is_refused(tmp_path, name):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    (out / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (out / "loop").symlink_to(out / "loop")
    with pytest.raises(QcamError, match="would lie outside"):
        inside(out, name)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("output", "how"),
    [
        ("images", "is"), ("images/", "is"), ("images/.", "is"), ("x/../images", "is"), ("link", "is"), (".", "holds"),
        ("", "holds"), ("images/out", "lies in"), ("link/out", "lies in"), ("images/a/../b", "lies in"),
    ],
)  # fmt: skip
def test_results_do_not_go_among_what_is_read(tmp_path, monkeypatch, output, how):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    with pytest.raises(QcamError, match=rf"^output .* {how} the image folder \(images\): results would be mixed"):
        refuse_overlap(output, [("the image folder", "images")])
    with pytest.raises(QcamError, match=how):
        refuse_overlap(output, [("the mask folder", "masks"), ("the image folder", tmp_path / "images")])


@pytest.mark.parametrize("output", ["out", "images2", "imagesout", "../images", "s3://bucket/images"])
def test_other_places_are_free(tmp_path, monkeypatch, output):
    pytest.importorskip("s3fs")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refuse_overlap(output, [("the image folder", "images"), ("the bundle", "bundles/net")])


@pytest.mark.parametrize(
    ("output", "how"),
    [("s3://b/images", "is"), ("s3://b/images/", "is"), ("s3://b", "holds"), ("s3://b/images/out", "lies in")],
)
def test_urls_are_held_against_each_other(output, how):
    pytest.importorskip("s3fs")
    with pytest.raises(QcamError, match=how):
        refuse_overlap(output, [("the image set", "s3://b/images")])
    refuse_overlap("s3://b/images-out", [("the image set", "s3://b/images")])


def test_a_folder_that_links_to_itself_is_one_line(tmp_path):
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    refuse_overlap(tmp_path / "loop", [("the image set", tmp_path / "images")])


def test_a_place_whose_path_is_no_utf_8_is_refused_by_name(tmp_path, monkeypatch):
    for place in ("out", tmp_path / "größe", "file:///a/b", "memory://a/b"):
        require_text(place, "{output}")
    with pytest.raises(QcamError, match=r"^output .*: its path is no UTF-8"):
        require_text("a\udcff", "{output}")
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(QcamError, match=r"^output out: its path is no UTF-8"):
        require_text("out", "{output}")
