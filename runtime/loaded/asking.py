"""Asking ONNX Runtime for the graph that it made of a file: optimized up to level EXTENDED, before layouts are changed.

Nothing is guessed from the rules of its optimizers: the session that is asked is made under the settings of the deployed one.
What differs by the kind of processor is set by name, so that another family's graph can be asked for here: how 8-bit
activations with a sign are taken, and that only the float kernels of an x86 compute in blocks of channels. Tests hold both
against the kernels of those processors.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from qcam.common.errors import UnsupportedGraphError, first_line
from qcam.runtime.graph import Graph
from qcam.runtime.grouping import find_groups
from qcam.runtime.kernels import KERNELS, KernelFamily
from qcam.runtime.loaded.means import MEANS, RESIZE, means_of
from qcam.runtime.loaded.writing_back import LoadedGraph, named_kernels, write_back
from qcam.runtime.session_config import S8_AS_IT_IS
from qcam.runtime.tables import COMPUTE_OPERATORS

#: Domain of kernels that compute in blocked layout, and what is appended to the name of what they write.
_NCHWC, _BLOCKED = "com.microsoft.nchwc", "_nchwc"
#: Float operators that add, and may do so in that layout.
_IN_BLOCKS = frozenset({"Conv", "FusedConv", "AveragePool", "GlobalAveragePool"})
#: Families whose processors are no x86, and what an x86 calls itself.
_NOT_X86 = frozenset({"arm64"})
_X86 = frozenset({"x86_64", "amd64", "x86", "i386", "i686"})
#: Where the session puts the weights of an optimized graph that is too large for one file.
_BESIDE = "session.optimized_model_external_initializers_file_name"
_BESIDE_FROM = "session.optimized_model_external_initializers_min_size_in_bytes"
#: Largest file that is written as one.
_ONE_FILE = 2**31 - 2**27


def as_loaded(
    model: onnx.ModelProto, settings: Mapping[str, str] | None = None, family: KernelFamily = KERNELS["vnni"]
) -> LoadedGraph:
    """Ask ONNX Runtime what it makes of a file on the CPU, and write that as a graph that the mirror can follow.

    Args:
        model: The file, with its weights.
        settings: Session configuration of the deployed session, name → value.
        family: The kernel family whose graph is wanted.

    Returns:
        The graph.

    Raises:
        UnsupportedGraphError: If ONNX Runtime cannot load the file, or an operator of its optimized graph is not known here.
    """
    told = settings_of(settings, family)
    graph = optimized(model, told)
    loaded = write_back(graph)
    here = _of_this_kind(family)
    added = MEANS | {RESIZE} | (_IN_BLOCKS if here else set())
    if not any(node.op_type in added for node in graph.graph.node):
        return loaded  # as of most files whose operators are integer: nothing to ask for
    laid_out = optimized(model, told, layouts=True)
    return replace(loaded, blocked=blocked_in(laid_out) if here else frozenset(), means=means_of(loaded.model, graph, laid_out))


def followed(
    model: onnx.ModelProto, settings: Mapping[str, str] | None = None, family: KernelFamily = KERNELS["vnni"]
) -> LoadedGraph:
    """Return the graph that integer arithmetic follows: as loaded, or the file's own where it multiplies 16 by 16 bits.

    ONNX Runtime has no integer kernels of 16 bits on the CPU; what an integer accelerator would compute follows from the file.
    Where activations of 16 bits meet weights of 8, it computes in float, and that is followed. Arguments and errors as in
    `as_loaded`.
    """
    graph = Graph(model)
    wide = find_groups(graph, bits=16)
    products = any(group.node.op_type in COMPUTE_OPERATORS for group in wide)
    products &= all(codes is not None for group in wide for codes in group.inputs)  # with a float bias nothing is integer
    return LoadedGraph(model, wide, wide=True) if products and not find_groups(graph) else as_loaded(model, settings, family)


def settings_of(settings: Mapping[str, str] | None, family: KernelFamily) -> dict[str, str]:
    """Return the session configuration under which a family's graph is asked for: what is said, and its own default.

    The default for 8-bit activations with a sign is 0 on x86 and 1 elsewhere: it is always set, so that the graph of one
    processor can be asked for on another.
    """
    return {S8_AS_IT_IS: "1" if family.name in _NOT_X86 else "0"} | dict(settings or {})


def _of_this_kind(family: KernelFamily) -> bool:
    """Tell whether a family's processors are of this one's kind, whose layouts of float kernels can be asked for here."""
    return (family.name not in _NOT_X86) == (platform.machine().lower() in _X86)


def kernels_of(model: onnx.ModelProto, settings: Mapping[str, str]) -> dict[str, str]:
    """Return node name → operator of the graph that ONNX Runtime makes of a file on this kind of CPU; no quantizers.

    Arguments and errors as in `optimized`.
    """
    return named_kernels(optimized(model, settings))


def blocked_in(model: onnx.ModelProto) -> frozenset[str]:
    """Return the tensors that kernels in blocked layout (NCHWc) write, by the names that they have in the file."""
    nodes = (node for node in model.graph.node if node.domain == _NCHWC and node.name.endswith(_BLOCKED))
    return frozenset(node.name.removesuffix(_BLOCKED) for node in nodes)


def optimized(model: onnx.ModelProto, settings: Mapping[str, str], *, layouts: bool = False) -> onnx.ModelProto:
    """Return the graph that ONNX Runtime makes of a file on the CPU, at level EXTENDED.

    Args:
        model: The file, with its weights.
        settings: Session configuration, name → value.
        layouts: Whether layouts are changed, too, as they are in a session that runs (level ALL).

    Raises:
        UnsupportedGraphError: If ONNX Runtime cannot load it.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="qcam-loaded-") as folder:
        target = Path(folder) / "loaded.onnx"
        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if layouts else levels.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4  # it warns that such a graph fits this machine alone
        options.intra_op_num_threads = 1
        for name, value in settings.items():
            options.add_session_config_entry(name, value)
        if model.ByteSize() > _ONE_FILE:
            options.add_session_config_entry(_BESIDE, "weights")
            options.add_session_config_entry(_BESIDE_FROM, "1024")
        try:
            source = model.SerializeToString()
            onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        except Exception as error:  # neither ONNX Runtime's exceptions nor protobuf's share a base class
            raise UnsupportedGraphError(f"ONNX Runtime does not load the file on the CPU: {first_line(error)}") from error
        return onnx.load(target)
