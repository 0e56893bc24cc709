"""Runs a tool's script, in the tool's own environment: no qcam is there.

    python within/run.py TOOL --describe                            what it needs and which variants it has, as JSON
    python within/run.py TOOL VARIANT MODEL PICTURES OUTPUT         writes OUTPUT, or fails with a message
    python within/run.py TOOL --jobs                                a line of JSON in for each file, one out with its exit code

A script, `tools/TOOL.py`, has NAME, REQUIREMENTS (what pip installs, with versions, the tool itself first) and VARIANTS: name →
how it is asked for, in the tool's own words, and the function that takes a `Job`. Variants that take too long on large networks
are in TINY_ONLY. What has to be installed is imported inside functions, so that `--describe` works anywhere. The script is
loaded by its path: it may be called like the package that it uses. With `--jobs` that is imported once, and each file is
written by a process that is forked off then: a tool that crashes or leaves traces takes no other file with it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from job import Job


def main(tool: str, *arguments: str) -> None:
    """Do what the command line says."""
    script: Any = _load(Path(__file__).resolve().parents[1] / "tools" / f"{tool}.py")
    if arguments == ("--describe",):
        words = {variant: words for variant, (words, _) in script.VARIANTS.items()}
        tiny_only = getattr(script, "TINY_ONLY", [])
        print(json.dumps({"name": script.NAME, "requirements": script.REQUIREMENTS, "variants": words, "tiny_only": tiny_only}))
        return
    if arguments == ("--jobs",):
        _several(script)
    else:
        _one(script, *arguments)


def _one(script: Any, variant: str, model: str, pictures: str, output: str) -> None:
    job = Job(Path(model), np.load(pictures), Path(output))
    script.VARIANTS[variant][1](job)
    if not job.output.is_file():
        raise SystemExit("the tool ended without an error and wrote no file")


def _several(script: Any) -> None:
    """Write a file for each line of standard input: `arguments`, `log` (a file for what is said) and `seconds` at most."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever tools print is no answer
    for module in _imports(Path(script.__file__)):
        try:
            importlib.import_module(module)
        except BaseException:
            traceback.print_exc()  # the file's own process says it again
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _forked(script, job)
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n")
        answers.flush()


def _forked(script: Any, job: dict[str, Any]) -> NoReturn:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.alarm(job["seconds"])
    code = 1
    try:
        os.chdir(Path(job["arguments"][-1]).parent)
        _one(script, *job["arguments"])
        code = 0
    except SystemExit as error:
        print(error, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _imports(path: Path) -> list[str]:
    """Return the modules that a script imports somewhere."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found[node.module] = None
    return list(found)


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("script_of_the_tool", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no script: {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
