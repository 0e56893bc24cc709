"""What TF32 would do to maps and codes, foretold on the CPU: a table for docs/gpu.md.

    python benchmarks/tf32.py BUNDLE... [--images N] [--output FILE]

An NVIDIA GPU from Ampere on may multiply float32 matrices in TF32: each operand keeps 10 of its 23 bits behind the point,
sums stay float32. Here the operands of every convolution and matrix product of the fake-quant mirror are cut in the same way,
in the forward pass and in the tail that gives the gradient (there the operands, not what comes back to them), and the results
are held against the same mirror without that.
Tensor cores drop the other 13 bits; libraries may round to nearest before: both are measured. The order of additions is the
CPU's own, which a GPU's is not either way. No GPU is needed, and none takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from qcam.commands import console
from qcam.common import machine
from qcam.common.files import write_atomically
from qcam.common.norms import logit_error
from qcam.evaluate.maps.cam import cam, enlarge
from qcam.evaluate.maps.metrics import correlation, divergence, similarity
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import Bundle, load_bundle, load_onnx, ordered_precisions
from qcam.runtime.mirror import Mirror

#: Bits of a float32 behind the point that TF32 does not keep.
_DROPPED = 13
#: Products whose operands a GPU would cut; further arguments (bias, what is added) stay whole.
_PRODUCTS = {
    torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv_transpose2d, torch.nn.functional.linear,
    torch.conv1d, torch.conv2d, torch.conv_transpose2d, torch.matmul, torch.mm, torch.bmm, torch.Tensor.matmul,
}  # fmt: skip
BATCH = 4


def cut(values: torch.Tensor, *, nearest: bool) -> torch.Tensor:
    """Return values with 10 bits behind the point, as TF32 keeps them; the gradient passes as if nothing had happened.

    Args:
        values: float32, any shape.
        nearest: Whether to the nearest such number, ties away from zero; otherwise the other bits are dropped.
    """
    bits = values.detach().contiguous().view(torch.int32)
    if nearest:
        bits = bits + (1 << (_DROPPED - 1))  # the sign stands apart: this rounds the magnitude
    kept = (bits & ~((1 << _DROPPED) - 1)).view(torch.float32)
    kept = torch.where(values.detach().isfinite(), kept, values.detach())
    return values + (kept - values.detach()) if values.requires_grad else kept


class TensorFloat32(TorchFunctionMode):
    """Makes products of float32 tensors compute with operands that are cut, while the block runs."""

    def __init__(self, *, nearest: bool) -> None:
        """Say how operands are cut; see `cut`."""
        super().__init__()
        self.products = 0
        self._nearest = nearest

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Cut the first two operands of a product; run anything else as it is."""
        if function in _PRODUCTS and all(item.dtype == torch.float32 for item in args[:2]):
            self.products += 1
            args = (*(cut(item, nearest=self._nearest) for item in args[:2]), *args[2:])
        return function(*args, **(kwargs or {}))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--images", "count", default=20, show_default=True, type=click.IntRange(1, 20), help="Photographs.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("build") / "tf32.md", show_default=True, help="Markdown."
)
def main(bundles: tuple[Path, ...], count: int, output: Path) -> None:
    """Measure what TF32 does to codes, logits and CAMs of every precision, and write the table."""
    rows = [row for folder in bundles for row in measure(load_bundle(folder), count)]
    write_atomically(output, table(rows, count, " ".join(folder.name for folder in bundles)))
    console.out.print(f"written: {output}", markup=False)


