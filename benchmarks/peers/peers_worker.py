"""The peers' side of benchmarks/speed.py, run by their own environment's Python: no qcam here."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from peers import tasks
from peers.environment import NEWER
from peers.protocol import Prepared, Task, serve

_PACKAGES = (
    "torch", "torchvision", "onnx", "onnxruntime", "numpy", "pillow", "grad-cam", "torchcam", "esp-ppq", "ppq",
)  # fmt: skip
#: The layers of the authors' code; of other models, the bundle's.
_PAPER_LAYERS = {"densenet121": "features.denseblock4", "resnet50": "layer4.2.conv3"}


class _Model:
    """One model under each peer.

    Every call below returns what the driver times: the photographs in, maps or logits out, as the peer's own documentation
    has it. Gradients flow into the weights too, as they do unless a user forbids it.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._name: str = settings["model"]
        self._threads: int = settings["threads"]
        self._folder = Path(settings["bundle"])
        self._state = Path(settings["state"])
        manifest = json.loads((self._folder / "bundle.json").read_text(encoding="utf-8"))
        self._layer: str = manifest["cam_layer"]["requested"]
        self._logits: dict[str, str] = {entry["name"]: entry["logits"] for entry in manifest["precisions"]}
        self._images = torch.from_numpy(np.load(settings["images"]))
        self._whole: bool = settings["kind"] == tasks.WHOLE
        self._check: bool = settings["check"]
        self._skip_slow: bool = settings["skip_slow"]

    def tasks(self) -> dict[str, Task]:
        """Return what can be timed."""
        batch = len(self._images)
        found = {tasks.GRAD_CAM: Task(partial(self._grad_cam, batch), batch)}
        if batch > 1:
            found[tasks.GRAD_CAM_ONE] = Task(partial(self._grad_cam, 1), 1)
        found[tasks.PAPER] = Task(partial(self._paper, newer=False), 1)
        found[tasks.PAPER_NEWER] = Task(partial(self._paper, newer=True), 1)
        if self._whole:
            found[tasks.ESP_PPQ] = Task(partial(self._ppq_executor, "esp_ppq"), batch)
            found[tasks.ESP_PPQ_OWN] = Task(self._esp_ppq_own, batch)
            found[tasks.PPQ] = Task(partial(self._ppq_executor, "ppq"), batch)
            if not self._skip_slow:
                found[tasks.REFERENCE] = Task(self._reference, 1)
        if self._check:
            found[tasks.LOSS_DEBUG] = Task(self._loss_debug, batch)
        return found

    def _torch(self) -> torch.nn.Module:
        model: torch.nn.Module = torchvision.models.get_model(self._name, weights=None)
        model.load_state_dict(torch.load(self._state, weights_only=True))
        return model.eval()

    def _grad_cam(self, batch: int) -> Callable[[], object]:
        from pytorch_grad_cam import GradCAMPlusPlus

        model = self._torch()
        extractor = GradCAMPlusPlus(model=model, target_layers=[model.get_submodule(self._layer)])
        turn = itertools.cycle(self._images.split(batch))
        return lambda: extractor(input_tensor=next(turn), targets=None)  # None: each image's top-1 class

    def _paper(self, *, newer: bool) -> Callable[[], object]:
        """Return the authors' procedure: `prepare_qat` in training mode, never calibrated, torch-cam, batch 1, own top-1 class.

        Less than they ran: their maps were also enlarged and written to disk.
        """
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, QConfig, prepare_qat

        model: Any = self._torch().train()
        observed = partial(FakeQuantize.with_args, observer=MovingAverageMinMaxObserver)
        model.qconfig = QConfig(
            activation=observed(
                quant_min=0, quant_max=255, dtype=torch.quint8, qscheme=torch.per_tensor_affine, reduce_range=True
            ),
            weight=observed(
                quant_min=-128, quant_max=127, dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, reduce_range=False
            ),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is deprecated, and that reduce_range will be
            prepare_qat(model, inplace=True)
        methods = _torchcam(newer)
        extractor = methods.GradCAMpp(model, target_layer=_PAPER_LAYERS.get(self._name, self._layer))
        turn = itertools.cycle(self._images.split(1))

        def run() -> object:
            scores = model(next(turn))
            return extractor(int(scores.argmax()), scores)

        return run

    def _ppq_executor(self, package: str) -> Callable[[], object]:
        """Return the executor of ppq, or of its successor esp-ppq, on the very file that is deployed."""
        interface = importlib.import_module(f"{package}.api.interface")
        executor = importlib.import_module(f"{package}.executor").TorchExecutor
        loaded = executor(interface.load_onnx_graph(str(self._folder / "int8.onnx")), device="cpu")
        return partial(loaded.forward, self._images)

    def _esp_ppq_own(self) -> Callable[[], object]:
        """Return esp-ppq's executor on what it makes of the float file for ONNX Runtime: the same network, other scales."""
        from esp_ppq.api.interface import quantize_onnx_model
        from esp_ppq.core import TargetPlatform
        from esp_ppq.executor import TorchExecutor

        file, shape = str(self._folder / "f32.onnx"), list(self._images.shape)
        graph = quantize_onnx_model(file, [self._images], 8, shape, TargetPlatform.ONNXRUNTIME, device="cpu")
        return partial(TorchExecutor(graph, device="cpu").forward, self._images)

    def _reference(self) -> Callable[[], object]:
        from onnx.reference import ReferenceEvaluator

        model = onnx.load(self._folder / "int8.onnx")
        evaluator = ReferenceEvaluator(model)
        given = {model.graph.input[0].name: self._images[:1].numpy()}
        return lambda: evaluator.run([self._logits["int8"]], given)

    def _loss_debug(self) -> Callable[[], object]:
        """Return ONNX Runtime's comparison of the layers of the int8 and the f32 file, from the files to the errors."""
        from onnxruntime.quantization import CalibrationDataReader, qdq_loss_debug

        given = {onnx.load(self._folder / "f32.onnx").graph.input[0].name: self._images.numpy()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # As collect_activations has it.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._batches: Iterator[dict[str, Any]] = iter([given])

            def get_next(self) -> dict[str, Any] | None:
                return next(self._batches, None)

        def activations(precision: str, folder: Path) -> dict[str, Any]:
            opened = folder / f"{precision}.onnx"
            qdq_loss_debug.modify_model_output_intermediate_tensors(self._folder / f"{precision}.onnx", opened)
            found: dict[str, Any] = qdq_loss_debug.collect_activations(str(opened), Reader(), options)
            return found

        def compare() -> object:
            with tempfile.TemporaryDirectory() as folder:
                real, float_ = activations("int8", Path(folder)), activations("f32", Path(folder))
            matching = qdq_loss_debug.create_activation_matching(real, float_)
            if not matching:
                raise ValueError("no tensor of the two files was matched")
            return qdq_loss_debug.compute_activation_error(matching)

        return compare


def _torchcam(newer: bool) -> ModuleType:
    """Return torch-cam's methods, of the paper's version or of the newer one beside it; whoever holds the other keeps it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchcam"]:
        del sys.modules[name]
    folder = str(Path(sys.prefix) / NEWER)
    if newer:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module("torchcam.methods")
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    for distribution in metadata.distributions(path=[str(Path(sys.prefix) / NEWER)]):
        found[f"{distribution.name} (newer)"] = distribution.version
    return found


def _prepare(settings: dict[str, Any]) -> Prepared:
    torch.set_num_threads(settings["threads"])
    return Prepared(_Model(settings).tasks(), _versions())


if __name__ == "__main__":
    serve(_prepare)
