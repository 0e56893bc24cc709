from dataclasses import dataclass
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from qcam.common.verdict import Verdict
from qcam.evaluate.gates.asked import read_gates
from qcam.evaluate.gates.judging import judge
from qcam.evaluate.report.verdict import verdict_markdown, write_verdict
from qcam.evaluate.results.place import ResultPlace

HOLDS, FALLS_SHORT, UNDECIDED = Verdict.HOLDS, Verdict.FALLS_SHORT, Verdict.UNDECIDED


@dataclass
class Stored:
    """Results as far as gates look at them: int8 and f32 of one model."""

    cc: object
    agrees: object = 1.0
    right: object = np.nan
    right_f32: object = np.nan
    cc_f32: object = 1.0
    sim: object = None
    jpeg: object = None
    folder: object = None
    files: object = None

    def __post_init__(self):
        self.models = ["net"]
        self.images = [f"{place}.jpg" for place in range(len(self.cc))]
        self.record = SimpleNamespace(
            provider="CPU", plan=SimpleNamespace(options={}, bundles={}), models={"net": SimpleNamespace(bundle="net")}
        )

    def columns(self, model):
        files = self.hashes()
        return {key: of | {"image_sha256": files} for key, of in self.told().items()}

    def hashes(self):
        return np.array(self.images if self.files is None else self.files, object)

    def told(self):
        n, names = len(self.cc), np.array(self.images, object)
        cc = np.asarray(self.cc, float)
        sim = cc if self.sim is None else np.asarray(self.sim, float)
        moved = {"CC": cc, "SIM": sim, "top1_agrees": np.broadcast_to(np.asarray(self.agrees, float), n), "image": names}
        moved["status"] = np.where(np.isnan(cc), "constant_cam", "ok").astype(object)
        null = {"CC": np.broadcast_to(np.asarray(self.cc_f32, float), n), "image": names}

        def labelled(right):
            right = np.broadcast_to(np.asarray(right, float), n)
            return {"label": np.where(np.isnan(right), np.nan, 1.0), "top1": right, "image": names}

        found = {
            ("int8", "vs_f32"): moved, ("f32", "vs_saliency"): labelled(self.right_f32),
            ("int8", "vs_saliency"): labelled(self.right),
        }  # fmt: skip
        return found if self.cc_f32 is None else found | {("f32", "vs_f32"): null}

    def references(self, model):
        if self.jpeg is None:
            return {}
        names = np.array(self.images[: len(self.jpeg)], object)
        return {
            ("f32", "jpeg95"): {"CC": np.asarray(self.jpeg, float), "image": names, "image_sha256": self.hashes()[: len(names)]}
        }


def one(stored, gate):
    (found,) = judge(stored, read_gates([gate])).gates
    return found


def spread(mean, n=20, width=0.01):
    return mean + width * np.linspace(-1, 1, n)


@pytest.mark.parametrize(("least", "verdict"), [(0.98, HOLDS), (0.991, UNDECIDED), (0.999, FALLS_SHORT)])
def test_a_mean_is_decided_by_its_interval(least, verdict):
    found = one(Stored(spread(0.99)), f"int8.cc={least}")
    assert found.verdict is verdict
    assert found.low < 0.99 < found.high
    assert (found.n, found.worst) == (20, "0.jpg")
    assert "cc = 0.9900 (95 %: 0.98" in found.sentence


def test_so_many_images_as_it_says_decide():
    found = one(Stored(spread(0.99)), "int8.cc=0.9885")
    assert found.verdict is UNDECIDED
    assert found.needed > 20
    assert one(Stored(spread(0.99, found.needed + 40)), "int8.cc=0.9885").verdict is HOLDS
    assert one(Stored(spread(0.99, found.needed - 40)), "int8.cc=0.9885").verdict is UNDECIDED
    assert f"about {found.needed} images would decide it" in found.sentence


def test_no_number_decides_what_lies_on_its_bound():
    found = one(Stored(spread(0.99), agrees=[1, 0] * 10), "int8.top1=0.5")
    assert (found.verdict, found.needed) == (UNDECIDED, None)
    assert "no number of images decides" in found.sentence


