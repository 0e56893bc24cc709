"""Sessions of ONNX Runtime on the CPU that say they are on CUDA, for machines without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
#: Of a node's operator and name → the provider that it is said to be on.
Placing = Callable[[str, str], str]


class _Node:
    def __init__(self, node: Any) -> None:
        self.name, self.op_type = node.name, node.op_type


class _Subgraph:
    def __init__(self, provider: str, node: Any) -> None:
        self.ep_name, self._node = provider, _Node(node)

    def get_nodes(self) -> list[_Node]:
        return [self._node]


class _FailingSession:
    """ONNX Runtime's C session whose runs fail as those of a provider do."""

    def __init__(self, session: Any, message: str) -> None:
        self.real, self._message = session, message

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run(self, *arguments: Any) -> None:
        raise EPFail(self._message)

    run_with_iobinding = run


class PretendedCuda:
    """What was asked for.

    Attributes:
        made: What every session was made with: model, providers, whether the CPU was kept out, and further arguments.
    """

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []


def pretend_cuda(
    monkeypatch: pytest.MonkeyPatch, placing: Placing = lambda operator, name: CUDA, failing: str = ""
) -> PretendedCuda:
    """Let every session of ONNX Runtime that is asked for CUDA run on the CPU, and say that it is on CUDA.

    ONNX Runtime's Python code stays as it is, with its fallback.

    Args:
        monkeypatch: Undoes it.
        placing: Says where a node is said to be.
        failing: What runs fail with, as a provider's failure; empty: they do not.
    """
    pretended = PretendedCuda()
    real = onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc,valid-type]
        def __init__(self, model: Any, options: Any, providers: list[Any], **more: Any) -> None:
            names = [item if isinstance(item, str) else item[0] for item in providers]  # alone, or with its options
            self._pretends = CUDA in names
            strict = options.get_session_config_entry(_STRICT) if self._pretends and _has(options, _STRICT) else "0"
            pretended.made.append({"model": model, "providers": names, "strict": strict, **more})
            if self._pretends:
                options.add_session_config_entry(_STRICT, "0")  # the CPU alone cannot keep itself out
            super().__init__(model, options, providers=[CPU], **more)
            self._pretended = self._sess
            if self._pretends and failing:
                self._sess = _FailingSession(self._sess, failing)

        def get_providers(self) -> list[str]:
            kept = isinstance(self._sess, _FailingSession) or self._sess is self._pretended
            return [CUDA, CPU] if self._pretends and kept else list(super().get_providers())

        def get_provider_graph_assignment_info(self) -> list[Any]:
            real = super().get_provider_graph_assignment_info()
            if not self._pretends:
                return list(real)
            nodes = [node for subgraph in real for node in subgraph.get_nodes()]
            return [_Subgraph(placing(node.op_type, node.name), node) for node in nodes]

        def io_binding(self) -> Any:
            held, self._sess = self._sess, getattr(self._sess, "real", self._sess)
            try:
                binding = super().io_binding()
            finally:
                self._sess = held
            binding._session = held  # some versions hold a binding against the session that runs it
            return binding

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return pretended


_STRICT = "session.disable_cpu_ep_fallback"


def _has(options: Any, key: str) -> bool:
    try:
        options.get_session_config_entry(key)
    except Exception:  # its exceptions share no base class
        return False
    return True
