"""`qcam-import`: an ONNX file that another tool quantized becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import qcam
from qcam.commands import console, options
from qcam.commands.export import TRAINED, Size, _Size, _Triple, show_decisions
from qcam.commands.options import INPUT, OUTPUT, key_values, option
from qcam.common.vocabulary import InputValues, Interpolation, Layout, words

if TYPE_CHECKING:
    from qcam.runtime.bundle import Bundle

#: Groups of options that only this command has.
GRAPH, PREPROCESSING = "What is what in the file, where it does not tell", "How it takes pictures"

_EPILOG = """\b
Examples:
  qcam-import vendor.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 \\
      --resize 256
      what the file says is found; what was decided is printed
  qcam-import vendor.onnx --like bundles/resnet50 --float resnet50.onnx
      preprocessing and classes of a bundle, and f32 beside it
  qcam-import vendor.onnx --into bundles/resnet50 --precision int8-vendor
      side by side with the precisions of a bundle, in every table
  qcam-import vendor.onnx --like bundles/resnet50 \\
      --session-config session.qdqisint8allowed=1
      as it is deployed: signed activations run as they are
Then: qcam-check bundles/vendor, qcam-eval bundles/vendor (docs/importing.md)
Exit code: 0 done, 2 bad input or environment, 70 a bug in qcam,
130 interrupted.
"""


@click.command("qcam-import", cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@option(
    "--float",
    "float_file",
    group=INPUT,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The float ONNX file that FILE was made of; it becomes f32.",
)
@option(
    "--like",
    group=INPUT,
    metavar="BUNDLE",
    help="A bundle of the same network: its preprocessing and its classes are taken.",
)
@option(
    "--into",
    group=INPUT,
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="A bundle of the same network that FILE becomes a further precision of, under the name of --precision.",
)
@option(
    "--classes",
    group=INPUT,
    metavar="N|FILE",
    help="Number of classes, or a text file with one name a line; by default as many as there are, 1,000 named as ImageNet's.",
)
@option(
    "--trained",
    group=INPUT,
    type=click.Choice(list(TRAINED)),
    default="unknown",
    show_default=True,
    help="Whether the weights are trained; every table says it.",
)
@option(
    "--mean",
    group=PREPROCESSING,
    type=_Triple(),
    help="Mean of R,G,B on the 0..1 scale, or one number; needed where the graph does not normalise by itself.",
)
@option("--std", group=PREPROCESSING, type=_Triple(), help="Standard deviation likewise.")
@option(
    "--resize",
    group=PREPROCESSING,
    type=_Size(squash=True),
    metavar="N|H,W|squash",
    help="Shorter side before the crop; or height and width; or squash the picture to the input's size. By default the input's "
    "longer side.",
)
@option(
    "--interpolation",
    group=PREPROCESSING,
    type=click.Choice(words(Interpolation)),
    help="Resampling filter; by default bilinear.",
)
@option(
    "--size",
    group=PREPROCESSING,
    type=_Size(),
    metavar="N|H,W",
    help="Height and width of the input, where the file leaves them open.",
)
@option("--cam-layer", group=GRAPH, metavar="TENSOR", help="By default the last map before pooling, after its activation.")
@option("--float-cam-layer", group=GRAPH, advanced=True, metavar="TENSOR", help="Likewise in --float, where names are others.")
@option("--logits", group=GRAPH, metavar="TENSOR", help="The class scores; by default the one output of their shape.")
@option(
    "--values",
    group=GRAPH,
    advanced=True,
    type=click.Choice(words(InputValues)),
    help="What the input holds: normalised values, or pixels on 0..1 (unit) or 0..255 that the graph normalises.",
)
@option("--layout", group=GRAPH, advanced=True, type=click.Choice(words(Layout)), help="Order of the input's axes.")
@option("--precision", group=OUTPUT, metavar="NAME", help="What it is called; by default int8 or int16, by its activations.")
@option("--name", group=OUTPUT, metavar="ID", help="What the bundle is called; by default as the file.")
@option(
    "--output",
    group=OUTPUT,
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bundles"),
    show_default=True,
    help="Folder that the bundle's own folder goes into.",
)
@option("--force", group=OUTPUT, is_flag=True, help="Replace a bundle that exists.")
@option("--keep", group=OUTPUT, is_flag=True, help="Leave a bundle that exists as it is, without an error.")
@options.session_config()
def main(
    file: Path,
    float_file: Path | None,
    like: str | None,
    into: Path | None,
    classes: str | None,
    trained: str,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: Size | None,
    interpolation: str | None,
    size: int | tuple[int, int] | None,
    cam_layer: str | None,
    float_cam_layer: str | None,
    logits: str | None,
    values: str | None,
    layout: str | None,
    precision: str | None,
    name: str | None,
    output: Path,
    force: bool,
    keep: bool,
    session_config: tuple[str, ...],
) -> None:
    """Import FILE, an ONNX file that any tool quantized, into a bundle.

    The bytes stay as they are; a copy that also hands out the CAM layer is held against them, bit for bit. What the file does
    not say is asked for by the name of the option.
    """
    from qcam.models.wishes import read_classes

    named = None if classes is None else read_classes(classes)
    qcam.import_onnx(
        file,
        float_file=float_file,
        like=like,
        into=into,
        size=size,
        mean=mean,
        std=std,
        resize=None if isinstance(resize, str) else resize,
        squash=resize == "squash",
        interpolation=interpolation,
        classes=named,
        cam_layer=cam_layer,
        float_cam_layer=float_cam_layer,
        logits=logits,
        values=values,
        layout=layout,
        precision=precision,
        session_config=key_values(session_config, "--session-config"),
        trained=TRAINED[trained],
        name=name,
        output=output,
        force=force,
        keep=keep,
        on_bundle=_show,
    )


def _show(bundle: Bundle, kept: bool) -> None:
    """Print where a bundle is, and what was decided about each file in it."""
    if kept:
        console.out.print(f"{bundle.folder} exists; kept", markup=False)
        return
    for entry in sorted(bundle.precisions, key=lambda entry: entry.name == "f32"):
        if "imported" not in entry.quantization.further:  # it was there before
            continue
        console.out.print(f"{entry.name}: {entry.original.file if entry.original else entry.file}", markup=False)
        show_decisions(entry)
    console.out.print(f"{bundle.folder}: {', '.join(entry.name for entry in bundle.precisions)}", markup=False)


if __name__ == "__main__":
    main()
