"""`qcam-export`: a torch model becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import qcam
from qcam.commands import console, options
from qcam.commands.options import INPUT, OUTPUT, option
from qcam.common.vocabulary import (
    DEFAULT_OPSET,
    PRECISIONS,
    CalibrationMethod,
    InputValues,
    Interpolation,
    Layout,
    Scheme,
    words,
)
from qcam.common.wording import in_options

if TYPE_CHECKING:
    from qcam.runtime.bundle import Bundle
    from qcam.runtime.manifest import PrecisionEntry

#: A side, height and width, or a word.
Size = int | tuple[int, int] | str

#: Groups of options that only this command has.
QUANTIZATION, GRAPH, PREPROCESSING = "Quantization", "Graph", "Preprocessing, where it is not the model's own"
OWN = "Of a network of your own"
#: What --trained says.
TRAINED = {"yes": True, "no": False, "unknown": None}
#: What is exported without a name: its weights come with a package.
DEFAULT_MODEL = "efficientnet_lite0"

_EPILOG = """\b
Examples:
  qcam-export
      the embedded EfficientNet-Lite0, all precisions
  qcam-export resnet50 mobilenet_v2 --calibration photos/
  qcam-export mobilenet_v2 --weights my.safetensors --mean 0.5 --std 0.5
  qcam-export timm:resnet26d --weights random:0 --precision f32,int8
  qcam-export mobilenet_v2 --cam-layer features.17
  qcam-export net.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 \\
      --resize 256
      a float ONNX file; what the file says is found and printed
  qcam-export net.py:build --weights my.pth --trained yes --crop 224 \\
      --mean 0.5 --std 0.5
      runs net.py; build() returns the torch.nn.Module
  qcam-export net.pt2 --like bundles/resnet50
      by torch.export.load: only files that you trust
