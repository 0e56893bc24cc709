"""Makes single.py importable as `mirror_single`: pytest's importlib mode puts no test folder on sys.path."""

import importlib.util
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

if "mirror_single" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("mirror_single", Path(__file__).with_name("single.py"))
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["mirror_single"] = _module
    _spec.loader.exec_module(_module)
