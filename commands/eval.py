"""`qcam-eval`: bundles and images become maps and numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcam.commands import console
from qcam.commands.inputs import find_photographs, key_value, load_bundles, read_places, torch_device
from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.common.places import refuse_overlap

if TYPE_CHECKING:
    from qcam.evaluate.run.evaluator import Evaluator
    from qcam.images.sources import ImageFile
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
  qcam-eval --images val/ --dry-run
      what would be done, how many bytes, how long
  qcam-eval --no-fake-quant --profile
      deployed maps alone, and where the time goes
  qcam-eval --saliency birefnet --trust-remote-code
      the paper's salient-object network, from its hub
  qcam-eval --protocol paper --paper-fix eval-mode,calibrated
      what the paper's authors ran, less two of its slips
  qcam-eval s3://models/resnet50 --images s3://data/val --output s3://out/val \
          --engine ray --ray-address auto --require kernel=vnni
      on a Ray cluster, on CPUs of one kernel family (docs/scale.md)
Results: report.html, table.md, table.csv, table.tex, figures/, results.parquet,
maps.parquet, pictures.parquet, images.parquet, summary.json, run.json,
placement.json and grid-MODEL.png in the output folder.
Exit code: 0 done, 2 bad input or provider, 70 a bug in qcam, 130 interrupted (the
same command goes on).
"""


@click.command(cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@click.option(
    "--images",
    metavar="DIR|URL|TAR|PARQUET",
    help="Folder of photographs, WebDataset tars or Parquet files, local or behind a URL; by default the demo photographs.",
)
@click.option("--labels", type=click.Path(path_type=Path), help="CSV with the columns image,label; else class folders count.")
@click.option(
    "--saliency",
    default="u2netp",
    show_default=True,
    metavar="u2netp|birefnet[:WHERE]|onnx:FILE|masks:DIR|spectral|none",
    help="Where salient-object maps come from. WHERE: a hub id, with @REVISION, or a local folder.",
)
@click.option("--saliency-preset", metavar="NAME", help="How the network of onnx:FILE wants its input: u2net, isnet …")
@click.option("--saliency-option", "saliency_options", multiple=True, metavar="KEY=VALUE", help="Overrides the preset's.")
@click.option(
    "--saliency-cache",
    metavar="DIR|none",
    help="Where maps are kept for other runs; by default the user's cache folder.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run the modelling code that a birefnet model brings with it.")
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
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of ONNX Runtime and PyTorch in each worker; by default the cores shared among the workers, 1 on Ray.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Who evaluates: processes of this machine, or a Ray cluster. Figures are the same.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Workers, each with its own sessions; by default 1, from 200 images on one for each core as far as memory reaches; "
    "on Ray as many as the cluster has room for.",
)
@click.option("--ray-address", metavar="auto|HOST:PORT", help="The Ray cluster; by default RAY_ADDRESS, else one of its own.")
@click.option(
    "--gpus-per-worker", type=click.FloatRange(0), default=0.0, help="GPUs of each Ray worker, or the part of one that it has."
)
@click.option(
    "--require",
    "requirements",
    multiple=True,
    metavar="KEY=VALUE",
    help="Refuse workers that are not kernel=vnni, avx2 or arm64, or whose CPU lacks feature=NAME (avx512_vnni, i8mm …).",
)
@click.option(
    "--patience",
    type=click.FloatRange(1),
    help="Seconds without a finished shard after which a worker counts as hung; by default 600, more where shards take long.",
)
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
@click.option(
    "--protocol",
    type=click.Choice(["deployed", "paper"]),
    default="deployed",
    show_default=True,
    help="paper: what the authors' code ran, in PyTorch, slip by slip; nothing of it is deployed.",
)
@click.option(
    "--paper-fix",
    "paper_fixes",
    metavar="NAME,…",
    help="With --protocol paper, slips to switch off: eval-mode, logits, calibrated, 8bit, f32-top1, alpha, crop, float-maps, "
    "per-channel.",
)
@click.option(
    "--paper-weights",
    multiple=True,
    metavar="MODEL=FILE",
    help="With --protocol paper: the weights file that a bundle was exported from, if it was one.",
)
@click.option(
    "--null-row/--no-null-row",
    default=True,
    show_default=True,
    help="Run f32 twice and compare it with itself: what drifts there is not quantization.",
)
@click.option(
    "--faithfulness",
    is_flag=True,
    help="Show the deployed model what its CAM leaves of the picture: average drop and increase (one more run each).",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="For PyTorch.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first so many images.")