Then: qcam-eval
Exit code: 0 done, 2 bad input or environment, 70 a bug in qcam,
130 interrupted.
"""


class _Triple(click.ParamType[tuple[float, ...]]):
    """One number for all channels, or three with commas, for R, G and B."""

    name = "R,G,B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            self.fail(f"{value!r} is not one number or three with commas, as in 0.485,0.456,0.406", param, ctx)
        return tuple(numbers)


class _Size(click.ParamType["Size"]):
    """A side in pixels, or height and width with a comma; `squash` where that is a choice."""

    name = "N|H,W"

    def __init__(self, *, squash: bool = False) -> None:
        self._squash = squash

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        text = str(value)
        if self._squash and text == "squash":
            return text
        parts = text.split(",")
        sides = [int(part) for part in parts if part.strip().isdecimal() and part.isascii()]
        if len(sides) != len(parts) or len(sides) > 2 or not all(1 <= side <= 8192 for side in sides):
            also = ", or squash" if self._squash else ""
            self.fail(
                f"{text!r} is no size: give a whole number of pixels, or height and width as in 224,128 (height first){also}",
                param,
                ctx,
            )
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])


@click.command("qcam-export", cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@option(
    "--weights",
    group=INPUT,
    help="A torchvision weights name (default IMAGENET1K_V1), a timm tag, a state dict (.pth, .safetensors), or random:SEED.",
)
@option(
    "--weights-key",
    group=INPUT,
    advanced=True,
    metavar="KEY",
    help="Which weights of a checkpoint, where it holds several sets: what stands in front of their names, as in model_ema.",
)
@option(
    "--classes",
    group=INPUT,
    advanced=True,
    metavar="N|FILE",
    help="Number of classes, or a text file with one name a line; by default as many as the weights' last layer has.",
)
@option(
    "--channels",
    group=PREPROCESSING,
    advanced=True,
    type=int,
    help="1 for a network of grey pictures (ITU-R 601); with --mean and --std of one number each.",
)
@option(
    "--calibration",
    group=INPUT,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of photographs for the activation ranges; by default some that installed packages ship.",
)
@option(
    "--calibration-limit",
    group=INPUT,
    advanced=True,
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Use at most so many.",
)
@options.precision_made("All three by default. int16 is A16W16, int8 is A8W8.", group=QUANTIZATION)
@option(
    "--scheme",
    group=QUANTIZATION,
    type=click.Choice(words(Scheme)),
    default=Scheme.U8S8.value,
    show_default=True,
    help="u8s8: asymmetric activations, integer kernels on x86. s8s8: symmetric ones, zero point 0, for TensorRT.",
)
@option(
    "--reduce-range",
    group=QUANTIZATION,
    is_flag=True,
    help="Keep int8 weights to 7 bits: immune to the saturation of x86 CPUs with AVX2 but without VNNI.",
)
@option(
    "--method",
    group=QUANTIZATION,
    advanced=True,
    type=click.Choice(words(CalibrationMethod)),
    default=CalibrationMethod.MINMAX.value,
    show_default=True,
    help="How ranges come from activations.",
)
@option(
    "--cam-layer",
    group=GRAPH,
    metavar="PATH",
    help="Torch module path or ONNX tensor name; by default the last feature map after its activation.",
)
@option(
    "--opset", group=GRAPH, advanced=True, type=int, show_default=f"{DEFAULT_OPSET}, of an ONNX file its own",
    help="ONNX operator set, 18 to 24.",
)  # fmt: skip
@option(
    "--resize",
    group=PREPROCESSING,
    advanced=True,
    type=_Size(squash=True),
    metavar="N|H,W|squash",
    help="Shorter side before the crop; or height and width, height first; or squash the picture to the crop.",
)
@option(
    "--crop",
    group=PREPROCESSING,
    advanced=True,
    type=_Size(),
    metavar="N|H,W",
    help="Side of the centre crop, or height and width, height first: the network's input size.",
)
@option(
    "--mean", group=PREPROCESSING, advanced=True, type=_Triple(), help="Mean of R,G,B on the 0..1 scale; one number for all."
)
@option("--std", group=PREPROCESSING, advanced=True, type=_Triple(), help="Standard deviation likewise.")
@option(
    "--interpolation",
    group=PREPROCESSING,
    advanced=True,
    type=click.Choice(words(Interpolation)),
    help="Resampling filter.",
)
@option(
    "--trained",
    group=OWN,
    type=click.Choice(list(TRAINED)),
    help="Whether its weights are trained; every table says it, and by default that it is not known.",
)
@option("--like", group=OWN, metavar="BUNDLE", help="A bundle of the same network, whose preprocessing and classes are taken.")
@option("--name", group=OWN, metavar="ID", help="What its bundle is called; by default as the file.")
@option(
    "--logits",
    group=OWN,
    advanced=True,
    metavar="TENSOR",
    help="The class scores of an ONNX file; by default the one output of their shape.",
)
@option(
    "--values",
    group=OWN,
    advanced=True,
    type=click.Choice(words(InputValues)),
    help="What the input of an ONNX file holds: normalised values, or pixels on 0..1 (unit) or 0..255 that it normalises.",
)
@option("--layout", group=OWN, advanced=True, type=click.Choice(words(Layout)), help="Order of the axes of its input.")
@option(
    "--output",
    group=OUTPUT,
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bundles"),
    show_default=True,
    help="Folder that the bundles go to, one folder each.",
)
@option("--force", group=OUTPUT, is_flag=True, help="Replace bundles that exist.")
@option("--keep", group=OUTPUT, is_flag=True, help="Leave bundles that exist as they are, without an error.")
def main(
    models: tuple[str, ...],
    weights: str | None,
    weights_key: str | None,
    classes: str | None,
    channels: int | None,
    precisions: tuple[str, ...],
    calibration: Path | None,
    calibration_limit: int,
    method: str,
    cam_layer: str | None,
    scheme: str,
    reduce_range: bool,
    opset: int | None,
    resize: Size | None,
    crop: int | tuple[int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    interpolation: str | None,
    trained: str | None,
    like: str | None,
    name: str | None,
    logits: str | None,
    values: str | None,
    layout: str | None,
    output: Path,
    force: bool,
    keep: bool,
) -> None:
    """Export each MODEL to a bundle: float and quantized ONNX files with the CAM layer as an extra output.

    MODEL is vgg16, resnet50, densenet121, mobilenet_v2, squeezenet1_0, squeezenet1_1, efficientnet_b0 or another classifier of
    torchvision, efficientnet_lite0 (embedded, the default), timm:NAME, timm:local-dir:FOLDER or timm:hf-hub:ORG/NAME; or a
    network of your own: net.onnx (float), net.py:build (runs that code), net.pt2 (by torch.export.load, of which torch says:
    never load what you do not trust).
    """
    from qcam.models.wishes import read_classes

    named = None if classes is None else read_classes(classes)
    qcam.export(
        models or (DEFAULT_MODEL,),
        weights=weights,
        weights_key=weights_key,
        classes=named,
        channels=channels,
        calibration=calibration,
        calibration_limit=calibration_limit,
        output=output,
        precisions=precisions or PRECISIONS,
        cam_layer=cam_layer,
        method=method,
        scheme=scheme,
        reduce_range=reduce_range,
        opset=opset,
        resize=None if isinstance(resize, str) else resize,
        squash=resize == "squash",
        crop=crop,
        mean=mean,
        std=std,
        interpolation=interpolation,
        trained=None if trained is None else TRAINED[trained],
        like=like,
        name=name,
        logits=logits,
        values=values,
        layout=layout,
        force=force,
        keep=keep,
        on_bundle=_show,
    )


def _show(bundle: Bundle, kept: bool) -> None:
    """Print where a bundle is, and how large."""
    if kept:
        console.out.print(f"{bundle.folder} exists; kept", markup=False)
        return
    for entry in bundle.precisions:
        show_decisions(entry)
    sizes = ", ".join(f"{entry.name} {bundle.path(entry.name).stat().st_size / 1e6:.1f} MB" for entry in bundle.precisions)
    console.out.print(f"{bundle.folder}: {sizes}; CAM layer {bundle.cam_layer.tensor}", markup=False)


#: Most letters that a column of values is filled up to.
_WIDEST = 48


def show_decisions(entry: PrecisionEntry) -> None:
    """Print what was decided about a file, and from what; nothing where nothing was."""
    from qcam.exporters.importing.decisions import decisions_of

    decisions = decisions_of(entry.quantization.further.get("imported"))
    columns = zip(*((decision.what, decision.value) for decision in decisions), strict=True)
    widths = [max((len(text) for text in column), default=0) for column in columns]
    for decision in decisions:
        left, middle = decision.what.ljust(widths[0]), decision.value.ljust(min(widths[1], _WIDEST))
        console.out.print(f"  {left}  {middle}  ({in_options(decision.because)})", markup=False)


if __name__ == "__main__":
    main()
