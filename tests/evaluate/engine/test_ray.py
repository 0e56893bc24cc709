"""A local cluster of several raylets: whatever breaks, the run ends with all rows, none twice, like one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from studies import SAME, children, command, finish, hear_ctrl_c

from qcam.evaluate.engine.cluster import RayWorker

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

#: Of each node; the default is a third of the machine's memory.
STORE = 100 << 20


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of one core each, the head's has none: what is killed or removed is never the head."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    )
    made.nodes = [made.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    try:
        yield made
    finally:
        made.shutdown()


def line(cluster: Cluster, bundle: Any, photographs: Path, output: object, *options: object) -> list[str]:
    engine = ["--engine", "ray", "--ray-address", cluster.address]
    return command(bundle.folder, photographs, output, *engine, *options)


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a run and wait for its first part."""
    process = subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    until = time.monotonic() + 120
    while process.poll() is None and not list((folder / "out" / "parts").glob("*.parquet")) and time.monotonic() < until:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    return process


def actors() -> list[int]:
    """Return the processes of this test's cluster that evaluate."""
    found = []
    for pid in children(os.getpid()):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                if stream.read().startswith(b"ray::RayWorker"):
                    found.append(pid)
        except OSError:
            continue
    return found


def end(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return " ".join(err.split())


def test_an_actor_that_has_opened_nothing_says_so():
    with pytest.raises(RuntimeError, match="has no worker"):
        next(RayWorker().evaluate([], None))


@pytest.mark.slow
@pytest.mark.long
def test_a_cluster_ends_like_one_process(cluster, tiny_bundle, many, tmp_path, same_as: Callable[[Path], None]):
    done = finish(line(cluster, tiny_bundle, many, "out"), tmp_path)
    assert done.returncode == 0, done.stderr
    same_as(tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert sum(worker["shards"] for worker in run["workers"]) == 12
    assert run["plan"]["kernels"] is None
    assert {worker["kernel"] for worker in run["workers"]} == {run["kernels"]["family"]}
    refused = finish(line(cluster, tiny_bundle, many, "other", "--require", "kernel=arm64"), tmp_path)
    if run["kernels"]["family"] != "arm64":
        assert refused.returncode == 2
        assert "no worker can take part" in " ".join(refused.stderr.split())
        assert "--require kernel=arm64 wants others" in " ".join(refused.stderr.split())
        assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_worker_killed_in_mid_shard(cluster, tiny_bundle, many, tmp_path, same_as):
    process = start(line(cluster, tiny_bundle, many, "out"), tmp_path)
    os.kill(actors()[0], signal.SIGKILL)
    assert "a worker was lost, its shards are tried again" in end(process)
    same_as(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.long
def test_a_node_removed_and_one_added(cluster, tiny_bundle, many, tmp_path, same_as):
    process = start(line(cluster, tiny_bundle, many, "out"), tmp_path)
    cluster.remove_node(cluster.nodes[0], allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    end(process)
    same_as(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.long
def test_the_driver_killed_and_started_again(cluster, tiny_bundle, many, tmp_path, same_as):
    arguments = line(cluster, tiny_bundle, many, "out")
    process = start(arguments, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    again = finish(arguments, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "shards are done already; going on" in again.stderr
    same_as(tmp_path / "out")


@pytest.mark.long
def test_ctrl_c_stops_cleanly(cluster, tiny_bundle, many, tmp_path, same_as):
    arguments = line(cluster, tiny_bundle, many, "out")
    process = start(arguments, tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["complete"] is False
    until = time.monotonic() + 30
    while actors() and time.monotonic() < until:
        time.sleep(0.1)
    assert not actors()
    assert finish(arguments, tmp_path).returncode == 0
    same_as(tmp_path / "out")


#: A worker that takes 10 GiB when it is first given something to do.
HUNGRY = """
import sys, time
from pathlib import Path
import qcam.evaluate.engine.cluster as cluster

class Hungry(cluster.RayWorker):
    def evaluate(self, lease, destination):
        marker = Path({marker!r})
        if not marker.exists():
            marker.touch()
            held = []
            for _ in range(160):
                held.append(bytearray(b"x") * (64 << 20))
                time.sleep(0.05)
        yield from super().evaluate(lease, destination)

cluster.RayWorker = Hungry
from qcam.commands.eval import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_worker_out_of_memory(tiny_bundle, many, tmp_path, same_as, monkeypatch):
    """Ray's memory monitor ends it; the work goes to another."""
    with open("/proc/meminfo") as stream:
        meminfo = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in stream)}
    total, available = meminfo["MemTotal"], meminfo["MemAvailable"]
    if available < 12 << 20:
        pytest.skip("less than 12 GiB of memory are free")
    # A worker, the head and the driver take less than 3.5 GiB, tests that run beside this one may take 3 more; the hungry
    # one does not get its 10.
    monkeypatch.setenv("RAY_memory_usage_threshold", str((total - available + (13 << 19)) / total))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    try:
        (tmp_path / "driver.py").write_text(HUNGRY.format(marker=str(tmp_path / "marker")))
        arguments = line(made, tiny_bundle, many, "out")
        done = finish([arguments[0], "driver.py", *arguments[3:]], tmp_path)
    finally:
        made.shutdown()
    assert done.returncode == 0, done.stderr
    assert "a worker was lost, its shards are tried again: OutOfMemoryError" in " ".join(done.stderr.split())
    same_as(tmp_path / "out")


@pytest.mark.slow
def test_the_study_on_two_nodes_while_a_worker_is_killed(lite0_bundle, tmp_path):
    """Real weights, real photographs, three precisions; `make cluster` shows it."""
    script = Path(__file__).parents[2] / "scenarios" / "two_nodes.py"
    shown = finish([sys.executable, str(script), str(lite0_bundle.folder), "--output", str(tmp_path / "out")], tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "killed worker" in shown.stdout
    assert "a worker was lost, its shards are tried again" in " ".join(shown.stderr.split())
    assert f"{', '.join(SAME)} are the same, byte by byte" in shown.stdout


@pytest.mark.long
@pytest.mark.slow
def test_a_gpu_that_only_ray_knows_of_is_refused(tiny_bundle, many, tmp_path, monkeypatch):
    """Workers go where the GPUs are, and there it shows whether PyTorch finds one: never silently on the CPU."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "object_store_memory": STORE})
    try:
        made.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
        refused = finish(line(made, tiny_bundle, many, "out", "--gpus-per-worker", 0.5), tmp_path)
    finally:
        made.shutdown()
    assert refused.returncode == 2
    assert "no worker can take part: device cuda: PyTorch finds no CUDA device" in " ".join(refused.stderr.split())
    assert not (tmp_path / "out").exists()
