"""The graph as loaded: what ONNX Runtime makes of a file when it loads it, written as a graph that the mirror can follow.

`asking` lets ONNX Runtime write down its own optimized graph; `writing_back` turns its integer operators into operators between
DequantizeLinear and QuantizeLinear again, each marked as one integer group; `islands` finds the float parts between them.
"""

from qcam.runtime.loaded.asking import as_loaded, followed, kernels_of
from qcam.runtime.loaded.writing_back import LoadedGraph, write_back

__all__ = ["LoadedGraph", "as_loaded", "followed", "kernels_of", "write_back"]
