"""A3: parts of a run that was killed, damaged before it goes on."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hostile.ground import SAME, parts_of
from hostile.harness import Attack, Scene, Verdict, fell, flip_bit, held

_DIGESTED = re.compile(r"(\d{6}-[0-9a-f]{16})-[0-9a-f]{16}\.parquet")
#: Random flips: in the full run, and in the tests.
_FLIPS, _FEW_FLIPS = 100, 12


def rewrite(path: Path, table: pa.Table) -> None:
    """Write a part anew with the metadata that it had."""
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path, compression="zstd")


def sign(path: Path) -> None:
    """Make the digest in a part's name right again, where the format has one."""
    match = _DIGESTED.fullmatch(path.name)
    if match:
        path.rename(path.with_name(f"{match.group(1)}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.parquet"))


def go_on(scene: Scene, out: Path, suspects: list[str]) -> Verdict:
    """Give the command again: the damaged parts are named and done again, and all ends as if nothing had been."""
    outcome = scene.ground.eval(scene.ground.bundle, "--images", scene.ground.many, output=out)
    if outcome.fault():
        return fell(outcome.fault())
    if outcome.code != 0:
        return fell(f"exit {outcome.code}: the run does not go on")
    unequal = [name for name in SAME if (out / name).read_bytes() != (scene.ground.whole / name).read_bytes()]
    if unequal:
        rows = pq.read_metadata(out / "results.parquet").num_rows
        wanted = pq.read_metadata(scene.ground.whole / "results.parquet").num_rows
        return fell(f"exit 0, {rows} of {wanted} rows" if rows != wanted else f"exit 0, other {unequal[0]}")
    # The place and the key name a part; what follows may have been made anew.
    if suspects and not all(re.match(r"\d{6}-[0-9a-f]{16}", name).group() in outcome.err for name in suspects):  # type: ignore[union-attr]
        return fell("done again without a word")
    return held("named, done again, files equal" if suspects else "done again, files equal")


def _damaged(damage: Callable[[Path], None], *, told: bool = True, signed: bool = False) -> Callable[[Scene], Verdict]:
    def run(scene: Scene) -> Verdict:
        _ = scene.ground.whole
        out = scene.copy(scene.ground.killed)
        part = parts_of(out)[0]
        damage(part)
        if signed:
            sign(part)
        return go_on(scene, out, [part.name] if told else [])

    return run


def _rows(keep: Callable[[int], int], path: Path) -> None:
    table = pq.read_table(path)
    rewrite(path, table.slice(0, keep(table.num_rows)))


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _zeroed(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])


def _empty_lists(path: Path) -> None:
    """Keep the names of all images, and nothing that was found out about them."""
    table = pq.read_table(path)
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            table = table.set_column(place, field, pa.array([[]] * table.num_rows, field.type))
    rewrite(path, table)


def _fewer_and_empty(path: Path) -> None:
    _empty_lists(path)
    _rows(lambda count: count - 1, path)


def _twice(path: Path) -> None:
    table = pq.read_table(path)
    rewrite(path, pa.concat_tables([table.slice(0, 1), table.slice(0, table.num_rows - 1)]))


def _turned(path: Path) -> None:
    table = pq.read_table(path)
    rewrite(path, table.take(pa.array(range(table.num_rows - 1, -1, -1))))


def _other_figure(path: Path) -> None:
    """Change one CC in a thousand bytes of figures."""
    table = pq.read_table(path)
    rows = table.column("rows").to_pylist()
    rows[0][1]["CC"] = 0.123
    place = table.schema.get_field_index("rows")
    rewrite(path, table.set_column(place, table.schema.field(place), pa.array(rows, table.schema.field(place).type)))


def _other_schema(path: Path) -> None:
    table = pa.table({"image": pa.array(["000.jpg"] * 16)})
    rewrite(path, table)


