"""`qcam-eval`: bundles and images become maps and numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

import qcam
from qcam._results import require_study_packages, study_request
from qcam.commands import console, options
from qcam.commands.options import COMPARED, INPUT, OUTPUT, RUNTIME, key_value, key_values, option
from qcam.common.vocabulary import UNITS, CamMethod, Engine, LabelFormat, Protocol, ReferenceImages, Target, words
from qcam.common.wording import in_options
from qcam.evaluate.gates.asked import Preset

#: Groups of options that only this command has.
NETWORKS, WORKERS, PAPER = "Salient-object networks", "Many workers", "The paper's protocol"

_EPILOG = """\b
Examples:
  qcam-eval
      every bundle in bundles/ on the demo photographs
  qcam-eval bundles/resnet50 --images photos/ --limit 1000
  qcam-eval --images val/ --labels val.csv --saliency masks:masks/
  qcam-eval --provider CUDA --provider-option device_id=1
      on the second GPU, float32 in float32; --tf32 allows less (docs/gpu.md)
  qcam-eval --session-config session.x64quantprecision=1
      int8 without 16-bit saturation on x86 CPUs that lack VNNI
  qcam-eval --images val/ --dry-run
      what would be done, how many bytes, how long
  qcam-eval bundles/resnet50 --images val/ --labels val.csv \\
          --fail-under int8.cc=0.98 --fail-under 'int8.drift<jpeg95'
      a gate in a build: exit code 1 where int8 falls short (docs/gates.md)
  qcam-eval --no-fake-quant --profile
      deployed maps alone, and where the time goes
  qcam-eval --saliency birefnet --trust-remote-code
      the paper's salient-object network, from its hub
  qcam-eval --protocol paper --paper-fix eval-mode,calibrated
      what the paper's authors ran, less two of its slips
  qcam-eval s3://models/resnet50 --images s3://data/val --output s3://out \\
          --engine ray --ray-address auto --require kernel=vnni
      on a Ray cluster, on CPUs of one kernel family (docs/scale.md)
