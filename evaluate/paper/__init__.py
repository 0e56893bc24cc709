"""The protocol of the paper's authors, slip by slip: fake-quantized PyTorch models in training mode; nothing is deployed."""

from qcam.evaluate.paper.evaluator import PaperEvaluator
from qcam.evaluate.paper.options import FIXES, PaperOptions

__all__ = ["FIXES", "PaperEvaluator", "PaperOptions"]
