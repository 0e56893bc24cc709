"""Operators that work on codes as they are, and QLinearConcat, which gives them one meaning first."""

from __future__ import annotations

import torch

from qcam.runtime.mirror.integer.elementwise import table_of
from qcam.runtime.mirror.integer.kernel import (
    Kernel,
    Setting,
    all_codes,
    dequantize_codes,
    kernel,
    quantize_values,
    stored_type,
)


@kernel("MaxPool", "Expand", "Flatten", "Gather", "Reshape", "Resize", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
def passing(setting: Setting) -> Kernel:
    """The operator itself, on codes; it reads its further inputs (shapes, axes) as they are."""

    def run(codes: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = setting.function(codes, *others, **setting.attributes)
        return result

    return run


@kernel("Concat")
def concat(setting: Setting) -> Kernel:
    """Codes joined along an axis, each input brought to the output's scale by a table where it has another."""
    output = setting.output
    tables: list[Kernel | None] = []
    held: list[torch.Tensor | None] = []
    for index, codes in enumerate(setting.inputs):
        values = quantize_values(dequantize_codes(all_codes(codes), codes), output)
        tables.append(None if codes.same_meaning(output) else table_of(setting, values, codes))
        constant = setting.constant(index)
        held.append(None if constant is None else setting.tensor(constant).to(stored_type(codes)))

    def run(*codes: torch.Tensor) -> torch.Tensor:
        rest = iter(codes)
        values = [next(rest) if constant is None else constant for constant in held]
        mapped = [value if table is None else table(value) for value, table in zip(values, tables, strict=True)]
        return torch.cat(mapped, dim=int(setting.attributes["axis"]))

    return run