def measure(bundle: Bundle, count: int) -> list[dict[str, Any]]:
    """Measure one bundle.

    Args:
        bundle: The bundle.
        count: Photographs.

    Returns:
        One record for each precision and way of cutting, and one that holds each quantized precision against f32.
    """
    photographs = evaluation_photographs()[:count]
    crops = [bundle.preprocessing.crop_image(decode(photograph.path).image) for photograph in photographs]
    images = bundle.preprocessing.normalise(np.stack(crops))
    rows: list[dict[str, Any]] = []
    targets: NDArray[np.int64] | None = None
    f32: dict[str, Any] = {}
    for precision in ordered_precisions([entry.name for entry in bundle.precisions]):
        console.note(f"{bundle.model_id}: {precision}")
        mirror = Mirror(load_onnx(bundle, precision), bundle.precision(precision))
        whole = _run(bundle, mirror, images, targets)
        if targets is None:
            targets, f32 = whole["logits"].argmax(axis=1), whole
        else:
            rows.append({"model": bundle.model_id, "what": f"{precision} v. f32"} | _differences(f32, whole))
        for nearest in (True, False):
            with TensorFloat32(nearest=nearest) as mode:
                reduced = _run(bundle, mirror, images, targets)
            if not mode.products:
                raise click.ClickException(f"{bundle.model_id}, {precision}: no product was met, so nothing was measured")
            how = "to nearest" if nearest else "bits dropped"
            rows.append(
                {"model": bundle.model_id, "what": f"{precision}, TF32 {how} v. without"}
                | _differences(whole, reduced, None if precision == "f32" else mirror.entry.tap.zero_point)
            )
    return rows


def _run(bundle: Bundle, mirror: Mirror, images: Any, targets: Any) -> dict[str, Any]:
    """Return logits, tap and CAMs of all images; f32's own top-1 classes are explained where none are given."""
    parts: dict[str, list[Any]] = {"logits": [], "tap": [], "cam": []}
    for start in range(0, len(images), BATCH):
        passed = mirror.forward(images[start : start + BATCH])
        entry = mirror.entry
        values = zip((entry.tap, *entry.skips), (passed.tap, *passed.skips), strict=True)
        taps = [mirror.dequantize(tap, value) for tap, value in values]
        logits = passed.logits.numpy()
        wanted = logits.argmax(axis=1) if targets is None else targets[start : start + BATCH]
        gradient = mirror.gradient(taps[0], wanted, taps[1:])
        parts["logits"].append(logits)
        parts["tap"].append(passed.tap.numpy())
        parts["cam"].append(enlarge(cam(taps[0].numpy(), gradient.numpy()), bundle.preprocessing.crop))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _differences(before: dict[str, Any], after: dict[str, Any], zero: int | None = None) -> dict[str, Any]:
    """Return what differs; the shares of equal codes, of all and of those that do not stand for 0, where `zero` says which."""
    equal = before["tap"] == after["tap"] if zero is not None else None
    return {
        "codes": None if equal is None else float(equal.mean()),
        "other": None if equal is None else float(equal[before["tap"] != zero].mean()),
        "logit_error": [logit_error(b, a, b) for b, a in zip(before["logits"], after["logits"], strict=True)],
        "top1": int((before["logits"].argmax(1) == after["logits"].argmax(1)).sum()),
        "cc": correlation(after["cam"], before["cam"]),
        "sim": similarity(after["cam"], before["cam"]),
        "kld": divergence(after["cam"], before["cam"]),
    }


def table(rows: Sequence[dict[str, Any]], count: int, names: str) -> str:
    """Return the Markdown table."""
    versions = machine.versions()
    lines = [
        f"`python benchmarks/tf32.py {names}`: {count} photographs, torch {versions.get('torch')}, on a CPU. Mean ± standard",
        "deviation over the photographs; CC also of the worst one. Codes: equal ones at the tap, and of those that stand for",
        "another value than 0.",
        "",
        "| network | what | codes | not zero | logit error | same top-1 | SIM | CC | worst CC | KLD |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        error = f"{np.mean(row['logit_error']):.1e} ± {np.std(row['logit_error']):.0e}"
        spread = [f"{np.nanmean(row[name]):.4f} ± {np.nanstd(row[name]):.4f}" for name in ("sim", "cc", "kld")]
        codes = f"{_share(row['codes'])} | {_share(row['other'])}"
        lines.append(
            f"| {row['model']} | {row['what']} | {codes} | {error} | {row['top1']} of {count} "
            f"| {spread[0]} | {spread[1]} | {np.nanmin(row['cc']):.4f} | {spread[2]} |"
        )
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    """Return a share in per cent, empty where there is none; never 100 % of what is not all."""
    return "" if value is None else f"{min(value * 100, 99.99 if value < 1 else 100):.2f} %"


if __name__ == "__main__":
    main()
