"""The mirrors of one precision: one for the simulation, and one whose tail opens its gates as the kernels did that ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from qcam.common import telling
from qcam.common.errors import UnsupportedGraphError
from qcam.common.vocabulary import Arithmetic
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.deployed import SessionSettings
from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.kernels import KernelFamily
from qcam.runtime.positions import Limits
from qcam.runtime.session_config import merged, probed

if TYPE_CHECKING:
    from qcam.runtime.bundle import PrecisionEntry
    from qcam.runtime.mirror import Mirror


@dataclass(frozen=True)
class Mirrors:
    """What gradients of one precision come from.

    Attributes:
        simulated: The mirror in float32, for the simulation.
        deployed: The mirror that is fed with the deployed tap; the same one where both open the same gates.
    """

    simulated: Mirror
    deployed: Mirror


def mirrors_of(
    model: onnx.ModelProto,
    entry: PrecisionEntry,
    settings: SessionSettings,
    device: str,
    preprocessing: Preprocessing,
    *,
    tail_only: bool,
    name: str,
    floats: Mapping[str, Limits] | None = None,
) -> Mirrors:
    """Build the mirrors of a precision.

    The gradient of the deployed CAM passes a ReLU, or the clamp of a quantizer, where the value there lets it. Behind an early
    tap, float32 has other values there than the integer kernels of this CPU. Where that may be, the tail computes forward as
    those kernels do, code for code (`Mirror.follows`). On providers other than the CPU, on a CPU of unknown kernels, and of
    files without integer kernels, it stays float32.

    Args:
        model: The ONNX file of the precision.
        entry: The precision.
        settings: How its session is made.
        device: PyTorch device.
        preprocessing: What images are normalised by.
        tail_only: Whether there is no simulation.
        name: Model and precision, for the warning where the kernels cannot be followed.
        floats: As in `Mirror`, for the simulation.

    Raises:
        UnsupportedGraphError: If the file has an operator that the mirror does not know.
    """
    from qcam.runtime.mirror import Mirror

    plain = Mirror(model, entry, device, tail_only=tail_only, preprocessing=preprocessing, floats=floats)
    family = _family(entry, settings)
    if family is None or plain.follows(family):
        return Mirrors(plain, plain)
    try:
        exact = Mirror(
            model, entry, device, Arithmetic.INTEGER, family, tail_only=True, settings=merged(entry.session, settings.config),
            preprocessing=preprocessing, threads=settings.threads,
        )  # fmt: skip
    except UnsupportedGraphError as error:
        why = error.template
    else:
        if exact.follows(family):
            return Mirrors(exact if tail_only else plain, exact)
        why = "ONNX Runtime moves what is read behind the CAM layer"
    telling.warn(f"{name}: behind the CAM layer, gradients pass where float32 lets them, not the {family} kernels: {why}")
    return Mirrors(plain, plain)


def _family(entry: PrecisionEntry, settings: SessionSettings) -> KernelFamily | None:
    """Return the kernel family that computes what lies behind the tap; None where that is not known, or is float32."""
    if settings.provider != "CPU" or entry.tap.dtype not in ("uint8", "int8") or not entry.promised:
        return None
    return probe_kernels(probed(entry.session, settings.config)).family
