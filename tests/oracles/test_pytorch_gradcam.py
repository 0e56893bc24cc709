"""qcam's CAMs against the package pytorch-grad-cam, for the paper's six networks and the trained EfficientNet-Lite0.

Grad-CAM++, Grad-CAM, HiResCAM and LayerCAM, and Eigen-CAM but for its sign.

Activation and gradient are taken here with a hook of our own; both sides run the same network on the same photograph.
The paper's networks have seeded weights. Their BatchNorm statistics are taken from photographs: with those of a fresh
network (mean 0, variance 1) the activations of MobileNet-V2 and EfficientNet-B0 fade to 1e-8 and 1e-13, and what would
be compared is not pytorch-grad-cam's CAM but the 1e-7 under its min-max.

Measured, largest difference of maps stretched to 0..1 (pytorch-grad-cam computes in float32, qcam in float64):

    network                Grad-CAM++: as it is, enlarged    Grad-CAM: as it is, enlarged
    efficientnet_lite0            2.8e-7   4.2e-7                   5.1e-7   4.1e-7
    vgg16                         8.8e-7   9.4e-7                   7.0e-7   8.5e-7
    resnet50                      1.8e-6   1.8e-6                   1.3e-6   1.3e-6
    mobilenet_v2                  1.2e-6   1.3e-6                   9.4e-7   9.1e-7
    squeezenet1_0                 4.3e-7   5.9e-7                   1.0e-6   9.5e-7
    efficientnet_b0               8.5e-7   8.4e-7                   1.6e-6   1.4e-6
    densenet121                   5.7e-7   7.0e-7                   3.7e-7   3.3e-7
    densenet121 norm5             9.4e-7   9.3e-7                   8.2e-7   8.8e-7

The map as it is, at the layer's resolution, is compared with that 1e-7 taken out of theirs: it alone would make 1.3e-4
of vgg16's Grad-CAM, which spans 8e-4. Stretching again after enlarging, as they do, takes it out of the final map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchvision import models

from qcam.evaluate.maps.cam import cam, eigen_map, gradcam_plus_plus_weights, gradcam_weights, normalise, upsample
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile
from qcam.models.sources import TORCHVISION_MODELS, load_model

Array = NDArray[np.float64]

#: What pytorch-grad-cam adds to alpha's denominator.
EPSILON = 1e-6
#: What pytorch-grad-cam adds to the maximum it divides by.
SPAN_EPSILON = 1e-7
#: Largest difference of two maps in 0..1; the largest measured is 1.8e-6.
TOLERANCE = 1e-5

IMAGENET = Preprocessing(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STUDY = ("vgg16", "resnet50", "mobilenet_v2", "squeezenet1_0", "efficientnet_b0", "densenet121")
NETWORKS = ("efficientnet_lite0", *STUDY, "densenet121 norm5")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on shared cores wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Case:
    """A network on a photograph: its CAM layer, and what our own hook saw there."""

    module: nn.Module
    layer: nn.Module
    inputs: torch.Tensor
    target: int
    activation: Array
    gradient: Array


def network_inputs(files: list[ImageFile], preprocessing: Preprocessing) -> torch.Tensor:
    pictures = [decode(file.path).image for file in files]
    crops = np.stack([preprocessing.crop_image(picture) for picture in pictures if picture is not None])
    return torch.from_numpy(preprocessing.normalise(crops))


def seeded(name: str) -> nn.Module:
    """Build one of the paper's networks with seeded weights and BatchNorm statistics of real photographs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.get_model(name, weights=None).eval()
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            module(network_inputs(calibration_photographs()[:4], IMAGENET))
    return module.eval().requires_grad_(False)


def network(name: str) -> tuple[nn.Module, nn.Module, Preprocessing]:
    """Return a network, the layer whose CAM is qcam's default, and the preprocessing."""
    if name == "efficientnet_lite0":
        model = load_model(name, None)
        return model.module, model.module.get_submodule(model.cam_layer), model.preprocessing
    module = seeded(name.split()[0])
    if name == "densenet121 norm5":
        return module, module.features.norm5, IMAGENET
    if name == "densenet121":
        # The ReLU behind norm5 is a function call; to be hooked it must be a module. The network stays the same.
        parts = [module.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), module.classifier]
        rebuilt = nn.Sequential(*parts).eval()
        image = network_inputs(evaluation_photographs()[:1], IMAGENET)
        with torch.no_grad():
            assert torch.equal(rebuilt(image), module(image))
        return rebuilt, rebuilt[1], IMAGENET
    return module, module.get_submodule(TORCHVISION_MODELS[name]), IMAGENET


