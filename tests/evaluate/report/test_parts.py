"""The parts of a report, against figures worked out by hand."""

from __future__ import annotations

import doctest
import io
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from matplotlib import colormaps
from PIL import Image
from studies import reseal

from qcam.evaluate.maps.cam import normalise, upsample
from qcam.evaluate.report import numbers
from qcam.evaluate.report.charts import distribution, overview
from qcam.evaluate.report.choice import choose
from qcam.evaluate.report.comparison import image_differences, plan_differences
from qcam.evaluate.report.findings import alarms, between_runs, findings
from qcam.evaluate.report.grid import draw_grid, write_grids
from qcam.evaluate.report.overlays import Sheet, cam_png, palette
from qcam.evaluate.report.runs import Column, Run, name_runs
from qcam.evaluate.report.svg import inline
from qcam.evaluate.report.tables import flip_table, main_table, paired_table
from qcam.evaluate.results.folder import MAPS, RESULTS, Results


def test_figures_are_written_as_their_examples_say() -> None:
    tried = doctest.testmod(numbers)
    assert tried.attempted == 7
    assert tried.failed == 0


def ranked(values: dict[str, float], refused: tuple[str, ...] = ()) -> dict[tuple[str, str], dict[str, Any]]:
    names = list(values)
    top1 = np.array([np.nan if name in refused else 1.0 for name in names])
    return {("int8", "vs_f32"): {"image": np.array(names, object), "CC": np.array(list(values.values())), "top1": top1}}


def test_half_are_the_worst_a_quarter_the_best_and_the_rest_random() -> None:
    values = {f"i{place:02d}": place / 20 for place in range(20)}
    found = choose(ranked(values), 8, seed=1)
    by_why = {why: [item.image for item in found if item.why == why] for why in ("worst", "best", "random")}
    assert by_why["worst"] == ["i00", "i01", "i02", "i03"]
    assert by_why["best"] == ["i18", "i19"]
    assert len(by_why["random"]) == 2
    assert [item.image for item in found] == sorted(item.image for item in found)  # worst first
    assert found == choose(ranked(values), 8, seed=1)
    assert {tuple(choose(ranked(values), 8, seed=seed)) for seed in range(20)} != {tuple(found)}


def test_an_undefined_figure_is_the_worst_and_a_refused_image_is_not_shown() -> None:
    found = choose(ranked({"a": 0.5, "b": np.nan, "c": 0.1, "d": np.nan}, refused=("d",)), 10)
    assert [item.image for item in found] == ["b", "c", "a"]
    assert {item.why for item in found} == {"all"}
    assert choose({}, 10) == []


def test_a_map_in_a_page_has_the_colours_of_its_values() -> None:
    cam = np.array([[0.0, 1.0], [3.0, 4.0]])
    with Image.open(io.BytesIO(cam_png(cam, (200, 100), palette("viridis")))) as image:
        assert image.size == (56, 28)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = np.asarray(colormaps["viridis"](normalise(upsample(cam[None], (28, 56)))[0]))[..., :3] * 255
    assert np.abs(pixels - wanted).max() <= 4  # 128 levels
    assert pixels[0, 0].tolist() == [68, 1, 84]  # viridis' ends
    assert pixels[-1, -1].tolist() == [253, 231, 37]


def test_a_map_that_is_constant_or_no_number_is_drawn_as_the_lowest_colour() -> None:
    for cam in (np.full((2, 2), 3.0), np.array([[np.nan, np.inf], [0.0, 0.0]])):
        with Image.open(io.BytesIO(cam_png(cam, (10, 10), palette("inferno")))) as image:
            assert np.unique(np.asarray(image)).tolist() == [0]


def test_a_picture_is_embedded_once() -> None:
    sheet = Sheet()
    made = []

    def make() -> tuple[str, bytes]:
        made.append(1)
        return "image/png", b"abc"

    assert sheet.add("one", make) == sheet.add("one", make) != sheet.add("two", make)
    assert len(made) == 2
    assert sheet.text.count("data:image/png;base64,YWJj") == 2


# Runs made of figures alone.


