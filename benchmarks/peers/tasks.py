"""What is timed, by name, what each is compared with, and the bars. Standard library only: both environments read it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

PRECISIONS = ("f32", "int16", "int8")
#: onnxruntime.InferenceSession on the bundle's file, asked for the logits only.
BARE = {precision: f"bare ONNX Runtime {precision}" for precision in PRECISIONS}
#: The deployed run, the tap's gradient and Grad-CAM++.
CAM = {precision: f"qcam CAM {precision}" for precision in PRECISIONS}
#: torch's eval(), NCHW, not compiled, and the same in the other order in memory.
TORCH = "torch f32 forward"
TORCH_LAST = "torch f32 forward, channels last"
FAKE_QUANT = "qcam mirror forward, fake-quant int8"
INTEGER = "qcam mirror forward, integer int8 (vnni)"
AVX2 = "qcam mirror forward, integer int8 (avx2)"
CHECK = "qcam-check's comparison of layers, int8"
#: Photographs of a whole check.
CHECK_IMAGES = 100
WHOLE_CHECK = f"qcam-check --no-other-cpus int8, {CHECK_IMAGES} images"
#: The run as it is deployed, and beside it the run that hands out every tensor.
EXPOSED = "qcam-check's exposed run int8"
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
    TORCH_LAST: TORCH,
    FAKE_QUANT: TORCH,
    INTEGER: TORCH,
    AVX2: TORCH,
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


#: What is run of a network: all tasks; bare runs, CAMs and mirrors, of the one whose tail is three large Gemms; mirrors alone,
#: of trained weights, of which more sums saturate.
WHOLE, TAIL, TRAINED = "whole", "tail", "trained"


@dataclass(frozen=True)
class Bar:
    """A ratio of tasks' times an image, and the bound that it is held against.

    Attributes:
        number: Of the bar.
        what: In words.
        numerators: Tasks; the one with the smallest median counts.
        denominators: The other tasks; their times are added up.
        bound: The bound.
        at_least: Whether the ratio may not be below it; else it may not be above it.
        kinds: Of which kinds of runs it is.
        models: Of which networks; none: of any.
    """

    number: int
    what: str
    numerators: tuple[str, ...]
    denominators: tuple[str, ...]
    bound: float
    at_least: bool = False
    kinds: tuple[str, ...] = (WHOLE,)
    models: tuple[str, ...] = ()


def _cam(precision: str, bound: float, *models: str, kinds: tuple[str, ...] = (WHOLE,)) -> Bar:
    """Return a bar on what a CAM costs beside bare inference."""
    what = f"{precision} CAM / bare {precision}"
    return Bar(1, what, (CAM[precision],), (BARE[precision],), bound, kinds=kinds, models=models)


def _mirror(what: str, task: str, bound: float, *models: str, number: int = 4, kinds: tuple[str, ...] = (WHOLE, TAIL)) -> Bar:
    """Return a bar on a mirror's forward run beside torch's."""
    return Bar(number, f"{what} / torch f32", (task,), (TORCH,), bound, kinds=kinds, models=models)


BARS = (
    _cam("int8", 1.05, "resnet50", "efficientnet_b0"),
    _cam("int8", 1.08, "mobilenet_v2"),
    _cam("int8", 1.15, "vgg16", kinds=(WHOLE, TAIL)),
    _cam("f32", 1.10),
    Bar(2, "paper's pipeline / int8 CAM", (PAPER,), (CAM["int8"],), 25, at_least=True),
    Bar(2, "pytorch-grad-cam, its faster batch / f32 CAM", (GRAD_CAM, GRAD_CAM_ONE), (CAM["f32"],), 5, at_least=True),
    *(Bar(3, f"{name} CAM / bare {name}", (CAM[name],), (BARE[name],), 1.6, kinds=(TAIL,)) for name in ("f32", "int16")),
    _mirror("fake-quant mirror", FAKE_QUANT, 0.8, "resnet50", "vgg16", "mobilenet_v2", "efficientnet_b0"),
    _mirror("integer mirror", INTEGER, 0.5, "resnet50", "vgg16"),
    _mirror("integer mirror", INTEGER, 0.8, "mobilenet_v2", "efficientnet_b0"),
    _mirror("AVX2 arithmetic", AVX2, 1.2, "resnet50", "efficientnet_lite0", "mobilenet_v2", number=5, kinds=(TRAINED,)),
    Bar(6, "check / (exposed run + integer mirror)", (WHOLE_CHECK,), (EXPOSED, INTEGER), 1.5, models=("resnet50",)),
)
#: Networks whose trained weights bars ask for.
OF_TRAINED = tuple(dict.fromkeys(model for bar in BARS if TRAINED in bar.kinds for model in bar.models))


def bars_of(model: str, kinds: Collection[str]) -> list[Bar]:
    """Return the bars of a network.

    Args:
        model: Its name.
        kinds: What is run of it.
    """
    return [bar for bar in BARS if not set(kinds).isdisjoint(bar.kinds) and (not bar.models or model in bar.models)]
