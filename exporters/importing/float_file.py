"""A float ONNX file, or a program of `torch.export`, becomes a float graph that qcam's own quantizer takes.

What the file takes and returns is found as in an import. The graph is then written as the quantizer wants it: constants folded
and BatchNormalization with them (by ONNX Runtime's basic optimizations), nodes sorted, functions inlined, and the operator set
raised where it is too old. What comes out is held against the user's own file.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from qcam.common import telling
from qcam.common.errors import ProviderError, QcamError, UnsupportedGraphError, first_line
from qcam.common.files import fingerprint, sha256_bytes, sha256_file
from qcam.exporters.export import FloatGraph
from qcam.exporters.importing.copies import tensors_of
from qcam.exporters.importing.decisions import Decision
from qcam.exporters.importing.inputs import fixed_size
from qcam.exporters.importing.ordering import ImportOrder
from qcam.exporters.importing.parts import Part, read_part
from qcam.exporters.importing.preparing import class_names_of, note_trained, preprocessing_of
from qcam.exporters.importing.quantization import producer_of
from qcam.exporters.importing.reading import ForeignFile, read_foreign
from qcam.exporters.importing.refusals import LARGEST_FILE, refuse_unsupported
from qcam.exporters.onnx_export import OPSETS, strip_metadata
from qcam.images.preprocessing import Preprocessing
from qcam.runtime.bundle import Bundle, load_bundle
from qcam.runtime.external import external_files, load_external
from qcam.runtime.feeding import Input
from qcam.runtime.graph import Graph
from qcam.runtime.normal import normalised
from qcam.runtime.session_config import NO_SPINNING
from qcam.runtime.tables import QUANTIZERS, is_integer_kernel

Images = NDArray[np.float32]

#: The oldest operator set whose quantizers know scales for each channel; older files are raised to the other.
_OLDEST, _RAISED = 13, 17
#: Largest ONNX file that protobuf holds.
_MAX_FILE_BYTES = 2**31 - 1
#: What an import advises of a file that an export cannot advise.
_IN_EXPORTS = {
    "{size}": "{crop}",
    "quantize the network to 8 or 16 bits without it": "save the network in float32 without it",
    "give the ONNX file to import": "give a float ONNX file",
    " are imported": " are taken",
}


def float_file(order: ImportOrder, opset: int | None) -> FloatGraph:
    """Read a float ONNX file for an export.

    Args:
        order: What is told of it, as for an import.
        opset: The operator set that is asked for; None: that of the file.

    Returns:
        The graph.

    Raises:
        QcamError: If it is quantized already, holds what is not supported, or something has to be told by an option.
        ProviderError: If ONNX Runtime does not run it.
    """
    with _words_of_exports():
        like = None if order.like is None else load_bundle(order.like)
        given = read_foreign(order.file, lambda model: _prepared(model, order.file, opset))
        part = read_part(order, given, like, "", order.cam_layer)
        preprocessing = preprocessing_of(order, like, [part])
        classes = class_names_of(order, like, part)
    taken = part.entry.input
    original, logits = _original(part)
    beside = external_files(ModelProto.FromString(given.data), order.file.parent, str(order.file))
    sha256 = sha256_bytes(given.data)
    if beside:
        sha256 = fingerprint({"file": sha256} | {name: sha256_file(path) for name, path in beside.items()})
    producer = producer_of(given.model)
    source = f"the float file {order.file.name}" + (f", written by {producer}" if producer else "")
    reference = _Deployed(original, logits, taken, preprocessing, order.file)
    reference.run(preprocessing.normalise(np.zeros((1, *preprocessing.crop, 3), np.uint8)))  # a refusal costs no calibration
    return _graph(order, part, preprocessing, classes, reference.run, f"those of {order.file.name}", source, sha256)


def float_program(
    order: ImportOrder, model: ModelProto, run: Callable[[Images], Images], sha256: str, cam_layer: str | None
) -> FloatGraph:
    """Take a program of `torch.export`, exported to ONNX already.

    Args:
        order: What is told of it.
        model: Its graph.
        run: Runs as many pictures through it as it takes.
        sha256: Fingerprint of its weights.
        cam_layer: The tensor that carries the CAM layer; None for the last map before pooling.

    Returns:
        The graph.

    Raises:
        QcamError: If it holds what is not supported, or something has to be told by an option.
    """
    with _words_of_exports():
        like: Bundle | None = None if order.like is None else load_bundle(order.like)
        refuse_unsupported(model, str(order.file))
        part = read_part(order, ForeignFile(order.file, b"", model, False), like, "", cam_layer)
        preprocessing = preprocessing_of(order, like, [part])
        classes = class_names_of(order, like, part)
    taken = part.entry.input

    def reference(images: Images) -> Images:
        fed = taken.feed(images, preprocessing)
        found = [run(taken.filled(fed[part]))[: part.stop - part.start] for part in taken.chunks(len(fed))]
        return np.concatenate(found).reshape(len(images), -1)

    return _graph(
        order, part, preprocessing, classes, reference, "PyTorch's", f"the program {order.file.name} of torch.export", sha256
    )


def _graph(
    order: ImportOrder, part: Part, preprocessing: Preprocessing, classes: tuple[str, ...],
    reference: Callable[[Images], Images], whose: str, source: str, sha256: str,
) -> FloatGraph:  # fmt: skip
    where = str(order.file)
    trained = {} if order.trained is None else {"trained": order.trained}
    model = _folded(part, order, where)
    tensor = part.entry.tap.tensor
    if tensor not in Graph(model).producer:
        raise QcamError(f"{where}: {tensor} is gone once constants are folded; name another tensor with {{cam_layer}}")
    note_trained(part.noted, order.trained)
    part.noted.made = [
        Decision(made.what, made.value, made.because.replace("{size}", "{crop}"))
        for made in part.noted.made
        if made.what != "precision"
    ]
    return FloatGraph(
        order.model_id, source, {"name": order.file.name, "sha256": sha256} | trained, preprocessing, classes, model,
        part.entry.input, tensor, order.cam_layer or "", reference, whose, part.noted.to_json(),
    )  # fmt: skip


@contextmanager
def _words_of_exports() -> Generator[None, None, None]:
    """Let what an import says of a file be said in the words of an export."""
    try:
        yield
    except QcamError as error:
        text = error.template
        for word, other in _IN_EXPORTS.items():
            text = text.replace(word, other)
        raise type(error)(text) from error


def _prepared(model: ModelProto, path: Path, opset: int | None) -> ModelProto:
    """Refuse a quantized graph by name, and raise its operator set where it is asked for, or too old to be quantized."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    codes = next((node for node in nodes if node.op_type in QUANTIZERS or is_integer_kernel(node.op_type)), None)
    if codes is not None:
        raise UnsupportedGraphError(
            f"{path} is quantized already ({codes.op_type} node {codes.name or codes.output[0]}), and an export starts from a "
            "float file; take it as it is with {qcam-import}, or give the float file that it was made of"
        )
    has = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    wanted = opset if opset is not None else _RAISED if 0 < has < _OLDEST else has
    if wanted == has or has == 0:
        return model
    if opset is not None and opset not in OPSETS and opset != has:
        raise QcamError(f"opset {opset} is not supported; choose {OPSETS.start} to {OPSETS.stop - 1}")
    where = str(path)
    total = sum(file.stat().st_size for file in external_files(model, path.parent, where).values())
    if total + model.ByteSize() > min(LARGEST_FILE, _MAX_FILE_BYTES):
        raise UnsupportedGraphError(f"{where} is too large for another operator set than its own, {has}; leave {{opset}} out")
    copy = ModelProto()
    copy.CopyFrom(model)
    load_external(copy, path.parent, where)
    from onnx import version_converter

    try:
        with redirect_stdout(io.StringIO()):
            converted: ModelProto = version_converter.convert_version(copy, wanted)
    except Exception as error:  # the converter raises many kinds
        raise UnsupportedGraphError(
            f"{where}: its operator set {has} cannot be made {wanted} (onnx.version_converter: {first_line(error)}); save the "
            f"network with operator set {_RAISED}"
        ) from error
    telling.note(
        f"{path.name}: operator set {has} made {wanted} (onnx.version_converter)"
        + ("" if opset is not None else f", for quantizers need {_OLDEST}")
    )
    return converted


