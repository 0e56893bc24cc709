"""Weights files as torchvision's publisher left them: old keys, no counters, the training's heads; made, never downloaded."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision import models

State = dict[str, torch.Tensor]


def trained_like(name: str, seed: int = 0, **options: Any) -> nn.Module:
    """A model whose every part counts: no head of zeros, no BatchNorm that does nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.get_model(name, weights=None, **options)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, nn.Linear) and not part.weight.any():
                nn.init.normal_(part.weight, std=0.05)
        if name in ("googlenet", "inception_v3"):  # with any other statistics the picture is lost on the way
            for part in module.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.momentum = 1.0
            side = 299 if name == "inception_v3" else 128
            module.train()(torch.randn(2 if side > 128 else 4, 3, side, side))
    return module.eval()


def published_layout(name: str) -> State:
    """The state dict of a model as its published file holds it: old keys, no counters, the training's heads."""
    options = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    state: State = trained_like(name, **options).state_dict()
    old: State = OrderedDict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        if name.startswith("densenet"):
            key = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)", r"\1.\2", key)
        if name.startswith("vit"):
            key = re.sub(r"mlp\.([03])\.", lambda found: f"mlp.linear_{1 + int(found[1]) // 3}.", key)
        old[key] = tensor
    # Versions of before: BatchNorm without counters, other names in ViT. Without its own version mnasnet is not loaded at all.
    versions = {path: {"version": 1} for path in state._metadata}  # type: ignore[attr-defined]
    old._metadata = OrderedDict(versions | ({"": {"version": 2}} if name.startswith("mnasnet") else {}))  # type: ignore[attr-defined]
    return old


def cached(name: str, home: Path) -> tuple[Path, Any]:
    """Put such a file into torch's cache; return it and the entry of torchvision's enumeration that it stands for."""
    choices = models.get_model_weights(name)
    entry = choices.IMAGENET1K_V1 if "IMAGENET1K_V1" in choices.__members__ else choices.DEFAULT
    path = home / "hub" / "checkpoints" / Path(urlparse(entry.url).path).name
    path.parent.mkdir(parents=True)
    torch.save(published_layout(name), path)
    return path, entry
