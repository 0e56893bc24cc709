"""Makes integer_cases.py, integer_operators.py and the emulators importable: importlib mode puts no test folder on sys.path."""

import sys
from pathlib import Path

# At the end: a folder of tests must not shadow an installed module.
for _folder in (Path(__file__).parent / "mirror/integer", Path(__file__).parents[1] / "emulation"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
