"""Two runs, or a run and salient objects, become rows: every figure, and the status that says why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common.norms import logit_error
from qcam.evaluate.maps.cam import Array, normalise
from qcam.evaluate.maps.measures import (
    OBJECT,
    area_average,
    energy_in_object,
    overlap,
    rank_correlation,
    tie_small,
    top_positions,
)
from qcam.evaluate.maps.metrics import all_metrics, correlation, is_constant, similarity
from qcam.evaluate.maps.scores import top_classes
from qcam.evaluate.results.folder import Row
from qcam.evaluate.run.explained import Run
from qcam.evaluate.run.protocol import Sample

_NOT_FINITE = "not_finite: the network returned NaN or infinity"


@dataclass(frozen=True)
class SalientObjects:
    """Salient-object maps of a batch, 0..1.

    Attributes:
        maps: float64, batch × height × width; zero where an image has none, and where a map is void.
        void: What counts neither way, of the shape of `maps`; None if nothing is void.
        missing: Why an image has none, as a row's status says it; empty where it has one.
    """

    maps: Array
    void: NDArray[np.bool_] | None
    missing: tuple[str, ...]

    @cached_property
    def tops(self) -> NDArray[np.bool_]:
        """The top positions of the maps."""
        return top_positions(self.maps)

    def at(self, places: NDArray[np.int64]) -> SalientObjects:
        """Return those of some images of the batch."""
        void = None if self.void is None else self.void[places]
        return SalientObjects(self.maps[places], void, tuple(self.missing[place] for place in places))

    @classmethod
    def of(cls, found: Sequence[tuple[NDArray[Any] | None, str]], size: tuple[int, int]) -> SalientObjects:
        """Stack maps of height × width, NaN where they are void, or None, with the reason for None."""
        blank = np.zeros(size)
        stacked = np.stack([blank if each is None else each.astype(np.float64) for each, _ in found])
        missing = tuple("" if each is not None else reason for each, reason in found)
        void = np.isnan(stacked)
        if not void.any():
            return cls(normalise(stacked), None, missing)
        for each, left_out in zip(stacked, void, strict=True):  # the range is that of what is known
            known = each[~left_out]
            each[~left_out] = normalise(known[None, None])[0, 0] if known.size else known
            each[left_out] = 0.0
        return cls(stacked, void, missing)


@dataclass(frozen=True)
class Compared:
    """One comparison of one precision over a batch; each method returns one row per sample.

    Attributes:
        model: The model's id.
        precision: The precision.
        comparison: One of `Comparison`.
        samples: The images.
        targets: The class that was explained of each.
    """

    model: str
    precision: str
    comparison: str
    samples: Sequence[Sample]
    targets: NDArray[np.int64]

    def with_objects(self, run: Run, saliency: SalientObjects) -> list[Row]:
        """Hold a run's maps against salient objects."""
        small = area_average(saliency.maps, run.maps.shape[1:])
        values = self._maps(run, saliency.maps, saliency.tops, small)
        values["rank_correlation"] = rank_correlation(tie_small(run.maps), tie_small(small))
        values["energy_in_object"] = energy_in_object(run.shown, saliency.maps)
        constants = is_constant(run.shown), is_constant(saliency.maps)
        if saliency.void is not None:
            _leave_out(values, constants, run, saliency.maps, saliency.void)
        rows = self._rows(values, run, None, constants, missing=saliency.missing)
        return [
            replace(row, remark=_joined(row.remark, each.saliency_remark)) for row, each in zip(rows, self.samples, strict=True)
        ]

    def with_area(self, run: Run, saliency: SalientObjects) -> list[Row]:
        """Tell the share of the picture that the salient object takes: the energy of a map that is the same everywhere."""
        known = np.ones(saliency.maps.shape, bool) if saliency.void is None else ~saliency.void
        inside, whole = ((where & known).sum(axis=(1, 2)) for where in (saliency.maps >= OBJECT, known))
        share = np.where(inside > 0, inside / np.maximum(whole, 1), np.nan)
        nothing = np.zeros(len(self.samples), bool)
        constants = nothing, is_constant(saliency.maps)
        return self._rows({"energy_in_object": share}, run, None, constants, missing=saliency.missing)

    def with_other_image(self, other: Run, run: Run, missing: Sequence[str]) -> list[Row]:
        """Hold the CAMs of other images against those of these.

        Args:
            other: Their CAMs, with the logits of these images.
            run: The run of these images.
            missing: Why one has no other image; empty where it has.
        """
        values = self._maps(other, run.shown, run.tops, run.maps)
        return self._rows(values, other, None, (is_constant(other.shown), is_constant(run.shown)), missing=missing)

    def with_reference(self, run: Run, reference: Run) -> list[Row]:
        """Hold a run against another deployed one: f32's, or an earlier one of its own."""
        values = self._maps(run, reference.shown, reference.tops, reference.maps)
        errors = self._logit_errors(run, reference, reference)
        return self._rows(values, run, reference, (is_constant(run.shown), is_constant(reference.shown)), errors=errors)

    def with_simulation(self, deployed: Run, simulated: Run) -> list[Row]:
        """Hold a simulated run against the deployed one, which is the reference; classes are the deployed run's."""
        values = self._maps(simulated, deployed.shown, deployed.tops, deployed.maps)
        errors = self._logit_errors(deployed, simulated, deployed)
        constants = is_constant(simulated.shown), is_constant(deployed.shown)
        return self._rows(values, deployed, simulated, constants, errors=errors, codes_equal=simulated.codes_equal)

    def on_model(self, run: Run, drop: Array, increase: NDArray[np.bool_]) -> list[Row]:
        """Tell what the model makes of what its CAMs leave of the pictures."""
        nothing = np.zeros(len(self.samples), bool)
        return self._rows({"drop": drop, "increase": increase}, run, None, (is_constant(run.shown), nothing))

    @staticmethod
    def _maps(run: Run, references: Array, tops: NDArray[np.bool_], small: Array) -> dict[str, NDArray[Any]]:
        """Return every measure of two maps: the large ones, and some at the tap's resolution."""
        values: dict[str, NDArray[Any]] = dict(all_metrics(run.shown, references))
        values["rank_correlation"] = rank_correlation(run.maps, small)
        values["native_SIM"] = similarity(normalise(run.maps), normalise(small))
        values["native_CC"] = correlation(run.maps, small)
        values["overlap"] = overlap(run.shown, references, tops=(run.tops, tops))
        return values

    @staticmethod
    def _logit_errors(run: Run, other: Run, reference: Run) -> list[float]:
        return [logit_error(*logits) for logits in zip(run.logits, other.logits, reference.logits, strict=True)]

    def _rows(
        self,
        values: dict[str, NDArray[Any]],
        run: Run,
        other: Run | None,
        constants: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        *,
        missing: Sequence[str] = (),
        errors: Sequence[float] | None = None,
        codes_equal: Sequence[float] | None = None,
    ) -> list[Row]:
        rows = []
        chosen, other_chosen = top_classes(run.logits), None if other is None else top_classes(other.logits)
        for index, sample in enumerate(self.samples):
            finite = bool(np.isfinite(run.logits[index]).all() and np.isfinite(run.maps[index]).all())
            both = finite and (other is None or bool(np.isfinite(other.logits[index]).all()))
            status = "ok"
            if not both:
                status = _NOT_FINITE
            elif sample.uniform:
                status = f"nearly_uniform: {sample.uniform}"
            elif missing and missing[index]:
                status = missing[index]
            elif constants[0][index]:
                status = "constant_cam"
            elif constants[1][index]:
                status = "constant_reference"
            found = {name: column[index].item() for name, column in values.items()} if status == "ok" else {}
            top1 = int(chosen[index])
            rows.append(
                Row(
                    image=sample.name,
                    image_sha256=sample.sha256,
                    model=self.model,
                    precision=self.precision,
                    comparison=self.comparison,
                    **{name: None if value != value else value for name, value in found.items()},
                    target_class=int(self.targets[index]),
                    top1=top1 if finite else None,
                    label=sample.label,
                    top1_agrees=None if other_chosen is None or not finite else top1 == int(other_chosen[index]),
                    logit_error=errors[index] if errors is not None and both and errors[index] == errors[index] else None,
                    codes_equal=None if codes_equal is None else codes_equal[index],
                    crossings=None if run.crossings is None or not finite else int(run.crossings[index]),
                    status=status,
                    remark=sample.remark,
                )
            )
        return rows


