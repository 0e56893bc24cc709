"""`qcam-export`: a torch model becomes a bundle."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from qcam.commands import console
from qcam.common.errors import QcamError
from qcam.common.places import refuse_overlap

if TYPE_CHECKING:
    from rich.status import Status

    from qcam.images.sources import ImageFile

_EPILOG = """\b
Examples:
  qcam-export
      the embedded EfficientNet-Lite0, all precisions, into bundles/efficientnet_lite0
  qcam-export resnet50 mobilenet_v2 --calibration photos/ --calibration-limit 128
  qcam-export mobilenet_v2 --weights my.safetensors --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
  qcam-export timm:resnet26d --weights random:0 --precision f32 --precision int8
  qcam-export mobilenet_v2 --cam-layer features.17
Then: qcam-eval
Exit code: 0 done, 2 bad input or environment, 70 a bug in qcam, 130 interrupted.
"""


class _Triple(click.ParamType[tuple[float, float, float]]):
    """One number, or three with commas, for R, G and B."""

    name = "R,G,B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float, float]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3:
            self.fail(f"{value!r} is not one number or three with commas, as in 0.485,0.456,0.406", param, ctx)
        return (numbers[0], numbers[1], numbers[2])


@click.command(cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--weights",
    help="A torchvision weights name (default IMAGENET1K_V1), a timm tag, a state dict (.pth, .safetensors), or random:SEED.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["f32", "int16", "int8"]),
    help="May be given several times; all three by default. int16 is A16W16, int8 is A8W8.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of photographs for the activation ranges; by default some that installed packages ship.",
)
@click.option("--calibration-limit", type=click.IntRange(1), default=128, show_default=True, help="Use at most so many.")
@click.option(
    "--method",
    type=click.Choice(["minmax", "entropy", "percentile"]),
    default="minmax",
    show_default=True,
    help="How ranges come from activations.",
)
@click.option(
    "--cam-layer",
    metavar="PATH",
    help="Torch module path or ONNX tensor name; by default the last feature map after its activation.",
)
@click.option(
    "--scheme",
    type=click.Choice(["u8s8", "s8s8"]),
    default="u8s8",
    show_default=True,
    help="u8s8: asymmetric activations, integer kernels on x86. s8s8: symmetric ones, zero point 0, for TensorRT.",
)
@click.option(
    "--reduce-range",
    is_flag=True,
    help="Keep int8 weights to 7 bits: immune to the saturation of x86 CPUs with AVX2 but without VNNI.",
)
@click.option("--opset", type=int, default=21, show_default=True, help="ONNX operator set, 18 to 24.")
@click.option("--resize", metavar="N|squash", help="Shorter side before the crop, or squash the picture to the crop.")
@click.option("--crop", type=click.IntRange(1, 4096), help="Side of the centre crop: the network's input size.")
@click.option("--mean", type=_Triple(), help="Mean of R,G,B on the 0..1 scale.")
@click.option("--std", type=_Triple(), help="Standard deviation of R,G,B on the 0..1 scale.")
@click.option("--interpolation", type=click.Choice(["bilinear", "bicubic", "lanczos"]), help="Resampling filter.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bundles"),
    show_default=True,
    help="Folder that the bundles go to, one folder each.",
)
@click.option("--force", is_flag=True, help="Replace bundles that exist.")
@click.option("--keep", is_flag=True, help="Leave bundles that exist as they are, without an error.")
def main(
    models: tuple[str, ...],
    weights: str | None,
    precisions: tuple[str, ...],
    calibration: Path | None,
    calibration_limit: int,
    method: str,
    cam_layer: str | None,
    scheme: str,
    reduce_range: bool,
    opset: int,
    resize: str | None,
    crop: int | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    interpolation: str | None,
    output: Path,
    force: bool,
    keep: bool,
) -> None:
    """Export each MODEL to a bundle: float and quantized ONNX files with the CAM layer as an extra output.

    MODEL is vgg16, resnet50, densenet121, mobilenet_v2, squeezenet1_0, squeezenet1_1 efficientnet_b0 or another classifier of
    torchvision, efficientnet_lite0 (embedded, the default), or timm:NAME.
    """
    if resize is not None and resize != "squash" and not resize.isdecimal():
        raise QcamError(f"--resize {resize}: give a whole number of pixels, or squash")
    from qcam.exporters.export import ExportOptions, bundle_folder_name, export_bundle, override_preprocessing

    names = models or ("efficientnet_lite0",)
    targets = {name: output / bundle_folder_name(name) for name in dict.fromkeys(names)}
    for name, target in targets.items():
        same = [other for other, place in targets.items() if place == target and other != name]
        if same:
            raise QcamError(f"{name} and {same[0]} would both become {target}; export them apart, with --output")
        if calibration is not None:
            refuse_overlap(target, [("the calibration folder", calibration)], f"the bundle of {name},")
    if keep and all((target / "bundle.json").is_file() for target in targets.values()):
        for target in targets.values():
            console.out.print(f"{target} exists; kept", markup=False)
        return
    if not force and not keep:
        for target in targets.values():
            if target.exists():
                raise QcamError(f"{target} exists already; use --force to replace it, --keep to leave it, or --output")

    from dataclasses import replace

    from qcam.images.embedded import calibration_photographs
    from qcam.images.listing import find_images
    from qcam.models.sources import load_model

    options = ExportOptions(
        precisions=tuple(precisions) or ("f32", "int16", "int8"),
        cam_layer=cam_layer,
        method=method,
        scheme=scheme,
        opset=opset,
        reduce_range=reduce_range,
    )
    needs_images = any(precision != "f32" for precision in options.precisions)
    images = []
    if needs_images:
        images = find_images(calibration) if calibration else calibration_photographs()
        images = _spread(images, calibration_limit)
        if calibration is None:
            console.note(f"calibrating on {len(images)} photographs of installed packages (--calibration for your own)")
    for name, target in targets.items():
        if keep and (target / "bundle.json").is_file():
            console.out.print(f"{target} exists; kept", markup=False)
            continue
        with console.err.status(escape(f"{name}: loading")) as status:
            loaded = load_model(name, weights)
            loaded = replace(
                loaded,
                preprocessing=override_preprocessing(
                    loaded.preprocessing,
                    resize=int(resize) if resize and resize != "squash" else None,
                    squash=resize == "squash",
                    crop=crop, mean=mean, std=std, interpolation=interpolation,
                ),
            )  # fmt: skip
            if not loaded.weights["trained"]:
                console.warn(f"{name} has random weights: it runs, but no figure made with it means anything")
            show = functools.partial(_show_stage, status, name)
            bundle = export_bundle(loaded, images, options, target, force=force, on_stage=show)
        sizes = ", ".join(f"{entry.name} {bundle.path(entry.name).stat().st_size / 1e6:.1f} MB" for entry in bundle.precisions)
        console.out.print(f"{target}: {sizes}; CAM layer {bundle.cam_layer['tensor']}", markup=False)
        for refusal in bundle.calibration.get("refused", []):
            console.warn(f"calibration photograph left out: {refusal}")


def _show_stage(status: Status, name: str, stage: str) -> None:
    status.update(escape(f"{name}: {stage}"))


def _spread(items: list[ImageFile], limit: int) -> list[ImageFile]:
    """Take `limit` items evenly spread over the list: class folders shall not all be cut off but the first."""
    if len(items) <= limit:
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


if __name__ == "__main__":
    main()
