"""Makes docs/first-steps.ipynb: its cells stand here, and are run: what it shows is what they give (`make notebook`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).parents[1] / "docs" / "first-steps.ipynb"
_CELLS = [
    """# First steps: from a model to a verdict

Does a quantized vision model, as deployed, still look at the same place? This notebook exports EfficientNet-Lite0 with
its ImageNet weights, quantizes it,
runs it in ONNX Runtime on six photographs, and asks for a verdict. It takes a minute, needs `pip install
"qcam[host,cpu,demo]"`, and downloads nothing
that `qcam-fetch` has not fetched. Six photographs show how it goes; they prove nothing about the network.""",
    """import qcam

bundle = qcam.export("efficientnet_lite0", output="bundles", keep=True)
bundle.model_id, [entry.name for entry in bundle.precisions]""",
    """A **bundle** is a folder: one ONNX file for each precision, each with the CAM layer as an extra output. f32 is
the network as it was, int16 and int8 are
quantized with eight photographs.

## What did quantization do to the maps?""",
    """results = qcam.study(bundle, limit=6, saliency="none", output="out/first", gates=["int8.cc=0.98", "int8.drift<jpeg95"])
for of in results.summary["drift"]:
    figures = f"median {of['median']:.2g}, worst {of['worst']:.2g} ({of['worst_image']})"
    print(f"{of['precision']:6}{of['comparison']:12} 1 - CC: {figures}")""",
    """Each row says what moves the maps of f32: quantization (`vs_f32`), and for scale every value ±1 of 255, JPEG 95
and 75, a shift by one pixel, another
picture's CAM (`floor`).

The **gates** were asked as a build would ask them. A gate that six images cannot decide is undecided, and says how many
would.""",
    """print(results.verdict.verdict)
for gate in results.verdict.gates:
    print(gate.sentence)""",
    """## One picture""",
    """from qcam.images.embedded import evaluation_photographs

worst = results.summary["drift"][1]["worst_image"]
picture = next(image.path for image in evaluation_photographs() if image.name == worst)
shown = qcam.explain(bundle, picture)
print({precision: shown.top1(precision) for precision in shown.precisions})
shown.overlay("int8")""",
    """## Is the simulation what runs?

The **mirror** is a PyTorch graph of the very same file, in the kernels' own integer arithmetic. If it is exact,
gradients and what other CPUs would
compute can be believed.""",
    """verdict = qcam.check(bundle, limit=2, precisions="int8", other_cpus=False)
print(verdict.verdict)
verdict.figures""",
    """Next: [the command line](../README.md), [reading results](results.md), [gates in a build](gates.md), [networks of
your own](importing.md).""",
]


def notebook() -> nbformat.NotebookNode:
    """Return the notebook, not run: texts and code in turn, as they begin with code or not."""
    made = nbformat.v4.new_notebook()
    for number, text in enumerate(_CELLS):
        code = text.startswith(("import ", "from ", "results", "print", "verdict"))
        cell = nbformat.v4.new_code_cell(text) if code else nbformat.v4.new_markdown_cell(text)
        cell["id"] = f"cell-{number}"
        made.cells.append(cell)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def run(made: nbformat.NotebookNode, folder: Path) -> None:
    """Run a notebook in a folder; what its cells show is put into it.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    NotebookClient(made, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in made.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]


def main() -> None:
    """Make the page."""
    made = notebook()
    with tempfile.TemporaryDirectory() as folder:
        run(made, Path(folder))
    nbformat.validate(made)
    nbformat.write(made, PAGE)


if __name__ == "__main__":
    main()