def _leave_out(
    values: dict[str, NDArray[Any]],
    constants: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    run: Run,
    references: Array,
    void: NDArray[np.bool_],
) -> None:
    """Compute figures again, without the positions that are void, for the images that have any.

    Maps are stretched to 0..1 over what is known. Small cells are averages over what is known in them; cells that are void by
    more than half are left out.
    """
    for index in np.flatnonzero(void.any(axis=(1, 2))):
        known = ~void[index]
        if not known.any():
            constants[1][index] = True
            continue
        shown, reference = (normalise(maps[index][known][None, None]) for maps in (run.shown, references))
        share = area_average(known[None].astype(np.float64), run.maps.shape[1:])[0]
        cells = share >= 0.5
        small = (area_average(references[index : index + 1], run.maps.shape[1:])[0][cells] / share[cells])[None, None]
        own = run.maps[index][cells][None, None]
        found = all_metrics(shown, reference) | {
            "overlap": overlap(shown, reference),
            "energy_in_object": energy_in_object(shown, reference),
            "rank_correlation": rank_correlation(tie_small(own), tie_small(small)),
            "native_SIM": similarity(normalise(own), normalise(small)),
            "native_CC": correlation(own, small),
        }
        for name, value in found.items():
            values[name][index] = value[0]
        constants[0][index], constants[1][index] = is_constant(shown)[0], is_constant(reference)[0]


def _joined(*remarks: str) -> str:
    return "; ".join(filter(None, remarks))
