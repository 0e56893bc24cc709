"""Result folders of a real run, small: two tiny networks on real photographs; and one as large as a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qcam.evaluate.results.folder import IMAGES, MAPS, PICTURES, RESULTS, RUN, SUMMARY, Results
from qcam.evaluate.results.summary import summarise
from qcam.evaluate.run.options import StudyOptions
from qcam.evaluate.saliency import open_saliency
from qcam.evaluate.study.study import Study
from qcam.images.embedded import evaluation_photographs
from qcam.images.listing import find_images
from qcam.runtime.bundle import Bundle

#: A name that would be code, were it not escaped.
HOSTILE = "<script>alert(1)</script>&'\".jpg"


@pytest.fixture(scope="session")
def ran(tiny_bundle: Bundle, export_tiny: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two networks on seven photographs, one of them of a hostile name, and a file that is no image."""
    folder = tmp_path_factory.mktemp("ran")
    photographs = folder / "photographs"
    photographs.mkdir()
    for place, image in enumerate(evaluation_photographs()[:7]):
        name = HOSTILE.replace("/", "\u2044") if place == 3 else image.name
        (photographs / name).write_bytes(image.path.read_bytes())
    (photographs / "text.png").write_text("no picture")
    other = replace(export_tiny(folder / "other", seed=3), model_id="a<b>&c")
    options = StudyOptions(("f32", "int16", "int8"), saliency="spectral", faithfulness=True)
    study = Study([tiny_bundle, other], find_images(photographs), open_saliency("spectral"), options, folder / "results")
    study = study.prepare("cpu", force=False)
    study.run()
    return folder / "results"


@pytest.fixture
def results(ran: Path) -> Results:
    return Results(ran)


@pytest.fixture(scope="session")
def large(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as if of 10,000 images and six models: rows, maps and pictures repeated under other names."""
    folder = tmp_path_factory.mktemp("large")
    names = [f"{index:05d}.jpg" for index in range(10_000)]
    models = [f"net{index}" for index in range(6)]
    run = json.loads((ran / RUN).read_text())
    facts = run["models"]["tiny"]
    run["models"] = dict.fromkeys(models, facts)
    del run["files"], run["digest"]  # as an earlier version left it
    (folder / RUN).write_text(json.dumps(run))
    (folder / "placement.json").write_text(json.dumps(dict.fromkeys(models, Results(ran).placement["tiny"])))
    good = evaluation_photographs()[0].name
    random = np.random.default_rng(0)
    for file in (RESULTS, MAPS):
        whole = pq.read_table(ran / file)
        few = whole.filter(pa.compute.and_(pa.compute.equal(whole["image"], good), pa.compute.equal(whole["model"], "tiny")))
        with pq.ParquetWriter(folder / file, few.schema) as writer:
            for model in models:
                table = few.take(np.tile(np.arange(few.num_rows), len(names)))
                table = table.set_column(0, "image", pa.array(np.repeat(names, few.num_rows)))
                table = table.set_column(table.schema.get_field_index("model"), "model", pa.array([model] * table.num_rows))
                if file == RESULTS:
                    place = table.schema.get_field_index("CC")
                    table = table.set_column(place, "CC", pa.array(random.random(table.num_rows)))
                writer.write_table(table.cast(few.schema))
    # Pictures of the size of photographs, every one another: noise behind the end of a JPEG file is not shown.
    noise = random.integers(0, 256, 15_000, np.uint8).tobytes()
    whole = pq.read_table(ran / PICTURES)
    picture = whole.filter(pa.compute.equal(whole["image"], good))
    place = picture.schema.get_field_index("photo")
    with pq.ParquetWriter(folder / PICTURES, picture.schema) as writer:
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            photos = [picture["photo"][0].as_py() + noise + name.encode() for name in some]
            repeated = picture.take(np.zeros(len(some), int)).set_column(0, "image", pa.array(some))
            writer.write_table(repeated.set_column(place, "photo", pa.array(photos)).cast(picture.schema))
    rows = [{"name": name, "sha256": name, "label": None} for name in names]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(ran / IMAGES)), folder / IMAGES)
    found = Results(folder)
    summary = {"complete": True} | summarise((model, found.columns(model)) for model in models)
    (folder / SUMMARY).write_text(json.dumps(summary))
    return folder
