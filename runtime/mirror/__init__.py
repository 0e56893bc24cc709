"""The mirror: a PyTorch graph built node by node from a bundle's ONNX file, differentiable by straight-through estimator."""

from qcam.runtime.mirror.program import Mirror, MirrorOutputs

__all__ = ["Mirror", "MirrorOutputs"]
