"""What is timed, by name, what each is compared with, and the bars. Standard library only: both environments read it."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("f32", "int16", "int8")
#: onnxruntime.InferenceSession on the bundle's file, asked for the logits only.
BARE = {precision: f"bare ONNX Runtime {precision}" for precision in PRECISIONS}
#: The deployed run, the tap's gradient and Grad-CAM++.
CAM = {precision: f"qcam CAM {precision}" for precision in PRECISIONS}
TORCH = "torch f32 forward"
FAKE_QUANT = "qcam mirror forward, fake-quant int8"
INTEGER = "qcam mirror forward, integer int8 (vnni)"
CHECK = "qcam-check's comparison of layers, int8"
GRAD_CAM = "pytorch-grad-cam f32, the same batch"
GRAD_CAM_ONE = "pytorch-grad-cam f32, batch 1"
PAPER = "paper's pipeline int8 (torch-cam 0.4.0), batch 1"
PAPER_NEWER = "paper's pipeline int8 (torch-cam 0.5.0), batch 1"
ESP_PPQ = "esp-ppq executor, the int8 file"
ESP_PPQ_OWN = "esp-ppq executor, its own int8 graph"
PPQ = "ppq executor, the int8 file"
REFERENCE = "onnx.reference, the int8 file, batch 1"
LOSS_DEBUG = "qdq_loss_debug, int8"

#: Task → what its time is divided by. The others are divided by nothing.
BASELINE = {
    **{CAM[precision]: BARE[precision] for precision in PRECISIONS},
    FAKE_QUANT: TORCH,
    INTEGER: TORCH,
    GRAD_CAM: CAM["f32"],
    GRAD_CAM_ONE: CAM["f32"],
    PAPER: CAM["int8"],
    PAPER_NEWER: CAM["int8"],
    ESP_PPQ: FAKE_QUANT,
    ESP_PPQ_OWN: FAKE_QUANT,
    PPQ: FAKE_QUANT,
    REFERENCE: FAKE_QUANT,
    LOSS_DEBUG: CHECK,
}


@dataclass(frozen=True)
class Bar:
    """A ratio of two tasks' times an image, and the bound that it is held against.

    Attributes:
        number: Of the bar.
        what: In words.
        numerators: Tasks; the one with the smallest median counts.
        denominator: The other task.
        bound: The bound.
        at_least: Whether the ratio may not be below it; else it may not be above it.
    """

    number: int
    what: str
    numerators: tuple[str, ...]
    denominator: str
    bound: float
    at_least: bool = False


BARS = (
    Bar(1, "int8 CAM / bare int8", (CAM["int8"],), BARE["int8"], 1.15),
    Bar(1, "f32 CAM / bare f32", (CAM["f32"],), BARE["f32"], 1.10),
    Bar(2, "paper's pipeline / int8 CAM", (PAPER,), CAM["int8"], 25, at_least=True),
    Bar(2, "pytorch-grad-cam, its faster batch / f32 CAM", (GRAD_CAM, GRAD_CAM_ONE), CAM["f32"], 5, at_least=True),
    Bar(4, "fake-quant mirror / torch f32", (FAKE_QUANT,), TORCH, 2),
    Bar(4, "integer mirror / torch f32", (INTEGER,), TORCH, 3),
)
#: Those of the model whose tail is three large Gemms, by precision.
TAIL_BARS = tuple(Bar(3, f"{name} CAM / bare {name}", (CAM[name],), BARE[name], 1.6) for name in PRECISIONS)
