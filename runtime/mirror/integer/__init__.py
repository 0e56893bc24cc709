"""Integer arithmetic: what ONNX Runtime's integer kernels compute, code for code, one operator family a file.

Codes of 8 bits travel as bytes, those of images channels last; codes of 16 bits as whole numbers in float32. Each kernel is
built once from its group's constants and then maps codes to codes. Where float simulations stand beside them, in the tail,
codes are whole numbers in float32, so that gradients can flow.
"""

from qcam.runtime.mirror.integer import (  # noqa: F401 - each registers its kernels
    convolution,
    elementwise,
    islands,
    kernel,
    matrix,
    own_kernel,
    passing,
    pooling,
    reductions,
    resizing,
    softmax,
    wide,
)
from qcam.runtime.tables import PASSING_OPERATORS

__all__ = ["build"]


def build(setting: kernel.Setting) -> kernel.Kernel:
    """Build the kernel of a group from its constants.

    Raises:
        UnsupportedGraphError: If there is none for its operator, or its attributes are not supported.
    """
    wide_codes = setting.inputs[0].dtype.itemsize > 1 and setting.group.node.op_type not in PASSING_OPERATORS
    return wide.build(setting) if wide_codes else kernel.build(setting)
