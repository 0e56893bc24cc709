"""`qcam.import_onnx`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcam.common.arguments import names, texts, truth, whole
from qcam.common.errors import BundleError, QcamError
from qcam.common.extras import names_extras, require_packages
from qcam.common.places import require_text

if TYPE_CHECKING:
    from qcam.runtime.bundle import Bundle

#: What needs packages: `qcam.import_onnx` from Python, `qcam-import` in a shell.
_IMPORT = "{qcam-import}"


@names_extras(_IMPORT)
def import_onnx(
    file: str | Path,
    *,
    float_file: str | Path | None = None,
    like: str | Path | Bundle | None = None,
    into: str | Path | Bundle | None = None,
    size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | tuple[int, int] | None = None,
    squash: bool = False,
    interpolation: str | None = None,
    classes: int | Sequence[str] | None = None,
    cam_layer: str | None = None,
    float_cam_layer: str | None = None,
    logits: str | None = None,
    values: str | None = None,
    layout: str | None = None,
    precision: str | None = None,
    session_config: Mapping[str, str] | None = None,
    trained: bool | None = None,
    name: str | None = None,
    output: str | Path = "bundles",
    force: bool = False,
    keep: bool = False,
    on_bundle: Callable[[Bundle, bool], None] | None = None,
) -> Bundle:
    """Import an ONNX file that another tool quantized: a bundle around it, with the CAM layer as an extra output of a copy.

    What the file says is found in it; what it does not say is asked for, by the name of the argument.

    Args:
        file: The ONNX file; its bytes are kept as they are.
        float_file: The float ONNX file that it was made of, which becomes f32; None for a bundle without one.
        like: A bundle, or its folder, of the same network: its preprocessing and its classes are taken.
        into: A bundle, or its folder, of the same network that the file becomes a further precision of; `precision` says what
            it is called there. `force` then replaces that precision alone.
        size: Height and width of the input, or one side; None as the file says.
        mean: Mean of R, G, B on the 0..1 scale, or one number for all; needed where the graph does not normalise by itself.
        std: Standard deviation likewise.
        resize: Shorter side before the centre crop, or height and width; None for the input's longer side.
        squash: Whether the picture is squashed to the input's size.
        interpolation: bilinear, bicubic or lanczos.
        classes: Number of classes or their names in order.
        cam_layer: The tensor that carries the CAM layer; None for the last map before pooling.
        float_cam_layer: Likewise in the float file, where its tensors have other names.
        logits: The tensor of class scores; None for the one output of their shape.
        values: What the input holds, where the file does not tell: normalised, unit (0..1) or pixels (0..255).
        layout: NCHW or NHWC, where the file does not tell.
        precision: What the precision is called; None for int8 or int16, by the file's activations.
        session_config: ONNX Runtime's session configuration that the file is deployed with, key → value; None for its
            defaults.
        trained: Whether the weights are trained; None if that is not known, which every table says then.
        name: What the bundle is called; None for the file's name.
        output: Folder that the bundle's own folder goes into.
        force: Whether a bundle that exists is replaced.
        keep: Whether one that exists is left as it is, and returned.
        on_bundle: Called with the bundle when it is there, and with whether it was kept.

    Returns:
        The bundle.

    Raises:
        QcamError: If the file cannot be imported, something has to be told, or the bundle exists.
        UnsupportedGraphError: If it holds what no mirror can follow; says what.
        ProviderError: If ONNX Runtime does not run it.
        MissingExtraError: If a package is not installed.
    """
    require_packages(_IMPORT, "torch", "torchvision", "onnxruntime")
    from qcam.common import telling
    from qcam.exporters.importing.bundling import import_file
    from qcam.exporters.importing.ordering import ImportOrder
    from qcam.exporters.ordering import is_bundle, per_channel, stages
    from qcam.runtime.bundle import load_bundle

    order = ImportOrder(
        file=Path(file),
        float_file=None if float_file is None else Path(float_file),
        like=None if like is None else str(getattr(like, "folder", like)),
        into=None if into is None else Path(str(getattr(into, "folder", into))),
        size=_size(size, "{size}"),
        mean=per_channel(mean, "{mean}"),
        std=per_channel(std, "{std}"),
        resize=resize if resize is None or isinstance(resize, int) else _size(resize, "{resize}"),
        squash=truth(squash, "squash"),
        interpolation=interpolation,
        classes=_classes(classes),
        cam_layer=cam_layer,
        float_cam_layer=float_cam_layer,
        logits=logits,
        values=values,
        layout=layout,
        precision=precision,
        session=texts(session_config, "{session_config}"),
        trained=None if trained is None else truth(trained, "{trained}"),
        name=name,
        output=Path(output),
        force=force,
    )
    place = order.place
    require_text(place, "{output}")
    if keep and order.into is not None:
        raise QcamError("{keep} leaves a bundle as it is, {into} adds to one; leave one of them out")
    kept = keep and is_bundle(place)
    if kept:
        bundle = load_bundle(str(place))
    elif place.exists() and not force and order.into is None:
        raise BundleError(f"{place} exists already; use {{force}} to replace it, {{keep}} to leave it, or {{output}}")
    else:
        with stages(order.model_id) as on_stage:
            bundle = import_file(order, on_stage)
        if trained is False:
            telling.warn(f"{bundle.model_id} has random weights: it runs, but no figure made with it means anything")
    if on_bundle is not None:
        on_bundle(bundle, kept)
    return bundle


def _size(value: Any, what: str) -> tuple[int, int] | None:
    """Return height and width of one side, or of both."""
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise QcamError(f"{what} {value}: give one number of pixels, or height and width")
        return whole(value[0], what), whole(value[1], what)
    side = whole(value, what)
    return side, side


def _classes(given: Any) -> int | tuple[str, ...] | None:
    """Return a number of classes or their names; a text by itself may be a name or a file of them, and is refused."""
    if isinstance(given, str):
        raise QcamError(f"{{classes}} {given!r}: give the number of classes, or their names in a list")
    if given is None or not isinstance(given, Sequence):
        return None if given is None else whole(given, "{classes}")
    return names(given, "{classes}")
