"""Make the good files anew that manifests and results are fuzzed from: `PYTHONPATH=tests python -m fuzz.good` (half a minute).

They are committed, so that an input means the same for as long as they are left alone. After a change of format, make them anew
and look at what of the corpus has lost its meaning.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from fuzz.harness import GOOD

_TESTS = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the bundle and the results."""
    sys.path[:0] = [str(_TESTS), str(_TESTS / "helpers")]
    import conftest

    import qcam
    from qcam.evaluate.results.folder import RUN, write_run
    from qcam.exporters.export import ExportOptions, export_bundle
    from qcam.images.embedded import evaluation_photographs

    for name in ("bundle", "results"):
        shutil.rmtree(GOOD / name, ignore_errors=True)
    export_bundle(conftest.tiny_model(), conftest.calibration_photographs()[:3], ExportOptions(), GOOD / "bundle")
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        for image in evaluation_photographs()[:2]:
            shutil.copy(image.path, photographs / image.name)
        results = Path(folder) / "results"
        qcam.study(
            GOOD / "bundle", images=photographs, saliency="spectral", saliency_cache="none", output=results, threads=1,
            report=False, grid_rows=0,
            precisions=("f32", "int8"),
        )  # fmt: skip
        (GOOD / "results").mkdir()
        for path in sorted(results.iterdir()):
            if path.suffix == ".parquet" or path.name in (RUN, "summary.json", "placement.json"):
                shutil.copy(path, GOOD / "results" / path.name)
    run = json.loads((GOOD / "results" / RUN).read_text())
    for worker in run["workers"]:
        worker["node"] = "worker"  # no name of a machine
    run.pop("digest")
    write_run(GOOD / "results" / RUN, run)


if __name__ == "__main__":
    main()
