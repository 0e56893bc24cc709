"""Colours of precisions."""

from __future__ import annotations

from pathlib import Path

from qcam.evaluate import report
from qcam.evaluate.report.svg import THEMED
from qcam.evaluate.showing.canvas import OTHERS, colours_of

#: qcam's own, which other names must not take.
OWN = {"f32": "#6f7780", "int16": "#0072b2", "int8": "#d55e00"}


def test_names_of_their_own_take_turns_in_the_order_of_every_table() -> None:
    found = colours_of(["vendor", "int8", "a8", "f32", "int16"])
    assert found == OWN | {"a8": OTHERS[0], "vendor": OTHERS[1]}
    assert colours_of(["a8", "vendor", "int8"]) == {name: found[name] for name in ("int8", "a8", "vendor")}
    many = colours_of([f"p{place}" for place in range(len(OTHERS) + 1)])
    assert len(set(many.values())) == len(OTHERS)
    assert many["p0"] == many[f"p{len(OTHERS)}"]
    assert set(OTHERS).isdisjoint(OWN.values())


def test_every_colour_has_one_of_the_page_s_own_in_light_and_in_the_dark() -> None:
    style = (Path(report.__file__).parent / "templates" / "report.css").read_text()
    for colour in OTHERS:
        name = THEMED[colour].removeprefix("var(").removesuffix(")")
        assert style.count(f"{name}:#") == 2
