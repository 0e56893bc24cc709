"""`qcam-check`: the verdict on simulation and deployment, for people and for builds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcam.commands import console
from qcam.commands.inputs import find_photographs, key_value, load_bundles, read_places, torch_device
from qcam.common import machine
from qcam.common.errors import GateError, QcamError
from qcam.common.places import refuse_overlap
from qcam.runtime.kernels import KERNELS, KernelFamily

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qcam.evaluate.check.checker import Checker, CheckResult
    from qcam.evaluate.check.verdicts import Gate, Judged
    from qcam.images.sources import ImageFile
    from qcam.runtime.bundle import Bundle
    from qcam.runtime.deployed import SessionSettings
    from qcam.runtime.mirror.integer.exposure import Exposure

#: CAM agreement that a simulation has to reach unless told otherwise.
DEFAULT_CC = 0.99
#: Names of the pictures of agreement over depth.
PICTURES = "tensors-*.png"

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

\b
Gates, each a figure from 0 to 1 (CC from -1):
  codes, tap       share of equal codes, over all tensors and at the CAM layer
  logits           share of images with bitwise equal logits
  logits_close     share of images with logits equal within float rounding
  top1             share of images with the same top-1 class
  cc, cc_min       CC of simulated v. deployed CAM: mean, smallest
  sim, sim_min     SIM likewise
Without --fail-under: cc=0.99 for all. Where equal codes are promised (int8 on
the CPU provider, arithmetic integer, this CPU's own kernel family) codes=1,
and logits=1, or logits_close=1 if float operators compute the logits. For f32
on the CPU provider logits_close=1.

\b
Exit code: 0 every gate holds, 1 one falls short, 2 cannot be judged (bad
input, nothing to compare, a figure that is undefined), 70 a bug in qcam, 130
interrupted.
"""


