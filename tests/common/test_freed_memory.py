"""Freed memory is kept for what is asked for next: its pages are not made anew."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from qcam.common import machine
if sys.argv[1] == "kept":
    machine.keep_freed_memory()
for _ in range(3):
    maps = [np.ones((224, 224)) for _ in range(4)]
    del maps
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    maps = [np.ones((224, 224)) for _ in range(4)]
    del maps
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(how: str, **more: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))} | more
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], env=environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's settings")
def test_pages_of_freed_maps_are_used_again():
    anew = new_pages("not kept")
    assert anew > 1000
    assert new_pages("kept") < anew / 10
    assert new_pages("kept", MALLOC_TRIM_THRESHOLD_="131072") > anew / 2  # what the user says holds
