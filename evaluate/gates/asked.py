"""Gates on a study: what can be asked of a precision, and how it is written down."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from qcam.common.errors import QcamError
from qcam.common.vocabulary import UNITS, Reference


class Figure(StrEnum):
    """What of a precision is held against f32."""

    CC = "cc"
    SIM = "sim"
    WORST_CC = "worst_cc"
    WORST_SIM = "worst_sim"
    TOP1 = "top1"
    ACCURACY = "accuracy"
    DRIFT = "drift"


#: Figure → what it is.
FIGURES = {
    Figure.CC: "mean CC of its CAMs with f32's",
    Figure.SIM: "mean SIM of its CAMs with f32's",
    Figure.WORST_CC: "smallest CC of any image",
    Figure.WORST_SIM: "smallest SIM of any image",
    Figure.TOP1: "share of images with f32's top-1 class",
    Figure.ACCURACY: "top-1 accuracy as a share of f32's",
    Figure.DRIFT: "1 - CC with f32, image by image, below that of a reference row",
}
#: Figures that can be negative.
_SIGNED = (Figure.CC, Figure.WORST_CC)


class Preset(StrEnum):
    """Gates that go by a name."""

    MAPS = "maps"
    MLPERF = "mlperf"


#: Preset → its gates, in words, of every precision but f32. MLPerf's quality targets: 99 % of the reference's accuracy
#: (mlcommons/inference_policies, "inference_rules", section on quality targets of the closed division).
PRESETS: Mapping[Preset, tuple[str, ...]] = {Preset.MAPS: ("drift<jpeg95",), Preset.MLPERF: ("accuracy=0.99",)}

_FORM = re.compile(r"(?:(?P<precision>[^=<>]+)\.)?(?P<figure>[a-z0-9_]+)(?P<sign>=|<)(?P<bound>.+)")


@dataclass(frozen=True)
class GateRequest:
    """What is asked of a precision.

    Attributes:
        precision: Its name; empty for every one but f32.
        figure: What is held against the bound.
        threshold: The smallest value that holds; None for `drift`.
        reference: The reference row that it has to be below; None for all but `drift`.
    """

    precision: str
    figure: Figure
    threshold: float | None = None
    reference: Reference | None = None

    def __str__(self) -> str:
        name = f"{self.precision}.{self.figure}" if self.precision else str(self.figure)
        return f"{name}<{self.reference}" if self.reference is not None else f"{name}={self.threshold:.15g}"


def least_value(figure: Figure) -> float:
    """Return the lowest value that a figure can have."""
    return -1.0 if figure in _SIGNED else 0.0


def read_gates(texts: Iterable[str], presets: Iterable[str] = ()) -> tuple[GateRequest, ...]:
    """Read gates: `int8.cc=0.98`, `int8.drift<jpeg95`, `top1=0.99` for every precision but f32.

    Args:
        texts: The gates.
        presets: Words of `Preset`.

    Returns:
        Each once, in their order, those of presets last.

    Raises:
        QcamError: If one is no gate, has no bound that its figure can reach, or is asked twice with different bounds.
    """
    found: dict[str, GateRequest] = {}
    for text in [*texts, *(gate for name in presets for gate in PRESETS[_preset(name)])]:
        gate = _read(text)
        key = f"{gate.precision}.{gate.figure}.{gate.reference}"
        if found.setdefault(key, gate) != gate:
            raise QcamError(f"{{fail_under}} {text!r}: {found[key]} is asked for as well; give one of them")
    return tuple(found.values())


def refuse_impossible(
    gates: Sequence[GateRequest], precisions: Mapping[str, Collection[str]], *, references: bool, deployed: bool
) -> None:
    """Refuse gates that no run of these bundles could decide, before it begins.

    Args:
        gates: What is asked.
        precisions: Model → precisions that are run.
        references: Whether there are reference rows.
        deployed: Whether anything is deployed; the paper's protocol does not.

    Raises:
        QcamError: Names the gate, and what to do.
    """
    if gates and not deployed:
        raise QcamError("{fail_under} judges what is deployed, and with the paper's protocol nothing is; leave one of them out")
    held = {name for run in precisions.values() for name in run}
    without = [model for model, run in precisions.items() if "f32" not in run]
    for gate in gates:
        if gate.precision and gate.precision not in held:
            raise QcamError(f"{{fail_under}} {gate}: no bundle is run at {gate.precision}, only at {', '.join(sorted(held))}")
        if gate.reference is not None and not references:
            raise QcamError(f"{{fail_under}} {gate} needs reference rows; leave {{references}} none out")
        if without:
            raise QcamError(f"{{fail_under}} {gate} holds maps against f32's, and {without[0]} is run without f32")
        if not gate.precision and held == {"f32"}:
            raise QcamError(f"{{fail_under}} {gate}: f32 alone is run, and nothing is held against it")


def not_asked(gates: Sequence[GateRequest], precisions: Mapping[str, Collection[str]]) -> list[str]:
    """Return a sentence for each model that a gate says nothing of, for it is not run at that precision.

    Args:
        gates: What is asked.
        precisions: Model → precisions that are run.
    """
    return [
        f"{{fail_under}} {gate} asks nothing of {model}, which is run at {', '.join(sorted(run))} only"
        for gate in gates
        for model, run in precisions.items()
        if (gate.precision not in run if gate.precision else set(run) == {"f32"})
    ]


def _read(text: str) -> GateRequest:
    matched = _FORM.fullmatch(text.strip())
    if matched is None:
        raise QcamError(f"{{fail_under}} {text!r}: give PRECISION.FIGURE=VALUE, as int8.cc=0.98, or 'int8.drift<jpeg95'")
    precision, word, bound = matched["precision"] or "", matched["figure"], matched["bound"].strip()
    if word not in [figure.value for figure in Figure]:
        raise QcamError(f"{{fail_under}} {text!r}: no figure is called {word!r}; choose from {', '.join(Figure)}")
    if precision == "f32":
        raise QcamError(f"{{fail_under}} {text!r}: f32 is what the others are held against; name another precision")
    figure = Figure(word)
    if figure is Figure.DRIFT:
        if bound not in [unit.value for unit in UNITS]:
            raise QcamError(f"{{fail_under}} {text!r}: drift has to be below a reference row, one of {', '.join(UNITS)}")
        return GateRequest(precision, figure, reference=Reference(bound))
    if matched["sign"] == "<":
        raise QcamError(f"{{fail_under}} {text!r}: give {word}=VALUE, the smallest value that holds")
    try:
        value = float(bound)
    except ValueError as error:
        raise QcamError(f"{{fail_under}} {text!r}: {bound!r} is no number") from error
    least = least_value(figure)
    if not math.isfinite(value) or not least <= value <= 1:
        raise QcamError(f"{{fail_under}} {text!r}: the figure lies between {least:g} and 1; give 0.99 for 99 %")
    return GateRequest(precision, figure, threshold=value)


def _preset(name: str) -> Preset:
    if name not in [preset.value for preset in Preset]:
        raise QcamError(f"{{gate}} {name!r}: no preset is called so; choose from {', '.join(Preset)}")
    return Preset(name)
