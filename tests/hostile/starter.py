"""Starts commands in processes of their own that have the large packages loaded already: seconds saved for each of hundreds.

It is started with the package under attack first on its path, reads one JSON line for each command from standard input, forks,
and answers with two lines: the process's id, and its exit code once it has ended. Nothing of the package under attack is loaded
before the fork. It imports nothing of the other scripts here: its path is the attacked tree's.

A line may ask for several runs of a command, one after the other in one process: each has files for what it prints, and one for
its exit code, which is there once it has ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

_LOADED = (
    "numpy", "torch", "onnx", "onnxruntime", "pyarrow.parquet", "pyarrow.dataset", "PIL.Image", "scipy.stats",
    "matplotlib.figure", "rich.console", "click", "jinja2",
)  # fmt: skip


def main() -> None:
    """Serve until standard input ends."""
    for name in _LOADED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
        answers.write(f"{pid}\n")
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")


def _become(request: dict[str, Any]) -> None:
    """Be the command, and never return."""
    code = 1
    try:
        os.setsid()
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        # As a shell starts a command in the foreground, whatever started this.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _redirect(0, os.devnull, os.O_RDONLY)
        sys.path[0] = ""
        if request["prelude"]:
            exec(request["prelude"], {})
        for run in request["runs"]:
            code = _run(request["module"], run)
            if run["code"]:
                Path(run["code"]).write_text(str(code))
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def _run(module: str, run: dict[str, Any]) -> int:
    """Run the command once; return its exit code."""
    for number, key in ((1, "stdout"), (2, "stderr")):
        _redirect(number, run[key], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.argv = [module, *run["arguments"]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 128 + signal.SIGINT
        if not run["code"]:  # as an interpreter ends that nobody has told what an interruption is
            _flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    _flush()
    return code


def _redirect(number: int, name: str, flags: int) -> None:
    handle = os.open(name, flags, 0o644)
    os.dup2(handle, number)
    os.close(handle)


def _flush() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
