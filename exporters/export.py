"""The export: one float network becomes one bundle, whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch

from qcam.calibration.ranges import CalibrationSet, collect_ranges, load_calibration_set
from qcam.common import machine
from qcam.common.arguments import whole_or_none
from qcam.common.errors import QcamError
from qcam.common.files import new_folder, sha256_bytes, write_atomically
from qcam.common.places import file_name
from qcam.common.vocabulary import DEFAULT_OPSET, PRECISIONS, CalibrationMethod, Scheme, require
from qcam.exporters.cam_layer import resolve_cam_layer
from qcam.exporters.constants import fold_constants
from qcam.exporters.inferring import size_of
from qcam.exporters.onnx_export import export_float
from qcam.exporters.padding import pad_within_pools
from qcam.exporters.pooling import refuse_uneven_pooling
from qcam.exporters.proof import Images, prove
from qcam.exporters.quantize import QuantizationOptions, quantize
from qcam.exporters.tap import expose_tap, repeat_sizes
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile
from qcam.models.sources import LoadedModel
from qcam.runtime.bundle import MANIFEST, Bundle, Input, PrecisionEntry
from qcam.runtime.described import Calibration, CamLayer, Quantization, Weights
from qcam.runtime.graph import Graph
from qcam.runtime.session_config import S8_AS_IT_IS

#: Largest ONNX file with its weights inside; protobuf holds no more.
_MAX_FILE_BYTES = 2**31 - 1


@dataclass(frozen=True)
class ExportOptions:
    """What an export shall contain.

    Attributes:
        precisions: Any of f32, int16, int8.
        cam_layer: Module path or tensor name; None for the model's default.
        method: Calibration method.
        scheme: u8s8 or s8s8.
        opset: ONNX operator set version; None for the usual one, and for an ONNX file its own.
        per_channel: Whether weights have one scale per output channel.
        reduce_range: Whether int8 weights keep to 7 bits.
    """

    precisions: tuple[str, ...] = PRECISIONS
    cam_layer: str | None = None
    method: str = "minmax"
    scheme: str = "u8s8"
    opset: int | None = None
    per_channel: bool = True
    reduce_range: bool = False

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            QcamError: If a precision, the method or the scheme is unknown, with the choices; if there is no precision; if the
                opset is no whole number.
        """
        object.__setattr__(self, "opset", whole_or_none(self.opset, "{opset}"))
        if not self.precisions:
            raise QcamError(f"no precision to export; choose one or more of {', '.join(PRECISIONS)}")
        require(CalibrationMethod, self.method, "calibration method")
        require(Scheme, self.scheme, "scheme")
        for name in self.precisions:
            if name not in PRECISIONS:
                raise QcamError(f"precision {name!r} is unknown; choose one of {', '.join(PRECISIONS)}")


def bundle_folder_name(model_id: str) -> str:
    """Return a model id as a folder name: `timm:resnet26d` → `timm-resnet26d`."""
    return file_name(model_id)


@dataclass(frozen=True)
class FloatGraph:
    """A float network on its way into a bundle.

    Attributes:
        id: What the bundle is called.
        source: Where the network comes from.
        weights: What the manifest says of its weights.
        preprocessing: How photographs become its input.
        classes: Class names in output order.
        model: The float graph, the logits its one output; it is used up.
        input: How the graph takes pictures.
        tensor: The tensor that carries the CAM layer.
        requested: What was asked for as CAM layer; empty for the last feature map.
        reference: What gives the logits that f32 has to give, from images as `Preprocessing.normalise` gives them.
        whose: Whose logits these are, for messages.
        decided: What was decided about the graph, as `Decisions.to_json` returns it.
    """

    id: str
    source: str
    weights: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    model: onnx.ModelProto
    input: Input
    tensor: str
    requested: str
    reference: Callable[[Images], Images]
    whose: str
    decided: dict[str, list[str]] = field(default_factory=dict)


def export_bundle(
    loaded: LoadedModel,
    calibration_images: Sequence[ImageFile],
    options: ExportOptions,
    target: Path,
    *,
    force: bool = False,
    on_stage: Callable[[str], None] = lambda _stage: None,
) -> Bundle:
    """Export, calibrate, quantize, tap, and write a bundle.

    Args:
        loaded: The model with its preprocessing.
        calibration_images: Photographs for the activation ranges; unused if only f32 is asked for.
        options: What to export.
        target: The bundle's folder; appears whole or not at all.
        force: Whether an existing folder is replaced.
        on_stage: Called with a few words before each stage.

    Returns:
        The bundle, its folder being `target`.

    Raises:
        QcamError: If any step cannot be done.
    """

    def exported() -> FloatGraph:
        on_stage("exporting to ONNX")
        return _float_graph(loaded, options)

    return write_bundle(exported, calibration_images, options, target, force=force, on_stage=on_stage)


