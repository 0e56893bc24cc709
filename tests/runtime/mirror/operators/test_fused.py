import pytest
import torch
from mirror_single import MICROSOFT, case, check, each, floats

from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.operators.fused import fused_convolution, fused_matmul

X, W, B = floats(2, 4, 6, 6), floats(3, 4, 3, 3, seed=1), floats(3, seed=2)
A, C = floats(3, 4), floats(4, 5, seed=1)


def fused(operator, label, *inputs, **attributes):
    return case(operator, label, *inputs, domain=MICROSOFT, **attributes)


CASES = [
    fused("FusedConv", "Relu", X, W, B, activation="Relu", kernel_shape=[3, 3], pads=[1] * 4),
    fused("FusedConv", "without bias", X, W, activation="Tanh", kernel_shape=[3, 3]),
    fused("FusedConv", "strides", X, W, B, activation="Sigmoid", strides=[2, 2]),
    fused("FusedConv", "LeakyRelu", X, W, B, activation="LeakyRelu", activation_params=[0.2]),
    fused("FusedConv", "Clip", X, W, B, activation="Clip", activation_params=[-0.5, 0.75]),
    fused("FusedConv", "HardSigmoid", X, W, B, activation="HardSigmoid", activation_params=[0.3, 0.4]),
    fused("FusedConv", "added", X, W, B, floats(2, 3, 4, 4, seed=3), activation="Relu"),
    fused("FusedGemm", "Relu", A, C, floats(5, seed=2), activation="Relu"),
    fused("FusedGemm", "LeakyRelu", A, C, floats(5, seed=2), activation="LeakyRelu", activation_alpha=0.3, alpha=0.5, beta=2.0),
    fused("FusedMatMul", "plain", floats(2, 3, 4), floats(2, 4, 5, seed=1)),
    fused("FusedMatMul", "both transposed", floats(2, 4, 3), floats(2, 5, 4, seed=1), transA=1, transB=1, alpha=0.25),
    fused("Gelu", "plain", X),
    fused("BiasGelu", "plain", X, floats(6, seed=4)),
    fused("FastGelu", "plain", X),
    fused("FastGelu", "bias", X, floats(6, seed=4)),
    fused("QuickGelu", "plain", X),
    fused("QuickGelu", "SiLU", X, alpha=1.0),
]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


def test_an_activation_that_is_not_known_is_refused_by_name():
    with pytest.raises(UnsupportedGraphError, match="an activation Mish that is fused into an operator is not supported"):
        fused_convolution(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1), activation="Mish")


def test_transposed_batches_are_refused():
    with pytest.raises(UnsupportedGraphError, match="FusedMatMul with transposed batches is not supported"):
        fused_matmul(torch.zeros(2, 2), torch.zeros(2, 2), transBatchA=1)
