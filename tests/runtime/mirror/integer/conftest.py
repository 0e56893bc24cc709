"""Makes quantized.py and operators.py importable: pytest's importlib mode puts no test folder on sys.path."""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

# At the end: a folder of tests must not shadow an installed module. The second one holds the emulators' own.
for _folder in (Path(__file__).parent, Path(__file__).parents[3] / "emulation"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
