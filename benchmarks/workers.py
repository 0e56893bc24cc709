"""What a worker takes of memory and time: everything kept open, and in turns; and what was estimated of it.

    python benchmarks/workers.py BUNDLE... [--images 48] [--rounds 2] [--count 1 --count 3] [--against SRC] --json FILE

Each run is a process of its own, of one thread, and they alternate: networks with all sessions and mirrors kept open, and
networks that share 3 GB. `--against` names the `src` folder of another checkout, whose runs take part. The peak counts pages of
files, which the system takes back when memory gets short; what was anonymous of it is looked at 20 times a second, and told
beside it. Seconds are told twice, on the clock and of the processor: where others use the machine, the latter are the ones to
compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
from memory import augment

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import readable_json, write_atomically
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.saliency import open_saliency
from qcam.evaluate.study.study import Study
from qcam.images.listing import find_images
from qcam.runtime.bundle import load_bundle
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.devices import torch_device

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, required=True, type=FOLDER)
@click.option("--images", default=48, show_default=True, type=click.IntRange(1), help="Photographs.")
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1), help="Runs of each kind.")
@click.option("--count", "counts", multiple=True, type=click.IntRange(1), help="Numbers of networks; default: all.")
@click.option("--no-fake-quant", is_flag=True, help="Leave the simulation out.")
@click.option("--against", type=FOLDER, help="The src folder of another checkout.")
@click.option("--json", "json_path", required=True, type=click.Path(path_type=Path), help="Where the figures go.")
def main(
    bundles: tuple[Path, ...],
    images: int,
    rounds: int,
    counts: tuple[int, ...],
    no_fake_quant: bool,
    against: Path | None,
    json_path: Path,
) -> None:
    """Measure workers of the first so many of the bundles."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        augment(folder / "images", images)
        for count in counts or (len(bundles),):
            for round_ in range(rounds):
                for way in ("kept", "turns", *(["against"] if against else [])):
                    output = folder / f"{count}-{round_}-{way}"
                    source = against if way == "against" else None
                    told = measure(way, folder / "images", output, not no_fake_quant, bundles[:count], source)
                    found.append({"networks": count, "images": images, "way": way, "load": os.getloadavg()[0]} | told)
                    console.out.print(json.dumps(found[-1]), markup=False)
                    value = {"bundles": [path.name for path in bundles], "fake_quant": not no_fake_quant, "runs": found}
                    about = {"machine": machine.describe(), "versions": machine.versions()}
                    write_atomically(json_path, readable_json(value | about))  # what there is, should the next one fail


def measure(way: str, images: Path, output: Path, fake_quant: bool, bundles: tuple[Path, ...], source: Path | None) -> Any:
    """Run one worker in a process of its own; return what it tells."""
    own = {} if source is None else {"PYTHONPATH": os.pathsep.join([str(source), str(Path(__file__).parent)])}
    request = {"way": way, "images": str(images), "output": str(output), "fake_quant": fake_quant}
    command = [sys.executable, __file__, "--worker", json.dumps(request | {"bundles": list(map(str, bundles))})]
    done = subprocess.run(command, env=os.environ | own, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Be a worker: evaluate, and tell what it took."""
    bundles = [load_bundle(place) for place in request["bundles"]]
    options = StudyOptions((), SessionSettings(threads=1), saliency="spectral", fake_quant=request["fake_quant"])
    more, told = {}, {}
    if request["way"] != "against":
        from qcam.evaluate.run.evaluator import arrange
        from qcam.evaluate.run.memory import ROOM
        from qcam.evaluate.study.executor import ThisProcess

        room = ROOM if request["way"] == "turns" else None
        more["executor"] = partial(ThisProcess, room=room)
        arrangement = arrange(bundles, options, room)
        told = {"estimated_mib": arrangement.all_bytes / 2**20, "apart": len(arrangement.apart)}
    looked = Anonymous()
    looked.start()
    begin = time.perf_counter()
    photographs = find_images(Path(request["images"]))
    study = Study(bundles, photographs, open_saliency("spectral"), options, Path(request["output"]), **more)
    torch_device("cpu", 1)
    planned = study.prepare("cpu", force=False)
    planned.build()
    planned.executor.build = lambda _: None  # type: ignore[method-assign]  # once is enough
    start, used = time.perf_counter(), time.process_time()
    planned.run()
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    reopening = study.clock.seconds.get("open again", 0.0)
    return told | {
        "start": start - begin, "seconds": seconds, "processor_seconds": processor, "reopening": reopening, "peak_mib": peak(),
        "anonymous_mib": looked.most,
    }  # fmt: skip


def peak(what: str = "VmHWM") -> float:
    """Return the most memory that this process had, in MiB; or another line of what the system tells of it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not tell the peak of a process")


class Anonymous(threading.Thread):
    """Looks again and again at the memory of this process that is no page of a file.

    Attributes:
        most: The most that was seen, in MiB.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.most = max(self.most, peak("RssAnon"))
            time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(json.loads(sys.argv[2]))))
    else:
        main()
