"""`qcam.explain`: the CAMs of one picture are those of a study."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pretended import pretend_cuda

import qcam


@pytest.fixture(scope="module")
def picture(some_photographs):
    return sorted(some_photographs.iterdir())[0]


@pytest.fixture(scope="module")
def shown(tiny_bundle, picture):
    return qcam.explain(tiny_bundle, picture, precisions=("int8", "f32"), threads=1)


def test_maps_are_those_of_a_study(shown, studied, picture) -> None:
    assert shown.precisions == ["f32", "int8"]
    stored = {item.precision: item.array for item in studied.maps(images=[picture.name]) if item.kind == "deployed"}
    for precision in shown.precisions:
        np.testing.assert_allclose(shown.maps[precision], stored[precision], rtol=1e-5, atol=1e-7)
    rows = {row["precision"]: row for row in studied.to_arrow().to_pylist() if row["image"] == picture.name}
    assert shown.target == {name: rows[name]["target_class"] for name in shown.precisions}
    assert {name: int(shown.logits[name].argmax()) for name in shown.precisions} == {
        name: rows[name]["top1"] for name in shown.precisions
    }
    assert shown.top1("f32") == f"class {rows['f32']['top1']}"


def test_a_file_an_image_and_an_array_are_the_same(shown, tiny_bundle, picture) -> None:
    with Image.open(picture) as opened:
        rgb = opened.convert("RGB")
    for given in (rgb, np.asarray(rgb), str(picture)):
        again = qcam.explain(str(tiny_bundle.folder), given, threads=1)
        np.testing.assert_array_equal(again.maps["int8"], shown.maps["int8"])


def test_an_overlay_has_the_network_s_input_size(shown) -> None:
    overlay = shown.overlay("int8")
    assert (overlay.mode, overlay.size) == ("RGB", (32, 32))
    np.testing.assert_array_equal(np.asarray(shown.overlay("f32", opacity=0)), shown.picture)
    with pytest.raises(qcam.QcamError, match="precision 'int16' was not explained; choose one of f32, int8"):
        shown.overlay("int16")
    with pytest.raises(qcam.QcamError, match="colour map 'rainbow' is unknown"):
        shown.overlay("f32", colormap="rainbow")


def test_a_notebook_shows_both_pictures_and_loads_nothing(shown) -> None:
    html = shown._repr_html_()
    assert html.count('src="data:image/png;base64,') == 2
    assert "http" not in html


@pytest.mark.parametrize("method", ["hirescam", "layercam", "eigencam"])
def test_methods_explain_the_tap_of_the_deployed_run(tiny_bundle, picture, monkeypatch, method) -> None:
    from qcam.evaluate.maps.cam import cam
    from qcam.runtime.deployed import DeployedModel, SessionSettings
    from qcam.runtime.mirror import Mirror

    gradients = []
    real = Mirror.gradient
    monkeypatch.setattr(Mirror, "gradient", lambda *given: gradients.append(real(*given)) or gradients[-1])
    found = qcam.explain(tiny_bundle, picture, "int8", method=method, target="own-top1", threads=1)
    session = DeployedModel(tiny_bundle, "int8", SessionSettings(threads=1))
    tap = session.entry.tap.dequantize(session.run(tiny_bundle.preprocessing.normalise(found.picture[None])).tap)
    assert len(gradients) == (method != "eigencam")
    gradient = gradients[0].numpy() if gradients else None
    np.testing.assert_array_equal(found.maps["int8"], cam(tap, gradient, method)[0])
    assert found.maps["int8"].any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), "give 8-bit RGB"),
        (np.zeros((8, 8, 3), np.float32), "give 8-bit RGB"),
        ("nowhere.jpg", "nowhere.jpg cannot be used"),
    ],
)
def test_what_is_no_picture_is_refused(tiny_bundle, image, message) -> None:
    with pytest.raises(qcam.QcamError, match=message):
        qcam.explain(tiny_bundle, image)


def test_there_is_no_label_of_one_picture(tiny_bundle, picture) -> None:
    with pytest.raises(qcam.QcamError, match="needs a labelled image set"):
        qcam.explain(tiny_bundle, picture, target="label")


@pytest.mark.parametrize("threads", [0, -1, "2"])
def test_threads_that_there_cannot_be_are_refused(tiny_bundle, picture, threads) -> None:
    with pytest.raises(qcam.QcamError, match=f"threads {threads!r}: give a whole number, 1 or more"):
        qcam.explain(tiny_bundle, picture, threads=threads)


@pytest.mark.parametrize("opacity", [3, -0.1, float("nan"), "half", True])
def test_an_opacity_that_is_no_share_is_refused(shown, opacity) -> None:
    with pytest.raises(qcam.QcamError, match=r"opacity .*: give a number between 0 and 1"):
        shown.overlay("int8", opacity=opacity)


def test_one_precision_may_be_a_text(tiny_bundle, picture) -> None:
    assert qcam.explain(tiny_bundle, picture, "int8", threads=1).precisions == ["int8"]


def test_of_a_whole_bundle_on_cuda_int16_is_left_out_and_told(tiny_bundle, picture, monkeypatch, caplog) -> None:
    pretend_cuda(monkeypatch)
    found = qcam.explain(tiny_bundle, picture, precisions=(), provider="CUDA", threads=1, device="cpu")
    assert found.precisions == ["f32", "int8"]
    assert any("int16 of tiny is left out: CUDA has no kernels" in text for text in caplog.messages)
    with pytest.raises(qcam.ProviderError, match="leave int16 out"):
        qcam.explain(tiny_bundle, picture, precisions="int16", provider="CUDA", threads=1, device="cpu")
