"""qcam's own side of benchmarks/speed.py: bare runs, CAMs, mirrors, and the comparison of layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from peers import tasks
from peers.protocol import Prepared, Task, serve

import qcam.calibration
import qcam.exporters
import qcam.models
from qcam.common import machine
from qcam.common.files import fingerprint, sha256_file, write_atomically
from qcam.evaluate.check.checker import Checker
from qcam.evaluate.check.held import Wanted
from qcam.evaluate.check.options import CheckOptions
from qcam.evaluate.check.run import run_check
from qcam.evaluate.maps.cam import cam
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.images.decoding import decode
from qcam.images.embedded import calibration_photographs, evaluation_photographs
from qcam.models.sources import LoadedModel, load_model
from qcam.runtime.bundle import Bundle, load_bundle, load_onnx
from qcam.runtime.codes import quantized_tensors
from qcam.runtime.deployed import DeployedModel, SessionSettings
from qcam.runtime.deployed.inspection import InspectedModel
from qcam.runtime.graph import Graph
from qcam.runtime.kernels import KERNELS
from qcam.runtime.mirror import Mirror

Images = NDArray[np.float32]
#: Photographs that activation ranges are taken from: they change no time.
_CALIBRATION_IMAGES = 4


def explain(session: DeployedModel, mirror: Mirror, images: Images) -> NDArray[np.float64]:
    """Return the deployed CAMs of a batch, each for its own top-1 class, as an evaluation computes them."""
    outputs = session.run(images)
    values = (outputs.tap, *outputs.skips)
    activation, *skips = [mirror.dequantize(tap, value) for tap, value in zip(session.taps, values, strict=True)]
    gradient = mirror.gradient(activation, outputs.logits.argmax(axis=1), skips)
    maps: NDArray[np.float64] = cam(activation.numpy(), gradient.numpy())
    return maps


def tail_of(bundle: Bundle, session: DeployedModel) -> Mirror:
    """Return the mirror that `explain` takes the gradient from."""
    return Mirror(load_onnx(bundle, session.entry.name), session.entry, tail_only=True)


class _Model:
    """One model: its bundle, and the tasks on it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._threads: int = settings["threads"]
        weights = settings["weights"]
        self._loaded: LoadedModel = load_model(settings["model"], None if weights == "default" else weights)
        self._bundle = _bundle(self._loaded, Path(settings["bundle"]))
        self._images = _images(self._bundle, settings["batch_size"], Path(settings["images"]))
        torch.save(self._loaded.module.state_dict(), settings["state"])
        self._kind: str = settings["kind"]
        self._check: bool = settings["check"]
        self._told = ""

    def tasks(self) -> dict[str, Task]:
        """Return what can be timed; each bare run beside the CAM that is compared with it."""
        calls: dict[str, Callable[[], Callable[[], object]]] = {}
        if self._kind != tasks.TRAINED:
            for precision in tasks.PRECISIONS:
                calls[tasks.BARE[precision]] = partial(self._bare, precision)
                calls[tasks.CAM[precision]] = partial(self._cam, precision)
        calls[tasks.TORCH] = self._torch
        calls[tasks.TORCH_LAST] = self._torch_last
        if self._kind != tasks.TRAINED:
            calls[tasks.FAKE_QUANT] = partial(self._mirror, "fake_quant")
        calls[tasks.INTEGER] = partial(self._mirror, "integer")
        if self._kind == tasks.TRAINED:
            calls[tasks.AVX2] = partial(self._mirror, "integer", "avx2")
        if self._check:
            calls[tasks.EXPOSED] = self._exposed
        found = {name: Task(make, len(self._images)) for name, make in calls.items()}
        if self._check:
            found[tasks.WHOLE_CHECK] = Task(self._whole_check, tasks.CHECK_IMAGES, lambda: self._told)
            found[tasks.CHECK] = Task(self._comparison, len(self._images))
        return found

    @cached_property
    def _settings(self) -> SessionSettings:
        return SessionSettings(threads=self._threads)

    def _bare(self, precision: str) -> Callable[[], object]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        session = onnxruntime.InferenceSession(self._bundle.path(precision), options, providers=["CPUExecutionProvider"])
        wanted, given = [self._bundle.precision(precision).logits], session.get_inputs()[0].name
        return lambda: session.run(wanted, {given: self._images})

    def _cam(self, precision: str) -> Callable[[], object]:
        session = DeployedModel(self._bundle, precision, self._settings)
        return partial(explain, session, tail_of(self._bundle, session), self._images)

    def _torch(self) -> Callable[[], object]:
        return partial(_forward, self._loaded.module, torch.from_numpy(self._images))

    def _torch_last(self) -> Callable[[], object]:
        last = torch.channels_last
        module = copy.deepcopy(self._loaded.module).to(memory_format=last)
        return partial(_forward, module, torch.from_numpy(self._images).contiguous(memory_format=last))

    def _mirror(self, arithmetic: str, family: str = "vnni") -> Callable[[], object]:
        entry = self._bundle.precision("int8")
        mirror = Mirror(load_onnx(self._bundle, "int8"), entry, arithmetic=arithmetic, family=KERNELS[family])
        return partial(mirror.forward, self._images)

    def _inspected(self) -> InspectedModel:
        tensors = quantized_tensors(Graph(load_onnx(self._bundle, "int8")))
        return InspectedModel(self._bundle, "int8", self._settings, tensors)

    def _exposed(self) -> Callable[[], object]:
        return partial(self._inspected().run, self._images)

    def _whole_check(self) -> Callable[[], object]:
        """Return a check from the files and photographs to the verdict; only the interpreter's start-up is left out."""
        count, given = tasks.CHECK_IMAGES, evaluation_photographs()
        photographs = [replace(given[index % len(given)], name=str(index)) for index in range(count)]
        options = CheckOptions(precisions=("int8",), other_cpus=False, settings=self._settings, batch_size=len(self._images))

        def check() -> object:
            found = run_check([self._bundle], photographs, options)
            self._told = found.remarks[-1]
            return found

        return check

    def _comparison(self) -> Callable[[], object]:
        names = [str(index) for index in range(len(self._images))]

        def compare() -> object:
            checker = Checker(self._bundle, "int8", self._inspected())
            return checker.run(lambda: [(names, self._images)], [Wanted("integer", KERNELS["vnni"])])

        return compare


