import numpy as np
import pytest

from qcam.common.errors import BundleError, ImageSetError, UnsupportedGraphError
from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.held import Wanted
from qcam.evaluate.check.timing import Stopwatch
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import load_onnx
from qcam.runtime.codes import quantized_tensors
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.deployed.inspection import InspectedModel
from qcam.runtime.graph import Graph
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror import Mirror

VNNI, AVX2 = KERNELS["vnni"], KERNELS["avx2"]
INTEGER, FAKE_QUANT = (Wanted(arithmetic, VNNI, every_tensor=True) for arithmetic in ("integer", "fake_quant"))


class Counting:
    """A deployed run that counts its batches."""

    def __init__(self, bundle):
        tensors = quantized_tensors(Graph(load_onnx(bundle, "int8")))
        self._real = InspectedModel(bundle, "int8", SessionSettings(threads=1), tensors)
        self.runs = 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    def run(self, images):
        self.runs += 1
        return self._real.run(images)


@pytest.fixture
def runtime(tiny_bundle):
    return Counting(tiny_bundle)


@pytest.fixture
def batches(tiny_bundle):
    """Four photographs, two at a time."""
    photographs = evaluation_photographs()[:4]
    crops = [tiny_bundle.preprocessing.crop_image(decode(photograph.path).image) for photograph in photographs]
    images = tiny_bundle.preprocessing.normalise(np.stack(crops))
    names = [photograph.name for photograph in photographs]
    return lambda: ((names[start : start + 2], images[start : start + 2]) for start in (0, 2))


@pytest.fixture
def failing(monkeypatch):
    """Let mirrors of a family fail from a forward run on, and count the forward runs of all."""
    forward = Mirror.forward
    runs = []

    def fail(family, at):
        def failing_forward(mirror, *arguments, **observers):
            runs.append(mirror.family.name)
            if mirror.family == family and runs.count(family.name) >= at:
                raise UnsupportedGraphError("the mirror cannot compute Conv a")
            return forward(mirror, *arguments, **observers)

        monkeypatch.setattr(Mirror, "forward", failing_forward)
        return runs

    return fail


def test_a_file_without_any_of_the_tensors_cannot_be_judged(tiny_bundle):
    class Nothing:
        tensors, missing, taps, provider = (), ("a", "b"), (), "CPU"

    with pytest.raises(BundleError, match=r"none of the 2 quantized tensors of .*int8\.onnx is in the file that was run"):
        Checker(tiny_bundle, "int8", Nothing())


def test_each_batch_is_run_once_for_all_mirrors_and_none_finds_anything_else_than_alone(tiny_bundle, runtime, batches):
    checker = Checker(tiny_bundle, "int8", runtime)
    together, elsewhere = checker.run(batches, [FAKE_QUANT, INTEGER], elsewhere=[AVX2])
    assert runtime.runs == 2
    alone = [checker.run(batches, [wanted])[0][0] for wanted in (FAKE_QUANT, INTEGER)]
    assert together == alone
    assert [(result.arithmetic, len(result.images), result.tensors[0].forced_share) for result in together] == [
        ("fake_quant", 4, 1.0), ("integer", 4, 1.0),
    ]  # fmt: skip
    (judged,), _ = checker.run(batches, [Wanted("integer", AVX2)])
    assert elsewhere == {"avx2": judged}


def test_a_mirror_for_information_that_cannot_compute_a_graph_ends_alone(tiny_bundle, runtime, batches, failing):
    runs = failing(AVX2, at=2)
    checker = Checker(tiny_bundle, "int8", runtime)
    (result,), elsewhere = checker.run(batches, [Wanted("integer", VNNI)], elsewhere=[AVX2, KERNELS["arm64"]])
    assert (len(result.images), runtime.runs) == (4, 2)
    assert str(elsewhere["avx2"]) == "the mirror cannot compute Conv a"
    assert len(elsewhere["arm64"].images) == 4
    assert runs == ["vnni", "avx2", "arm64"] * 2


def test_a_mirror_for_information_that_cannot_be_built_is_not_run(tiny_bundle, runtime, batches, monkeypatch):
    def refuse(_checker, _family):
        raise UnsupportedGraphError("ONNX Runtime does not load the file")

    monkeypatch.setattr(Checker, "_hold_other", refuse)
    (result,), elsewhere = Checker(tiny_bundle, "int8", runtime).run(batches, [Wanted("integer", VNNI)], elsewhere=[AVX2])
    assert len(result.images) == 4
    assert str(elsewhere["avx2"]) == "ONNX Runtime does not load the file"


def test_a_mirror_that_is_judged_and_cannot_compute_a_graph_ends_the_check(tiny_bundle, runtime, batches, failing):
    failing(VNNI, at=1)
    with pytest.raises(UnsupportedGraphError, match="the mirror cannot compute Conv a"):
        Checker(tiny_bundle, "int8", runtime).run(batches, [Wanted("integer", VNNI)])


def test_without_an_image_nothing_was_compared(tiny_bundle, runtime):
    with pytest.raises(ImageSetError, match="no image could be read; nothing was compared"):
        Checker(tiny_bundle, "int8", runtime).run(lambda: (), [INTEGER])


def test_codes_of_the_deployed_run_are_left_as_they_are(tiny_bundle, runtime, batches):
    kept = {}

    class Keeping(Counting):
        def run(self, images):
            inspected = super().run(images)
            kept.update({name: (codes, codes.copy()) for name, codes in inspected.codes.items()})
            return inspected

    Checker(tiny_bundle, "int8", Keeping(tiny_bundle)).run(batches, [INTEGER, FAKE_QUANT])
    assert kept
    for codes, before in kept.values():
        np.testing.assert_array_equal(codes, before)


def test_maps_of_equal_values_are_computed_once(tiny_bundle, runtime, batches, monkeypatch):
    calls = []
    gradient = Mirror.gradient
    monkeypatch.setattr(Mirror, "gradient", lambda mirror, *given: calls.append(mirror) or gradient(mirror, *given))
    (result,), _ = Checker(tiny_bundle, "int8", runtime).run(batches, [Wanted("integer", VNNI)])
    assert result.figures["tap"] == 1.0
    assert len(calls) == 2  # one for each batch
    twice = Checker(tiny_bundle, "int8", runtime)
    monkeypatch.setattr("qcam.evaluate.check.checker.same_bits", lambda one, other: False)
    (again,), _ = twice.run(batches, [Wanted("integer", VNNI)])
    assert len(calls) == 6
    assert again == result


def test_the_time_of_every_part_is_told(tiny_bundle, runtime, batches):
    watch = Stopwatch()
    Checker(tiny_bundle, "int8", runtime).run(batches, [INTEGER, FAKE_QUANT], elsewhere=[AVX2], stopwatch=watch)
    assert set(watch.seconds) == {
        "waiting for images", "exposed run", "integer mirror", "fake-quant mirror", "other CPUs' mirrors",
        "fed with the deployed codes", "comparing", "CAMs",
    }  # fmt: skip
    assert all(seconds > 0 for seconds in watch.seconds.values())
