"""The files of an imported precision: the user's bytes as they are, and a copy that also hands out logits and tap."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from qcam.common.errors import QcamError, first_line
from qcam.common.files import sha256_bytes, sha256_file, write_atomically
from qcam.exporters.importing.outputs import Scores
from qcam.runtime.external import external_files
from qcam.runtime.graph import Graph, unused
from qcam.runtime.manifest import Original, Tap
from qcam.runtime.tables import QUANTIZERS

#: Largest ONNX file without what lies beside it; protobuf holds no more.
_MAX_FILE_BYTES = 2**31 - 1
#: From this version of ONNX's operators on its quantizers have codes of 16 bits; before, ONNX Runtime's own have.
_WIDE = 21
_MICROSOFT = "com.microsoft"


def tensors_of(model: ModelProto) -> set[str]:
    """Return the names of the tensors that a graph's nodes make."""
    return {name for node in model.graph.node for name in node.output if name}


def hand_out_scores(model: ModelProto, graph: Graph, scores: Scores, where: str) -> str:
    """Make the scores an output of a file: float32, batch × classes.

    Args:
        model: The file; nodes and an output are added where the scores are not one as they are.
        graph: Its normalised graph.
        scores: The scores.
        where: What messages call the file.

    Returns:
        The output's name.

    Raises:
        QcamError: If the file does not hold the tensor.
    """
    there = tensors_of(model)
    tensor = scores.tensor
    source = graph.producer.get(tensor)
    if scores.codes:
        tensor = _dequantized(model, graph, tensor, source, where)
    elif tensor not in there and source is not None and source.op_type == "DequantizeLinear" and source.input[0] in there:
        tensor = _dequantized(model, graph, str(source.input[0]), source, where)
    elif tensor not in there:
        raise QcamError(f"{where}: {tensor} is no tensor of the file itself; name another with {{logits}}")
    if not scores.flat:
        flat = unused(model, "qcam/logits")
        model.graph.node.append(onnx.helper.make_node("Flatten", [tensor], [flat], name=flat, axis=1))
        tensor = flat
    if tensor not in [output.name for output in model.graph.output]:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [_batch(model), scores.classes])
        )
    return tensor


def _batch(model: ModelProto) -> int | str:
    """Return the first dimension of the input, as outputs have it too."""
    name = Graph(model).image_input
    told = next(value for value in model.graph.input if value.name == name).type.tensor_type.shape.dim
    return told[0].dim_value if told and told[0].HasField("dim_value") else "batch"


def _dequantized(model: ModelProto, graph: Graph, codes: str, node: NodeProto | None, where: str) -> str:
    """Add a DequantizeLinear behind codes, by the scale of the quantizer or dequantizer of theirs."""
    if node is None or node.op_type not in QUANTIZERS:
        raise QcamError(f"{where}: the scores {codes} are codes, and no quantizer says of what; name others with {{logits}}")
    parameters = []
    for name, parameter in zip(("qcam/logits_scale", "qcam/logits_zero_point"), node.input[1:3], strict=True):
        value = graph.constant(parameter)
        if value is None or value.size != 1:
            raise QcamError(f"{where}: the scores {codes} have no single constant scale; name others with {{logits}}")
        parameters.append(unused(model, name))
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value).reshape(()), parameters[-1]))
    wide = np.asarray(value).dtype.itemsize > 1 and graph.opset() < _WIDE
    if wide and not graph.opset(_MICROSOFT):
        model.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))
    result = unused(model, "qcam/scores")
    made = onnx.helper.make_node(
        "DequantizeLinear", [codes, *parameters], [result], name=result, domain=_MICROSOFT if wide else ""
    )
    model.graph.node.append(made)
    return result


def hand_out_taps(model: ModelProto, graph: Graph, taps: Iterable[Tap]) -> None:
    """Make tap and skip tensors outputs of a file.

    Args:
        model: The file; outputs are added.
        graph: Its normalised graph, for the shapes.
        taps: Tap and skip tensors.
    """
    outputs = {output.name for output in model.graph.output}
    for tap in taps:
        if tap.output in outputs:
            continue
        outputs.add(tap.output)
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tap.dtype))
        shape = graph.shapes.get(tap.output)
        sizes = None if shape is None else ["batch" if size is None else size for size in shape]
        model.graph.output.append(onnx.helper.make_tensor_value_info(tap.output, element, sizes))


def store(
    source: Path, data: bytes, model: ModelProto, changed: bool, folder: Path, precision: str
) -> tuple[str, str, dict[str, str], Original | None]:
    """Write the files of a precision.

    Args:
        source: The user's file.
        data: Its bytes.
        model: The copy of it that hands out logits and tap; what the file keeps in others stays there.
        changed: Whether the copy differs from the file.
        folder: The bundle's folder.
        precision: The precision's name.

    Returns:
        What `PrecisionEntry` calls file, sha256, external and original.

    Raises:
        QcamError: If a file cannot be read or written, or is too large.
    """
    beside = external_files(model, source.parent, str(source))
    # Two precisions may keep weights in files of one name.
    inner = PurePosixPath(precision) if beside else PurePosixPath()
    file, original = str(inner / f"{precision}.onnx"), str(inner / f"{precision}.original.onnx")
    hashes = {}
    try:
        for location, path in sorted(beside.items()):
            if location in (PurePosixPath(file).name, PurePosixPath(original).name):
                raise QcamError(f"{source} keeps weights in a file named {location}; give the {{precision}} another name")
            hashes[location] = _copied(path, folder / inner / location)
    except OSError as error:
        raise QcamError(f"cannot copy {source} with what lies beside it: {first_line(error)}") from error
    write_atomically(folder / (original if changed else file), data)
    sha256 = sha256_bytes(data)
    if not changed:
        return file, sha256, hashes, None
    if model.ByteSize() > _MAX_FILE_BYTES:
        raise QcamError(f"the copy of {source} with the tap is larger than 2 GiB, the limit of one ONNX file")
    copy = model.SerializeToString(deterministic=True)
    write_atomically(folder / file, copy)
    return file, sha256_bytes(copy), hashes, Original(original, sha256, dict(hashes))


def _copied(source: Path, target: Path) -> str:
    """Copy a file; return the SHA-256 of the copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return sha256_file(target)
