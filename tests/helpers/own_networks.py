"""Small networks of somebody's own, and the files that they are brought in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from qcam.images.preprocessing import Preprocessing
from qcam.models.sources import LoadedModel
from qcam.models.weights import hash_parameters

#: Preprocessing in the words of the command.
GIVEN = ("--mean", "0.5", "--std", "0.25")


class Own(nn.Module):
    """Two convolutions with BatchNorm, a Dropout, and a head of four classes; `before` stands in front of the head."""

    def __init__(self, before: nn.Module | None = None, *, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.before = before or nn.Dropout(0.5)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.before(self.body(x).mean((2, 3))))
        return scores


def own(seed: int = 0, before: nn.Module | None = None, *, channels: int = 3) -> Own:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Own(before, channels=channels)
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):  # as training would leave it: folding it changes every number
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.running_mean, std=0.2)
                nn.init.uniform_(part.running_var, 0.3, 2)
        nn.init.normal_(network.head.weight, std=2.0)
        return network


def as_program(folder: Path, *, batch: int | None = None, network: nn.Module | None = None) -> Path:
    """A `.pt2` file; with a batch, it takes so many pictures and no other number."""
    sizes = None if batch else ({0: torch.export.Dim("batch")},)
    module = (network or own()).eval()
    program = torch.export.export(module, (torch.zeros(batch or 2, 3, 32, 32),), dynamic_shapes=sizes)
    path = folder / "net.pt2"
    torch.export.save(program, path)
    return path


def as_code(folder: Path, more: str = "") -> Path:
    """`net.py`, whose `build()` returns a network; it imports what lies beside it."""
    (folder / "beside.py").write_text("CLASSES = 4\n")
    path = folder / "net.py"
    path.write_text(
        "from beside import CLASSES\n"
        "from torch import nn\n\n\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))\n" + more
    )
    return path


class Deep(nn.Module):
    """A stem, a row of convolutions with ReLU, and a head: a linear layer on means, or means of maps of scores."""

    def __init__(self, depth: int = 6, *, score_maps: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.body = nn.Sequential(*(part for _ in range(depth) for part in (nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())))
        head: nn.Module = nn.Sequential(nn.Conv2d(16, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = head if score_maps else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.body(self.stem(x)))
        return scores


def deep(seed: int = 0, depth: int = 6, *, score_maps: bool = False) -> LoadedModel:
    """Return such a network with random weights, ready for export."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Deep(depth, score_maps=score_maps)
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
    network.eval().requires_grad_(False)
    preprocessing = Preprocessing(resize=36, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    weights = {"name": f"random:{seed}", "sha256": hash_parameters(network), "trained": False}
    return LoadedModel("deep", "test", network, preprocessing, tuple(f"class {index}" for index in range(10)), weights, "body")
