import numpy as np
import pytest
import torch
from mirror_single import MICROSOFT, case, check, each, floats, operator_function, versions
from onnx import TensorProto

from qcam.common.errors import QcamError

BYTES, WORDS = (np.uint8, np.int8), (np.uint16, np.int16)
TYPES = (*BYTES, *WORDS)
#: As in files for ONNX Runtime: 16 bit by ONNX's own operators from opset 21 on, by com.microsoft's before.
HOMES = [(dtype, "", versions("QuantizeLinear", 10)) for dtype in BYTES]
HOMES += [(dtype, "", versions("QuantizeLinear", 21)) for dtype in WORDS]
HOMES += [(dtype, MICROSOFT, (13, 21)) for dtype in TYPES]
CHANNELS = 3


def home_name(dtype, domain):
    return f"{dtype.__name__} {domain}".strip()


def scalar(value, dtype=np.float32):
    return np.array(value, dtype)


def middle(dtype):
    """Return a zero point within the range, odd, so that rounding to even shows where it is done."""
    limits = np.iinfo(dtype)
    return (int(limits.min) + int(limits.max)) // 2 + 4 | 1


def around_every_code(dtype, scale, zero_point):
    """Return values at codes and half way between two of them, over both ends of the range."""
    limits = np.iinfo(dtype)
    steps = np.arange(limits.min - zero_point - 6, limits.max - zero_point + 7)
    if steps.size > 2000:
        steps = np.concatenate([steps[:300], steps[-300:], np.arange(-300, 300)])
    return np.concatenate([steps * scale, (steps + 0.5) * scale]).astype(np.float32)


def wide(dtype):
    """Return values of which some saturate under the scales and zero points below."""
    return (floats(CHANNELS, CHANNELS, 4, 5) * np.iinfo(dtype).max * 0.02).astype(np.float32)


def per_channel(dtype):
    """Return a scale and a zero point for each of three channels."""
    limits = np.iinfo(dtype)
    return np.array([0.01, 0.037, 0.25], np.float32), np.array([limits.min, middle(dtype), limits.max], dtype)


def codes(dtype, shape=(CHANNELS, CHANNELS, 4, 5)):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, shape, dtype, endpoint=True)
    values.flat[:4] = limits.min, limits.max, limits.min + 1, limits.max - 1
    return values


def with_axis(domain, opsets):
    return opsets if domain else [opset for opset in opsets if opset >= 13]


def quantize(label, *inputs, **options):
    return case("QuantizeLinear", label, *inputs, tolerance=0, **options)


def dequantize(label, *inputs, **options):
    # onnx.reference has no DequantizeLinear older than version 19.
    return case("DequantizeLinear", label, *inputs, tolerance=0, reference_from=19, **options)


QUANTIZE = [
    *(
        quantize(
            f"{home_name(dtype, domain)} scale {scale} zero {zero}",
            around_every_code(dtype, scale, zero),
            scalar(scale),
            scalar(zero, dtype),
            domain=domain,
            opsets=opsets,
        )
        for dtype, domain, opsets in HOMES
        for scale, zero in ((0.25, middle(dtype)), (1 / 255, middle(dtype)), (0.1, np.iinfo(dtype).min))
    ),
    *(
        quantize(
            f"{home_name(dtype, domain)} per channel axis {axis}",
            wide(dtype),
            *per_channel(dtype),
            domain=domain,
            opsets=with_axis(domain, opsets),
            axis=axis,
        )
        for dtype, domain, opsets in HOMES
        for axis in (0, 1)
    ),
    # Where x / scale leaves the range of int32, onnx.reference wraps around.
    *(
        quantize(
            f"{home_name(dtype, domain)} far out",
            np.array([np.inf, -np.inf, 3e38, -3e38, 1e-40, -0.0], np.float32),
            scalar(0.01),
            scalar(middle(dtype), dtype),
            domain=domain,
            opsets=opsets,
            reference=None,
        )
        for dtype, domain, opsets in HOMES
    ),
    quantize("without zero point", around_every_code(np.uint8, 0.25, 0), scalar(0.25)),
    quantize("axis from the end", wide(np.int8), *per_channel(np.int8), axis=-3, opsets=versions("QuantizeLinear", 13)),
    quantize(
        "one scale in a list",
        floats(2, 3, 4),
        np.array([0.02], np.float32),
        np.array([3], np.int8),
        opsets=versions("QuantizeLinear", 13),
    ),
    quantize(
        "explicit type",
        floats(2, 3),
        scalar(0.02),
        output_dtype=TensorProto.UINT8,
        opsets=versions("QuantizeLinear", 21),
    ),
    quantize("saturate", floats(2, 3), scalar(0.02), scalar(3, np.int8), saturate=1, opsets=versions("QuantizeLinear", 19)),
]

