"""Charts, as they stand in a page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from qcam.evaluate.report.charts import distribution, overview
from qcam.evaluate.report.runs import Column, Run
from qcam.evaluate.report.svg import inline
from qcam.evaluate.results.folder import Results


def test_a_chart_is_an_svg_of_the_page(ran: Path) -> None:
    run = Run("run", Results(ran))
    column = Column(run, "tiny", "a<b> & $x^2$ of run")
    chart = distribution([column], "vs_f32", "CC")
    assert chart is not None
    assert overview([column]) is not None
    text = inline(chart.figure, "p", "a <title>", chart.description)
    root = ElementTree.fromstring(text)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name is not None and name.startswith("p-") for name in ids)
    for target in re.findall(r"(?:href=\"|url\()#([^\")]+)", text):
        assert target in ids
    assert "a &lt;title&gt;" in text
    assert "a<b> & $x^2$ of run (random weights)" in " ".join(" ".join(root.itertext()).split()).replace("  ", " ")
    assert "var(--int8)" in text
    assert "#d55e00" not in text
    assert "<style" not in text
    assert distribution([column], "fake_quant_vs_deployed", "nothing") is None
