"""Over how many images a network runs before its sessions are closed again: enough that opening them hardly counts."""

from __future__ import annotations

#: The part of its running that opening may take; and the seconds after which something should be finished all the same.
SHARE, LONGEST = 0.02, 300.0


class Pace:
    """Learns what opening takes and what images take.

    Attributes:
        reopens: Whether anything is opened again between images.
    """

    def __init__(self, longest: float = LONGEST) -> None:
        """Know nothing yet.

        Args:
            longest: Seconds after which something should be finished.
        """
        self._longest = longest
        self._opening = self._image = 0.0

    @property
    def reopens(self) -> bool:
        """Tell whether anything is opened again between images."""
        return self._opening > 0

    def expect(self, opening: float, image: float) -> None:
        """Begin with a guess: the seconds that opening everything again takes, and an image."""
        self._opening, self._image = opening, image

    def learn(self, images: int, running: float, opening: float) -> None:
        """Take what was seen: so many images ran in so many seconds, besides those that opening took."""
        if images and opening > 0:
            self._opening, self._image = opening, running / images

    def images(self) -> int:
        """Return how many images should run before sessions are closed."""
        image = max(self._image, 1e-6)
        return max(1, int(min(self._opening / SHARE, self._longest) / image))
