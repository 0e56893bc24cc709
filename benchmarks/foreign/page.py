"""What qcam says of other tools' files: the tables of docs/foreign.md.

    python benchmarks/foreign/page.py [FILES] [--images N] [--tool NAME]... [--output docs/foreign.md]

FILES is what `make.py` wrote: files with a row each, and beside it the facts of the networks. Every file is imported
(`qcam.import_onnx`) and judged (`qcam.check`, both arithmetics, every tensor) in a process of its own, as a user would; every
figure is the verdict's. A row is written as soon as it is there (build/foreign/verdicts) and kept as long as the file, the
photographs' number and the sources that decide the figures are the same.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import qcam
from qcam.commands import console
from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.common.files import readable_json, write_atomically
from qcam.runtime.deployed.probe import probe_kernels

BUILD = Path("build") / "foreign"
ROOT = Path(__file__).resolve().parents[2]
#: Folders whose sources decide what a verdict says.
DECIDING = ("runtime", "evaluate/check", "evaluate/maps", "exporters/importing")
ARITHMETICS = ("fake_quant", "integer")
#: Seconds that one file may take.
PATIENCE = 1800


_INTRODUCTION = """# Files of other tools

Made by `make foreign`: {tools} tools of other people quantize the same float networks ({networks}), each in an environment of
its own; every file is imported as by `qcam-import` and judged as by `qcam-check --every-tensor` on {count} photographs. The
photographs calibrated the files too: two runs of one file are compared, not the file with its float network. On this
CPU's kernels ({kernels}), with {versions}."""
_SHORT = """
## In short

Each column counts files.

- *Copy bitwise*: the copy with the tap has the logits of the file itself, bit for bit, and runs the same kernels. Nothing is
  promised of the others: signed codes run otherwise on x86 once they are handed out.
- *Tap equal*: the integer arithmetic has all of the deployed codes at the tap, on every photograph.
- *Logits bitwise*: it has all logits, bit for bit. *Within rounding*: or within float rounding, where a float operator ends
  the graph.
- *Lowest CC*: of a simulated CAM with the deployed one.

| tool | version | tried | written | imported | copy bitwise | tap equal | logits bitwise | within rounding | lowest CC |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"""
_LONG = """
## File by file

*File*: as what it was imported, and whether the copy with the tap has the file's own logits. *Fake quant*, *integer*: equal
codes at the tap. *Inner*: equal codes of all tensors that can be observed, simulated from the image on; in brackets, how many
operators have all codes equal when they are fed with the deployed ones. *Logits*: photographs whose logits are equal bit for
bit, and the largest difference where some are not. *CC*: mean and lowest. *Inner*, *logits* and *CC* are the
integer arithmetic's. *Import*, *check*: seconds, the check in both arithmetics.

| tool | variant | network | file | tap | fake quant | integer | inner | logits | CC | import | check |
|---|---|---|---|---|---:|---:|---|---|---:|---:|---:|"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", type=click.Path(path_type=Path), default=BUILD / "files")
@click.option("--images", "count", default=20, show_default=True, type=click.IntRange(1, 20), help="Photographs.")
@click.option("--tool", "tools", multiple=True, help="All by default.")
@click.option("--network", "networks", multiple=True, help="All by default.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of ONNX Runtime and PyTorch.")
@click.option("--inputs", type=click.Path(path_type=Path), default=BUILD / "inputs", show_default=True, help="Of make.py.")
@click.option("--verdicts", type=click.Path(path_type=Path), default=BUILD / "verdicts", show_default=True, help="Rows.")
@click.option("--output", type=click.Path(path_type=Path), default=BUILD / "foreign.md", show_default=True, help="Markdown.")
def main(
    files: Path,
    count: int,
    tools: tuple[str, ...],
    networks: tuple[str, ...],
    threads: int,
    inputs: Path,
    verdicts: Path,
    output: Path,
) -> None:
    """Import and judge every file that other tools made, and write the page."""
    known = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(inputs.glob("*.json"))}
    verdicts.mkdir(parents=True, exist_ok=True)
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in _deciding())).hexdigest()
    rows = []
    for path in sorted(files.glob("*.json")):
        row = made(path)
        if not row or (tools and row["tool"] not in tools) or (networks and row["network"] not in networks):
            continue
        key = {"files": row.get("files"), "images": count, "sources": sources, "versions": _versions()}
        stored = verdicts / path.name
        verdict = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
        if not row["message"] and verdict.get("key") != key:
            verdict = _in_a_process(path.with_suffix(".onnx"), known[row["network"]], count, threads)
            verdict["key"] = key
            write_atomically(stored, readable_json(verdict))
            console.note(f"{path.stem}: {_in_words(verdict)}")
        rows.append(row | {"verdict": {} if row["message"] else verdict})
    write_atomically(output, page(rows, known, count, probe_kernels().name))
    console.out.print(f"written: {output}", markup=False)


def made(path: Path) -> dict[str, Any]:
    """Return the row of a file that a tool made, or nothing if this is no such row."""
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) and {"tool", "variant", "network", "message"} <= set(value) else {}


def _deciding() -> Iterator[Path]:
    for folder in DECIDING:
        yield from sorted((ROOT / folder).rglob("*.py"))


def _versions() -> dict[str, str]:
    versions = machine.versions()
    return {name: versions[name] for name in ("onnx", "onnxruntime", "torch", "numpy") if name in versions}


def _in_a_process(*arguments: Any) -> dict[str, Any]:
    """Judge one file in a process that is forked off: one that crashes is a row too, and modules are imported once."""
    for module in ("torch", "onnxruntime", "qcam.exporters.importing.bundling", "qcam.evaluate.check.run"):
        importlib.import_module(module)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(_judged(*arguments)))
    process.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            process.kill()
            return {"import": {"message": f"was not done in {PATIENCE} seconds"}}
        value: dict[str, Any] = ours.recv()
        return value
    except EOFError:
        process.join()
        return {"import": {"message": f"the process ended with {process.exitcode}"}}
    finally:
        process.join()


def _judged(*arguments: Any) -> dict[str, Any]:
    try:
        return judge(*arguments)
    except Exception as error:  # what is no refusal is a bug, and a row
        return {"import": {"message": f"a bug in qcam: {type(error).__name__}: {error}"}}


def judge(file: Path, facts: dict[str, Any], count: int, threads: int) -> dict[str, Any]:
    """Import one file and check the bundle.

    Args:
        file: The quantized file.
        facts: Of its network: preprocessing, classes, whether it is trained.
        count: Photographs.
        threads: Of ONNX Runtime and PyTorch.

    Returns:
        `import` and `check`, each with its seconds and either a message or what was found.
    """
    preprocessing = facts["preprocessing"]
    begun = time.monotonic()
    try:
        bundle = qcam.import_onnx(
            file,
            mean=preprocessing["mean"],
            std=preprocessing["std"],
            resize=preprocessing["resize"],
            interpolation=preprocessing["interpolation"],
            classes=facts["classes"],
            trained=facts["trained"],
            output=BUILD / "bundles",
            force=True,
        )
    except QcamError as error:
        return {"import": {"message": _said(error, file), "seconds": time.monotonic() - begun}}
    entry = bundle.precisions[0]
    imported = {
        "message": "", "seconds": time.monotonic() - begun, "precision": entry.name, "proof": entry.proof,
        "tap": {"tensor": entry.tap.tensor, "dtype": entry.tap.dtype},
    }  # fmt: skip
    begun = time.monotonic()
    try:
        checks = [_check(bundle, ARITHMETICS, count, threads)]
    except QcamError:
        # One arithmetic that is refused hides nothing of the other
        checks = [_check_alone(bundle, arithmetic, count, threads, file) for arithmetic in ARITHMETICS]
    seconds = time.monotonic() - begun
    merged: dict[str, Any] = {"seconds": seconds, "warnings": [], "arithmetics": {}}
    for check in checks:
        merged["warnings"] += [text for text in check["warnings"] if text not in merged["warnings"]]
        merged["arithmetics"] |= check["arithmetics"]
    return {"import": imported, "check": merged}


def _said(error: QcamError, file: Path) -> str:
    """Return a message without the folder of the file."""
    return str(error).replace(str(file), file.name)


def _check_alone(bundle: Any, arithmetic: str, count: int, threads: int, file: Path) -> dict[str, Any]:
    try:
        return _check(bundle, (arithmetic,), count, threads)
    except QcamError as error:
        return {"warnings": [], "arithmetics": {arithmetic: {"message": _said(error, file)}}}


def _check(bundle: Any, arithmetics: Sequence[str], count: int, threads: int) -> dict[str, Any]:
    verdict = qcam.check(
        bundle, arithmetic=tuple(arithmetics), every_tensor=True, limit=count, threads=threads, other_cpus=False
    )
    found: dict[str, Any] = {}
    for key, figures in verdict.figures.items():
        coded = [tensor for tensor in verdict.tensors[key] if tensor.name != "logits"]
        forced = [tensor for tensor in coded if tensor.forced_share is not None]
        logits = verdict.tensors[key][-1]
        found[key[2]] = {
            "message": "", "figures": figures, "tensors": len(coded),
            "forced": len(forced), "forced_equal": sum(tensor.forced == tensor.elements for tensor in forced),
            "largest": max((tensor.largest for tensor in coded), default=0), "logits_largest": logits.largest,
            "logits_operator": logits.operator,
            "first": next((tensor.operator for tensor in forced if tensor.forced != tensor.elements), ""),
        }  # fmt: skip
    return {"warnings": list(verdict.warnings), "arithmetics": found}


def _in_words(verdict: dict[str, Any]) -> str:
    if verdict["import"]["message"]:
        return f"not imported: {verdict['import']['message']}"
    integer = verdict["check"]["arithmetics"].get("integer", {"message": "no integer arithmetic"})
    return str(integer.get("message") or {name: integer["figures"][name] for name in ("tap", "logits", "cc")})


def page(rows: Sequence[dict[str, Any]], facts: dict[str, Any], count: int, kernels: str) -> str:
    """Return the page.

    Args:
        rows: Of every file that was wanted, its verdict among it.
        facts: Network → what is known of it.
        count: Photographs.
        kernels: Family of this CPU's integer kernels.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    random = ", ".join(f"`{name}`" for name in networks if facts[name]["trained"] is False)
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    lines = [
        *_INTRODUCTION.format(
            tools=len(names),
            networks=", ".join(f"`{name}`" for name in networks),
            count=count,
            kernels=kernels,
            versions=versions,
        ).splitlines(),
        f"Weights of {random} are random: they prove that codes are equal, and nothing else." if random else "",
        *_SHORT.splitlines(),
        *(_summary(name, [row for row in rows if row["name"] == name]) for name in names),
        *_LONG.splitlines(),
        *(_line(row) for row in rows if not row["message"] and not _refused(row)),
        *_refusals("Imported, and refused", "These are told by name, before anything runs.", rows),
        *_failures(rows),
        "",
        "## How each was asked for",
        "",
        "| tool | variant | words |",
        "|---|---|---|",
        *dict.fromkeys(f"| {row['name']} | {row['variant']} | `{row['how']}` |" for row in rows),
    ]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _refused(row: dict[str, Any]) -> str:
    return str(row["verdict"]["import"]["message"])


