"""Several runs, image by image."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from studies import reseal

from qcam.evaluate.report.comparison import image_differences, plan_differences
from qcam.evaluate.report.findings import between_runs
from qcam.evaluate.report.runs import name_runs
from qcam.evaluate.report.write import write_report
from qcam.evaluate.results.folder import MAPS, RESULTS, Results


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


def edited(ran: Path, folder: Path, pattern: str, text: str) -> Path:
    """Return the run again in another folder, with what a pattern finds in its run.json replaced."""
    shutil.copytree(ran, folder)
    told = (folder / "run.json").read_text()
    (folder / "run.json").write_text(re.sub(pattern, text, told))
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
    (line,), same = between_runs(runs, list(rows.values()), [])
    told = line.replace("≈ ", "")  # exactly -1, or the next number
    assert told == (
        "moved against results: 41 of 42 CAMs equal, bit for bit; smallest CC between two −1 (tiny int8); "
        "another top-1 class in 1 of 42."
    )
    assert not same


def test_of_runs_that_are_equal_it_is_said_once_with_the_settings_that_differ(ran: Path, tmp_path: Path) -> None:
    """H12: comparing two runs of the same images."""
    folder = edited(ran, tmp_path / "again", r'"threads": (\d+)', '"threads": 7')
    runs = name_runs([Results(ran), Results(folder)])
    differing = plan_differences(runs)
    lines, same = between_runs(runs, image_differences(runs), differing)
    assert same
    assert lines[0].startswith("again against results: nothing differs. 42 CAMs equal, bit for bit; no top-1 class changed. ")
    assert re.search(r" Settings that differ: threads \(\d+ and 7\)\.$", lines[0])
    assert lines[1] == "The sentences below are about results, and hold for each of the others."
    write_report([Results(ran), Results(folder)], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    in_short = page[page.index("nothing differs") :]
    in_short = in_short[: in_short.index("<svg")]
    assert "tiny" in in_short
    assert " · again" not in in_short


def test_equal_maps_of_fewer_images_are_equal_and_not_the_same_run(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "fewer")
    table = pq.read_table(folder / RESULTS)
    first = next(name for name in table["image"].to_pylist() if name.startswith("imagenet"))
    pq.write_table(table.filter(pc.not_equal(table["image"], first)), folder / RESULTS)
    reseal(folder)
    runs = name_runs([Results(ran), Results(folder)])
    lines, same = between_runs(runs, image_differences(runs), [])
    (line,) = lines
    told = "nothing differs in what both hold. 36 CAMs equal, bit for bit; no top-1 class changed."
    assert line == f"fewer against results: {told}"
    assert not same


def test_images_of_other_content_are_not_compared(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "other")
    table = pq.read_table(folder / RESULTS)
    place = table.schema.get_field_index("image_sha256")
    other = pc.binary_join_element_wise(table["image_sha256"], "x", "")
    pq.write_table(table.set_column(place, "image_sha256", other), folder / RESULTS)
    reseal(folder)
    runs = name_runs([Results(ran), Results(folder)])
    rows = image_differences(runs)
    assert {row["n"] for row in rows} == {"0"}
    (line,), same = between_runs(runs, rows, [])
    assert line == "No CAM of other can be held against one of results: no model, image and crop in common."
    assert not same


def test_maps_of_another_crop_are_not_compared(ran: Path, tmp_path: Path) -> None:
    folder = edited(ran, tmp_path / "other", r'"geometry": "[^"]*"', '"geometry": "squash 32×32"')
    rows = image_differences(name_runs([Results(ran), Results(folder)]))
    assert {(row["n"], row["cc"], row["maps"]) for row in rows} == {("7", "–", 0)}
