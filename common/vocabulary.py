"""Closed vocabularies: each word that a command, an option or a file may use is defined once, and checked where it enters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from qcam.common.errors import QcamError


class Target(StrEnum):
    """Which class is explained: f32's choice for every precision, each precision's own (the paper), or the label."""

    F32_TOP1 = "f32-top1"
    OWN_TOP1 = "own-top1"
    LABEL = "label"


class CamMethod(StrEnum):
    """How a map is made: `-relu` for negative activations, `-torchcam` what the paper ran; the last ones use no gradient."""

    GRADCAM_PLUS_PLUS = "gradcam++"
    GRADCAM_PLUS_PLUS_RELU = "gradcam++-relu"
    GRADCAM = "gradcam"
    TORCHCAM = "gradcam++-torchcam"
    HIRESCAM = "hirescam"
    LAYERCAM = "layercam"
    EIGENCAM = "eigencam"
    ABLATION = "ablation"
    OCCLUSION = "occlusion"
    RISE = "rise"


class Reference(StrEnum):
    """What figures of maps are held against: changed inputs, another picture's CAM, and what of the salient object is free."""

    ONE_LEVEL = "one_level"
    JPEG95 = "jpeg95"
    JPEG75 = "jpeg75"
    ONE_PIXEL = "one_pixel"
    FLOOR = "floor"
    SHUFFLED = "objects_shuffled"
    CENTRED = "objects_centred"
    BEST = "objects_best"
    AREA = "objects_area"


#: References that are a unit of drift, the default first: what else moves f32's maps.
UNITS = (Reference.JPEG95, Reference.ONE_LEVEL, Reference.JPEG75, Reference.ONE_PIXEL, Reference.FLOOR)


class ReferenceImages(StrEnum):
    """Of which images there are reference rows: the first 64, all, or none."""

    FAST = "fast"
    ALL = "all"
    NONE = "none"


class Scheme(StrEnum):
    """How int8 is quantized: asymmetric activations with integer kernels on x86, or symmetric ones for TensorRT."""

    U8S8 = "u8s8"
    S8S8 = "s8s8"


class Arithmetic(StrEnum):
    """How the mirror computes: in float32 between quantizers, or as the integer kernels do."""

    FAKE_QUANT = "fake_quant"
    INTEGER = "integer"


class Device(StrEnum):
    """Where PyTorch computes; auto takes a GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Protocol(StrEnum):
    """What a study runs: the deployed model, or what the paper's authors ran in PyTorch."""

    DEPLOYED = "deployed"
    PAPER = "paper"


class Engine(StrEnum):
    """Who evaluates: processes of this machine, or a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"


class Requirement(StrEnum):
    """What can be required of a worker: kernels of its CPU, an instruction set of it, or a GPU by its name."""

    KERNEL = "kernel"
    FEATURE = "feature"
    GPU = "gpu"


class LabelFormat(StrEnum):
    """How labels are read; auto takes names, and numbers as indices only where all of them are indices."""

    AUTO = "auto"
    INDEX = "index"
    INDEX1 = "index1"
    NAME = "name"
    WNID = "wnid"
    NONE = "none"


class CalibrationMethod(StrEnum):
    """How ranges come from activations; ONNX Runtime's `Distribution` is left out on purpose: it gave unusable models."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


class Interpolation(StrEnum):
    """How a photograph is resampled; always antialiased."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Layout(StrEnum):
    """The order of the axes of a file's input: channels before or behind height and width."""

    NCHW = "NCHW"
    NHWC = "NHWC"


class InputType(StrEnum):
    """The type of a file's input."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class InputValues(StrEnum):
    """What a file's input holds: normalised values, or pixels on 0..1 or 0..255 that the graph normalises itself."""

    NORMALISED = "normalised"
    UNIT = "unit"
    PIXELS = "pixels"


class ColourMap(StrEnum):
    """Colours of CAMs. All but jet, the paper's, are perceptually even and readable for colour-blind people."""

    INFERNO = "inferno"
    VIRIDIS = "viridis"
    CIVIDIS = "cividis"
    JET = "jet"


#: CAM method → what it is called in prose.
CAM_NAMES = {
    CamMethod.GRADCAM_PLUS_PLUS: "Grad-CAM++",
    CamMethod.GRADCAM_PLUS_PLUS_RELU: "Grad-CAM++ (relu in alpha)",
    CamMethod.GRADCAM: "Grad-CAM",
    CamMethod.TORCHCAM: "Grad-CAM++ (as torch-cam)",
    CamMethod.HIRESCAM: "HiResCAM",
    CamMethod.LAYERCAM: "LayerCAM",
    CamMethod.EIGENCAM: "Eigen-CAM",
    CamMethod.ABLATION: "Ablation-CAM",
    CamMethod.OCCLUSION: "occlusion map",
    CamMethod.RISE: "RISE map",
}
#: The precisions that qcam exports, in the order of every table; bundles may hold others.
PRECISIONS = ("f32", "int16", "int8")
#: What the name of a precision may be, those of other tools too.
PRECISION_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
#: ONNX operator set of an export that asks for none.
DEFAULT_OPSET = 21

Word = TypeVar("Word", bound=StrEnum)


def words(vocabulary: type[StrEnum]) -> list[str]:
    """Return the words of a vocabulary, the default first."""
    return [word.value for word in vocabulary]


def require(vocabulary: type[Word], text: str, what: str) -> Word:
    """Return a word of a vocabulary.

    Args:
        vocabulary: One of those above.
        text: What was given.
        what: What it is, for the message: `target`, `CAM method` …

    Raises:
        QcamError: If it is none of them; lists them.
    """
    try:
        return vocabulary(text)
    except ValueError as error:
        raise QcamError(f"{what} {text!r} is unknown; choose one of {', '.join(words(vocabulary))}") from error


def near(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return those of the known names that are most like a name, the most like first; none if nothing is near."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=count, cutoff=0.6)
