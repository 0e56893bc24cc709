"""verdict.json: what a check was asked and found, so that it can be asked again, here or elsewhere, and held against this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qcam.common import machine
from qcam.common.counted import counted
from qcam.common.errors import QcamError, ResultsError
from qcam.common.files import fingerprint
from qcam.common.records import as_record, read_json
from qcam.common.storage import shown
from qcam.evaluate.check.checked import VERDICT_JSON, Checked, finite, result_json
from qcam.evaluate.check.verdicts import Judged

#: The version of its form.
SCHEMA = 1
#: What of a result has to be equal bit for bit.
_HELD = ("figures", "images", "tensors", "values", "finite_differences", "missing_tensors", "other_tensors")
_AGAIN = "run {qcam-check} again"
#: Differences of one kind that are named.
_NAMED = 4


@dataclass(frozen=True)
class RecordedBundle:
    """A bundle that was checked: its folder then, and its fingerprint."""

    folder: str
    fingerprint: str


@dataclass(frozen=True)
class RecordedImages:
    """The images: where they were (None: the demo's), how many were taken at most, name → SHA-256 of each that was compared."""

    sha256: dict[str, str]
    place: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class RecordedOptions:
    """What was asked, in the words of `qcam.check`."""

    precisions: tuple[str, ...] = ()
    arithmetic: tuple[str, ...] = ()
    kernel: str = "auto"
    gates: dict[str, float] = field(default_factory=dict)
    every_tensor: bool = False
    finite_differences: bool = False
    other_cpus: bool = True
    deployed: str | None = None
    provider: str = "CPU"
    allow_fallback: bool = False
    session_config: dict[str, str] = field(default_factory=dict)
    provider_options: dict[str, str] = field(default_factory=dict)
    tf32: bool = False
    batch_size: int = 8
    threads: int = 1

    @property
    def arguments(self) -> dict[str, Any]:
        """Return them as keyword arguments of `qcam.check`."""
        return {of.name: getattr(self, of.name) for of in fields(self)}


@dataclass(frozen=True)
class RecordedResult:
    """A result: its verdict, its figures, and a digest of all that was measured."""

    model: str
    precision: str
    arithmetic: str
    verdict: str | None
    figures: dict[str, float | None]
    digest: str

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return f"{self.model} {self.precision} {self.arithmetic}"


@dataclass(frozen=True)
class VerdictRecord:
    """The content of verdict.json.

    Attributes:
        schema_version: Of its form.
        verdict: Of the whole.
        bundles: Model → bundle.
        images: What both sides were shown.
        options: What was asked.
        results: What was found.
        family: Kernel family of the machine; None where it was not known.
        machine: What it was.
        versions: Of Python and packages.
        deployed_sha256: Of the file that was judged in the bundle's place; None without one.
        gpu: The GPU that took part, in words; None where none did.
    """

    schema_version: int
    verdict: str
    bundles: dict[str, RecordedBundle]
    images: RecordedImages
    options: RecordedOptions
    results: tuple[RecordedResult, ...]
    family: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    deployed_sha256: str | None = None
    gpu: str | None = None


def verdict_json(checked: Checked, place: str | None, limit: int | None) -> dict[str, Any]:
    """Return the content of verdict.json.

    Args:
        checked: What a check found.
        place: Where its images were; None for the demo's.
        limit: How many were taken at most.
    """
    asked, settings, own = checked.options, checked.options.settings, checked.kernels.own
    return {
        "schema_version": SCHEMA,
        "verdict": checked.verdict.value,
        "bundles": {
            model: {"folder": str(Path(of["folder"]).absolute()), "fingerprint": of["fingerprint"]}
            for model, of in checked.bundles.items()
        },
        "images": {"place": None if place is None else shown(place), "limit": limit, "sha256": dict(checked.images)},
        "options": {
            "precisions": list(asked.precisions), "arithmetic": list(asked.arithmetics), "kernel": asked.kernel,
            "gates": dict(asked.gates), "every_tensor": asked.every_tensor, "finite_differences": asked.finite_differences,
            "other_cpus": asked.other_cpus, "deployed": None if asked.deployed is None else str(asked.deployed.absolute()),
            "provider": settings.provider, "allow_fallback": settings.allow_fallback,
            "session_config": dict(settings.config), "provider_options": dict(settings.provider_options),
            "tf32": settings.tf32, "batch_size": asked.batch_size, "threads": settings.threads,
        },
        "results": [_result(item) for item in checked.judged],
        "family": None if own is None else own.name,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "deployed_sha256": checked.deployed_sha256,
        "gpu": _gpu(checked),
    }  # fmt: skip


def read_verdict(path: Path) -> VerdictRecord:
    """Read verdict.json, or that of a folder.

    Raises:
        ResultsError: If it cannot be read, or is of another version.
    """
    path = path / VERDICT_JSON if path.is_dir() else path
    told = read_json(path, str(path), error=ResultsError, advice=_AGAIN)
    if isinstance(told, dict) and isinstance(told.get("gates"), list) and "results" not in told:
        raise ResultsError(
            f"{path} is a verdict of {{qcam-eval}}, and only those of {{qcam-check}} are reproduced; give the same "
            f"{{qcam-eval}} command another {{output}}, then give {{qcam-report}} {path.parent} and that folder"
        )
    record = as_record(told, VerdictRecord, str(path), error=ResultsError, advice=_AGAIN)
    if record.schema_version != SCHEMA:
        raise ResultsError(f"{path} is of version {record.schema_version}, and version {SCHEMA} is read; {_AGAIN}")
    if not record.bundles or not record.results:
        raise ResultsError(f"{path} names no {'results' if record.bundles else 'bundles'}, as no check does; {_AGAIN}")
    return record


def require_bundles(record: VerdictRecord, bundles: Mapping[str, str]) -> None:
    """Refuse bundles that are not those of a verdict.

    Args:
        record: The verdict.
        bundles: Model → fingerprint.

    Raises:
        QcamError: Names the first.
    """
    for model, of in record.bundles.items():
        if model not in bundles:
            raise QcamError(f"the verdict is of {model}, and no such bundle was given; give its folder")
        if bundles[model] != of.fingerprint:
            raise QcamError(f"bundle {model} is another one than the verdict is of: its fingerprint differs; check it anew")


def differences(record: VerdictRecord, checked: Checked) -> tuple[list[str], list[str]]:
    """Return what differs between a verdict and the same check made again.

    Args:
        record: The verdict.
        checked: What was found now.

    Returns:
        What is known to change figures (family, versions, images), and the results that differ, a line each.
    """
    own = checked.kernels.own
    causes = []
    if record.family != (now := None if own is None else own.name):
        causes.append(f"kernel family: {record.family or 'unknown'} then, {now or 'unknown'} now")
    versions = machine.versions()
    causes += [
        f"{name}: {then} then, {versions.get(name, 'none')} now"
        for name, then in record.versions.items()
        if versions.get(name) != then
    ]
    if record.gpu != (gpu := _gpu(checked)):
        causes.append(f"GPU: {record.gpu or 'none'} then, {gpu or 'none'} now")
    causes += _images(record.images.sha256, checked.images)
    if record.deployed_sha256 != checked.deployed_sha256:
        causes.append("the deployed file is another one")
    found = list(_results(record, checked))
    if record.verdict != checked.verdict:
        found.append(f"the verdict: {record.verdict} then, {checked.verdict} now")
    return causes, found


def _gpu(checked: Checked) -> str | None:
    return None if checked.gpu is None else checked.gpu.describe()


def _images(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    other = [name for name in then if now.get(name) != then[name]]
    more = [name for name in now if name not in then]
    for what, names in (("changed, or not there", other), ("new", more)):
        if names:
            several = counted(len(names), "image is", "images are")
            yield f"{several} {what}: {', '.join(names[:_NAMED])}{' …' if len(names) > _NAMED else ''}"


def _results(record: VerdictRecord, checked: Checked) -> Iterator[str]:
    now = {(item.result.model, item.result.precision, item.result.arithmetic): _result(item) for item in checked.judged}
    for then in record.results:
        found = now.pop((then.model, then.precision, then.arithmetic), None)
        if found is None:
            yield f"{then.name}: there is no such result now"
            continue
        told = [
            f"{name} {_shown(then.figures.get(name))} then, {_shown(found['figures'].get(name))} now"
            for name in dict.fromkeys([*then.figures, *found["figures"]])
            if found["figures"].get(name) != then.figures.get(name)
        ]
        if found["digest"] != then.digest and not told:
            told.append("figures are equal, single images or tensors differ")
        if found["verdict"] != then.verdict:
            told.append(f"{then.verdict or 'for information'} then, {found['verdict'] or 'for information'} now")
        if told:
            yield f"{then.name}: {'; '.join(told)}"
    for names in now:
        yield f"{' '.join(names)}: there was no such result then"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.9g}"


def _result(item: Judged) -> dict[str, Any]:
    told = finite(result_json(item))
    return {
        "model": told["model"], "precision": told["precision"], "arithmetic": told["arithmetic"], "verdict": told["verdict"],
        "figures": told["figures"], "digest": fingerprint({name: told[name] for name in _HELD}),
    }  # fmt: skip