def _summary(name: str, rows: Sequence[dict[str, Any]]) -> str:
    written = [row for row in rows if not row["message"]]
    verdicts = [row["verdict"] for row in written if not _refused(row)]
    integer = [verdict["check"]["arithmetics"].get("integer", {"message": "none"}) for verdict in verdicts]
    figures = [item["figures"] for item in integer if not item["message"]]
    lowest = min((item["cc_min"] for item in figures if item["cc_min"] is not None), default=None)
    counts = [
        sum(verdict["import"]["proof"] == "bitwise" for verdict in verdicts),
        sum(item["tap"] == 1 for item in figures),
        sum(item["logits"] == 1 for item in figures),
        sum(item["logits_close"] == 1 for item in figures),
    ]
    shown = " | ".join(str(count) for count in (len(rows), len(written), len(verdicts), *counts))
    return f"| {name} | {_version(rows)} | {shown} | {_number(lowest)} |"


def _version(rows: Sequence[dict[str, Any]]) -> str:
    """Return the version of a tool that was installed, or the one that was asked for."""
    wanted = str(rows[0]["requirements"][0])
    name = wanted.partition("==")[0].partition("[")[0].lower()
    return str(rows[0]["versions"].get(name) or wanted.partition("==")[2])


def _line(row: dict[str, Any]) -> str:
    imported, check = row["verdict"]["import"], row["verdict"]["check"]
    fake, integer = (check["arithmetics"].get(name, {"message": "none"}) for name in ARITHMETICS)
    cells = [
        row["name"], row["variant"], row["network"],
        f"{imported['precision']}, {imported['proof'] or 'not proven'}", imported["tap"]["dtype"],
        _codes(fake), _codes(integer), _inner(integer), _logits(integer), _cc(integer),
        f"{imported['seconds']:.1f}", f"{check['seconds']:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _codes(item: dict[str, Any]) -> str:
    return "refused" if item["message"] else _share(item["figures"]["tap"])


def _inner(item: dict[str, Any]) -> str:
    if item["message"]:
        return "refused"
    return f"{_share(item['figures']['codes'])} ({item['forced_equal']} of {item['forced']})"


def _logits(item: dict[str, Any]) -> str:
    if item["message"]:
        return "refused"
    share = item["figures"]["logits"]
    return "all" if share == 1 else f"{share:.0%}, {item['logits_largest']:.0e}"


def _cc(item: dict[str, Any]) -> str:
    if item["message"]:
        return "refused"
    return f"{_number(item['figures']['cc'])}, {_number(item['figures']['cc_min'])}"


def _refusals(title: str, words: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what was refused, whole files first, then single arithmetics."""
    told = []
    for row in rows:
        if row["message"]:
            continue
        what = f"| {row['name']} | {row['variant']} | {row['network']} |"
        if _refused(row):
            told.append(f"{what} import | {_cell(_refused(row))} |")
            continue
        for name, item in row["verdict"]["check"]["arithmetics"].items():
            if item["message"]:
                told.append(f"{what} {name} | {_cell(item['message'])} |")
    if not told:
        return []
    return ["", f"## {title}", "", words, "", "| tool | variant | network | what | message |", "|---|---|---|---|---|", *told]


def _failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    failed = [row for row in rows if row["message"]]
    if not failed:
        return []
    lines = (f"| {row['name']} | {row['variant']} | {row['network']} | {_cell(row['message'])} |" for row in failed)
    head = ["", "## Not written", "", "What a tool said that did not install or wrote no file.", ""]
    return [*head, "| tool | variant | network | message |", "|---|---|---|---|", *lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    """Return a share in per cent, a dash where there is none; never 100 % of what is not all."""
    return "–" if value is None else f"{min(value * 100, 99.99 if value < 1 else 100):.2f} %"


if __name__ == "__main__":
    main()
