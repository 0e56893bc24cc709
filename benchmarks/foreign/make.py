"""Quantized files of other people's tools: one environment a tool, made, used and removed.

    python benchmarks/foreign/make.py [--bundle BUNDLE]... [--tool NAME]... [--network NAME]... [--output build/foreign/files]

Every variant of every tool in `tools/` quantizes every network: the float files of the bundles (trained networks) and a tiny
one with random weights. Each becomes OUTPUT/TOOL-VARIANT-NETWORK.onnx and a row beside it (.json): the tool's version, the
command, seconds, sha256, or the message with which it failed. A row that is there is kept as long as the script of the tool,
what it requires and the float network are the same; a tool with nothing left to do gets no environment.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from qcam.commands import console
from qcam.common.files import readable_json, write_atomically

sys.path.append(str(Path(__file__).resolve().parents[1]))
from foreign.inputs import TINY, write_inputs

TOOLS = Path(__file__).resolve().parent / "tools"
#: What runs in a tool's environment beside its script.
WITHIN = Path(__file__).resolve().parent / "within"
BUILD = Path("build") / "foreign"
#: A message is the end of what the tool said: so many characters.
MESSAGE = 400
#: Seconds that one file may take.
PATIENCE = 900


def tools() -> list[str]:
    """Return the names of the tools there are."""
    return sorted(path.stem for path in TOOLS.glob("*.py"))


def describe(tool: str) -> dict[str, Any]:
    """Return what a tool's script says of itself: name, requirements, variants."""
    done = subprocess.run(
        [sys.executable, str(WITHIN / "run.py"), tool, "--describe"], capture_output=True, text=True, check=True
    )
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--bundle", "bundles", multiple=True, type=click.Path(path_type=Path), help="Of a trained network, with f32.")
@click.option("--tool", "chosen", multiple=True, type=click.Choice(tools()), help="All by default.")
@click.option("--network", "networks", multiple=True, help="All by default.")
@click.option("--output", type=click.Path(path_type=Path), default=BUILD / "files", show_default=True, help="Folder of files.")
@click.option("--keep-environments", is_flag=True, help="Do not remove them: for work on a tool's script.")
@click.option("--again", is_flag=True, help="Try again what failed before.")
def main(
    bundles: tuple[Path, ...],
    chosen: tuple[str, ...],
    networks: tuple[str, ...],
    output: Path,
    keep_environments: bool,
    again: bool,
) -> None:
    """Let every tool quantize every network, and write the files and a row for each."""
    output.mkdir(parents=True, exist_ok=True)
    inputs = BUILD / "inputs"
    names = [name for name in write_inputs(bundles, inputs) if not networks or name in networks]
    for tool in chosen or tools():
        facts = describe(tool)
        wanted = list(unfinished(tool, facts, names, inputs, output, again))
        if not wanted:
            console.note(f"{facts['name']}: finished before")
            continue
        environment = (BUILD / "environments" / tool).resolve()
        worker = Worker(environment, tool)
        try:
            versions, failure = _environment(environment, facts)
            for variant, network, row in wanted:
                _one(worker, variant, network, inputs, output, row | {"versions": versions}, failure)
        finally:
            worker.close()
            if not keep_environments:
                shutil.rmtree(environment, ignore_errors=True)


def unfinished(
    tool: str, facts: dict[str, Any], names: list[str], inputs: Path, output: Path, again: bool
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield variant, network and the beginning of a row of what is not there yet.

    Args:
        tool: The name of its script.
        facts: What the script says of itself.
        names: Networks.
        inputs: Where their files are.
        output: Where files and rows are.
        again: Whether what failed is tried again.
    """
    script = (TOOLS / f"{tool}.py").read_text(encoding="utf-8")
    used = [path for path in sorted(WITHIN.glob("*.py")) if f"from {path.stem} import" in script]
    sources = "".join(_code(path) for path in (TOOLS / f"{tool}.py", *used)).encode()
    for network in names:
        for variant, words in facts["variants"].items():
            if network != TINY and variant in facts["tiny_only"]:
                continue
            parts = (inputs / f"{network}.onnx").read_bytes() + (inputs / f"{network}.npy").read_bytes()
            key = hashlib.sha256(sources + parts).hexdigest()
            old = output / f"{tool}-{variant}-{network}.json"
            row = json.loads(old.read_text(encoding="utf-8")) if old.is_file() else {}
            if row.get("key") == key and not (again and row.get("message")):
                continue
            yield variant, network, {
                "tool": tool, "name": facts["name"], "variant": variant, "how": words, "network": network, "key": key,
                "requirements": facts["requirements"],
            }  # fmt: skip


def _code(path: Path) -> str:
    """Return what a script does, without comments, docstrings and layout: rewording it makes no file again."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _environment(folder: Path, facts: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Make an environment; return the versions of what is in it, and why it could not be made, if so."""
    console.note(f"{facts['name']}: installing {' '.join(facts['requirements'])}")
    python = folder / "bin" / "python"
    if not python.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "--quiet", "--no-compile", *facts["requirements"]], capture_output=True, text=True)
    if done.returncode:
        return {}, f"does not install: {_message(done.stderr)}"
    listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True)
    return {item["name"].lower(): item["version"] for item in json.loads(listed.stdout)}, ""