def run_of(entries: list[dict[str, Any]], *, trained: bool = True, **further: Any) -> Run:
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    facts = {"weights": {"trained": trained}, "precisions": {}}
    told = {"complete": True, "models": dict.fromkeys(models, facts), "warnings": [], **further.pop("run", {})}
    return Run("run", SimpleNamespace(run=told, summary={"entries": entries, **further}, models=models, folder=Path()))  # type: ignore[arg-type]


def entry(precision: str, mean: float | None, **further: Any) -> dict[str, Any]:
    return {
        "model": "mobilenet_v2", "precision": precision, "comparison": "vs_f32", "metric": "CC", "mean": mean, "std": 0.1,
        "low": 0.9, "high": 0.95, "n": 20, "undefined": 0,
    } | further  # fmt: skip


def test_a_cell_has_its_interval_count_and_what_was_published() -> None:
    run = run_of([entry("int16", 0.93, undefined=2), entry("int16", 0.4, comparison="vs_saliency", metric="SIM")])
    quantized, salient = main_table([Column(run, "mobilenet_v2", "mobilenet_v2")])
    (cell,) = quantized.rows[0].cells
    assert (cell.text, cell.interval, cell.n, cell.undefined) == ("0.930 ± 0.100", "0.900 to 0.950", "n 20", 2)
    assert cell.published == "0.83 ± 0.10 (+0.10)"
    assert salient.rows[0].cells[0].published == "0.68 ± 0.34 (not compared)"


def test_random_weights_are_not_held_against_the_paper() -> None:
    run = run_of([entry("int16", 0.93)], trained=False)
    column = Column(run, "mobilenet_v2", "mobilenet_v2")
    assert main_table([column])[0].rows[0].cells[0].published == "0.83 ± 0.10"
    assert "Random weights" in dict(alarms([run]))


def test_a_null_row_that_is_not_1_is_marked_and_said() -> None:
    for mean, odd, words in ((1.0, False, "exactly 1"), (0.758, True, "mean CC down to 0.758")):
        run = run_of([entry("f32", mean)])
        column = Column(run, "mobilenet_v2", "mobilenet_v2")
        (row,) = main_table([column])[0].rows
        assert row.null
        assert row.cells[0].odd is odd
        assert words in findings([column])[0]


def test_the_main_results_come_in_words() -> None:
    both = [entry("int8", 0.76), entry("int8", 0.5, model="squeezenet1_0")]
    run = run_of(both, flips=[{"model": "mobilenet_v2", "precision": "int8", "flipped": 3, "kept": 17, "unknown": 0}])
    told = findings([Column(run, model, model) for model in ("mobilenet_v2", "squeezenet1_0")])
    drift = "int8 against f32: mean CC 0.500 (squeezenet1_0) to 0.760 (mobilenet_v2); published for these models: 0.76 to 0.89."
    assert drift in told
    assert "Top-1 class changed: int8 3 of 20 (15 %)." in told


def test_flips_stand_apart_from_drift_without_one() -> None:
    means = {"flipped": {"mean": 0.25, "n": 1}, "kept": {"mean": 0.75, "n": 3}}
    flip = {"model": "m", "precision": "int8", "flipped": 1, "kept": 3, "unknown": 0, "SIM": means, "CC": means, "KLD": None}
    (row,) = flip_table([run_of([entry("int8", 0.5, model="m")], flips=[flip])])
    assert (row["flipped"], row["share"], row["any"]) == ("1 of 4", "25 %", True)
    assert row["metrics"] == [["0.250", "0.750"], ["0.250", "0.750"], ["–", "–"]]


def test_tests_name_what_they_compare() -> None:
    test = {
        "model": "m", "metric": "CC", "comparison": "vs_f32", "first": "f32", "second": "int8", "n": 20,
        "mean_difference": -0.1, "low": -0.2, "high": -0.05, "p": 0.001, "p_holm": 0.004, "effect": -0.5,
    }  # fmt: skip
    ((metric, (row,)),) = paired_table([run_of([entry("int8", 0.5, model="m")], tests=[test])]).items()
    assert metric == "CC"
    assert row["compared"] == "int8 less f32 again, v. f32"
    assert (row["difference"], row["interval"], row["p"], row["effect"]) == ("−0.1000", "−0.2000 to −0.0500", "0.004", "−0.50")
    assert row["clear"]


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


