"""The runs that a report is about: their names, their figures without the text, and what is to be said of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.results.folder import FAITHFULNESS, Columns, Results

#: Columns that are kept of every image: a study of 10,000 images has no room for all of them, six models at a time.
_KEPT = ("image", "image_sha256", "top1", "top1_agrees", *METRICS, *FAITHFULNESS)
Entry = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """One result folder under the name it has in the report.

    Attributes:
        name: Its name.
        results: What it holds.
    """

    name: str
    results: Results

    @cached_property
    def entries(self) -> dict[tuple[str, str, str, str], Entry]:
        """Return the summary's figures by (comparison, precision, metric, model)."""
        try:
            return {
                (entry["comparison"], entry["precision"], entry["metric"], entry["model"]): entry
                for entry in self.results.summary["entries"]
            }
        except (KeyError, TypeError) as error:
            raise QcamError(f"{self.results.folder}/summary.json lacks {error}; run qcam-eval again with --force") from error

    @cached_property
    def figures(self) -> dict[str, dict[tuple[str, str], Columns]]:
        """Return model → (precision, comparison) → column → values, without what is only text."""
        found = {}
        for model in self.results.models:
            columns = self.results.columns(model)
            found[model] = {key: {name: values for name, values in of.items() if name in _KEPT} for key, of in columns.items()}
        return found

    def trained(self, model: str) -> bool:
        """Tell whether a model has weights that mean something."""
        weights = self.results.run["models"][model].get("weights") or {}
        return bool(weights.get("trained", True))

    @property
    def complete(self) -> bool:
        """Tell whether every image was evaluated."""
        return bool(self.results.run.get("complete")) and bool(self.results.summary.get("complete", True))

    @property
    def provider(self) -> str:
        """Return where it ran, and under which protocol if that is not the deployed one."""
        protocol = self.results.run.get("protocol") or {}
        told = str(self.results.run.get("provider", "?"))
        if protocol.get("name", "deployed") == "deployed":
            return told
        fixes = ", ".join(protocol.get("fixes") or [])
        return f"{told}, protocol of the paper's authors" + (f" with {fixes}" if fixes else "")


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
    def trained(self) -> bool:
        """Tell whether its weights mean something."""
        return self.run.trained(self.model)

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
            f"--names gives {len(chosen)} names for {len(results)} runs; give one for each, with commas between them"
        )
    if not all(chosen) or len(set(chosen)) < len(chosen):
        raise QcamError("--names: every run needs a name of its own")
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


def published_of(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the published mean and standard deviation of a figure, None where the paper has none."""
    from qcam.evaluate.report.published import published

    return published(str(entry["model"]), str(entry["precision"]), str(entry["comparison"]), str(entry["metric"]))
