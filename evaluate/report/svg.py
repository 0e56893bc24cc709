"""A matplotlib figure as SVG inside a page: in the page's colours and font, titled for screen readers, nothing to load."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from qcam.common.printable import printable
from qcam.evaluate.showing.canvas import OTHERS, figure_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
#: Colours that charts are drawn in → the page's own, which are others in the dark.
THEMED = {
    "#1b1f24": "var(--ink)",
    "#68707a": "var(--muted)",
    "#e2e5e9": "var(--line)",
    "#6f7780": "var(--f32)",
    "#0072b2": "var(--int16)",
    "#d55e00": "var(--int8)",
    "#8a4f9e": "var(--paper)",
    "#fdfdfc": "var(--page)",
} | {colour: f"var(--other{place})" for place, colour in enumerate(OTHERS, 1)}
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOUR = re.compile("|".join(THEMED), re.IGNORECASE)
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


def inline(figure: Figure, prefix: str, title: str, description: str) -> str:
    """Return a figure as an SVG element to stand in an HTML page.

    Args:
        figure: The figure, drawn in the colours of `THEMED`.
        prefix: Makes its ids those of no other figure of the page.
        title: What it shows.
        description: What can be read from it, for those who cannot see it.
    """
    from matplotlib import rc_context

    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    with rc_context({"svg.fonttype": "none"}):
        root = ElementTree.fromstring(figure_bytes(figure, "svg"))
    _drop(root)
    for element in root.iter():
        _adapt(element, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", id=f"{prefix}-{tag}")
        element.text = printable(text)
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _drop(root: ElementTree.Element) -> None:
    """Remove what says nothing: metadata, and a style sheet that would reach the whole page."""
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)


def _adapt(element: ElementTree.Element, prefix: str) -> None:
    for name, value in list(element.attrib.items()):
        if name == "id":
            element.set(name, f"{prefix}-{value}")
        elif name == f"{{{_XLINK}}}href":
            element.set(name, f"#{prefix}-{value.removeprefix('#')}")
        else:
            themed = _COLOUR.sub(lambda found: THEMED[found[0].lower()], value)
            element.set(
                name, _REFERENCE.sub(rf"url(#{prefix}-\1)", _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", themed))
            )
