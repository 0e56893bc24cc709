"""`qcam-check`: the verdict on simulation and deployment, for people and for builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcam.commands import console, options
from qcam.commands.options import COMPARED, OUTPUT, key_values, option
from qcam.common.counted import counted
from qcam.common.errors import GateError, QcamError, UndecidedError
from qcam.common.extras import require_packages
from qcam.common.places import refuse_overlap
from qcam.common.printable import printable
from qcam.common.storage import is_url
from qcam.common.vocabulary import Arithmetic, words
from qcam.evaluate.check.gates import PRESETS
from qcam.runtime.kernels import KERNELS

if TYPE_CHECKING:
    from qcam.evaluate.check.checked import Checked
    from qcam.evaluate.check.verdicts import Judged

#: What may be given with --reproduce.
_OF_REPRODUCE = frozenset({"bundles", "images", "deployed", "device", "reproduce"})

_EPILOG = """\b
Examples:
  qcam-check
      every bundle of bundles/: does the integer mirror compute what ONNX
      Runtime computes?
  qcam-check bundles/resnet50 --arithmetic fake_quant --arithmetic integer
      how far is a fake-quant simulation off, and the exact one?
  qcam-check bundles/resnet50 --precision int8 --kernel avx2
      what would a CPU with AVX2 but without VNNI compute?
  qcam-check bundles/resnet50 --deployed vendor.onnx --every-tensor
      is the converted file still that network, and which operator differs?
  qcam-check bundles/resnet50 --fail-under cc=0.99 --fail-under codes=0.999
  qcam-check --reproduce out/check
      the same check again: equal bit for bit, or what differs

\b
Gates, each a figure from 0 to 1 (CC from -1):
  codes, tap       share of equal codes, over all tensors and at the CAM layer
  logits           share of images with bitwise equal logits
  logits_close     share of images with logits equal within float rounding
  top1             share of images with the same top-1 class
  cc, cc_min       CC of simulated v. deployed CAM: mean, smallest
  sim, sim_min     SIM likewise
  finite_differences
                   r of the deployed tail's slopes with the gradient
