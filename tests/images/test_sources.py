"""Where images' bytes are: read, fingerprinted and handed on in order."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from archive_writing import parquet, picture, tar

from qcam.common import machine
from qcam.common.files import sha256_bytes, sha256_file
from qcam.common.storage import open_location
from qcam.images import decoding, sources
from qcam.images.decoding import decode_all
from qcam.images.listing import find_images
from qcam.images.sources import Cell, Span, absolute_source, fingerprint_source, fingerprint_sources, in_order


@pytest.mark.parametrize("base", ["memory_store", "object_store"])
def test_fingerprints_are_those_of_the_bytes_wherever_they_are(
    base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    remote = open_location(request.getfixturevalue(base))
    data = [picture(index) for index in range(7)]
    for folder in (tmp_path, remote):
        for name in ("loose", "tar", "parquet"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for index, each in enumerate(data):
            (folder / "loose" / f"{index}.png").write_bytes(each)
        (folder / "tar" / "x.tar").write_bytes(tar([(f"{index}.png", each) for index, each in enumerate(data)]))
        (folder / "parquet" / "x.parquet").write_bytes(parquet({"image": data}))
        for name in ("loose", "tar", "parquet"):
            found = [image.path for image in find_images(folder / name)]
            assert [fingerprint_source(path) for path in found] == [*map(sha256_bytes, data)]
            assert list(fingerprint_sources(found)) == [*map(sha256_bytes, data)]
            assert [decoded.sha256 for decoded in decode_all(found)] == [*map(sha256_bytes, data)]


def test_large_images_are_fingerprinted_though_they_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    monkeypatch.setattr("qcam.common.storage._PIECE", 300)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 10)
    assert fingerprint_source(path) == fingerprint_source(Span(path, 0, 2560)) == sha256_file(path)
    for source in (path, Span(path, 0, 2560)):
        (decoded,) = decode_all([source])
        assert (decoded.refusal, decoded.sha256) == ("file larger than 256 MiB", "")


def test_a_remote_image_larger_than_is_read_is_refused(object_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    monkeypatch.setattr("qcam.common.storage._PIECE", 300)
    place = open_location(object_store) / "file.png"
    place.write_bytes(b"x" * 5000)
    (decoded,) = decode_all([place])
    assert (decoded.refusal, decoded.sha256) == ("file larger than 256 MiB", "")
    assert fingerprint_source(place) == sha256_bytes(b"x" * 5000)


def test_what_cannot_be_read_has_no_fingerprint(tmp_path: Path, object_store: str) -> None:
    (tmp_path / "a").write_bytes(b"x")
    remote = open_location(object_store)
    (remote / "a").write_bytes(b"x")
    bad = [
        tmp_path / "b",
        tmp_path,
        Span(tmp_path / "a", 0, 5),
        Cell(tmp_path / "a", 0, 0, "image"),
        remote / "b",
        Span(remote / "a", 9, 5),
        Cell(remote / "a", 0, 0, "image"),
    ]
    found = list(fingerprint_sources([tmp_path / "a", *bad, remote / "a"]))
    assert found == [sha256_bytes(b"x"), *[None] * len(bad), sha256_bytes(b"x")]
    for source in bad:
        with pytest.raises(OSError, match=r"."):
            fingerprint_source(source)


def test_any_error_of_a_file_system_is_a_refusal(memory_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class BackendError(Exception):
        pass

    place = open_location(memory_store) / "a.png"
    place.write_bytes(picture(0))

    def fail(*_: object, **__: object) -> bytes:
        raise BackendError("the service is away\ntoken=hush")

    monkeypatch.setattr(type(place.fs), "cat_file", fail)
    for source in (place, Span(place, 0, 5)):
        (decoded,) = decode_all([source])
        assert decoded.refusal == f"{decoding.CANNOT_BE_READ}: the service is away"
        assert decoded.sha256 == ""
        assert list(fingerprint_sources([source])) == [None]


def test_remote_images_are_read_many_at_a_time_and_decoded_on_as_many_cores_as_there_are(
    memory_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    place = open_location(memory_store)
    paths = [place / f"{index}.png" for index in range(40)]
    for path in paths:
        path.write_bytes(picture(0))
    lock = threading.Lock()
    now, most = {"read": 0, "decode": 0}, {"read": 0, "decode": 0}

    def counted(kind, function):
        def run(argument):
            with lock:
                now[kind] += 1
                most[kind] = max(most[kind], now[kind])
            time.sleep(0.01)
            result = function(argument)
            with lock:
                now[kind] -= 1
            return result

        return run

    monkeypatch.setattr(decoding, "_read", counted("read", decoding._read))
    monkeypatch.setattr(decoding, "_decode_read", counted("decode", decoding._decode_read))
    assert sum(decoded.image is not None for decoded in decode_all(paths)) == 40
    assert 8 < most["read"] <= sources.REMOTE_READS
    assert most["decode"] <= 2


def test_order_is_kept_and_the_look_ahead_is_bounded() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.001 * (item % 3))
        return -item

    results = in_order(work, range(50), 4, ahead=6)
    for index in range(50):
        assert next(results) == -index
        assert len(started) <= index + 6
    assert list(results) == []


def test_an_iteration_that_is_left_starts_no_more() -> None:
    started: list[int] = []
    results = in_order(lambda item: started.append(item), range(1000), 2)
    next(results)
    results.close()
    assert len(started) < 10


def test_errors_end_the_iteration() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    results = in_order(work, range(10), 3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_local_sources_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative, remote = Path("a.tar"), open_location("memory://a/b.tar")
    assert absolute_source(relative) == tmp_path / "a.tar"
    assert absolute_source(Span(relative, 1, 2)) == Span(tmp_path / "a.tar", 1, 2)
    assert absolute_source(Cell(relative, 1, 2, "image")) == Cell(tmp_path / "a.tar", 1, 2, "image")
    for source in (remote, Span(remote, 1, 2), Cell(remote, 1, 2, "image")):
        assert absolute_source(source) == source


def test_sources_are_shown_by_file_and_place() -> None:
    location = open_location("s3://bucket/x.tar")
    assert str(Span(location, 512, 9)) == "s3://bucket/x.tar at byte 512"
    assert str(Cell(location, 2, 5, "image")) == "s3://bucket/x.tar at row 5 of row group 2"
