"""Does a quantized vision model, as deployed, still look at the same place?

    bundle = qcam.export("resnet50")
    results = qcam.study(bundle, images="photos/")
    verdict = qcam.check(bundle)
    shown = qcam.explain(bundle, "dog.jpg")

Everything here is loaded when it is first used: `import qcam` itself costs nothing (docs/api.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcam._explanation import Explanation, explain
    from qcam._export import export
    from qcam._importing import import_onnx
    from qcam._results import StudyResults, load_results, report, study
    from qcam._verdict import CheckVerdict, check
    from qcam.common.errors import (
        BundleError,
        GateError,
        ImageSetError,
        MissingExtraError,
        ProviderError,
        QcamError,
        ResultsError,
        UndecidedError,
        UnsupportedGraphError,
        WeightsError,
    )
    from qcam.common.verdict import Verdict
    from qcam.runtime.bundle import Bundle, load_bundle

    __version__: str

#: Public name → module that holds it. No name here is that of a room.
_HOMES = {
    **dict.fromkeys(("Bundle", "load_bundle"), "qcam.runtime.bundle"),
    "export": "qcam._export",
    "import_onnx": "qcam._importing",
    **dict.fromkeys(("StudyResults", "load_results", "report", "study"), "qcam._results"),
    **dict.fromkeys(("CheckVerdict", "check"), "qcam._verdict"),
    "Verdict": "qcam.common.verdict",
    **dict.fromkeys(("Explanation", "explain"), "qcam._explanation"),
    **dict.fromkeys(
        (
            "BundleError", "GateError", "ImageSetError", "MissingExtraError", "ProviderError", "QcamError", "ResultsError",
            "UndecidedError", "UnsupportedGraphError", "WeightsError",
        ),
        "qcam.common.errors",
    ),
}  # fmt: skip

__all__ = [
    "Bundle",
    "BundleError",
    "CheckVerdict",
    "Explanation",
    "GateError",
    "ImageSetError",
    "MissingExtraError",
    "ProviderError",
    "QcamError",
    "ResultsError",
    "StudyResults",
    "UndecidedError",
    "UnsupportedGraphError",
    "Verdict",
    "WeightsError",
    "__version__",
    "check",
    "explain",
    "export",
    "import_onnx",
    "load_bundle",
    "load_results",
    "report",
    "study",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("qcam")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'qcam' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