def _swapped(scene: Scene, *, signed: bool) -> Verdict:
    _ = scene.ground.whole
    out = scene.copy(scene.ground.killed)
    first, second = parts_of(out)[:2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    names = [first.name, second.name]
    if signed:
        sign(first)
        sign(second)
    return go_on(scene, out, names)


def _foreign(scene: Scene, *, images: bool) -> Verdict:
    """Put the part of another run under the right name."""
    _ = scene.ground.whole
    out = scene.copy(scene.ground.killed)
    part = parts_of(out)[0]
    other = parts_of(scene.ground.killed_images if images else scene.ground.killed_other)[0]
    shutil.copy(other, part)
    sign(part)
    return go_on(scene, out, [part.name])


def _folder(scene: Scene) -> Verdict:
    _ = scene.ground.whole
    out = scene.copy(scene.ground.killed)
    part = parts_of(out)[0]
    part.unlink()
    part.mkdir()
    outcome = scene.ground.eval(scene.ground.bundle, "--images", scene.ground.many, output=out)
    if outcome.code == 2:  # a folder is nothing that this program made: it may stay, if the refusal names it
        verdict = outcome.refused(part.name)
        return held("refused, the part named") if verdict.held else verdict
    return go_on(scene, out, [])


def _flips(scene: Scene) -> Verdict:
    """Flip one bit, again and again, each time in a fresh copy."""
    _ = scene.ground.whole
    chance = random.Random(20261125)
    fallen: list[str] = []
    count = _FLIPS if scene.thorough else _FEW_FLIPS
    for _number in range(count):
        out = scene.copy(scene.ground.killed)
        part = chance.choice(parts_of(out)[:2])
        flip_bit(part, chance.randrange(8 * part.stat().st_size))
        verdict = go_on(scene, out, [part.name])
        if not verdict.held:
            fallen.append(verdict.told)
        shutil.rmtree(out)
    if fallen:
        wrong = sum(told.startswith("exit 0") for told in fallen)
        most = max(set(fallen), key=fallen.count)
        return fell(f"{len(fallen)} of {count} fell: {wrong} end with other files, most often: {most}")
    return held(f"{count} of {count} named, done again, files equal")


_RUNS = [
    ("a part deleted", _damaged(Path.unlink, told=False)),
    ("a part cut in half", _damaged(_cut)),
    ("a part of no bytes", _damaged(lambda path: path.write_bytes(b"") and None)),
    ("200 bytes in the middle of a part zeroed", _damaged(_zeroed)),
    ("a part is a folder", _folder),
    ("a part emptied of its rows", _damaged(partial(_rows, lambda count: 0))),
    ("half of a part's rows", _damaged(partial(_rows, lambda count: count // 2))),
    ("a part whose images have nothing", _damaged(_empty_lists)),
    ("a part with a row less, all empty", _damaged(_fewer_and_empty)),
    ("a part with one image twice, one missing", _damaged(_twice)),
    ("a part in another order", _damaged(_turned)),
    ("one figure in a part changed", _damaged(_other_figure)),
    ("a part of another schema", _damaged(_other_schema)),
    ("two parts' contents swapped", partial(_swapped, signed=False)),
    ("a part of a run of other weights", partial(_foreign, images=False)),
    ("a part of a run of other images", partial(_foreign, images=True)),
    ("emptied of its rows, digest made right", _damaged(partial(_rows, lambda count: 0), signed=True)),
    ("half of the rows, digest made right", _damaged(partial(_rows, lambda count: count // 2), signed=True)),
    ("images have nothing, digest made right", _damaged(_empty_lists, signed=True)),
    ("one image twice, digest made right", _damaged(_twice, signed=True)),
    ("another order, digest made right", _damaged(_turned, signed=True)),
    ("another schema, digest made right", _damaged(_other_schema, signed=True)),
    ("swapped, digests made right", partial(_swapped, signed=True)),
    ("one random bit flipped", _flips),
]
ATTACKS = [Attack(f"A3.{number}", kind, run) for number, (kind, run) in enumerate(_RUNS, 1)]
