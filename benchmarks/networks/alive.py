"""Random weights under which a network computes something: what was initialised as nothing gets seeds, statistics are real.

A network fresh from its constructor is half dead: residual branches start at zero, layer scales at 1e-6, BatchNorm's
statistics at 0 and 1, so that activations vanish or grow from layer to layer, and a comparison of codes would be one of zeros.
"""

from __future__ import annotations

import torch
from numpy.typing import NDArray

#: A parameter that is the same everywhere and smaller than this lets (nearly) nothing through.
NOTHING = 0.5


def bring_to_life(module: torch.nn.Module, images: NDArray, seed: int, batch: int = 8, gain: float = 1.0) -> int:
    """Give seeds to parameters that are one constant, and BatchNorm the statistics of photographs; in place.

    Args:
        module: A network with random weights, in `eval()`; left so.
        images: float32, images × channels × height × width, preprocessed.
        seed: Of the parameters.
        batch: Images at a time; the statistics are averaged over all batches.
        gain: Of the seeds that scale. Below 1, residual branches say less beside what they are added to, as in trained
            networks: through fifty blocks of random ones, float32 itself loses more than four digits.

    Returns:
        How many parameters were given seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    given = 0
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            low, high = parameter.min().item(), parameter.max().item()
            if low != high:
                continue
            if name.rpartition(".")[2] in ("bias", "beta") and low == 0:
                parameter.normal_(0, 0.1, generator=generator)
            elif abs(low) < NOTHING or parameter.numel() > 1:
                parameter.uniform_(0.5, 1.5, generator=generator).mul_(gain)
            else:
                continue  # one number that scales: a gain, a temperature
            given += 1
        _take_statistics(module, images, batch)
    return given


def _take_statistics(module: torch.nn.Module, images: NDArray, batch: int) -> None:
    norms = [each for each in module.modules() if hasattr(each, "running_var") and each.running_var is not None]
    kept = [getattr(each, "momentum", None) for each in norms]
    for norm in norms:
        norm.train()
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over all batches
    passes = 1 if all(isinstance(each, torch.nn.modules.batchnorm._BatchNorm) for each in norms) else 40
    for _ in range(passes if norms else 0):
        for start in range(0, len(images), batch):
            module(torch.from_numpy(images[start : start + batch]))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    module.eval()
