"""What a check found as a whole: its verdict, and the files that tell it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.common.files import exclusive, readable_json
from qcam.common.places import file_names, require_own, write_inside
from qcam.common.verdict import Verdict, together
from qcam.common.wording import in_options
from qcam.evaluate.check.gates import CODE_GATES
from qcam.evaluate.check.junit import junit_text
from qcam.evaluate.check.kernels import Kernels
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.pictures import depth_picture
from qcam.evaluate.check.result import CheckResult, ImageResult, TensorResult, ValuesResult
from qcam.evaluate.check.verdicts import Judged
from qcam.evaluate.check.words import blame
from qcam.evaluate.results.records import UNKNOWN_WEIGHTS
from qcam.evaluate.showing.canvas import colours_of
from qcam.evaluate.showing.markdown import escape_markdown, table_markdown
from qcam.evaluate.showing.numbers import four_digits
from qcam.runtime.gpu import Gpu

#: Version of check.json.
SCHEMA_VERSION = 2
CHECK_JSON, JUNIT_XML, PLACEMENT_JSON = "check.json", "junit.xml", "placement.json"
VERDICT_JSON, VERDICT_MD = "verdict.json", "verdict.md"
#: Names of the pictures of agreement over depth.
PICTURES = "tensors-*.png"
#: What shows that a file is a check's.
_MARKS = {CHECK_JSON: b'"schema_version": ', JUNIT_XML: b'<testsuites name="qcam-check"'}
#: CC from which on two maps are the same for the eye.
_AS_ONE = 0.9999
#: What shows that a folder is a study's, which has a placement.json of its own.
_STUDY = "run.json"


def holds_check(folder: Path) -> bool:
    """Tell whether a folder holds an earlier check, and refuse it where files of a check would replace others.

    Args:
        folder: Where files of a check are to go; need not be there.

    Raises:
        QcamError: If a file in the way was not written by a check.
    """
    if (folder / _STUDY).exists() and (folder / PLACEMENT_JSON).exists():
        raise QcamError(f"{folder / PLACEMENT_JSON} is that of the results there, not of a check: give another {{output}}")
    pictures = sorted(path.name for path in folder.glob(PICTURES))
    return require_own(folder, _MARKS, [PLACEMENT_JSON, VERDICT_JSON, VERDICT_MD, *pictures], "{qcam-check}")


def require_place(folder: Path) -> bool:
    """Tell before anything runs that results cannot be written.

    Args:
        folder: Where files of a check are to go; need not be there.

    Returns:
        Whether an earlier check is there.

    Raises:
        QcamError: If they cannot, or something else is in the way.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise QcamError(f"{{output}} {folder}: cannot write to {place}; choose another place")
    return holds_check(folder)


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        options: What was asked for.
        kernels: This CPU's kernels, and those that the mirror followed.
        judged: Every result with its gates, in the order of the tables.
        elsewhere: What other CPUs would compute, against this one's deployed run; for information.
        bundles: Model → folder, whether its weights are trained, fingerprint.
        placements: Model → precision → which kernel ran which node.
        remarks: What is no warning, a sentence each.
        warnings: What has to be looked at, a sentence each, with tokens for options; told already while the check ran.
        refused: Image → why it could not be read.
        deployed_sha256: Fingerprint of the file that was judged in the bundle's place; None without one.
        images: Name → SHA-256 of each image that was compared.
        gpu: The GPU that took part; None where none did.
        seconds: Model → precision → stage → wall time; what no other stage counts is `preparing`.
    """

    options: CheckOptions
    kernels: Kernels
    judged: tuple[Judged, ...]
    elsewhere: tuple[CheckResult, ...]
    bundles: Mapping[str, Mapping[str, Any]]
    placements: Mapping[str, Mapping[str, Any]]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]
    refused: Mapping[str, str]
    deployed_sha256: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    gpu: Gpu | None = None
    seconds: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Return the verdict of all results together; undecided where nothing was judged."""
        return together(item.verdict for item in self.judged) or Verdict.UNDECIDED

    @property
    def unknown_weights(self) -> list[str]:
        """Return a line for each model of whose weights nobody knows whether they are trained."""
        return [f"{model}: {UNKNOWN_WEIGHTS}" for model, of in self.bundles.items() if of["trained"] is None]

    @property
    def holds(self) -> bool:
        """Tell whether the verdict is `holds`."""
        return self.verdict is Verdict.HOLDS

    @property
    def reason(self) -> str:
        """Say why the verdict is what it is: a line for each gate missed and the operator to blame; empty if it holds."""
        if self.verdict is Verdict.HOLDS:
            return ""
        if self.verdict is Verdict.UNDECIDED:
            return _undecided([item for item in self.judged if item.verdict is Verdict.UNDECIDED])
        lines = []
        for item in self.judged:
            if item.verdict is Verdict.FALLS_SHORT:
                missed = "; ".join(gate.sentence for gate in item.gates if not gate.holds)
                lines += [f"{item.result.title}: {missed}", blame(item.result)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the content of check.json: everything that was measured, and what was run (docs/check.md)."""
        options, probe = self.options, self.kernels.probe
        value = {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict.value,
            "holds": self.holds,
            "bundles": self.bundles,
            "provider": options.settings.provider,
            "kernels": None if probe is None else probe.to_json(),
            "kernel": self.kernels.family.name,
            "session_config": options.settings.config,
            "deployed": None if options.deployed is None else str(options.deployed),
            "deployed_sha256": self.deployed_sha256,
            "refused_images": self.refused,
            "warnings": [in_options(text) for text in self.warnings],
            "machine": machine.describe(),
            "versions": machine.versions(),
            "seconds": self.seconds,
            "other_cpus": [result_json(Judged(result)) for result in self.elsewhere],
            "results": [result_json(item) for item in self.judged],
        }
        sessions = {
            model: {name: config for name, ran in precisions.items() if (config := ran.get("session_config"))}
            for model, precisions in self.placements.items()
        }
        if any(sessions.values()):
            value["sessions"] = {model: told for model, told in sessions.items() if told}
        if told := options.settings.to_json().get("provider_options"):
            value["provider_options"] = told
        if self.gpu is not None:
            value |= {"gpu": self.gpu.to_json(), "tf32": options.settings.tf32}
        found: dict[str, Any] = finite(value)
        return found

    def junit(self) -> str:
        """Return the text of junit.xml."""
        return junit_text(self.judged)

    def placement(self) -> dict[str, Any]:
        """Return the content of placement.json: model → precision → which kernel ran which node on which provider."""
        return {model: dict(precisions) for model, precisions in self.placements.items()}

    def pictures(self) -> dict[str, bytes]:
        """Return agreement over depth of every result with codes, file name → PNG; none unless every tensor was asked for."""
        drawn = [item.result for item in self.judged if self.options.every_tensor and item.result.coded]
        names = file_names([f"{result.model}-{result.precision}-{result.arithmetic}" for result in drawn])
        colours = colours_of(item.result.precision for item in self.judged)
        return {PICTURES.replace("*", name): depth_picture(result, colours) for result, name in zip(drawn, names, strict=True)}

    def markdown(self) -> str:
        """Return the verdict as Markdown, for job summaries: in a line first, then result by result, then the worst images."""
        lines = [f"## qcam-check: {self.verdict}", "", "Is what is simulated what really runs?", ""]
        lines += [f"- {escape_markdown(line)}" for line in self.reason.splitlines()]
        rows = []
        for item in self.judged:
            result, verdict = item.result, "for information" if item.verdict is None else item.verdict.value
            shown = [four_digits(result.figures[name]) for name in ("codes", "logits", "cc", "cc_min")]
            rows.append([result.model, result.precision, f"{result.arithmetic} {result.kernel}".strip(), *shown, verdict])
        head = ("model", "precision", "simulated as", "equal codes", "equal logits", "CC", "CC min", "verdict")
        lines += ["", table_markdown(head, 3, rows)]
        for item in self.judged:
            worst = [image.image for image in moved_images(item.result)]
            if worst:
                lines.append(escape_markdown(f"{item.result.title}: lowest CC on {', '.join(worst)}"))
        return "\n".join(lines).rstrip() + "\n"

    def write(self, folder: Path, more: Mapping[str, str] | None = None) -> list[str]:
        """Write all files, check.json last; those of an earlier check there are replaced, and its pictures go.

        Args:
            folder: Where to; made if it is not there.
            more: Further files of a check, name → text.

        Returns:
            The names of the files.

        Raises:
            QcamError: If a file in the way was not written by a check, the disk refuses, or another process writes there.
        """
        files: dict[str, bytes | str] = dict(self.pictures())
        files[PLACEMENT_JSON] = readable_json(self.placement())
        files[JUNIT_XML] = self.junit()
        files[VERDICT_MD] = self.markdown()
        files |= more or {}
        files[CHECK_JSON] = readable_json(self.to_json())
        holds_check(folder)
        with exclusive(folder):
            for stale in folder.glob(PICTURES):
                if stale.name not in files:
                    stale.unlink(missing_ok=True)
            if VERDICT_JSON not in files:  # of another check, which is no longer there to be reproduced
                (folder / VERDICT_JSON).unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: name != JUNIT_XML):  # first a file that shows whose they are
                write_inside(folder, name, files[name])
        return list(files)


def moved_images(result: CheckResult) -> list[ImageResult]:
    """Return the images that agree least, lowest CC first, of those on which the two maps are not the same for the eye."""
    return [image for image in result.worst_images() if (image.metrics["CC"] or 0) < _AS_ONE]


def _undecided(items: list[Judged]) -> str:
    """Say what cannot be judged, and why."""
    if not items:
        return "no gate that was asked for applies to what was judged; gate on other figures"
    names = [gate.name for gate in items[0].gates if gate.verdict is Verdict.UNDECIDED]
    no_codes = CODE_GATES.issuperset(names) and not items[0].result.slopes
    why = "the CAM layer hands out no codes" if no_codes else "the CAMs of all images are constant or not finite"
    titles = "; ".join(item.result.title for item in items)
    return f"{', '.join(names)} cannot be judged, {why}: {titles}. Look at the model, or gate on other figures"


def result_json(item: Judged) -> dict[str, Any]:
    """Return a result with its gates as JSON-ready values."""
    result = item.result
    first = result.first_difference()
    return {
        "model": result.model,
        "precision": result.precision,
        "arithmetic": result.arithmetic,
        "kernel": result.kernel,
        "provider": result.provider,
        "exact": result.exact,
        "holds": item.holds,
        "verdict": None if item.verdict is None else item.verdict.value,
        "gates": [asdict(gate) | {"holds": gate.holds} for gate in item.gates],
        "figures": result.figures,
        "undefined_cams": result.undefined,
        "largest_code_difference": result.largest_difference,
        "first_difference": None if first is None else {"tensor": first.name, "operator": first.operator},
        "worst_images": [image.image for image in result.worst_images()],
        "missing_tensors": list(result.missing),
        "other_tensors": list(result.others),
        "ambiguous_tensors": list(result.ambiguous),
        "finite_differences": [step.to_json() for step in result.slopes] or None,
        "values_within_one_step": result.values_within,
        "largest_difference_in_steps": result.values_largest,
        "remarks": result.remarks,
        "images": [asdict(image) for image in result.images],
        "tensors": [_tensor_json(tensor) for tensor in result.tensors],
        "values": [_values_json(tensor) for tensor in result.values],
    }


def _tensor_json(tensor: TensorResult) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "operator": tensor.operator,
        "elements": tensor.elements,
        "equal": tensor.share,
        "largest_difference": tensor.largest,
        "equal_fed_with_deployed_codes": tensor.forced_share,
        "largest_difference_fed_with_deployed_codes": tensor.forced_largest if tensor.forced is not None else None,
    }


def _values_json(tensor: ValuesResult) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "operator": tensor.operator,
        "deployed_name": tensor.partner,
        "codes": tensor.meaning,
        "deployed_codes": tensor.partner_meaning,
        "elements": tensor.elements,
        "within_one_step": tensor.share,
        "largest_difference_in_steps": tensor.largest,
    }


def finite(value: Any) -> Any:
    """Return JSON-ready values with None for what JSON has no number for: a broken file may return anything."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