def _original(part: Part) -> tuple[ModelProto, str]:
    """Return the user's file with its class scores handed out, and their name there; a copy of it where they are no tensor."""
    model = ModelProto.FromString(part.file.data)
    load_external(model, part.file.path.parent, part.file.where)
    for name in (part.scores, part.entry.logits):
        if name in {output.name for output in model.graph.output}:
            return model, name
        if name in tensors_of(model):
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            return model, name
    model = ModelProto()
    model.CopyFrom(part.file.model)
    load_external(model, part.file.path.parent, part.file.where)
    return model, part.entry.logits


class _Deployed:
    """The user's own file in ONNX Runtime, on the CPU, under its defaults."""

    def __init__(self, model: ModelProto, logits: str, taken: Input, preprocessing: Preprocessing, path: Path) -> None:
        self._logits, self._taken, self._preprocessing = logits, taken, preprocessing
        self._session = _session(model, path, None)
        self._path = path

    def run(self, images: Images) -> Images:
        """Return the logits of images."""
        fed = self._taken.feed(images, self._preprocessing)
        found = []
        try:
            for part in self._taken.chunks(len(fed)):
                (values,) = self._session.run([self._logits], {self._taken.name: self._taken.filled(fed[part])})
                found.append(values[: part.stop - part.start])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise _does_not_run(self._path, error) from error
        return np.concatenate(found).reshape(len(images), -1)


