"""Image sets behind a web server: the same images, labels and bytes as on the disk; what changes under way is found out."""

from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from archive_writing import tar
from hostile import web_server as server
from hostile.web_server import Site

from qcam.common.errors import ImageSetError
from qcam.images.decoding import CANNOT_BE_READ, decode
from qcam.images.listing import find_images
from qcam.images.sources import fingerprint_source, fingerprint_sources, read_source

IMAGES = [os.urandom(3000 + 100 * number) for number in range(5)]


def table(images: list[bytes]) -> bytes:
    sink = io.BytesIO()
    labels = list(range(len(images)))
    pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": labels}), sink, row_group_size=2)
    return sink.getvalue()


@pytest.fixture(params=["folder", "set.tar", "set.parquet", "archives"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A place of images below a folder, and the folder."""
    root = tmp_path / "site"
    place = root / request.param
    place.parent.mkdir()
    if request.param == "folder":
        for number, data in enumerate(IMAGES):
            path = place / ("deep er" if number % 2 else ".") / f"{number} ü#%.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (place / "notes.txt").write_text("no picture")
    elif request.param == "set.parquet":
        place.write_bytes(table(IMAGES))
    elif request.param == "set.tar":
        place.write_bytes(tar(({f"{number}.jpg": data for number, data in enumerate(IMAGES)} | {"0.cls": b"3"}).items()))
    else:
        place.mkdir()
        for number in range(2):
            (place / f"{number}.parquet").write_bytes(table(IMAGES[number:]))
    return request.param, root


def test_images_behind_a_web_server_are_those_on_the_disk(files: tuple[str, Path]) -> None:
    name, root = files
    here = find_images(root / name)
    served = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with Site(served) as site:
        there = find_images(f"{site.url}/{name}")
        assert [(image.name, image.label, image.stated) for image in there] == [
            (image.name, image.label, image.stated) for image in here
        ]
        expected = [fingerprint_source(image.path) for image in here]
        assert list(fingerprint_sources([image.path for image in there])) == expected
        sent = pickle.loads(pickle.dumps(there))  # as workers get them
        assert [read_source(image.path) for image in sent] == [read_source(image.path) for image in here]


@pytest.mark.parametrize("name", ["set.tar", "set.parquet"])
def test_an_archive_that_changes_after_it_was_listed_is_not_read(tmp_path: Path, name: str) -> None:
    """Of the same length and, the Parquet file, of the same footer: labels would be others'."""
    equal = [os.urandom(3000) for _ in range(4)]
    if name.endswith(".tar"):
        for number, order in enumerate((equal, equal[::-1])):
            (tmp_path / f"{number}.tar").write_bytes(tar(({f"{place}.jpg": data for place, data in enumerate(order)}).items()))
        first, second = ((tmp_path / f"{number}.tar").read_bytes() for number in range(2))
    else:
        first, second = table(equal), table(equal[::-1])
    assert len(first) == len(second)
    with Site({name: first}) as site:
        found = find_images(f"{site.url}/{name}")
        assert list(fingerprint_sources([image.path for image in found[:1]])) == [fingerprint_source(found[0].path)]
        site.files[name] = second
        told = decode(found[-1].path).refusal
        assert told == f"{CANNOT_BE_READ}: it has changed since it was listed"
        assert list(fingerprint_sources([found[-1].path])) == [None]


def test_a_parquet_file_is_opened_by_the_footer_that_was_looked_at(tmp_path: Path) -> None:
    """On this machine as well: one that was written anew may hold a footer that ends the reader."""
    path = tmp_path / "x.parquet"
    path.write_bytes(table(IMAGES))
    found = find_images(path)
    path.write_bytes(table(IMAGES[:3]))
    assert decode(found[0].path).refusal == f"{CANNOT_BE_READ}: it has changed since it was listed"


def test_a_parquet_file_that_changes_before_it_is_listed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Site({"x.parquet": table(IMAGES)}) as site:
        site.odd["x.parquet"] = server.then(4, table(IMAGES[:3]))  # there, how long, its end, its footer
        with pytest.raises(ImageSetError, match=r"x\.parquet as a Parquet file: it has changed since it was listed"):
            find_images(f"{site.url}/x.parquet")


def test_what_has_no_end_is_fingerprinted_no_further_than_it_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcam.images.sources.MAX_BYTES", 1 << 20)
    with Site({"set/x.jpg": b""}, {"set/x.jpg": server.endless}) as site:
        (image,) = find_images(f"{site.url}/set")
        assert list(fingerprint_sources([image.path])) == [None]
        assert decode(image.path).refusal == "file larger than 256 MiB"
