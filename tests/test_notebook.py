"""docs/first-steps.ipynb: its cells are those of its script, and run."""

import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from notebook import PAGE, notebook, run  # noqa: E402 - a script beside the package


def test_the_page_is_that_of_the_script():
    page = nbformat.read(PAGE, as_version=4)
    found, made = ([(cell.cell_type, cell.source) for cell in each.cells] for each in (page, notebook()))
    assert found == made
    assert all(cell.outputs for cell in page.cells if cell.cell_type == "code")


@pytest.mark.slow
def test_it_runs(tmp_path):
    made = notebook()
    run(made, tmp_path)
    shown = "".join(str(cell.get("outputs", "")) for cell in made.cells)
    assert "image/png" in shown
    assert "holds" in shown