def test_a_share_of_all_images_is_no_proof_of_99_percent():
    found = one(Stored(spread(0.99)), "int8.top1=0.99")
    assert (found.value, found.verdict) == (1.0, UNDECIDED)
    assert found.needed == 368  # 0.025 ** (1 / n) is above 0.99 from there on
    assert one(Stored(spread(0.99, 368)), "int8.top1=0.99").verdict is HOLDS
    assert one(Stored(spread(0.99, 367)), "int8.top1=0.99").verdict is UNDECIDED
    assert one(Stored(spread(0.99), agrees=[1, 0] * 10), "int8.top1=0.99").verdict is FALLS_SHORT


def test_the_worst_image_is_a_fact():
    assert one(Stored(spread(0.99)), "int8.worst_cc=0.97").verdict is HOLDS
    found = one(Stored(spread(0.99)), "int8.worst_cc=0.985")
    assert (found.verdict, found.low, round(found.value, 3)) == (FALLS_SHORT, None, 0.98)


def test_a_verdict_nobody_asks_for_any_more_is_gone(tmp_path):
    stored = Stored(spread(0.99), folder=tmp_path)
    write_verdict(stored, judge(stored, read_gates(["int8.cc=0.98"])))
    (tmp_path / "results.parquet").touch()
    assert len(list(tmp_path.iterdir())) == 4
    ResultPlace(tmp_path).forget_verdicts()
    assert [path.name for path in tmp_path.iterdir()] == ["results.parquet"]


def test_images_without_the_figure_are_counted():
    found = one(Stored([np.nan, *spread(0.99)], cc_f32=[np.nan] + [1.0] * 20), "int8.cc=0.98")
    assert (found.n, found.undefined, found.verdict) == (20, 1, HOLDS)
    assert found.sentence.endswith("holds; 1 more images are without the figure")
    assert one(Stored([np.nan] * 3), "int8.cc=0.98").verdict is UNDECIDED
    assert "needs 4 images at least; give more" in one(Stored([0.99] * 3), "int8.cc=0.98").sentence


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [("int8.cc=0.9", UNDECIDED), ("int8.worst_cc=0.9", UNDECIDED), ("int8.drift<jpeg95", UNDECIDED), ("int8.cc=-1", HOLDS),
     ("int8.worst_sim=0.9", UNDECIDED), ("int8.cc=0.9999", FALLS_SHORT)],
)  # fmt: skip
def test_nothing_holds_where_quantization_lost_a_map_that_f32_has(gate, verdict):
    lost = [np.nan] * 8 + [0.99, 0.98] * 5
    found = one(Stored(lost, jpeg=[0.9] * 18), gate)
    assert found.verdict is verdict
    assert one(Stored(lost, jpeg=[0.9] * 18, cc_f32=None), gate).verdict is verdict  # without a null row the status tells
    assert ("on 8 images f32 has a map or a class, and int8 has none" in found.sentence) is (verdict is UNDECIDED)


def test_nothing_holds_where_quantization_lost_the_class():
    right = np.array([np.nan] * 5 + [1.0] * 500)
    stored = Stored(spread(0.99, 505), agrees=right, right=right, right_f32=1.0)
    assert one(stored, "int8.top1=0.99").verdict is UNDECIDED
    assert one(Stored(spread(0.99, 505), agrees=right, right=right, right_f32=right), "int8.top1=0.99").verdict is HOLDS


def test_figures_are_shown_on_their_side_of_the_bound():
    found = one(Stored([0.98999] * 20), "int8.worst_cc=0.99")
    assert "worst_cc = 0.98999 (n 20), at least 0.99 wanted: falls short" in found.sentence
    assert "at least 0.9999999 wanted" in one(Stored([0.98999] * 20), "int8.worst_cc=0.9999999").sentence


def test_the_worst_image_is_that_of_the_figure():
    stored = Stored(spread(0.99), sim=spread(0.99)[::-1])
    assert one(stored, "int8.worst_sim=0.9").worst == "19.jpg"
    assert one(stored, "int8.worst_cc=0.9").worst == "0.jpg"


def test_few_skewed_images_do_not_hold_by_chance():
    found = one(Stored([0.999] * 19 + [0.7]), "int8.cc=0.975")  # a third of all resamples miss the outlier
    assert (found.verdict, found.low) == (UNDECIDED, -1.0)
    assert one(Stored([0.99, 1.0]), "int8.cc=0.98").verdict is UNDECIDED


