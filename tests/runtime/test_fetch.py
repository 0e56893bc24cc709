"""Bundles behind URLs: fetched once, whole, and held against their manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hostile.web_server import Site

from qcam.common.errors import QcamError
from qcam.common.storage import open_location
from qcam.evaluate.run.inputs import load_bundles
from qcam.runtime.bundle import MANIFEST, Bundle, load_bundle
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.fetch import fetch_bundle


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bundles"


@pytest.fixture(params=["memory_store", "object_store"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def upload(folder: Path, url: str, **changed: bytes | None) -> str:
    """Bring a bundle to a URL, files changed or left out; return the URL."""
    place = open_location(url)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        data = changed.get("_".join((*name.parts[:-1], name.stem)), path.read_bytes())
        if data is not None:
            (place / name.as_posix()).write_bytes(data)
    return url


def edited(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads((bundle.folder / MANIFEST).read_text())
    change(value)
    return json.dumps(value).encode()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_behind_a_url_is_the_bundle(store: str, cache: Path, tiny_bundle: Bundle) -> None:
    url = upload(tiny_bundle.folder, f"{store}/models/tiny")
    folder = fetch_bundle(url)
    assert folder.name == "tiny"
    assert folder.parent.parent == cache
    assert folder.parent.name == hashlib.sha256((tiny_bundle.folder / MANIFEST).read_bytes()).hexdigest()[:32]
    assert contents(folder) == contents(tiny_bundle.folder)
    for given in (url, f"{url}/", open_location(url)):
        bundle = load_bundle(given)
        assert bundle.fingerprint == tiny_bundle.fingerprint
        assert bundle.folder == folder
    assert list(contents(cache)) == [f"{folder.parent.name}/tiny/{name}" for name in contents(folder)]


def test_commands_take_urls_and_paths(store: str, cache: Path, tiny_bundle: Bundle) -> None:
    url = upload(tiny_bundle.folder, f"{store}/tiny")
    loaded = load_bundles((url, tiny_bundle.folder, str(tiny_bundle.folder), tiny_bundle.folder.as_uri()))
    assert {bundle.fingerprint for bundle in loaded} == {tiny_bundle.fingerprint}
    assert [bundle.folder for bundle in loaded[1:]] == [tiny_bundle.folder] * 3


def test_a_local_bundle_is_not_copied(cache: Path, tiny_bundle: Bundle) -> None:
    assert fetch_bundle(tiny_bundle.folder) == tiny_bundle.folder
    assert fetch_bundle(str(tiny_bundle.folder)) == tiny_bundle.folder
    assert not cache.exists()


def test_another_cache_may_be_given(store: str, cache: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    folder = fetch_bundle(upload(tiny_bundle.folder, f"{store}/tiny"), tmp_path / "other")
    assert folder.is_relative_to(tmp_path / "other")
    assert not cache.exists()


def test_a_bundle_that_is_there_costs_its_manifest(
    object_store: str, cache: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    asked: list[str] = []
    call = S3FileSystem._call_s3
    url = upload(tiny_bundle.folder, f"{object_store}/tiny")
    monkeypatch.setattr(
        S3FileSystem, "_call_s3", lambda self, name, *a, **k: asked.append(k.get("Key", name)) or call(self, name, *a, **k)
    )
    load_bundle(url)
    assert sorted(asked) == ["tiny/bundle.json", "tiny/f32.onnx", "tiny/int16.onnx", "tiny/int8.onnx"]
    asked.clear()
    load_bundle(url)
    assert asked == ["tiny/bundle.json"]


def test_a_bundle_exported_anew_is_another_one(
    store: str, cache: Path, export_tiny: Any, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    url = upload(tiny_bundle.folder, f"{store}/tiny")
    first = fetch_bundle(url)
    other = export_tiny(tmp_path / "other", seed=1)
    second = fetch_bundle(upload(other.folder, url))
    assert first != second
    assert load_bundle(first).fingerprint == tiny_bundle.fingerprint
    assert load_bundle(second).fingerprint == other.fingerprint


@pytest.mark.parametrize("damage", ["cut", "gone", "changed", "manifest"])
def test_a_damaged_copy_is_fetched_again(store: str, cache: Path, tiny_bundle: Bundle, damage: str) -> None:
    url = upload(tiny_bundle.folder, f"{store}/tiny")
    folder = fetch_bundle(url)
    match damage:
        case "cut":
            os.truncate(folder / "int8.onnx", 100)
        case "gone":
            (folder / "f32.onnx").unlink()
        case "changed":
            (folder / "int16.onnx").write_bytes(b"x" * (folder / "int16.onnx").stat().st_size)
        case "manifest":
            (folder / MANIFEST).write_text("{}")
    assert fetch_bundle(url) == folder
    assert contents(folder) == contents(tiny_bundle.folder)


def refused(url: str, cache: Path, message: str) -> None:
    with pytest.raises(QcamError, match=message) as raised:
        load_bundle(url)
    assert "\n" not in str(raised.value)
    assert not cache.exists() or contents(cache) == {}


def test_a_changed_file_is_refused_and_leaves_nothing(store: str, cache: Path, tiny_bundle: Bundle) -> None:
    data = bytearray((tiny_bundle.folder / "int8.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    url = upload(tiny_bundle.folder, f"{store}/tiny", int8=bytes(data))
    refused(url, cache, rf"^{store}/tiny/int8\.onnx is not the file that was exported \(its SHA-256 differs\)")


def test_a_missing_file_is_refused_and_leaves_nothing(store: str, cache: Path, tiny_bundle: Bundle) -> None:
    url = upload(tiny_bundle.folder, f"{store}/tiny", int16=None)
    refused(url, cache, rf"^{store}/tiny/int16\.onnx is missing; export the bundle again")


@pytest.mark.parametrize("url", ["absent", "", "tiny/bundle.json"])
def test_a_place_without_a_manifest_is_no_bundle(store: str, cache: Path, tiny_bundle: Bundle, url: str) -> None:
    upload(tiny_bundle.folder, f"{store}/tiny")
    refused(f"{store}/{url}", cache, r"is no bundle: it has no bundle\.json; make one with qcam\.export")


@pytest.mark.usefixtures("object_store_endpoint")
def test_a_bucket_that_is_not_there_holds_no_bundle(cache: Path) -> None:
    refused("s3://no-such-bucket/tiny", cache, r"^s3://no-such-bucket/tiny is no bundle")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"", "export the bundle again"),
        (b"\xff", "export the bundle again"),
        (b"[]", "the whole is a list and has to be an object"),
        (b'{"schema_version": 1}', "model is missing; export the bundle again"),
        (b" " * (1 << 26) + b"{}", "more than 64 MiB"),
    ],
)
def test_a_broken_manifest_is_refused(
    memory_store: str, cache: Path, tiny_bundle: Bundle, manifest: bytes, message: str
) -> None:
    url = upload(tiny_bundle.folder, f"{memory_store}/tiny", bundle=manifest)
    refused(url, cache, rf"{memory_store}/tiny/bundle\.json.*{message}")


@pytest.mark.parametrize("name", ["../f32.onnx", "/etc/f32.onnx", "a/../../f32.onnx"])
def test_a_file_outside_the_bundle_is_refused(store: str, cache: Path, tiny_bundle: Bundle, name: str) -> None:
    manifest = edited(tiny_bundle, lambda value: value["precisions"][0].update(file=name))
    url = upload(tiny_bundle.folder, f"{store}/tiny", bundle=manifest)
    (open_location(store) / "f32.onnx").write_bytes((tiny_bundle.folder / "f32.onnx").read_bytes())
    refused(url, cache, rf"^{store}/tiny/bundle\.json names {name}, which lies outside the bundle")


def test_weights_in_further_files_without_a_hash_are_refused(
    store: str, cache: Path, tiny_bundle: Bundle, external_bundle: Bundle
) -> None:
    model = onnx.load(tiny_bundle.path("f32"))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    data = model.SerializeToString()
    manifest = edited(tiny_bundle, lambda value: value["precisions"][0].update(sha256=hashlib.sha256(data).hexdigest()))
    url = upload(tiny_bundle.folder, f"{store}/tiny", bundle=manifest, f32=data)
    message = rf"^{store}/tiny/f32\.onnx keeps weight .* in weights\.bin, of which bundle\.json has no SHA-256; make the bundle"
    refused(url, cache, message)
    (open_location(url) / "weights.bin").write_bytes(b"\0" * 10000)
    refused(url, cache, message)
    manifest = edited(external_bundle, lambda value: value["precisions"][1].pop("external"))
    url = upload(external_bundle.folder, f"{store}/outside", bundle=manifest)
    refused(url, cache, rf"^{store}/outside/int16\.onnx keeps weight .* in weights/int16\.bin, of which bundle\.json has no")


def test_a_bundle_with_weights_in_further_files_is_fetched_whole(store: str, cache: Path, external_bundle: Bundle) -> None:
    url = upload(external_bundle.folder, f"{store}/outside")
    bundle = load_bundle(url)
    assert contents(bundle.folder) == contents(external_bundle.folder)
    assert bundle.fingerprint == external_bundle.fingerprint
    image = np.zeros((1, 3, 32, 32), np.float32)
    for name in ("f32", "int8"):
        here, there = (DeployedModel(each, name, SessionSettings()).run(image) for each in (external_bundle, bundle))
        assert np.array_equal(here.logits, there.logits)
    (bundle.folder / "weights/int8.bin").write_bytes(b"damaged")
    assert contents(load_bundle(url).folder) == contents(external_bundle.folder)


@pytest.mark.parametrize(("data", "message"), [(b"\1", "is not the file that was exported"), (None, "is missing; export")])
def test_a_changed_or_missing_further_file_is_refused_and_leaves_nothing(
    store: str, cache: Path, external_bundle: Bundle, data: bytes | None, message: str
) -> None:
    url = upload(external_bundle.folder, f"{store}/outside", weights_f32=data)
    refused(url, cache, rf"^{store}/outside/weights/f32\.bin {message}")


@pytest.mark.parametrize("name", ["../w.bin", "/etc/w.bin", "a/../../w.bin", "a\\w.bin"])
def test_a_further_file_outside_the_bundle_is_not_fetched(store: str, cache: Path, external_bundle: Bundle, name: str) -> None:
    manifest = edited(external_bundle, lambda value: value["precisions"][0].update(external={name: "0" * 64}))
    refused(upload(external_bundle.folder, f"{store}/outside", bundle=manifest), cache, "it leads out of the folder")


def test_a_bundle_behind_a_web_server_is_the_bundle(cache: Path, external_bundle: Bundle) -> None:
    files = {f"my models/tiny/{name}": data for name, data in contents(external_bundle.folder).items()}
    with Site(files) as site:
        for url in (f"{site.url}/my models/tiny", f"{site.url}/my%20models/tiny/"):
            bundle = load_bundle(url)
            assert bundle.folder.name == "tiny"
            assert contents(bundle.folder) == contents(external_bundle.folder)
        assert site.asked["my models/tiny/f32.onnx"] == 1


def test_refused_credentials_give_one_line(
    object_store: str, cache: Path, tiny_bundle: Bundle, refuse_credentials: Callable[[], None]
) -> None:
    url = upload(tiny_bundle.folder, f"{object_store}/tiny")
    refuse_credentials()
    refused(url, cache, rf"^cannot read {url}/bundle\.json: The AWS Access Key Id .*; check the URL, and the credentials in")


def test_a_cache_that_cannot_be_written_is_told(memory_store: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QcamError, match=r"cannot write to .*file"):
        fetch_bundle(upload(tiny_bundle.folder, f"{memory_store}/tiny"), tmp_path / "file")


def test_nothing_written_holds_credentials(object_store: str, cache: Path, tiny_bundle: Bundle) -> None:
    fetch_bundle(upload(tiny_bundle.folder, f"{object_store}/tiny"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert not [path for path, data in contents(cache).items() if os.environ[name].encode() in data]


def test_processes_that_fetch_at_once_all_succeed(object_store: str, cache: Path, tiny_bundle: Bundle) -> None:
    url = upload(tiny_bundle.folder, f"{object_store}/tiny")
    code = (
        "import sys, time; from qcam.runtime.fetch import fetch_bundle; import s3fs\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); print(fetch_bundle(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, url, str(time.time() + 3)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=60)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    (folder,) = found
    assert contents(Path(folder)) == contents(tiny_bundle.folder)
    assert len(list(cache.rglob("*"))) == 2 + len(contents(tiny_bundle.folder))  # nothing is left over


def test_the_loser_of_a_race_takes_the_winner_s(
    memory_store: str, cache: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(tiny_bundle.folder, f"{memory_store}/tiny")
    from qcam.runtime import fetch

    one_file = fetch._fetch_file

    def slowly(source: Any, target: Path, sha256: str) -> None:
        one_file(source, target, sha256)
        winner = target.parent.parent / "tiny"
        if not winner.exists():
            shutil.copytree(tiny_bundle.folder, winner)

    monkeypatch.setattr(fetch, "_fetch_file", slowly)
    folder = fetch_bundle(url)
    assert contents(folder) == contents(tiny_bundle.folder)
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
