"""`qcam.study`, and its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcam.common.arguments import known, names
from qcam.common.errors import ResultsError
from qcam.common.extras import names_extras, require_packages

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from qcam.evaluate.report.finishing import Presentation
    from qcam.evaluate.results.folder import Results, StoredMap
    from qcam.evaluate.study.running import StudyRequest
    from qcam.evaluate.study.study import PlannedStudy
    from qcam.runtime.bundle import Bundle


class StudyResults:
    """Tables and maps of a study.

    Attributes:
        folder: Where they are; of results behind a URL, their copy on this machine.
        summary: Means, spreads and tests, as in summary.json (docs/results.md).
        run: What ran, as in run.json.
    """

    def __init__(self, results: Results) -> None:
        """Wrap a result folder that has been read."""
        self._results = results
        self.folder: Path = results.folder
        self.summary: dict[str, Any] = results.summary
        self.run: dict[str, Any] = results.run

    @property
    def models(self) -> list[str]:
        """Return the model ids, in the order of the tables."""
        return self._results.models

    def to_arrow(self) -> pyarrow.Table:
        """Return every figure: one row for each image × model × precision × comparison (docs/results.md)."""
        from qcam.evaluate.results.folder import RESULTS

        return self._results.read(RESULTS)

    @names_extras("to_pandas()")
    def to_pandas(self) -> pandas.DataFrame:
        """Return what `to_arrow` returns as a data frame.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        require_packages("to_pandas()", "pandas")
        return self.to_arrow().to_pandas()

    def maps(self, *, model: str | None = None, images: str | Iterable[str] | None = None) -> list[StoredMap]:
        """Return CAMs at the tap's own resolution, each with image, model, precision, kind and `.array`.

        Args:
            model: Only those of this model.
            images: Only those of this image, or of these images, by name.

        Raises:
            QcamError: If the study has no such model or image; names those that are most like it.
        """
        if model is not None:
            known(names(model, "model"), self.models, "model", str(self.folder))
        chosen = None if images is None else names(images, "images")
        if chosen is not None:
            known(chosen, self._results.images, "image", str(self.folder))
        return self._results.maps(model=model, images=chosen)

    @names_extras("the report")
    def report(self, path: str | Path, *, colormap: str = "inferno", pictures: int = 24) -> Path:
        """Write report.html, table.csv, table.tex and figures/.

        Args:
            path: Folder to write into; other files in it stay.
            colormap: Colours of CAMs: inferno, viridis, cividis or jet.
            pictures: Images shown of each model at most.

        Returns:
            The page.

        Raises:
            QcamError: If the results cannot be read, or the disk refuses.
            MissingExtraError: If a package is not installed.
        """
        require_packages("the report", *_REPORT)
        from qcam.evaluate.report import ReportOptions
        from qcam.evaluate.report.write import report_on

        return report_on([self._results], Path(path), ReportOptions(colormap=colormap, pictures=pictures))[0]

    def __repr__(self) -> str:
        return f"<StudyResults of {', '.join(self.models)} in {self.folder}>"

    def _repr_html_(self) -> str:
        from qcam.common import html
        from qcam.evaluate.report.finishing import title
        from qcam.evaluate.report.sections import main_section

        section = main_section(self._results.statistics.entries)
        record = self._results.record
        notes = "".join(f"<p>{html.escaped(line)}</p>" for line in [*record.notes, *record.warnings])
        table = html.table(section.headings, filter(None, section.rows))
        return f"<div><b>{html.escaped(title(self._results))}</b>{table}{notes}</div>"


#: Packages that pages, pictures and tests of significance need.
_REPORT = ("jinja2", "matplotlib", "scipy", "statsmodels")


