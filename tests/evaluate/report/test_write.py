"""The page as a file: self-contained, escaped, whole, within its budget; tables and figures beside it; several runs."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from qcam.common.errors import QcamError
from qcam.evaluate.report import BUDGET, ReportOptions
from qcam.evaluate.report.write import write_report
from qcam.evaluate.results.folder import Results, write_run


class Page(HTMLParser):
    """What a page refers to, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.addresses: list[str] = []
        self.cards = 0
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        values = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        self.cards += tag == "article" and "card" in (values.get("class") or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_loads_nothing_and_runs_nothing_that_is_not_its_own(results: Results, tmp_path: Path) -> None:
    written = write_report([results], tmp_path)
    text = written[0].read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("#", "data:")) for address in page.addresses), page.addresses
    assert not re.search(r"url\((?!#|[\"']?data:)", text)
    assert "default-src 'none'" in text
    assert page.scripts == 3  # a line before, the facts, the page's own
    assert "<script>alert(1)" not in text
    assert any("<script>alert(1)<\u2044script>&'\".jpg" in word for word in page.words)
    assert any("a<b>&c" in word for word in page.words)


def test_the_page_has_every_section_of_a_run(results: Results, tmp_path: Path) -> None:
    text = " ".join(Page(write_report([results], tmp_path)[0].read_text(encoding="utf-8")).words)
    for words in (
        "The table", "f32 again v. f32", "the null row", "Distributions", "Pictures", "Class flips", "Paired tests",
        "Where it ran", "QLinearConv", "What was run", "Random weights", "refused", "spectral", "onnxruntime",
    ):  # fmt: skip
        assert words in text, words
    assert "Drift by depth" not in text  # no check was given


def test_every_image_and_model_has_its_card(results: Results, tmp_path: Path) -> None:
    text = write_report([results], tmp_path)[0].read_text(encoding="utf-8")
    assert Page(text).cards == 2 * 7  # models × images that could be decoded
    few = write_report([results], tmp_path / "few", ReportOptions(pictures=2))[0].read_text(encoding="utf-8")
    assert Page(few).cards == 2 * 2


def test_tables_and_figures_lie_beside_the_page(results: Results, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("stays")
    written = {path.relative_to(tmp_path).as_posix() for path in write_report([results], tmp_path)}
    assert {"report.html", "table.csv", "table.tex", "figures/overview.png", "figures/overview.svg"} <= written
    with Image.open(tmp_path / "figures" / "grid-tiny.png") as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    with (tmp_path / "table.csv").open(newline="") as stream:
        assert {line["model"] for line in csv.DictReader(stream)} == {"tiny", "a<b>&c"}
    assert "<svg" in (tmp_path / "figures" / "overview.svg").read_text()
    assert (tmp_path / "mine.txt").exists()


def test_a_report_is_the_same_every_time(results: Results, tmp_path: Path) -> None:
    first, second = (write_report([results], tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


@pytest.mark.slow
@pytest.mark.long
def test_ten_thousand_images_of_six_models_stay_within_the_budget(large: Path, tmp_path: Path) -> None:
    page = write_report([Results(large)], tmp_path)[0]
    assert 2_000_000 < page.stat().st_size <= BUDGET == 15_000_000
    whole = Page(page.read_text(encoding="utf-8"))
    assert whole.cards == 6 * 24
    small = write_report([Results(large)], tmp_path / "small", ReportOptions(budget=2_000_000))[0]
    assert small.stat().st_size <= 2_000_000
    assert 6 <= Page(small.read_text(encoding="utf-8")).cards < 6 * 24  # fewer pictures, and all else
    everything = write_report([Results(large)], tmp_path / "many", ReportOptions(pictures=500))[0]
    assert everything.stat().st_size <= BUDGET


def test_a_page_that_cannot_fit_is_refused(results: Results, tmp_path: Path) -> None:
    with pytest.raises(QcamError, match=r"without a picture, more than 0\.1 MB"):
        write_report([results], tmp_path, ReportOptions(budget=100_000))
    assert not (tmp_path / "report.html").exists()


@pytest.fixture
def other(ran: Path, tmp_path: Path) -> Path:
    """The run again, as if with another calibration and another provider."""
    folder = shutil.copytree(ran, tmp_path / "other")
    run = json.loads((folder / "run.json").read_text())
    run["plan"]["bundles"]["tiny"] = "f" * 64
    run["provider"] = run["plan"]["options"]["settings"]["provider"] = "OpenVINO"
    write_run(folder / "run.json", run)
    return folder


def test_several_runs_stand_side_by_side_and_what_differs_is_named(results: Results, other: Path, tmp_path: Path) -> None:
    options = ReportOptions(names=("here", "there"))
    page = write_report([results, Results(other)], tmp_path / "both", options)[0]
    text = " ".join(Page(page.read_text(encoding="utf-8")).words)
    assert "What differs between the runs" in text
    assert "bundles.tiny" in text
    assert "OpenVINO" in text
    assert "Image by image, against here" in text
    with (tmp_path / "both" / "table.csv").open(newline="") as stream:
        assert {line["run"] for line in csv.DictReader(stream)} == {"here", "there"}


def test_an_unfinished_run_is_said_loudly(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "part")
    run = json.loads((folder / "run.json").read_text())
    write_run(folder / "run.json", run | {"complete": False})
    text = write_report([Results(folder)], tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "Not complete" in text


def test_names_and_colours_that_do_not_fit_are_refused(results: Results, other: Path, tmp_path: Path) -> None:
    with pytest.raises(QcamError, match="gives 1 names for 2 runs"):
        write_report([results, Results(other)], tmp_path, ReportOptions(names=("a",)))
    with pytest.raises(QcamError, match="given twice"):
        write_report([results, results], tmp_path)
    with pytest.raises(QcamError, match="colour map 'rainbow' is unknown"):
        write_report([results], tmp_path, ReportOptions(colormap="rainbow"))
    assert not (tmp_path / "report.html").exists()
