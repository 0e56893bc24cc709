"""A study on a local cluster of two nodes, while one of its workers is killed, beside the same study in one process.

    python tests/scenarios/two_nodes.py BUNDLE --output DIR

The demo photographs, each also mirrored, at all precisions of the bundle. Exit code 0 if both end with the same files.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
from PIL import ImageOps

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from studies import SAME, children

from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs

#: Of each node; Ray's default is a third of the machine's memory.
STORE = 100 << 20


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder that does not exist.")
def main(bundle: Path, output: Path) -> None:
    """Run both and compare."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    photographs = output / "photographs"
    photographs.mkdir(parents=True)
    for each in evaluation_photographs():
        picture = decode(each.path).image
        assert picture is not None
        picture.save(photographs / f"{Path(each.name).stem}.png")
        ImageOps.mirror(picture).save(photographs / f"{Path(each.name).stem}-mirrored.png")
    command = [sys.executable, "-m", "qcam.commands.eval", str(bundle), "--images", str(photographs), "--threads", "1"]
    command += ["--batch-size", "4", "--target", "f32-top1"]

    click.echo("two nodes of one core each")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        engine = ["--engine", "ray", "--ray-address", cluster.address, "--output", str(output / "cluster")]
        process = subprocess.Popen(command + engine)
        parts = output / "cluster" / "parts"
        while process.poll() is None and not list(parts.glob("*.parquet")):
            time.sleep(0.02)
        victim = next(pid for pid in children(os.getpid()) if _is_worker(pid))
        os.kill(victim, signal.SIGKILL)
        click.echo(f"killed worker {victim} after {len(list(parts.glob('*.parquet')))} finished shards")
        if process.wait():
            sys.exit(f"the run on the cluster ended with {process.returncode}")
    finally:
        cluster.shutdown()

    click.echo("one process")
    subprocess.run([*command, "--workers", "1", "--output", str(output / "local")], check=True)
    differing = [name for name in SAME if (output / "cluster" / name).read_bytes() != (output / "local" / name).read_bytes()]
    shards = sum(worker["shards"] for worker in json.loads((output / "cluster" / "run.json").read_text())["workers"])
    if differing:
        sys.exit(f"{', '.join(differing)} differ between the cluster and one process")
    click.echo(f"{shards} shards; {', '.join(SAME)} are the same, byte by byte")


def _is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::RayWorker")
    except OSError:
        return False


if __name__ == "__main__":
    main()
