"""Class activation maps against arithmetic done by hand, in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcam.common.errors import QcamError
from qcam.evaluate.maps.cam import (
    METHODS,
    ablation_weights,
    cam,
    eigen_map,
    gradcam_plus_plus_weights,
    gradcam_weights,
    normalise,
    torchcam_weights,
    upsample,
    weighted_map,
)

#: Methods that are formulas of activation and gradient.
ALL = [*METHODS, "hirescam", "layercam", "eigencam"]

Rows = list[list[Fraction]]

# Two channels of 2 × 2. Channel 0 sums to 6, channel 1 to -1/2.
A: list[Rows] = [
    [[Fraction(1), Fraction(2)], [Fraction(0), Fraction(3)]],
    [[Fraction(-1), Fraction(1, 2)], [Fraction(1, 4), Fraction(-1, 4)]],
]
G: list[Rows] = [
    [[Fraction(1, 2), Fraction(-1, 4)], [Fraction(0), Fraction(1)]],
    [[Fraction(2), Fraction(1, 8)], [Fraction(-4), Fraction(1)]],
]


def array(channels: list[Rows]) -> NDArray[np.float64]:
    return np.array([[[[float(value) for value in row] for row in rows] for rows in channels]])


def flat(rows: Rows) -> list[Fraction]:
    return [value for row in rows for value in row]


def equation_19(activation: Rows, gradient: Rows, epsilon: Fraction = Fraction(0)) -> Fraction:
    """Chattopadhyay et al., equation 19 and what follows it, one channel, no shortcut."""
    total = sum(flat(activation), Fraction(0))
    weight = Fraction(0)
    for g in flat(gradient):
        if g != 0:
            alpha = g**2 / (2 * g**2 + total * g**3 + epsilon)
            weight += alpha * max(g, Fraction(0))
    return weight


def relu_of_weighted_sum(weights: list[Fraction]) -> list[list[float]]:
    return [
        [
            float(max(sum((w * rows[i][j] for w, rows in zip(weights, A, strict=True)), Fraction(0)), Fraction(0)))
            for j in (0, 1)
        ]
        for i in (0, 1)
    ]


def test_the_example_is_worked_out_right() -> None:
    # By hand. Channel 0, sum 6: g = 1/2 → alpha = (1/4) / (1/2 + 6/8) = 1/5, alpha·g = 1/10;
    #                            g = 1 → alpha = 1 / (2 + 6) = 1/8, alpha·g = 1/8; the others have relu(g) = 0.
    assert equation_19(A[0], G[0]) == Fraction(1, 10) + Fraction(1, 8) == Fraction(9, 40)
    # Channel 1, sum -1/2: g = 2 → 4 / (8 - 4) = 1, times 2; g = 1/8 → (1/64) / (2/64 - 1/1024) = 16/31, times 1/8;
    #                      g = 1 → 1 / (2 - 1/2) = 2/3.
    assert equation_19(A[1], G[1]) == 2 + Fraction(2, 31) + Fraction(2, 3)


def test_gradcam_plus_plus_is_equation_19() -> None:
    weights = [equation_19(a, g) for a, g in zip(A, G, strict=True)]
    assert gradcam_plus_plus_weights(array(A), array(G))[0].tolist() == pytest.approx([float(w) for w in weights], rel=1e-15)
    maps = cam(array(A), array(G))
    assert maps.dtype == np.float64
    # 9/40 · A₀ + 254/93 · A₁ is negative at the upper left, so 0 there.
    assert maps[0, 0, 0] == 0
    assert maps[0].tolist() == [pytest.approx(row, rel=1e-14) for row in relu_of_weighted_sum(weights)]


@pytest.mark.parametrize("epsilon", [Fraction(1, 1_000_000), Fraction(1, 100)])
def test_epsilon_goes_into_the_denominator(epsilon: Fraction) -> None:
    expected = [float(equation_19(a, g, epsilon)) for a, g in zip(A, G, strict=True)]
    found = gradcam_plus_plus_weights(array(A), array(G), float(epsilon))[0]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)
    assert found[0] < gradcam_plus_plus_weights(array(A), array(G))[0, 0]


def test_plain_gradcam_weights_by_the_mean_gradient() -> None:
    weights = [sum(flat(g), Fraction(0)) / 4 for g in G]
    assert weights == [Fraction(5, 16), Fraction(-7, 32)]
    assert gradcam_weights(array(A), array(G))[0].tolist() == pytest.approx([5 / 16, -7 / 32], rel=1e-15)
    assert cam(array(A), array(G), "gradcam")[0].tolist() == [
        pytest.approx(row, rel=1e-14) for row in relu_of_weighted_sum(weights)
    ]


def test_torch_cam_s_variant_has_no_alpha() -> None:
    # g²·relu(g) is relu(g)³.
    weights = [sum((max(g, Fraction(0)) ** 3 for g in flat(rows)), Fraction(0)) for rows in G]
    assert weights == [Fraction(9, 8), 9 + Fraction(1, 512)]
    assert torchcam_weights(array(A), array(G))[0].tolist() == pytest.approx([float(w) for w in weights], rel=1e-15)
    assert cam(array(A), array(G), "gradcam++-torchcam")[0].tolist() == [
        pytest.approx(row, rel=1e-14) for row in relu_of_weighted_sum(weights)
    ]


def test_hirescam_multiplies_position_by_position_and_layercam_leaves_negative_gradients_out() -> None:
    def by_hand(floor: Fraction | None) -> list[list[float]]:
        slopes = [[[g if floor is None else max(g, floor) for g in row] for row in rows] for rows in G]
        sums = [[sum(a[i][j] * g[i][j] for a, g in zip(A, slopes, strict=True)) for j in (0, 1)] for i in (0, 1)]
        return [[float(max(value, Fraction(0))) for value in row] for row in sums]

    # 1/2 - 2 is negative; -1/2 + 1/16 too; 0 - 1; 3 - 1/4.
    assert by_hand(None) == [[0, 0], [0, 2.75]]
    assert by_hand(Fraction(0)) == [[0, 0.0625], [0, 2.75]]
    assert cam(array(A), array(G), "hirescam")[0].tolist() == by_hand(None)
    assert cam(array(A), array(G), "layercam")[0].tolist() == by_hand(Fraction(0))


@pytest.mark.parametrize("turned", [1.0, -1.0])
def test_eigencam_s_sign_is_that_of_the_whole_layer(turned: float) -> None:
    # Two channels on one axis: (2, 1) · t, t = -3, 1, 2 behind a mean; the axis is (2, 1) / √5, so the map is √5 t.
    # With the first channel turned, the axis is (2, -1) / √5: its sum is positive still.
    t = np.array([-3.0, 1.0, 2.0])
    activation = np.stack([2 * t, turned * t])[None, :, None, :] + 7.0
    assert eigen_map(activation)[0, 0].tolist() == pytest.approx((np.sqrt(5) * t).tolist(), rel=1e-14)
    assert cam(activation, method="eigencam")[0, 0].tolist() == pytest.approx(
        (np.sqrt(5) * np.maximum(t, 0)).tolist(), rel=1e-14
    )
    assert eigen_map(-activation)[0, 0].tolist() == pytest.approx((-np.sqrt(5) * t).tolist(), rel=1e-14)


def test_eigencam_of_what_is_constant_is_zero_and_of_what_is_not_finite_is_nan() -> None:
    activation = np.ones((2, 3, 4, 5))
    activation[1, 0, 0, 0] = np.nan
    maps = cam(activation, method="eigencam")
    assert not maps[0].any()
    assert np.isnan(maps[1]).all()


def test_a_method_that_needs_a_gradient_says_so() -> None:
    with pytest.raises(QcamError, match=r"^CAM method layercam needs a gradient$"):
        cam(array(A), method="layercam")


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_where_nothing_speaks_for_the_class_the_map_is_zero(method: str, value: float) -> None:
    activation = np.random.default_rng(0).random((2, 3, 4, 5))
    maps = cam(activation, np.full_like(activation, value), method)
    assert maps.shape == (2, 4, 5)
    assert maps.any() == (method == "eigencam")  # which has no class


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_dead_activations_give_a_zero_map(epsilon: float) -> None:
    gradient = np.random.default_rng(0).normal(size=(1, 3, 4, 5))
    weights = gradcam_plus_plus_weights(np.zeros_like(gradient), gradient, epsilon)
    assert np.isfinite(weights).all()
    assert not cam(np.zeros_like(gradient), gradient).any()


def test_the_singularity_of_alpha_gives_no_nan() -> None:
    # sum A = -4 and g = 1/2: 2 g² + sum A · g³ = 1/2 - 1/2 = 0. Such a position is left out, its neighbours are not.
    activation = np.array([[[[-3.0, -1.0]], [[1.0, 1.0]]]])
    gradient = np.array([[[[0.5, 0.25]], [[1.0, 0.0]]]])
    weights = gradcam_plus_plus_weights(activation, gradient)
    assert weights[0].tolist() == pytest.approx([0.25 / (2 - 4 * 0.25), 1 / 4], rel=1e-15)
    assert np.isfinite(cam(activation, gradient)).all()
    assert np.isfinite(gradcam_plus_plus_weights(activation, gradient, 1e-6)).all()


@pytest.mark.parametrize("distance", [1e-16, 1e-12, -1e-12, 1e-3])
def test_near_the_singularity_maps_stay_finite(distance: float) -> None:
    activation = np.full((1, 1, 2, 2), -1.0 + distance)
    maps = cam(activation, np.full((1, 1, 2, 2), 0.5))
    assert np.isfinite(maps).all()
    assert (maps >= 0).all()


def test_tiny_gradients_are_not_lost_to_underflow() -> None:
    # g² would be 0 in float64; alpha is 1 / (2 + sum A · g), here 1/2.
    gradient = np.full((1, 1, 1, 2), 1e-200)
    assert gradcam_plus_plus_weights(np.ones((1, 1, 1, 2)), gradient)[0, 0] == pytest.approx(1e-200, rel=1e-12)


def test_the_rectified_sum_is_equation_19_with_relu_of_the_activation_in_its_denominator() -> None:
    rectified = [[[max(value, Fraction(0)) for value in row] for row in rows] for rows in A]
    weights = [equation_19(a, g) for a, g in zip(rectified, G, strict=True)]
    expected = np.array([[float(weight) for weight in weights]])
    np.testing.assert_allclose(METHODS["gradcam++-relu"](array(A), array(G)), expected, rtol=1e-15)
    np.testing.assert_allclose(cam(array(A), array(G), "gradcam++-relu")[0], relu_of_weighted_sum(weights), rtol=1e-14)
    assert not np.allclose(expected, gradcam_plus_plus_weights(array(A), array(G)))


def test_the_rectified_sum_is_the_sum_where_no_activation_is_negative() -> None:
    activation, gradient = np.random.default_rng(0).normal(size=(2, 2, 5, 4, 3))
    activation = np.abs(activation)
    assert np.array_equal(cam(activation, gradient, "gradcam++-relu"), cam(activation, gradient))


@pytest.mark.parametrize("method", ALL)
def test_images_of_a_batch_do_not_meet(method: str) -> None:
    chance = np.random.default_rng(0)
    activation, gradient = chance.normal(size=(2, 5, 6, 4, 3))
    whole = cam(activation, gradient, method)
    for index in range(5):
        alone = cam(activation[index : index + 1], gradient[index : index + 1], method)
        np.testing.assert_allclose(whole[index], alone[0], rtol=1e-13, atol=1e-13)


def test_float32_is_computed_in_float64() -> None:
    activation, gradient = np.random.default_rng(0).random((2, 1, 4, 3, 3)).astype(np.float32)
    assert np.array_equal(cam(activation, gradient), cam(activation.astype(np.float64), gradient.astype(np.float64)))


@pytest.mark.parametrize("method", ["gradcam+++", "GradCAM", ""])
def test_unknown_methods_are_refused(method: str) -> None:
    with pytest.raises(QcamError, match=r"is unknown; choose one of gradcam\+\+, gradcam\+\+-relu, gradcam, gradcam\+\+-torch"):
        cam(array(A), array(G), method)


def test_each_map_is_stretched_by_its_own_range() -> None:
    maps = np.array([[[1.0, 2.0], [3.0, 5.0]], [[-1e-9, 0.0], [1e-9, 0.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0] * 2] * 2])
    assert normalise(maps).tolist() == [
        [[0.0, 0.25], [0.5, 1.0]],
        [[0.0, 0.5], [1.0, 0.5]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
    ]


def test_normalising_twice_changes_nothing() -> None:
    maps = np.random.default_rng(0).random((3, 7, 7)) ** 8 * 1e-6
    once = normalise(maps)
    assert np.array_equal(once.min((1, 2)), [0, 0, 0])
    assert np.array_equal(once.max((1, 2)), [1, 1, 1])
    assert np.array_equal(normalise(once), once)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((7, 7), (224, 224)),
        ((13, 13), (224, 224)),
        ((14, 14), (227, 200)),
        ((8, 10), (8, 10)),
        ((1, 1), (5, 6)),
        ((1, 9), (4, 31)),
        ((2, 1), (9, 1)),
        ((9, 11), (4, 3)),
        ((100, 3), (7, 224)),
    ],
)
def test_enlarging_is_torch_s_bilinear(shape: tuple[int, int], size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(3, *shape))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False, antialias=False
    )[:, 0].numpy()
    assert expected.dtype == np.float64
    found = upsample(maps, size)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.abs(found - expected).max() <= 1e-12


def test_a_map_does_not_depend_on_how_its_activation_lies_in_memory():
    rng = np.random.default_rng(5)
    activation, gradient = (rng.normal(size=(3, 40, 7, 7)).astype(np.float32) for _ in range(2))
    last = [np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for values in (activation, gradient)]
    np.testing.assert_array_equal(cam(*last), cam(activation, gradient))


def test_a_gradient_given_once_for_all_positions_is_the_repeated_one():
    rng = np.random.default_rng(6)
    activation = rng.random((3, 40, 7, 7)).astype(np.float32)
    once = np.broadcast_to(rng.normal(size=(3, 40, 1, 1)).astype(np.float32), activation.shape)
    for method in ALL:
        np.testing.assert_allclose(cam(activation, once, method), cam(activation, once.copy(), method), rtol=1e-12)


def test_ablation_weights_are_the_part_of_the_score_that_goes() -> None:
    weights = ablation_weights(np.array([[4.0, 4.0, -2.0, 0.0]]), np.array([[1.0, 5.0, -3.0, 1.0]]))
    assert weights.tolist() == [[0.75, -0.25, -0.5, 0.0]]
    maps = weighted_map(weights[:, :2], array(A))
    assert maps.tolist() == [[[1.0, 1.375], [0.0, 2.3125]]]  # 3/4 A₀ - 1/4 A₁, by hand


def test_a_method_that_runs_the_network_is_no_formula() -> None:
    with pytest.raises(QcamError, match=r"^CAM method ablation runs the network again; activation and gradient do not tell"):
        cam(array(A), array(G), "ablation")
