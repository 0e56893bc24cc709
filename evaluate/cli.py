"""`qcam-eval`: bundles and images become maps and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcam.common import console, machine
from qcam.common.errors import QcamError
from qcam.evaluate.inputs import find_photographs, key_value, load_bundles, torch_device

if TYPE_CHECKING:
    from qcam.calibration.images import ImageFile
    from qcam.evaluate.study import Study
    from qcam.runtime.bundle import Bundle

_EPILOG = """\b
Examples:
  qcam-eval
      every bundle in bundles/ on the demo photographs
  qcam-eval bundles/resnet50 --images photos/ --limit 1000
  qcam-eval --images val/ --labels val.csv --saliency masks:masks/
  qcam-eval --provider CUDA
  qcam-eval --session-config session.x64quantprecision=1
      int8 without 16-bit saturation on x86 CPUs that lack VNNI
Results: results.parquet, maps.parquet, summary.json, run.json, placement.json, table.md and grid-MODEL.png in the
output folder.
Exit code: 0 done, 2 bad input or provider, 130 interrupted (the same command goes on).
"""


@click.command(cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of photographs; by default the demo ones.")
@click.option("--labels", type=click.Path(path_type=Path), help="CSV with the columns image,label; else class folders count.")
@click.option(
    "--saliency",
    default="u2netp",
    show_default=True,
    metavar="u2netp|onnx:FILE|masks:DIR|none",
    help="Where salient-object maps come from.",
)
@click.option(
    "--provider",
    default="CPU",
    show_default=True,
    help="ONNX Runtime execution provider: CPU, CUDA, TensorRT, OpenVINO … Strict: never silently another one.",
)
@click.option("--allow-fallback", is_flag=True, help="Accept nodes or sessions on another provider, and say so on every table.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["f32", "int16", "int8"]),
    help="May be given several times; by default all that a bundle holds.",
)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images at a time.")
@click.option("--threads", type=click.IntRange(1), help="Threads of ONNX Runtime and PyTorch; by default all cores.")
@click.option(
    "--target",
    type=click.Choice(["f32-top1", "own-top1", "label"]),
    default="f32-top1",
    show_default=True,
    help="The class that is explained: f32's choice for every precision, each precision's own (the paper), or the label.",
)
@click.option(
    "--cam",
    "method",
    type=click.Choice(["gradcam++", "gradcam", "gradcam++-torchcam"]),
    default="gradcam++",
    show_default=True,
    help="gradcam++-torchcam is what the paper really ran.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="For PyTorch.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first so many images.")
@click.option("--io-binding/--no-io-binding", default=None, help="Bind device memory; by default on GPUs only.")
@click.option("--session-config", multiple=True, metavar="KEY=VALUE", help="ONNX Runtime session configuration entry.")
@click.option("--fake-quant/--no-fake-quant", default=True, show_default=True, help="Whether to simulate for comparison.")
@click.option("--grid-rows", type=click.IntRange(0, 50), default=8, show_default=True, help="Images in the picture grid.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results; by default out/demo, or out/NAME after the image folder.",
)
@click.option("--force", is_flag=True, help="Replace results that exist.")
def main(
    bundles: tuple[Path, ...],
    images: Path | None,
    labels: Path | None,
    saliency: str,
    provider: str,
    allow_fallback: bool,
    precisions: tuple[str, ...],
    batch_size: int,
    threads: int | None,
    target: str,
    method: str,
    device: str,
    limit: int | None,
    io_binding: bool | None,
    session_config: tuple[str, ...],
    fake_quant: bool,
    grid_rows: int,
    output: Path | None,
    force: bool,
) -> None:
    """Evaluate each BUNDLE: does the quantized model, as deployed, still look at the same place?

    Every precision runs in ONNX Runtime; its Grad-CAM++ is compared with f32's, with salient-object maps, and with what
    a PyTorch fake-quant simulation of the same file predicts. Without BUNDLE, all of bundles/ are taken.
    """
    from qcam.runtime.bundle import PRECISIONS
    from qcam.runtime.deployed import SessionSettings, provider_name

    threads = threads or machine.available_cores()
    settings = SessionSettings(
        provider=provider_name(provider),
        threads=threads,
        allow_fallback=allow_fallback,
        io_binding=io_binding,
        config=dict(key_value(entry, "--session-config") for entry in session_config),
    )
    if not allow_fallback:
        from qcam.runtime.deployed import require_provider

        require_provider(settings.provider)
    loaded = load_bundles(bundles)
    photographs = find_photographs(images)
    photographs = _labelled(photographs, loaded, labels, demo=images is None)
    photographs = photographs[:limit]  # after the labels: class folders count as a whole

    from qcam.common.files import exclusive
    from qcam.evaluate.saliency import open_saliency
    from qcam.evaluate.study import Study, StudyOptions

    source = open_saliency(saliency, threads)
    options = StudyOptions(
        precisions=tuple(name for name in PRECISIONS if name in precisions),
        settings=settings,
        saliency=saliency,
        target=target,
        method=method,
        batch_size=batch_size,
        fake_quant=fake_quant,
    )
    folder = output or Path("out") / ("demo" if images is None else images.resolve().name or "images")
    # The sessions come before PyTorch is imported: a provider that cannot be had is told at once.
    with console.err.status("opening sessions"):
        study = Study(loaded, photographs, source, options, folder)
    mirror_device = torch_device(device, threads)
    with exclusive(folder):
        if study.prepare(mirror_device, force=force):
            try:
                study.run()
            except KeyboardInterrupt:
                console.warn(f"interrupted; {folder} holds what is finished, readable. The same command goes on from there")
                if force:
                    console.note("without --force, that is: with it, it starts anew")
                raise
        else:
            console.note(f"{folder} already holds the complete results of this very run; --force computes them again")
        _draw_grids(study, loaded, photographs, grid_rows)
        _report(study, settings.provider, folder)


def _labelled(photographs: list[ImageFile], bundles: list[Bundle], labels: Path | None, *, demo: bool) -> list[ImageFile]:
    """Give photographs their labels, if these mean the same for every bundle."""
    from qcam.calibration.images import ImageFile, with_labels

    classes = bundles[0].classes
    same = all(bundle.classes == classes for bundle in bundles)
    if labels is not None and not same:
        raise QcamError("--labels needs bundles of the same classes; evaluate them apart")
    if demo and labels is None:
        # The demo photographs are labelled with ImageNet's 1,000 classes.
        fits = all(len(bundle.classes) == 1000 for bundle in bundles)
        return photographs if fits else [ImageFile(photograph.name, photograph.path) for photograph in photographs]
    if not same:
        console.note("the bundles have different classes: class folders are not taken for labels")
        return photographs
    found = with_labels(photographs, classes, labels)
    if labels is not None and all(photograph.label is None for photograph in found):
        raise QcamError(f"{labels} names none of the {len(found)} images; its column image holds names below the image folder")
    return found


def _draw_grids(study: Study, bundles: list[Bundle], photographs: list[ImageFile], count: int) -> None:
    from pyarrow import compute

    from qcam.evaluate.grid import choose_images, write_grid
    from qcam.evaluate.results import StoredMap, read_arrow
    from qcam.evaluate.study import MAPS

    missing = [bundle for bundle in bundles if not _grid_path(study, bundle).exists()]
    if not count or not missing:
        return
    rows = study.rows()
    chosen = {bundle.model_id: choose_images(rows, bundle.model_id, count) for bundle in missing}
    wanted = {name for names in chosen.values() for name in names}
    samples = study.samples([image for image in photographs if image.name in wanted])
    table = read_arrow(study.folder / MAPS)  # filtered before it becomes Python objects: it holds every image
    stored = [StoredMap(**item) for item in table.filter(compute.field("image").isin(sorted(wanted))).to_pylist()]
    for bundle in missing:
        shown = [samples[bundle.model_id][name] for name in chosen[bundle.model_id] if name in samples[bundle.model_id]]
        if shown:
            write_grid(
                _grid_path(study, bundle),
                f"{bundle.model_id}: deployed CAMs" + ("" if bundle.trained else " (random weights)"),
                shown,
                [item for item in stored if item.model == bundle.model_id],
                [row for row in rows if row.model == bundle.model_id],
                bundle.classes,
            )


def _grid_path(study: Study, bundle: Bundle) -> Path:
    return study.folder / f"grid-{bundle.folder.name}.png"


def _report(study: Study, provider: str, folder: Path) -> None:
    from qcam.common.files import write_atomically
    from qcam.evaluate.study import SUMMARY, TABLE
    from qcam.evaluate.table import arithmetic_lines, as_markdown, as_rich, fallback_reasons, placement_section

    entries = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["entries"]
    rows = study.rows()
    count = len({row.image for row in rows})
    fallbacks = fallback_reasons(study.evaluators)
    title = f"{count} images, provider {provider}"
    if fallbacks:
        title += " — NOT WHOLLY ON IT, see below"
    terminal = console.out.is_terminal
    for table in as_rich(entries, title, console.out.width if terminal else None):
        console.out.print(table)
    arithmetic = [study.options.describe(), *arithmetic_lines(study.evaluators, provider)]
    for line in arithmetic:
        console.out.print(line, style="dim", markup=False)
    warnings = [f"fallback accepted: {reason}" for reason in fallbacks]
    if study.saturates:
        warnings.append(
            "this CPU's int8 kernels saturate (AVX2 without VNNI): int8 figures are what this machine computes, other CPUs "
            "compute others. Cures: qcam-export --reduce-range, or --session-config session.x64quantprecision=1"
        )
    if study.kernels is not None and study.kernels.family is None:
        warnings.append(
            f"this CPU computes as no kernel family that qcam knows ({study.kernels.reason}): int8 figures are what this "
            "machine computes; how they compare with other CPUs is not known"
        )
    for warning in warnings:
        console.warn(warning)
    footer = "".join(f"- {line}\n" for line in [*arithmetic, *warnings])
    write_atomically(folder / TABLE, f"{title}\n\n{as_markdown(entries)}\n{footer}{placement_section(study.evaluators)}")
    odd: dict[str, list[str]] = {}
    for row in rows:
        if row.status != "ok" and not row.status.startswith("no_reference: no salient-object maps"):
            odd.setdefault(row.status, []).append(row.image)
    for status, names in odd.items():
        unique = list(dict.fromkeys(names))
        shown = ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
        console.warn(f"{status}: {shown}")
    if all(row.top1 is None for row in rows):
        raise QcamError(f"not one of {count} images could be evaluated; {folder}/results.parquet says why for each")
    files = "results.parquet, maps.parquet, summary.json, run.json, placement.json, table.md, grid-*.png"
    console.out.print(f"results: {folder}/ ({files})", markup=False)


if __name__ == "__main__":
    main()