HUGE = np.array([2**31 - 1, -(2**31), 2**24 + 1, -(2**24) - 3, 123_456_789, 0, 1], np.int32)

DEQUANTIZE = [
    *(
        dequantize(
            f"{home_name(dtype, domain)} zero {zero}",
            codes(dtype),
            scalar(scale),
            scalar(zero, dtype),
            domain=domain,
            opsets=opsets,
        )
        for dtype, domain, opsets in HOMES
        for scale, zero in ((1 / 255, middle(dtype)), (0.25, np.iinfo(dtype).max))
    ),
    *(
        dequantize(
            f"{home_name(dtype, domain)} per channel axis {axis}",
            codes(dtype),
            *per_channel(dtype),
            domain=domain,
            opsets=with_axis(domain, opsets),
            axis=axis,
        )
        for dtype, domain, opsets in HOMES
        for axis in (0, 1)
    ),
    *(
        dequantize(f"{home_name(dtype, domain)} without zero point", codes(dtype), scalar(0.1), domain=domain, opsets=opsets)
        for dtype, domain, opsets in HOMES
    ),
    *(
        dequantize(f"bias {domain}".strip(), HUGE, scalar(3.1e-5), domain=domain, opsets=opsets)
        for domain, opsets in (("", versions("DequantizeLinear")), (MICROSOFT, (13, 21)))
    ),
    dequantize("bias with zero point", HUGE, scalar(3.1e-5), scalar(0, np.int32)),
    dequantize("bias per channel", HUGE, floats(7), np.zeros(7, np.int32), axis=0, opsets=versions("DequantizeLinear", 13)),
    dequantize("axis from the end", codes(np.int8), *per_channel(np.int8), axis=-3, opsets=versions("DequantizeLinear", 13)),
    dequantize(
        "explicit type",
        codes(np.int16),
        scalar(0.1),
        scalar(3, np.int16),
        output_dtype=TensorProto.FLOAT,
        opsets=versions("DequantizeLinear", 23),
    ),
]

CASES = [*QUANTIZE, *DEQUANTIZE]


@pytest.mark.parametrize(("item", "opset"), each(CASES))
def test_equals_the_oracles(item, opset):
    check(item, opset)


@pytest.mark.parametrize("dtype", TYPES)
def test_random_values_get_the_codes_of_onnx_runtime(dtype):
    random = np.random.default_rng(3)
    limits = np.iinfo(dtype)
    for _ in range(8):
        scale = scalar(np.exp(random.uniform(-10, 2)))
        zero = random.integers(limits.min, limits.max, dtype=dtype, endpoint=True)
        x = (random.normal(size=20_000) * (int(limits.max) - int(limits.min)) * 0.4 * scale).astype(np.float32)
        check(case("QuantizeLinear", "", x, scale, scalar(zero, dtype), tolerance=0), 21)


def test_a_tie_goes_to_the_even_step_before_the_zero_point_is_added():
    x = torch.tensor([-1.25, -0.75, -0.25, 0.25, 0.75, 1.25])  # x / scale: -2.5 … 2.5
    result = operator_function("QuantizeLinear")(x, torch.tensor(0.5), torch.tensor(3, dtype=torch.uint8))
    assert result.tolist() == [1, 1, 3, 3, 5, 5]


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dtype", TYPES)
def test_codes_that_travel_as_floats_mean_the_same(dtype, axis):
    scale, zero_point = per_channel(dtype)
    attributes = {"axis": axis}
    if axis is None:
        scale, zero_point, attributes = scale[0], zero_point[1], {}
    parameters = torch.tensor(scale), torch.tensor(zero_point)
    function = operator_function("DequantizeLinear", **attributes)
    stored = torch.from_numpy(codes(dtype))
    assert torch.equal(function(stored.to(torch.float32), *parameters), function(stored, *parameters))


