"""What travels between the driver and its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcam.evaluate.run.facts import WorkerFacts
from qcam.images.sources import ImageFile


@dataclass(frozen=True)
class Shard:
    """Some images of a run, that one part will hold.

    Attributes:
        index: Its place in the run.
        key: Hash of all that can change its figures.
        images: The images.
        hashes: Image name → the fingerprint it had when the run was planned.
        references: Of how many of its images, the first ones, there are reference rows.
    """

    index: int
    key: str
    images: tuple[ImageFile, ...]
    hashes: Mapping[str, str]
    references: int = 0


@dataclass(frozen=True)
class Opening:
    """A worker opens what it needs, and is alive.

    Attributes:
        node: Name of its machine.
        what: What it opens just now: a bundle, or what comes besides.
    """

    node: str
    what: str


@dataclass(frozen=True)
class Joined:
    """A worker is ready.

    Attributes:
        facts: What it is.
    """

    facts: WorkerFacts


@dataclass(frozen=True)
class Refused:
    """A worker cannot take part, and will not if it is started again.

    Attributes:
        reason: Why, in one line.
    """

    reason: str


@dataclass(frozen=True)
class Started:
    """A worker has taken up its lease: what breaks from here on may be a shard's doing."""


@dataclass(frozen=True)
class Finished:
    """A shard's part has been written.

    Attributes:
        index: The shard's place in the run.
        part: Name of the part's file.
    """

    index: int
    part: str


@dataclass(frozen=True)
class Returned:
    """A worker has nothing to do any more.

    Attributes:
        failure: Why it gave up what is unfinished of its lease; empty if all is done.
        traceback: Where it failed, if that is a bug rather than something that a user can mend.
    """

    failure: str = ""
    traceback: str = ""


class RemoteBugError(Exception):
    """A bug in a worker; its text is the worker's traceback."""


@dataclass(frozen=True)
class Lost:
    """A worker is gone; another takes its place.

    Attributes:
        reason: What is known of it.
    """

    reason: str


Message = Opening | Joined | Refused | Started | Finished | Returned | Lost
