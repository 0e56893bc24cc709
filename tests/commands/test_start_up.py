"""What a command imports before it is told what to do: nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "pyarrow", "scipy", "statsmodels", "matplotlib", "jinja2")


@pytest.mark.parametrize(
    "module",
    ["qcam.commands.export", "qcam.commands.eval", "qcam.commands.check", "qcam.commands.report", "qcam.commands.fetch"],
)
def test_help_needs_nothing_heavy(module):
    code = (
        f"import sys; from {module} import main\n"
        "try: main(['--help'])\n"
        f"finally: print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_report_needs_no_torch(tiny_bundle, tmp_path):
    from qcam.evaluate.run.options import StudyOptions
    from qcam.evaluate.study.study import Study
    from qcam.images.embedded import evaluation_photographs
    from qcam.images.listing import find_images

    images = find_images(evaluation_photographs()[0].path.parent, limit=2)
    options = StudyOptions(("f32", "int8"), saliency="none", fake_quant=False)
    study = Study([tiny_bundle], images, None, options, tmp_path / "run")
    study.prepare("cpu", force=False)
    study.run()
    code = (
        "import sys; from qcam.commands.report import main\n"
        f"try: main([{str(tmp_path / 'run')!r}, '--output', {str(tmp_path / 'report')!r}])\n"
        "finally: print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "report" / "report.html").is_file()
