"""The paper's table."""

from __future__ import annotations

import pytest

from qcam.evaluate.report.published import COLUMNS, comparable, published


@pytest.mark.parametrize(
    ("model", "precision", "comparison", "metric", "expected"),
    [
        ("vgg16", "f32", "vs_saliency", "SIM", (0.44, 0.19)),
        ("resnet50", "int8", "vs_f32", "CC", (0.61, 0.29)),
        ("densenet121", "int16", "vs_f32", "KLD", (0.05, 0.11)),
        ("mobilenet_v2", "int8", "vs_f32", "CC", (0.76, 0.12)),
        ("efficientnet_b0", "int8", "vs_f32", "KLD", (0.40, 0.17)),
        ("squeezenet1_1", "int16", "vs_f32", "CC", (0.92, 0.18)),
        ("squeezenet1_0", "int16", "vs_f32", "CC", (0.92, 0.18)),
        ("efficientnet_lite0", "int8", "vs_f32", "CC", None),
        ("vgg16", "f32", "vs_f32", "CC", None),
        ("vgg16", "int8", "fake_quant_vs_deployed", "CC", None),
        ("vgg16", "int8", "vs_f32", "overlap", None),
    ],
)
def test_published_figures_are_the_paper_s(model, precision, comparison, metric, expected):
    assert published(model, precision, comparison, metric) == expected


def test_every_cell_of_the_paper_s_table_is_there():
    cells = [
        published(model, precision, comparison, metric)
        for model in COLUMNS
        for precision, comparison in [(p, "vs_saliency") for p in ("f32", "int16", "int8")]
        + [("int16", "vs_f32"), ("int8", "vs_f32")]
        for metric in ("SIM", "CC", "KLD")
    ]
    assert len(cells) == 90
    assert None not in cells
    assert not comparable("f32", "vs_saliency", "SIM")
    assert not comparable("f32", "vs_saliency", "KLD")
    assert not comparable("int8", "vs_f32", "SIM")
    assert comparable("int8", "vs_f32", "CC")
    assert comparable("int8", "vs_saliency", "CC")
