"""TF32: float32 products of a GPU with operands cut to 10 bits behind the point. Off unless it is allowed."""

from __future__ import annotations

import os

from qcam.common.errors import ProviderError

#: What NVIDIA's libraries and PyTorch obey more than the program that calls them.
NVIDIA_OVERRIDE, TORCH_OVERRIDE = "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


#: Whether this process set NVIDIA's variable itself: whoever started it knows nothing of it then.
_own = False


def forbid_tf32() -> None:
    """Forbid TF32 to NVIDIA's libraries in this process and those that it starts: TensorRT has no other way."""
    global _own
    _own = _own or os.environ.get(NVIDIA_OVERRIDE) != "0"
    os.environ[NVIDIA_OVERRIDE] = "0"


def refuse_tf32_override(*, tf32: bool) -> None:
    """Refuse an environment in which NVIDIA's libraries would not do as they are told.

    Args:
        tf32: Whether TF32 is allowed.

    Raises:
        ProviderError: Names the variable.
    """
    for name in (NVIDIA_OVERRIDE, TORCH_OVERRIDE):
        value = os.environ.get(name)
        if not value:
            continue
        if value not in ("0", "1"):
            raise ProviderError(f"{name}={value!r} is neither 0 nor 1, and libraries read it in their own ways; give 0 or 1")
        if name == NVIDIA_OVERRIDE and value == "0" and tf32:
            remedy = (
                "qcam set it itself, for a session on TensorRT without TF32, and libraries have read it; ask in a new process"
                if _own
                else "unset the one or leave out the other"
            )
            raise ProviderError(f"{name}=0 forbids TF32, and {{tf32}} asks for it; {remedy}")
        if value == "1" and not tf32:
            raise ProviderError(f"{name}=1 makes a GPU compute in TF32 whatever it is told; unset it, or allow it by {{tf32}}")
