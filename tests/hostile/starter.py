"""Starts commands in processes of their own that have the large packages loaded already: seconds saved for each of hundreds.

It is started with the package under attack first on its path, reads one JSON line for each command from standard input, forks,
and answers with two lines: the process's id, and its exit code once it has ended. Nothing of the package under attack is loaded
before the fork. It imports nothing of the other scripts here: its path is the attacked tree's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
import traceback
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
        for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, request["stdout"], 0), (2, request["stderr"], 0)):
            handle = os.open(name, flags or os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, number)
            os.close(handle)
        sys.path[0] = ""
        sys.argv = [request["module"], *request["arguments"]]
        if request["prelude"]:
            exec(request["prelude"], {})
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
