"""`qcam.study`, and its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcam.common.arguments import known, texts
from qcam.common.arguments import names as as_names
from qcam.common.errors import QcamError, ResultsError
from qcam.common.extras import names_extras, require_packages

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from qcam.evaluate.gates.judging import StudyVerdict
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
        stored: The folder's reader, which tables and reports are made of.
        place: Where they are, as it was asked for: a folder, or a URL.
        profile: Where the time went, in lines; empty unless `study` was asked for it.
        verdict: What its gates say together, `.verdict`, `.reason`, `.gates`; None where none were asked for.
    """

    def __init__(
        self, results: Results, place: str = "", profile: Sequence[str] = (), verdict: StudyVerdict | None = None
    ) -> None:
        """Wrap a result folder that has been read."""
        self.stored = results
        self.folder: Path = results.folder
        self.place = place or str(results.folder)
        self.profile = list(profile)
        self.verdict = verdict
        self.summary: dict[str, Any] = results.summary
        self.run: dict[str, Any] = results.run

    @property
    def models(self) -> list[str]:
        """Return the model ids, in the order of the tables."""
        return self.stored.models

    def to_arrow(self) -> pyarrow.Table:
        """Return every figure: one row for each image × model × precision × comparison (docs/results.md)."""
        from qcam.evaluate.results.folder import RESULTS

        return self.stored.read(RESULTS)

    def references(self) -> pyarrow.Table:
        """Return the reference rows, in the columns of `to_arrow`: what its figures are held against (docs/results.md).

        Empty where none were made, as in results of earlier versions.
        """
        from qcam.evaluate.results.folder import REFERENCES, ROW_SCHEMA

        return self.stored.read(REFERENCES) if self.stored.has_references else ROW_SCHEMA.empty_table()

    def judge(self, gates: str | Sequence[str] = (), *, presets: str | Sequence[str] = ()) -> StudyVerdict:
        """Hold the results against gates; nothing is written (docs/gates.md).

        Args:
            gates: As "int8.cc=0.98" or "int8.drift<jpeg95".
            presets: Gates that go by a name: maps, mlperf.

        Returns:
            The verdict.

        Raises:
            QcamError: If there is none, one is no gate, or these results can never decide it.
        """
        from qcam.evaluate.gates.asked import read_gates, refuse_impossible
        from qcam.evaluate.gates.judging import judge

        asked = read_gates(as_names(gates, "{fail_under}"), as_names(presets, "{gate}"))
        if not asked:
            raise QcamError("no gate is asked for; give {fail_under} or {gate}")
        run = {model: {precision for precision, _ in self.stored.columns(model)} for model in self.models}
        deployed = self.stored.record.plan.options.get("protocol") != "paper"
        refuse_impossible(asked, run, references=self.stored.has_references, deployed=deployed)
        return judge(self.stored, asked)

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
            known(as_names(model, "model"), self.models, "model", str(self.folder))
        chosen = None if images is None else as_names(images, "images")
        if chosen is not None:
            known(chosen, self.stored.images, "image", str(self.folder))
        return self.stored.maps(model=model, images=chosen)

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
        return report(self, path, colormap=colormap, pictures=pictures)[0]

    def __repr__(self) -> str:
        return f"<StudyResults of {', '.join(self.models)} in {self.folder}>"

    def _repr_html_(self) -> str:
        from qcam.common import html
        from qcam.evaluate.report.finishing import title
        from qcam.evaluate.report.sections import main_section

        section = main_section(self.stored.statistics.entries)
        record = self.stored.record
        notes = "".join(f"<p>{html.escaped(line)}</p>" for line in [*record.notes, *record.warnings])
        table = html.table(section.headings, filter(None, section.rows))
        return f"<div><b>{html.escaped(title(self.stored))}</b>{table}{notes}</div>"


#: What needs packages: `qcam.study` from Python, `qcam-eval` in a shell.
_STUDY = "{qcam-eval}"
#: Packages that pages, pictures and tests of significance need.
_REPORT = ("jinja2", "matplotlib", "scipy", "statsmodels")