def fake_quantize(x, scale, zero_point, **attributes):
    parameters = torch.tensor(scale, dtype=torch.float32), zero_point
    quantized = operator_function("QuantizeLinear", **attributes)(x, *parameters)
    return operator_function("DequantizeLinear", **attributes)(quantized, *parameters)


@pytest.mark.parametrize(
    ("dtype", "zero", "lowest", "highest"),
    [
        (torch.uint8, 128, -64.0, 63.5),
        (torch.uint8, 0, 0.0, 127.5),
        (torch.int8, 0, -64.0, 63.5),
        (torch.int8, -128, 0.0, 127.5),
        (torch.uint16, 32768, -16384.0, 16383.5),
        (torch.int16, 100, -16434.0, 16333.5),
    ],
)
def test_gradient_is_1_inside_and_0_where_the_clamp_is_active(dtype, zero, lowest, highest):
    x = torch.tensor([lowest - 9, lowest - 0.2, lowest, lowest + 0.1, 1.3, highest - 0.1, highest, highest + 0.2, 1e30])
    x.requires_grad_()
    upstream = torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0])
    (gradient,) = torch.autograd.grad(fake_quantize(x, 0.5, torch.tensor(zero, dtype=dtype)), x, upstream)
    assert gradient.tolist() == [0, 0, 5, 7, 11, 13, 17, 0, 0]


def test_gradient_per_channel_uses_each_channels_own_range():
    x = torch.tensor([[-20.0, 5.0, 40.0]]).repeat(3, 1).requires_grad_()
    zero = torch.tensor([0, 0, 100], dtype=torch.int8)  # ranges: [-16, 15.875], [-64, 63.5], [-28.5, 3.375]
    fake_quantize(x, [0.125, 0.5, 0.125], zero, axis=0).sum().backward()
    assert x.grad.tolist() == [[0, 1, 0], [1, 1, 1], [1, 0, 0]]


def test_gradient_with_a_scale_that_is_no_power_of_two():
    x = torch.from_numpy(floats(1000)).requires_grad_()
    fake_quantize(x, 0.0123, torch.tensor(0, dtype=torch.int8)).sum().backward()
    inside = (x.detach() / 0.0123 >= -128) & (x.detach() / 0.0123 <= 127)
    assert 0 < int(inside.sum()) < x.numel()
    assert torch.equal(x.grad != 0, inside)
    torch.testing.assert_close(x.grad[inside], torch.ones(int(inside.sum())), rtol=1e-6, atol=0)


def test_straight_through_passes_the_activations_gradient():
    x = torch.tensor([-3.0, 0.3, 0.6]).requires_grad_()
    y = fake_quantize(x, 0.25, torch.tensor(0, dtype=torch.int8))
    (y * y).sum().backward()
    assert x.grad.tolist() == [2 * -3.0, 2 * 0.25, 2 * 0.5]


@pytest.mark.parametrize("domain", ["", MICROSOFT])
@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear"])
def test_refuses_blocks(operator, domain):
    x = floats(4, 4) if operator == "QuantizeLinear" else codes(np.int8, (4, 4))
    scale, zero = np.full((2, 4), 0.1, np.float32), np.zeros((2, 4), np.int8)
    with pytest.raises(QcamError, match=f"{operator} with blocks"):
        check(case(operator, "", x, scale, zero, axis=0, block_size=2, domain=domain), 21)


@pytest.mark.parametrize("attributes", [{"precision": TensorProto.FLOAT16}, {"output_dtype": TensorProto.INT8}], ids=str)
def test_refuses_to_quantize_with(attributes):
    with pytest.raises(QcamError, match="another precision or an implicit type"):
        operator_function("QuantizeLinear", 23, **attributes)(torch.ones(3), torch.tensor(0.1))


def test_refuses_to_dequantize_to_half_precision():
    function = operator_function("DequantizeLinear", 23, output_dtype=TensorProto.FLOAT16)
    with pytest.raises(QcamError, match="to another type than float32"):
        function(torch.ones(3, dtype=torch.int8), torch.tensor(0.1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16])
def test_refuses_other_codes(dtype):
    with pytest.raises(QcamError, match=f"QuantizeLinear to {dtype} is not supported"):
        operator_function("QuantizeLinear")(torch.ones(3), torch.tensor(0.1), torch.zeros((), dtype=dtype))