def _float_graph(loaded: LoadedModel, options: ExportOptions) -> FloatGraph:
    """Export a torch model to a float graph."""
    preprocessing = loaded.preprocessing
    refuse_uneven_pooling(loaded.module, preprocessing.crop, preprocessing.channels)
    model, modules = export_float(loaded.module, preprocessing.crop, options.opset or DEFAULT_OPSET, preprocessing.channels)
    requested = loaded.cam_layer if options.cam_layer is None else options.cam_layer
    graph = Graph(model)

    def reference(images: Images) -> Images:
        with torch.no_grad():
            logits: Images = loaded.module(torch.from_numpy(images)).numpy()
        return logits

    return FloatGraph(
        loaded.id, loaded.source, loaded.weights, preprocessing, loaded.classes, model,
        Input(graph.image_input, size=preprocessing.crop, channels=preprocessing.channels),
        resolve_cam_layer(graph, modules, loaded.module, requested), requested, reference, "PyTorch's",
    )  # fmt: skip


def write_bundle(
    made: Callable[[], FloatGraph],
    calibration_images: Sequence[ImageFile],
    options: ExportOptions,
    target: Path,
    *,
    force: bool = False,
    on_stage: Callable[[str], None] = lambda _stage: None,
) -> Bundle:
    """Calibrate and quantize a float graph, tap it, and write a bundle.

    Args:
        made: Makes the graph, once the folder is claimed.
        calibration_images: Photographs for the activation ranges; unused if only f32 is asked for.
        options: What the bundle shall contain.
        target: The bundle's folder; appears whole or not at all.
        force: Whether an existing folder is replaced.
        on_stage: Called with a few words before each stage.

    Returns:
        The bundle, its folder being `target`.

    Raises:
        QcamError: If any step cannot be done.
    """
    if force and target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise QcamError(f"{target} is no bundle; {{force}} replaces bundles only. Use {{output}} for another place")
    # The folder is claimed first: a refusal should not cost minutes.
    with new_folder(target, replace=force) as folder:
        network = made()
        fold_constants(network.model)
        pad_within_pools(network.model, keep=[network.tensor])
        _refuse_too_large(network.model)
        repeat_sizes(network.model, network.tensor)
        quantized = [name for name in PRECISIONS if name in options.precisions and name != "f32"]
        calibration: CalibrationSet | None = None
        ranges = None
        if quantized:
            on_stage("reading calibration photographs")
            read = load_calibration_set(calibration_images, network.preprocessing)
            calibration = read
            on_stage(f"calibrating on {len(calibration.names)} photographs")
            done = 0

            def count(images: int, total: int = len(calibration.names)) -> None:
                nonlocal done
                done = min(done + images, total)
                on_stage(f"calibrating: {done} of {total} photographs")

            symmetric = options.scheme == "s8s8"
            ranges = collect_ranges(
                network.model, _Fed.of(read, network.input, options.method), network.preprocessing, options.method, count,
                symmetric=symmetric, cam_tensor=network.tensor,
            )  # fmt: skip
        entries = []
        for precision in PRECISIONS:
            if precision not in options.precisions:
                continue
            if precision == "f32":
                entries.append(_write_precision(folder, precision, network.model, network, Quantization()))
                del network.model.graph.output[1:]  # the tap
                continue
            on_stage(f"quantizing to {precision}")
            how = QuantizationOptions(precision, options.scheme, options.per_channel, options.reduce_range)
            # The weights are large: the last one to be made may have the only copy.
            quantized_model = quantize(network.model, ranges, how, network.tensor, consume=precision == quantized[-1])
            entries.append(_write_precision(folder, precision, quantized_model, network, how.described()))
            del quantized_model
        if network.decided:
            further = dict(entries[0].quantization.further) | {"imported": network.decided}
            entries[0] = replace(entries[0], quantization=replace(entries[0].quantization, further=further))
        bundle = Bundle(
            folder=folder,
            model_id=network.id,
            source=network.source,
            weights=Weights.of(network.weights, f"the weights of {network.id}"),
            preprocessing=network.preprocessing,
            classes=network.classes,
            cam_layer=CamLayer(requested=network.requested, tensor=network.tensor),
            calibration=Calibration.of(calibration.to_json(options.method) if calibration else {}, "the calibration"),
            precisions=tuple(entries),
            versions=machine.versions(),
        )
        write_atomically(folder / MANIFEST, bundle.manifest_text())
        on_stage("running one photograph through it")
        prove(bundle, network.reference, network.whose, calibration)
    return replace(bundle, folder=target)


