"""Kernel families: what the integer kernels of ONNX Runtime's CPU provider compute depends on the processor.

The same file gives other codes on another processor. Three arithmetics cover the CPU provider of current processors; each was
matched code for code against the real kernels (docs/fidelity.md). A family names an arithmetic, not an instruction set: AVX-512
without VNNI belongs to avx2. x86 older than AVX2 convolves as vnni does but adds without fused multiply-add: it fits no family.
"""

from __future__ import annotations

from dataclasses import dataclass

from qcam.common.errors import QcamError


@dataclass(frozen=True)
class KernelFamily:
    """One arithmetic of the integer kernels.

    Attributes:
        name: vnni, avx2 or arm64.
        pairs_saturate: Products of unsigned activations and signed weights are added in pairs into 16 bits, which saturates.
        fixed_point_add: QLinearAdd multiplies by fixed-point ratios and rounds half up.
        fused_batch_norm: Float operators that are compiled loops (BatchNormalization, LayerNormalization, HardSigmoid,
            InstanceNormalization, ReduceL2, linear Resize) multiply and add in one rounding, and reciprocals are estimates.
        adds_neighbours: Float sums over a row end by adding neighbouring lanes of a vector, not opposite ones.
        adds_in_fours: Float sums down columns, of more than one table, add four values before they add those to the sum.
        normalises_eight: LayerNormalization of eight values or more has a kernel that takes eight at a time.
        wraps_lowest_weight: A weight of -128 overflows on members of the family that lack the dot-product instructions.
    """

    name: str
    pairs_saturate: bool = False
    fixed_point_add: bool = False
    fused_batch_norm: bool = False
    adds_neighbours: bool = False
    adds_in_fours: bool = False
    normalises_eight: bool = False
    wraps_lowest_weight: bool = False

    def __str__(self) -> str:
        return self.name


#: The families, by name; the first computes exact sums.
KERNELS = {
    family.name: family
    for family in (
        KernelFamily("vnni", adds_in_fours=True, normalises_eight=True),
        KernelFamily("avx2", pairs_saturate=True, adds_in_fours=True, normalises_eight=True),
        KernelFamily("arm64", fixed_point_add=True, fused_batch_norm=True, adds_neighbours=True, wraps_lowest_weight=True),
    )
}
#: What a probe answers when the processor fits no family.
UNKNOWN = "unknown"


def kernel_family(name: str) -> KernelFamily:
    """Return a family by its name.

    Raises:
        QcamError: If there is none of that name.
    """
    if name not in KERNELS:
        raise QcamError(f"kernel family {name!r} is unknown; choose one of {', '.join(KERNELS)}")
    return KERNELS[name]
