"""A file as a check reads it: the graph that is deployed, what can be seen of it, and where the file's own reading differs."""

import pytest
from foreign_graphs import quantized
from integer_cases import here

from qcam.common.errors import UnsupportedGraphError
from qcam.evaluate.check.reading import Reading
from qcam.runtime.kernels import KERNELS
from qcam.runtime.loaded import asking


def test_of_a_file_as_onnx_runtime_writes_it_everything_is_kept_and_both_readings_agree():
    reading = Reading(quantized(), {}, here())
    assert reading.deployed is not None
    assert reading.kept == reading.tensors != ()
    assert reading.second_opinion() == []
    labels = reading.labels((*reading.tensors, "scores"))
    assert labels["last_QuantizeLinear_Output"] == "Conv node_head"


def test_where_the_readings_differ_it_is_said():
    reading = Reading(quantized("QDQ", "QInt8", "QInt8"), {"session.qdqisint8allowed": "0"}, here())
    (first, *_) = reading.second_opinion()
    assert "in ONNX Runtime's own graph" in first
    assert len(reading.kept) < len(reading.tensors)


def test_what_does_not_run_on_this_cpu_is_read_off_the_file_alone():
    reading = Reading(quantized(), {})
    assert reading.deployed is None
    assert reading.kept == reading.tensors
    assert reading.followed[0] is reading.graph


def test_products_of_16_by_16_bits_are_not_what_is_deployed():
    reading = Reading(quantized("QDQ", "QUInt16", "QInt16", opset=21), {}, here())
    assert reading.loaded(here()).wide
    assert reading.deployed is None


def test_each_familys_graph_is_asked_for_once_and_a_refusal_stays_one(monkeypatch):
    asked = []

    def optimized(model, settings, *, layouts=False):
        asked.append(settings)
        raise UnsupportedGraphError("no")

    monkeypatch.setattr(asking, "optimized", optimized)
    reading = Reading(quantized(), {}, here())
    assert reading.deployed is None
    for _ in range(2):
        with pytest.raises(UnsupportedGraphError, match="no"):
            reading.loaded(here())
    with pytest.raises(UnsupportedGraphError, match="no"):
        reading.loaded(KERNELS["arm64"])
    assert asked == [{"session.qdqisint8allowed": "0"}, {"session.qdqisint8allowed": "1"}]
