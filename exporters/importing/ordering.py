"""What a file is imported with, said by options or arguments; what contradicts itself is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qcam.common.errors import QcamError
from qcam.common.places import refuse_unprintable
from qcam.common.vocabulary import PRECISION_NAME, InputValues, Interpolation, Layout, require
from qcam.exporters.export import bundle_folder_name
from qcam.runtime.session_config import wrong_in_session


@dataclass(frozen=True)
class ImportOrder:
    """What a file is imported with; None leaves it to the file.

    Attributes:
        file: The quantized file.
        float_file: The float file that it was made of, which becomes f32.
        like: A bundle whose preprocessing and classes are those of the file.
        into: A bundle of the same network that the file becomes a further precision of; its preprocessing and classes are
            taken.
        size: Height and width of the input.
        mean: Mean of R, G, B on the 0..1 scale, or one number.
        std: Standard deviation likewise.
        resize: Shorter side before the crop, or height and width.
        squash: Whether the picture is squashed to the size instead.
        interpolation: Resampling filter.
        classes: How many classes there are, or their names in order.
        cam_layer: The tensor that carries the CAM layer.
        float_cam_layer: Likewise in the float file.
        logits: The tensor of class scores.
        values: What the input holds: normalised, unit or pixels.
        layout: NCHW or NHWC.
        precision: What the precision is called.
        session: ONNX Runtime's session configuration that the file is deployed with.
        trained: Whether the weights are trained; None if that is not known.
        name: What the bundle is called.
        output: Folder that the bundle's own folder goes into.
        force: Whether a bundle that exists is replaced.
    """

    file: Path
    float_file: Path | None = None
    like: str | None = None
    into: Path | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    squash: bool = False
    interpolation: str | None = None
    classes: int | tuple[str, ...] | None = None
    cam_layer: str | None = None
    float_cam_layer: str | None = None
    logits: str | None = None
    values: str | None = None
    layout: str | None = None
    precision: str | None = None
    session: dict[str, str] = field(default_factory=dict)
    trained: bool | None = None
    name: str | None = None
    output: Path = Path("bundles")
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and words that there are not.

        Raises:
            QcamError: Names the option.
        """
        if self.values is not None:
            require(InputValues, self.values, "{values}")
        if self.layout is not None:
            require(Layout, self.layout, "{layout}")
        if self.interpolation is not None:
            require(Interpolation, self.interpolation, "interpolation")
        if self.precision is not None and not PRECISION_NAME.fullmatch(self.precision):
            raise QcamError(f"{{precision}} {ascii(self.precision)[:80]}: a name has 1 to 40 letters, digits, '.', '_' and '-'")
        if self.precision == "f32" and self.float_file is not None:
            raise QcamError("{precision} f32 is what the file of {float} is called; give the quantized one another name")
        if (self.mean is None) != (self.std is None):
            raise QcamError("{mean} and {std} belong together; give both, or none")
        if self.squash and self.resize is not None:
            raise QcamError("{resize} is a size or squash, not both")
        if self.into is not None:
            others = {
                "{like}": self.like, "{float}": self.float_file, "{name}": self.name, "{trained}": self.trained,
            }  # fmt: skip
            if both := [option for option, value in others.items() if value is not None]:
                raise QcamError(f"{{into}} says what {both[0]} says too; leave one of them out")
        if self.like is not None or self.into is not None:
            told = {
                "{size}": self.size, "{mean}": self.mean, "{std}": self.std, "{resize}": self.resize or self.squash or None,
                "{interpolation}": self.interpolation, "{classes}": self.classes,
            }  # fmt: skip
            if both := [option for option, value in told.items() if value is not None]:
                raise QcamError(f"{self.option} says what {both[0]} says too; leave one of them out")
        if self.float_cam_layer is not None and self.float_file is None:
            raise QcamError("{float_cam_layer} is of the file of {float}, and there is none")
        if wrong := wrong_in_session(self.session):
            raise QcamError(f"{{session_config}}: {wrong}")
        if self.name is not None and not self.name.strip():
            raise QcamError("{name} is empty; give the bundle a name")
        refuse_unprintable([self.model_id], str(self.file))

    @property
    def option(self) -> str:
        """Return the option that names a bundle of the same network."""
        return "{like}" if self.into is None else "{into}"

    @property
    def whose(self) -> str:
        """Return which bundle of the same network was named, and by which option."""
        return f"{self.option} {self.like if self.into is None else self.into}"

    @property
    def model_id(self) -> str:
        """Return what the bundle is called: by default as the file is."""
        return self.name or self.file.name.removesuffix(".onnx")

    @property
    def place(self) -> Path:
        """Return where the bundle goes."""
        if self.into is not None:
            return self.into
        return self.output / bundle_folder_name(self.model_id)