Without --fail-under: cc=0.99 for all. Where equal codes are promised (8 bits
on the CPU provider, arithmetic integer, this CPU's own kernels) codes=1, and
logits=1, or logits_close=1 if float operators compute the logits. For f32 on
the CPU provider logits_close=1.
A --deployed file whose scales are not the bundle's has no equal codes: codes
and tap are refused by name, and without --fail-under cc=0.99 alone stands.

\b
Exit code: 0 every gate holds, 1 one falls short, 2 nothing could be compared
(bad input or environment), 3 undecided: the figure of a gate is undefined, as
where all CAMs are constant, and no gate falls short; 70 a bug in qcam, 130
interrupted.
"""


@click.command("qcam-check", cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@options.images()
@options.limit()
@options.precision()
@option(
    "--arithmetic",
    "arithmetics",
    group=COMPARED,
    multiple=True,
    type=click.Choice(words(Arithmetic)),
    help="How the mirror computes; may be given twice. fake_quant: float32 between quantizers. integer (default): what ONNX "
    "Runtime computes, code for code; for int16 the true 16-bit integer result.",
)
@option("--fail-under", "thresholds", group=COMPARED, multiple=True, metavar="GATE=VALUE", help="Smallest value that holds.")
@option(
    "--gate",
    "presets",
    group=COMPARED,
    multiple=True,
    type=click.Choice(list(PRESETS)),
    help="Gates by name. codes: those that stand without --fail-under. maps: cc=0.99 alone. (mlperf is one of qcam-eval.)",
)
@option(
    "--every-tensor",
    group=COMPARED,
    is_flag=True,
    help="Tell tensor by tensor, and feed each operator with the deployed codes.",
)
@option(
    "--finite-differences",
    group=COMPARED,
    is_flag=True,
    help="Move the codes at the CAM layer, run what lies behind it in ONNX Runtime, and hold the slopes of the explained score "
    "against the mirror's gradient; a gate of that name asks for it, too.",
)
@option(
    "--kernel",
    group=COMPARED,
    advanced=True,
    default="auto",
    show_default=True,
    type=click.Choice(["auto", *KERNELS]),
    help="Kernel family of the integer arithmetic; auto asks this machine's ONNX Runtime.",
)
@option(
    "--deployed",
    group=COMPARED,
    advanced=True,
    type=click.Path(path_type=Path),
    help="ONNX file of the same network to judge in the bundle's place, whoever made it: tensors are matched by position; "
    "where scales differ, values are compared.",
)
@option(
    "--other-cpus/--no-other-cpus",
    group=COMPARED,
    advanced=True,
    default=True,
    show_default=True,
    help="Tell what other CPUs would change.",
)
@option(
    "--reproduce",
    group=COMPARED,
    type=click.Path(path_type=Path, exists=True),
    metavar="VERDICT",
    help="Make the check of a verdict.json, or of the folder that holds it, again, and say what differs: nothing, bit for bit, "
    "on the same kernel family. Its options are taken; give BUNDLE and --images where they lie elsewhere now.",
)
@option(
    "--output",
    group=OUTPUT,
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out") / "check",
    show_default=True,
    help="Folder for check.json, verdict.md, verdict.json, junit.xml, placement.json and pictures; an earlier check there is "
    "replaced. With --reproduce nothing is written.",
)
@options.provider()
@options.allow_fallback("warn of it")
@options.session_config()
@options.provider_option()
@options.tf32()
@options.batch_size()
@options.threads("Threads of ONNX Runtime and PyTorch; by default all cores.")
@options.device()
def main(
    bundles: tuple[str, ...],
    images: str | None,
    limit: int | None,
    provider: str,
    allow_fallback: bool,
    precisions: tuple[str, ...],
    arithmetics: tuple[str, ...],
    kernel: str,
    thresholds: tuple[str, ...],
    presets: tuple[str, ...],
    every_tensor: bool,
    finite_differences: bool,
    deployed: Path | None,
    other_cpus: bool,
    session_config: tuple[str, ...],
    provider_options: tuple[str, ...],
    tf32: bool,
    batch_size: int,
    threads: int | None,
    device: str,
    reproduce: Path | None,
    output: Path,
) -> None:
    """Check the simulation of each BUNDLE, not its quantization: is what is simulated what the runtime really computes?

    The mirror, a PyTorch graph of the very same ONNX file, is held against the deployed run: integer codes of every quantized
    tensor, logits, top-1, and the CAMs of both. Each batch runs once, whatever it is held against; the last remark says
    where the time went. Without BUNDLE, all of bundles/ are taken. Whether the quantized network is good enough is asked of
    qcam-eval --fail-under.
    """
    require_packages("qcam-check", "onnxruntime", "torch", *(["matplotlib"] if every_tensor else []))
    from qcam import Verdict, check
    from qcam.evaluate.check.checked import require_place
    from qcam.evaluate.run.inputs import load_bundles, read_places
    from qcam.runtime.deployed import provider_name, require_provider

    if reproduce is not None:
        _reproduce(reproduce, bundles, images, deployed, device)
        return
    gates = _thresholds(thresholds)
    if "codes" in presets and (gates or len(set(presets)) > 1):
        raise QcamError("--gate codes stands alone: it promises equal codes where they can be; leave the other gates out")
    for name in presets:
        gates = PRESETS[name] | gates
    config = key_values(session_config, "--session-config")
    if not allow_fallback:
        require_provider(provider_name(provider))
    earlier = require_place(output)
    loaded = load_bundles(bundles)
    refuse_overlap(output, read_places(bundles, loaded, images))
    verdict = check(
        loaded,
        images=images,
        limit=limit,
        precisions=precisions,
        arithmetic=arithmetics or "integer",
        kernel=kernel,
        gates=gates,
        every_tensor=every_tensor,
        finite_differences=finite_differences,
        other_cpus=other_cpus,
        deployed=deployed,
        provider=provider,
        allow_fallback=allow_fallback,
        session_config=config,
        provider_options=key_values(provider_options, "--provider-option"),
        tf32=tf32,
        batch_size=batch_size,
        threads=threads,
        device=device,
    )
    _tell(verdict.checked)
    _write(verdict.checked, output, images, limit)
    if earlier:
        console.note(f"{output} held an earlier check; it was replaced")
    if verdict.verdict is Verdict.FALLS_SHORT:
        raise GateError(verdict.reason)
    if verdict.verdict is Verdict.UNDECIDED:
        raise UndecidedError(f"{verdict.reason} (--fail-under)")


def _tell(checked: Checked) -> None:
    """Print tables, remarks, and of each result what the tables have no room for."""
    from qcam.evaluate.check.tables import as_tables
    from qcam.evaluate.check.verdicts import Judged

    title = f"{counted(len(checked.judged[0].result.images), 'image')}, provider {checked.options.settings.provider}"
    if checked.options.deployed is not None:
        title += f", deployed: {checked.options.deployed}"
    width = console.out.width if console.out.is_terminal else None
    elsewhere = f"what other CPUs would compute, v. this one ({checked.kernels.own})"
    others = [Judged(result) for result in checked.elsewhere]
    for table in [*as_tables(checked.judged, title, width), *as_tables(others, elsewhere, width)]:
        console.out.print(table)
    for remark in checked.remarks:  # of weights that nobody knows, reading the bundles told
        console.out.print(remark, style="dim", markup=False)
    for item in checked.judged:
        _tell_result(item, every_tensor=checked.options.every_tensor)


def _tell_result(item: Judged, *, every_tensor: bool) -> None:
    """Print every tensor if that was asked for, the operator to blame, the images that agree least, and remarks."""
    from qcam.evaluate.check.checked import moved_images
    from qcam.evaluate.check.tables import tensor_table, values_table
    from qcam.evaluate.check.words import blame

    result = item.result
    if every_tensor and result.coded:
        console.out.print(tensor_table(result))
    if every_tensor and result.values:
        console.out.print(values_table(result))
    if result.coded and result.first_difference() is not None and (every_tensor or not item.holds):
        console.out.print(blame(result), markup=False)
    worst = moved_images(result)
    if worst:
        names = ", ".join(f"{image.image} {image.metrics['CC']:.4f}" for image in worst)
        console.out.print(f"{result.title}: lowest CC: {names}", style="dim", markup=False)
    for remark in result.remarks:
        console.out.print(f"{result.title}: {remark}", style="dim", markup=False)


def _reproduce(path: Path, bundles: tuple[str, ...], images: str | None, deployed: Path | None, device: str) -> None:
    """Make a check again, and say what differs.

    Raises:
        GateError: If a result differs, though family, versions and images are the same.
        UndecidedError: If one differs, and they are not.
        QcamError: If options were given that the verdict has of its own, or bundles are other ones.
    """
    from qcam import check
    from qcam.evaluate.check.reproduce import differences, read_verdict, require_bundles
    from qcam.evaluate.run.inputs import load_bundles
    from qcam.runtime.deployed import require_provider

    context = click.get_current_context()
    for name in context.params:
        if name not in _OF_REPRODUCE and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option_name = next(of.opts[0] for of in context.command.params if of.name == name)
            raise QcamError(f"{option_name} is not taken with --reproduce, whose verdict has its own options; leave it out")
    record = read_verdict(path)
    asked = record.options
    if not asked.allow_fallback:
        require_provider(asked.provider)
    loaded = load_bundles(bundles or [of.folder for of in record.bundles.values()])
    require_bundles(record, {bundle.model_id: bundle.fingerprint for bundle in loaded})
    file = deployed or (None if asked.deployed is None else Path(asked.deployed))
    verdict = check(
        loaded,
        images=images if images is not None else record.images.place,
        limit=record.images.limit,
        device=device,
        **asked.arguments | {"deployed": file},
    )
    causes, found = differences(record, verdict.checked)
    for line in causes:
        console.out.print(f"other than then: {printable(line)}", markup=False, highlight=False)
    if not found:
        told = f"reproduced, bit for bit: {counted(len(record.results), 'result')}; the verdict was: {record.verdict}"
        console.out.print(told, markup=False, highlight=False)
        return
    told = "\n".join(found)
    if causes:
        raise UndecidedError(f"not reproduced, and not under the same conditions:\n{told}")
    raise GateError(f"not reproduced under the same conditions:\n{told}")


def _write(checked: Checked, folder: Path, images: str | None, limit: int | None) -> None:
    """Write all files, and say which."""
    from qcam.common.files import readable_json
    from qcam.evaluate.check.checked import PICTURES, VERDICT_JSON
    from qcam.evaluate.check.reproduce import verdict_json

    place = images if images is None or is_url(images) else str(Path(images).absolute())
    names = checked.write(folder, {VERDICT_JSON: readable_json(verdict_json(checked, place, limit))})
    written = [name for name in reversed(names) if not name.endswith(".png")]
    if len(written) < len(names):
        written.append(PICTURES)
    console.out.print(f"results: {folder}/ ({', '.join(written)})", markup=False)


def _thresholds(given: tuple[str, ...]) -> dict[str, float]:
    """Read --fail-under.

    Raises:
        QcamError: If one is no gate, or no number that its figure can reach.
    """
    from qcam.evaluate.check.gates import require_gates

    wanted = {}
    for name, value in key_values(given, "--fail-under").items():
        try:
            wanted[name] = float(value)
        except ValueError as error:
            raise QcamError(f"--fail-under {name}={value}: {value!r} is no number") from error
    try:
        require_gates(wanted)
    except QcamError as error:
        raise QcamError(f"--fail-under {error.template}") from error
    return wanted


if __name__ == "__main__":
    main()
