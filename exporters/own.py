"""What people bring to an export that has no name: an ONNX file, a program of `torch.export`, a module, code that builds one.

Nothing of it tells how photographs become its input, so that is asked for by name where the graph does not say it; nothing is
guessed, and what is assumed is told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from qcam.common import telling
from qcam.common.errors import QcamError, UnsupportedGraphError, WeightsError
from qcam.common.places import refuse_unprintable
from qcam.common.vocabulary import DEFAULT_OPSET
from qcam.exporters.export import FloatGraph, override_preprocessing
from qcam.exporters.importing.float_file import as_ordered, float_file, float_program
from qcam.exporters.importing.ordering import ImportOrder
from qcam.exporters.onnx_export import export_program
from qcam.exporters.proof import Images
from qcam.images.preprocessing import Preprocessing
from qcam.models import code
from qcam.models.own import Own, own_model
from qcam.models.programs import read_program
from qcam.models.sources import LoadedModel, seed_of, seeded
from qcam.models.weights import hash_parameters
from qcam.runtime.bundle import MANIFEST, load_bundle

if TYPE_CHECKING:
    from qcam.exporters.ordering import ExportOrder

#: What is said of a network by its name, and where it is not read from the graph.
_BY_NAME = ("preprocessing", "like", "trained", "name", "logits", "values", "layout")
_OF_FILES = ("logits", "values", "layout")


def is_graph(name: str | torch.nn.Module) -> bool:
    """Tell whether it is a file that holds a graph: `.onnx` or `.pt2`."""
    return isinstance(name, str) and not _of_timm(name) and Path(name).suffix.lower() in (".onnx", ".pt2")


def is_own(name: str | torch.nn.Module) -> bool:
    """Tell whether it is no model that has a name."""
    return not isinstance(name, str) or is_graph(name) or (code.is_code(name) and not _of_timm(name))


def _of_timm(name: str) -> bool:
    return name.startswith(("timm:", "local-dir:", "hf-hub:"))


def called(name: str | torch.nn.Module, wanted: str | None) -> str:
    """Return what a bundle is called: what is wanted, else the name, that of the file or of the module's class."""
    if wanted is not None:
        if not wanted.strip():
            raise QcamError("{name} is empty; give the bundle a name")
        refuse_unprintable([wanted], "{name}")
        return wanted
    if not isinstance(name, str):
        return type(name).__name__
    if is_graph(name):
        return Path(name).name[: -len(Path(name).suffix)]
    if is_own(name):
        path, function = code.parted(name)
        return f"{path.stem}:{function}"
    return name


def refuse_unfit(name: str | torch.nn.Module, order: ExportOrder) -> None:
    """Refuse options that say nothing of what is exported, or contradict each other, before anything is read.

    Raises:
        QcamError: Names the option.
    """
    told = order.told
    shown = called(name, None)
    given = {option: getattr(told, option) for option in _BY_NAME if getattr(told, option) is not None}
    if isinstance(name, str) and not is_own(name):
        if given:
            raise QcamError(
                f"{_token(next(iter(given)))} is told of networks of your own (an ONNX file, a .pt2 file, net.py:build); "
                f"{shown} is known by its name, so leave it out"
            )
        return
    changes = order.changes
    changed = {
        "{mean}": changes.mean, "{std}": changes.std, "{crop}": changes.crop,
        "{resize}": changes.resize or changes.squash or None, "{interpolation}": changes.interpolation,
    }  # fmt: skip
    also = [option for option, value in changed.items() if value is not None]
    for whole in ("preprocessing", "like"):
        if whole in given and also:
            raise QcamError(f"{_token(whole)} says what {also[0]} says too; leave one of them out")
    if "preprocessing" in given and "like" in given:
        raise QcamError("preprocessing and {like} say the same; leave one of them out")
    if "like" in given and order.wishes.classes is not None:
        raise QcamError("{like} says what {classes} says too; leave one of them out")
    if is_graph(name):
        _refuse_in_bundle(Path(str(name)))
        for option, value in (("weights", order.weights), ("weights_key", order.wishes.weights_key)):
            if value is not None:
                raise QcamError(f"{_token(option)} {value}: {shown} holds its own weights; leave it out")
        if order.wishes.channels is not None:
            raise QcamError(f"{{channels}}: {shown} says itself how many channels it takes; leave it out")
        if not Path(str(name)).is_file():
            raise UnsupportedGraphError(f"{name} is no file; give a float ONNX file, or a program that torch.export.save wrote")
    else:
        for option in _OF_FILES:
            if option in given:
                raise QcamError(f"{_token(option)} is told of files that hold a graph, and {shown} is a module; leave it out")
        if seed_of(order.weights) is not None and told.trained:
            raise QcamError(f"{{weights}} {order.weights} are random; leave {{trained}} out")
    if (changes.mean is None) != (changes.std is None):
        raise QcamError("{mean} and {std} belong together; give both, or none")


def _token(option: str) -> str:
    return option if option == "preprocessing" else f"{{{option}}}"


def _refuse_in_bundle(path: Path) -> None:
    if (path.parent / MANIFEST).is_file():
        raise QcamError(
            f"{path} is a file inside the bundle {path.parent}, exported already; give the bundle's folder to {{qcam-eval}}"
        )


