"""Images with their labels, without what became of the rest."""

from __future__ import annotations

from typing import Any

from qcam.images.labels import label_images
from qcam.images.sources import ImageFile


def with_labels(*given: Any, **options: Any) -> list[ImageFile]:
    """Return the images of `label_images`, whose arguments are taken."""
    return label_images(*given, **options).images
