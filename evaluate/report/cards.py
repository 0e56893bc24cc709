"""The picture grid of a page: a card for each image and model, with a view for the photo, the salient object and every CAM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcam.evaluate.maps.metrics import METRICS
from qcam.evaluate.report.choice import ALL, Chosen, choose, coarsest_first
from qcam.evaluate.report.options import ReportOptions
from qcam.evaluate.report.overlays import Sheet, cam_png, palette
from qcam.evaluate.report.runs import Run, trained_together
from qcam.evaluate.results.folder import Picture, Row, StoredMap
from qcam.evaluate.showing.numbers import figure

#: Comparisons whose figures a card can be filtered and sorted by.
SORTED_BY = ("vs_f32", "vs_saliency", "fake_quant_vs_deployed")


@dataclass(frozen=True)
class View:
    """One way to see an image.

    Attributes:
        key: `photo`, `object`, or precision and kind: `int8`, `int8-fake`; with the run where there are several.
        label: As on the button.
        photo: Class of the photograph below; empty for none.
        cover: Class of what lies over it; empty for none.
        opaque: Whether the cover hides the photograph.
        alt: What the picture shows, in words.
        caption: Figures below.
        note: Below the small picture: CC, or a flip.
        flipped: Whether this precision's top-1 class is another one.
        deployed: Whether it is the CAM of a deployed run.
    """

    key: str
    label: str
    photo: str
    cover: str
    opaque: bool
    alt: str
    caption: str
    note: str = ""
    flipped: bool = False
    deployed: bool = False


@dataclass
class Card:
    """One image under one model.

    Attributes:
        image: The image's name.
        model: Model id.
        why: Why it was chosen.
        explained: The explained class by name.
        label: The true class by name; empty where unknown.
        trained: Whether the weights mean something; None where nobody knows.
        ratio: Width by height.
        views: What can be seen.
        flips: Precisions with another top-1 class.
        values: `CC|int8|vs_f32` → figure, of the first run.
        remark: What was chosen when the image was decoded, and what is undefined.
    """

    image: str
    model: str
    why: str
    explained: str
    label: str
    trained: bool | None
    ratio: float
    views: list[View] = field(default_factory=list)
    flips: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    remark: str = ""

    @property
    def start(self) -> int:
        """Return the place of the view that is shown first: the deployed CAM of the last precision in the tables."""
        deployed = [place for place, view in enumerate(self.views) if view.deployed]
        return deployed[-1] if deployed else 0


def make_cards(runs: Sequence[Run], options: ReportOptions, count: int, sheet: Sheet) -> list[Card]:
    """Make the cards of every model, worst images first.

    Args:
        runs: The runs; images are chosen by the first that has the model, and by what differs most between runs.
        options: Colours and seed.
        count: Images of each model at most.
        sheet: Takes the pictures.
    """
    colours = palette(options.colormap)
    cards = []
    for model in dict.fromkeys(model for run in runs for model in run.results.models):
        having = [run for run in runs if model in run.results.models]
        chosen = _chosen(having, model, count, options.seed)
        if chosen:
            parts = [_Part(run, model, [item.image for item in chosen], several=len(runs) > 1) for run in having]
            cards += [card for item in chosen if (card := _card(item, model, parts, colours, sheet)) is not None]
    return cards


def _chosen(runs: Sequence[Run], model: str, count: int, seed: int) -> list[Chosen]:
    """Choose images: half of them by what differs between runs, where there are several."""
    found = choose(runs[0].figures[model], count, seed)
    moved = _moved(runs, model) if len(runs) > 1 else []
    if not moved or (found and found[0].why == ALL):
        return found
    first = [Chosen(image, "runs differ") for image in moved[: count // 2]]
    names = {item.image for item in first}
    return first + [item for item in found if item.image not in names][: count - len(first)]


def _moved(runs: Sequence[Run], model: str) -> list[str]:
    """Return images by how far CC v. f32 of the coarsest precision that runs share differs between them, the farthest first."""
    having = Counter(precision for run in runs for precision, comparison in run.figures[model] if comparison == "vs_f32")
    shared = coarsest_first(name for name, count in having.items() if count > 1 and name != "f32")
    if not shared:
        return []
    columns = [run.figures[model].get((shared[0], "vs_f32")) for run in runs]
    tables = [dict(zip(of["image"], of["CC"], strict=True)) for of in columns if of is not None]
    spans = {}
    for image in tables[0]:
        values = [table[image] for table in tables if image in table and np.isfinite(table[image])]
        if len(values) > 1 and max(values) > min(values):
            spans[image] = max(values) - min(values)
    return sorted(spans, key=lambda image: (-spans[image], image))


class _Part:
    """What one run holds of some images under one model."""

    def __init__(self, run: Run, model: str, images: Sequence[str], *, several: bool) -> None:
        results = run.results
        self.run, self.several = run, several
        self.geometry = run.record.models[model].geometry
        self.precisions = results.precisions(model)
        self.classes = results.classes(model)
        self.pictures = {item.image: item for item in results.pictures(images) if item.geometry == self.geometry}
        self.rows = {(row.image, row.precision, row.comparison): row for row in results.rows(model=model, images=images)}
        self.maps = {(item.image, item.precision, item.kind): item for item in results.maps(model=model, images=images)}

    def name(self, place: int | None) -> str:
        """Return a class by name."""
        if place is None:
            return ""
        return self.classes[place] if 0 <= place < len(self.classes) else str(place)

    def row(self, image: str) -> Row | None:
        """Return any row of an image that was evaluated."""
        found = [row for (name, _, _), row in self.rows.items() if name == image and row.target_class is not None]
        return found[0] if found else None


def _card(item: Chosen, model: str, parts: Sequence[_Part], colours: NDArray[np.uint8], sheet: Sheet) -> Card | None:
    image = item.image
    parts = [part for part in parts if image in part.pictures]
    if not parts:
        return None
    first = parts[0]
    picture, told = first.pictures[image], first.row(image)
    card = Card(
        image, model, item.why, first.name(told.target_class if told else None), first.name(told.label if told else None),
        trained_together(part.run.trained(model) for part in parts), picture.width / max(picture.height, 1),
    )  # fmt: skip
    photo = _photo(sheet, picture)
    card.views.append(View("photo", "photo", photo, "", False, f"{image}: the photo as the network sees it", card.label))
    card.views.append(_object(sheet, first, picture))
    for part in parts[1:]:
        other = part.pictures[image]
        if other.saliency is not None and other.saliency != picture.saliency:
            card.views.append(_object(sheet, part, other))
    for part in parts:
        for kind in ("deployed", "fake_quant"):
            for precision in part.precisions:
                stored = part.maps.get((image, precision, kind))
                # Simulations would double the views of a comparison; float has none that differs.
                if stored is None or (kind == "fake_quant" and (part.several or precision == "f32")):
                    continue
                card.views.append(_cam_view(sheet, part, stored, colours, card))
    rows = [first.rows[key] for key in first.rows if key[0] == image]
    card.values = {
        f"{metric}|{row.precision}|{row.comparison}": round(value, 6)
        for row in rows
        if row.comparison in SORTED_BY
        for metric in METRICS
        if (value := getattr(row, metric)) is not None
    }
    odd = dict.fromkeys(row.status for row in rows if row.status != "ok" and not row.status.startswith("no_reference"))
    card.remark = "; ".join(filter(None, [told.remark if told else "", *odd]))
    return card


def _photo(sheet: Sheet, picture: Picture) -> str:
    # The same bytes from another run are the same picture.
    return sheet.add(picture.photo, lambda: ("image/jpeg", picture.photo))


def _object(sheet: Sheet, part: _Part, picture: Picture) -> View:
    grey = picture.saliency
    label, key = (f"{part.run.name} object", f"object@{part.run.name}") if part.several else ("object", "object")
    if grey is None:
        nothing = "no salient-object map"
        return View(key, label, "", "", True, f"{picture.image}: {nothing}", nothing, "none")
    cover = sheet.add(grey, lambda: ("image/png", grey))
    alt = f"{picture.image}: salient object, white on black"
    return View(key, label, "", cover, True, alt, label.replace("object", "salient object"))


def _cam_view(sheet: Sheet, part: _Part, stored: StoredMap, colours: NDArray[np.uint8], card: Card) -> View:
    image, precision = stored.image, stored.precision
    picture = part.pictures[image]
    fake = stored.kind == "fake_quant"
    key = (part.run.name, stored.model, image, precision, stored.kind)
    cover = sheet.add(key, lambda: ("image/png", cam_png(stored.array, (picture.width, picture.height), colours)))
    label = f"{precision} sim" if fake else precision
    name = f"{precision}-fake" if fake else precision
    if part.several:
        label, name = f"{part.run.name} {precision}", f"{name}@{part.run.name}"
    null = not fake and (precision == "f32" or (image, precision, "vs_itself") in part.rows)
    compared = "fake_quant_vs_deployed" if fake else "vs_itself" if null and precision != "f32" else "vs_f32"
    row = part.rows.get((image, precision, compared))
    against = "deployed" if fake else f"{precision} again" if null else "f32"
    seen = part.rows.get((image, precision, "vs_saliency"))
    told, note, flipped = [f"{label.replace(' sim', ' simulated')} CAM"], "", False
    if row is not None:
        told.append(f"v. {against}: " + _figures(row))
        note = "" if null else figure(row.CC, most=4)
        flipped = row.top1_agrees is False and not fake
    explained = next((of.target_class for of in (row, seen) if of is not None and of.target_class is not None), None)
    if explained is not None and part.name(explained) != card.explained:
        told.append(f"explains {part.name(explained)}")
    if seen is not None and not fake and seen.CC is not None:
        told.append(f"v. object: CC {figure(seen.CC)}")
    if flipped and row is not None:
        told.append(f"top-1 is {part.name(row.top1)}")
        if precision not in card.flips:
            card.flips.append(precision)
    alt = f"{image}: {part.run.record.plan.cam} of {label}"
    if row is not None and row.CC is not None:
        alt += f", CC {figure(row.CC)} v. {against}"
    return View(name, label, _photo(sheet, picture), cover, False, alt, " · ".join(told), note, flipped, not fake)


def _figures(row: Row) -> str:
    if row.CC is None and row.SIM is None:
        return f"undefined ({row.status})"
    return ", ".join(f"{metric} {figure(getattr(row, metric))}" for metric in METRICS)


def facts(cards: Sequence[Card]) -> dict[str, Any]:
    """Return what the page's script filters and sorts by, JSON-ready: one entry per card, in their order."""
    return {"cards": [{"m": card.model, "f": card.flips, "w": card.why, "v": card.values} for card in cards]}
