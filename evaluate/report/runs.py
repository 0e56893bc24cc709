"""The runs that a report is about: their names, their figures without the text, and what is to be said of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.layout import Address, Figures, by_model, in_order
from qcam.evaluate.report.published import comparable, published
from qcam.evaluate.results.folder import FAITHFULNESS, Columns, Results
from qcam.evaluate.results.records import Entry, RunRecord, Summary

#: Columns that are kept of every image: a study of 10,000 images has no room for all of them, six models at a time.
_KEPT = ("image", "image_sha256", "top1", "top1_agrees", *METRICS, *FAITHFULNESS)


@dataclass(frozen=True, eq=False)
class Run:
    """One result folder under the name it has in the report.

    Attributes:
        name: Its name.
        results: What it holds.
    """

    name: str
    results: Results

    @property
    def record(self) -> RunRecord:
        """Return what run.json says."""
        return self.results.record

    @property
    def summary(self) -> Summary:
        """Return what summary.json says.

        Raises:
            ResultsError: If a field is missing or of another type.
        """
        return self.results.statistics

    @cached_property
    def entries(self) -> dict[str, dict[Address, Entry]]:
        """Return the summary's figures by model and by where they stand."""
        return by_model(self.summary.entries)

    @cached_property
    def figures(self) -> dict[str, dict[tuple[str, str], Columns]]:
        """Return model → (precision, comparison) → column → values, without what is only text."""
        found = {}
        for model in self.results.models:
            columns = self.results.columns(model)
            found[model] = {key: {name: values for name, values in of.items() if name in _KEPT} for key, of in columns.items()}
        return found

    def trained(self, model: str) -> bool | None:
        """Tell whether a model has weights that mean something; None where nobody knows."""
        return self.record.models[model].weights.trained

    @property
    def complete(self) -> bool:
        """Tell whether every image was evaluated."""
        return self.record.complete and self.summary.complete

    @property
    def provider(self) -> str:
        """Return where it ran, and under which protocol if that is not the deployed one."""
        record = self.record
        if record.protocol.name == "deployed":
            return record.provider
        fixes = f" with {', '.join(record.protocol.fixes)}" if record.protocol.fixes else ""
        return f"{record.provider}, protocol of the paper's authors{fixes}"


@dataclass(frozen=True)
class Column:
    """A model of a run: a column of every table, a group of every chart.

    Attributes:
        run: The run.
        model: Model id.
        title: The model, and the run where there are several.
    """

    run: Run
    model: str
    title: str

    @property
    def trained(self) -> bool | None:
        """Tell whether its weights mean something; None where nobody knows."""
        return self.run.trained(self.model)

    @property
    def without_f32(self) -> bool:
        """Tell whether figures are of a model of which no f32 was run: nothing is held against it."""
        return bool(self.entries) and not any(
            precision == "f32" or comparison == "vs_f32" for comparison, precision, _ in self.entries
        )

    @property
    def entries(self) -> Figures:
        """Return its figures in the summary, by where they stand."""
        return self.run.entries.get(self.model, {})

    def values(self, precision: str, comparison: str, metric: str) -> NDArray[np.float64]:
        """Return the defined values of a figure over the images; empty where it was not made."""
        found = self.run.figures[self.model].get((precision, comparison))
        if found is None or metric not in found:
            return np.empty(0)
        values: NDArray[np.float64] = found[metric]
        return values[np.isfinite(values)]


def name_runs(results: Sequence[Results], names: Sequence[str] = ()) -> list[Run]:
    """Give every run a name of its own.

    Args:
        results: The runs.
        names: What they shall be called; empty for the names of their folders, with as many parents as tell them apart.

    Raises:
        QcamError: If names are missing, too many, empty or given twice, or a folder is.
    """
    if not results:
        raise QcamError("nothing to report: no result folder was given")
    folders = [item.folder.resolve() for item in results]
    for folder in folders:
        if folders.count(folder) > 1:
            raise QcamError(f"{folder.name} was given twice; a comparison needs different result folders")
    chosen = list(names)
    if not chosen:
        depth = 1
        chosen = [folder.name for folder in folders]
        while len(set(chosen)) < len(chosen):
            depth += 1
            chosen = ["/".join(folder.parts[-depth:]) for folder in folders]
    if len(chosen) != len(results):
        raise QcamError(
            f"{{names}} gives {len(chosen)} names for {len(results)} runs; give one for each, with commas between them"
        )
    if not all(chosen) or len(set(chosen)) < len(chosen):
        raise QcamError("{names}: every run needs a name of its own")
    return [Run(name, item) for name, item in zip(chosen, results, strict=True)]


def columns(runs: Sequence[Run]) -> list[Column]:
    """Return every model of every run, the runs of one model side by side."""
    models = list(dict.fromkeys(model for run in runs for model in run.results.models))
    return [
        Column(run, model, f"{model} · {run.name}" if len(runs) > 1 else model)
        for model in models
        for run in runs
        if model in run.results.models
    ]


def trained_together(states: Iterable[bool | None]) -> bool | None:
    """Tell whether several weights all mean something: no if one does not, unknown if that is not known of one.

    >>> trained_together([True, None]), trained_together([None, False]), trained_together([True])
    (None, False, True)
    """
    found = set(states)
    return False if False in found else None if None in found else True


def precisions_of(columns: Iterable[Column]) -> list[str]:
    """Return the precisions that any column has figures of, in the order of every table."""
    return in_order(precision for column in columns for _, precision, _ in column.entries)


def published_of(entry: Entry) -> tuple[float, float] | None:
    """Return the published mean and standard deviation of a figure, None where the paper has none."""
    return published(entry.model, entry.precision, entry.comparison, entry.metric)


def held_against(entry: Entry) -> tuple[float, float] | None:
    """Return the published figure that an entry may be held against, None where there is none or it would mean nothing."""
    return published_of(entry) if comparable(entry.precision, entry.comparison, entry.metric) else None
