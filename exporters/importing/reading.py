"""Reading a foreign file: its bytes, its graph, and a normalised copy to find things in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from qcam.common.errors import UnsupportedGraphError, first_line
from qcam.exporters.importing.inputs import fixed_size
from qcam.exporters.importing.refusals import LARGEST_FILE, refuse_codes, refuse_dropping, refuse_large, refuse_unsupported
from qcam.runtime.agreement import refuse_duplicates
from qcam.runtime.bounded import refuse_unbounded
from qcam.runtime.external import external_files, load_external
from qcam.runtime.graph import Graph
from qcam.runtime.normal import normalised
from qcam.runtime.wellformed import refuse_malformed, refuse_no_text


@dataclass(frozen=True)
class ForeignFile:
    """A file as it was given.

    Attributes:
        path: Where it is.
        data: Its bytes.
        model: Its graph, local functions inlined; what it keeps in other files stays there.
        inlined: Whether there were local functions.
    """

    path: Path
    data: bytes
    model: ModelProto
    inlined: bool

    @property
    def where(self) -> str:
        """Return what messages call it."""
        return str(self.path)


def read_foreign(path: Path, prepared: Callable[[ModelProto], ModelProto] | None = None) -> ForeignFile:
    """Read a file and refuse what cannot be imported; nothing of it runs.

    Args:
        path: The file.
        prepared: What is done to its graph before anything is looked at; its bytes stay.

    Raises:
        UnsupportedGraphError: If there is none, or it holds what is not supported.
        BundleError: If it is no ONNX file, weights beside it cannot be had, or a name in it means two things.
    """
    refuse_large(path)
    where = str(path)
    try:
        data = path.read_bytes()
        model = ModelProto.FromString(data)
    except Exception as error:  # protobuf raises its own types, by version
        raise UnsupportedGraphError(f"cannot read {where} as an ONNX file: {first_line(error)}") from error
    if not model.graph.node:
        raise UnsupportedGraphError(f"cannot read {where} as an ONNX file: it has no nodes")
    refuse_no_text(model, where)
    if prepared is not None:
        refuse_malformed(model, where)
        model = prepared(model)
    refuse_unsupported(model, where)
    refuse_malformed(model, where)
    refuse_duplicates(model, where)
    refuse_unbounded(model, where)
    beside = external_files(model, path.parent, where)
    total = len(data) + sum(file.stat().st_size for file in beside.values())
    if total > LARGEST_FILE:
        raise UnsupportedGraphError(
            f"{where} has {total / 1e9:.1f} GB with the files beside it; at most {LARGEST_FILE / 1e9:.1f} GB are imported"
        )
    inlined = bool(model.functions)
    if inlined:
        model = _without_functions(model, where)
    return ForeignFile(path, data, model, inlined)


def _without_functions(model: ModelProto, where: str) -> ModelProto:
    from onnx import inliner

    try:
        model = inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises many kinds
        raise UnsupportedGraphError(f"{where}: its local functions cannot be inlined: {first_line(error)}") from error
    del model.functions[:]
    refuse_unsupported(model, where)
    refuse_malformed(model, where)  # calls may leave operands out
    return model


def analysed(model: ModelProto, file: ForeignFile, size: tuple[int, int] | None, layout: str | None) -> Graph:
    """Return a graph in which to find things: normalised, with all weights, and the input's size where it was asked for.

    Args:
        model: The file's graph, or a copy of it with further outputs; it is not changed.
        file: The file.
        size: Height and width that were asked for.
        layout: The layout that was asked for.

    Raises:
        BundleError: If weights beside the file cannot be read.
        UnsupportedGraphError: If the nodes go in a circle, a Dropout drops, or codes have other than 8 or 16 bits.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    load_external(copy, file.path.parent, file.where)
    fixed_size(copy, size, layout)
    normal = normalised(copy)
    refuse_dropping(normal, file.where)
    graph = Graph(normal)
    refuse_codes(graph, file.where)
    return graph
