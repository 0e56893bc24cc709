"""The proof of a bundle: one photograph goes through session, mirror and CAM of every precision before the bundle appears."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from qcam.calibration.ranges import CalibrationSet, overflow
from qcam.common import telling
from qcam.common.denominators import crossings
from qcam.common.errors import QcamError, UnsupportedGraphError, in_file
from qcam.common.norms import logit_error
from qcam.images.decoding import decode_all
from qcam.images.embedded import calibration_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.apart import takes_images_apart
from qcam.runtime.bundle import Bundle, PrecisionEntry, load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.probe import probe_kernels
from qcam.runtime.mirror import Mirror
from qcam.runtime.normal import normalised

Images = NDArray[np.float32]

#: Largest relative error (Euclidean norm) of the mirror's logits against ONNX Runtime's. int8 is mirrored in float here, and on
#: CPUs whose kernels saturate 0.6 has been measured for trained networks; 1 is two vectors that have nothing in common.
BOUNDS = {"f32": 1e-3, "int16": 2e-2, "int8": 1.0}
#: Largest relative error of a picture's logits beside another picture against its logits alone: sums that are added in another
#: order, and codes that flip by that.
_ALIKE = {"f32": 1e-3, "int16": 2e-2, "int8": 5e-2}


def prove(bundle: Bundle, reference: Callable[[Images], Images], whose: str, calibration: CalibrationSet | None) -> None:
    """Run one photograph through every precision of a bundle: in ONNX Runtime on the CPU, in the mirror, and up to its CAM.

    Args:
        bundle: The bundle, all of its files written.
        reference: Returns the logits of what it was made from, of images as `Preprocessing.normalise` gives them.
        whose: Whose logits these are, for messages.
        calibration: The calibration photographs, of which the first is taken; None: one that installed packages ship, or, where
            there is none, a drawn picture.

    Raises:
        QcamError: If a file does not run, its logits are not finite or not the mirror's, it answers a picture otherwise in a
            batch than alone, or its CAM is undefined.
        UnsupportedGraphError: If the mirror does not know an operator, or a setting of it; names the network and the precision.
    """
    name, images = _photograph(bundle.preprocessing, calibration)
    for entry in bundle.precisions:
        with in_file(f"{bundle.model_id} ({bundle.source}): {entry.name}"):
            _prove_one(bundle, entry, reference, whose, name, images)


def _prove_one(
    bundle: Bundle, entry: PrecisionEntry, reference: Callable[[Images], Images], whose: str, name: str, images: Images
) -> None:
    model = load_onnx(bundle, entry.name)
    session = DeployedModel(bundle, entry.name, SessionSettings(), model=model)
    outputs = session.run(images)
    if not np.isfinite(outputs.logits).all():
        fed = entry.input.filled(entry.input.feed(images, bundle.preprocessing))
        where = overflow(model, fed) if entry.name == "f32" else ""
        raise QcamError(
            f"{bundle.model_id}: {entry.name} returns NaN or infinity on {name}"
            + (f"; the first tensor is {where}" if where else "")
            + "; check the weights, {mean} and {std}"
        )
    refuse_mixing(bundle, entry, entry.name, session, images)
    if entry.name == "f32":
        _compare(bundle, entry, whose, reference(images), outputs.logits, name)
    mirror = Mirror(model, entry, preprocessing=bundle.preprocessing)
    hold_simulation(bundle, entry, entry.name, mirror, lambda: model, images, outputs.logits, name)
    column = 0 if outputs.logits.shape[1] == 1 else int(outputs.logits[0].argmax())
    given = zip(session.taps, (outputs.tap, *outputs.skips), strict=True)
    taps = [mirror.dequantize(tap, values) for tap, values in given]
    gradient = mirror.gradient(taps[0], np.array([column], np.int64), taps[1:])
    if not bool(torch.isfinite(taps[0]).all()) or not bool(torch.isfinite(gradient).all()):
        raise QcamError(
            f"{bundle.model_id}: the CAM of {entry.name} is undefined on {name}: the activation at {entry.tap.tensor} "
            "or its gradient is not finite; choose another layer with {cam_layer}"
        )
    crossed = int(crossings(taps[0].numpy(), gradient.numpy())[0])
    if crossed and entry is bundle.precisions[0]:
        telling.warn(
            f"{bundle.model_id}: activations at {entry.tap.tensor} are negative, and on {name} Grad-CAM++'s denominator is not "
            f"positive at {crossed:,} of {taps[0].numel():,} positions: weights explode there and change their sign; explain "
            "it with {cam} gradcam++-relu, or choose another layer with {cam_layer}"
        )
    if not bool(gradient.any()) and bundle.trained is not False:
        telling.warn(
            f"{bundle.model_id}: the CAM of {entry.name} is zero on {name}, for no part of {entry.tap.tensor} changes the "
            "score there"
        )


def refuse_mixing(bundle: Bundle, entry: PrecisionEntry, kind: str, session: DeployedModel, image: Images) -> None:
    """Refuse a file that answers a picture otherwise beside another picture than alone.

    Args:
        bundle: The bundle.
        entry: The precision.
        kind: One of `BOUNDS`, the nearest to it.
        session: Its session.
        image: One picture, as `Preprocessing.normalise` gives it; a drawn one is put behind it.

    Raises:
        QcamError: If it does, or takes the picture alone and not with another.
    """
    other = bundle.preprocessing.normalise(drawn(bundle.preprocessing)[None])
    together = session.run(np.concatenate([image, other])).logits
    alone = np.concatenate([session.run(each).logits for each in (image, other)])
    if together.shape != alone.shape:
        what = "×".join(map(str, together.shape))
        raise QcamError(f"{bundle.model_id}: {entry.name} returns {what} scores for two pictures; qcam needs batch × classes")
    finite = np.isfinite(together).all(axis=1) & np.isfinite(alone).all(axis=1)  # others are refused for that, if at all
    largest = np.abs(alone[finite]).max(initial=0.0)
    error = float(np.abs(together[finite] - alone[finite]).max(initial=0.0) / (largest or 1.0))
    # Codes that flip where floats are added in another order make much of it in a network without training.
    if error > _ALIKE[kind] and not takes_images_apart(normalised(load_onnx(bundle, entry.name)), [entry.logits]):
        raise QcamError(
            f"{bundle.model_id}: {entry.name} answers a picture otherwise in a batch than alone (relative error {error:.2g}): "
            "an operator reads across the pictures of a batch, so that no map is of one picture"
        )


def hold_simulation(
    bundle: Bundle,
    entry: PrecisionEntry,
    kind: str,
    mirror: Mirror,
    model: Callable[[], onnx.ModelProto],
    image: Images,
    wanted: Images,
    name: str,
) -> None:
    """Refuse a file of which the mirror's logits are not ONNX Runtime's.

    Where the float simulation of a quantized file is far from them, the integer arithmetic of this CPU is asked: if that gives
    them, the file is followed as it runs, and a warning tells what the simulation is worth.

    Args:
        bundle: The bundle.
        entry: The precision.
        kind: One of `BOUNDS`, the nearest to it.
        mirror: Its mirror, of float arithmetic.
        model: Returns its file, parsed.
        image: One picture, as `Preprocessing.normalise` gives it.
        wanted: Its logits in ONNX Runtime.
        name: The picture's, for messages.

    Raises:
        QcamError: If neither gives them.
    """
    error = logit_error(mirror.forward(image).logits.numpy(), wanted, wanted)
    if error <= BOUNDS[kind]:
        return
    family = probe_kernels(entry.session).family
    if kind != "f32" and family is not None:
        try:
            exact = Mirror(
                model(), entry, arithmetic="integer", family=family, float_kernels=True, preprocessing=bundle.preprocessing
            )
            found = logit_error(exact.forward(image).logits.numpy(), wanted, wanted)
        except UnsupportedGraphError:  # what integer arithmetic lacks is not what is wrong here
            found = np.inf
        if found <= _ALIKE[kind]:
            where = _where_not_finite(mirror, image)
            telling.warn(
                f"{bundle.model_id}: the float simulation of {entry.name} does not foretell what runs: the relative error of "
                f"its logits is {_said(error)} on {name}{where}; integer arithmetic does (qcam-check)"
            )
            return
    _refuse(bundle, entry, "the mirror's", error, BOUNDS[kind], name)


def _where_not_finite(mirror: Mirror, image: Images) -> str:
    """Name the first tensor of codes in which the simulation has NaN, as ` (NaN first at …)`; empty if there is none."""
    found: list[str] = []

    def observe(tensor: str, codes: torch.Tensor) -> None:
        if not found and codes.is_floating_point() and bool(codes.isnan().any()):
            found.append(tensor)

    mirror.forward(image, observe)
    return f" (NaN first at {found[0]}, as of 0 / 0)" if found else ""


def _compare(bundle: Bundle, entry: PrecisionEntry, whose: str, found: Images, wanted: Images, name: str) -> None:
    """Refuse logits that are further from ONNX Runtime's than the precision allows."""
    error, bound = logit_error(found, wanted, wanted), BOUNDS[entry.name]
    if not error <= bound:  # NaN included
        _refuse(bundle, entry, whose, error, bound, name)


