"""What a command imports: no more than what it is told to do needs (`--help`: tests/api/test_surface.py)."""

from __future__ import annotations

import subprocess
import sys


def test_a_report_needs_no_torch(tiny_bundle, tmp_path):
    from qcam.evaluate.run.options import StudyOptions
    from qcam.evaluate.study.study import Study
    from qcam.images.embedded import evaluation_photographs
    from qcam.images.listing import find_images

    images = find_images(evaluation_photographs()[0].path.parent, limit=2)
    options = StudyOptions(("f32", "int8"), saliency="none", fake_quant=False)
    study = Study([tiny_bundle], images, None, options, tmp_path / "run")
    study = study.prepare("cpu", force=False)
    study.run()
    code = (
        "import sys; from qcam.commands.report import main\n"
        f"try: main([{str(tmp_path / 'run')!r}, '--output', {str(tmp_path / 'report')!r}])\n"
        "finally: print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "report" / "report.html").is_file()
