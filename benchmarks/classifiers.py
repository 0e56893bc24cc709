"""Every classifier of torchvision: are qcam's logits those of torchvision's own builder, and which layer is the default CAM's?

`make classifiers`. Weights are made, not downloaded: random ones in the layout of the published file, in a cache of torch's
of their own. What needs more memory than `--memory` is left out and said so. Results go to a JSON file model by model, so that
an interrupted call goes on, and from there into docs/models.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from published_files import cached
from torchvision import models

from qcam.common.errors import QcamError
from qcam.exporters.cam_layer import resolve_cam_layer
from qcam.exporters.onnx_export import export_float
from qcam.models.sources import load_model
from qcam.runtime.graph import Graph

HERE = Path(__file__).resolve().parents[1]
PAGE = HERE / "docs" / "models.md"
_BEGIN, _END = "<!-- classifiers: begin -->", "<!-- classifiers: end -->"
#: Copies of the weights that are in memory at once, in bytes for each parameter.
_BYTES = 20


def measure(name: str, memory: float) -> dict[str, Any]:
    """Compare one classifier's logits, and find its default CAM layer.

    Args:
        name: Its name in torchvision.
        memory: Bytes that may be used.
    """
    size = int(models.get_model_weights(name).DEFAULT.meta["num_params"])
    if size * _BYTES > memory:
        return {"skipped": f"{size / 1e6:.0f} M parameters"}
    row: dict[str, Any] = {"parameters": size}
    with tempfile.TemporaryDirectory(prefix="qcam-classifiers-") as home:
        os.environ["TORCH_HOME"] = home
        path, entry = cached(name, Path(home))
        side = int(entry.transforms().crop_size[0])
        images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = models.get_model(name, weights=entry).eval()(images)
            for where, weights in (("cache", entry.name), ("file", str(path))):
                loaded = load_model(name, weights)
                row[where] = float((loaded.module(images) - wanted).abs().max() / wanted.abs().max())
        row["flags"] = loaded.weights.get("flags", {})
    try:
        model, modules = export_float(loaded.module, loaded.preprocessing.crop)
        graph = Graph(model)
        tensor = resolve_cam_layer(graph, modules, loaded.module, loaded.cam_layer)
        paths = [path for path, _ in loaded.module.named_modules() if modules.get(path) == tensor]
        row["layer"] = paths[0] if paths else tensor
        row["shape"] = list(Graph(model).shapes[tensor][1:])
    except QcamError as error:
        row["refused"] = str(error).partition("; name a layer")[0]
    return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table of all classifiers."""
    lines = [
        "| model | from the cache | from a file | default CAM layer | channels × height × width |",
        "|---|--:|--:|---|---|",
    ]
    for name, row in sorted(rows.items()):
        if "skipped" in row:
            lines.append(f"| {name} | not run: {row['skipped']} | | | |")
            continue
        flags = " ¹" if row["flags"].get("transform_input") else ""
        layer = f"`{row['layer']}`" if "layer" in row else f"refused: {row['refused']}"
        shape = "×".join(str(side) for side in row.get("shape", []))
        lines.append(f"| {name}{flags} | {row['cache']:.1e} | {row['file']:.1e} | {layer} | {shape} |")
    worst = max(row[where] for row in rows.values() if "cache" in row for where in ("cache", "file"))
    ran = sum("cache" in row for row in rows.values())
    lines.append("")
    lines.append(f"{ran} of {len(rows)} classifiers; largest relative difference of a logit {worst:.1e}. ¹ `transform_input`.")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="classifiers; by default all")
    parser.add_argument("--json", type=Path, default=HERE / "build" / "classifiers.json")
    parser.add_argument("--memory", type=float, default=3.2, help="GB that weights may take")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    every = models.list_models(module=models)
    rows: dict[str, dict[str, Any]] = json.loads(options.json.read_text()) if options.json.is_file() else {}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for name in options.names or every:
        if name not in rows:
            rows[name] = measure(name, options.memory * 1e9)
            gc.collect()
            print(name, rows[name], flush=True)
            options.json.write_text(json.dumps(rows, indent=1))
    page = PAGE.read_text()
    before, _, rest = page.partition(_BEGIN)
    PAGE.write_text(f"{before}{_BEGIN}\n{table(rows)}\n{_END}{rest.partition(_END)[2]}")


if __name__ == "__main__":
    main()
