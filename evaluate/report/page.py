"""report.html: one self-contained file that loads nothing, within its budget of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from qcam.common import machine
from qcam.common.counted import counted
from qcam.common.errors import QcamError
from qcam.common.printable import printable
from qcam.common.vocabulary import PRECISIONS
from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report import html_tables
from qcam.evaluate.report.cards import SORTED_BY, Card, facts, make_cards
from qcam.evaluate.report.choice import RANKING, ranked_by
from qcam.evaluate.report.clipping import ClippingFigure
from qcam.evaluate.report.comparison import image_differences, plan_differences
from qcam.evaluate.report.findings import alarms, between_runs, findings
from qcam.evaluate.report.layout import against, in_order, is_null, row_title
from qcam.evaluate.report.options import ReportOptions
from qcam.evaluate.report.overlays import Sheet, palette
from qcam.evaluate.report.record import record
from qcam.evaluate.report.runs import Column, Run, precisions_of
from qcam.evaluate.report.sections import drift_section
from qcam.evaluate.report.svg import inline
from qcam.evaluate.showing.canvas import Chart

#: Pictures of each model by which the size of the others is told.
_PROBE = 12
#: Pictures that are seen at once.
FIRST_PICTURES = 6


def page(
    runs: Sequence[Run],
    columns: Sequence[Column],
    overview: Chart | None,
    distributions: Sequence[tuple[str, Sequence[Chart]]],
    depth: Sequence[Chart],
    checks: Sequence[dict[str, Any]],
    options: ReportOptions,
    clipping: Sequence[ClippingFigure] = (),
) -> str:
    """Return the page; pictures are left out until it fits into `options.budget`.

    Args:
        runs: The runs.
        columns: Every model of every run.
        overview: Means at a glance.
        distributions: Heading → charts.
        depth: Agreement over depth.
        checks: Verdicts of qcam-check.
        options: Pictures, colours, budget.
        clipping: What quantizers clip, over depth.

    Raises:
        QcamError: If the page does not even fit without a picture.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # names of images, classes and models are not ours
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    template = environment.get_template("report.html")
    context = _context(runs, columns, overview, distributions, depth, checks, options)
    context["clipping"] = [
        {"svg": _inline(each.chart, f"clipping{place}"), "lines": each.lines} for place, each in enumerate(clipping)
    ]

    def render(pictures: int) -> str:
        sheet = Sheet()
        cards = make_cards(runs, options, pictures, sheet) if pictures else []
        return template.render(_with_pictures(context, runs, cards, sheet, options))

    bare = _size(render(0))
    if bare > options.budget:
        raise QcamError(
            f"the report would take {bare / 1e6:.1f} MB without a picture, more than {options.budget / 1e6:.1f} MB; "
            "report fewer runs at once"
        )
    room, wanted = options.budget - bare, options.pictures
    if wanted > _PROBE:
        # A few pictures tell what the others take; those that would not fit are never made.
        each = max(_size(render(_PROBE)) - bare, 1) / _PROBE
        wanted = min(wanted, int(room / each))
    while wanted:
        text = render(wanted)
        if _size(text) <= options.budget:
            return text
        wanted = min(wanted - 1, int(wanted * room / (_size(text) - bare)))
    return render(0)