class Worker:
    """A process in a tool's environment that writes one file after another; one that has died is started again."""

    def __init__(self, environment: Path, tool: str) -> None:
        """Say where; nothing starts before the first file."""
        path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        # Tools write caches, and some would ask a hub or a GPU; one thread and one seed of hashes: the same bytes again
        self._surroundings = os.environ | {
            "HOME": str(environment), "PATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "",
            "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
        }  # fmt: skip
        self._command = [str(environment / "bin" / "python"), str(WITHIN / "run.py"), tool, "--jobs"]
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def write(self, variant: str, network: str, inputs: Path, target: Path) -> str:
        """Write one file.

        Args:
            variant: Of the tool.
            network: Whose float file is quantized.
            inputs: Where that and its pictures are.
            target: The file to write.

        Returns:
            Why it was not written, empty if it was.
        """
        log = target.with_name("said.txt")
        arguments = [variant, *(str((inputs / f"{network}{suffix}").resolve()) for suffix in (".onnx", ".npy")), str(target)]
        job = {"arguments": arguments, "log": str(log), "seconds": PATIENCE}
        process = self._started(target.parent)
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("both are pipes")
        try:
            print(json.dumps(job), file=process.stdin, flush=True)
            code = json.loads(process.stdout.readline())["code"]
        except (OSError, ValueError):
            return f"the process died with {process.wait()}"
        if code == -signal.SIGALRM:
            return f"was not done in {PATIENCE} seconds"
        return "" if code == 0 else _message(log.read_text(encoding="utf-8", errors="replace")) or f"exit code {code}"

    def _started(self, folder: Path) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            with (folder.parent / f"{folder.name}.txt").open("w") as said:
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
                self._process = subprocess.Popen(
                    self._command, text=True, cwd=self._environment, env=self._surroundings, **pipes
                )
        return self._process

    def close(self) -> None:
        """Let the process end."""
        if self._process is not None:
            self._process.communicate()


def _one(worker: Worker, variant: str, network: str, inputs: Path, output: Path, row: dict[str, Any], failure: str) -> None:
    """Let one variant quantize one network; write its row."""
    name = f"{row['tool']}-{variant}-{network}"
    scratch = (BUILD / "scratch" / row["tool"]).resolve()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    begun = time.monotonic()
    failure = failure or worker.write(variant, network, inputs, scratch / f"{name}.onnx")
    row |= {"seconds": round(time.monotonic() - begun, 1), "message": failure}
    for old in output.glob(f"{name}.*"):
        old.unlink()
    if not failure:
        files = sorted(path for path in scratch.iterdir() if path.name.startswith(name))
        row["files"] = {path.name: _sha256(path) for path in files}
        row["bytes"] = sum(path.stat().st_size for path in files)
        for path in files:
            shutil.move(path, output / path.name)
    write_atomically(output / f"{name}.json", readable_json(row))
    console.note(f"{name}: {failure or row['bytes']}")


def _message(said: str) -> str:
    """Return the last line that a program said, without where its files lie."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "error")) or "Error" in line.split(":")[0]]
    last = (errors or lines or [""])[-1]
    for folder in (str(Path.cwd()), sys.prefix, str(Path.home())):
        last = last.replace(folder, "…")
    return last if len(last) <= MESSAGE else last[: MESSAGE - 1] + "…"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
