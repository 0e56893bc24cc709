"""ImageNet-1k's WordNet ids, as timm ships them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from qcam.common.extras import require_packages
from qcam.images.names import folded

#: How a WordNet id looks.
WNID = re.compile(r"n[0-9]{8}")
#: Classes that may be spelled otherwise than WordNet has them: torchvision tells "crane bird" from "crane".
_SPELLED_OTHERWISE = 10


def wnid_classes(classes: Sequence[str]) -> dict[str, int]:
    """Return WordNet id → class index, where a model's classes are ImageNet-1k's.

    Args:
        classes: Class names in the order of the model's outputs.

    Returns:
        Empty for any other classes, 1,000 of them or not: their names are compared.

    Raises:
        MissingExtraError: If the classes may be ImageNet's and timm is not installed.
    """
    return dict(_wnid_classes(tuple(classes)))


@lru_cache(maxsize=4)
def _wnid_classes(classes: tuple[str, ...]) -> dict[str, int]:
    if len(classes) != 1000:
        return {}
    require_packages("reading WordNet ids (n01440764 …)", "timm")
    from timm.data import ImageNetInfo

    known = ImageNetInfo()
    others = 0
    for index, name in enumerate(classes):
        told = known.index_to_description(index)
        others += folded(name) not in {folded(told), *map(folded, told.split(","))}
    if others > _SPELLED_OTHERWISE:
        return {}
    return {wnid: index for index, wnid in enumerate(known.label_names())}
