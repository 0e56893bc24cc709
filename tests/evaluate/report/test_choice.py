"""Which images are shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcam.evaluate.report.choice import choose, coarsest_first, ranked_by


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


def test_names_of_somebodys_own_rank_where_there_is_neither_int8_nor_int16_and_f32_last() -> None:
    assert coarsest_first(["vendor", "f32", "a8", "int16", "int8"]) == ["int8", "int16", "a8", "vendor", "f32"]
    figures = ranked({"a": 0.9, "b": 0.1})[("int8", "vs_f32")]
    null = ranked({"a": 1.0, "b": 1.0})[("int8", "vs_f32")]
    columns = {("f32", "vs_f32"): null, ("vendor", "vs_f32"): figures}
    assert ranked_by(columns) == ("vendor", "vs_f32")
    assert [item.image for item in choose(columns, 2)] == ["b", "a"]
    assert ranked_by({("f32", "vs_f32"): null}) == ("f32", "vs_f32")
    assert ranked_by({}) is None


def test_without_f32_and_salient_objects_the_simulation_ranks() -> None:
    figures, nothing = (ranked({"a": value, "b": value})[("int8", "vs_f32")] for value in (0.9, np.nan))
    columns = {("a8", "vs_saliency"): nothing, ("a8", "vs_itself"): figures, ("a8", "fake_quant_vs_deployed"): figures}
    assert ranked_by(columns) == ("a8", "fake_quant_vs_deployed")
    assert ranked_by(columns | {("a8", "vs_saliency"): figures}) == ("a8", "vs_saliency")
    assert ranked_by({("a8", "vs_saliency"): nothing}) == ("a8", "vs_saliency")  # all undefined, all shown