@click.option("--io-binding/--no-io-binding", default=None, help="Bind device memory; by default on GPUs only.")
@click.option("--session-config", multiple=True, metavar="KEY=VALUE", help="ONNX Runtime session configuration entry.")
@click.option("--fake-quant/--no-fake-quant", default=True, show_default=True, help="Whether to simulate for comparison.")
@click.option("--grid-rows", type=click.IntRange(0, 50), default=8, show_default=True, help="Images in the picture grid.")
@click.option("--report/--no-report", default=True, show_default=True, help="Whether to write report.html and figures/.")
@click.option("--colormap", default="inferno", show_default=True, help="Colours of CAMs: inferno, viridis, cividis, or jet.")
@click.option("--profile", is_flag=True, help="Print where the time went, and write profile.json for ui.perfetto.dev.")
@click.option("--dry-run", is_flag=True, help="Print the plan, its bytes and its time from a measured probe; write nothing.")
@click.option(
    "--output",
    metavar="DIR|URL",
    help="Folder for the results; by default out/demo, or out/NAME after the image folder.",
)
@click.option("--force", is_flag=True, help="Replace results that exist.")
def main(
    bundles: tuple[str, ...],
    images: str | None,
    labels: Path | None,
    saliency: str,
    saliency_preset: str | None,
    saliency_options: tuple[str, ...],
    saliency_cache: str | None,
    trust_remote_code: bool,
    provider: str,
    allow_fallback: bool,
    precisions: tuple[str, ...],
    batch_size: int,
    threads: int | None,
    engine: str,
    workers: int | None,
    ray_address: str | None,
    gpus_per_worker: float,
    requirements: tuple[str, ...],
    patience: float | None,
    target: str,
    method: str,
    protocol: str,
    paper_fixes: str | None,
    paper_weights: tuple[str, ...],
    null_row: bool,
    faithfulness: bool,
    device: str,
    limit: int | None,
    io_binding: bool | None,
    session_config: tuple[str, ...],
    fake_quant: bool,
    grid_rows: int,
    report: bool,
    colormap: str,
    profile: bool,
    dry_run: bool,
    output: str | None,
    force: bool,
) -> None:
    """Evaluate each BUNDLE: does the quantized model, as deployed, still look at the same place?

    Every precision runs in ONNX Runtime; its Grad-CAM++ is compared with f32's, with salient-object maps, and with what
    a PyTorch fake-quant simulation of the same file predicts. Without BUNDLE, all of bundles/ are taken.
    """
    from qcam.evaluate.engine.choice import EngineOptions, crew_for, settle
    from qcam.evaluate.engine.requirements import check_requirements, unmet
    from qcam.runtime.bundle import ordered_precisions
    from qcam.runtime.deployed import SessionSettings, provider_name

    paper = protocol == "paper"
    if not paper and (paper_fixes or paper_weights):
        raise QcamError("--paper-fix and --paper-weights belong to --protocol paper; add it, or leave them out")
    spread = EngineOptions(
        engine, workers, ray_address, gpus_per_worker, tuple(key_value(entry, "--require") for entry in requirements), patience
    )
    check_requirements(spread.requirements)
    if paper and (engine != "local" or (workers or 1) != 1):
        raise QcamError("--protocol paper evaluates image after image in one process; leave out --engine and --workers")
    if profile and (engine != "local" or (workers or 1) != 1):
        raise QcamError("--profile shows the stages of one process; leave out --engine and --workers")
    name = provider_name(provider)
    if not allow_fallback and not paper and engine == "local":
        from qcam.runtime.deployed import require_provider

        require_provider(name)
    loaded = load_bundles(bundles)
    place = output or f"out/{_name_of(images)}{'-paper' * paper}"
    refuse_overlap(place, read_places(bundles, loaded, images, saliency))
    photographs = find_photographs(images)
    photographs = _labelled(photographs, loaded, labels, demo=images is None)
    photographs = photographs[:limit]  # after the labels: class folders count as a whole
    on_cpu = name == "CPU" and (device == "cpu" or (device == "auto" and not machine.has_gpu()))
    spread, threads = settle(spread, threads, 0 if paper or profile else len(photographs), loaded, on_cpu=on_cpu)
    settings = SessionSettings(
        provider=name,
        threads=threads,
        allow_fallback=allow_fallback,
        io_binding=io_binding,
        config=dict(key_value(entry, "--session-config") for entry in session_config),
    )

    from qcam.commands.outcome import draw, known_colormap, tell, write_profile
    from qcam.common.files import exclusive
    from qcam.evaluate.engine.worker import SaliencyRequest
    from qcam.evaluate.results.remote import open_results
    from qcam.evaluate.saliency import default_cache, with_absolute_path
    from qcam.evaluate.study.plan import StudyOptions
    from qcam.evaluate.study.study import Study

    known_colormap(colormap)
    cache = default_cache() if saliency_cache is None else None if saliency_cache == "none" else Path(saliency_cache).absolute()
    request = SaliencyRequest(
        with_absolute_path(saliency),
        saliency_preset,
        dict(key_value(entry, "--saliency-option") for entry in saliency_options),
        trust_remote_code,
        cache,
    )
    saliency_device = torch_device(device, threads) if saliency.startswith("birefnet") and trust_remote_code else "cpu"
    source = request.open(threads, saliency_device)
    fixes = tuple(sorted(filter(None, (paper_fixes or "").replace(" ", "").split(","))))
    options = StudyOptions(
        precisions=ordered_precisions(precisions),
        settings=settings,
        saliency=saliency,
        target=target,
        method=method,
        batch_size=batch_size,
        fake_quant=fake_quant and not paper,
        null_row=null_row,
        faithfulness=faithfulness,
        protocol=protocol,
        fixes=fixes,
    )
    folder, remote = open_results(place)
    make, crew, mirror_device = None, None, ""
    if paper:
        mirror_device = torch_device(device, threads)
        make = _paper(fixes, dict(key_value(entry, "--paper-weights") for entry in paper_weights))
    elif engine == "ray":  # the workers' machines count, and there a GPU is asked for by --gpus-per-worker
        mirror_device = "cuda" if device == "cuda" or (gpus_per_worker and device == "auto") else "cpu"
    elif spread.workers != 1:
        mirror_device = torch_device(device, threads) if device != "cpu" and not on_cpu else "cpu"
    if not dry_run and (engine == "ray" or spread.workers != 1):
        crew = crew_for(spread, loaded, bundles, options, request, source, mirror_device, saliency_device)
    # The sessions come before PyTorch is imported: a provider that cannot be had is told at once.
    with console.err.status("opening sessions"):
        study = Study(
            loaded, photographs, source, options, folder,
            make=make, crew=crew, remote=remote, requirements=spread.requirements, spans=profile,
        )  # fmt: skip
    if crew is None:
        with study.clock.stage("import PyTorch"):
            mirror_device = torch_device(mirror_device or device, threads)
        missing = unmet(spread.requirements, study.facts.to_json())
        if missing:
            raise QcamError(missing)
    if dry_run:
        from qcam.evaluate.study.estimate import describe, estimate

        with exclusive(folder) if remote is not None else nullcontext():
            if not study.prepare(mirror_device, force=force):
                console.out.print(f"{study.where} already holds the complete results of this very run", markup=False)
                return
            for line in describe(study, estimate(study), spread.workers or 1):
                console.out.print(line, markup=False)
            return
    with exclusive(folder):
        study.recover()
        if study.prepare(mirror_device, force=force):
            try:
                study.run()
            except KeyboardInterrupt:
                if not study.kept_old:
                    console.warn(
                        f"interrupted; {study.where} holds what is finished, readable. The same command goes on from there"
                    )
                    if force:
                        console.note("without --force, that is: with it, it starts anew")
                raise
        else:
            console.note(f"{study.where} already holds the complete results of this very run; --force computes them again")
        results = study.results()
        with study.clock.stage("tables"):
            tell(results, study.where)
        with study.clock.stage("pictures and report"):
            draw(results, study.where, grid_rows=grid_rows, report=report, colormap=colormap)
        if profile:
            write_profile(study.clock, folder)
        study.publish()


