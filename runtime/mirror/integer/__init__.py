"""Integer arithmetic: what ONNX Runtime's integer kernels compute, code for code, one operator family a file.

Codes travel as float32 tensors of whole numbers, as everywhere in the mirror; each kernel is built once from its group's
constants and then maps codes to codes.
"""

from qcam.runtime.mirror.integer import (  # noqa: F401 - each registers its kernels
    convolution,
    elementwise,
    islands,
    kernel,
    matrix,
    passing,
    pooling,
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
