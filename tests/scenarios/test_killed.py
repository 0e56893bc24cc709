"""A run that is killed, at any moment and more than once, ends by the same command like one that was left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from qcam.evaluate.results.clipping import CLIPPING
from qcam.evaluate.results.folder import IMAGES, MAPS, PICTURES, RESULTS, SUMMARY
from qcam.images.embedded import evaluation_photographs

#: Whatever is a matter of figures; run.json and placement.json hold times and names of kernels besides.
SAME = (RESULTS, MAPS, PICTURES, CLIPPING, IMAGES, SUMMARY)


@pytest.fixture(scope="module")
def whole(shared_once, tiny_bundle):
    """Real photographs under 320 names, three of them damaged, and beside them the results of a run that was left alone."""

    def make(place):
        (place / "photographs").mkdir(parents=True)
        images = evaluation_photographs()
        for index in range(320):
            shutil.copy(images[index % len(images)].path, place / "photographs" / f"{index:03d}.jpg")
        for index in (5, 40, 77):
            data = (place / "photographs" / f"{index:03d}.jpg").read_bytes()
            (place / "photographs" / f"{index:03d}.jpg").write_bytes(data[: len(data) // 2])
        done = finish(arguments(tiny_bundle.folder, place / "photographs", "results"), place)
        assert done.returncode == 0, done.stderr

    return shared_once("killed", make)


@pytest.fixture
def photographs(whole):
    return whole / "photographs"


def arguments(bundle, photographs, output):
    options = ["--saliency", "spectral", "--batch-size", "4", "--workers", "1", "--grid-rows", "0", "--no-report"]
    options += ["--output", output]
    return [sys.executable, "-m", "qcam.commands.eval", str(bundle), "--images", str(photographs), *options]


def finish(command, cwd):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_the_same(tiny_bundle, photographs, whole, tmp_path):
    command = arguments(tiny_bundle.folder, photographs, "out")
    chance = random.Random(20261124)
    kills, out = 0, tmp_path / "out"
    for attempt in range(40):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        done = len(list((out / "parts").glob("*.parquet")))
        # Each process may finish a shard more or none; then it is killed at some moment of the next, or while joining.
        wanted = done + chance.randint(0, 1)
        until = time.monotonic() + 120
        while process.poll() is None and len(list((out / "parts").glob("*.parquet"))) < wanted and time.monotonic() < until:
            time.sleep(0.002)
        if done < 8 and wanted == done:  # also before the first shard, wherever start-up happens to be
            time.sleep(chance.uniform(0.0, 4.0))
        time.sleep(chance.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0 or attempt >= 6:
            break
    assert kills >= 4
    last = finish(command, tmp_path)
    assert last.returncode == 0, last.stderr
    for name in SAME:
        assert (out / name).read_bytes() == (whole / "results" / name).read_bytes(), name
    assert json.loads((out / "run.json").read_text())["complete"] is True
    assert {path.name for path in out.iterdir()} == {path.name for path in (whole / "results").iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own has to be mounted, which only root may")
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tiny_bundle, photographs, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = finish(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], tmp_path)
    if mounted.returncode:
        pytest.skip(f"no disk could be mounted here: {mounted.stderr.strip()}")
    try:
        command = arguments(tiny_bundle.folder, photographs, str(disk / "out"))
        full = finish(command, tmp_path)
        assert full.returncode == 2
        errors = [line for line in full.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert "No space left on device" in errors[0]
        assert "Traceback" not in full.stderr
        finish(["mount", "-o", "remount,size=100m", str(disk)], tmp_path)
        resumed = finish(command, tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert "shards are done already; going on" in resumed.stderr
        for name in SAME:
            assert (disk / "out" / name).read_bytes() == (whole / "results" / name).read_bytes(), name
    finally:
        finish(["umount", str(disk)], tmp_path)


def test_a_dry_run_tells_the_plan_and_writes_nothing(tiny_bundle, photographs, whole, tmp_path):
    command = [*arguments(tiny_bundle.folder, photographs, "out"), "--saliency-cache", "none"]
    before = sorted(tmp_path.rglob("*"))
    planned = finish([*command, "--dry-run"], tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert sorted(tmp_path.rglob("*")) == before
    text = planned.stdout
    assert "images: 320 in 20 shards of up to 16" in text
    assert "model: tiny (random weights), f32, int16, int8" in text
    assert "rows: 2,880 in results.parquet" in text  # 320 images, 3 precisions, 3 comparisons
    assert "time: about 0:00:" in text
    (stated,) = [line for line in text.splitlines() if line.startswith("bytes: about ")]
    number, unit = stated.split()[2:4]
    claimed = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    shutil.copytree(whole / "results", tmp_path / "out")
    real = sum((tmp_path / "out" / name).stat().st_size for name in (RESULTS, MAPS, PICTURES, CLIPPING))
    assert 0.5 < claimed / real < 2
    again = finish([*command, "--dry-run"], tmp_path)
    assert "already holds the complete results" in again.stdout
