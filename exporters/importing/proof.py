"""The proof of an imported bundle: the copy's logits are the file's, and a photograph goes through session, mirror and CAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qcam.common import telling
from qcam.common.counted import counted
from qcam.common.errors import ProviderError, QcamError, first_line, in_file
from qcam.exporters.importing.quantization import nearest
from qcam.exporters.proof import drawn, hold_simulation, refuse_mixing
from qcam.images.decoding import decode_all
from qcam.images.embedded import calibration_photographs
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import Bundle, PrecisionEntry, load_onnx, read_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.loaded import kernels_of
from qcam.runtime.manifest import BITWISE, DIFFERS
from qcam.runtime.mirror import Mirror
from qcam.runtime.normal import normalised
from qcam.runtime.session_config import NO_SPINNING

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Shown:
    """Pictures that are shown to every file.

    Attributes:
        names: Their names.
        images: float32, batch × channels × height × width, as preprocessing gives them.
    """

    names: tuple[str, ...]
    images: Images

    @property
    def words(self) -> str:
        """Return how many they are, and what."""
        count = len(self.names)
        return counted(count, "photograph") if self.names[0] != _DRAWN else "a drawn picture"


_DRAWN = "a drawn picture"


def pictures(preprocessing: Preprocessing) -> Shown:
    """Return the photographs that installed packages ship, as network inputs; where there are none, a drawn picture."""
    try:
        files = calibration_photographs()
    except QcamError:  # the packages that ship some are not installed
        files = []
    found = [
        (file.name, preprocessing.crop_image(decoded.image))
        for file, decoded in zip(files, decode_all([file.path for file in files]), strict=True)
        if decoded.image is not None
    ] or [(_DRAWN, picture := drawn(preprocessing)), ("the same, upside down", picture[::-1])]  # two: some take one alone
    return Shown(tuple(name for name, _ in found), preprocessing.normalise(np.stack([crop for _, crop in found])))


@dataclass(frozen=True)
class Held:
    """What a file and its copy gave.

    Attributes:
        entry: The precision, as its file really takes pictures: some leave the batch open and yet run with one picture alone.
        proof: `bitwise` or `differs`; empty where there is no copy.
        logits: float32, pictures × classes, of what hands them out.
        kernels: Nodes that ONNX Runtime runs by another kernel in the copy than in the file: logits that are equal on some
            pictures are no proof then.
    """

    entry: PrecisionEntry
    proof: str
    logits: Images
    kernels: tuple[str, ...] = ()


def hold(folder: Path, entry: PrecisionEntry, returned: str, preprocessing: Preprocessing, shown: Shown, called: str) -> Held:
    """Hold the copy of a file against the file, under the session settings that the user deploys with.

    Args:
        folder: The bundle's folder.
        entry: The precision.
        returned: The output of the file that is compared; empty: all of them.
        preprocessing: How the pictures were normalised.
        shown: The pictures.
        called: What messages call the file.

    Raises:
        ProviderError: If ONNX Runtime does not run the file, or the copy.
    """
    original = folder / (entry.file if entry.original is None else entry.original.file)
    wanted = [returned] if returned else None
    if entry.original is None:
        wanted = [entry.logits]
    many = len(shown.names) > 1 and entry.input.batch is None
    try:
        first = _outputs(original, entry, wanted, preprocessing, shown, called)
        apart = many and not any(len(value) == len(shown.names) for value in first.values())
    except ProviderError:
        if not many:
            raise
        apart = True
    if apart:
        entry = replace(entry, input=replace(entry.input, batch=1))
        first = _outputs(original, entry, wanted, preprocessing, shown, called)
    if entry.original is None:
        return Held(entry, "", first[entry.logits])
    names = list(dict.fromkeys([*first, entry.logits]))
    second = _outputs(folder / entry.file, entry, names, preprocessing, shown, f"the copy of {called}")
    equal = all(
        value.dtype == second[name].dtype and np.array_equal(value, second[name], equal_nan=value.dtype.kind == "f")
        for name, value in first.items()
    )
    kernels = _other_kernels(original, folder / entry.file, entry) if equal else ()
    return Held(entry, BITWISE if equal else DIFFERS, second[entry.logits], kernels)


def _other_kernels(original: Path, copy: Path, entry: PrecisionEntry) -> tuple[str, ...]:
    """Return the nodes that ONNX Runtime runs by other kernels in a copy than in the file, by its own optimized graphs."""
    one, other = (kernels_of(read_onnx(path), entry.session) for path in (original, copy))
    return tuple(name for name in one if other.get(name, one[name]) != one[name])


def _outputs(
    path: Path, entry: PrecisionEntry, names: list[str] | None, preprocessing: Preprocessing, shown: Shown, called: str
) -> dict[str, NDArray[Any]]:
    """Run pictures through a file; return the values of its outputs by name, without what fills a fixed batch up."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    parts: list[list[NDArray[Any]]] = []
    count = len(shown.names)
    try:
        for key, value in ({NO_SPINNING: "1"} | entry.session).items():
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        wanted = names or [output.name for output in session.get_outputs()]
        fed = entry.input.feed(shown.images, preprocessing)
        for part in entry.input.chunks(count):
            parts.append(session.run(wanted, {entry.input.name: entry.input.filled(fed[part])}))
        return {name: np.concatenate(values)[:count] for name, *values in zip(wanted, *parts, strict=True)}
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        said = first_line(error).replace(str(path), called)
        raise ProviderError(
            f"ONNX Runtime does not run {called} on the CPU: {said}; the file has to run before it can be judged"
        ) from error


