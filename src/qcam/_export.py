"""`qcam.export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from qcam.common.arguments import names, truth, whole
from qcam.common.errors import QcamError
from qcam.common.extras import names_extras, require_packages

if TYPE_CHECKING:
    import torch

    from qcam.images.preprocessing import Preprocessing
    from qcam.runtime.bundle import Bundle


#: What needs packages: `qcam.export` from Python, `qcam-export` in a shell.
_EXPORT = "{qcam-export}"


class _Keywords(TypedDict, total=False):
    """What `export` takes by keyword, for type checkers: it returns what the names ask for."""

    weights: str | Path | None
    weights_key: str | None
    classes: int | Sequence[str] | None
    channels: int | None
    calibration: str | Path | None
    calibration_limit: int
    output: str | Path
    precisions: str | Sequence[str]
    cam_layer: str | None
    method: str
    scheme: str
    reduce_range: bool
    opset: int | None
    resize: int | tuple[int, int] | None
    squash: bool
    crop: int | tuple[int, int] | None
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    interpolation: str | None
    preprocessing: Preprocessing | Mapping[str, Any] | None
    like: str | Path | Bundle | None
    trained: bool | None
    name: str | None
    logits: str | None
    values: str | None
    layout: str | None
    force: bool
    keep: bool
    on_bundle: Callable[[Bundle, bool], None] | None


@overload
def export(model: str | Path | torch.nn.Module, /, **options: Unpack[_Keywords]) -> Bundle: ...


@overload
def export(
    model: list[str | Path | torch.nn.Module] | list[str] | tuple[str | Path | torch.nn.Module, ...],
    /,
    **options: Unpack[_Keywords],
) -> list[Bundle]: ...


@names_extras(_EXPORT)
def export(
    model: Any,
    /,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    classes: int | Sequence[str] | None = None,
    channels: int | None = None,
    calibration: str | Path | None = None,
    calibration_limit: int = 128,
    output: str | Path = "bundles",
    precisions: str | Sequence[str] = ("f32", "int16", "int8"),
    cam_layer: str | None = None,
    method: str = "minmax",
    scheme: str = "u8s8",
    reduce_range: bool = False,
    opset: int | None = None,
    resize: int | tuple[int, int] | None = None,
    squash: bool = False,
    crop: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    interpolation: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    like: str | Path | Bundle | None = None,
    trained: bool | None = None,
    name: str | None = None,
    logits: str | None = None,
    values: str | None = None,
    layout: str | None = None,
    force: bool = False,
    keep: bool = False,
    on_bundle: Callable[[Bundle, bool], None] | None = None,
) -> Bundle | list[Bundle]:
    """Export a model to a bundle: float and quantized ONNX files with the CAM layer as an extra output.

    Args:
        model: One model, or several in a list, all with the same options: `vgg16`, `resnet50` or another classifier of
            torchvision, `efficientnet_lite0`, `timm:NAME`, `timm:local-dir:FOLDER` or `timm:hf-hub:ORG/NAME`. Or a network of
            your own: a `torch.nn.Module`, which is copied and left as it is; a float ONNX file; `net.py:build`, whose code is
            run; a `.pt2` file that you trust.
        weights: A torchvision weights name, a timm tag, a state dict's file, or `random:SEED`; None for the model's default.
        weights_key: Which weights of a checkpoint, where it holds several sets: what stands in front of their names.
        classes: Number of classes or their names in order; None for as many as the weights' last layer has. One output is a
            score; two names are what it says below 0 and above.
        channels: 1 for a network of grey pictures, with `mean` and `std` of one number each; None for 3.
        calibration: Folder of photographs for the activation ranges; None for some that installed packages ship.
        calibration_limit: Use at most so many.
        output: Folder that the bundle's own folder goes into.
        precisions: One or more of f32, int16 (A16W16) and int8 (A8W8).
        cam_layer: Torch module path or ONNX tensor name; None for the last feature map after its activation.
        method: How ranges come from activations: minmax, entropy, percentile.
        scheme: u8s8 (asymmetric activations) or s8s8 (symmetric ones, for TensorRT).
        reduce_range: Whether int8 weights keep to 7 bits.
        opset: ONNX operator set, 18 to 24; None for the default.
        resize: Shorter side before the crop, or height and width, in pixels; None, as below, leaves the model's own
            preprocessing.
        squash: Whether the picture is squashed to the crop.
        crop: Side of the centre crop, or height and width.
        mean: Mean of R, G, B on the 0..1 scale, or one number for all.
        std: Standard deviation likewise.
        interpolation: bilinear, bicubic or lanczos.
        preprocessing: Of a network of your own, in place of the five before: a `Preprocessing`, or a mapping of its fields
            (`resize`, `crop`, `mean`, `std`, `interpolation`).
        like: Of a network of your own: a bundle, or its folder, whose preprocessing and classes are its own.
        trained: Of a network of your own: whether its weights are trained; None if that is not known, which every table says.
        name: Of a network of your own: what the bundle is called; None for the name of the file, or of the module's class.
        logits: Of an ONNX file: the tensor of class scores; None for the one output of their shape.
        values: Of an ONNX file: what its input holds, where it does not tell: normalised, unit (0..1) or pixels (0..255).
        layout: Of an ONNX file: NCHW or NHWC, where it does not tell.
        force: Whether a bundle that exists is replaced.
        keep: Whether one that exists is left as it is, and returned.
        on_bundle: Called with each bundle when it is there, and with whether it was kept.

    Returns:
        The bundle; a list of them where several names were given.

    Raises:
        QcamError: If a word is unknown, a number is none, a step cannot be done, or the bundle exists.
        WeightsError: If the weights cannot be had, or do not belong to the model.
        MissingExtraError: If a package is not installed.
    """
    require_packages(_EXPORT, "torch", "torchvision", "timm", "onnxscript", "onnxruntime")
    from qcam.exporters.export import ExportOptions
    from qcam.exporters.ordering import ExportOrder, PreprocessingChanges, Told, export_models, per_channel
    from qcam.images.preprocessing import Preprocessing, preprocessing_from
    from qcam.models.wishes import Wishes
    from qcam.runtime.bundle import load_bundle

    order = ExportOrder(
        options=ExportOptions(
            precisions=names(precisions, "{precision}"),
            cam_layer=cam_layer,
            method=method,
            scheme=scheme,
            opset=opset,
            reduce_range=reduce_range,
        ),
        weights=None if weights is None else str(weights),
        wishes=Wishes(weights_key, _classes(classes), channels),
        calibration=calibration,
        calibration_limit=calibration_limit,
        changes=PreprocessingChanges(
            resize, squash, crop, per_channel(mean, "{mean}"), per_channel(std, "{std}"), interpolation
        ),
        told=Told(
            preprocessing
            if preprocessing is None or isinstance(preprocessing, Preprocessing)
            else preprocessing_from(preprocessing, channels or 3),
            None if like is None else str(getattr(like, "folder", like)),
            None if trained is None else truth(trained, "{trained}"),
            name,
            logits,
            values,
            layout,
        ),
        output=Path(output),
        force=force,
    )
    several = isinstance(model, (list, tuple))
    found = []
    for place, made in export_models([_model(each) for each in (model if several else [model])], order, keep=keep):
        bundle = load_bundle(place) if made is None else made
        if on_bundle is not None:
            on_bundle(bundle, made is None)
        found.append(bundle)
    return found if several else found[0]


def _model(given: Any) -> Any:
    """Return a name, or a module; a path is one of a file."""
    import torch

    if isinstance(given, Path):
        return str(given)
    if isinstance(given, (str, torch.nn.Module)):
        return given
    if isinstance(given, type) and issubclass(given, torch.nn.Module):
        raise QcamError(f"{given.__name__} is a class; give a module of it: {given.__name__}()")
    raise QcamError(f"a model of type {type(given).__name__}: give a name, a file, or a torch.nn.Module")


def _classes(given: Any) -> int | tuple[str, ...] | None:
    """Return a number of classes or their names; a text by itself may be a name or a file of them, and is refused."""
    if isinstance(given, str):
        raise QcamError(f"{{classes}} {given!r}: give the number of classes, or their names in a list")
    if given is None or not isinstance(given, Sequence):
        return None if given is None else whole(given, "{classes}")
    return names(given, "{classes}")