@click.command(cls=console.Command, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of photographs; by default the demo ones.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first so many images.")
@click.option("--provider", default="CPU", show_default=True, help="ONNX Runtime provider. Strict: never silently another.")
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
    _require_place(output)
    loaded = load_bundles(bundles)
    refuse_overlap(output, read_places(bundles, loaded, images))
    wanted = tuple(dict.fromkeys(precisions))
    if deployed is not None:
        if len(loaded) != 1 or len(wanted) > 1:
            raise QcamError("--deployed judges one file: give one BUNDLE, and one --precision if it is not int8")
        if not deployed.is_file():
            raise QcamError(f"--deployed {deployed}: there is no such file")
        wanted = wanted or ("int8",)
    photographs = find_photographs(images)[:limit]
    todo = _plan(loaded, wanted, gates)
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
    for bundle, precision in todo:
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
        self.bundles: dict[str, dict[str, Any]] = {}
        self.placements: dict[str, dict[str, Any]] = {}
        self.remarks: list[str] = []
        self.warnings: list[str] = []
        self.refused: dict[str, str] = {}
        self.probe = probe_kernels(settings.config) if settings.provider == "CPU" else None
        self.own: KernelFamily | None = self.probe.family if self.probe is not None else None
        self.family = KERNELS[kernel] if kernel != "auto" else self.own or KERNELS["vnni"]
        if self.probe is not None and self.own is None:
            self._warn(f"equal codes are promised nowhere, the mirror follows {self.family}: on this CPU {self.probe.reason}")

    def check(self, bundle: Bundle, precision: str) -> None:
        """Judge one precision of one bundle."""
        from qcam.evaluate.check.checker import Checker
        from qcam.evaluate.check.verdicts import Judged
        from qcam.runtime.bundle import load_onnx
        from qcam.runtime.deployed.inspection import InspectedModel
        from qcam.runtime.fusion import disagreements, find_groups, quantized_tensors
        from qcam.runtime.graph import Graph
        from qcam.runtime.mirror.integer.exposure import exposure

        graph = Graph(load_onnx(bundle, precision))
        tensors = quantized_tensors(graph)
        runtime = InspectedModel(bundle, precision, self.settings, tensors, self.deployed)
        checker = Checker(bundle, precision, runtime, device=self.device)
        groups = find_groups(graph)
        name = f"{bundle.model_id} {precision}"
        placement = runtime.deployed.placement
        self.bundles[bundle.model_id] = {
            "folder": str(bundle.folder), "trained": bundle.trained, "fingerprint": bundle.fingerprint,
        }  # fmt: skip
        self.placements.setdefault(bundle.model_id, {})[precision] = placement.to_json(nodes=True)
        what = "float" if precision == "f32" and placement.float else placement.describe()
        self.remarks.append(f"{name} on {self.settings.provider}: {what}")
        integer = self.settings.provider == "CPU" and precision == "int8"
        risks = exposure(graph, groups) if integer else None
        if integer and self.deployed is None:
            wrong = disagreements(groups, graph, placement.kernel_of)
            self.placements[bundle.model_id][precision]["disagreements"] = wrong
            if wrong:
                self._warn(f"{name}: kernels are not those that the mirror takes for granted: {_some(wrong)}")
        if risks is not None and risks.lowest and (self.other_cpus or self.wraps):
            here = ", as this one does" if self.wraps else ""
            self._warn(
                f"{name}: {risks.lowest} weights are -128, on which ARM CPUs without dot-product instructions overflow{here}; "
                "export with --reduce-range"
            )
        trusted = integer and self.own is not None and self.family == self.own
        trusted = trusted and not (self.wraps and risks is not None and risks.lowest)
        results: list[CheckResult] = []
        for arithmetic in self.arithmetics if tensors else ("fake_quant",):
            result = self._run(checker, bundle, arithmetic, self.family, trusted and arithmetic == "integer")
            self.judged.append(Judged(result, self._gates(result)))
            results.append(result)
        if risks is not None and self.other_cpus and self.own is not None and self.deployed is None:
            self._elsewhere(checker, bundle, risks, results)

    @property
    def wraps(self) -> bool:
        """Tell whether this CPU's kernels overflow on weights of -128."""
        return self.probe is not None and bool(self.probe.wraps_lowest_weight)

    def report(self, folder: Path) -> None:
        """Print and write what was found; raise if a gate does not hold."""
        from qcam.common.files import exclusive
        from qcam.common.places import write_inside
        from qcam.evaluate.check import verdicts as check_report

        count = len(self.judged[0].result.images)
        title = f"{count} images, provider {self.settings.provider}"
        if self.deployed is not None:
            title += f", deployed: {self.deployed}"
        width = console.out.width if console.out.is_terminal else None
        tables = check_report.as_tables(self.judged, title, width)
        elsewhere = f"what other CPUs would compute, v. this one ({self.own})"
        for table in [*tables, *check_report.as_tables(self.elsewhere, elsewhere, width)]:
            console.out.print(table)
        for remark in self.remarks:
            console.out.print(remark, style="dim", markup=False)
        for item in self.judged:
            self._tell(item)
        reasons: dict[str, list[str]] = {}
        for name, reason in self.refused.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            self._warn(f"refused: {reason}: {_some(names)}")
        files = self._files()
        with exclusive(folder):
            for stale in folder.glob(PICTURES):  # of an earlier run
                if stale.name not in files:
                    stale.unlink(missing_ok=True)
            for name, content in files.items():
                write_inside(folder, name, content)
        pictures = [PICTURES] if any(name.endswith(".png") for name in files) else []
        written = ", ".join([name for name in reversed(files) if not name.endswith(".png")] + pictures)
        console.out.print(f"results: {folder}/ ({written})", markup=False)
        lines = []
        for item in self.judged:
            gates = "; ".join(gate.sentence for gate in item.gates if not gate.holds)
            if item.verdict == check_report.FALLS_SHORT:
                lines += [f"{item.result.title}: {gates}", check_report.blame(item.result)]
        if lines:
            raise GateError("\n".join(lines))
        undefined = [item for item in self.judged if item.verdict == check_report.UNDEFINED]
        if undefined:
            gates = ", ".join(gate.name for gate in undefined[0].gates if not gate.holds)
            titles = "; ".join(item.result.title for item in undefined)
            raise QcamError(
                f"{gates} cannot be judged, the CAMs of all images are constant or not finite: {titles}. Look at the model, or "
                "gate on other figures with --fail-under"
            )

    def _files(self) -> dict[str, bytes | str]:
        """Return all files of the report, ready to be written, check.json last."""
        from qcam.common.files import readable_json, sha256_file
        from qcam.common.places import file_names
        from qcam.evaluate.check import verdicts as check_report

        files: dict[str, bytes | str] = {}
        drawn = [item.result for item in self.judged if self.every_tensor and item.result.coded]
        names = file_names([f"{result.model}-{result.precision}-{result.arithmetic}" for result in drawn])
        for result, name in zip(drawn, names, strict=True):
            files[PICTURES.replace("*", name)] = check_report.depth_picture(result)
        further = {
            "bundles": self.bundles,
            "provider": self.settings.provider,
            "kernels": None if self.probe is None else self.probe.to_json(),
            "kernel": self.family.name,
            "session_config": self.settings.config,
            "deployed": None if self.deployed is None else str(self.deployed),
            "deployed_sha256": None if self.deployed is None else sha256_file(self.deployed),
            "refused_images": self.refused,
            "warnings": self.warnings,
            "machine": machine.describe(),
            "versions": machine.versions(),
            "other_cpus": [check_report.result_json(item) for item in self.elsewhere],
        }
        files["placement.json"] = readable_json(self.placements)
        files[check_report.JUNIT_XML] = check_report.junit_text(self.judged)
        files[check_report.CHECK_JSON] = check_report.json_text(self.judged, further)
        return files

    def _run(
        self, checker: Checker, bundle: Bundle, arithmetic: str, family: KernelFamily, exact: bool, *, aside: bool = False
    ) -> CheckResult:
        """Hold one mirror against the deployed run; `aside`: only the figures are wanted, not every tensor."""
        precision = checker.entry.name
        simulated = "float" if precision == "f32" else "fake_quant" if arithmetic == "fake_quant" else f"integer ({family})"
        with console.progress(f"{bundle.model_id} {precision} {simulated}", len(self.photographs)) as advance:
            result = checker.run(
                lambda: self._batches(bundle),
                arithmetic,
                family,
                exact=exact,
                every_tensor=self.every_tensor and not aside,
                advance=advance,
            )
        return result

    def _elsewhere(self, checker: Checker, bundle: Bundle, risks: Exposure, results: Sequence[CheckResult]) -> None:
        """Tell what other families' kernels would change; a family that was judged anyway is not run again."""
        from qcam.evaluate.check.verdicts import Judged

        own = self.own
        assert own is not None
        done = {result.kernel: result for result in results if result.arithmetic == "integer"}
        same = []
        for other in KERNELS.values():
            if other == own:
                continue
            if not risks.differs(own, other):
                same.append(other.name)
                continue
            result = done.get(other.name) or self._run(checker, bundle, "integer", other, False, aside=True)
            self.elsewhere.append(Judged(result, ()))
            if other.pairs_saturate != own.pairs_saturate:
                self._warn(_saturation_warning(result, other, risks))
        if same:
            self.remarks.append(
                f"{bundle.model_id} int8: {' and '.join(same)} CPUs compute the same codes as this one ({own}): the file has "
                "nothing that they treat otherwise"
            )

    def _batches(self, bundle: Bundle) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        import numpy as np

        from qcam.images.decoding import decode

        readable = False
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
                readable = True
                yield names, bundle.preprocessing.normalise(np.stack(crops))
        if not readable:
            name, reason = next(iter(self.refused.items()))
            count = len(self.photographs)
            raise QcamError(f"not one of {count} images could be read ({name}: {reason}); nothing was compared")

    def _gates(self, result: CheckResult) -> tuple[Gate, ...]:
        from qcam.evaluate.check.verdicts import CODE_GATES, Gate

        wanted = dict(self.gates)
        if not wanted:
            wanted = {"cc": DEFAULT_CC}
            if result.exact:
                wanted |= {"codes": 1.0, "logits_close" if result.float_logits else "logits": 1.0}
            if not result.coded and self.settings.provider == "CPU":
                wanted["logits_close"] = 1.0
        figures = result.figures
        return tuple(
            Gate(name, threshold, figures[name]) for name, threshold in wanted.items() if result.coded or name not in CODE_GATES
        )

    def _tell(self, item: Judged) -> None:
        """Print what the table has no room for."""
        from qcam.evaluate.check import verdicts as check_report

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
            count, every = len(result.missing), len(result.missing) + len(result.coded)
            self._warn(f"{result.title}: {count} of {every} tensors are not in the deployed file: {_some(result.missing)}")
        if result.undefined:
            count, every = result.undefined, len(result.images)
            self._warn(f"{result.title}: CAMs of {count} of {every} images are constant or not finite and have no CC")

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        console.warn(message)


def _plan(bundles: Sequence[Bundle], wanted: Sequence[str], gates: Iterable[str]) -> list[tuple[Bundle, str]]:
    """Return what to judge, before anything runs: a wish that cannot be granted is told at once, not after minutes.

    Bundles of one model (exported with other options) get their folders into their names, to be told apart in every result.
    """
    from qcam.evaluate.check.verdicts import CODE_GATES
    from qcam.runtime.bundle import ordered_precisions

    unique = list({bundle.folder.resolve(): bundle for bundle in bundles}.values())
    models = Counter(bundle.model_id for bundle in unique)
    folders = Counter((bundle.model_id, bundle.folder.resolve().name) for bundle in unique)
    todo = []
    for bundle in unique:
        folder = bundle.folder.resolve()
        label = folder.name if folders[bundle.model_id, folder.name] == 1 else str(bundle.folder)
        named = bundle if models[bundle.model_id] == 1 else replace(bundle, model_id=f"{bundle.model_id} ({label})")
        precisions = ordered_precisions(wanted or [entry.name for entry in bundle.precisions])
        todo += [(named, bundle.precision(name).name) for name in precisions]
    nothing = sorted(CODE_GATES.intersection(gates))
    if nothing and all(precision == "f32" for _, precision in todo):
        raise QcamError(f"--fail-under {nothing[0]}: f32 has no codes, there is nothing to judge; choose another --precision")
    return todo


def _require_place(output: Path) -> None:
    """Tell before anything runs that results cannot be written.

    Raises:
        QcamError: If they cannot.
    """
    place = output.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise QcamError(f"--output {output}: cannot write to {place}; choose another place")


def _saturation_warning(result: CheckResult, other: KernelFamily, risks: Exposure) -> str:
    """Say what saturation changes, with figures, and its cures."""
    from qcam.evaluate.check.verdicts import share

    figures = result.figures
    where = "CPUs with AVX2 but without VNNI" if other.pairs_saturate else f"CPUs whose sums do not saturate ({other})"
    cures = "Cures: qcam-export --reduce-range, or session configuration session.x64quantprecision=1 on the AVX2 device"
    if figures["codes"] == 1 and figures["logits"] == 1:
        return (
            f"{result.model} int8 can differ on {where}: {risks.saturable} of {risks.pairs} pairs of weights can saturate, "
            f"though none did on these images. {cures}"
        )
    flips, count = sum(not image.top1 for image in result.images), len(result.images)
    changed = {name: None if (value := figures[name]) is None else 1 - value for name in ("codes", "tap")}
    cams = "undefined" if figures["cc"] is None else f"{figures['cc']:.3f} (smallest {figures['cc_min']:.3f})"
    return (
        f"{result.model} int8 is another model on {where}: {share(changed['codes'])} of all codes and "
        f"{share(changed['tap'])} at the tap would change, CC of its CAMs {cams}, top-1 of {flips} of {count} images. {cures}"
    )


def _some(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _thresholds(given: tuple[str, ...]) -> dict[str, float]:
    from qcam.evaluate.check.verdicts import GATES

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
