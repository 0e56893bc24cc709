"""Deployed runs: ONNX Runtime sessions on a named execution provider. Imports neither torch nor torchvision."""

from qcam.runtime.deployed.fitness import nothing_fits, unfit_precisions
from qcam.runtime.deployed.packed import PackedCopies
from qcam.runtime.deployed.placement import Placement
from qcam.runtime.deployed.providers import provider_name, require_provider
from qcam.runtime.deployed.session import DeployedModel, DeployedOutputs, SessionSettings

__all__ = [
    "DeployedModel",
    "DeployedOutputs",
    "PackedCopies",
    "Placement",
    "SessionSettings",
    "nothing_fits",
    "provider_name",
    "require_provider",
    "unfit_precisions",
]
