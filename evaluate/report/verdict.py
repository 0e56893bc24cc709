"""A study's verdict in files: verdict.md for job summaries, junit.xml for build servers, verdict.json for programs."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from qcam.common.counted import counted
from qcam.common.files import write_atomically
from qcam.common.places import file_names
from qcam.common.verdict import told_apart
from qcam.common.wording import in_options
from qcam.evaluate.gates.judging import JudgedGate, StudyVerdict
from qcam.evaluate.results.folder import Results
from qcam.evaluate.results.place import JUNIT_XML, VERDICT_JSON, VERDICT_MD
from qcam.evaluate.showing.junit import Case, junit_text
from qcam.evaluate.showing.markdown import escape_markdown, table_markdown

#: The version of verdict.json.
SCHEMA = 1
_HEADINGS = ("model", "precision", "asked", "found", "95 % interval", "images", "verdict")


def write_verdict(results: Results, found: StudyVerdict) -> None:
    """Write a verdict beside the results that it judges; an earlier one is replaced.

    Args:
        results: A run.
        found: Its verdict.

    Raises:
        QcamError: If the disk refuses.
    """
    folder = results.folder
    write_atomically(folder / VERDICT_MD, verdict_markdown(results, found))
    write_atomically(folder / JUNIT_XML, _junit(found))
    record = results.record
    told = {
        "schema_version": SCHEMA, "verdict": found.verdict.value, "gates": [_told(gate) for gate in found.gates],
        "images": len(results.images), "provider": record.provider,
        "options": record.plan.options, "bundles": record.plan.bundles,
    }  # fmt: skip
    write_atomically(folder / VERDICT_JSON, json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def verdict_markdown(results: Results, found: StudyVerdict) -> str:
    """Return a verdict as Markdown: in a sentence first, then gate by gate, then the image that moved most."""
    gates = ", ".join(dict.fromkeys(str(gate.request) for gate in found.gates))
    lines = [f"## qcam: {found.verdict}", "", escape_markdown(f"{gates} on {counted(len(results.images), 'image')}."), ""]
    lines += [f"- {escape_markdown(in_options(line))}" for line in found.reason.splitlines()]
    lines += ["", table_markdown(_HEADINGS, 3, [_row(gate) for gate in found.gates])]
    for model in dict.fromkeys(gate.model for gate in found.gates):
        worst = next((gate for gate in found.gates if gate.model == model and gate.worst), None)
        if worst is not None:
            lines.append(escape_markdown(f"{model}: {worst.precision} moves the CAM of {worst.worst} most."))
            picture = _grid_of(results, model)
            lines += ["", f"![The worst pictures of {escape_markdown(model)}]({picture})", ""] if picture else [""]
    return "\n".join(lines)


def _told(gate: JudgedGate) -> dict[str, Any]:
    """Return a gate as it stands in verdict.json; only sentences name options, names of images stay as they are."""
    told = gate.to_json()
    return told | {name: in_options(told[name]) for name in ("sentence", "why")}


def _row(gate: JudgedGate) -> list[str]:
    ends = [told_apart(of, gate.request.threshold) for of in (gate.low, gate.high) if of is not None]
    interval, value = " to ".join(ends), "undefined" if gate.value is None else told_apart(gate.value, gate.request.threshold)
    if gate.request.reference is not None and gate.value is not None:
        value = f"below on {round(gate.value * gate.n)}"
    return [gate.model, gate.precision, str(gate.request), value, interval, str(gate.n), gate.verdict.value]


def _grid_of(results: Results, model: str) -> str:
    """Return the name of a model's picture grid; empty if there is none."""
    names = file_names([f"grid-{results.record.models[each].bundle}" for each in results.models])
    name = f"{names[results.models.index(model)]}.png"
    return name if (Path(results.folder) / name).is_file() else ""


def _junit(found: StudyVerdict) -> str:
    suites: dict[str, list[Case]] = defaultdict(list)
    for gate in found.gates:
        classname = f"qcam.{gate.model}.{gate.precision}"
        suites[gate.model].append(Case(classname, str(gate.request), gate.verdict, in_options(gate.sentence), gate.worst))
    return junit_text("qcam-eval", list(suites.items()))
