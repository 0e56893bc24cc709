"""What a worker hands in is looked at before it counts: the right shard, whole, of its own images, with possible figures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from qcam.common.errors import QcamError
from qcam.common.storage import shown
from qcam.evaluate.engine.messages import Shard
from qcam.evaluate.results.parts import DamagedPartError, PartStore, PlannedPart, read_part
from qcam.evaluate.run.facts import WorkerFacts


def inspector(parts: PartStore) -> Callable[[Shard, str, WorkerFacts], str]:
    """Return what looks at parts.

    Args:
        parts: Where workers write them.

    Returns:
        A function of shard, name of the part's file, and facts of the first worker, whose numbers of rows every part has to
        have. It says what is wrong with the part, empty if nothing is; a wrong part is deleted. It raises `QcamError` if that
        fails.
    """

    def inspect(shard: Shard, name: str, facts: WorkerFacts) -> str:
        images = tuple(image.name for image in shard.images)
        planned = PlannedPart(shard.index, shard.key, images, facts.rows, shard.references, facts.references)
        if "/" in name or not name.startswith(f"{planned.place}-"):
            return "is said to be another file"
        path = parts.folder / name
        if not isinstance(path, Path):
            path.fs.invalidate_cache()  # a listing from before knows nothing of what another process has written since
        try:
            wrong = _unlike(read_part(path, planned).table, shard)
        except DamagedPartError as error:
            wrong = error.why
        if wrong:
            parts.delete(path)
            there = False
            with suppress(Exception):  # file systems behind URLs have their own
                there = path.exists()
            if there:
                raise QcamError(f"{shown(path)} {wrong}, and it cannot be deleted; delete it, and run the same command again")
        return wrong

    return inspect


def _unlike(table: pa.Table, shard: Shard) -> str:
    """Say in what the rows of a part are not of the planned files and labels; empty if in nothing."""
    labels = {image.name: image.label for image in shard.images}
    rows = pc.list_flatten(table["rows"])
    columns = (pc.struct_field(rows, name).to_pylist() for name in ("image", "image_sha256", "label", "status"))
    for image, sha256, label, status in zip(*columns, strict=True):
        unread = sha256 == "" and status.startswith("refused")
        if shard.hashes.get(image) != sha256 and not unread:
            return f"holds rows of another file than the planned {image}"
        if label != labels[image]:
            return f"holds another label of {image} than the planned one"
    return ""