def _refuse(bundle: Bundle, entry: PrecisionEntry, whose: str, error: float, bound: float, name: str) -> NoReturn:
    raise QcamError(
        f"{bundle.model_id}: the logits of {entry.name} in ONNX Runtime are not {whose} on {name}: relative error "
        f"{_said(error)}, at most {bound:g} is accepted; the file would not be explained as it runs, so no bundle is made"
    )


def _said(error: float) -> str:
    return "undefined" if error != error else f"{error:.2g}"


def _photograph(preprocessing: Preprocessing, calibration: CalibrationSet | None) -> tuple[str, Images]:
    """Return one photograph's name and the network's input."""
    if calibration is not None:
        return calibration.names[0], preprocessing.normalise(calibration.crops[:1])
    try:
        files = calibration_photographs()
    except QcamError:  # the packages that ship some are not installed
        files = []
    for file, decoded in zip(files, decode_all([file.path for file in files]), strict=True):
        if decoded.image is not None:
            return file.name, preprocessing.normalise(preprocessing.crop_image(decoded.image)[None])
    return "a drawn picture", preprocessing.normalise(drawn(preprocessing)[None])


def drawn(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Draw a picture: slopes, and noise as in a photograph; of the three channels equal ones for grey pictures."""
    height, width = preprocessing.crop
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = np.stack([rows / height, columns / width, (rows + columns) / (height + width)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 0.1, slopes.shape)
    picture = (255 * np.clip(slopes + noise, 0, 1)).astype(np.uint8)
    return picture if preprocessing.channels == 3 else np.repeat(picture[..., :1], 3, axis=-1)
