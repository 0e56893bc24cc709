"""`qcam-export`: a torch model becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import qcam
from qcam.commands import console, network_options, options
from qcam.commands.network_options import TRAINED, Size, SizeType, show_decisions
from qcam.commands.options import INPUT, OUTPUT, option
from qcam.common.vocabulary import DEFAULT_OPSET, PRECISIONS, CalibrationMethod, Scheme, words

if TYPE_CHECKING:
    from qcam.runtime.bundle import Bundle

#: Groups of options that only this command has.
QUANTIZATION, GRAPH, PREPROCESSING = "Quantization", "Graph", "Preprocessing, where it is not the model's own"
OWN = "Of a network of your own"
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
@network_options.classes("as many as the weights' last layer has")
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
@network_options.resize(", height first; or squash the picture to the crop.", PREPROCESSING)
@option(
    "--crop",
    group=PREPROCESSING,
    type=SizeType(),
    metavar="N|H,W",
    help="Side of the centre crop, or height and width, height first: the network's input size.",
)
@network_options.mean("; one number for all.", PREPROCESSING)
@network_options.std(PREPROCESSING)
@network_options.interpolation(".", PREPROCESSING, advanced=True)
@network_options.trained("Whether its weights are trained; every table says it, and by default that it is not known.", OWN)
@option("--like", group=OWN, metavar="BUNDLE", help="A bundle of the same network, whose preprocessing and classes are taken.")
@option("--name", group=OWN, metavar="ID", help="What its bundle is called; by default as the file.")
@network_options.logits(" of an ONNX file", OWN, advanced=True)
@network_options.values("of an ONNX file holds: normalised values, or pixels on 0..1 (unit) or 0..255 that it normalises.", OWN)
@network_options.layout("the axes of its input.", OWN)
@network_options.output("Folder that the bundles go to, one folder each.")
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


if __name__ == "__main__":
    main()