@dataclass(frozen=True)
class _Fed(CalibrationSet):
    """Calibration photographs as a graph takes them that has an input of its own kind."""

    taken: Input = field(default_factory=Input)

    @classmethod
    def of(cls, read: CalibrationSet, taken: Input, method: str) -> CalibrationSet:
        """Return the photographs as a graph takes them."""
        if taken.batch is not None and method != "minmax" and len(read.crops) % taken.batch:
            raise QcamError(
                f"the network takes {taken.batch} pictures at a time, and {len(read.crops)} photographs cannot be shown so but "
                f"with copies, which {{method}} {method} would count; take a multiple with {{calibration_limit}}, or minmax"
            )
        return cls(read.crops, read.names, read.sha256, read.refused, taken)

    def normalised_batches(self, preprocessing: Preprocessing, size: int) -> Iterator[Any]:
        """Yield the network inputs; `size` counts where the graph takes any number."""
        step = self.taken.batch or size
        for images in super().normalised_batches(preprocessing, step):
            yield self.taken.filled(self.taken.feed(images, preprocessing))


def override_preprocessing(
    base: Preprocessing,
    *,
    resize: int | tuple[int, int] | None = None,
    squash: bool = False,
    crop: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: str | None = None,
) -> Preprocessing:
    """Replace those settings of a preprocessing that are given.

    Args:
        base: The model's own.
        resize: Shorter side before the crop, or height and width.
        squash: Whether the picture is squashed to the crop instead.
        crop: Side of the centre crop, or height and width.
        mean: One number for all channels, or one for each.
        std: Likewise.
        interpolation: Resampling filter.

    Raises:
        QcamError: If the result cannot work.
    """
    _refuse_bytes_scale(mean, std)
    return Preprocessing(
        resize=None if squash else (resize if resize is not None else base.resize),
        crop=base.crop if crop is None else crop if isinstance(crop, tuple) else (crop, crop),
        mean=base.mean if mean is None else _for_each_channel(mean, base.channels, "{mean}"),
        std=base.std if std is None else _for_each_channel(std, base.channels, "{std}"),
        interpolation=interpolation or base.interpolation,
    )


#: The least standard deviation that is taken: a quarter of one step of a pixel, 1/255 (one published network divides by that).
_LEAST_STD = 0.001


def _for_each_channel(values: tuple[float, ...], channels: int, option: str) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    if len(set(values)) == 1:
        return values[:1] * channels
    taken, wanted = ("1 channel", "one number") if channels == 1 else (f"{channels} channels", "one number or three")
    raise QcamError(f"{option} {_listed(values)}: the network takes {taken}; give {wanted}")


def _refuse_bytes_scale(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Refuse a mean or a standard deviation that no pixel between 0 and 1 can have, with what is meant."""
    for option, values in (("{mean}", mean), ("{std}", std)):
        if values is None:
            continue
        if not all(math.isfinite(value) for value in values):
            raise QcamError(f"{option} {_listed(values)}: that is no number; give numbers between 0 and 1")
        if option == "{std}" and any(0 <= value < _LEAST_STD for value in values):
            raise QcamError(
                f"{option} {_listed(values)}: pixels are between 0 and 1 in steps of 1/255, and no network was trained with a "
                f"standard deviation below {_LEAST_STD:g}"
            )
        if all(0 <= value <= 1 for value in values):
            continue
        if any(value < 0 for value in values):
            raise QcamError(f"{option} {_listed(values)}: pixels are between 0 and 1, so that none of it is below 0")
        if max(values) > 255:
            raise QcamError(f"{option} {_listed(values)}: pixels are between 0 and 1; give numbers on that scale")
        meant = [
            f"{name} {_listed([round(value / 255, 6) for value in given])}"
            for name, given in (("{mean}", mean), ("{std}", std))
            if given is not None and any(value > 1 for value in given)
        ]
        raise QcamError(
            f"{option} {_listed(values)} is on the scale 0..255, qcam's pixels are between 0 and 1; divided by 255 that is "
            f"{' '.join(meant)}"
        )


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _refuse_too_large(model: onnx.ModelProto) -> None:
    """Refuse a float network that no ONNX file holds, before minutes are spent on it: calibration runs it from a file.

    Raises:
        QcamError: If it is so large.
    """
    taken = sum(size_of(tensor) for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.UNDEFINED)
    if taken > _MAX_FILE_BYTES:
        raise QcamError(
            f"the network's weights take {taken / 2**30:.1f} GiB, and one ONNX file holds 2 GiB; "
            "take a smaller network of its family"
        )


def _write_precision(
    folder: Path, precision: str, model: onnx.ModelProto, network: FloatGraph, how: Quantization
) -> PrecisionEntry:
    logits = model.graph.output[0].name
    tap, skips = expose_tap(model, network.tensor, precision)
    if model.ByteSize() > _MAX_FILE_BYTES:
        raise QcamError(f"the {precision} graph is larger than 2 GiB, the limit of one ONNX file")
    # Deterministic: maps in a fixed order, so that equal exports give equal hashes.
    data = model.SerializeToString(deterministic=True)
    file = f"{precision}.onnx"
    write_atomically(folder / file, data)
    return PrecisionEntry(
        precision, file, sha256_bytes(data), logits, tap, skips, how,
        input=network.input,
        # Signed 8-bit activations are otherwise only partly run by integer kernels.
        session={S8_AS_IT_IS: "1"} if how.activation == "INT8" else {},
    )  # fmt: skip
