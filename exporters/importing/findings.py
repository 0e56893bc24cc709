"""What came of running an imported file: noted in the manifest, and told where it promises less than one would think."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcam.common import telling
from qcam.common.errors import BundleError
from qcam.exporters.importing.parts import Part
from qcam.exporters.importing.proof import Held, Shown
from qcam.runtime.bundle import Bundle
from qcam.runtime.manifest import BITWISE, DIFFERS, ordered_precisions
from qcam.runtime.mirror import Mirror

_NOTHING = "nothing is promised"
_TIME = "time and placement, the copy the CAM layer, and nothing is promised of the two"


def proven(bundle: Bundle, parts: list[Part], held: dict[str, Held], shown: Shown) -> Bundle:
    """Note what came of holding every copy against its file, and what was decided besides.

    Args:
        bundle: The bundle.
        parts: Its files.
        held: Precision → what file and copy gave.
        shown: What they were shown.

    Returns:
        The bundle, with the proofs and the decisions in its manifest.

    Raises:
        BundleError: If the copy differs from a file that does not hand out the scores itself.
    """
    entries = {}
    for part in parts:
        found = held[part.name]
        if found.entry.input.batch != part.entry.input.batch:
            part.noted.note(
                "batch", f"fixed to {found.entry.input.batch}", "it does not run with more, though its input says any"
            )
        if not found.proof:
            part.noted.note("proof", "the file hands out everything itself", "no copy is needed")
        elif found.proof == BITWISE and found.kernels and part.returned == part.entry.logits:
            # Bit for bit on these pictures is no promise for others: the file itself gives what it hands out.
            found = replace(found, proof=DIFFERS)
            part.noted.note("proof", f"the copy's logits are the file's, {_by_others(found)}", f"{shown.words}; {_NOTHING}")
            telling.warn(f"{part.file.path.name}: {_by_others(found)}: the file itself gives logits, {_TIME}")
        elif found.proof == BITWISE and found.kernels:
            part.noted.note("proof", f"the copy's logits are the file's, {_by_others(found)}", shown.words)
            telling.warn(
                f"{part.file.path.name}: {_by_others(found)}; the file does not return the scores itself, so that all is the "
                f"copy's, whose logits were the file's on {shown.words} and may differ on others"
            )
        elif found.proof == BITWISE:
            part.noted.note("proof", "the copy's logits are the file's, bit for bit", shown.words)
        else:
            _refuse_without_logits(part)
            part.noted.note("proof", "the copy's logits differ from the file's", f"{shown.words}; {_NOTHING}")
            telling.warn(
                f"{part.file.path.name}: the logits of the copy with the CAM layer differ from the file's: the file itself "
                f"gives logits, {_TIME}"
            )
        further = dict(found.entry.quantization.further) | {"imported": part.noted.to_json()}
        how = replace(found.entry.quantization, further=further)
        entries[part.name] = replace(found.entry, proof=found.proof, quantization=how)
    return replace(bundle, precisions=tuple(entries[name] for name in ordered_precisions(entries)))


def note_scores(part: Part, mirror: Mirror, found: Held, shown: Shown) -> None:
    """Note what is known of the class scores: whether they are quantized, and whether they look like probabilities.

    Args:
        part: The file.
        mirror: Its mirror.
        found: What file and copy gave.
        shown: What they were shown.
    """
    if mirror.quantized_scores:
        part.noted.note("gradient", "passes through the quantizer of the scores", "a saturated score would have none")
    scores = found.logits
    if scores.shape[1] > 1 and bool(np.all((scores >= 0) & (scores <= 1))):
        sums = np.allclose(scores.sum(axis=1), 1, atol=1e-2)
        what = "add up to 1, as behind a softmax" if sums else "lie between 0 and 1, as behind a sigmoid"
        part.noted.note("scores", f"all {what}", shown.words)
        telling.warn(
            f"{part.file.path.name}: the scores of {shown.words} {what}: a CAM is of the scores in front of that; name them "
            "with {logits}"
        )


def _by_others(found: Held) -> str:
    """Say that a copy runs by other kernels than its file."""
    count = len(found.kernels)
    return (
        f"but ONNX Runtime runs {count} {'node' if count == 1 else 'nodes'} of the copy with the CAM layer by other kernels "
        f"(first {found.kernels[0]})"
    )


def _refuse_without_logits(part: Part) -> None:
    """Refuse a file that differs from its copy and does not hand out the scores itself: there would be none of the file's."""
    if part.returned != part.entry.logits:
        raise BundleError(
            f"{part.file.where}: handing out {part.entry.logits} and the CAM layer changes what ONNX Runtime computes, and the "
            f"file itself does not return those scores; name an output of the file with {{logits}}, or another {{cam_layer}}"
        )


def note_agreement(part: Part, name: str, held: dict[str, Held], shown: Shown, *, of_random_weights: bool) -> None:
    """Note how often the quantized file and the float file choose the same class: files of two networks hardly do.

    Args:
        part: The quantized file.
        name: What messages call the float file.
        held: Precision → what file and copy gave, f32 among them.
        shown: What they were shown.
        of_random_weights: Whether the weights are random: then that they differ is no warning.
    """
    one, other = (held[each].logits.argmax(axis=1) for each in (part.name, "f32"))
    same, total = int((one == other).sum()), len(shown.names)
    part.noted.note("top-1", f"{part.name} and f32 agree on {same} of {total}", shown.words)
    if of_random_weights or 2 * same >= total:
        return
    if same:
        telling.warn(
            f"{part.file.path.name} and {name} choose the same class on {same} of {total} photographs; "
            "are they one network, do both take pictures so, and did quantization leave anything of it?"
        )
    else:
        telling.warn(
            f"{part.file.path.name} and {name} choose the same class on none of {total} photographs: it is probably another "
            "network, or takes pictures in another way"
        )
