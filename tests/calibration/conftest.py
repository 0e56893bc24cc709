"""Makes archive_writing.py importable: pytest's importlib mode puts no test folder on sys.path."""

import sys
from pathlib import Path

if str(Path(__file__).parent) not in sys.path:
    sys.path.append(str(Path(__file__).parent))  # at the end: a folder of tests must not shadow an installed module
