"""The section on gradients of docs/fidelity.md: made of its own records, put in the place of the earlier one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import gradients

from qcam.common import machine

PAGE = f"""# Fidelity

{gradients.QUESTION} As it was.

{gradients.HEADING}

Old text.

## Figures that moved

None.
"""


def record(**changed):
    return {
        "model": "net", "trained": True, "layer": "`layer3`", "signed": True, "family": "avx2", "images": 4, "follows": False,
        "equal": 1, "relative_differences": [0.0, 1e-7, 2e-3, 4e-2], "cc": 0.99999, "cc_min": 0.99,
        "slopes": {"fake_quant": None, "integer": None}, "versions": machine.versions(),
    } | changed  # fmt: skip


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep records as those of measurements."""
    monkeypatch.setattr(gradients, "BUILD", tmp_path)

    def keep(*records):
        for number, each in enumerate(records):
            (tmp_path / f"gradients-{number}.json").write_text(json.dumps(each))

    return keep


def test_section_and_sentence_are_replaced_and_the_rest_stays(kept):
    seeded = record(model="vgg16", trained=False, relative_differences=[0.5] * 4)
    kept(seeded, record(), record(family="vnni", relative_differences=[0.0] * 4, cc_min=1.0), record(versions={"torch": "1"}))
    page = gradients.replaced(PAGE)
    assert page.startswith("# Fidelity\n")
    assert page.endswith("\n\n## Figures that moved\n\nNone.\n")
    assert "As it was" not in page
    assert "Old text" not in page
    rows = [line for line in page.splitlines() if line.startswith("| net") or line.startswith("| vgg16")]
    assert [row.split(" | ")[0] for row in rows] == ["| net", "| net", "| vgg16"]
    first = (
        "| net | trained | `layer3`, signed | avx2 | exact | 1 of 4 | 2 of 4 | 1.0e-03 | 4.0e-02 | > 0.9999 (0.9900) | – | – |"
    )
    assert rows[0] == first
    assert "seeded: machinery only" in rows[2]
    # Seeded networks decide nothing in the sentence.
    assert "float32 opens another gate on 2 of 4 images on avx2, gradients are up to 4.0e-02 apart, and CAMs" in page
    assert "a CC of at least 0.9900. Behind several layers" in page
    assert "another gate on 0 of 4 images on vnni, gradients are up to 0 apart" in page
    assert page.count("(Trained net.)") == 1
    assert gradients.replaced(page) == page


def test_without_records_the_page_says_so_and_a_page_without_the_section_is_refused(kept):
    assert "Not measured with these versions" in gradients.replaced(PAGE)
    with pytest.raises(click.ClickException, match="has not one place for"):
        gradients.replaced("# Fidelity\n")


def test_the_committed_page_has_both_places():
    page = (Path(__file__).resolve().parents[1] / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert (page.count(gradients.HEADING), page.count(gradients.QUESTION)) == (1, 1)
