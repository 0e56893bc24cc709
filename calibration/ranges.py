"""Activation ranges of a float graph, from calibration photographs, by the methods of `onnxruntime.quantization` or min-max.

The ranges are collected once and serve every integer precision of a bundle. Memory is bounded by the batch: histogram
methods, which ONNX Runtime lets collect whole tensors, are fed one batch at a time and merge their histograms.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from qcam.calibration.minmax import CalibrationError, minmax_ranges
from qcam.common.errors import ImageSetError, QcamError, first_line
from qcam.common.files import fingerprint
from qcam.common.vocabulary import CalibrationMethod, require
from qcam.images.decoding import decode_all
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile

#: Histogram methods keep every activation of a batch: fewer images at a time.
_BATCH = {"minmax": 4, "entropy": 2, "percentile": 2}
#: Photographs of which a manifest keeps the hash, at most: 7 MB of text.
MOST_HASHES = 100_000


@dataclass(frozen=True)
class CalibrationSet:
    """Photographs ready for calibration.

    Attributes:
        crops: uint8, images × height × width × 3, as the network crops them.
        names: The images' names, in order.
        sha256: The fingerprints of the images' files, in order.
        refused: `name: reason` of the images that could not be used.
    """

    crops: NDArray[np.uint8]
    names: tuple[str, ...]
    sha256: tuple[str, ...]
    refused: tuple[str, ...]

    def normalised_batches(self, preprocessing: Preprocessing, size: int) -> Iterator[NDArray[np.float32]]:
        """Yield the network inputs in batches of at most `size`: float32, batch × channels × height × width."""
        for start in range(0, len(self.crops), size):
            yield preprocessing.normalise(self.crops[start : start + size])

    def to_json(self, method: str) -> dict[str, Any]:
        """Return what the manifest records of the calibration: method, images, their hashes, and one fingerprint of all.

        Of more than `MOST_HASHES` photographs, the hashes of the first so many.
        """
        return {
            "method": method,
            "images": len(self.names),
            "refused": list(self.refused),
            "names": list(self.names),
            "sha256": list(self.sha256[:MOST_HASHES]),
            "fingerprint": fingerprint({"method": method, "images": list(self.sha256)}),
        }


def load_calibration_set(images: Sequence[ImageFile], preprocessing: Preprocessing) -> CalibrationSet:
    """Decode and crop the calibration photographs.

    Args:
        images: The photographs; those that cannot be decoded are left out and named.
        preprocessing: The network's preprocessing.

    Raises:
        ImageSetError: If not one photograph can be used.
    """
    crops, names, hashes, refused = [], [], [], []
    for image, decoded in zip(images, decode_all([image.path for image in images]), strict=True):
        if decoded.image is None:
            refused.append(f"{image.name}: {decoded.refusal}")
            continue
        crops.append(preprocessing.crop_image(decoded.image))
        names.append(image.name)
        hashes.append(decoded.sha256)
    if not crops:
        raise ImageSetError(f"no calibration photograph can be used; first refusal: {refused[0] if refused else 'none given'}")
    return CalibrationSet(np.stack(crops), tuple(names), tuple(hashes), tuple(refused))


class _OneBatch:
    """A calibration data reader over one batch, as ONNX Runtime's calibrators expect it."""

    def __init__(self, name: str, batch: NDArray[np.float32]) -> None:
        self._inputs: list[dict[str, NDArray[np.float32]]] = [{name: batch}]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next inputs by name, or None at the end."""
        return self._inputs.pop() if self._inputs else None


def collect_ranges(
    model: onnx.ModelProto,
    calibration: CalibrationSet,
    preprocessing: Preprocessing,
    method: str,
    on_images: Callable[[int], None] = lambda _count: None,
    *,
    symmetric: bool = False,
    cam_tensor: str = "",
) -> Any:
    """Run the float graph on the calibration photographs and return the range of every activation.

    Args:
        model: Float ONNX graph with one image input (dynamic batch).
        calibration: The photographs.
        preprocessing: The network's preprocessing.
        method: One of `CalibrationMethod`.
        on_images: Called with the number of images done since the last call.
        symmetric: Whether activations will be quantized symmetrically: then what a Relu or Clip reads carries codes, too.
        cam_tensor: Activation that will carry codes in any case.

    Returns:
        `onnxruntime.quantization.calibrate.TensorsData`, tensor name → range.

    Raises:
        QcamError: For an unknown method, or if a tensor's values have no finite range; the first such tensor is named.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorsData, create_calibrator

    require(CalibrationMethod, method, "calibration method")
    if method == "minmax":
        # What a Clip takes in is not measured below; a batch tells whether it overflows.
        if any(node.op_type == "Clip" for node in model.graph.node):
            _find_overflow(model, itertools.islice(calibration.normalised_batches(preprocessing, _BATCH[method]), 1))
        with tempfile.TemporaryDirectory(prefix="qcam-calibration-") as folder:
            batches = calibration.normalised_batches(preprocessing, _BATCH[method])
            ranges = minmax_ranges(model, Path(folder), batches, all_of_them=symmetric, keep=[cam_tensor], on_images=on_images)
        return TensorsData(quantization.CalibrationMethod.MinMax, ranges)
    chosen = {
        "entropy": quantization.CalibrationMethod.Entropy,
        "percentile": quantization.CalibrationMethod.Percentile,
    }[method]
    # Ranges stay asymmetric here; a scheme that wants symmetric activations widens them itself. ONNX Runtime's
    # percentile method is symmetric unless told otherwise, which would waste half of every ReLU's codes.
    options: dict[str, Any] = {"symmetric": False}
    # Entropy keeps ONNX Runtime's 128 bins: they hardly clip and so stay close to min-max. With 2,048 bins it clips so hard
    # that on 8 photographs EfficientNet-Lite0's int8 CAMs fall from CC 0.998 to 0.933 against f32's.
    name = model.graph.input[0].name
    with tempfile.TemporaryDirectory(prefix="qcam-calibration-") as folder, quiet_quantizer():
        source = Path(folder) / "model.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            # Every activation, also between operators that are not quantized: one of them may be the CAM layer.
            sorted({*quantizable_operators(), *(node.op_type for node in model.graph.node)}),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=chosen,
            extra_options=options,
        )
        try:
            for batch in calibration.normalised_batches(preprocessing, _BATCH[method]):
                with np.errstate(all="ignore"):
                    calibrator.collect_data(_OneBatch(name, batch))
                on_images(len(batch))
            with np.errstate(all="ignore"):
                found = calibrator.compute_data()
        except Exception as error:  # histograms of what is not finite fail in many ways
            _find_overflow(model, calibration.normalised_batches(preprocessing, _BATCH["minmax"]))
            raise QcamError(
                f"no ranges could be found with method {method}: {first_line(error)}; try {{method}} minmax"
            ) from error
    if not all(np.isfinite(np.asarray(bound)).all() for entry in found.data.values() for bound in entry.range_value):
        _find_overflow(model, calibration.normalised_batches(preprocessing, _BATCH["minmax"]))
    return found


def _find_overflow(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> None:
    """Raise `CalibrationError` if a tensor has no finite range on images."""
    with tempfile.TemporaryDirectory(prefix="qcam-calibration-") as folder:
        minmax_ranges(model, Path(folder), batches, all_of_them=True)


def overflow(model: onnx.ModelProto, images: NDArray[np.float32]) -> str:
    """Return the first tensor of a float graph that has no finite range on images, empty if all have."""
    try:
        _find_overflow(model, [images])
    except CalibrationError as error:
        return error.tensor
    return ""


def quantizable_operators() -> list[str]:
    """Return the operator types that ONNX Runtime's QDQ quantizer handles, sorted."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Hold back what the quantizer prints and logs to the root logger, which would look like qcam's own."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
