"""B8: JPEGs of which a part is gone, and which a decoder takes for good: refused by name among good ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from hostile.ground import OPTIONS, write_image_table
from hostile.harness import Attack, Scene, Verdict, fell, held

#: Ways in which photographs are stored.
_FORMS: dict[str, dict[str, object]] = {
    "plain": {}, "optimized": {"optimize": True}, "with restart markers": {"restart_marker_rows": 1},
    "without subsampling": {"subsampling": 0, "quality": 95}, "grey": {}, "progressive": {"progressive": True},
}  # fmt: skip


def _saved(photograph: Path, form: str) -> bytes:
    buffer = io.BytesIO()
    with Image.open(photograph) as picture:
        picture.convert("L" if form == "grey" else "RGB").save(buffer, "JPEG", **_FORMS[form])
    return buffer.getvalue()


def _data(jpeg: bytes) -> tuple[int, int]:
    """Return where the data of the first scan begin, and where the file's end marker stands."""
    place = jpeg.index(b"\xff\xda")
    return place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big"), len(jpeg) - 2


def _cut(share: float, jpeg: bytes) -> bytes:
    """End the file after a share of its data."""
    begin, end = _data(jpeg)
    return jpeg[: begin + int((end - begin) * share)] + b"\xff\xd9"


def _zeroed(count: int, jpeg: bytes) -> bytes:
    """Let so many bytes in the middle of the data be zero."""
    begin, end = _data(jpeg)
    middle = (begin + end - count) // 2
    return jpeg[:middle] + bytes(count) + jpeg[middle + count :]


def _damaged(scene: Scene, *, damage: Callable[[bytes], bytes], forms: tuple[str, ...], table: bool = False) -> Verdict:
    """Evaluate good photographs of every form, and damaged ones among them."""
    photograph = sorted(scene.ground.photographs.iterdir())[0]
    files: dict[str, bytes] = {}
    for form in _FORMS:
        files[f"good {form}.jpg"] = good = _saved(photograph, form)
        if form in forms:
            files[f"evil {form}.jpg"] = damage(good)
    images = scene.work / "photographs"
    if table:
        images = scene.work / "photographs.parquet"
        write_image_table(images, list(files.values()))
    else:
        images.mkdir()
        for name, data in files.items():
            (images / name).write_bytes(data)
    out = scene.work / "out"
    words = ("--images", images, "--saliency", "spectral", "--output", out, *OPTIONS, "--precision", "f32")
    outcome = scene.run("qcam-eval", scene.ground.bundle, *words)
    if outcome.fault() or outcome.code != 0:
        return fell(outcome.fault() or f"exit {outcome.code}: a bad picture ends the run")
    rows = pq.read_table(out / "results.parquet", columns=["image", "status"]).to_pylist()
    refused = {row["image"] for row in rows if row["status"].startswith("refused: damaged")}
    named = dict(zip(pq.read_table(out / "images.parquet")["name"].to_pylist(), files if table else sorted(files), strict=True))
    found = {named[name] for name in refused}
    taken = sorted(name for name in files if name.startswith("evil") and name not in found)
    if taken:
        return fell(f"{len(taken)} of {len(forms)} taken for good: {taken[0]}")
    wrong = sorted(name for name in found if name.startswith("good"))
    if wrong:
        return fell(f"a good one is refused: {wrong[0]}")
    return held(f"{len(forms)} refused by name, {len(_FORMS)} good ones taken")


_ALL = tuple(_FORMS)
_SEQUENTIAL = tuple(form for form in _FORMS if form != "progressive")
_RUNS = [
    ("JPEGs cut after a tenth of their data, and ended", partial(_damaged, damage=partial(_cut, 0.1), forms=_ALL)),
    ("JPEGs cut in the middle, and ended", partial(_damaged, damage=partial(_cut, 0.5), forms=_ALL)),
    ("JPEGs cut shortly before their end, and ended", partial(_damaged, damage=partial(_cut, 0.95), forms=_SEQUENTIAL)),
    ("JPEGs with 4,096 zeros in the middle", partial(_damaged, damage=partial(_zeroed, 4096), forms=_SEQUENTIAL)),
    ("JPEGs with 512 zeros in the middle", partial(_damaged, damage=partial(_zeroed, 512), forms=_SEQUENTIAL)),
    ("cut JPEGs in a Parquet file", partial(_damaged, damage=partial(_cut, 0.5), forms=_ALL, table=True)),
]
ATTACKS = [Attack(f"B8.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