def _forward(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = module(images)
    return logits


def _bundle(loaded: LoadedModel, folder: Path) -> Bundle:
    """Return the model's bundle, exported anew unless the code and the versions that made it are still the same."""
    code = [Path(room.__file__ or "").parent for room in (qcam.exporters, qcam.calibration, qcam.models)]
    made_by = {
        "code": {f"{room.name}/{file.name}": sha256_file(file) for room in code for file in sorted(room.glob("*.py"))},
        "weights": loaded.weights["sha256"],
        "versions": machine.versions(),
    }
    stamp = folder.with_name(f"{folder.name}.made-by")
    if folder.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == fingerprint(made_by):
        return load_bundle(folder)
    bundle = export_bundle(loaded, calibration_photographs()[:_CALIBRATION_IMAGES], ExportOptions(), folder, force=True)
    write_atomically(stamp, fingerprint(made_by))
    return bundle


def _images(bundle: Bundle, count: int, path: Path) -> Images:
    """Return the first photographs as the network takes them, and leave them in a file for the peers."""
    crops = []
    for photograph in evaluation_photographs()[:count]:
        image = decode(photograph.path).image
        if image is None:
            raise SystemExit(f"{photograph.path} cannot be read")
        crops.append(bundle.preprocessing.crop_image(image))
    images: Images = bundle.preprocessing.normalise(np.stack(crops))
    np.save(path, images)
    return images


def _prepare(settings: dict[str, Any]) -> Prepared:
    torch.set_num_threads(settings["threads"])
    return Prepared(_Model(settings).tasks(), machine.versions())


if __name__ == "__main__":
    serve(_prepare)
