"""One network, from its name to the verdict on every code: exported, run in ONNX Runtime, mirrored and compared."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alive import bring_to_life
from names import GIVEN
from numpy.typing import NDArray

from qcam.common import machine
from qcam.common.errors import QcamError
from qcam.common.norms import logit_error
from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.held import Wanted
from qcam.evaluate.check.kernels import Kernels
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.reading import Reading
from qcam.evaluate.check.result import LOGITS, CheckResult
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.models.sources import LoadedModel, load_model
from qcam.runtime.bundle import Bundle, load_onnx
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.inspection import Inspected, InspectedModel
from qcam.runtime.kernels import KERNELS

#: Largest relative error of f32's logits in ONNX Runtime against PyTorch's.
FLOAT_BOUND = 1e-4
#: A tensor with fewer distinct codes says little, and so does a network of which fewer than this share of tensors has as many.
DISTINCT, SHARE_DISTINCT = 16, 0.9
BATCH = 2


class Counting:
    """A deployed run that counts which codes occur in each tensor.

    Attributes:
        seen: Tensor → for each of the 256 codes whether it occurred.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.tensors, self.missing = runtime.tensors, runtime.missing
        self.taps, self.provider = runtime.taps, runtime.provider
        self.seen: dict[str, NDArray[np.bool_]] = {}

    def run(self, images: NDArray[np.float32]) -> Inspected:
        """Run one batch."""
        found: Inspected = self._runtime.run(images)
        for name, codes in found.codes.items():
            if codes.dtype.itemsize == 1:
                counts = np.bincount(np.ascontiguousarray(codes).view(np.uint8).ravel(), minlength=256)
                self.seen[name] = self.seen.get(name, np.zeros(256, bool)) | (counts > 0)
        return found


