"""`qcam-check`: the verdict on simulation and deployment, for people and for builds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcam.common import console, machine
from qcam.common.errors import GateError, QcamError
from qcam.evaluate.inputs import find_photographs, key_value, load_bundles, torch_device
from qcam.runtime.kernels import KERNELS, KernelFamily

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qcam.calibration.images import ImageFile
    from qcam.evaluate.check import CheckResult
    from qcam.evaluate.check_report import Gate, Judged
    from qcam.runtime.bundle import Bundle
    from qcam.runtime.deployed import SessionSettings

#: CAM agreement that a simulation has to reach unless told otherwise.
DEFAULT_CC = 0.99

_EPILOG = """\b
Examples:
  qcam-check
      every bundle of bundles/: does the integer mirror compute what ONNX Runtime computes?
  qcam-check bundles/resnet50 --arithmetic fake_quant --arithmetic integer
      how far is a fake-quant simulation off, and the exact one?
  qcam-check bundles/resnet50 --precision int8 --kernel avx2
      what would a CPU with AVX2 but without VNNI compute?
  qcam-check bundles/resnet50 --deployed vendor.onnx --every-tensor
      is the converted file still that network, and which operator differs first?
  qcam-check bundles/resnet50 --fail-under cc=0.99 --fail-under codes=0.999