def test_one_changed_class_of_few_is_no_proof_against_99_percent():
    assert one(Stored(spread(0.99, 17), agrees=[0] + [1] * 16), "int8.top1=0.99").verdict is UNDECIDED


def test_accuracy_is_a_share_of_f32s():
    right = np.ones(400)
    assert one(Stored(spread(0.99, 400), right=right, right_f32=right), "int8.accuracy=0.99").verdict is HOLDS
    lost = np.where(np.arange(400) < 40, 0.0, 1.0)
    found = one(Stored(spread(0.99, 400), right=lost, right_f32=right), "int8.accuracy=0.99")
    assert (found.value, found.verdict) == (0.9, FALLS_SHORT)
    few = one(Stored(spread(0.99), right=1.0, right_f32=1.0), "int8.accuracy=0.99")
    assert (few.verdict, few.needed) == (UNDECIDED, 381)
    assert "no image is labelled; give {labels}" in one(Stored(spread(0.99)), "int8.accuracy=0.99").sentence


def test_drift_is_held_against_a_reference_row():
    n = 20
    assert one(Stored([0.99] * n, jpeg=[0.98] * n), "int8.drift<jpeg95").verdict is HOLDS
    assert one(Stored([0.97] * n, jpeg=[0.98] * n), "int8.drift<jpeg95").verdict is FALLS_SHORT
    found = one(Stored([0.99] * 12 + [0.97] * 8, jpeg=[0.98] * n), "int8.drift<jpeg95")
    assert (found.verdict, found.value) == (UNDECIDED, 0.6)
    assert 20 < found.needed < 200
    assert "drift below jpeg95 on 12 of 20 images, p 0.25" in found.sentence
    assert one(Stored([0.99] * n, jpeg=[0.98] * 8), "int8.drift<jpeg95").n == 8


def test_the_verdict_is_written_for_people_build_servers_and_programs(tmp_path):
    (tmp_path / "grid-net.png").write_bytes(b"a picture")
    stored = Stored(spread(0.99), agrees=[1, 0] * 10, folder=tmp_path)
    found = judge(stored, read_gates(["int8.cc=0.98", "int8.top1=0.9", "int8.cc=0.98"]))
    assert found.verdict is FALLS_SHORT
    assert found.reason.startswith("net int8: top1 = 0.5000")
    write_verdict(stored, found)
    text = (tmp_path / "verdict.md").read_text()
    assert text.startswith("## qcam: falls short\n\nint8.cc=0.98, int8.top1=0.9 on 20 images.")
    assert "![The worst pictures of net](grid-net.png)" in text
    assert "int8 moves the CAM of 0.jpg most" in text
    root = ElementTree.fromstring((tmp_path / "junit.xml").read_text())
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "1", "0")
    assert '"verdict": "falls short"' in (tmp_path / "verdict.json").read_text()


def test_names_are_no_markup():
    stored = Stored(spread(0.99), folder=__import__("pathlib").Path("nowhere"))
    stored.images[0] = "<b>|`x`.jpg"
    assert "<b>" not in verdict_markdown(stored, judge(stored, read_gates(["int8.cc=0.98"])))


def test_one_picture_twenty_times_is_one_image():
    found = one(Stored([0.99] * 20, files=["a"] * 20), "int8.cc=0.98")
    assert (found.verdict, found.n, found.copies) == (UNDECIDED, 1, 19)
    assert "19 more images are copies of these" in found.sentence
    assert one(Stored([0.99] * 20, jpeg=[0.98] * 20, files=["a", "a", *range(18)]), "int8.drift<jpeg95").n == 19


def test_a_name_that_looks_like_an_option_stays_as_it_is(tmp_path):
    stored = Stored(spread(0.99), folder=tmp_path)
    stored.images[0] = "{force}.jpg"
    write_verdict(stored, judge(stored, read_gates(["int8.worst_cc=1", "int8.accuracy=0.9"])))
    for name in ("verdict.md", "verdict.json", "junit.xml"):
        text = (tmp_path / name).read_text()
        assert "{force}.jpg" in text
        assert "--force" not in text
        assert "give --labels" in text or name == "verdict.md"  # which says why it falls short
