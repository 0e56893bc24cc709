"""What ONNX Runtime's operators and kernels are: which compute, on what, and which are moved, appended or folded.

Every fact stands here once; placement, grouping, rewrites, the check of a file against its manifest and the mirror read it. The
rules are those of ONNX Runtime's CPU provider (core/optimizer, contrib_ops/cpu), held against profiles by tests.
"""

from __future__ import annotations

# --- operators of a file ----------------------------------------------------------------------------------------------

#: Operators whose kernels decide whether inference is integer or float.
COMPUTE_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Operators that only rearrange values: what they return is what they were given.
SHAPE_OPERATORS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Transpose"})
#: Operators that put numbers into codes and back.
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: Operators that a quantizer's own range makes redundant where it clamps no less than they do.
CLIPPING_OPERATORS = frozenset({"Relu", "Clip"})
#: Operators whose third input is a bias, which their integer kernels add as int32 codes.
BIASED_OPERATORS = frozenset({"Conv", "Gemm"})
#: Operators whose result is batch × channels × height × width by definition.
CHANNELS_FIRST_OPERATORS = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization", "InstanceNormalization"}
)
#: Operators between a constant of the file and the weight that it becomes: all are folded when the file is loaded, so a tensor
#: behind them is a weight.
WEIGHT_WAY = QUANTIZERS | {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"}
#: Those of them behind which the shape is known from the shape before, without a look at values.
WEIGHT_WAY_OF_KNOWN_SHAPE = WEIGHT_WAY - {"Reshape", "Squeeze", "Unsqueeze"}

#: Operators whose float32 result follows from IEEE 754 alone: one rounding, or none. All others may add in any order.
ONE_ROUNDING = SHAPE_OPERATORS | CLIPPING_OPERATORS | {
    "Abs", "Add", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Div", "Dropout", "Equal", "Expand",
    "Floor", "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "LeakyRelu", "Max", "MaxPool", "Min", "Mul", "Neg", "Not",
    "PRelu", "Pad", "Range", "ReduceMax", "ReduceMin", "Round", "Shape", "Slice", "SpaceToDepth", "Split", "Sqrt", "Sub",
    "Tile", "Where",
}  # fmt: skip

# --- what groups of a QDQ graph become --------------------------------------------------------------------------------

#: Operator → the kernel that its group of dequantized operands and quantized result becomes.
INTEGER_KERNEL_OF = {
    "Conv": "QLinearConv", "Gemm": "QGemm", "MatMul": "QLinearMatMul", "Add": "QLinearAdd", "Mul": "QLinearMul",
    "Concat": "QLinearConcat", "AveragePool": "QLinearAveragePool", "GlobalAveragePool": "QLinearGlobalAveragePool",
    "Sigmoid": "QLinearSigmoid", "LeakyRelu": "QLinearLeakyRelu", "Softmax": "QLinearSoftmax",
}  # fmt: skip
#: Operators that may return float32 from integer operands: their kernels have an output without a scale.
FLOAT_RESULT_KERNEL_OF = {"Gemm": "QGemm", "MatMul": "MatMulIntegerToFloat"}
#: Operators that work on codes as they are, where scale and zero point are the same before and behind them.
PASSING_OPERATORS = frozenset(
    {"MaxPool", "Expand", "Flatten", "Gather", "Reshape", "Resize", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
#: Operators across which DequantizeLinear is moved forward and QuantizeLinear backward. Fewer than those that pass codes on.
PROPAGATING_OPERATORS = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"})
#: Operators that are appended to a convolution's kernel, which then writes their result.
APPENDED_OPERATORS = frozenset({"BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})

# --- kernels of a profile ---------------------------------------------------------------------------------------------

#: Kernels that hold weights as codes, but read and write floats, which they round to 8 bits as they run. MatMulNBits, made when
#: a float activation meets an 8-bit matrix, rounds block by block (accuracy level 4, ONNX Runtime's own choice) and multiplies
#: integers: it counts as an integer kernel. A file that has such a node itself has no codes of activations for that.
WEIGHT_ONLY_KERNELS = frozenset({"MatMulNBits"})
#: Kernels of Conv, ConvTranspose, Gemm and MatMul that multiply integers.
INTEGER_KERNELS = WEIGHT_ONLY_KERNELS | {
    "QLinearConv", "QLinearConvTranspose", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}  # fmt: skip
#: Kernels of the same operators that multiply floats.
FLOAT_KERNELS = COMPUTE_OPERATORS | {"FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "TransposeMatMul"}
#: Kernels that ONNX Runtime puts between a GPU's memory and the CPU's.
COPY_KERNELS = frozenset({"MemcpyToHost", "MemcpyFromHost"})
#: What the names of all other integer kernels begin with.
_QLINEAR = "QLinear"

# --- codes ------------------------------------------------------------------------------------------------------------

#: Type of codes → its bits.
CODE_BITS = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16}
#: Operator → positions of the scale and the zero point of what it writes.
RESULT_PARAMETERS = {
    "QuantizeLinear": (1, 2), "QLinearConv": (6, 7), "QLinearMatMul": (6, 7), "QGemm": (7, 8), "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7), "QLinearSigmoid": (3, 4), "QLinearLeakyRelu": (3, 4), "QLinearSoftmax": (3, 4),
    "QLinearAveragePool": (3, 4), "QLinearGlobalAveragePool": (3, 4), "QLinearReduceMean": (3, 4), "QLinearConcat": (0, 1),
    "QLinearWhere": (7, 8),
}  # fmt: skip


def is_integer_kernel(name: str) -> bool:
    """Tell whether a kernel of a profile computes with integers: on codes, or on floats that it rounds to codes as it runs."""
    return name.startswith(_QLINEAR) or name in INTEGER_KERNELS


def has_codes_of_activations(operator: str) -> bool:
    """Tell whether an operator of a file reads or writes activations as codes of 8 bits; Q and DQ tell their type themselves.

    DynamicQuantizeLinear makes codes but computes nothing with them, so it is no integer kernel; MatMulNBits is one, but its
    activations are floats to whoever reads the file.
    """
    return operator == "DynamicQuantizeLinear" or (is_integer_kernel(operator) and operator not in WEIGHT_ONLY_KERNELS)
