"""`qcam.study` and its results."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

import qcam
from qcam.evaluate.results.folder import read_rows


def test_tables_maps_and_summary_are_those_of_the_folder(studied, some_photographs) -> None:
    table = studied.to_arrow()
    assert table.to_pylist() == [vars(row) for row in read_rows(studied.folder / "results.parquet")]
    assert studied.summary == json.loads((studied.folder / "summary.json").read_text())
    assert studied.run["complete"] is True
    assert studied.references().to_pylist() == [vars(row) for row in read_rows(studied.folder / "references.parquet")]
    assert studied.references().num_rows == 9 * len(list(some_photographs.iterdir()))
    assert studied.models == ["tiny"]
    image = sorted(path.name for path in some_photographs.iterdir())[0]
    maps = studied.maps(model="tiny", images=[image])
    assert {(item.precision, item.kind) for item in maps} == {
        (precision, kind) for precision in ("f32", "int16", "int8") for kind in ("deployed", "fake_quant")
    }
    assert all(item.array.shape == (item.height, item.width) for item in maps)
    for name in ("table.md", "table.csv", "table.tex", "report.html"):
        assert (studied.folder / name).is_file()


def test_a_complete_study_is_only_read(studied, tiny_bundle, some_photographs, caplog) -> None:
    before = {path: path.stat().st_mtime_ns for path in studied.folder.glob("*.parquet")}
    with caplog.at_level(logging.INFO, "qcam"):
        again = qcam.study(
            str(tiny_bundle.folder),
            images=str(some_photographs),
            saliency="spectral",
            output=studied.folder,
            threads=1,
            grid_rows=0,
        )
    assert "already holds the complete results" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in studied.folder.glob("*.parquet")} == before
    assert again.to_arrow().equals(studied.to_arrow())
    assert qcam.load_results(studied.folder).to_arrow().equals(studied.to_arrow())


def test_results_of_other_settings_are_in_the_way(studied, tiny_bundle, some_photographs) -> None:
    with pytest.raises(qcam.QcamError, match="holds results of other settings"):
        qcam.study(tiny_bundle, images=some_photographs, saliency="none", output=studied.folder, threads=1)


def test_pandas(studied) -> None:
    pandas = pytest.importorskip("pandas")
    frame = studied.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["CC"].mean() == pytest.approx(np.mean([row["CC"] for row in studied.to_arrow().to_pylist() if row["CC"]]))


def test_a_report_is_written_elsewhere(studied, tmp_path) -> None:
    page = studied.report(tmp_path / "report", colormap="jet", pictures=2)
    assert page == tmp_path / "report" / "report.html"
    assert "tiny" in page.read_text(encoding="utf-8")


def test_a_notebook_shows_the_table(studied) -> None:
    shown = studied._repr_html_()
    assert "int8 v. f32" in shown
    assert "<script" not in shown
    assert "http" not in shown


def test_one_photograph_is_an_image_set(tiny_bundle, some_photographs, tmp_path) -> None:
    picture = sorted(some_photographs.iterdir())[0]
    found = qcam.study(
        tiny_bundle,
        images=picture,
        saliency="none",
        output=tmp_path / "out",
        report=False,
        grid_rows=0,
        precisions=("int8", "f32"),
    )
    assert set(found.to_arrow()["image"].to_pylist()) == {picture.name}
    assert found.run["models"]["tiny"]["precisions"] == ["f32", "int8"] or list(found.run["models"]["tiny"]["precisions"]) == [
        "f32",
        "int8",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target": "typo"}, "target 'typo' is unknown; choose one of f32-top1, own-top1, label"),
        ({"method": "typo"}, r"CAM method 'typo' is unknown; choose one of gradcam\+\+"),
        ({"device": "typo"}, "device 'typo' is unknown; choose one of auto, cpu, cuda"),
        ({"provider": "typo"}, "execution provider 'typo' is unknown"),
        ({"colormap": "typo"}, "colour map 'typo' is unknown"),
        ({"precisions": ("int4",)}, "holds no int4"),
        ({"images": "nowhere"}, "nowhere"),
    ],
)
def test_what_means_nothing_is_refused_and_nothing_written(tiny_bundle, some_photographs, tmp_path, wrong, message) -> None:
    with pytest.raises(qcam.QcamError, match=message):
        qcam.study(tiny_bundle, **{"images": some_photographs, "saliency": "none", "output": tmp_path / "out"} | wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: give a whole number, 1 or more"),
        ({"batch_size": "4"}, "batch_size '4': give a whole number, 1 or more"),
        ({"threads": -1}, "threads -1: give a whole number, 1 or more"),
        ({"workers": 0}, "workers 0: give a whole number, 1 or more"),
        ({"limit": -1}, "limit -1: give a whole number, 1 or more"),
        ({"grid_rows": -1}, "grid_rows -1: give a whole number, 0 or more"),
        ({"precisions": "int9"}, "int9"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_and_nothing_is_written(
    tiny_bundle, some_photographs, tmp_path, wrong, message
) -> None:
    with pytest.raises(qcam.QcamError, match=message):
        qcam.study(tiny_bundle, images=some_photographs, saliency="none", output=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_report_of_fewer_than_no_pictures_is_refused(studied, tmp_path) -> None:
    with pytest.raises(qcam.QcamError, match="pictures -1: give a whole number, 0 or more"):
        studied.report(tmp_path / "report", pictures=-1)
    assert not (tmp_path / "report").exists()


def test_maps_of_what_was_not_studied_are_refused_with_near_names(studied, some_photographs) -> None:
    image = sorted(path.name for path in some_photographs.iterdir())[0]
    assert {item.image for item in studied.maps(images=image)} == {image}
    with pytest.raises(qcam.QcamError, match=r"holds no model 'tinny'; did you mean tiny\?"):
        studied.maps(model="tinny")
    with pytest.raises(qcam.QcamError, match=rf"holds no image '{image}x'; did you mean .*{image}"):
        studied.maps(images=[image, f"{image}x"])
    with pytest.raises(qcam.QcamError, match=r"holds no image 'q'; there is .* …"):
        studied.maps(images="q")
