"""A whole export, from a model's name to its bundle: the one place that both `qcam.export` and `qcam-export` call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcam.common import telling
from qcam.common.arguments import real, whole
from qcam.common.errors import BundleError, QcamError
from qcam.common.places import refuse_overlap, require_text
from qcam.exporters import own
from qcam.exporters.export import ExportOptions, bundle_folder_name, export_bundle, override_preprocessing, write_bundle
from qcam.images.embedded import calibration_photographs
from qcam.images.listing import find_images
from qcam.images.preprocessing import Preprocessing
from qcam.images.sources import ImageFile
from qcam.models.sources import LoadedModel, load_model, refuse_unknown
from qcam.models.wishes import Wishes
from qcam.runtime.bundle import MANIFEST, Bundle

if TYPE_CHECKING:
    import torch

#: Photographs that ranges come from, at most.
CALIBRATION_LIMIT = 128


@dataclass(frozen=True)
class PreprocessingChanges:
    """What replaces the model's own preprocessing; None leaves it.

    Attributes:
        resize: Shorter side before the crop, or height and width, in pixels.
        squash: Whether the picture is squashed to the crop instead.
        crop: Side of the centre crop, or its height and width.
        mean: Of R, G, B on the 0..1 scale, or one number for all channels.
        std: Likewise.
        interpolation: Resampling filter.
    """

    resize: int | tuple[int, int] | None = None
    squash: bool = False
    crop: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no size, and no number; lists become tuples, one number becomes a tuple of it.

        Raises:
            QcamError: Names the setting, and what it takes.
        """
        for read, options in ((_size, ("{resize}", "{crop}")), (per_channel, ("{mean}", "{std}"))):
            for option in options:
                name = option.strip("{}")
                object.__setattr__(self, name, read(getattr(self, name), option))


def _size(value: Any, what: str) -> int | tuple[int, int] | None:
    """Return a number of pixels, or height and width."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise QcamError(f"{what} {value}: give one number of pixels, or height and width")
        return whole(value[0], what), whole(value[1], what)
    return None if value is None else whole(value, what)


def per_channel(value: Any, what: str) -> tuple[float, ...] | None:
    """Return numbers, one for each channel or one for all.

    Args:
        value: One number, several in a list, or None.
        what: What they are, for the message.

    Raises:
        QcamError: If one of them is no number.
    """
    if isinstance(value, (tuple, list)):
        return tuple(real(each, what) for each in value)
    return None if value is None else (real(value, what),)


@dataclass(frozen=True)
class Told:
    """What is told of a network of one's own: an ONNX file, a module, code that builds one, a program; None where nothing is.

    Attributes:
        preprocessing: How a photograph becomes its input; in place of `PreprocessingChanges`.
        like: A bundle whose preprocessing and classes are its own.
        trained: Whether its weights are trained.
        name: What the bundle is called.
        logits: The tensor of class scores, of an ONNX file.
        values: What the input of an ONNX file holds.
        layout: The order of its axes.
    """

    preprocessing: Preprocessing | None = None
    like: str | None = None
    trained: bool | None = None
    name: str | None = None
    logits: str | None = None
    values: str | None = None
    layout: str | None = None


@dataclass(frozen=True)
class ExportOrder:
    """What models are exported with.

    Attributes:
        options: What the bundle shall contain.
        weights: As `load_model` takes them.
        wishes: What is known about a network of one's own, as `load_model` takes it.
        calibration: Folder of photographs for the activation ranges; None for some that installed packages ship.
        calibration_limit: Use at most so many.
        changes: What replaces the models' preprocessing.
        told: What is told of a network of one's own.
        output: Folder that the bundles go to, one folder each.
        force: Whether a bundle that exists is replaced.
    """

    options: ExportOptions = field(default_factory=ExportOptions)
    weights: str | None = None
    wishes: Wishes = field(default_factory=Wishes)
    calibration: str | Path | None = None
    calibration_limit: int = CALIBRATION_LIMIT
    changes: PreprocessingChanges = field(default_factory=PreprocessingChanges)
    told: Told = field(default_factory=Told)
    output: Path = Path("bundles")
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse a limit that leaves nothing.

        Raises:
            QcamError: If it is no whole number from 1.
        """
        object.__setattr__(self, "calibration_limit", whole(self.calibration_limit, "{calibration_limit}"))

    def places(self, names: Sequence[str | torch.nn.Module]) -> dict[str | torch.nn.Module, Path]:
        """Return where each model's bundle goes.

        Raises:
            QcamError: If two of them would go to the same place, or one into what is only read.
        """
        places = {name: self.output / bundle_folder_name(own.called(name, self.told.name)) for name in dict.fromkeys(names)}
        if self.told.name is not None and len(places) > 1:
            raise QcamError(f"{{name}} {self.told.name}: {len(places)} bundles would be made, one can have it; leave it out")
        for name, place in places.items():
            same = [other for other, where in places.items() if where == place and other is not name]
            if same:
                one, other = (own.called(each, None) for each in (name, same[0]))
                raise BundleError(f"{one} and {other} would both become {place}; export them apart, into other folders")
            require_text(place, "{output}")
            if self.calibration is not None:
                whose = f"the bundle of {own.called(name, None)},"
                refuse_overlap(place, [("the calibration folder", self.calibration)], whose)
        return places


