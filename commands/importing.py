"""`qcam-import`: an ONNX file that another tool quantized becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import qcam
from qcam.commands import console, network_options, options
from qcam.commands.network_options import TRAINED, Size, SizeType, show_decisions
from qcam.commands.options import INPUT, OUTPUT, key_values, option

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
@network_options.classes("as many as there are, 1,000 named as ImageNet's")
@network_options.trained("Whether the weights are trained; every table says it.", INPUT, default="unknown")
@network_options.mean(", or one number; needed where the graph does not normalise by itself.", PREPROCESSING)
@network_options.std(PREPROCESSING)
@network_options.resize("; or squash the picture to the input's size. By default the input's longer side.", PREPROCESSING)
@network_options.interpolation("; by default bilinear.", PREPROCESSING)
@option(
    "--size",
    group=PREPROCESSING,
    type=SizeType(),
    metavar="N|H,W",
    help="Height and width of the input, where the file leaves them open.",
)
@option("--cam-layer", group=GRAPH, metavar="TENSOR", help="By default the last map before pooling, after its activation.")
@option("--float-cam-layer", group=GRAPH, advanced=True, metavar="TENSOR", help="Likewise in --float, where names are others.")
@network_options.logits("", GRAPH)
@network_options.values("holds: normalised values, or pixels on 0..1 (unit) or 0..255 that the graph normalises.", GRAPH)
@network_options.layout("the input's axes.", GRAPH)
@option("--precision", group=OUTPUT, metavar="NAME", help="What it is called; by default int8 or int16, by its activations.")
@option("--name", group=OUTPUT, metavar="ID", help="What the bundle is called; by default as the file.")
@network_options.output("Folder that the bundle's own folder goes into.")
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
