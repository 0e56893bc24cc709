"""A torch module becomes a float ONNX graph, and its module paths become tensor names."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch

from qcam.common.errors import QcamError
from qcam.common.vocabulary import DEFAULT_OPSET
from qcam.models.code import where_it_failed

#: Opsets that the exporter and ONNX Runtime's quantizer both handle; 21 is the first with 16-bit QuantizeLinear.
OPSETS = range(18, 25)
#: Name of the graph's image input and of its class scores.
INPUT, LOGITS = "images", "logits"


def export_float(
    module: torch.nn.Module, size: tuple[int, int], opset: int = DEFAULT_OPSET, channels: int = 3
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Export a classifier to ONNX with a dynamic batch; BatchNorm is folded where the exporter can.

    Args:
        module: Network in evaluation mode.
        size: Height and width of its input.
        opset: ONNX operator set version.
        channels: Channels of its input.

    Returns:
        The graph (input `images`, output `logits`, no metadata: equal models give equal bytes), and a map from torch
        module path to the tensor that carries the module's output.

    Raises:
        QcamError: If the exporter cannot export this model.
    """
    if opset not in OPSETS:
        raise QcamError(f"opset {opset} is not supported; choose {OPSETS.start} to {OPSETS.stop - 1}")
    # Contiguous on purpose: a channels-last view makes the exporter emit as_strided clutter.
    example = torch.zeros(2, channels, *size).contiguous()
    return _exported(module, example, opset, {"dynamic_shapes": ({0: torch.export.Dim("batch")},)})


def export_program(program: torch.export.ExportedProgram, opset: int) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Export a program of `torch.export` to ONNX, its sizes as they are in it.

    Args:
        program: The program; it takes one tensor.
        opset: ONNX operator set version.

    Returns:
        As `export_float`.

    Raises:
        QcamError: If it takes or returns other than one tensor, or the exporter cannot export it.
    """
    if opset not in OPSETS:
        raise QcamError(f"opset {opset} is not supported; choose {OPSETS.start} to {OPSETS.stop - 1}")
    signature = program.graph_signature
    for what, names in (("takes", signature.user_inputs), ("returns", signature.user_outputs)):
        if len(names) != 1:
            raise QcamError(f"the program {what} {len(names)} values; a classifier takes pictures and returns scores alone")
    return _exported(program, None, opset, {})


def _exported(
    module: torch.nn.Module | torch.export.ExportedProgram, example: torch.Tensor | None, opset: int, shapes: dict[str, Any]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    try:
        with _quiet("torch", "torch.onnx", "onnxscript"):
            program = torch.onnx.export(
                module,
                () if example is None else (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[LOGITS],
                verbose=False,
                **shapes,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in the model
        raise QcamError(f"the ONNX exporter cannot export this model: {_root_of(error)}") from error
    if program is None:
        raise QcamError("the ONNX exporter returned nothing for this model")
    model = program.model_proto
    imported = {entry.domain: entry.version for entry in model.opset_import}
    if imported.get("") != opset:
        got = imported.get("")
        raise QcamError(f"the exporter gave opset {got} where {opset} was asked for; try {{opset}} {DEFAULT_OPSET}")
    modules = _module_outputs(model)
    strip_metadata(model)
    return model, modules


def _root_of(error: BaseException) -> str:
    """Say in a line what made an export fail, and where in somebody's code; the exporter says around it at which step."""
    while error.__cause__ is not None:
        error = error.__cause__
    return where_it_failed(error)


def _module_outputs(model: onnx.ModelProto) -> dict[str, str]:
    """Map module paths to tensors: the output of the last node whose scopes name the path."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        for item in node.metadata_props:
            if item.key == "pkg.torch.onnx.name_scopes":
                for path in ast.literal_eval(item.value)[:-1]:  # the last entry names the operator itself
                    if path:
                        found[path] = node.output[0]
    return found


def strip_metadata(model: onnx.ModelProto) -> None:
    """Drop stack traces and other notes of the exporter: they carry paths of this machine."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    graph = model.graph
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        del item.metadata_props[:]
        item.ClearField("doc_string")
    model.ClearField("doc_string")
    del model.functions[:]


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Hold back prints, warnings, and what loggers say below errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),  # graphs, where a network cannot be traced
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