def mirrors_of(bundle: Bundle, called: Mapping[str, str]) -> dict[str, Mirror]:
    """Build the mirror of every precision of a bundle; nothing of it runs in ONNX Runtime.

    Args:
        bundle: The bundle, all of its files written.
        called: Precision → what messages call the file that was given.

    Raises:
        UnsupportedGraphError: If a mirror lacks an operator; names the file.
    """
    mirrors = {}
    for entry in bundle.precisions:
        with in_file(called[entry.name]):
            mirrors[entry.name] = Mirror(normalised(load_onnx(bundle, entry.name)), entry, preprocessing=bundle.preprocessing)
    return mirrors


def prove(
    bundle: Bundle, mirrors: dict[str, Mirror], shown: Shown, logits: dict[str, Images], called: Mapping[str, str]
) -> None:
    """Run a picture through every precision of a bundle: in ONNX Runtime on the CPU, in the mirror, and up to its CAM.

    Args:
        bundle: The bundle, all of its files written.
        mirrors: Their mirrors.
        shown: The pictures, of which the first is taken.
        logits: Those of all pictures.
        called: Precision → what messages call the file that was given.

    Raises:
        QcamError: If a file does not run, logits are not finite or not the mirror's, it answers a picture otherwise in a batch
            than alone, or a CAM is undefined.
        UnsupportedGraphError: If a mirror does not know a setting of an operator; names the file.
    """
    for entry in bundle.precisions:
        if not np.isfinite(logits[entry.name]).all():
            raise QcamError(
                f"{bundle.model_id}: {entry.name} returns NaN or infinity on a photograph; check {{mean}} and {{std}}"
            )
        session = DeployedModel(bundle, entry.name, SessionSettings())
        outputs = session.run(shown.images[:1])
        refuse_mixing(bundle, entry, nearest(entry.quantization), session, shown.images[:1])
        mirror = mirrors[entry.name]
        mirror.entry = entry  # of which the batch and the proof were found out meanwhile
        with in_file(called[entry.name]):
            _prove_one(bundle, entry, mirror, shown, outputs.logits, (outputs.tap, *outputs.skips))


def _prove_one(
    bundle: Bundle, entry: PrecisionEntry, mirror: Mirror, shown: Shown, logits: Images, taps: tuple[NDArray[Any], ...]
) -> None:
    name, images = shown.names[0], shown.images[:1]
    kind = nearest(entry.quantization)
    hold_simulation(
        bundle, entry, kind, mirror, lambda: normalised(load_onnx(bundle, entry.name)), images, logits, name
    )  # fmt: skip
    column = 0 if logits.shape[1] == 1 else int(logits[0].argmax())
    values = [mirror.dequantize(tap, value) for tap, value in zip((entry.tap, *entry.skips), taps, strict=True)]
    gradient = mirror.gradient(values[0], np.array([column], np.int64), values[1:])
    if not bool(torch.isfinite(values[0]).all()) or not bool(torch.isfinite(gradient).all()):
        raise QcamError(
            f"{bundle.model_id}: the CAM of {entry.name} is undefined on {name}: the activation at {entry.tap.tensor} or its "
            "gradient is not finite; choose another layer with {cam_layer}"
        )
    if not bool(gradient.any()) and bundle.trained is not False:
        telling.warn(
            f"{bundle.model_id}: the CAM of {entry.name} is zero on {name}: no part of {entry.tap.tensor} changes the score "
            "there, as where a quantized score is at the end of its range"
        )