def _shown(value: Any) -> Any:
    """Return a text of ours as it is, and any other without control characters, which HTML does not know."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _size(text: str) -> int:
    return len(text.encode())


def _context(
    runs: Sequence[Run],
    columns: Sequence[Column],
    overview: Chart | None,
    distributions: Sequence[tuple[str, Sequence[Chart]]],
    depth: Sequence[Chart],
    checks: Sequence[dict[str, Any]],
    options: ReportOptions,
) -> dict[str, Any]:
    """Return everything on the page but its pictures."""
    several = len(runs) > 1
    spans: dict[str, int] = {}
    for column in columns:
        spans[column.model] = spans.get(column.model, 0) + 1
    groups = html_tables.main_table(columns)
    per_image, differing = (image_differences(runs), plan_differences(runs)) if several else ([], [])
    between, same = between_runs(runs, per_image, differing) if several else ([], False)
    context: dict[str, Any] = {
        "title": "qcam: " + " v. ".join(run.name for run in runs),
        "lead": _lead(runs),
        "version": machine.versions().get("qcam", ""),
        "several": several,
        "runs": runs,
        "columns": columns,
        "model_spans": list(spans.items()),
        "alarms": alarms(runs),
        "findings": between + findings([column for column in columns if column.run is runs[0]] if same else columns),
        "overview": _inline(overview, "overview") if overview else "",
        "groups": groups,
        "any_published": any(cell.published for group in groups for row in group.rows for cell in row.cells),
        "remarks": html_tables.paper_remarks(columns),
        "statuses": html_tables.status_table(runs),
        "distributions": [
            (head, [{"title": chart.title, "svg": _inline(chart, f"d{place}-{index}")} for index, chart in enumerate(charts)])
            for place, (head, charts) in enumerate(distributions)
        ],
        "metrics": METRICS,
        "drift": [(run.name, section) for run in runs if (section := drift_section(run.summary)) is not None],
        "flips": html_tables.flip_table(runs),
        "tests": html_tables.paired_table(runs),
        "interval": _interval(runs[0]),
        "depth": [{"svg": _inline(chart, f"depth{place}")} for place, chart in enumerate(depth)],
        "checks": checks,
        "placement": html_tables.placement_table(runs),
        "records": [{"name": run.name, "notes": list(run.record.notes), "sections": record(run)} for run in runs],
        "colormap": options.colormap,
        "ramp": Markup(",".join("rgb({},{},{})".format(*colour) for colour in palette(options.colormap)[::9].tolist())),
        "differences": differing,
        "per_image": per_image,
    }
    return context


def _with_pictures(
    base: dict[str, Any], runs: Sequence[Run], cards: Sequence[Card], sheet: Sheet, options: ReportOptions
) -> dict[str, Any]:
    """Return everything on the page."""
    keys = {key: None for card in cards for key in card.values}
    precisions = precisions_of(base["columns"])
    metrics = [
        (key, f"{metric} {row_title(comparison, precision)}")
        for comparison in SORTED_BY
        for metric in ("CC", "SIM", "KLD")
        for precision in reversed(precisions)
        if (key := f"{metric}|{precision}|{comparison}") in keys and not is_null(comparison, precision)
    ]
    views = {view.key: view.label for card in cards for view in card.views}
    found: dict[str, Any] = {
        "cards": cards,
        "sheet": Markup(sheet.text),  # ours: class names and base64
        "facts": facts(cards),
        "first_pictures": FIRST_PICTURES,
        "most_views": max((len(card.views) for card in cards), default=1),
        "card_models": list(dict.fromkeys(card.model for card in cards)),
        "card_metrics": metrics,
        "card_views": list(views.items()),
        "flip_precisions": [name for name in precisions if any(name in card.flips for card in cards)],
        "whys": list(dict.fromkeys(card.why for card in cards)),
        "chosen": _chosen(runs, cards, options),
        "cams": " or ".join(dict.fromkeys(run.record.plan.cam for run in runs)),
    }
    return base | found | {"sections": _sections(base | found)}


def _chosen(runs: Sequence[Run], cards: Sequence[Card], options: ReportOptions) -> str:
    """Say how the pictures were chosen."""
    if all(card.why == "all" for card in cards):
        return "Every image, under every model, worst first."
    per_model = max((sum(card.model == model for card in cards) for model in {card.model for card in cards}), default=0)
    total = len(runs[0].results.images)
    kinds = "half of them the worst, a quarter the best, the rest drawn at random"
    if any(card.why == "runs differ" for card in cards):
        kinds = "half of them where the runs differ most; of the rest, the worst, the best, and some drawn at random"
    return (
        f"{counted(per_model, 'image')} of {total:,} for each model: {kinds} (seed {options.seed}). "
        f"Ranked by {_ranking(runs)}; all others are in the result folder."
    )


def _ranking(runs: Sequence[Run]) -> str:
    """Say what ranked the images of the models."""
    found = [of for run in runs for figures in run.figures.values() if (of := ranked_by(figures)) is not None]
    own = ", ".join(name for name in in_order(name for name, _ in found) if name not in PRECISIONS)
    also = f" ({own} where there is neither int8 nor int16)" if own else ""
    by = {comparison for _, comparison in found}
    first, *others = [comparison for comparison in RANKING if comparison in by] or RANKING[:1]
    without = " or ".join(against(comparison) for comparison in others)
    told = f"CC {against(first)} of the coarsest precision{also}"
    return f"{told}, where there is none by CC {without}" if without else told


def _sections(context: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the sections that the page has, with their names."""
    every = [
        ("summary", "In short", True), ("runs", "Differences", context["several"]), ("pictures", "Pictures", context["cards"]),
        ("drift", "Drift", context["drift"]), ("table", "Table", True),
        ("distributions", "Distributions", context["distributions"]), ("flips", "Class flips", context["flips"]),
        ("tests", "Tests", context["tests"]), ("depth", "Depth", context["checks"]),
        ("clipping", "Clipping", context["clipping"]),
        ("placement", "Placement", context["placement"]), ("record", "What was run", True),
    ]  # fmt: skip
    return [(key, name) for key, name, there in every if there]


def _lead(runs: Sequence[Run]) -> str:
    """Say in one sentence what was run."""
    if len(runs) == 1:
        run = runs[0]
        models = len(run.results.models)
        precisions = list(dict.fromkeys(p for model in run.results.models for p in run.results.precisions(model)))
        architecture = run.record.machine.get("architecture")
        where = f" on {architecture}" if architecture else ""
        with_f32 = "f32" in precisions
        return (
            f"{counted(models, 'model')} in {', '.join(precisions)}; {counted(len(run.results.images), 'image')}; "
            f"{run.provider}{where}. "
            f"{run.record.plan.cam} of every precision against {'float and against ' if with_f32 else ''}the salient object."
        )
    said = "; ".join(
        f"{run.name}: {counted(len(run.results.models), 'model')}, {counted(len(run.results.images), 'image')}, {run.provider}"
        for run in runs
    )
    return f"{len(runs)} runs side by side. {said}."


def _interval(run: Run) -> str:
    told = run.summary.interval
    return f"Intervals: {told}." if told else ""


def _inline(chart: Chart, prefix: str) -> Markup:
    return Markup(inline(chart.figure, prefix, chart.title, chart.description))  # escaped by the XML writer


def distribution_heading(comparison: str) -> str:
    """Return the heading above the charts of a comparison."""
    return {"on_model": "What the CAM shows, shown to the model"}.get(comparison, f"CAMs {against(comparison)}")
