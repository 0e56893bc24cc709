"""Bundles, images and results behind URLs: a real object store on this machine, the same results as on its disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs
from studies import SAME, command, finish

from qcam.evaluate.results.folder import RESULTS, RUN, read_rows


@pytest.fixture
def remote(object_store: str, tiny_bundle, many: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A bucket with the bundle and the photographs."""
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "cache"))
    files = s3fs.S3FileSystem()
    files.put(str(tiny_bundle.folder) + "/", f"{object_store}/bundle/", recursive=True)
    files.put(str(many) + "/", f"{object_store}/photographs/", recursive=True)
    return object_store


def line(base: str, *options: object) -> list[str]:
    return command(f"{base}/bundle", f"{base}/photographs", f"{base}/out", *options)


def fetch(base: str, folder: Path) -> Path:
    """Bring the results here with nothing of qcam's."""
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.get(f"{base}/out/", str(folder) + "/", recursive=True)
    return folder


def names(base: str) -> list[str]:
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    root = f"{base}/out/".removeprefix("s3://")
    return sorted(path.removeprefix(root) for path in files.find(root))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_all_behind_urls_like_all_on_the_disk(remote, tmp_path, same_as: Callable[[Path], None], workers):
    done = finish(line(remote, "--workers", workers), tmp_path)
    assert done.returncode == 0, done.stderr
    found = fetch(remote, tmp_path / "fetched")
    same_as(found)
    assert json.loads((found / RUN).read_text())["complete"] is True
    assert {*SAME, "run.json", "placement.json", "table.md", "table.csv", "table.tex"} == set(names(remote))  # no part is left
    assert f"results: {remote}/out/" in done.stdout
    # What is written and said holds no credential, nor the store's address.
    said = done.stdout + done.stderr + (found / RUN).read_text() + (found / "table.md").read_text()
    for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        assert os.environ[secret] not in said
    again = finish(line(remote, "--workers", workers), tmp_path)
    assert again.returncode == 0, again.stderr
    assert "already holds the complete results" in again.stderr


@pytest.mark.slow
def test_killed_and_gone_on_from_another_machine(remote, tmp_path, same_as, monkeypatch):
    """Nothing that the first run left on its own disk is needed."""
    process = subprocess.Popen(line(remote, "--workers", 1), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while process.poll() is None and not any("parts/" in name for name in names(remote)) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    monkeypatch.setenv("QCAM_CACHE", str(tmp_path / "other machine"))
    again = finish(line(remote, "--workers", 2), tmp_path)
    assert again.returncode == 0, again.stderr
    assert "shards are done already; going on" in again.stderr
    same_as(fetch(remote, tmp_path / "fetched"))


@pytest.mark.long
def test_results_that_could_not_be_brought_there_are_not_lost(remote, tmp_path, same_as):
    """Whatever happens between the last shard and the last file: the parts stay until all is there."""
    arguments = line(remote, "--workers", 1)
    code = (
        "import qcam.evaluate.report.finishing as finishing\n"
        "def interrupted(*_, **__): raise KeyboardInterrupt\n"
        "finishing.draw = interrupted\n"
        "from qcam.commands.eval import main\n"
        "if __name__ == '__main__': main()\n"
    )
    (tmp_path / "driver.py").write_text(code)
    stopped = finish([arguments[0], "driver.py", *arguments[3:]], tmp_path)
    assert stopped.returncode == 130, stopped.stderr
    assert len([name for name in names(remote) if name.startswith("parts/")]) == 12
    again = finish(arguments, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "12 of 12 shards are done already; going on" in again.stderr
    same_as(fetch(remote, tmp_path / "fetched"))
    assert not [name for name in names(remote) if name.startswith("parts/")]


@pytest.mark.long
def test_what_was_deleted_there_is_computed_again_whatever_the_copy_holds(remote, tmp_path):
    short = [*line(remote, "--workers", 1), "--limit", "8"]
    assert finish(short, tmp_path).returncode == 0
    s3fs.S3FileSystem(skip_instance_cache=True).rm(f"{remote}/out", recursive=True)
    again = finish(short, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "already holds" not in again.stderr
    assert "results.parquet" in names(remote)


@pytest.mark.long
def test_an_interrupted_run_leaves_readable_results_there(remote, tmp_path):
    process = subprocess.Popen(line(remote, "--workers", 2), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while process.poll() is None and not any("parts/" in name for name in names(remote)) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    found = fetch(remote, tmp_path / "fetched")
    run = json.loads((found / RUN).read_text())
    assert run["complete"] is False
    done = sum(worker["shards"] for worker in run["workers"])
    assert 0 < done < 20
    assert len({row.image for row in read_rows(found / RESULTS)}) == 16 * done


@pytest.mark.long
def test_other_settings_are_refused_there_too(remote, tmp_path):
    short = [*line(remote, "--workers", 1), "--limit", "8"]
    assert finish(short, tmp_path).returncode == 0
    other = finish([*short, "--cam", "gradcam"], tmp_path)
    assert other.returncode == 2
    assert f"{remote}/out holds results of other settings (--cam gradcam++ → gradcam)" in " ".join(other.stderr.split())
    forced = finish([*short, "--cam", "gradcam", "--force"], tmp_path)
    assert forced.returncode == 0, forced.stderr
    assert json.loads((fetch(remote, tmp_path / "fetched") / RUN).read_text())["plan"]["options"]["method"] == "gradcam"


def test_a_store_that_refuses_is_one_line(remote, tmp_path, refuse_credentials):
    refuse_credentials()
    refused = finish(line(remote, "--workers", 1), tmp_path)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert [row for row in refused.stderr.splitlines() if row.startswith("error:")]


@pytest.mark.long
def test_a_cluster_reads_and_writes_behind_urls(remote, tmp_path, same_as):
    pytest.importorskip("ray")
    done = finish(line(remote, "--engine", "ray", "--workers", 2), tmp_path, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"})
    assert done.returncode == 0, done.stderr
    same_as(fetch(remote, tmp_path / "fetched"))
