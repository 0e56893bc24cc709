"""What a manifest tells of where a bundle comes from: its weights, its CAM layer, its calibration, its quantization.

Other tools and other versions write manifests as well. What one does not say is None; what this version does not know is kept
as it stands there, and counts in the bundle's fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from qcam.common.records import as_record


@dataclass(frozen=True, kw_only=True)
class Described:
    """One object of a manifest.

    Attributes:
        further: What it says besides, by name.
    """

    further: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Mapping[str, object], where: str) -> Self:
        """Take what was told.

        Args:
            told: JSON-ready values.
            where: What messages call them.

        Raises:
            ResultsError: If one is of another type.
        """
        return as_record(dict(told), cls, where).with_further(told)

    def with_further(self, told: Mapping[str, object]) -> Self:
        """Return the same with all that was told and has no name here, or no value."""
        known = _names(self)
        return replace(self, further={name: value for name, value in told.items() if name not in known or value is None})

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest says: nothing of what is None."""
        values = {name: getattr(self, name) for name in _names(self)}
        said = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None}
        return said | self.further


def _names(described: Described) -> list[str]:
    """Return the names of what is known, in the order of the manifest."""
    return [part.name for part in fields(described) if part.name != "further"]


@dataclass(frozen=True, kw_only=True)
class Weights(Described):
    """The weights of a model.

    Attributes:
        name: Their name, or that of their file.
        sha256: Fingerprint of all parameters.
        trained: Whether they mean something.
    """

    name: str | None = None
    sha256: str | None = None
    trained: bool | None = None


@dataclass(frozen=True, kw_only=True)
class CamLayer(Described):
    """The layer that carries the CAM.

    Attributes:
        requested: What was asked for: a module path or a tensor's name; empty for the last feature map.
        tensor: The tensor in the float graph.
    """

    requested: str | None = None
    tensor: str | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration(Described):
    """Where the ranges of activations come from; nothing of it is said without an integer precision.

    Attributes:
        method: Calibration method.
        images: How many photographs.
        refused: Those that could not be read, with the reason.
        names: Those that could.
        sha256: The SHA-256 of their files, of the first so many; None in bundles of earlier versions.
        fingerprint: Of method and photographs.
    """

    method: str | None = None
    images: int | None = None
    refused: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    sha256: tuple[str, ...] | None = None
    fingerprint: str | None = None

    @property
    def hashed_all(self) -> bool:
        """Tell whether the hash of every photograph is there."""
        return self.sha256 is not None and len(self.sha256) >= (self.images or 0)


@dataclass(frozen=True, kw_only=True)
class Quantization(Described):
    """How a precision was quantized; nothing of it is said of f32.

    Attributes:
        format: QDQ.
        scheme: u8s8 or s8s8, u16s16 or s16s16.
        activation: Type of activations: UINT8, INT8 …
        activation_symmetric: Whether code 0 stands for 0.
        weight: Type of weights.
        weight_per_channel: Whether each output channel has its own scale.
        weight_reduced_range: Whether int8 weights keep to 7 bits.
        logits: What became of the class scores, in words.
    """

    format: str | None = None
    scheme: str | None = None
    activation: str | None = None
    activation_symmetric: bool | None = None
    weight: str | None = None
    weight_per_channel: bool | None = None
    weight_reduced_range: bool | None = None
    logits: str | None = None
