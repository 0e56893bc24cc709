"""What can be chosen about a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qcam.common.arguments import whole
from qcam.common.vocabulary import ColourMap, require

#: Bytes that the page may take: it is opened on a phone, sent by mail, kept in a repository.
BUDGET = 15_000_000


@dataclass(frozen=True)
class ReportOptions:
    """What can be chosen about a report.

    Attributes:
        colormap: One of `ColourMap`.
        pictures: Images shown of each model at most; fewer where the page would grow beyond `budget`.
        names: What the runs are called, in their order; empty for the names of their folders.
        checks: Folders of qcam-check; without any, a fitting one beside the results is looked for.
        budget: Bytes that the page may take.
        seed: Draws the random pictures.
    """

    colormap: str = ColourMap.INFERNO
    pictures: int = 24
    names: tuple[str, ...] = ()
    checks: tuple[Path, ...] = ()
    budget: int = BUDGET
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            QcamError: If the colour map is unknown, with the choices; or there are to be fewer than 0 pictures.
        """
        require(ColourMap, self.colormap, "colour map")
        object.__setattr__(self, "pictures", whole(self.pictures, "{pictures}", least=0))
