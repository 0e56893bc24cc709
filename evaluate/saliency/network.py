"""Salient-object networks in ONNX Runtime: U²-Net, IS-Net, BiRefNet's export, any from an image to a map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.errors import QcamError, first_line
from qcam.common.files import fingerprint, sha256_bytes
from qcam.evaluate.saliency.preparation import PROCEDURE, finished_map, network_input
from qcam.evaluate.saliency.settings import LARGEST_SIDE, OUTPUTS, NetworkSettings
from qcam.evaluate.saliency.source import NoMapError, Silent
from qcam.images.sources import ImageFile
from qcam.runtime.bounded import refuse_unbounded
from qcam.runtime.bundle import read_onnx
from qcam.runtime.tables import SHAPE_OPERATORS
from qcam.runtime.wellformed import refuse_damaged


class NetworkSaliency(Silent):
    """A salient-object network in ONNX Runtime on the CPU.

    Attributes:
        name: As given on the command line.
        fingerprint: Of the file and the settings.
        threshold: Probability below which a map is all background.
        size: Height and width of the input, and of the map as a rule.
    """

    def __init__(self, name: str, path: Path, settings: NetworkSettings, threads: int = 0) -> None:
        """Load the network.

        Raises:
            QcamError: If the file cannot be loaded, or is no network from images to maps.
        """
        import onnxruntime

        self.name = name
        if not path.is_file():
            raise QcamError(f"no salient-object network at {path}; give {{saliency}} onnx:FILE, masks:DIR or none")
        self.threshold = settings.background
        model = read_onnx(path)  # with the weights of all its tensors, wherever they lie: they belong to the fingerprint
        refuse_damaged(model, str(path))
        refuse_unbounded(model, str(path), (3, settings.size, settings.size))
        weights = sha256_bytes(model.SerializeToString(deterministic=True))
        outputs = [output.name for output in model.graph.output]
        if not -len(outputs) <= settings.index < len(outputs):
            raise QcamError(f"{path} has {len(outputs)} outputs, number {settings.index} was asked for")
        self._output = outputs[settings.index]
        makers = {output: node for node in model.graph.node for output in node.output}
        last = makers.get(self._output)
        for _ in model.graph.node:  # no more steps than nodes: a file may hold a circle
            if last is None or last.op_type not in (*SHAPE_OPERATORS, "Cast", "Resize"):
                break
            last = makers.get(last.input[0])
        settings = _declared(path, settings, "" if last is None else last.op_type)
        self._settings = settings
        self.fingerprint = fingerprint({"model": weights, "settings": repr(settings), "procedure": PROCEDURE})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise QcamError(f"cannot load salient-object network {path}: {first_line(error)}") from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
        batch, channels = shape[:2] if len(shape) == 4 else (0, 0)
        # Sizes that the file leaves open are names or None.
        if (isinstance(batch, int) and batch != 1) or (isinstance(channels, int) and channels != 3):
            found = ", ".join(f"{each.type} {each.shape}" for each in inputs) or "no input"
            raise QcamError(f"{path} does not take one float32 image (1 × 3 × height × width) but {found}")
        self._input = inputs[0].name
        height, width = (side if isinstance(side, int) else settings.size for side in shape[2:])
        if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
            raise QcamError(f"{path} takes images of {height} × {width} pixels; a side has to be 1 to {LARGEST_SIDE}")
        self.size: tuple[int, int] = (height, width)

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the map of the whole image at the network's resolution (arguments and errors as in `SaliencySource`)."""
        batch = network_input(image, self._settings, self.size)
        try:
            raw = self._session.run([self._output], {self._input: batch})[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise NoMapError(f"the salient-object network failed: {first_line(error)}") from error
        return finished_map(raw, self._settings)


def _declared(path: Path, settings: NetworkSettings, last: str) -> NetworkSettings:
    """Return the settings with what the output is; nothing is guessed.

    Args:
        path: The file, for the error.
        settings: As asked for.
        last: The operator that the output comes from.

    Raises:
        QcamError: If neither the settings nor the graph say it, or they contradict each other.
    """
    if last == "Sigmoid":
        if settings.output not in ("", "probabilities"):
            raise QcamError(
                f"{path} ends in Sigmoid, so its output is probabilities, and {settings.output} was declared; "
                "give {saliency_option} output=probabilities"
            )
        return replace(settings, output="probabilities")
    if not settings.output:
        raise QcamError(
            f"{path} ends in {last or 'its input'}, which does not say what its output is; "
            f"give {{saliency_option}} output={', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}"
        )
    if settings.output == "logits" and last in ("HardSigmoid", "Softmax"):
        raise QcamError(
            f"{path} ends in {last}, so its output is no logits, as was declared; give {{saliency_option}} output=probabilities"
        )
    return settings
