"""Places behind paths and URLs: opened, listed, read, and never shown with credentials."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qcam.common.errors import QcamError
from qcam.common.storage import cache_folder, files_below, is_url, open_location, read_pieces, reason, shown

SECRET = "hush"


@pytest.mark.parametrize("text", ["s3://bucket/a", "gs://b", "memory://x/y", "file:///a", "S3://b", "hdfs://host:8020/a"])
def test_urls_are_told_from_paths(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["photos", "/a/b", "./s3:/b", "s3:/bucket/a", "a/s3://b", "C:\\photos", "", "://x"])
def test_paths_are_no_urls(text: str) -> None:
    assert not is_url(text)
    assert open_location(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///a/b c", "/a/b c"),
        ("file:///a%20b", "/a b"),
        ("file://localhost/a", "/a"),
        ("FILE:///a", "/a"),
        ("local:///a", "/a"),
    ],
)
def test_file_urls_are_paths(text: str, path: str) -> None:
    assert open_location(text) == Path(path)


@pytest.mark.parametrize("text", ["file://photos", "file://host/photos"])
def test_file_urls_of_other_machines_are_refused(text: str) -> None:
    with pytest.raises(QcamError, match="names no file of this machine"):
        open_location(text)


def test_a_place_stays_what_it_is() -> None:
    place = open_location("memory://a/b")
    assert open_location(place) is place
    assert open_location(Path("a")) == Path("a")


def test_places_behind_urls_join_and_pickle() -> None:
    place = open_location("s3://bucket/photos/")
    assert not isinstance(place, Path)
    assert str(place / "a b.jpg") == "s3://bucket/photos/a b.jpg"
    assert place.name == "photos"
    assert pickle.loads(pickle.dumps(place)) == place


@pytest.mark.usefixtures("object_store_endpoint")
def test_a_used_place_pickles_without_credentials() -> None:
    place = open_location("s3://bucket/photos")
    assert place.fs.protocol  # type: ignore[union-attr]
    data = pickle.dumps([place, place.fs and place / "x"])  # type: ignore[union-attr]
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in data
    assert os.environ["AWS_ACCESS_KEY_ID"].encode() not in data


def test_credentials_of_fsspec_s_configuration_are_not_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"key": "k-" + SECRET, "secret": SECRET})
    place = open_location("s3://bucket/photos")
    assert place.fs.storage_options["secret"] == SECRET  # type: ignore[union-attr]
    assert SECRET.encode() not in pickle.dumps(place)
    assert SECRET not in shown(place)


@pytest.mark.parametrize(
    "text",
    [
        f"s3://KEY:{SECRET}@bucket/a",
        f"s3://KEY:{SECRET}/x/{SECRET}@bucket/a",
        f"s3://{SECRET}@bucket/a",
        f"https://{SECRET}@host/a.tar",
        f"https://host/a.tar?X-Amz-Signature={SECRET}",
        f"sftp://user:{SECRET}@host/a",
        f"hdfs://user:{SECRET}@host:8020/a",
        f"abfs://container:{SECRET}@account.dfs.core.windows.net/a",
        f"webhdfs://host/a?delegation={SECRET}",
    ],
)
def test_urls_with_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(QcamError, match="carries credentials or a query; leave them out") as raised:
        open_location(text)
    assert SECRET not in str(raised.value)
    assert SECRET not in shown(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photos/a?b@c:d", "photos/a?b@c:d"),
        ("s3://bucket/a@b:c/d#e", "s3://bucket/a@b:c/d#e"),
        ("hdfs://host:8020/a@b", "hdfs://host:8020/a@b"),
        ("hdfs://user@host/a", "hdfs://user@host/a"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("https://host/a.tar#token", "https://host/a.tar"),
    ],
)
def test_what_is_no_credential_is_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_place_is_shown_with_its_host_and_its_file_as_named() -> None:
    assert shown(open_location("hdfs://host:8020/a/b")) == "hdfs://host:8020/a/b"
    assert shown(open_location("s3://bucket") / "what?.jpg") == "s3://bucket/what?.jpg"
    assert shown(Path("a?b")) == "a?b"


def test_an_unknown_file_system_is_refused() -> None:
    with pytest.raises(QcamError, match=r"nowhere://a/b: fsspec knows no file system nowhere; use a path, s3://"):
        open_location("nowhere://a/b")


def without(package: str, code: str) -> str:
    """Run code in a process in which a package cannot be imported; return the error it ends with."""
    header = f"import sys; sys.modules[{package!r}] = None\nfrom qcam.common.errors import QcamError\n"
    body = f"try:\n    {code}\nexcept QcamError as error: print(error)\n"
    return subprocess.run([sys.executable, "-c", header + body], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("package", "protocol", "extra"),
    [("fsspec", "s3", "s3"), ("upath", "s3", "s3"), ("fsspec", "gs", "gcs"), ("fsspec", "hdfs", "ray")],
)
def test_urls_without_the_libraries_name_the_extra(package: str, protocol: str, extra: str) -> None:
    said = without(package, f"from qcam.common.storage import open_location; open_location('{protocol}://bucket/a')")
    told = f'{protocol}://bucket/a is a URL, which is read by fsspec and universal_pathlib: pip install "qcam[{extra}]"'
    assert said == told


@pytest.mark.parametrize(("package", "url"), [("s3fs", "s3://b/a"), ("gcsfs", "gs://b/a"), ("adlfs", "abfs://b/a")])
def test_a_file_system_s_missing_package_is_named(package: str, url: str) -> None:
    said = without(package, f"from qcam.common.storage import open_location; open_location({url!r})")
    assert f"needs {package}: pip install {package}" in said
    assert "\n" not in said


def test_paths_need_neither_library() -> None:
    code = (
        "import sys; from qcam.images.listing import find_images; from qcam.common.storage import open_location\n"
        "open_location('a'); open_location('file:///a'); print(sorted({'fsspec', 'upath'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(13, "Permission denied"), "Permission denied"),
        (FileNotFoundError("bucket/key"), "no such file"),
        (PermissionError("Access Denied\nmore"), "Access Denied"),
        (ValueError(""), "ValueError"),
        (KeyError("x"), "'x'"),
    ],
)
def test_reasons_are_one_line(error: Exception, expected: str) -> None:
    assert reason(error) == expected


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder("x") == tmp_path / "a" / "x"
    monkeypatch.delenv("QCAM_CACHE")
    assert cache_folder("x") == tmp_path / "b" / "qcam" / "x"


# ---- listing and reading

Stores = ["memory_store", "object_store"]


@pytest.fixture(params=Stores)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_files_are_listed_at_any_depth(store: str) -> None:
    folder = open_location(store)
    for name in ("b.jpg", "a/c d.jpg", "a.b/x", "ü#?.jpg"):
        (folder / name).write_bytes(b"x")
    assert files_below(folder) == ["a.b/x", "a/c d.jpg", "b.jpg", "ü#?.jpg"]
    assert files_below(folder / "a") == ["c d.jpg"]
    assert files_below(folder / "nothing") == []
    (folder / "later.jpg").write_bytes(b"x")
    assert "later.jpg" in files_below(folder)


@pytest.mark.usefixtures("object_store_endpoint")
def test_a_bucket_that_is_not_there_is_empty() -> None:
    assert files_below(open_location("s3://no-such-bucket/a")) == []


def content(place: object) -> Callable[..., bytes]:
    return lambda *part: b"".join(read_pieces(place, *part))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250, 300])
def test_all_pieces_together_are_the_file(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("qcam.common.storage._PIECE", 100)
    data = bytes(range(256)) * 2
    for place in (open_location(store) / "file", tmp_path / "file"):
        place.write_bytes(data[:size])
        read = content(place)
        assert read() == data[:size]
        assert read(0, size) == data[:size]
        assert read(size // 2, size // 4) == data[size // 2 : size // 2 + size // 4]


def test_what_is_not_there_raises_oserror(store: str, tmp_path: Path) -> None:
    folder = open_location(store)
    (folder / "sub" / "file").write_bytes(b"12345")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"12345")
    for place in (folder, tmp_path):
        with pytest.raises(OSError, match=r"(?i)no such file"):
            content(place / "absent")()
        with pytest.raises(OSError, match=r"."):
            content(place / "sub")()
        with pytest.raises(OSError, match="the file ends at byte 5, before byte 7"):
            content(place / "sub" / "file")(3, 4)
        with pytest.raises(OSError, match=r"."):
            content(place / "sub" / "file")(90, 4)


def test_a_small_file_costs_one_request(object_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    place = open_location(object_store) / "file"
    place.write_bytes(b"x" * 100_000)
    asked: list[str] = []
    call = S3FileSystem._call_s3
    monkeypatch.setattr(S3FileSystem, "_call_s3", lambda self, name, *a, **k: asked.append(name) or call(self, name, *a, **k))
    assert len(content(place)()) == 100_000
    assert asked == ["get_object"]


def test_refused_credentials_are_an_oserror_of_one_line(object_store: str, refuse_credentials: Callable[[], None]) -> None:
    place = open_location(object_store)
    (place / "file").write_bytes(b"x")
    refuse_credentials()
    for use in (lambda: files_below(place), lambda: content(place / "file")()):
        with pytest.raises(OSError, match="Access Key") as raised:
            use()
        assert "\n" not in str(raised.value)
        assert os.environ["AWS_ACCESS_KEY_ID"] not in str(raised.value)


def test_a_server_that_ignores_ranges_is_told(memory_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_location(memory_store) / "file"
    place.write_bytes(b"x" * 100)
    monkeypatch.setattr(type(place.fs), "cat_file", lambda self, path, start=None, end=None: b"x" * 100)
    with pytest.raises(OSError, match="does not keep to byte ranges"):
        content(place)(10, 5)