def is_bundle(folder: Path) -> bool:
    """Tell whether a bundle lies in a folder."""
    return (folder / MANIFEST).is_file()


def calibration_images(order: ExportOrder) -> list[ImageFile]:
    """Return the photographs that the ranges come from, evenly spread over the set; none if only f32 is asked for.

    Raises:
        QcamError: If there are none.
    """
    if all(precision == "f32" for precision in order.options.precisions):
        return []
    images = calibration_photographs() if order.calibration is None else find_images(order.calibration)
    limit = order.calibration_limit
    if len(images) > limit:  # class folders shall not all be cut off but the first
        images = [images[index * len(images) // limit] for index in range(limit)]
    if order.calibration is None:
        telling.note(f"calibrating on {len(images)} photographs of installed packages, for want of a calibration folder")
    return images


@contextmanager
def stages(name: str) -> Generator[Callable[[str], None], None, None]:
    """Tell the stages of a model's export."""
    with ExitStack() as shown:

        def on_stage(stage: str) -> None:
            shown.close()
            shown.enter_context(telling.status(f"{name}: {stage}"))

        shown.enter_context(telling.status(name))
        yield on_stage


def export_models(
    names: Sequence[str | torch.nn.Module],
    order: ExportOrder,
    *,
    keep: bool = False,
) -> Generator[tuple[Path, Bundle | None], None, None]:
    """Export models one after the other; whatever can be refused is refused before the first.

    Args:
        names: As `load_model` takes them, ONNX files, programs of `torch.export`, `net.py:build`, or modules; each once.
        order: What they are exported with.
        keep: Whether one that exists is left as it is, rather than refused.

    Yields:
        The place of each model's bundle, and the bundle; None for one that is kept.

    Raises:
        QcamError: If a place is taken, or any step cannot be done.
    """
    for name in names:
        own.refuse_unfit(name, order)
    places = order.places(names)
    if not order.force and not keep:
        for place in places.values():
            if place.exists():
                raise BundleError(f"{place} exists already; use {{force}} to replace it, {{keep}} to leave it, or {{output}}")
    todo = [name for name, place in places.items() if not (keep and is_bundle(place))]
    for name in todo:
        if isinstance(name, str) and not own.is_own(name):
            refuse_unknown(name)
    images = calibration_images(order) if todo else []
    for name, place in places.items():
        if name not in todo:
            yield place, None
            continue
        with stages(own.called(name, order.told.name)) as on_stage:
            bundle = export_model(name, order, images, on_stage)
        yield place, bundle


def export_model(
    name: str | torch.nn.Module,
    order: ExportOrder,
    images: Sequence[ImageFile],
    on_stage: Callable[[str], None] = lambda _stage: None,
) -> Bundle:
    """Load a model and export it.

    Args:
        name: As `export_models` takes it.
        order: What it is exported with.
        images: From `calibration_images`.
        on_stage: Called with a few words before each stage.

    Returns:
        The bundle.

    Raises:
        QcamError: If any step cannot be done.
    """
    place = order.places([name])[name]
    if own.is_graph(name):
        bundle = write_bundle(
            lambda: own.graph_of(str(name), order, on_stage), images, order.options, place, force=order.force, on_stage=on_stage
        )
    else:
        on_stage("loading")
        loaded = own.module_of(name, order) if own.is_own(name) else _named(str(name), order)
        bundle = export_bundle(loaded, images, order.options, place, force=order.force, on_stage=on_stage)
    if bundle.trained is False:
        telling.warn(f"{bundle.model_id} has random weights: it runs, but no figure made with it means anything")
    for refusal in bundle.calibration.refused or ():
        telling.warn(f"calibration photograph left out: {refusal}")
    calibration = bundle.calibration
    if calibration.sha256 is not None and not calibration.hashed_all:
        telling.note(
            f"the manifest keeps the hashes of the first {len(calibration.sha256):,} of {calibration.images:,} calibration "
            "photographs: an evaluation recognises those"
        )
    return bundle


def _named(name: str, order: ExportOrder) -> LoadedModel:
    """Load a model that has a name."""
    changes = order.changes
    if order.wishes.channels == 1 and (changes.mean is None or changes.std is None):
        raise QcamError(
            "{channels} 1: no published mean and standard deviation is of grey pictures; give what the network was trained "
            "with, as in {mean} 0.5 {std} 0.5 (pixels are between 0 and 1; {mean} 0 {std} 1 leaves them so)"
        )
    resized = changes.resize is not None or changes.squash
    wishes = replace(order.wishes, resize=resized, interpolation=changes.interpolation is not None)
    loaded = load_model(name, order.weights, wishes)
    return replace(
        loaded,
        preprocessing=override_preprocessing(
            loaded.preprocessing,
            resize=changes.resize, squash=changes.squash, crop=changes.crop,
            mean=changes.mean, std=changes.std, interpolation=changes.interpolation,
        ),
    )  # fmt: skip
