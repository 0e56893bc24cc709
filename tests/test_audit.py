"""`make audit`: what pip-audit finds is told, and what it cannot find out is no good news."""

from __future__ import annotations

import json
import sys

import audit
import pytest


def printing(text: str, said: str = "", code: int = 0) -> list[str]:
    script = f"import sys; print({text!r}); print({said!r}, file=sys.stderr); sys.exit({code})"
    return [sys.executable, "-c", script]


def report(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


GOOD = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {
    "name": "pillow", "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}, {"id": "GHSA-2", "fix_versions": []}],
}  # fmt: skip


def test_known_vulnerabilities_are_named_with_what_mends_them() -> None:
    lines, code = audit.audit(printing(report(GOOD, BAD), code=1))
    assert code == 1
    assert lines == [
        "pillow 1.0: PYSEC-1, mended in 1.1, 2.0",
        "pillow 1.0: GHSA-2, mended in none yet",
        "2 packages, 2 known vulnerabilities",
    ]


def test_packages_that_were_not_asked_for_are_named() -> None:
    lines, code = audit.audit(printing(report(GOOD, {"name": "own", "skip_reason": "not on PyPI"})))
    assert code == 0
    assert lines == ["not asked for, since the service does not know them: own", "1 packages, 0 known vulnerabilities"]


def test_a_service_that_knows_no_package_is_no_good_news() -> None:
    """A mirror of the index answers each question, and has no advisories."""
    own = [{"name": name, "skip_reason": "not on PyPI"} for name in ("numpy", "torch")]
    (line,), code = audit.audit(printing(report(*own)))
    assert code == 2
    assert line.startswith("error: the advisory service knows none of the 2 installed packages, so nothing is known")


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}"])
def test_no_report_is_no_good_news(text: str) -> None:
    (line,), code = audit.audit(printing(text, "Traceback\nConnectionError: no route to host", code=1))
    assert code == 2
    assert line.startswith("error: pip-audit could not ask the advisory service (ConnectionError: no route to host), so")


def test_a_service_that_does_not_answer_is_not_waited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_PATIENCE", 0.2)
    (line,), code = audit.audit([sys.executable, "-c", "import time; time.sleep(60)"])
    assert code == 2
    assert "did not answer within" in line
