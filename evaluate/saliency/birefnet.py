"""BiRefNet, the paper's salient-object network, through transformers: from its hub, or from a local folder.

Such a model brings its modelling code with it (`remote_code`): it runs only when the user asks for that by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.common.errors import QcamError, first_line
from qcam.common.files import fingerprint, sha256_file
from qcam.evaluate.saliency.preparation import PROCEDURE, finished_map, network_input
from qcam.evaluate.saliency.remote_code import code_files, fetched_folder, model_place, require_trust
from qcam.evaluate.saliency.settings import NetworkSettings
from qcam.evaluate.saliency.source import NoMapError, Silent
from qcam.images.sources import ImageFile
from qcam.runtime.devices import gpu_is_full, telling_full_gpu, tf32_in_torch

#: What to do where a GPU does not hold the network beside the rest.
_REMEDY = "{device} cpu, or maps of a smaller network: {saliency} u2netp"


class BirefnetSaliency(Silent):
    """An image-segmentation model that returns a list of logits, the last of which is the map.

    By its preset: input 1024 × 1024, bilinear, ImageNet's mean and standard deviation; a sigmoid makes probabilities, which are
    not stretched.

    Attributes:
        name: As given on the command line.
        fingerprint: Of weights, code, configuration and settings.
        threshold: Probability below which a map is all background.
    """

    def __init__(
        self, name: str, where: str, settings: NetworkSettings, *, trust_remote_code: bool = False, device: str = "cpu"
    ) -> None:
        """Load the model.

        Args:
            name: As given on the command line.
            where: A local folder, a hub id with @REVISION, or nothing for the paper's network.
            settings: How it wants its input and gives its output.
            trust_remote_code: Whether the model's own code may run.
            device: PyTorch's name of the device it runs on; a GPU with its number, since maps are made in another thread.

        Raises:
            OutOfMemoryError: If the GPU does not hold the model.
            QcamError: If the code is not trusted, the revision is not pinned, or the model cannot be loaded.
        """
        self.name = name
        self.threshold = settings.background
        self._settings = settings
        self._device = device
        place = model_place(where)
        require_trust(place, trusted=trust_remote_code)
        folder = fetched_folder(place)
        hashes = _hashes(folder)
        # On a GPU a map differs in its last bits: it is another source, and has its own maps in the cache.
        self.fingerprint = fingerprint(
            {"model": hashes, "settings": repr(settings), "procedure": PROCEDURE, "device": _arithmetic(device)}
        )
        model = _load(folder, trusted=trust_remote_code)
        with telling_full_gpu(_REMEDY):
            self._model: Any = model.to(device)

    @telling_full_gpu(_REMEDY)
    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the map of the whole image at the model's resolution (arguments and errors as in `SaliencySource`).

        Raises:
            OutOfMemoryError: If the GPU does not hold the image: that is no matter of the image.
        """
        import torch

        settings = self._settings
        batch = torch.from_numpy(network_input(image, settings, (settings.size, settings.size))).to(self._device)
        try:
            with torch.no_grad():
                outputs = self._model(batch)
                maps = list(outputs) if isinstance(outputs, (list, tuple)) else list(outputs.values())
                raw = maps[settings.index].float().cpu().numpy()
        except Exception as error:  # the model's own code can raise anything
            if gpu_is_full(error):
                raise
            raise NoMapError(f"the salient-object network failed: {first_line(error)}") from error
        return finished_map(raw, settings)


def _arithmetic(device: str) -> str:
    """Return what a map depends on besides the model: the kind of device, and on a GPU whether it takes TF32."""
    kind = device.partition(":")[0]
    return kind if kind == "cpu" else f"{kind}, {'TF32' if tf32_in_torch() else 'float32'}"


def _load(folder: Path, *, trusted: bool) -> Any:
    """Load a model from its folder alone, float32, for inference; every weight of it from the file.

    Raises:
        QcamError: If it cannot be loaded.
    """
    try:
        import torch
        from transformers import AutoModelForImageSegmentation
    except ImportError as error:
        raise QcamError(f'birefnet needs transformers ({error}): pip install "qcam[saliency]"') from error
    try:
        model, told = AutoModelForImageSegmentation.from_pretrained(
            str(folder),
            trust_remote_code=trusted,
            local_files_only=True,
            use_safetensors=True,  # the other format can execute code as it is read
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # configuration, weights and the model's own code have a kind of exception each
        raise QcamError(f"cannot load the model in {folder}: {first_line(error)}; give a whole model's folder") from error
    # transformers leaves what the file lacks at random: the maps would look plausible and be wrong.
    lacking = sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in told.get(kind, ()))
    if lacking:
        raise QcamError(
            f"the weights in {folder} lack {len(lacking)} of the model's tensors, {lacking[0]} first; take matching files"
        )
    return model.eval()


def _hashes(folder: Path) -> dict[str, str]:
    """Return file name → SHA-256 of a model's code, configuration and weights."""
    files = [folder / "config.json", *code_files(folder), *folder.glob("*.safetensors")]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