def test_grids_are_drawn_from_what_is_stored(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "run")
    results = Results(folder)
    paths = write_grids(results, 4)
    assert [path.name for path in paths] == ["grid-tiny.png", "grid-other.png"]
    with Image.open(paths[0]) as picture:
        assert picture.height > picture.width * 0.7
    assert write_grids(results, 0) == []
    assert draw_grid(results, "tiny", ["no such image"]) is None


@pytest.fixture
def moved(ran: Path, tmp_path: Path) -> Path:
    """The run again, with one int8 CAM of `tiny` negated, its CC v. f32 0.25 lower, its top-1 class another."""
    folder = shutil.copytree(ran, tmp_path / "moved")
    maps, rows = pq.read_table(folder / MAPS).to_pylist(), pq.read_table(folder / RESULTS).to_pylist()
    first = next(row["image"] for row in rows if row["image"].startswith("imagenet"))
    for item in maps:
        if (item["image"], item["model"], item["precision"], item["kind"]) == (first, "tiny", "int8", "deployed"):
            item["values"] = [-value for value in item["values"]]
    for row in rows:
        if (row["image"], row["model"], row["precision"]) == (first, "tiny", "int8"):
            row["top1"] = (row["top1"] + 1) % 10
            if row["comparison"] == "vs_f32":
                row["CC"] -= 0.25
    for name, items in ((MAPS, maps), (RESULTS, rows)):
        pq.write_table(pa.Table.from_pylist(items, pq.read_schema(folder / name)), folder / name)
    reseal(folder)
    return folder


def test_runs_are_compared_image_by_image(ran: Path, moved: Path) -> None:
    runs = name_runs([Results(ran), Results(moved)])
    assert [run.name for run in runs] == ["results", "moved"]
    assert plan_differences(runs) == []
    rows = {(row["model"], row["precision"]): row for row in image_differences(runs)}
    assert len(rows) == 6
    quiet, loud = rows["tiny", "int16"], rows["tiny", "int8"]
    assert (quiet["cc"], quiet["cc_min"], quiet["equal"], quiet["top1"]) == ("1", "1", "7 of 7", "0 of 7")
    assert (quiet["difference"], quiet["largest"], quiet["at"]) == ("0", "0", "")
    assert (loud["cc_min"].removeprefix("≈ "), loud["equal"], loud["top1"]) == ("−1", "6 of 7", "1 of 7")
    assert loud["cc"] == f"{5 / 7:.3f}"  # six of 1 and one of -1
    assert loud["difference"] == f"−{0.25 / 7:.4f}"
    assert loud["largest"] == "−0.2500"
    assert loud["at"] == loud["worst"] != ""
    (line,) = between_runs(list(rows.values()))
    told = line.replace("≈ ", "")  # exactly -1, or the next number
    assert told == "moved against results: 41 of 42 CAMs equal, bit for bit; smallest CC between two −1 (tiny int8)."


def test_images_of_other_content_are_not_compared(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "other")
    table = pq.read_table(folder / RESULTS)
    place = table.schema.get_field_index("image_sha256")
    other = pc.binary_join_element_wise(table["image_sha256"], "x", "")
    pq.write_table(table.set_column(place, "image_sha256", other), folder / RESULTS)
    reseal(folder)
    rows = image_differences(name_runs([Results(ran), Results(folder)]))
    assert {row["n"] for row in rows} == {"0"}
    assert between_runs(rows) == ["No CAM of other can be held against one of results: no model, image and crop in common."]


def test_maps_of_another_crop_are_not_compared(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "other")
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(re.sub(r'"geometry": "[^"]*"', '"geometry": "squash 32×32"', text))
    reseal(folder)
    rows = image_differences(name_runs([Results(ran), Results(folder)]))
    assert {(row["n"], row["cc"], row["maps"]) for row in rows} == {("7", "–", 0)}