@lru_cache(maxsize=2)
def case(name: str) -> Case:
    module, layer, preprocessing = network(name)
    inputs = network_inputs(evaluation_photographs()[1:2], preprocessing).requires_grad_(True)
    seen: dict[str, torch.Tensor] = {}

    def see(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        seen["activation"] = output
        output.register_hook(lambda gradient: seen.__setitem__("gradient", gradient.clone()))

    handle = layer.register_forward_hook(see)
    logits = module(inputs)
    target = int(logits.argmax())
    logits[0, target].backward()
    handle.remove()
    # Read after the pass, as pytorch-grad-cam does: DenseNet applies an in-place ReLU to what norm5 handed out, so the
    # activation is the one behind the ReLU, while the gradient is the one before it.
    return Case(
        module,
        layer,
        inputs,
        target,
        seen["activation"].detach().numpy().astype(np.float64),
        seen["gradient"].numpy().astype(np.float64),
    )


def theirs(given: Case, method: type[BaseCAM]) -> tuple[Array, Array]:
    """Return pytorch-grad-cam's map at the layer's resolution, not yet stretched, and its final one."""
    with method(given.module, [given.layer]) as explain:
        final = explain(given.inputs, [ClassifierOutputTarget(given.target)])
        seen = explain.activations_and_grads
        activation, gradient = seen.activations[0].numpy(), seen.gradients[0].numpy()
        np.testing.assert_array_equal(activation, given.activation.astype(np.float32))
        np.testing.assert_array_equal(gradient, given.gradient.astype(np.float32))
        low = np.maximum(explain.get_cam_image(given.inputs, given.layer, [], activation, gradient, False), 0)
    return low, final


def weighted(weights: Array, activation: Array) -> Array:
    return np.maximum(np.einsum("bk,bkij->bij", weights, activation), 0)


METHODS: dict[str, tuple[type, Callable[[Array, Array], Array]]] = {
    "gradcam++": (GradCAMPlusPlus, lambda a, g: weighted(gradcam_plus_plus_weights(a, g, EPSILON), a)),
    "gradcam": (GradCAM, lambda a, g: weighted(gradcam_weights(a, g), a)),
    "hirescam": (HiResCAM, lambda a, g: cam(a, g, "hirescam")),
    "layercam": (LayerCAM, lambda a, g: cam(a, g, "layercam")),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_pytorch_grad_cam_s(name: str, method: str) -> None:
    given = case(name)
    oracle, ours = METHODS[method]
    low, final = theirs(given, oracle)
    raw = ours(given.activation, given.gradient)
    if method == "gradcam":  # the other has no epsilon to set from outside
        np.testing.assert_allclose(raw, cam(given.activation, given.gradient, "gradcam"), rtol=0, atol=1e-12)
    span = np.ptp(raw)
    assert span > 100 * SPAN_EPSILON  # a comparison of nothing with nothing would prove nothing

    # At the layer's resolution. Their min-max divides by maximum + 1e-7; that constant is taken out again.
    stretched = scale_cam_image(low) * (span + SPAN_EPSILON) / span
    assert stretched.shape == raw.shape == given.activation.shape[:1] + given.activation.shape[2:]
    assert np.abs(normalise(raw) - stretched).max() <= TOLERANCE

    # Enlarged: they stretch, enlarge with OpenCV, and stretch again.
    enlarged = normalise(upsample(normalise(raw), (224, 224)))
    assert final.shape == enlarged.shape == (1, 224, 224)
    assert np.abs(enlarged - final).max() <= TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_eigencam_is_pytorch_grad_cam_s_with_a_sign(name: str) -> None:
    given = case(name)
    with EigenCAM(given.module, [given.layer]) as explain:
        projection = explain.get_cam_image(given.inputs, given.layer, [], given.activation.astype(np.float32), None, False)
        final = explain(given.inputs, None)
    ours = eigen_map(given.activation)
    active = given.activation.sum(axis=1)
    assert np.corrcoef(ours.ravel(), active.ravel())[0, 1] > 0
    sign = np.sign((projection * ours).sum())  # theirs is whatever the library gives
    assert np.abs(sign * projection - ours).max() <= TOLERANCE * np.ptp(ours)
    expected = final if sign > 0 else normalise(upsample(normalise(np.maximum(-projection, 0)), (224, 224)))
    enlarged = normalise(upsample(normalise(cam(given.activation, method="eigencam")), (224, 224)))
    assert np.abs(enlarged - expected).max() <= TOLERANCE


def test_densenet_s_gradient_before_the_relu_is_masked() -> None:
    # qcam taps behind the ReLU and so explains by the whole gradient; pytorch-grad-cam at norm5 mixes the activation
    # behind the ReLU with the gradient before it. Where the ReLU passes, the two gradients are one.
    behind, before = case("densenet121"), case("densenet121 norm5")
    np.testing.assert_array_equal(behind.activation, before.activation)
    passes = behind.activation > 0
    np.testing.assert_array_equal(behind.gradient[passes], before.gradient[passes])
    assert not before.gradient[~passes].any()
    assert behind.gradient[~passes].any()


def test_their_epsilon_is_what_sets_their_map_apart() -> None:
    # Without it, as in equation 19 and in qcam, the trained network's map moves by 0.03 of its range: gradients are
    # about 1e-3 there, so their squares are about the 1e-6 that is added to them.
    given = case("efficientnet_lite0")
    _, final = theirs(given, GradCAMPlusPlus)
    exact = normalise(upsample(normalise(cam(given.activation, given.gradient)), (224, 224)))
    assert 0.01 < np.abs(exact - final).max() < 0.05


def test_a_network_with_fresh_batchnorm_has_no_map_to_compare() -> None:
    # Why the statistics are taken from photographs. EfficientNet-B0 as torchvision builds it:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.get_model("efficientnet_b0", weights=None).eval()
    with torch.no_grad():
        fresh = module.features(network_inputs(evaluation_photographs()[1:2], IMAGENET)).abs().max()
    assert fresh < SPAN_EPSILON
    assert np.abs(case("efficientnet_b0").activation).max() > 0.1
