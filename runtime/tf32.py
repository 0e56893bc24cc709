"""TF32: float32 products of a GPU with operands cut to 10 bits behind the point. Off unless it is allowed."""

from __future__ import annotations

import os

from qcam.common.errors import ProviderError

#: What NVIDIA's libraries and PyTorch obey more than the program that calls them.
NVIDIA_OVERRIDE, TORCH_OVERRIDE = "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


def refuse_tf32_override(*, tf32: bool) -> None:
    """Refuse an environment in which NVIDIA's libraries would not do as they are told.

    Args:
        tf32: Whether TF32 is allowed.

    Raises:
        ProviderError: Names the variable.
    """
    for name, off in ((NVIDIA_OVERRIDE, "0"), (TORCH_OVERRIDE, None)):
        value = os.environ.get(name)
        if not value:
            continue
        if value == off and tf32:
            raise ProviderError(f"{name}={value} forbids TF32, and {{tf32}} asks for it; unset the one or leave out the other")
        if value not in (off, "0") and not tf32:
            raise ProviderError(
                f"{name}={value} makes a GPU compute in TF32 whatever it is told; unset it, or allow it by {{tf32}}"
            )
