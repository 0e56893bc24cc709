"""Quantized graphs whose weights and scales are plain, for what matters is what lies beside them."""

import numpy as np
from integer_cases import Choices, Nodes
from integer_operators import S8, U8


class Build(Nodes):
    """A graph whose weights and scales are plain, for what matters is what lies beside them."""

    def __init__(self, shape=(2, 4, 5, 5), dtype=U8, opset=21):
        super().__init__(Choices.seeded(1), dtype, opset)
        self.numbers = np.random.default_rng(0)
        self.low = int(np.iinfo(dtype).min)
        self.x = self.numbers.normal(size=shape).astype(np.float32)
        self.first = self.q("x", 120, 1 / 32, name="x")

    def q(self, tensor, zero=100, scale=1 / 16, name="result", dtype=None):
        low = self.low if dtype is None else int(np.iinfo(dtype).min)
        return self.quantize(tensor, scale, low + zero, name=name, dtype=dtype).name

    def weight(self, shape=(3, 4, 1, 1), name="w", dtype=S8, axis=None):
        codes = self.numbers.integers(-90 if dtype == S8 else 0, 90, shape).astype(dtype)
        size = () if axis is None else shape[axis]
        return self.held(name, codes, np.full(size, 1 / 64), np.zeros(size), axis)

    def floats(self, name, *shape):
        return self.constant(name, self.numbers.normal(size=shape).astype(np.float32))

    def bias(self, *shape):
        return self.held("b", self.numbers.integers(-900, 900, shape).astype(np.int32), 1 / 2048, 0)

    def conv(self, x=None, *, name="c", **options):
        return self.add("Conv", name, x or self.first, self.weight(name=f"{name}_w", **options))

    def done(self, tensor=None, **options):
        """Finish with a quantizer behind a tensor, or with the float tensor y."""
        return self.case("y" if tensor is None else self.q(tensor, **options), None)


def limits(build, low, high):
    values = (("low", low), ("high", high))
    return ["" if value is None else build.constant(name, np.float32(value)) for name, value in values]
