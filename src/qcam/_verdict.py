"""`qcam.check`, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcam.common.arguments import names, texts, whole_or_none
from qcam.common.extras import names_extras, require_packages
from qcam.common.wording import in_python

if TYPE_CHECKING:
    from qcam.common.verdict import Verdict
    from qcam.evaluate.check.checked import Checked
    from qcam.evaluate.check.result import CheckResult, TensorResult
    from qcam.runtime.bundle import Bundle


class CheckVerdict:
    """Whether what is simulated is what the runtime really computes, and what that rests on.

    Attributes:
        verdict: `holds`, `falls short` or `undecided`, a `qcam.Verdict`, which is a string.
        reason: Why it does not hold; empty if it does.
        warnings: What is to be known, a sentence each.
        checked: Everything that was found; its form may change between versions.
    """

    def __init__(self, checked: Checked) -> None:
        """Wrap what a check found."""
        self.checked: Checked = checked
        self.verdict: Verdict = checked.verdict
        self.reason: str = checked.reason
        self.warnings: tuple[str, ...] = tuple(in_python(text) for text in checked.warnings)

    @property
    def holds(self) -> bool:
        """Tell whether every gate holds; an undecided one does not."""
        return self.checked.holds

    @property
    def figures(self) -> dict[tuple[str, str, str], dict[str, float | None]]:
        """Return (model, precision, arithmetic) → figure → value, None where undefined (docs/check.md)."""
        return {_key(item.result): dict(item.result.figures) for item in self.checked.judged}

    @property
    def tensors(self) -> dict[tuple[str, str, str], list[TensorResult]]:
        """Return (model, precision, arithmetic) → agreement tensor by tensor, in graph order, the logits last."""
        return {_key(item.result): list(item.result.tensors) for item in self.checked.judged}

    def to_json(self) -> dict[str, Any]:
        """Return everything that was measured, and what was run: the content of check.json (docs/check.md)."""
        return self.checked.to_json()

    @names_extras("the pictures of a check")
    def write(self, folder: str | Path) -> list[str]:
        """Write check.json, junit.xml, placement.json and pictures; an earlier check there is replaced.

        Args:
            folder: Where to; made if it is not there.

        Returns:
            The names of the files.

        Raises:
            QcamError: If a file in the way was not written by a check, or the disk refuses.
        """
        return self.checked.write(Path(folder))

    def __repr__(self) -> str:
        return f"<CheckVerdict {self.verdict.value}{': ' if self.reason else ''}{self.reason}>"

    def _repr_html_(self) -> str:
        from qcam.common import html
        from qcam.evaluate.showing.numbers import four_digits

        head = ["model", "precision", "simulated as", "all codes", "codes at tap", "top-1", "CC", "CC min", "verdict"]
        rows = []
        for item in self.checked.judged:
            values = item.result.figures
            shown = [four_digits(values[name]) for name in ("codes", "tap", "top1", "cc", "cc_min")]
            rows.append([*_key(item.result), *shown, "–" if item.verdict is None else item.verdict.value])
        lines = (*self.reason.splitlines(), *self.warnings, *self.checked.unknown_weights)
        notes = "".join(f"<p>{html.escaped(line)}</p>" for line in lines)
        return f"<div><b>{html.escaped(self.verdict.value)}</b>{html.table(head, rows)}{notes}</div>"


@names_extras("qcam.check")
def check(
    bundle: Bundle | str | Path | Sequence[Bundle | str | Path],
    *,
    images: str | Path | None = None,
    limit: int | None = None,
    precisions: str | Sequence[str] = (),
    arithmetic: str | Sequence[str] = "integer",
    kernel: str = "auto",
    gates: Mapping[str, float] | None = None,
    every_tensor: bool = False,
    finite_differences: bool = False,
    other_cpus: bool = True,
    deployed: str | Path | None = None,
    provider: str = "CPU",
    allow_fallback: bool = False,
    session_config: Mapping[str, str] | None = None,
    provider_options: Mapping[str, str] | None = None,
    tf32: bool = False,
    batch_size: int = 8,
    threads: int | None = None,
    device: str = "auto",
) -> CheckVerdict:
    """Check a bundle: is what is simulated what the runtime really computes?

    Nothing is written, and a verdict other than `holds` raises nothing: look at `.verdict`.

    Args:
        bundle: A bundle or several, or paths or URLs of their folders.
        images: Folder of photographs, archives or one photograph, local or behind a URL; None for the demo's.
        limit: Take only the first so many images.
        precisions: Those to judge; empty for all that the bundle holds.
        arithmetic: How the mirror computes: integer (the kernels' own), fake_quant, or both.
        kernel: Kernel family of the integer arithmetic; auto asks this machine's ONNX Runtime.
        gates: Figure → smallest value that holds; None for the defaults (docs/check.md).
        every_tensor: Whether each operator is also fed with the deployed codes.
        finite_differences: Whether the deployed tail's slopes at the CAM layer are held against the mirror's gradient.
        other_cpus: Whether to tell what other CPUs would change.
        deployed: ONNX file to judge in the bundle's place.
        provider: ONNX Runtime's execution provider. Strict: never silently another one.
        allow_fallback: Whether nodes or sessions on another provider are accepted, and warned of.
        session_config: ONNX Runtime's session configuration entries.
        provider_options: What the provider is told, as device_id or gpu_mem_limit (docs/gpu.md).
        tf32: Whether a GPU may compute float32 in TF32.
        batch_size: Images at a time.
        threads: Of ONNX Runtime and PyTorch; None for all cores.
        device: Where PyTorch computes: auto, cpu or cuda.

    Returns:
        The verdict, with figures, tensor by tensor.

    Raises:
        QcamError: If something cannot be judged: a file or provider that cannot be had, nothing to compare.
        MissingExtraError: If a package is not installed.
    """
    require_packages("qcam.check", "onnxruntime", "torch")
    from qcam.common import machine
    from qcam.evaluate.check.options import CheckOptions, require_one
    from qcam.evaluate.check.run import run_check
    from qcam.evaluate.run.inputs import find_photographs, load_bundles
    from qcam.runtime.bundle import Bundle
    from qcam.runtime.deployed import SessionSettings, provider_name, require_provider
    from qcam.runtime.devices import torch_device

    limit = whole_or_none(limit, "{limit}")
    count = whole_or_none(threads, "{threads}") or machine.available_cores()
    settings = SessionSettings(
        provider=provider_name(provider),
        threads=count,
        allow_fallback=allow_fallback,
        config=texts(session_config, "{session_config}"),
        provider_options=texts(provider_options, "{provider_option}"),
        tf32=tf32,
    )
    if not allow_fallback:
        require_provider(settings.provider)
    options = CheckOptions(
        precisions=tuple(dict.fromkeys(names(precisions, "{precision}"))),
        arithmetics=tuple(dict.fromkeys(names(arithmetic, "arithmetic"))),
        kernel=kernel,
        gates=dict(gates or {}),
        settings=settings,
        device=torch_device(device, count, tf32=settings.tf32, index=settings.device_index),
        batch_size=batch_size,
        every_tensor=every_tensor,
        finite_differences=finite_differences,
        other_cpus=other_cpus,
        deployed=None if deployed is None else Path(deployed),
    )
    bundles = load_bundles([bundle] if isinstance(bundle, (Bundle, str, Path)) else bundle)
    require_one(options, len(bundles))
    return CheckVerdict(run_check(bundles, find_photographs(images)[:limit], options))


def _key(result: CheckResult) -> tuple[str, str, str]:
    return result.model, result.precision, result.arithmetic
