"""Whether the mirror has all operators of a graph, asked before anything is built or run."""

from __future__ import annotations

from onnx import ModelProto

import qcam.runtime.mirror.operators  # noqa: F401 - registers them
from qcam.common.errors import UnsupportedGraphError
from qcam.runtime.mirror.registry import resolve
from qcam.runtime.normal import normalised


def refuse_unknown_operators(model: ModelProto) -> None:
    """Refuse a graph that no mirror can be built of.

    Args:
        model: The graph, with bounds; the values of large weights may be left out.

    Raises:
        UnsupportedGraphError: Names the first operator, or attribute, that the mirror does not know.
    """
    try:
        _resolve_all(model)
    except UnsupportedGraphError:  # it may be a local function, or what goes when the graph is brought into its normal form
        _resolve_all(normalised(model))


def _resolve_all(model: ModelProto) -> None:
    opsets = {imported.domain if imported.domain != "ai.onnx" else "": imported.version for imported in model.opset_import}
    for node in model.graph.node:
        resolve(node, opsets)
