"""How long `import qcam` and the help of each command take, against the bare interpreter: the median of some processes.

Run: `python benchmarks/start_up.py --repeats 9`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

#: What is timed; the first is what every Python program pays.
PROGRAMS = {
    "python alone": "pass",
    "import qcam": "import qcam",
    "qcam.QcamError": "import qcam; qcam.QcamError",
    **{
        f"{name} --help": f"from qcam.commands.{module} import main\ntry: main(['--help'])\nexcept SystemExit: pass"
        for name, module in (
            ("qcam", "qcam"),
            ("qcam-export", "export"),
            ("qcam-eval", "eval"),
            ("qcam-check", "check"),
            ("qcam-report", "report"),
        )
    },
}


def seconds(code: str) -> float:
    """Return how long a process that runs a program lives."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    bare = 0.0
    print("| program | seconds | more than python alone |\n| --- | ---: | ---: |")
    for name, code in PROGRAMS.items():
        seconds(code)  # files come from the disk once
        median = statistics.median(seconds(code) for _ in range(repeats))
        bare = bare or median
        print(f"| {name} | {median:.3f} | {median - bare:.3f} |")


if __name__ == "__main__":
    main()
