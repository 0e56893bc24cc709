"""Networks by the hundred: which of torchvision's and timm's CNNs pass, code for code. Makes a table of docs/models.md.

    python benchmarks/networks/run.py [NETWORK]... [--minutes 60] [--only missing|failed|all]

Each network is exported with seeded weights that do something (`alive.py`), run in ONNX Runtime on photographs, and every
quantized tensor is held against the integer mirror (`measure.py`). Each has a process of its own, with a limit of memory and
of time. Finished rows go to `rows.jsonl` one by one, so that a run can end at any time and go on later; a row counts as
finished as long as the sources of the mirror are those that it was measured with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from names import THOROUGH, every_name
from page import write_page

from qcam.common.files import write_atomically

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROWS = HERE / "rows.jsonl"
#: Photographs that the networks of `THOROUGH` are looked at on, and the others.
MANY, FEW = 20, 2
OTHER_FAMILIES = ("avx2", "arm64")
#: Results that may say something of the seed, not of the network: codes that do not move, a CAM that no position speaks for,
#: float logits that weights without training blow up.
OF_THE_SEED = ("dead", "inexact", "undefined")
SEEDS = 4
#: What one network may take: GiB and minutes.
MEMORY, TIME = 24.0, 40.0


def source_hash() -> str:
    """Return the hash of what decides a row: the mirror, what it follows, and what makes the files."""
    digest = hashlib.sha256()
    paths = [*(ROOT / "runtime").rglob("*.py"), *(ROOT / "exporters").rglob("*.py"), *(ROOT / "calibration").rglob("*.py")]
    for path in sorted(paths):
        if "deployed" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def read_rows(path: Path = ROWS) -> dict[str, dict[str, Any]]:
    """Return network → row."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["network"]: row for row in rows}


def write_rows(rows: dict[str, dict[str, Any]], path: Path = ROWS) -> None:
    """Write all rows, sorted; whole or not at all."""
    text = "".join(json.dumps(rows[name], sort_keys=True) + "\n" for name in sorted(rows))
    write_atomically(path, text)


def measured(network: str, images: int, families: tuple[str, ...], memory: float, minutes: float) -> dict[str, Any]:
    """Measure a network, with the first of the seeds that make it do something."""
    seconds = 0.0
    for seed in range(SEEDS):
        row = _measured(network, images, families, seed, memory, minutes)
        seconds += row["seconds"]
        if row["result"] not in OF_THE_SEED:
            break
    return row | {"seconds": round(seconds, 1)}


def _measured(network: str, images: int, families: tuple[str, ...], seed: int, memory: float, minutes: float) -> dict[str, Any]:
    """Measure a network in a process of its own; what stops it becomes its row."""
    program = (
        "import json, sys, measure as m; name, images, seed, *families = sys.argv[1:]; "
        "print(json.dumps(m.measure(name, int(images), families, int(seed))))"
    )
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT / "src")]), "OMP_WAIT_POLICY": "PASSIVE"}
    log = ROOT / "build" / "networks" / f"{network.replace(':', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", program, network, str(images), str(seed), *families], stdout=subprocess.PIPE, stderr=errors,
            env=environment,
        )  # fmt: skip
    peak, reason, result = 0.0, "", "failed"
    while child.poll() is None and not reason:
        time.sleep(0.2)
        peak = max(peak, _taken(child.pid))
        if peak > memory or _available() < 0.5:
            reason = f"more memory than there is ({peak:.1f} GiB taken)"
            result = "limit" if peak > memory / 2 else "crowded"
        elif time.monotonic() - started > 60 * minutes:
            reason, result = f"more than {minutes:g} minutes", "limit"
    if reason:
        child.kill()
    output = child.stdout.read().decode() if child.stdout is not None else ""
    child.wait()
    if not reason and child.returncode == 0:
        row: dict[str, Any] = json.loads(output.splitlines()[-1])
        return row | {"peak_gib": round(peak, 1)}
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or [""]
    return {
        "network": network, "images": images, "seed": seed, "result": result,
        "reason": reason or last[0][:300], "seconds": round(time.monotonic() - started, 1), "peak_gib": round(peak, 1),
    }  # fmt: skip


def _taken(process: int) -> float:
    """Return the memory of a process, GiB; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def _available() -> float:
    """Return how much memory the machine still has, GiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20


def main() -> None:
    """Measure what is missing, row by row, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="by default all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further network after these")
    parser.add_argument(
        "--only", choices=("missing", "failed", "all"), default="missing",
        help="missing: networks without a row of these sources; failed: those that did not pass, too; all: every one again",
    )  # fmt: skip
    parser.add_argument("--memory", type=float, default=MEMORY, help="GiB that one network may take (default: %(default)g)")
    options = parser.parse_args()
    families, mirror = every_name(), source_hash()
    rows = read_rows()
    plan = options.networks or sorted(families, key=lambda name: (name in rows, name not in THOROUGH))
    started = time.monotonic()
    for number, network in enumerate(plan, 1):
        row = rows.get(network)
        fresh = row is not None and row.get("mirror") == mirror
        again = options.only == "all" or (options.only == "failed" and row is not None and row["result"] != "equal")
        if fresh and not again:
            continue
        if time.monotonic() - started > 60 * options.minutes:
            break
        thorough = network in THOROUGH
        row = measured(network, MANY if thorough else FEW, OTHER_FAMILIES if thorough else (), options.memory, TIME)
        if row["result"] != "crowded":  # others had the memory: nothing is known of the network
            rows[network] = row | {"mirror": mirror, "family": families.get(network, "")}
            write_rows(rows)
        print(f"[{number}/{len(plan)}] {network}: {row['result']} {row['reason']} ({row['seconds']:.0f} s)", flush=True)
    write_page(rows, families, mirror)


if __name__ == "__main__":
    main()
