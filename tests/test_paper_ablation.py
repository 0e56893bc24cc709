"""Cells of benchmarks/paper_ablation.py: no spread that there is none of, and seeds apart from images."""

import paper_ablation
import pytest
from paper_ablation import AS_RUN


def run(*cc, noisy=True, quantized=True):
    """Figures of one seed: CC of each image, None where a map is empty; SIM and KLD to match."""
    metrics = {"CC": list(cc), "SIM": [v and 0.5 for v in cc], "KLD": [v and 0.25 for v in cc]}
    figures = {"images": len(cc), "noisy": noisy, "logits_quantized": quantized}
    return figures | {name: metrics | {"right": 1} for name in ("f32", "int16", "int8")}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run(0.2, 0.4)], "0.300 ± 0.100; 0.50; 0.25"),
        ([run(0.2, 0.4), run(0.6, 0.8)], "0.500 ± 0.224 (0.283); 0.50; 0.25"),  # 0.2 √1.25 over all; √0.08 between seeds
        ([run(0.785, None)], "0.785; 0.50; 0.25"),  # one image has no spread
        ([run(0.2, 0.4), run(0.6, None)], "0.400 ± 0.163; 0.50; 0.25"),  # nor has a seed of one image a mean to compare
        ([run(None, None)], "–"),
    ],
)
def test_a_cell_gives_the_spread_over_images_and_that_between_seeds_where_there_is_one(runs, expected):
    assert paper_ablation._cell(runs, "int8") == expected


def test_networks_that_draw_noise_stand_apart_and_what_is_not_finished_is_left_out():
    found = {
        "mobilenet_v2": {(AS_RUN, 0): [run(0.2, None), run(0.4, 0.5)], (frozenset({"logits"}), 0): []},
        "resnet50": {(AS_RUN, 0): [run(0.6, 0.7, noisy=False)]},
        "squeezenet1_1": {},
    }
    text = "\n".join(paper_ablation._tables(found))
    noisy, _, quiet = text.partition("## Networks that draw none")
    assert "### mobilenet_v2" in noisy
    assert "### resnet50" in quiet
    assert "squeezenet1_1" not in text
    assert "`logits` alone" not in text
    assert "| 0–1, 0–1 of 2 | 1 | 2 |" in noisy


def test_without_quantized_scores_the_logits_switch_off_nothing_and_have_no_row_of_their_own():
    both = frozenset({"logits", "8bit"})
    plain = [run(0.2, 0.4, quantized=False)]
    assert paper_ablation._same(both, plain) == {"8bit"}
    assert paper_ablation._same(both, [run(0.2, 0.4)]) == both
    rows = paper_ablation._table("squeezenet1_1", {(AS_RUN, 0): plain, (frozenset({"8bit"}), 0): plain})
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| *published*", "| **as they ran**", "| `8bit` alone"]
