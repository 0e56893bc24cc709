"""SIM, CC and KLD against pysaliency and SciPy.

Argument order: pysaliency's KLD is `image_based_kl_divergence(prediction, truth)` and weights by the *second*, the
truth: sum Q log(eps + Q / (P + eps)). qcam's `divergence(map, reference)` weights by the *first*, as the paper does. So
`divergence(P, Q)` is pysaliency's with the two swapped: `MIT_KLDiv(Q, P)`. SIM and CC are symmetric.

pysaliency's epsilon is 2.2204e-16, qcam's 2.220446049250313e-16: where a reference is 0 that moves the logarithm by
2.1e-5.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from qcam.common.packages import package_folder
from qcam.evaluate.maps.cam import cam, upsample
from qcam.evaluate.maps.metrics import EPSILON, correlation, divergence, similarity
from qcam.evaluate.saliency import crop_map, open_saliency
from qcam.images.decoding import decode
from qcam.images.embedded import evaluation_photographs
from qcam.models.sources import load_model

Array = NDArray[np.float64]
PAIRS = ("random", "sparse", "peaked", "real")


def load_metrics() -> ModuleType:
    """Load pysaliency/metrics.py alone: the package itself imports pkg_resources, which setuptools 81 dropped."""
    path = package_folder("pysaliency", "needed for these tests") / "metrics.py"
    specification = importlib.util.spec_from_file_location("pysaliency_metrics", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


pysaliency = load_metrics()


@cache
def real_maps() -> tuple[Array, Array]:
    """Grad-CAM++ of the trained EfficientNet-Lite0 and U²-NetP's maps, of two photographs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on shared cores, more of them wait for each other longer than they work
    model = load_model("efficientnet_lite0", None)
    source = open_saliency("u2netp", 1)
    assert source is not None
    files = evaluation_photographs()[:2]
    pictures = [decode(file.path).image for file in files]
    found = []
    for file, picture in zip(files, pictures, strict=True):
        assert picture is not None
        found.append(crop_map(source.whole_map(picture, file), picture.size, model.preprocessing))
    crops = np.stack([model.preprocessing.crop_image(picture) for picture in pictures if picture is not None])
    seen: list[torch.Tensor] = []
    handle = model.module.get_submodule(model.cam_layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    logits = model.module(torch.from_numpy(model.preprocessing.normalise(crops)).requires_grad_(True))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), seen[0])
    torch.set_num_threads(threads)
    maps = cam(seen[0].detach().numpy(), gradient.numpy())
    return upsample(maps, (224, 224)), np.stack(found).astype(np.float64)


def pairs(kind: str) -> tuple[Array, Array]:
    """Return evaluated maps and references, none of them constant."""
    chance = np.random.default_rng(7)
    shape = (12, 20, 30)
    match kind:
        case "random":  # nowhere 0
            return chance.random(shape) + 1e-3, chance.random(shape) + 1e-3
        case "sparse":  # both 0 in places, at times where the other is not
            return chance.random(shape) * (chance.random(shape) > 0.5), chance.random(shape) * (chance.random(shape) > 0.3)
        case "peaked":  # a near-binary mask as reference, fifteen orders of magnitude in the map
            return chance.random(shape) ** 50, (chance.random(shape) > 0.8).astype(np.float64)
        case _:
            return real_maps()


@pytest.mark.parametrize("kind", PAIRS)
def test_sim_is_pysaliency_s(kind: str) -> None:
    maps, references = pairs(kind)
    expected = [pysaliency.SIM(p, q) for p, q in zip(maps, references, strict=True)]
    np.testing.assert_allclose(similarity(maps, references), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", PAIRS)
def test_cc_is_pysaliency_s_and_scipy_s(kind: str) -> None:
    maps, references = pairs(kind)
    found = correlation(maps, references)
    expected = [pysaliency.CC(p, q) for p, q in zip(maps, references, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    pearson = [scipy.stats.pearsonr(p.ravel(), q.ravel()).statistic for p, q in zip(maps, references, strict=True)]
    np.testing.assert_allclose(found, pearson, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", PAIRS)
def test_kld_is_pysaliency_s_with_the_arguments_swapped(kind: str) -> None:
    maps, references = pairs(kind)
    # Where maps are 0 in places, log(2.220446e-16 / 2.2204e-16) = 2.1e-5; the real ones come close to 0 (1e-9).
    tolerance = {"random": 1e-12, "real": 1e-10, "sparse": 3e-5, "peaked": 3e-5}[kind]
    with np.errstate(divide="ignore"):  # pysaliency takes the logarithm of 0 and brings it back by exp
        weighted_by_map = [pysaliency.MIT_KLDiv(q, p) for p, q in zip(maps, references, strict=True)]
        weighted_by_reference = [pysaliency.MIT_KLDiv(p, q) for p, q in zip(maps, references, strict=True)]
    np.testing.assert_allclose(divergence(maps, references), weighted_by_map, rtol=0, atol=tolerance)
    np.testing.assert_allclose(divergence(references, maps), weighted_by_reference, rtol=0, atol=tolerance)
    # The order matters: nobody could mistake one for the other here.
    assert np.abs(np.array(weighted_by_map) - weighted_by_reference).max() > 0.01


@pytest.mark.parametrize("kind", PAIRS)
def test_kld_is_pysaliency_s_to_rounding_at_the_same_epsilon(kind: str) -> None:
    maps, references = pairs(kind)
    settings = {"minimum_value": 0, "log_regularization": EPSILON, "quotient_regularization": EPSILON}
    with np.errstate(divide="ignore"):
        expected = [pysaliency.image_based_kl_divergence(q, p, **settings) for p, q in zip(maps, references, strict=True)]
    np.testing.assert_allclose(divergence(maps, references), expected, rtol=0, atol=1e-11)


def test_kld_is_scipy_s_entropy_where_no_map_is_zero() -> None:
    maps, references = pairs("random")
    expected = [scipy.stats.entropy(p.ravel(), q.ravel()) for p, q in zip(maps, references, strict=True)]
    np.testing.assert_allclose(divergence(maps, references), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", [similarity, correlation, divergence])
def test_constant_maps_have_no_value_where_pysaliency_makes_one_up(metric: object) -> None:
    flat, ramp = np.ones((1, 2, 2)), np.arange(4.0).reshape(1, 2, 2)
    assert callable(metric)
    assert np.isnan(metric(flat, ramp)).all()
    assert np.isnan(metric(ramp, flat)).all()
    assert pysaliency.CC(flat[0], ramp[0]) == 0
    assert np.isfinite(pysaliency.SIM(flat[0], ramp[0]))
