"""Ask which of the installed packages have known vulnerabilities: `make audit`. pip-audit asks PyPI's advisory service.

Exit code: 0 none is known, 1 some are, 2 the service could not be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

_COMMAND = (sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable")
#: Seconds that the service has for all packages together.
_PATIENCE = 600


def audit(command: Sequence[str] = _COMMAND) -> tuple[list[str], int]:
    """Run pip-audit.

    Args:
        command: What is run; prints pip-audit's JSON.

    Returns:
        Lines to print, and the exit code.
    """
    unknown = "so nothing is known of vulnerabilities; try again where the network reaches pypi.org"
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return [f"error: the advisory service did not answer within {_PATIENCE} s, {unknown}"], 2
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):  # it printed no report: it could not ask
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        return [f"error: pip-audit could not ask the advisory service ({said[-1][:200]}), {unknown}"], 2
    skipped = sorted(package["name"] for package in packages if "skip_reason" in package)
    if len(skipped) == len(packages):  # a mirror of the index, say, that has no advisories
        return [f"error: the advisory service knows none of the {len(packages)} installed packages, {unknown}"], 2
    lines = []
    for package in packages:
        for found in package.get("vulns", ()):
            mended = ", ".join(found["fix_versions"]) or "none yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, mended in {mended}")
    if skipped:
        lines.append(f"not asked for, since the service does not know them: {', '.join(skipped)}")
    known = sum(len(package.get("vulns", ())) for package in packages)
    lines.append(f"{len(packages) - len(skipped)} packages, {known} known vulnerabilities")
    return lines, int(known > 0)


if __name__ == "__main__":
    told, code = audit()
    print("\n".join(told))
    sys.exit(code)
