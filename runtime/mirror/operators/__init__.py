"""The mirror's operators, one family a file; importing this package registers them all."""

from qcam.runtime.mirror.operators import (
    activation,
    convolution,
    elementwise,
    fused,
    making,
    matrix,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    shape,
)

__all__ = [
    "activation",
    "convolution",
    "elementwise",
    "fused",
    "making",
    "matrix",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "shape",
]
