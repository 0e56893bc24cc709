"""What can change a figure, besides bundles and images: the options of a study, as every worker is told them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qcam.common.arguments import whole
from qcam.common.errors import QcamError
from qcam.common.vocabulary import UNITS, CamMethod, Protocol, ReferenceImages, Target, require
from qcam.runtime.deployed import SessionSettings

#: Fingerprint of an image that cannot be read.
UNREADABLE = "unreadable"
#: Of how many images there are reference rows by default, the first ones.
FAST = 64


@dataclass(frozen=True)
class StudyOptions:
    """What can change a figure, besides bundles and images.

    Attributes:
        precisions: Those to evaluate; empty for all that a bundle holds.
        settings: How sessions are made.
        saliency: As given on the command line.
        target: Which class is explained.
        method: CAM method.
        batch_size: Images at a time.
        fake_quant: Whether the fake-quant mirror is run in full.
        null_row: Whether f32, or the first precision where there is none, is run a second time and compared with itself.
        faithfulness: Whether the deployed model is shown what its CAM leaves of the picture.
        references: Of which images there are reference rows, one of `ReferenceImages`.
        non_inferior_to: The reference that drift is tested against, one of `UNITS`; it counts where there are reference rows.
        protocol: `deployed`, or `paper` for what the paper's authors ran.
        fixes: Slips of theirs that are switched off, sorted.
        without_f32: Models of which no f32 is run, where target is f32-top1 for the others: each of their precisions explains
            its own choice.
    """

    precisions: tuple[str, ...]
    settings: SessionSettings = field(default_factory=SessionSettings)
    saliency: str = "u2netp"
    target: str = "f32-top1"
    method: str = "gradcam++"
    batch_size: int = 8
    fake_quant: bool = True
    null_row: bool = True
    faithfulness: bool = False
    references: str = ReferenceImages.NONE.value
    non_inferior_to: str = UNITS[0].value
    protocol: str = "deployed"
    fixes: tuple[str, ...] = ()
    without_f32: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse words and numbers that mean nothing.

        Raises:
            QcamError: If target, method or protocol is unknown, with the choices; or the batch size is no whole number from 1.
        """
        object.__setattr__(self, "batch_size", whole(self.batch_size, "{batch_size}"))
        require(Target, self.target, "target")
        require(CamMethod, self.method, "CAM method")
        require(Protocol, self.protocol, "protocol")
        require(ReferenceImages, self.references, "references")
        if self.non_inferior_to not in UNITS:
            raise QcamError(
                f"drift cannot be tested against {self.non_inferior_to!r}; {{non_inferior_to}} is one of {', '.join(UNITS)}"
            )

    def referenced(self, first: int, count: int) -> int:
        """Return of how many images of a shard, its first ones, there are reference rows.

        Args:
            first: The place of its first image in the run.
            count: How many it holds.
        """
        if self.references == ReferenceImages.ALL:
            return count
        return min(max(FAST - first, 0), count) if self.references == ReferenceImages.FAST else 0

    def target_of(self, model: str) -> str:
        """Return which class of a model is explained.

        Args:
            model: Model id.
        """
        return Target.OWN_TOP1.value if model in self.without_f32 else self.target

    def on_gpu(self, device: str) -> bool:
        """Tell whether a GPU is asked to take part.

        Args:
            device: PyTorch device of the mirrors.
        """
        return device == "cuda" or (self.settings.on_gpu and self.protocol != Protocol.PAPER)

    def describe(self) -> str:
        """Say in one line what the figures depend on."""
        if self.protocol == "paper":
            repaired = f", slips switched off: {', '.join(self.fixes)}" if self.fixes else ""
            return f"protocol of the paper's authors{repaired}; salient objects: {self.saliency}"
        config = ", ".join(f"{key}={value}" for key, value in self.settings.config.items())
        target = self.target
        if self.without_f32:
            target += f" ({Target.OWN_TOP1} of {', '.join(self.without_f32)})"
        line = f"{self.method}, target {target}, salient objects: {self.saliency}, batches of {self.batch_size}"
        told = ", ".join(f"{key}={value}" for key, value in self.settings.to_json().get("provider_options", {}).items())
        line += f", session configuration {config}" if config else ""
        return line + (f", {self.settings.provider} told {told}" if told else "")

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON-ready values; no word of models without f32 or reference rows where there are none."""
        settings, without_f32 = self.settings.to_json(), list(self.without_f32)
        values = asdict(self) | {"precisions": list(self.precisions), "settings": settings, "fixes": list(self.fixes)}
        none = self.references == ReferenceImages.NONE
        unsaid = {"without_f32": not without_f32, "references": none, "non_inferior_to": none}
        return {name: value for name, value in (values | {"without_f32": without_f32}).items() if not unsaid.get(name)}