Without --fail-under: CC of CAMs at least 0.99; and where equal codes are promised (int8 on the CPU provider, arithmetic
integer, this CPU's own kernel family) all codes equal, and all logits if an integer operator computes them.
Gates: codes, tap, logits, top1 (shares, 0 to 1), cc, cc_min, sim, sim_min.
Exit code: 0 holds, 1 falls short, 2 cannot be judged.
"""


@click.command(cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of photographs; by default the demo ones.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first so many images.")
@click.option("--provider", default="CPU", show_default=True, help="ONNX Runtime execution provider. Strict.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["f32", "int16", "int8"]),
    help="May be given several times; by default all that a bundle holds.",
)
@click.option(
    "--arithmetic",
    "arithmetics",
    multiple=True,
    type=click.Choice(["fake_quant", "integer"]),
    help="How the mirror computes; may be given twice. fake_quant: float32 between quantizers. integer (default): what the "
    "integer kernels compute; for int16 the true 16-bit integer result.",
)
@click.option(
    "--kernel",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", *KERNELS]),
    help="Kernel family of the integer arithmetic; auto asks this machine's ONNX Runtime.",
)
@click.option("--fail-under", "thresholds", multiple=True, metavar="GATE=VALUE", help="Smallest value that holds.")
@click.option("--every-tensor", is_flag=True, help="Tell tensor by tensor, and feed each operator with the deployed codes.")
@click.option("--deployed", type=click.Path(path_type=Path), help="ONNX file to judge in the bundle's place.")
@click.option("--other-cpus/--no-other-cpus", default=True, show_default=True, help="Tell what other CPUs would change.")
@click.option("--session-config", multiple=True, metavar="KEY=VALUE", help="ONNX Runtime session configuration entry.")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Images at a time.")
@click.option("--threads", type=click.IntRange(1), help="Threads of ONNX Runtime and PyTorch; by default all cores.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", show_default=True, help="For PyTorch.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out") / "check",
    show_default=True,
    help="Folder for check.json, junit.xml, placement.json and pictures.",
)
def main(
    bundles: tuple[Path, ...],
    images: Path | None,
    limit: int | None,
    provider: str,
    precisions: tuple[str, ...],
    arithmetics: tuple[str, ...],
    kernel: str,
    thresholds: tuple[str, ...],
    every_tensor: bool,
    deployed: Path | None,
    other_cpus: bool,
    session_config: tuple[str, ...],
    batch_size: int,
    threads: int | None,
    device: str,
    output: Path,
) -> None:
    """Check each BUNDLE: is what is simulated what the runtime really computes?

    The mirror, a PyTorch graph of the very same ONNX file, is held against the deployed run: integer codes of every quantized
    tensor, logits, top-1, and the CAMs of both. Without BUNDLE, all of bundles/ are taken.
    """
    from qcam.runtime.deployed import SessionSettings, provider_name, require_provider

    gates = _thresholds(thresholds)
    threads = threads or machine.available_cores()
    config = dict(key_value(entry, "--session-config") for entry in session_config)
    settings = SessionSettings(provider=provider_name(provider), threads=threads, config=config)
    require_provider(settings.provider)
    loaded = load_bundles(bundles)
    if deployed is not None and (len(loaded) != 1 or len(precisions) > 1):
        raise QcamError("--deployed judges one file: give one BUNDLE, and one --precision if it is not int8")
    if deployed is not None and not deployed.is_file():
        raise QcamError(f"--deployed {deployed}: there is no such file")
    photographs = find_photographs(images)[:limit]
    session = _Session(
        settings=settings,
        photographs=photographs,
        batch_size=batch_size,
        device=torch_device(device, threads),
        arithmetics=tuple(dict.fromkeys(arithmetics)) or ("integer",),
        kernel=kernel,
        gates=gates,
        every_tensor=every_tensor,
        other_cpus=other_cpus,
        deployed=deployed,
    )
    for bundle in loaded:
        wanted = precisions or (("int8",) if deployed else tuple(entry.name for entry in bundle.precisions))
        for precision in wanted:
            session.check(bundle, precision)
    session.report(output)


class _Session:
    """One run of the command: settings, and what has been found so far."""

    def __init__(
        self,
        settings: SessionSettings,
        photographs: Sequence[ImageFile],
        batch_size: int,
        device: str,
        arithmetics: tuple[str, ...],
        kernel: str,
        gates: dict[str, float],
        every_tensor: bool,
        other_cpus: bool,
        deployed: Path | None,
    ) -> None:
        from qcam.runtime.deployed.probe import probe_kernels

        self.settings = settings
        self.photographs = photographs
        self.batch_size = batch_size
        self.device = device
        self.arithmetics = arithmetics
        self.gates = gates
        self.every_tensor = every_tensor
        self.other_cpus = other_cpus
        self.deployed = deployed
        self.judged: list[Judged] = []
        self.elsewhere: list[Judged] = []
        self.placements: dict[str, dict[str, Any]] = {}
        self.warnings: list[str] = []
        self.refused: dict[str, str] = {}
        self.probe = probe_kernels(settings.config) if settings.provider == "CPU" else None
        self.own: KernelFamily | None = self.probe.family if self.probe is not None else None
        self.family = KERNELS[kernel] if kernel != "auto" else self.own or KERNELS["vnni"]
        if self.probe is not None and self.own is None:
            self._warn(
                f"this CPU's integer kernels fit no known family ({self.probe.reason}): the mirror follows {self.family} and "
                "promises nothing"
            )

    def check(self, bundle: Bundle, precision: str) -> None:
        """Judge one precision of one bundle."""
        from qcam.evaluate.check import Checker
        from qcam.evaluate.check_report import Judged
        from qcam.runtime.bundle import load_model
        from qcam.runtime.deployed.inspection import InspectedModel
        from qcam.runtime.fusion import disagreements, find_groups, quantized_tensors
        from qcam.runtime.graph import Graph
        from qcam.runtime.mirror.integer.exposure import exposure

        graph = Graph(load_model(bundle, precision))
        tensors = quantized_tensors(graph)
        runtime = InspectedModel(bundle, precision, self.settings, tensors, self.deployed)
        checker = Checker(bundle, precision, runtime, device=self.device)
        groups = find_groups(graph)
        placement = runtime.deployed.placement
        self.placements.setdefault(bundle.model_id, {})[precision] = placement.to_json(nodes=True)
        integer = self.settings.provider == "CPU" and precision == "int8"
        if integer and self.deployed is None:
            for sentence in disagreements(groups, graph, placement.kernel_of):
                self._warn(f"{bundle.model_id} {precision}: fusion is not what the mirror takes for granted: {sentence}")
        arithmetics = self.arithmetics if tensors else ("fake_quant",)
        for arithmetic in arithmetics:
            exact = integer and arithmetic == "integer" and self.own is not None and self.family == self.own
            result = self._run(checker, bundle, arithmetic, self.family, exact)
            if precision == "int16":
                result.remarks.append(f"{self.settings.provider} computes 16-bit graphs in {placement.describe()}")
            self.judged.append(Judged(result, self._gates(result)))
        if integer and self.other_cpus and self.own is not None and self.deployed is None:
            risks = exposure(graph, groups)
            if risks.lowest:
                self._warn(
                    f"{bundle.model_id} {precision}: {risks.lowest} weights are -128, which overflow on ARM CPUs without "
                    "dot-product instructions; export with --reduce-range"
                )
            for other in KERNELS.values():
                differs = risks.saturable if other.pairs_saturate != self.own.pairs_saturate else 0
                differs += risks.fixed_point if other.fixed_point_add != self.own.fixed_point_add else 0
                differs += other.fused_batch_norm != self.own.fused_batch_norm
                if other != self.own and differs:
                    self._elsewhere(checker, bundle, other)

    def report(self, folder: Path) -> None:
        """Print and write what was found; raise if a gate does not hold."""
        from qcam.common.files import exclusive, readable_json, write_atomically
        from qcam.evaluate import check_report

        count = len(self.judged[0].result.images)
        title = f"{count} images, provider {self.settings.provider}"
        tables = check_report.as_tables(self.judged, title)
        tables += check_report.as_tables(self.elsewhere, f"what other CPUs would compute, v. this one ({self.own})")
        for table in tables:
            console.out.print(table)
        for item in self.judged:
            self._tell(item)
        for name, reason in self.refused.items():
            self._warn(f"refused: {name}: {reason}")
        with exclusive(folder):
            for item in self.judged:
                if self.every_tensor and item.result.coded:
                    result = item.result
                    model = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in result.model)
                    check_report.draw_depth(folder / f"tensors-{model}-{result.precision}-{result.arithmetic}.png", result)
            further = {
                "provider": self.settings.provider,
                "kernels": None if self.probe is None else self.probe.to_json(),
                "kernel": self.family.name,
                "session_config": self.settings.config,
                "deployed": None if self.deployed is None else str(self.deployed),
                "refused_images": self.refused,
                "warnings": self.warnings,
                "machine": machine.describe(),
                "versions": machine.versions(),
                "other_cpus": [check_report.result_json(item) for item in self.elsewhere],
            }
            write_atomically(folder / "placement.json", readable_json(self.placements))
            check_report.write_junit(folder, self.judged)
            check_report.write_json(folder, self.judged, further)
        files = "check.json, junit.xml, placement.json" + (", tensors-*.png" if self.every_tensor else "")
        console.out.print(f"results: {folder}/ ({files})", markup=False)
        failed = [item for item in self.judged if not item.holds]
        if failed:
            gates = "; ".join(gate.sentence for item in failed for gate in item.gates if not gate.holds)
            raise GateError(f"{gates}\n{check_report.blame(failed[0].result)}")

    def _run(
        self, checker: Any, bundle: Bundle, arithmetic: str, family: KernelFamily, exact: bool, every: bool | None = None
    ) -> CheckResult:
        label = f"{bundle.model_id} {checker.entry.name} {arithmetic}"
        with console.progress(label, len(self.photographs)) as advance:
            result: CheckResult = checker.run(
                lambda: self._batches(bundle),
                arithmetic,
                family,
                exact=exact,
                every_tensor=self.every_tensor if every is None else every,
                advance=advance,
            )
        return result

    def _elsewhere(self, checker: Any, bundle: Bundle, other: KernelFamily) -> None:
        """Tell what another family's kernels would change."""
        from qcam.evaluate.check_report import Judged, share

        assert self.own is not None
        result = self._run(checker, bundle, "integer", other, False, every=False)
        self.elsewhere.append(Judged(result, ()))
        figures = result.figures
        if other.pairs_saturate == self.own.pairs_saturate:
            return
        flips, count = sum(not image.top1 for image in result.images), len(result.images)
        where = "CPUs with AVX2 but without VNNI" if other.pairs_saturate else f"CPUs that do not saturate ({other})"
        changed = {name: None if (value := figures[name]) is None else 1 - value for name in ("codes", "tap")}
        cams = "undefined" if figures["cc"] is None else f"{figures['cc']:.3f} (smallest {figures['cc_min']:.3f})"
        self._warn(
            f"{result.model} int8 is another model on {where}: {share(changed['codes'])} of all codes and "
            f"{share(changed['tap'])} at the tap would change, CC of its CAMs {cams}, top-1 of {flips} of {count} images. "
            "Cures: qcam-export --reduce-range, or session configuration session.x64quantprecision=1 on the device"
        )

    def _batches(self, bundle: Bundle) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        import numpy as np

        from qcam.calibration.images import decode

        for start in range(0, len(self.photographs), self.batch_size):
            names, crops = [], []
            for photograph in self.photographs[start : start + self.batch_size]:
                decoded = decode(photograph.path)
                if decoded.image is None:
                    self.refused[photograph.name] = decoded.refusal
                    continue
                names.append(photograph.name)
                crops.append(bundle.preprocessing.crop_image(decoded.image))
            if names:
                yield names, bundle.preprocessing.normalise(np.stack(crops))

    def _gates(self, result: CheckResult) -> tuple[Gate, ...]:
        from qcam.evaluate.check_report import Gate

        wanted = dict(self.gates)
        if not wanted:
            wanted = {"cc": DEFAULT_CC}
            if result.exact:
                wanted["codes"] = 1.0
                if not result.tensors[-1].operator.endswith("(float)"):
                    wanted["logits"] = 1.0
        figures = result.figures
        coded = bool(result.coded)
        return tuple(
            Gate(name, threshold, figures[name]) for name, threshold in wanted.items() if coded or name not in ("codes", "tap")
        )

    def _tell(self, item: Judged) -> None:
        """Print what the table has no room for."""
        from qcam.evaluate import check_report

        result = item.result
        if self.every_tensor and result.coded:
            console.out.print(check_report.tensor_table(result))
        different = result.first_difference()
        if result.coded and (different is not None) and (self.every_tensor or not item.holds):
            console.out.print(check_report.blame(result), markup=False)
        worst = [image for image in result.worst_images() if (image.metrics["CC"] or 0) < 0.9999]
        if worst:
            names = ", ".join(f"{image.image} {image.metrics['CC']:.4f}" for image in worst)
            console.out.print(f"{result.title}: lowest CC: {names}", style="dim", markup=False)
        for remark in result.remarks:
            console.out.print(f"{result.title}: {remark}", style="dim", markup=False)
        if result.missing:
            names = ", ".join(result.missing[:3])
            self._warn(f"{result.title}: {len(result.missing)} tensors are not in the deployed file: {names}")
        if result.undefined:
            self._warn(f"{result.title}: {result.undefined} CAMs are constant and have no CC")

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        console.warn(message)


def _thresholds(given: tuple[str, ...]) -> dict[str, float]:
    from qcam.evaluate.check_report import GATES

    wanted = {}
    for text in given:
        name, value = key_value(text, "--fail-under")
        if name not in GATES:
            raise QcamError(f"--fail-under {name}: no such gate; choose from {', '.join(GATES)}")
        try:
            wanted[name] = float(value)
        except ValueError as error:
            raise QcamError(f"--fail-under {text}: {value!r} is no number") from error
        if not -1 <= wanted[name] <= 1:
            raise QcamError(f"--fail-under {text}: the figure lies between -1 and 1; give 0.99 for 99 %")
    return wanted


if __name__ == "__main__":
    main()