@names_extras(_STUDY)
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
    saliency_cache: str | Path | None = None,
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
    target: str | None = None,
    method: str = "gradcam++",
    batch_size: int = 8,
    threads: int | None = None,
    io_binding: bool | None = None,
    engine: str = "local",
    workers: int | None = 1,
    ray_address: str | None = None,
    gpus_per_worker: float = 0.0,
    requirements: Sequence[str] = (),
    patience: float | None = None,
    device: str = "auto",
    fake_quant: bool = True,
    null_row: bool = True,
    references: str = "fast",
    non_inferior_to: str = "jpeg95",
    faithfulness: bool = False,
    protocol: str = "deployed",
    paper_fixes: str | Sequence[str] = (),
    paper_weights: Mapping[str, str] | None = None,
    report: bool = True,
    grid_rows: int = 8,
    colormap: str = "inferno",
    profile: bool = False,
    gates: str | Sequence[str] = (),
    presets: str | Sequence[str] = (),
    on_results: Callable[[StudyResults], None] | None = None,
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
        saliency_cache: Folder where maps are kept for other runs, or none; None for the user's cache folder.
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
        target: The class that is explained: f32-top1, own-top1, or label; None for f32-top1, and for own-top1 of a bundle that
            holds no f32, which is told. f32-top1 by name is refused there.
        method: CAM method: gradcam++, gradcam++-relu, gradcam, gradcam++-torchcam, hirescam, layercam, eigencam, ablation,
            occlusion, or rise (docs/results.md).
        batch_size: Images at a time.
        threads: Of each worker; None for the cores, shared among the workers.
        io_binding: Whether inputs and outputs are bound to device memory; None: on GPUs only.
        engine: Who evaluates: local (processes of this machine) or ray (a cluster). Figures are the same.
        workers: Processes, which do not run the caller's script anew. None:
            chosen by the number of images and of cores, as qcam-eval does; on Ray as many as the cluster has room for.
        ray_address: The Ray cluster, auto or HOST:PORT; None for RAY_ADDRESS, else one of its own.
        gpus_per_worker: GPUs of each Ray worker, or the part of one that it has.
        requirements: What workers must be, each KEY=VALUE: kernel=vnni, feature=avx512_vnni, gpu=T4.
        patience: Seconds without a finished shard after which a worker counts as hung; None for what its shards suggest.
        device: Where PyTorch computes: auto, cpu or cuda.
        fake_quant: Whether to simulate for comparison.
        null_row: Whether f32, or the first precision of a bundle without it, is run twice and compared with itself.
        references: Of which images there are reference rows, a scale for the figures: fast (the first 64), all or none.
        non_inferior_to: The reference row that drift is tested against: jpeg95, one_level, jpeg75, one_pixel or floor.
        faithfulness: Whether the deployed model is shown what its CAM leaves of the picture.
        protocol: deployed, or paper: what the authors' code ran, in PyTorch, slip by slip (docs/paper.md).
        paper_fixes: With protocol paper, slips to switch off.
        paper_weights: With protocol paper, model → the weights file that its bundle was exported from.
        report: Whether to write report.html and figures/.
        grid_rows: Images in each picture grid; 0 for none.
        colormap: Colours of CAMs: inferno, viridis, cividis or jet.
        profile: Whether to measure where the time goes, and to write profile.json for ui.perfetto.dev.
        gates: What quantization may do to maps and classes at most, as "int8.cc=0.98" or "int8.drift<jpeg95"; the verdict is
            `.verdict` of what is returned, and one other than `holds` raises nothing (docs/gates.md).
        presets: Gates that go by a name: maps, mlperf.
        on_results: Called when the figures are there, before pictures are drawn and results behind a URL are published.

    Returns:
        The results.

    Raises:
        QcamError: If something asked for cannot be had, or results of other settings are in the way.
        MissingExtraError: If a package is not installed.
    """
    # With another provider than the CPU sessions come first: one that cannot be had is told before what its run would need.
    if protocol == "paper" or str(provider).upper() == "CPU":
        require_study_packages(drawn=report or bool(grid_rows))
    from qcam.evaluate.report.finishing import Presentation

    request = study_request(
        bundles,
        images=images,
        labels=labels,
        label_format=label_format,
        limit=limit,
        saliency=saliency,
        saliency_preset=saliency_preset,
        saliency_options=saliency_options,
        saliency_cache=saliency_cache,
        trust_remote_code=trust_remote_code,
        mask_classes=mask_classes,
        mask_void=mask_void,
        output=output,
        force=force,
        precisions=precisions,
        provider=provider,
        allow_fallback=allow_fallback,
        session_config=session_config,
        provider_options=provider_options,
        tf32=tf32,
        io_binding=io_binding,
        target=target,
        method=method,
        batch_size=batch_size,
        threads=threads,
        engine=engine,
        workers=workers,
        ray_address=ray_address,
        gpus_per_worker=gpus_per_worker,
        requirements=requirements,
        patience=patience,
        device=device,
        fake_quant=fake_quant,
        null_row=null_row,
        references=references,
        non_inferior_to=non_inferior_to,
        faithfulness=faithfulness,
        protocol=protocol,
        paper_fixes=paper_fixes,
        paper_weights=paper_weights,
        profile=profile,
        gates=gates,
        presets=presets,
    )
    return _run(request, Presentation(grid_rows=grid_rows, report=report, colormap=colormap), on_results)


def study_request(
    bundles: Bundle | str | Path | Sequence[Bundle | str | Path],
    *,
    images: str | Path | None,
    labels: str | Path | None,
    label_format: str,
    limit: int | None,
    saliency: str,
    saliency_preset: str | None,
    saliency_options: Mapping[str, str] | None,
    saliency_cache: str | Path | None,
    trust_remote_code: bool,
    mask_classes: str | None,
    mask_void: str | None,
    output: str | Path | None,
    force: bool,
    precisions: str | Sequence[str],
    provider: str,
    allow_fallback: bool,
    session_config: Mapping[str, str] | None,
    provider_options: Mapping[str, str] | None,
    tf32: bool,
    io_binding: bool | None,
    target: str | None,
    method: str,
    batch_size: int,
    threads: int | None,
    engine: str,
    workers: int | None,
    ray_address: str | None,
    gpus_per_worker: float,
    requirements: Sequence[str],
    patience: float | None,
    device: str,
    fake_quant: bool,
    null_row: bool,
    references: str,
    non_inferior_to: str,
    faithfulness: bool,
    protocol: str,
    paper_fixes: str | Sequence[str],
    paper_weights: Mapping[str, str] | None,
    profile: bool,
    gates: str | Sequence[str] = (),
    presets: str | Sequence[str] = (),
) -> StudyRequest:
    """Return what `study` was asked for as one record; arguments and errors as there."""
    from qcam.common.vocabulary import Target
    from qcam.evaluate.engine.choice import EngineOptions
    from qcam.evaluate.engine.worker import SaliencyRequest
    from qcam.evaluate.gates.asked import read_gates
    from qcam.evaluate.run.options import StudyOptions
    from qcam.evaluate.saliency import default_cache, with_absolute_path
    from qcam.evaluate.study.running import StudyRequest
    from qcam.runtime.bundle import Bundle, ordered_precisions
    from qcam.runtime.deployed import SessionSettings, provider_name

    cache = default_cache() if saliency_cache is None else None
    if saliency_cache is not None and str(saliency_cache) != "none":
        cache = Path(saliency_cache).absolute()
    return StudyRequest(
        bundles=(bundles,) if isinstance(bundles, (Bundle, str, Path)) else tuple(bundles),
        images=images,
        options=StudyOptions(
            precisions=ordered_precisions(as_names(precisions, "{precision}")),
            settings=SessionSettings(
                provider=provider_name(provider),
                allow_fallback=allow_fallback,
                io_binding=io_binding,
                config=texts(session_config, "{session_config}"),
                provider_options=texts(provider_options, "{provider_option}"),
                tf32=tf32,
            ),
            saliency=saliency,
            target=Target.F32_TOP1.value if target is None else target,
            method=method,
            batch_size=batch_size,
            fake_quant=fake_quant and protocol != "paper",
            null_row=null_row,
            references=references if protocol != "paper" else "none",
            non_inferior_to=non_inferior_to,
            faithfulness=faithfulness,
            protocol=protocol,
            fixes=tuple(sorted(as_names(paper_fixes, "{paper_fix}"))),
        ),
        saliency=SaliencyRequest(
            with_absolute_path(saliency),
            saliency_preset,
            dict(saliency_options or {}),
            trust_remote_code,
            cache,
            mask_classes,
            mask_void,
        ),
        labels=None if labels is None else Path(labels),
        label_format=label_format,
        limit=limit,
        threads=threads,
        device=device,
        engine=EngineOptions(
            engine,
            workers,
            ray_address,
            gpus_per_worker,
            tuple(_key_value(item) for item in requirements),
            patience,
        ),
        paper_weights=dict(paper_weights or {}),
        output=None if output is None else str(output),
        force=force,
        profile=profile,
        gates=read_gates(as_names(gates, "{fail_under}"), as_names(presets, "{gate}")),
        target_named=target is not None,
    )


def _key_value(text: str) -> tuple[str, str]:
    """Return both sides of KEY=VALUE.

    Raises:
        QcamError: If there are not two.
    """
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise QcamError(f"{{require}} {text!r}: give KEY=VALUE")
    return key, value


@names_extras("{qcam-report}")
def report(
    results: StudyResults | str | Path | Sequence[StudyResults | str | Path],
    path: str | Path,
    *,
    names: str | Sequence[str] = (),
    checks: str | Path | Sequence[str | Path] = (),
    colormap: str = "inferno",
    pictures: int = 24,
) -> list[Path]:
    """Write report.html, table.csv, table.tex and figures/ of one study, or of several side by side.

    Args:
        results: Results, or the folders of results; the first is what the others are held against.
        path: Folder to write into; an earlier report there is replaced, other files stay.
        names: What the studies are called, in their order; empty for the names of their folders.
        checks: Folders of qcam-check whose verdicts belong to these studies.
        colormap: Colours of CAMs: inferno, viridis, cividis or jet.
        pictures: Images shown of each model at most.

    Returns:
        The files that were written, the page first.

    Raises:
        QcamError: If results or a check cannot be read, names do not fit, or the disk refuses.
        MissingExtraError: If a package is not installed.
    """
    require_packages("{qcam-report}", *_REPORT)
    from qcam.evaluate.report import ReportOptions
    from qcam.evaluate.report.write import report_on
    from qcam.evaluate.results.folder import Results

    given = [results] if isinstance(results, (StudyResults, str, Path)) else list(results)
    stored = [item.stored if isinstance(item, StudyResults) else Results(Path(item)) for item in given]
    found = (checks,) if isinstance(checks, (str, Path)) else checks
    options = ReportOptions(
        colormap=colormap,
        pictures=pictures,
        names=as_names(names, "{names}"),
        checks=tuple(Path(check) for check in found),
    )
    return report_on(stored, Path(path), options)


def require_study_packages(*, drawn: bool) -> None:
    """Refuse a study at once that would end after minutes for want of a package.

    Args:
        drawn: Whether pictures or a report are wanted.

    Raises:
        MissingExtraError: Names the package and how to install it.
    """
    require_packages(_STUDY, "onnxruntime", "torch", "scipy", "statsmodels")
    if drawn:
        require_packages(f"{_STUDY} (its pictures and report)", *_REPORT)


def _run(request: StudyRequest, presentation: Presentation, on_results: Callable[[StudyResults], None] | None) -> StudyResults:
    """Run a study, and write tables, pictures and report beside its results; arguments and errors as of `study`."""
    from qcam.evaluate.gates.judging import judge
    from qcam.evaluate.report.finishing import finish, write_profile
    from qcam.evaluate.report.verdict import write_verdict
    from qcam.evaluate.run.stages import describe
    from qcam.evaluate.study.running import run_study

    place, profile = "", list[str]()
    verdict: StudyVerdict | None = None

    def done(study: PlannedStudy, results: Results) -> None:
        nonlocal place, profile, verdict
        place = str(study.place)

        def tell(found: Results) -> None:
            if on_results is not None:
                on_results(StudyResults(found, place))

        finish(results, place, study.clock, presentation, tell, study.warnings(results))
        if request.gates:
            verdict = judge(results, request.gates)
            write_verdict(results, verdict)
        else:
            study.place.forget_verdicts()
        if request.profile:
            write_profile(study.clock, results.folder)
            profile = describe(study.clock.spans, study.clock.elapsed)

    results = run_study(request, done)
    return StudyResults(results, place, profile, verdict)


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
