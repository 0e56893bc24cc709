"""The bar: the integer mirror computes every code that ONNX Runtime's real kernels compute, on each CPU family.

Two photographs a model by default; QCAM_TEST_IMAGES=20 takes as many as benchmarks/fidelity.py does. Large networks run on
this machine's kernels alone, or are left to smaller ones of their kind: `make networks` takes them all on all families.
"""

from __future__ import annotations

import os
import platform

import numpy as np
import pytest
from emulated import EmulatedModel, where_to_run
from emulation import why_not

from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.held import Wanted
from qcam.evaluate.check.result import LOGITS
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.runtime.bundle import load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import disagreements, find_groups
from qcam.runtime.kernels import KERNELS

pytestmark = pytest.mark.slow

IMAGES = int(os.environ.get("QCAM_TEST_IMAGES", "2"))
ALL = os.environ.get("QCAM_TEST_NETWORKS") == "all"
if ALL:
    STUDY: tuple[str, ...] = ("vgg16", "resnet50", "densenet121", "mobilenet_v2", "squeezenet1_0", "efficientnet_b0")
else:
    STUDY = ("mobilenet_v2", "squeezenet1_1", "efficientnet_b0")
#: Architectures that no rule was fitted on; tests/test_any_network.py has six more on this machine's kernels.
UNSEEN = ("regnet_x_400mf", "alexnet", "mnasnet1_0", "shufflenet_v2_x1_0", "timm:resnet26d") if ALL else ("regnet_x_400mf",)
LARGE = ("resnet50", "densenet121", "timm:resnet26d")
#: The exact sums of x86 run without an emulator on every x86.
HERE = "arm64" if platform.machine() in ("arm64", "aarch64") else "vnni"
FAMILIES = pytest.mark.parametrize("family", list(KERNELS))


def pairs(models):
    """Return what `parametrize` wants: each network on each family."""
    found = [(model, family) for model in models for family in KERNELS if ALL or model not in LARGE or family == HERE]
    return pytest.mark.parametrize(("model", "family"), found)


def photographs(bundle, count=IMAGES):
    images = evaluation_photographs()[:count]
    crops = [bundle.preprocessing.crop_image(decode(image.path).image) for image in images]
    return [image.name for image in images], bundle.preprocessing.normalise(np.stack(crops))


def deployed_on(family, bundle, images):
    if reason := why_not(where_to_run(family)[0]):
        pytest.skip(reason)
    return EmulatedModel(bundle, "int8", images, family, batch=2)


def check(bundle, family):
    names, images = photographs(bundle)
    real = deployed_on(family, bundle, images)

    def batches():
        for start in range(0, len(names), 2):
            yield names[start : start + 2], images[start : start + 2]

    (result,), _ = Checker(bundle, "int8", real, threads=2).run(batches, [Wanted("integer", KERNELS[family], exact=True)])
    wrong = {tensor.operator: tensor.elements - tensor.equal for tensor in result.coded if tensor.equal != tensor.elements}
    assert len(result.coded) >= 10
    assert not wrong
    logits = result.tensors[-1]
    assert logits.name == LOGITS
    if logits.operator.endswith("(float)"):
        assert max(image.logit_error for image in result.images) < 1e-6
    else:
        assert logits.equal == logits.elements
    assert result.figures["cc"] == 1.0


@FAMILIES
def test_trained_lite0_is_mirrored_code_for_code(lite0_bundle, family):
    check(lite0_bundle, family)


@pairs(STUDY)
def test_the_study_models_are_mirrored_code_for_code(seeded_bundle, model, family):
    check(seeded_bundle(model), family)


@pairs(UNSEEN)
def test_architectures_no_rule_was_fitted_on_are_mirrored_code_for_code(seeded_bundle, model, family):
    check(seeded_bundle(model), family)


@pytest.mark.parametrize("model", [*STUDY, *UNSEEN])
def test_fusion_is_what_the_session_ran(seeded_bundle, model):
    bundle = seeded_bundle(model)
    graph = Graph(load_onnx(bundle, "int8"))
    ran = DeployedModel(bundle, "int8", SessionSettings()).placement.kernel_of
    assert len(ran) > 10
    assert disagreements(find_groups(graph), graph, ran) == []


def test_a_reduced_range_makes_avx2_equal_to_vnni(reduced_lite0_bundle):
    _, images = photographs(reduced_lite0_bundle)
    saturating, exact = (deployed_on(family, reduced_lite0_bundle, images).run(images) for family in ("avx2", "vnni"))
    assert len(exact.codes) > 50
    for name, codes in exact.codes.items():
        np.testing.assert_array_equal(saturating.codes[name], codes, err_msg=name)
    np.testing.assert_array_equal(saturating.outputs.logits, exact.outputs.logits)


def test_an_unprotected_bundle_differs_on_avx2(lite0_bundle):
    _, images = photographs(lite0_bundle)
    saturating, exact = (deployed_on(family, lite0_bundle, images).run(images) for family in ("avx2", "vnni"))
    shares = [np.mean(saturating.codes[name] == codes) for name, codes in exact.codes.items()]
    assert min(shares) < 0.9
