"""Files of other tools in a check and in a study: fed as they take pictures, their settings and what is not promised told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brought_files import PLAIN, brought, described, manifest, network, written

import qcam
from qcam.common.files import sha256_file
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.run import run_check
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import Bundle, load_bundle

#: Written by the code of before schema 2.
OLD = Path(__file__).parents[2] / "runtime" / "schema1" / "s8s8"
REMARK = "logits come from the file as it was given, codes from a copy that also hands out the CAM layer and runs otherwise"


def named_int8(bundle: Bundle, **further: Any) -> Bundle:
    """Return the bundle, its precision called int8: of that equal codes are promised."""
    (entry,) = bundle.to_json()["precisions"]
    return written(bundle.folder, manifest([entry | {"name": "int8"} | further]))


def test_a_file_of_another_input_and_batch_is_checked_like_any_other(tmp_path: Path, known_cpu: str) -> None:
    checked = {}
    for name, taken in (("plain", {}), ("other", {"layout": "NHWC", "dtype": "uint8", "values": "pixels", "batch": 2})):
        bundle = named_int8(brought(tmp_path / name, **taken))
        found = run_check([bundle], evaluation_photographs()[:3], CheckOptions(every_tensor=True))
        (judged,) = found.judged
        assert judged.result.exact
        assert found.holds, found.reason
        assert judged.result.figures["codes"] == 1
        assert all(remark.startswith("float kernels: the runtime's own") for remark in judged.result.remarks)
        checked[name] = judged.result
    plain, other = checked["plain"], checked["other"]
    assert [image.image for image in plain.images] == [image.image for image in other.images]
    assert [tensor.elements for tensor in plain.tensors] == [tensor.elements for tensor in other.tensors]
    for one, two in zip(plain.images, other.images, strict=True):
        assert (one.tap, one.logits_equal, one.top1) == (two.tap, two.logits_equal, two.top1)


def test_nothing_is_promised_where_logits_and_codes_are_of_two_files(tmp_path: Path, known_cpu: str) -> None:
    for proof, bias in (("differs", 2.5), ("bitwise", 0.0)):
        bundle = named_int8(brought(tmp_path / proof, original=network(tapped=False, bias=bias), proof=proof))
        found = run_check([bundle], evaluation_photographs()[:2], CheckOptions())
        (judged,) = found.judged
        assert judged.result.exact is (proof == "bitwise")
        assert [text for text in found.warnings if REMARK in text] == (
            [f"brought int8: {REMARK}: nothing is promised"] if proof == "differs" else []
        )
        assert all(image.logits_equal is (proof == "bitwise") for image in judged.result.images)
        assert judged.result.figures["tap"] == 1


def test_a_check_records_the_settings_that_can_change_a_code(known_cpu: str) -> None:
    found = run_check([load_bundle(OLD)], evaluation_photographs()[:1], CheckOptions())
    assert found.to_json()["sessions"] == {"tiny": {"int8": {"session.qdqisint8allowed": "1"}}}
    assert found.placement()["tiny"]["int8"]["session_config"] == {"session.qdqisint8allowed": "1"}
    (line,) = [text for text in found.remarks if "settings:" in text]
    assert line.startswith("tiny int8 on CPU: integer kernels")
    assert line.endswith("; settings: session.qdqisint8allowed=1")


def test_kernels_are_asked_under_the_settings_that_a_file_is_deployed_with(tmp_path: Path, monkeypatch: Any) -> None:
    from qcam.runtime.deployed import probe

    asked: list[dict[str, str]] = []
    ask = probe.probe_kernels
    monkeypatch.setattr(probe, "probe_kernels", lambda config=None: (asked.append(dict(config or {})), ask(config))[1])
    bundle = named_int8(brought(tmp_path / "b"), session={"session.x64quantprecision": "1", "session.qdqisint8allowed": "1"})
    run_check([bundle], evaluation_photographs()[:1], CheckOptions())
    assert {"session.x64quantprecision": "1"} in asked


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> qcam.StudyResults:
    """A study of two bundles: one of schema 1 with settings, one of two precisions, of which one has an original apart."""
    root = tmp_path_factory.mktemp("studied")
    folder = brought(root / "b", original=network(tapped=False, bias=2.5), proof="differs").folder
    entry = json.loads((folder / "bundle.json").read_text())["precisions"][0]
    taken = {"layout": "NHWC", "dtype": "uint8", "values": "pixels", "batch": 2}
    (folder / "turned.onnx").write_bytes(network(**taken).SerializeToString())
    turned = described(folder, "turned.onnx", "turned", input=PLAIN | taken)
    written(folder, manifest([entry, turned]))
    images = root / "images"
    images.mkdir()
    for photograph in evaluation_photographs()[:3]:
        (images / photograph.name).write_bytes(photograph.path.read_bytes())
    return qcam.study(
        [OLD, folder], images=images, saliency="none", target="own-top1", output=root / "out", grid_rows=0, batch_size=3
    )


def test_every_table_of_a_study_tells_settings_and_what_is_not_promised(studied: qcam.StudyResults) -> None:
    run = json.loads((studied.folder / "run.json").read_text())
    precisions = run["models"]["tiny"]["precisions"]
    assert {name: of.get("session_config") for name, of in precisions.items()} == {
        "f32": None, "int16": None, "int8": {"session.qdqisint8allowed": "1"},
    }  # fmt: skip
    for file in ("table.md", "report.html"):
        text = (studied.folder / file).read_text().replace("\\", "")
        assert "settings: session.qdqisint8allowed=1" in text
        assert f"{REMARK}: nothing is promised" in text
    assert {"copy of int8-vendor", "deployed int8-vendor"} <= run["seconds"].keys()


def test_one_network_that_takes_pictures_in_two_ways_has_one_map(studied: qcam.StudyResults) -> None:
    maps: dict[str, list[np.ndarray]] = {"int8-vendor": [], "turned": []}
    for found in studied.maps():
        if found.model == "brought":
            maps[found.precision].append(np.asarray(found.values))
    assert len(maps["turned"]) == 6  # deployed and simulated, of three images
    for one, other in zip(maps["int8-vendor"], maps["turned"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert one.any()


def test_a_picture_is_explained_by_a_file_that_takes_pixels(tmp_path: Path) -> None:
    taken = {"layout": "NHWC", "dtype": "uint8", "values": "pixels", "batch": 2}
    bundle = brought(tmp_path / "b", **taken)
    picture = evaluation_photographs()[0].path
    found = qcam.explain(bundle, picture, "int8-vendor", target="own-top1")
    plain = qcam.explain(brought(tmp_path / "c"), picture, "int8-vendor", target="own-top1")
    np.testing.assert_allclose(found.logits["int8-vendor"], plain.logits["int8-vendor"], rtol=1e-6)
    np.testing.assert_allclose(found.maps["int8-vendor"], plain.maps["int8-vendor"], rtol=1e-6)
    assert sha256_file(bundle.path("int8-vendor")) == bundle.precision("int8-vendor").sha256