def graph_of(name: str, order: ExportOrder, on_stage: Callable[[str], None]) -> FloatGraph:
    """Read a file that holds a graph.

    Args:
        name: Its path.
        order: What it is exported with.
        on_stage: Called with a few words before each stage.

    Raises:
        QcamError: If it cannot be exported, or something has to be told.
    """
    on_stage("reading")
    path = Path(name)
    told, changes = order.told, order.changes
    crop = changes.crop
    ordered = ImportOrder(
        file=path,
        like=told.like,
        size=crop if crop is None or isinstance(crop, tuple) else (crop, crop),
        mean=changes.mean,
        std=changes.std,
        resize=changes.resize,
        squash=changes.squash,
        interpolation=changes.interpolation,
        classes=order.wishes.classes,
        cam_layer=order.options.cam_layer,
        logits=told.logits,
        values=told.values,
        layout=told.layout,
        trained=told.trained,
        name=called(name, told.name),
        output=order.output,
        force=order.force,
    )
    if told.preprocessing is not None:
        ordered = as_ordered(ordered, told.preprocessing)
    if path.suffix.lower() == ".onnx":
        return float_file(ordered, order.options.opset)
    return _program(path, ordered, order.options.opset or DEFAULT_OPSET, on_stage)


def _program(path: Path, ordered: ImportOrder, opset: int, on_stage: Callable[[str], None]) -> FloatGraph:
    telling.warn(
        f"{path}: read by torch.export.load, of which torch says: never load what you do not trust; pickles, compiled code and "
        "operators other than torch's own are refused before"
    )
    program = read_program(path)
    on_stage("exporting to ONNX")
    model, modules = export_program(program, opset)
    network = program.module(check_guards=False)

    def run(images: Any) -> Images:
        with torch.no_grad():
            found = network(torch.from_numpy(np.ascontiguousarray(images)))
        logits: Images = (found[0] if isinstance(found, (tuple, list)) else found).numpy()
        return logits

    asked = ordered.cam_layer
    layer = None if asked is None else modules.get(asked, asked)
    return float_program(ordered, model, run, hash_parameters(network), layer)


def module_of(name: str | torch.nn.Module, order: ExportOrder) -> LoadedModel:
    """Make a module of one's own ready for export, or build it by its code.

    Args:
        name: The module, or `net.py:build`.
        order: What it is exported with.

    Raises:
        QcamError: If it cannot be exported as what it is, or nothing tells how photographs become its input.
    """
    told = order.told
    shown = called(name, told.name)
    # Asked for before any code runs.
    preprocessing, classes = _preprocessing(shown, order)
    seed = seed_of(order.weights)
    if isinstance(name, str):
        with seeded(seed):
            module = code.build(name)
        path, function = code.parted(name)
        source, own_weights = f"{function}() of {path.name}", f"as {function}() returns them"
    elif seed is not None:
        raise WeightsError(f"weights {order.weights!r}: a module has weights already; leave {{weights}} out, or give a file")
    else:
        module = name
        source, own_weights = f"a module of class {type(name).__name__}", "the module's own"
    return own_model(
        module,
        Own(
            shown, source, preprocessing, classes, False if seed is not None else told.trained,
            None if seed is not None else order.weights, order.wishes.weights_key,
            str(order.weights) if seed is not None else own_weights,
        ),
    )  # fmt: skip


def _preprocessing(shown: str, order: ExportOrder) -> tuple[Preprocessing, int | tuple[str, ...] | None]:
    """Return how photographs become a module's input, and its classes; what is assumed is told, mean and std never are."""
    told, changes = order.told, order.changes
    channels = order.wishes.channels
    like = None if told.like is None else load_bundle(told.like)
    taken = told.preprocessing if like is None else like.preprocessing
    if taken is not None:
        if channels not in (None, taken.channels):
            raise QcamError(f"{{channels}} {channels}: the preprocessing of {shown} has {taken.channels}; leave it out")
        return taken, order.wishes.classes if like is None else like.classes
    wanted = {"{mean}": changes.mean, "{std}": changes.std, "{crop}": changes.crop}
    missing = [option for option, value in wanted.items() if value is None]
    if missing or changes.crop is None:
        raise QcamError(
            f"{shown}: nothing in a module tells how photographs become its input; give {', '.join(missing)} as it was trained "
            "(pixels are between 0 and 1; {mean} 0 {std} 1 leaves them so), or {like} with a bundle of the same network"
        )
    crop = changes.crop if isinstance(changes.crop, tuple) else (changes.crop, changes.crop)
    told_too = {"{resize}": changes.resize or changes.squash, "{interpolation}": changes.interpolation}
    assumed = [option for option, value in told_too.items() if not value]
    base = Preprocessing(max(crop), crop, (0.0,) * (channels or 3), (1.0,) * (channels or 3))
    found = override_preprocessing(
        base, resize=changes.resize, squash=changes.squash, mean=changes.mean, std=changes.std,
        interpolation=changes.interpolation,
    )  # fmt: skip
    if assumed:
        what = {"{resize}": f"shorter side {max(crop)}", "{interpolation}": found.interpolation}
        said = ", ".join(what[option] for option in assumed)
        telling.note(f"{shown}: {said} assumed; give {' and '.join(assumed)} where it is another way")
    return found, order.wishes.classes
