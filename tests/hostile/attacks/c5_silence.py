"""C5: exceptions without a text, and a bug."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hostile.harness import Attack, Scene, Verdict, fell, held, snapshot

_SECRET = "hunter2-of-the-environment"
_SESSION = "onnxruntime.InferenceSession"
_TABLE = "pyarrow.parquet.read_table"
#: Errors without a text that can be shown, as code.
_NO_TEXT = "type('E', (Exception,), {'__str__': lambda self: 1 / 0})()"
_ARROW = "__import__('pyarrow').ArrowInvalid()"
#: An error where a local variable holds the whole environment.
_ENVIRONMENT = "RuntimeError(f'{len(environment := dict(__import__(\"os\").environ)) > 0}')"


def _raising(target: str, error: str = "Exception()") -> str:
    """Return code that lets a function raise."""
    owner, _, name = target.rpartition(".")
    lines = [
        "import click, onnx, onnxruntime, pyarrow.parquet, torch",
        "def fail(*arguments, **options):",
        f"    raise {error}",
    ]
    return "\n".join([*lines, f"{owner}.{name} = fail"])


def _silent(target: str, command: str, *names: str, error: str = "Exception()") -> Callable[[Scene], Verdict]:
    """Let a function of another package fail without a word."""

    def run(scene: Scene) -> Verdict:
        (scene.work / "net.onnx").write_bytes((scene.ground.bundle / "f32.onnx").read_bytes())
        torch.save({"weight": torch.zeros(3)}, scene.work / "weights.pth")
        words: dict[str, tuple[object, ...]] = {
            "qcam-eval": (scene.ground.bundle, "--images", scene.ground.photographs, "--output", "out", "--saliency", "none"),
            "qcam-check": (scene.ground.bundle, "--images", scene.ground.photographs, "--output", "out", "--limit", 2),
            "qcam-report": (scene.ground.run, "--output", "out"),
            "qcam-export": ("mobilenet_v2", "--weights", "weights.pth", "--precision", "f32", "--output", "out"),
        }
        saliency = ("--saliency", "onnx:net.onnx") if "net.onnx" in names else ()
        outcome = scene.run(command, *words[command], *saliency, prelude=_raising(target, error))
        return outcome.refused(*names)

    return run


def _bug(error: str, command: str) -> Callable[[Scene], Verdict]:
    """Let the command's own code fail: exit 70, one line, a file with the traceback that gives nothing away."""

    def run(scene: Scene) -> Verdict:
        scene.variables["QCAM_TEST_SECRET"] = _SECRET
        good = scene.ground.run
        words = (good, "--output", "out") if command == "qcam-report" else (scene.ground.bundle, "--output", "out")
        outcome = scene.run(command, *words, prelude=_raising("click.Command.invoke", error))
        if "Traceback (most recent call last)" in outcome.err + outcome.out:
            return fell("traceback on the terminal")
        if outcome.code != 70:
            return fell(f"exit {outcome.code}")
        lines = [line for line in outcome.err.splitlines() if line.strip()]
        if len(lines) != 1:
            return fell(f"{len(lines)} lines on the terminal")
        left = [
            path
            for path in (scene.work / "cache").rglob("*")
            if path.is_file() and "Traceback" in path.read_text("utf-8", "replace")
        ]
        if len(left) != 1:
            return fell(f"{len(left)} files with a traceback below the cache folder")
        if left[0].name not in outcome.err:
            return fell("the file with the traceback is not named")
        if _SECRET in left[0].read_text("utf-8", "replace"):
            return fell("the traceback's file holds values of the environment")
        if (scene.work / "out").exists() and snapshot(scene.work / "out"):
            return fell("something is left in --output")
        return held("exit 70, one line, the traceback in a file of the cache folder")

    return run


_RUNS = [
    ("ONNX Runtime's session fails without a word", _silent(_SESSION, "qcam-eval", "f32.onnx")),
    ("the same, in the saliency network", _silent(_SESSION, "qcam-eval", "net.onnx", "f32.onnx")),
    ("the same, qcam-check", _silent(_SESSION, "qcam-check", "f32.onnx")),
    ("ONNX Runtime says a newline only", _silent(_SESSION, "qcam-eval", "f32.onnx", error="Exception('\\n')")),
    ("ONNX Runtime's text cannot be made", _silent(_SESSION, "qcam-eval", "f32.onnx", error=_NO_TEXT)),
    ("ONNX Runtime says ESC", _silent(_SESSION, "qcam-eval", "f32.onnx", error="Exception('\\x1b[31mred')")),
    ("onnx.load fails without a word", _silent("onnx.load", "qcam-eval", "f32.onnx")),
    ("torch.load fails without a word", _silent("torch.load", "qcam-export", "weights.pth")),
    ("Parquet reading fails without a word", _silent(_TABLE, "qcam-report", ".parquet", error="OSError()")),
    ("Arrow fails without a word", _silent(_TABLE, "qcam-report", ".parquet", error=_ARROW)),
    ("a bug without a word", _bug("RuntimeError('')", "qcam-eval")),
    ("a bug with two lines and ESC", _bug("KeyError('one\\ntwo\\x1b[31m')", "qcam-eval")),
    ("a bug beside the whole environment", _bug(_ENVIRONMENT, "qcam-eval")),
    ("a bug, qcam-report", _bug("RuntimeError('')", "qcam-report")),
    ("a bug, qcam-check", _bug("RuntimeError('')", "qcam-check")),
    ("a bug, qcam-export", _bug("AssertionError()", "qcam-export")),
]  # fmt: skip
ATTACKS = [Attack(f"C5.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