def _name_of(images: str | None) -> str:
    """Return the last part of an image set's location, to name results after."""
    if images is None:
        return "demo"
    return (images.rstrip("/").rpartition("/")[2] if "://" in images else Path(images).resolve().name) or "images"


def _paper(fixes: tuple[str, ...], weights: dict[str, str]) -> Callable[[Bundle, list[str]], Evaluator]:
    """Return what makes the evaluators of the paper's protocol."""
    from qcam.evaluate.paper import PaperEvaluator, PaperOptions

    options = PaperOptions(frozenset(fixes))

    def make(bundle: Bundle, precisions: list[str]) -> Evaluator:
        return PaperEvaluator(bundle, precisions, options, weights=weights.get(bundle.model_id))

    return make


def _labelled(photographs: list[ImageFile], bundles: list[Bundle], labels: Path | None, *, demo: bool) -> list[ImageFile]:
    """Give photographs their labels, if these mean the same for every bundle."""
    from qcam.images.labels import with_labels
    from qcam.images.sources import ImageFile

    classes = bundles[0].classes
    same = all(bundle.classes == classes for bundle in bundles)
    if labels is not None and not same:
        raise QcamError("--labels needs bundles of the same classes; evaluate them apart")
    if demo and labels is None:
        # The demo photographs are labelled with ImageNet's 1,000 classes.
        fits = all(len(bundle.classes) == 1000 for bundle in bundles)
        return photographs if fits else [ImageFile(photograph.name, photograph.path) for photograph in photographs]
    if not same:
        console.note("the bundles have different classes: class folders and labels in archives are not taken")
        return [ImageFile(photograph.name, photograph.path) for photograph in photographs]
    found = with_labels(photographs, classes, labels)
    if labels is not None and all(photograph.label is None for photograph in found):
        raise QcamError(f"{labels} names none of the {len(found)} images; its column image holds names below the image folder")
    return found


if __name__ == "__main__":
    main()
