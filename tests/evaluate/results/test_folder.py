"""Result folders read back, those of earlier versions too."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qcam.common.errors import ResultsError
from qcam.evaluate.results.folder import RESULTS, ROW_SCHEMA, RUN, SCHEMA_VERSION, Results, Row


def folder_without(path: Path, column: str) -> Results:
    row = Row("a.jpg", "0" * 64, "net", "int8", "vs_saliency", SIM=0.5, CC=0.25, energy_in_object=0.75)
    table = pa.Table.from_pylist([vars(row)], ROW_SCHEMA)
    pq.write_table(table.drop_columns([column]), path / RESULTS)
    (path / RUN).write_text(json.dumps({"schema_version": SCHEMA_VERSION, "complete": True, "plan": {}, "models": {"net": {}}}))
    return Results(path)


def test_results_older_than_a_measure_have_it_undefined(tmp_path: Path) -> None:
    found = folder_without(tmp_path, "energy_in_object").columns("net")["int8", "vs_saliency"]
    assert np.isnan(found["energy_in_object"]).all()
    assert found["energy_in_object"].shape == (1,)
    assert found["CC"].tolist() == [0.25]


def test_results_without_a_column_that_they_always_had_are_not_read_as_undefined(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=rf"^{tmp_path / RESULTS}: column CC is missing; run qcam.study again"):
        folder_without(tmp_path, "CC").columns("net")
