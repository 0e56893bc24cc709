"""BiRefNet, the paper's salient-object network, through transformers: from its hub, or from a local folder.

Such a model brings its modelling code with it. It runs only when the user asks for that by name, and what would run is said
before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qcam.calibration.images import ImageFile
from qcam.common.errors import QcamError
from qcam.common.files import fingerprint, sha256_file
from qcam.evaluate.saliency.network import finished_map
from qcam.evaluate.saliency.settings import NetworkSettings
from qcam.evaluate.saliency.source import NoMapError

#: The hub id that the paper used.
HUB_ID = "ZhengPeng7/BiRefNet"
_SIZE = 1024
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


class BirefnetSaliency:
    """An image-segmentation model that returns a list of logits, the last of which is the map.

    Input 1024 × 1024, bilinear, ImageNet mean and standard deviation; a sigmoid makes probabilities; they are not stretched.

    Attributes:
        name: As given on the command line.
        fingerprint: Of weights and code (a folder), or of hub id and revision.
        threshold: Probability below which a map is all background.
    """

    def __init__(self, name: str, where: str, settings: NetworkSettings, *, trust_remote_code: bool) -> None:
        """Load the model.

        Args:
            name: As given on the command line.
            where: A local folder, or a hub id with @REVISION.
            settings: Mean, standard deviation, size and background.
            trust_remote_code: Whether the model's own code may run.

        Raises:
            QcamError: If the code is not trusted, the revision is not pinned, or the model cannot be loaded.
        """
        self.name = name
        self.threshold = settings.background
        self._settings = settings
        folder = Path(where)
        local = folder.is_dir()
        repository, _, revision = where.partition("@")
        if not local and (where.startswith((".", "/")) or repository.count("/") != 1):
            raise QcamError(f"no model folder at {where}; give a folder, or a hub id as in birefnet:{HUB_ID}@REVISION")
        if not trust_remote_code:
            raise QcamError(f"{name} {_what_would_run(folder if local else None, repository, revision)}")
        if not local and not _pinned(revision):
            raise QcamError(
                f"birefnet:{repository} needs a pinned revision, since its code runs here: birefnet:{repository}@COMMIT, the 40 "
                "hexadecimal digits of a commit that you have read; or a local folder"
            )
        self.fingerprint = fingerprint(
            {"settings": repr(settings), "model": _folder_hashes(folder) if local else [repository, revision]}
        )
        try:
            from transformers import AutoModelForImageSegmentation
        except ImportError as error:
            raise QcamError(f'birefnet needs transformers ({error}): pip install "qcam[saliency]"') from error
        try:
            model = AutoModelForImageSegmentation.from_pretrained(
                str(folder) if local else repository, revision=revision or None, trust_remote_code=True
            )
        except Exception as error:  # hub, network, configuration and remote code have a kind of exception each
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise QcamError(f"cannot load {where}: {reason}; with no network, give a local folder of the model") from error
        self._model: Any = model.float().eval()

    def whole_map(self, image: Image.Image, file: ImageFile, sha256: str = "") -> NDArray[np.float32]:
        """Return the map of the whole image, 1024 × 1024 (arguments and errors as in `SaliencySource`)."""
        import torch

        settings = self._settings
        side = settings.size
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32) / np.float32(255)
        normalised = (pixels - np.asarray(settings.mean, np.float32)) / np.asarray(settings.std, np.float32)
        batch = torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)[None]))
        with torch.no_grad():
            try:
                outputs = self._model(batch)
                last = outputs[-1] if isinstance(outputs, (list, tuple)) else next(reversed(outputs.values()))
                raw = torch.sigmoid(last.float()).squeeze().cpu().numpy()
            except Exception as error:  # the model's own code can raise anything
                raise NoMapError(f"the salient-object network failed: {str(error).splitlines()[0]}") from error
        if raw.ndim != 2:
            raise NoMapError(f"the salient-object network returned shape {raw.shape}, not one map")
        return finished_map(raw, settings.background, stretch=settings.stretch)


def _pinned(revision: str) -> bool:
    return len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)


def _what_would_run(folder: Path | None, repository: str, revision: str) -> str:
    """Say what loading the model would execute, from where."""
    consent = "add --trust-remote-code if you have read it and want that"
    if folder is None:
        at = f"at revision {revision}" if revision else "at whatever revision its hub serves"
        return (
            f"would download and execute the Python files that the configuration of hub model {repository} {at} names "
            f"(auto_map in its config.json), with your rights; {consent}"
        )
    files = ", ".join(f"{path.name} (SHA-256 {sha256_file(path)[:12]}…)" for path in _code(folder)) or "no Python file of its own"
    return f"would execute {files} from {folder}, with your rights; {consent}"


def _code(folder: Path) -> list[Path]:
    """Return the Python files that a model's configuration names, and those beside them that they may import."""
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QcamError(f"cannot read {folder / 'config.json'}: {error}; give a folder that holds a transformers model") from error
    named = value.get("auto_map", {}) if isinstance(value, dict) else {}
    return sorted(folder.glob("*.py")) if named else []


def _folder_hashes(folder: Path) -> dict[str, str]:
    """Return file name → SHA-256 of a local model's code, configuration and weights."""
    files = [folder / "config.json", *_code(folder), *(path for pattern in _WEIGHTS for path in folder.glob(pattern))]
    return {path.name: sha256_file(path) for path in sorted(files) if path.is_file()}