def measure(network: str, images: int = 2, families: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Return the row of one network.

    Args:
        network: Its name, as qcam-export takes it.
        images: How many photographs.
        families: Further kernel families that it is run on, under emulation.
        seed: Of its weights.
    """
    row: dict[str, Any] = {"network": network, "images": images, "seed": seed, "versions": machine.versions()}
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="qcam-networks-"))
    try:
        with torch.random.fork_rng(devices=[]):
            row |= _measured(network, images, families, seed, folder)
    except QcamError as error:
        # Weights without training may blow float logits up: another seed may do.
        blown_up = "are not PyTorch's" in str(error) or "have no finite range" in str(error)
        row |= {"result": "inexact" if blown_up else "refused", "reason": str(error)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def _measured(network: str, images: int, families: Sequence[str], seed: int, folder: Path) -> dict[str, Any]:
    loaded, given = load_model(network, f"random:{seed}"), GIVEN.get(network, {})
    if "crop" in given:
        size = given["crop"]
        loaded = replace(loaded, preprocessing=replace(loaded.preprocessing, resize=size, crop=(size, size)))
    parameters = sum(parameter.numel() for parameter in loaded.module.parameters())
    calibration = calibration_photographs()
    shown = _shown(loaded, [file.path for file in calibration])
    seeded = bring_to_life(loaded.module, shown, seed, gain=given.get("gain", 1.0))
    bundle = export_bundle(
        loaded, calibration, ExportOptions(precisions=("f32", "int8"), cam_layer=given.get("cam_layer")), folder / "bundle"
    )
    photographs = evaluation_photographs()[:images]
    shown = _shown(loaded, [file.path for file in photographs])
    names = [file.name for file in photographs]

    def batches() -> Iterator[tuple[Sequence[str], NDArray[np.float32]]]:
        for start in range(0, images, BATCH):
            yield names[start : start + BATCH], shown[start : start + BATCH]

    row: dict[str, Any] = {
        "images": images, "parameters": parameters, "given_seeds": seeded, "layer": bundle.cam_layer.tensor, "given": given,
    }  # fmt: skip
    row["f32"] = _float_error(bundle, loaded, shown)
    del loaded
    result, counting = _own(bundle, batches)
    row |= _codes(result) | _distinct(counting, bundle, result)
    row["kernel"], row["tap_shape"] = result.kernel, _tap_shape(bundle, shown)
    row["cams"] = sum(image.metrics["CC"] is not None for image in result.images)
    row["others"] = {family: _codes(_elsewhere(bundle, family, shown, batches)) for family in families}
    return row | _judged(row)


def _shown(loaded: LoadedModel, paths: Sequence[Any]) -> NDArray[np.float32]:
    crops = [loaded.preprocessing.crop_image(decode(path).image) for path in paths]
    return loaded.preprocessing.normalise(np.stack(crops))


def _tap_shape(bundle: Bundle, shown: NDArray[np.float32]) -> list[int]:
    return list(DeployedModel(bundle, "int8", SessionSettings()).run(shown[:1]).tap.shape[1:])


def _float_error(bundle: Bundle, loaded: LoadedModel, shown: NDArray[np.float32]) -> float:
    """Return the largest relative error of f32's logits in ONNX Runtime against PyTorch's, over all photographs."""
    session = DeployedModel(bundle, "f32", SessionSettings())
    errors = []
    for start in range(0, len(shown), BATCH):
        part = shown[start : start + BATCH]
        with torch.no_grad():
            wanted = loaded.module(torch.from_numpy(part)).numpy()
        found = session.run(part).logits
        errors += [logit_error(one, other, other) for one, other in zip(found, wanted, strict=True)]
    return float(max(errors))


def _own(bundle: Bundle, batches: Any) -> tuple[CheckResult, Counting]:
    """Hold the integer mirror against this machine's own kernels."""
    entry = bundle.precision("int8")
    kernels = Kernels.of(CheckOptions(), entry.session)
    reading = Reading(load_onnx(bundle, "int8"), entry.session, kernels.own)
    runtime = Counting(InspectedModel(bundle, "int8", SessionSettings(batch=BATCH), reading.kept, model=reading.file))
    checker = Checker(bundle, "int8", runtime, reading=reading, own=kernels.own)
    (result,), _ = checker.run(batches, [Wanted("integer", kernels.family, exact=True)])
    return result, runtime


def _elsewhere(bundle: Bundle, family: str, shown: NDArray[np.float32], batches: Any) -> CheckResult:
    """Hold the integer mirror against another family's kernels, under emulation."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "emulation"))
    from emulated import EmulatedModel

    runtime = EmulatedModel(bundle, "int8", shown, family, batch=BATCH)
    checker = Checker(bundle, "int8", runtime, threads=2)  # as many as it has by default
    (result,), _ = checker.run(batches, [Wanted("integer", KERNELS[family], exact=True)])
    return result


def _codes(result: CheckResult) -> dict[str, Any]:
    """Return how many codes are equal, and where the first one differs."""
    coded = [tensor for tensor in result.tensors if tensor.name != LOGITS]
    first = next((tensor for tensor in coded if tensor.equal < tensor.elements), None)
    return {
        "tensors": len(coded),
        "codes": sum(tensor.elements for tensor in coded),
        "different": sum(tensor.elements - tensor.equal for tensor in coded),
        "first": None if first is None else first.operator,
        "largest": max((tensor.largest for tensor in coded), default=0.0),
        "logits_equal": all(image.logits_equal for image in result.images),
        "remarks": list(result.remarks),
    }


def _distinct(counting: Counting, bundle: Bundle, result: CheckResult) -> dict[str, Any]:
    counts = {name: int(seen.sum()) for name, seen in counting.seen.items()}
    # A tensor of one value an image has no room for as many codes.
    compared = [counts[each.name] for each in result.tensors if each.name in counts and each.elements >= DISTINCT]
    tap = bundle.precision("int8").tap.output
    enough = sum(count >= DISTINCT for count in compared)
    return {"distinct_tensors": enough / max(len(compared), 1), "distinct_tap": counts.get(tap)}


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict: equal, or the first reason why not."""
    others = row["others"].items()
    elsewhere = [f"{family}: {found['different']} codes differ" for family, found in others if found["different"]]
    reasons = {
        f"{row['different']} of {row['codes']} codes differ, first at {row['first']}": row["different"] > 0,
        "; ".join(elsewhere): bool(elsewhere),
    }
    for reason, applies in reasons.items():
        if applies:
            return {"result": "differs", "reason": reason}
    if not row["f32"] <= FLOAT_BOUND:
        return {"result": "inexact", "reason": f"f32's logits are {row['f32']:.1e} from PyTorch's"}
    if row["cams"] < row["images"]:
        return {"result": "undefined", "reason": f"{row['images'] - row['cams']} of {row['images']} CAMs are zero everywhere"}
    tap = row["distinct_tap"]
    if row["distinct_tensors"] < SHARE_DISTINCT or (tap is not None and tap < DISTINCT):
        return {"result": "dead", "reason": f"{row['distinct_tensors']:.0%} of tensors with {DISTINCT} codes, tap {tap}"}
    return {"result": "equal", "reason": ""}