Results: report.html, table.md, table.csv, table.tex, figures/,
results.parquet, references.parquet, maps.parquet, pictures.parquet,
clipping.parquet, images.parquet, summary.json, run.json, placement.json and
grid-MODEL.png in the output folder; with gates verdict.md, verdict.json and
junit.xml (docs/results.md).
Exit code: 0 done, and every gate holds; 1 a gate falls short, 3 one is
undecided; 2 bad input or provider, 70 a bug in qcam, 130 interrupted (the
same command goes on).
"""


@click.command("qcam-eval", cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@options.images()
@options.limit()
@option(
    "--labels",
    group=INPUT,
    type=click.Path(path_type=Path),
    help="CSV with the columns image,label; else class folders count.",
)
@option(
    "--label-format",
    group=INPUT,
    type=click.Choice(words(LabelFormat)),
    default=LabelFormat.AUTO.value,
    show_default=True,
    help="How labels are read. auto: names, and numbers as indices where all are; index1 counts from 1; none takes no labels.",
)
@options.precision()
@option(
    "--saliency",
    group=COMPARED,
    default="u2netp",
    show_default=True,
    metavar="u2netp|birefnet[:WHERE]|onnx:FILE|masks:DIR|spectral|none",
    help="Where salient-object maps come from. WHERE: a hub id, with @REVISION, or a local folder.",
)
@option(
    "--target",
    group=COMPARED,
    type=click.Choice(words(Target)),
    show_default=f"{Target.F32_TOP1}; {Target.OWN_TOP1} where a bundle holds no f32",
    help="The class that is explained: f32's choice for every precision, each precision's own (the paper), or the label.",
)
@option(
    "--cam",
    "method",
    group=COMPARED,
    advanced=True,
    type=click.Choice(words(CamMethod)),
    default=CamMethod.GRADCAM_PLUS_PLUS.value,
    show_default=True,
    metavar="METHOD",
    help=f"How maps are made: {', '.join(words(CamMethod))} (docs/results.md). gradcam++-relu is for CAM layers with negative "
    "activations, gradcam++-torchcam what the paper ran; eigencam has neither class nor gradient; ablation runs the deployed "
    "tail once for each channel, occlusion and rise the network 169 and 1000 times for each map.",
)
@option(
    "--fake-quant/--no-fake-quant",
    group=COMPARED,
    advanced=True,
    default=True,
    show_default=True,
    help="Whether to simulate for comparison.",
)
@option(
    "--null-row/--no-null-row",
    group=COMPARED,
    advanced=True,
    default=True,
    show_default=True,
    help="Run f32 (of a bundle without it, the first precision) twice and compare it with itself: what drifts there is not "
    "quantization.",
)
@option(
    "--references",
    group=COMPARED,
    advanced=True,
    type=click.Choice(words(ReferenceImages)),
    default=ReferenceImages.FAST.value,
    show_default=True,
    help="A scale for the figures: of which images reference rows are made (what ±1 of 255, JPEG and one pixel do to the same "
    "maps, another picture's CAM, maps that know nothing). fast: of the first 64.",
)
@option(
    "--non-inferior-to",
    group=COMPARED,
    advanced=True,
    type=click.Choice([unit.value for unit in UNITS]),
    default=UNITS[0].value,
    show_default=True,
    help="The reference row that drift is tested against, image by image: does quantization move maps less than that does?",
)
@option(
    "--faithfulness",
    group=COMPARED,
    advanced=True,
    is_flag=True,
    help="Show the deployed model what its CAM leaves of the picture: average drop and increase (one more run each).",
)
@option(
    "--fail-under",
    "gates",
    group=COMPARED,
    multiple=True,
    metavar="GATE",
    help="What quantization may do at most: int8.cc=0.98, int8.top1=0.99, int8.worst_cc=0.9, 'int8.drift<jpeg95' (in quotes), "
    "accuracy=0.99 of every precision but f32 (docs/gates.md).",
)
@option(
    "--gate",
    "presets",
    group=COMPARED,
    multiple=True,
    type=click.Choice(words(Preset)),
    help="Gates by name. maps: drift<jpeg95. mlperf: accuracy=0.99, that is 99 % of f32's top-1 accuracy.",
)
@option(
    "--output",
    group=OUTPUT,
    metavar="DIR|URL",
    help="Folder for the results; by default out/demo, or out/NAME after the image folder.",
)
@option("--force", group=OUTPUT, is_flag=True, help="Replace results that exist.")
@option(
    "--dry-run",
    group=OUTPUT,
    is_flag=True,
    help="Print the plan, its bytes and its time from a measured probe; write nothing.",
)
@option(
    "--report/--no-report",
    group=OUTPUT,
    advanced=True,
    default=True,
    show_default=True,
    help="Whether to write report.html and figures/.",
)
@option(
    "--grid-rows",
    group=OUTPUT,
    advanced=True,
    type=click.IntRange(0, 50),
    default=8,
    show_default=True,
    help="Images in the picture grid.",
)
@options.colormap(OUTPUT, advanced=True)
@option("--full-table", group=OUTPUT, is_flag=True, help="Print every figure; they are in table.md as well.")
@option(
    "--profile",
    group=OUTPUT,
    advanced=True,
    is_flag=True,
    help="Print where the time went, and write profile.json for ui.perfetto.dev.",
)
@options.provider()
@options.allow_fallback("say so on every table")
@options.session_config()
@options.provider_option()
@options.tf32()
@option(
    "--io-binding/--no-io-binding",
    group=RUNTIME,
    advanced=True,
    default=None,
    help="Bind device memory; by default on GPUs only.",
)
@options.batch_size()
@options.threads("Threads of ONNX Runtime and PyTorch in each worker; by default the cores shared among the workers, 1 on Ray.")
@options.device()
@option(
    "--saliency-preset",
    group=NETWORKS,
    advanced=True,
    metavar="NAME",
    help="How the network of onnx:FILE wants its input: u2net, isnet …",
)
@option(
    "--mask-classes",
    group=COMPARED,
    advanced=True,
    metavar="any|levels|ID,…",
    help="With masks:DIR, what is the object: any id but 0, grey levels, or these ids; by default the mask's form decides.",
)
@option(
    "--mask-void",
    group=COMPARED,
    advanced=True,
    metavar="none|ID,…",
    help="With masks:DIR, ids that count neither way; by default 255 where ids occur below it.",
)
@option(
    "--saliency-option",
    "saliency_options",
    group=NETWORKS,
    advanced=True,
    multiple=True,
    metavar="KEY=VALUE",
    help="Overrides the preset's.",
)
@option(
    "--saliency-cache",
    group=NETWORKS,
    advanced=True,
    metavar="DIR|none",
    help="Where maps are kept for other runs; by default the user's cache folder.",
)
@option(
    "--trust-remote-code",
    group=NETWORKS,
    advanced=True,
    is_flag=True,
    help="Run the modelling code that a birefnet model brings with it.",
)
@option(
    "--engine",
    group=WORKERS,
    advanced=True,
    type=click.Choice(words(Engine)),
    default=Engine.LOCAL.value,
    show_default=True,
    help="Who evaluates: processes of this machine, or a Ray cluster. Figures are the same.",
)
@option(
    "--workers",
    group=WORKERS,
    advanced=True,
    type=click.IntRange(1),
    help="Workers, each with its own sessions; by default 1, from 200 images on one for each core as far as memory reaches; "
    "on Ray as many as the cluster has room for.",
)
@option(
    "--ray-address",
    group=WORKERS,
    advanced=True,
    metavar="auto|HOST:PORT",
    help="The Ray cluster; by default RAY_ADDRESS, else one of its own.",
)
@option(
    "--gpus-per-worker",
    group=WORKERS,
    advanced=True,
    type=click.FloatRange(0),
    default=0.0,
    help="GPUs of each Ray worker, or the part of one that it has.",
)
@option(
    "--require",
    "requirements",
    group=WORKERS,
    advanced=True,
    multiple=True,
    metavar="KEY=VALUE",
    help="Refuse workers that are not kernel=vnni, avx2 or arm64, whose CPU lacks feature=NAME (avx512_vnni, i8mm …), or whose "
    "GPU's name has no gpu=NAME in it (T4, H100 …).",
)
@option(
    "--patience",
    group=WORKERS,
    advanced=True,
    type=click.FloatRange(1),
    help="Seconds without a finished shard after which a worker counts as hung; by default 600, more where shards take long.",
)
@option(
    "--protocol",
    group=PAPER,
    advanced=True,
    type=click.Choice(words(Protocol)),
    default=Protocol.DEPLOYED.value,
    show_default=True,
    help="paper: what the authors' code ran, in PyTorch, slip by slip; nothing of it is deployed.",
)
@option(
    "--paper-fix",
    "paper_fixes",
    group=PAPER,
    advanced=True,
    metavar="NAME,…",
    help="With --protocol paper, slips to switch off: eval-mode, logits, calibrated, 8bit, f32-top1, alpha, crop, float-maps, "
    "per-channel.",
)
@option(
    "--paper-weights",
    group=PAPER,
    advanced=True,
    multiple=True,
    metavar="MODEL=FILE",
    help="With --protocol paper: the weights file that a bundle was exported from, if it was one.",
)
def main(
    bundles: tuple[str, ...],
    images: str | None,
    labels: Path | None,
    label_format: str,
    saliency: str,
    saliency_preset: str | None,
    saliency_options: tuple[str, ...],
    mask_classes: str | None,
    mask_void: str | None,
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
    target: str | None,
    method: str,
    protocol: str,
    paper_fixes: str | None,
    paper_weights: tuple[str, ...],
    null_row: bool,
    references: str,
    non_inferior_to: str,
    faithfulness: bool,
    gates: tuple[str, ...],
    presets: tuple[str, ...],
    device: str,
    limit: int | None,
    io_binding: bool | None,
    session_config: tuple[str, ...],
    provider_options: tuple[str, ...],
    tf32: bool,
    fake_quant: bool,
    grid_rows: int,
    report: bool,
    colormap: str,
    profile: bool,
    full_table: bool,
    dry_run: bool,
    output: str | None,
    force: bool,
) -> None:
    """Evaluate each BUNDLE: does the quantized model, as deployed, still look at the same place?

    Every precision runs in ONNX Runtime; its CAM is compared with f32's, with salient-object maps, and with what
    a PyTorch fake-quant simulation of the same file predicts. Without BUNDLE, all of bundles/ are taken.
    """
    if not dry_run and (protocol == Protocol.PAPER or provider.upper() == "CPU"):
        require_study_packages(drawn=report or bool(grid_rows))
    given: dict[str, Any] = dict(
        images=images,
        labels=labels,
        label_format=label_format,
        limit=limit,
        saliency=saliency,
        saliency_preset=saliency_preset,
        saliency_options=key_values(saliency_options, "--saliency-option"),
        saliency_cache=saliency_cache,
        trust_remote_code=trust_remote_code,
        mask_classes=mask_classes,
        mask_void=mask_void,
        output=output,
        force=force,
        precisions=precisions,
        provider=provider,
        allow_fallback=allow_fallback,
        session_config=key_values(session_config, "--session-config"),
        provider_options=key_values(provider_options, "--provider-option"),
        tf32=tf32,
        io_binding=io_binding,
        target=target,
        method=method,
        batch_size=batch_size,
        threads=threads,
        engine=engine,
        workers=workers,
        ray_address=ray_address,
        gpus_per_worker=gpus_per_worker,
        requirements=["=".join(key_value(item, "--require")) for item in requirements],
        patience=patience,
        device=device,
        fake_quant=fake_quant,
        null_row=null_row,
        references=references,
        non_inferior_to=non_inferior_to,
        faithfulness=faithfulness,
        protocol=protocol,
        paper_fixes=[name for name in (paper_fixes or "").replace(" ", "").split(",") if name],
        paper_weights=key_values(paper_weights, "--paper-weights"),
        profile=profile,
        gates=gates,
        presets=presets,
    )
    if dry_run:
        from qcam.evaluate.study.running import plan_study

        for line in plan_study(study_request(bundles, **given)):
            console.out.print(in_options(line), markup=False)
        return
    from qcam.commands.outcome import show, show_end, show_verdict

    drawn: dict[str, Any] = dict(report=report, grid_rows=grid_rows, colormap=colormap)
    found = qcam.study(bundles, **given, **drawn, on_results=partial(show, full=full_table))
    show_end(found, report=report)
    show_verdict(found)


if __name__ == "__main__":
    main()
