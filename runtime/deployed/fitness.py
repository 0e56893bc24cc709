"""Which precisions a provider cannot run, or would not run itself: known before a session is made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from qcam.common.errors import ProviderError
from qcam.runtime.bundle import Bundle, PrecisionEntry
from qcam.runtime.deployed.partition import Partition, foretell
from qcam.runtime.deployed.provider_options import ENGINES
from qcam.runtime.tables import CODE_BITS

#: Bits of the codes that CUDA's QuantizeLinear and DequantizeLinear have kernels for.
_BITS_OF_CUDA = 8


def why_unfit(path: Path, entry: PrecisionEntry, provider: str, *, allow_fallback: bool = False) -> str:
    """Say why a precision is not to be run on a provider; empty if nothing speaks against it.

    Args:
        path: Its file.
        entry: What the manifest says of it.
        provider: Short name of the provider.
        allow_fallback: Whether nodes may run on the CPU.

    Returns:
        The reason, without what to do about it.
    """
    if provider in ENGINES and entry.name != "f32":
        if _bits(entry) > _BITS_OF_CUDA:
            return f"{provider} has no 16-bit quantization"
        if not entry.quantization.activation_symmetric:
            scheme = entry.quantization.scheme
            return f"{provider} takes symmetric activations only (zero point 0), this bundle has scheme {scheme}"
    if provider == "CUDA" and not allow_fallback and _bits(entry) > _BITS_OF_CUDA:
        found = _foretold(path)
        if found is not None and found.on_cpu:
            return f"CUDA has no kernels for {_bits(entry)}-bit quantization: {found.describe()}"
    return ""


def refuse_unfit(path: Path, entry: PrecisionEntry, provider: str, *, allow_fallback: bool) -> None:
    """Refuse a precision that a provider cannot run, or would leave to the CPU; arguments as of `why_unfit`.

    Raises:
        ProviderError: Says why, and what to do instead.
    """
    reason = why_unfit(path, entry, provider, allow_fallback=allow_fallback)
    if not reason:
        return
    if "symmetric" in reason:
        raise ProviderError(f"{reason}; export it again with {{qcam-export}} {{scheme}} s8s8")
    remedy = f"leave {entry.name} out with {{precision}} f32,int8"
    if provider == "CUDA":
        remedy += ", or {allow_fallback} to run it so all the same"
    raise ProviderError(f"{path}: {reason}; {remedy}")


def unfit_precisions(bundle: Bundle, provider: str, *, allow_fallback: bool = False) -> dict[str, str]:
    """Return the precisions of a bundle that are not to be run on a provider, with the reasons; as `why_unfit`."""
    reasons = {
        entry.name: why_unfit(bundle.path(entry.name), entry, provider, allow_fallback=allow_fallback)
        for entry in bundle.precisions
    }
    return {name: reason for name, reason in reasons.items() if reason}


def nothing_fits(folder: Path, unfit: Mapping[str, str], provider: str) -> ProviderError:
    """Return the error of a bundle of which a provider can run no precision, with what to do instead.

    Args:
        folder: The bundle's.
        unfit: Precision → why it is not to be run.
        provider: Short name of the provider.
    """
    remedy = "use {provider} CPU, or a bundle with f32"
    if provider == "CUDA":
        remedy += " or int8, or {allow_fallback} to run it so all the same"
    return ProviderError(f"{folder}: {provider} can run none of its precisions: {next(iter(unfit.values()))}; {remedy}")


def _bits(entry: PrecisionEntry) -> int:
    """Return the bits of a file's codes, as its tap or its manifest tells; 0 of a float file."""
    said = str(entry.quantization.activation or "").lower()
    return CODE_BITS.get(entry.tap.dtype) or CODE_BITS.get(said, 0)


def _foretold(path: Path) -> Partition | None:
    """Return where the nodes of a file would run; None if it cannot be loaded, which a session says better."""
    state = path.stat()
    return _foretold_once(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=32)
def _foretold_once(path: Path, _size: int, _changed: int) -> Partition | None:
    try:
        return foretell(path)
    except ProviderError:
        return None
