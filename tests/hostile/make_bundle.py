"""Makes a tiny bundle with the tree under attack: `make_bundle.py CONFTEST FOLDER SEED [ID]`, the network of its own tests."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path


def main(conftest: str, folder: str, seed: str, identity: str = "tiny") -> None:
    """Export the tests' tiny network."""
    sys.path.append(str(Path(conftest).parent / "helpers"))
    specification = importlib.util.spec_from_file_location("attacked_conftest", conftest)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["attacked_conftest"] = module
    specification.loader.exec_module(module)
    from qcam.exporters.export import ExportOptions, export_bundle

    model = replace(module.tiny_model(int(seed)), id=identity) if identity != "tiny" else module.tiny_model(int(seed))
    export_bundle(model, module.calibration_photographs()[:3], ExportOptions(), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
