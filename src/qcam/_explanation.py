"""`qcam.explain`: where each precision of a bundle looks, on one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcam.common.arguments import names, share, texts, whole_or_none
from qcam.common.errors import ImageSetError, QcamError
from qcam.common.extras import names_extras, require_packages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from qcam.runtime.bundle import Bundle


#: What is explained of a bundle that holds both, unless told otherwise.
_USUAL = ("f32", "int8")


@dataclass(frozen=True)
class Explanation:
    """Maps, classes and logits of one picture, by precision, all of deployed runs.

    Attributes:
        model: Model id.
        picture: What the network saw: uint8, height × width × 3.
        maps: Precision → CAM at the tap's own resolution, float64, height × width; not negative, not normalised.
        logits: Precision → class scores before softmax, float32.
        target: Precision → index of the class that was explained.
        classes: Class names in the order of the logits.
    """

    model: str
    picture: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float64]]
    logits: dict[str, NDArray[np.float32]]
    target: dict[str, int]
    classes: tuple[str, ...]

    @property
    def precisions(self) -> list[str]:
        """Return the precisions, in the order of the tables."""
        return list(self.maps)

    def top1(self, precision: str) -> str:
        """Return the name of the class that a precision chooses.

        Raises:
            QcamError: If the precision was not explained.
        """
        from qcam.evaluate.maps.scores import top_classes

        return self.classes[int(top_classes(self.logits[self._known(precision)][None])[0])]

    @names_extras("overlay()")
    def overlay(self, precision: str, *, colormap: str = "inferno", opacity: float = 0.55) -> Image.Image:
        """Return the picture with a CAM over it.

        Args:
            precision: One of those that were explained.
            colormap: Colours of the CAM: inferno, viridis, cividis or jet.
            opacity: Share of the CAM's colour, 0..1.

        Returns:
            8-bit RGB, of the network's input size.

        Raises:
            QcamError: If the precision was not explained, the colour map is unknown, or the opacity is no share.
            MissingExtraError: If matplotlib is not installed.
        """
        from qcam.evaluate.report.finishing import Presentation
        from qcam.evaluate.report.overlays import overlay

        colours, opaque = Presentation(colormap=colormap).colormap, share(opacity, "opacity")
        return overlay(self.picture, self.maps[self._known(precision)], colours, opaque)

    def __repr__(self) -> str:
        said = ", ".join(f"{precision}: {self.top1(precision)}" for precision in self.precisions)
        return f"<Explanation of {self.model}, {said}>"

    def _repr_html_(self) -> str:
        from qcam.common import html

        figures = ""
        for precision in self.precisions:
            buffer = io.BytesIO()
            self.overlay(precision).save(buffer, "PNG")
            figures += html.picture(buffer.getvalue(), f"{precision}: {self.top1(precision)}")
        return f"<div><b>{html.escaped(self.model)}</b><br>{figures}</div>"

    def _known(self, precision: str) -> str:
        if precision not in self.maps:
            raise QcamError(f"precision {precision!r} was not explained; choose one of {', '.join(self.maps)}")
        return precision


@names_extras("qcam.explain")
def explain(
    bundle: Bundle | str | Path,
    image: str | Path | Image.Image | NDArray[np.uint8],
    precisions: str | Sequence[str] | None = None,
    *,
    provider: str = "CPU",
    allow_fallback: bool = False,
    session_config: dict[str, str] | None = None,
    provider_options: Mapping[str, str] | None = None,
    tf32: bool = False,
    target: str | None = None,
    method: str = "gradcam++",
    threads: int | None = None,
    device: str = "auto",
) -> Explanation:
    """Show where each precision of a bundle, as deployed, looks on one picture.

    Args:
        bundle: A bundle, or the path or URL of its folder.
        image: A file, a PIL image, or an array of 8-bit RGB, height × width × 3.
        precisions: Those to explain; empty for all of the bundle that the provider can run. None for f32 and int8 of a bundle
            that holds both, for all of another.
        provider: ONNX Runtime's execution provider. Strict: never silently another one.
        allow_fallback: Whether nodes on another provider are accepted.
        session_config: ONNX Runtime's session configuration entries.
        provider_options: What the provider is told, as device_id or gpu_mem_limit (docs/gpu.md).
        tf32: Whether a GPU may compute float32 in TF32.
        target: The class that is explained: f32-top1, or own-top1; None for f32-top1, and for own-top1 of a bundle that holds
            no f32, which is told. f32-top1 by name is refused there.
        method: CAM method: gradcam++, gradcam++-relu, gradcam, gradcam++-torchcam, hirescam, layercam, eigencam, ablation,
            occlusion, or rise (docs/results.md).
        threads: Of ONNX Runtime and PyTorch; None for all cores.
        device: Where PyTorch computes the gradients: auto, cpu or cuda.

    Returns:
        Maps, classes and logits by precision.

    Raises:
        QcamError: If the picture cannot be read, a precision is not in the bundle, or the provider cannot be had.
        MissingExtraError: If a package is not installed.
    """
    require_packages("qcam.explain", "onnxruntime", "torch")
    from qcam.common import machine, telling
    from qcam.common.vocabulary import Target
    from qcam.evaluate.run.evaluator import (
        BundleEvaluator,
        fitting_precisions,
        needs_f32,
        own_choice,
        told_left_out,
        wanted_precisions,
    )
    from qcam.evaluate.run.inputs import load_bundles
    from qcam.evaluate.run.protocol import Sample
    from qcam.runtime.deployed import SessionSettings, provider_name, require_provider
    from qcam.runtime.devices import torch_device

    asked = names(() if precisions is None else precisions, "{precision}")
    count = whole_or_none(threads, "{threads}") or machine.available_cores()
    if target == Target.LABEL:
        raise QcamError("target label needs a labelled image set; use f32-top1 or own-top1, or qcam.study")
    (loaded,) = load_bundles([bundle])
    held = {entry.name for entry in loaded.precisions}
    if precisions is None and held >= set(_USUAL):
        asked = _USUAL
    named, target = target is not None, target or Target.F32_TOP1.value
    if target == Target.F32_TOP1 and "f32" not in held:
        if named:
            raise needs_f32(loaded)
        telling.note(own_choice([loaded]))
        target = Target.OWN_TOP1.value
    picture = _picture(image)
    settings = SessionSettings(
        provider_name(provider),
        count,
        allow_fallback,
        config=texts(session_config, "{session_config}"),
        provider_options=texts(provider_options, "{provider_option}"),
        tf32=tf32,
    )
    if not allow_fallback:
        require_provider(settings.provider)
    for text in told_left_out(loaded, asked, settings):
        telling.warn(text)
    shown = wanted_precisions(loaded, asked) if asked else fitting_precisions(loaded, asked, settings)
    # f32 chooses the class, asked for or not.
    run = wanted_precisions(loaded, shown, reference=target == Target.F32_TOP1)
    evaluator = BundleEvaluator(loaded, run, settings, target=target, method=method, fake_quant=False, null_row=False)
    evaluator.build(torch_device(device, count, tf32=tf32, index=settings.device_index))
    crop = loaded.preprocessing.crop_image(picture)
    every = evaluator.explain([Sample("picture", "", None, "", crop, None)])
    found = {precision: every[precision] for precision in shown}
    return Explanation(
        model=loaded.model_id,
        picture=crop,
        maps={precision: item.maps[0] for precision, item in found.items()},
        logits={precision: item.logits[0] for precision, item in found.items()},
        target={precision: int(item.targets[0]) for precision, item in found.items()},
        classes=loaded.classes,
    )


def _picture(image: Any) -> Image.Image:
    """Return an image, however it was given, as upright 8-bit RGB."""
    import numpy as np
    from PIL import Image, ImageOps

    from qcam.images.decoding import decode

    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageSetError(
                f"the array has shape {image.shape} of {image.dtype}; give 8-bit RGB: uint8, height × width × 3, levels 0..255"
            )
        return Image.fromarray(image)
    decoded = decode(Path(image))
    if decoded.image is None:
        raise ImageSetError(f"{image} cannot be used: {decoded.refusal}; give another picture")
    return decoded.image