def _does_not_run(path: Path, error: Exception) -> ProviderError:
    return ProviderError(
        f"ONNX Runtime does not run {path} on the CPU: {first_line(error)}; the file has to run before it can be quantized"
    )


def _session(model: ModelProto, path: Path, written: Path | None) -> Any:
    """Open a session; with a place, at the basic optimizations alone, whose graph is written there."""
    import onnxruntime

    if model.ByteSize() > _MAX_FILE_BYTES:
        raise UnsupportedGraphError(f"{path} is larger than 2 GiB with all of its weights, the limit of one ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(NO_SPINNING, "1")
    if written is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(written)
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise _does_not_run(path, error) from error


def _folded(part: Part, order: ImportOrder, where: str) -> ModelProto:
    """Return the graph as the quantizer takes it: from the input to the logits, constants folded, written in one way."""
    model = ModelProto()
    model.CopyFrom(part.file.model)
    load_external(model, part.file.path.parent, where)
    fixed_size(model, part.entry.input.size, part.entry.input.layout)
    held = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in held]:
        model.graph.input.remove(value)
    kept = {value.name: value for value in model.graph.output}
    wanted = [kept[name] for name in dict.fromkeys((part.entry.logits, part.entry.tap.tensor))]
    del model.graph.output[:]
    model.graph.output.extend(wanted)
    strip_metadata(model)
    with tempfile.TemporaryDirectory(prefix="qcam-float-") as folder:
        written = Path(folder) / "folded.onnx"
        _session(model, order.file, written)
        folded = onnx.load(written)
    domains = {node.domain for node in model.graph.node}
    if {node.domain for node in folded.graph.node} - domains:  # operators of ONNX Runtime's own instead of the file's
        folded = model
    folded = normalised(folded)
    used = {node.domain for node in folded.graph.node} | {""}
    for entry in [entry for entry in folded.opset_import if entry.domain not in used | {"ai.onnx"}]:
        folded.opset_import.remove(entry)
    folded.graph.value_info.extend(folded.graph.output[1:])  # the CAM layer's shape
    del folded.graph.output[1:]
    strip_metadata(folded)
    return folded


def as_ordered(order: ImportOrder, preprocessing: Preprocessing) -> ImportOrder:
    """Return an order that says what a preprocessing says."""
    return replace(
        order, size=preprocessing.crop, mean=preprocessing.mean, std=preprocessing.std, resize=preprocessing.resize,
        squash=preprocessing.resize is None, interpolation=preprocessing.interpolation,
    )  # fmt: skip