@names_extras("qcam.study")
def study(
    bundles: Bundle | str | Path | Sequence[Bundle | str | Path],
    *,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    label_format: str = "auto",
    limit: int | None = None,
    saliency: str = "u2netp",
    saliency_preset: str | None = None,
    saliency_options: Mapping[str, str] | None = None,
    trust_remote_code: bool = False,
    mask_classes: str | None = None,
    mask_void: str | None = None,
    output: str | Path | None = None,
    force: bool = False,
    precisions: str | Sequence[str] = (),
    provider: str = "CPU",
    allow_fallback: bool = False,
    session_config: Mapping[str, str] | None = None,
    provider_options: Mapping[str, str] | None = None,
    tf32: bool = False,
    target: str = "f32-top1",
    method: str = "gradcam++",
    batch_size: int = 8,
    threads: int | None = None,
    workers: int = 1,
    device: str = "auto",
    fake_quant: bool = True,
    null_row: bool = True,
    faithfulness: bool = False,
    report: bool = True,
    grid_rows: int = 8,
    colormap: str = "inferno",
) -> StudyResults:
    """Evaluate bundles on images: does the quantized model, as deployed, still look at the same place?

    A study that was interrupted goes on where it stopped when it is called again; one that is complete is only read.

    Args:
        bundles: One bundle or several, or paths or URLs of their folders.
        images: Folder of photographs, archives or one photograph, local or behind a URL; None for the demo's.
        labels: CSV file with the columns image and label; None for class folders.
        label_format: How labels are read: auto, index, index1 (indices from 1), name, wnid, or none (no labels).
        limit: Take only the first so many images.
        saliency: Where salient-object maps come from: u2netp, birefnet, onnx:FILE, masks:DIR, spectral or none.
        saliency_preset: How the network of onnx:FILE wants its input.
        saliency_options: What replaces the preset's settings.
        trust_remote_code: Whether a birefnet model's own code may run.
        mask_classes: With masks:DIR, what is the object: any (id but 0), levels, or ids with commas; None: each mask's form
            decides.
        mask_void: With masks:DIR, ids that count neither way, with commas, or none; None: 255 where ids occur below it.
        output: Folder or URL of the results; None for a folder below out/, named after the image set.
        force: Whether results of other settings are replaced.
        precisions: Those to evaluate; empty for all that a bundle holds.
        provider: ONNX Runtime's execution provider. Strict: never silently another one.
        allow_fallback: Whether nodes or sessions on another provider are accepted, and said.
        session_config: ONNX Runtime's session configuration entries.
        provider_options: What the provider is told, as device_id or gpu_mem_limit (docs/gpu.md).
        tf32: Whether a GPU may compute float32 in TF32.
        target: The class that is explained: f32-top1, own-top1, or label.
        method: CAM method: gradcam++, gradcam, or gradcam++-torchcam.
        batch_size: Images at a time.
        threads: Of each worker; None for the cores, shared among the workers.
        workers: Processes; with more than one, the program needs `if __name__ == "__main__":` as for `multiprocessing`.
        device: Where PyTorch computes: auto, cpu or cuda.
        fake_quant: Whether to simulate for comparison.
        null_row: Whether f32 is run twice and compared with itself.
        faithfulness: Whether the deployed model is shown what its CAM leaves of the picture.
        report: Whether to write report.html and figures/.
        grid_rows: Images in each picture grid; 0 for none.
        colormap: Colours of CAMs: inferno, viridis, cividis or jet.

    Returns:
        The results.

    Raises:
        QcamError: If something asked for cannot be had, or results of other settings are in the way.
        MissingExtraError: If a package is not installed.
    """
    require_study_packages("qcam.study", drawn=report or bool(grid_rows))
    from qcam.evaluate.engine.choice import EngineOptions
    from qcam.evaluate.engine.worker import SaliencyRequest
    from qcam.evaluate.report.finishing import Presentation
    from qcam.evaluate.run.options import StudyOptions
    from qcam.evaluate.saliency import default_cache, with_absolute_path
    from qcam.evaluate.study.running import StudyRequest
    from qcam.runtime.bundle import Bundle, ordered_precisions
    from qcam.runtime.deployed import SessionSettings, provider_name

    request = StudyRequest(
        bundles=(bundles,) if isinstance(bundles, (Bundle, str, Path)) else tuple(bundles),
        images=images,
        options=StudyOptions(
            precisions=ordered_precisions(names(precisions, "{precision}")),
            settings=SessionSettings(
                provider=provider_name(provider),
                allow_fallback=allow_fallback,
                config=dict(session_config or {}),
                provider_options=dict(provider_options or {}),
                tf32=tf32,
            ),
            saliency=saliency,
            target=target,
            method=method,
            batch_size=batch_size,
            fake_quant=fake_quant,
            null_row=null_row,
            faithfulness=faithfulness,
        ),
        saliency=SaliencyRequest(
            with_absolute_path(saliency),
            saliency_preset,
            dict(saliency_options or {}),
            trust_remote_code,
            default_cache(),
            mask_classes,
            mask_void,
        ),
        labels=None if labels is None else Path(labels),
        label_format=label_format,
        limit=limit,
        threads=threads,
        device=device,
        engine=EngineOptions(workers=workers),
        output=None if output is None else str(output),
        force=force,
    )
    return run_request(request, Presentation(grid_rows=grid_rows, report=report, colormap=colormap))


def require_study_packages(task: str, *, drawn: bool) -> None:
    """Refuse a study at once that would end after minutes for want of a package.

    Args:
        task: What needs them, for the message.
        drawn: Whether pictures or a report are wanted.

    Raises:
        MissingExtraError: Names the package and how to install it.
    """
    require_packages(task, "onnxruntime", "torch", "scipy", "statsmodels")
    if drawn:
        require_packages(f"{task} (its pictures and report)", *_REPORT)


def run_request(
    request: StudyRequest,
    presentation: Presentation,
    on_results: Callable[[Results], None] = lambda _: None,
    on_end: Callable[[PlannedStudy], None] = lambda _: None,
) -> StudyResults:
    """Run a study, and write tables, pictures and report beside its results.

    Args:
        request: What was asked for.
        presentation: What is made of the results.
        on_results: Called when the figures are there, before pictures are drawn.
        on_end: Called when all is written, before results behind a URL are published.

    Raises:
        QcamError: As from `study`.
    """
    from qcam.evaluate.report.finishing import finish, write_profile
    from qcam.evaluate.study.running import run_study

    def done(study: PlannedStudy, results: Results) -> None:
        finish(results, str(study.place), study.clock, presentation, on_results, study.warnings(results))
        if request.profile:
            write_profile(study.clock, results.folder)
        on_end(study)

    return StudyResults(run_study(request, done))


def load_results(folder: str | Path) -> StudyResults:
    """Read the results that a study left in a folder.

    Args:
        folder: The folder, on this machine. Results behind a URL are read by the same call of `study` again.

    Raises:
        ResultsError: If it holds no results, they are not as they were written, or it is a URL.
    """
    from qcam.common.storage import is_url, open_location, shown
    from qcam.evaluate.results.folder import Results

    if str(folder).lower().startswith("file://"):
        folder = str(open_location(str(folder)))
    if is_url(str(folder)):
        raise ResultsError(
            f"{shown(str(folder))} is a URL; load_results reads a folder of this machine: copy it here, or call {{qcam-eval}} "
            "as for this study again, which reads what is complete"
        )
    return StudyResults(Results(Path(folder)))
