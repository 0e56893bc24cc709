"""The table of networks in docs/models.md, made of the rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from qcam.common.files import write_atomically

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- networks: begin -->", "<!-- networks: end -->"


def table(rows: dict[str, dict[str, Any]], families: dict[str, str], mirror: str) -> str:
    """Return the Markdown text: what passes, what does not and why, and one line a network.

    Args:
        rows: Network → row.
        families: Network → family, of all that are to be tried.
        mirror: Hash of the present sources; rows of others are marked.
    """
    known = {name: rows[name] for name in families if name in rows}
    equal = {name: row for name, row in known.items() if row["result"] == "equal"}
    lines = []
    for library, prefix in (("torchvision", ""), ("timm", "timm:")):
        mine = [name for name in families if name.startswith("timm:") == bool(prefix)]
        done = [name for name in mine if name in known]
        passed = [name for name in mine if name in equal]
        more = f" of {len({families[name] for name in passed})} families" if prefix else ""
        tried = f"of {len(done)} that were tried and {len(mine)} listed"
        lines.append(f"- {library}: **{len(passed)}** networks{more} pass, {tried}.")
    lines.append(f"- Codes compared: {sum(row.get('codes', 0) for row in known.values()):,}; different: "
                 f"{sum(row.get('different', 0) for row in known.values()):,}.")  # fmt: skip
    others = Counter(
        family for row in known.values() for family, found in row.get("others", {}).items() if not found["different"]
    )
    if others:
        lines.append("- On other processors' kernels (emulated), all codes equal: " + ", ".join(
            f"{family} {count} networks" for family, count in sorted(others.items())) + ".")  # fmt: skip
    older = [name for name, row in known.items() if row.get("mirror") != mirror]
    if older:
        lines.append(f"- {len(older)} rows (marked ¹) were measured with earlier sources of the mirror.")
    lines += [
        "", "| network | photographs | tensors | codes | different | f32, relative | tensors of ≥ 16 codes | |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for name in sorted(known, key=lambda each: (each.startswith("timm:"), each)):
        row = known[name]
        mark = " ¹" if name in older else ""
        said = "passes" if row["result"] == "equal" else f"{row['result']}: {row['reason']}"
        more = [f"{key} {value}" for key, value in ({"seed": row.get("seed")} | row.get("given", {})).items() if value]
        said += f" ({', '.join(more)})" if more else ""
        said = " ".join(said.split()).replace("|", "/")[:200]
        if "codes" in row:
            counts = f"{row['tensors']} | {row['codes']:,} | {row['different']:,}"
            numbers = f"{counts} | {row['f32']:.0e} | {row['distinct_tensors']:.0%}"
        else:
            numbers = " | | | | "
        lines.append(f"| {name}{mark} | {row['images']} | {numbers} | {said} |")
    missing = [name for name in families if name not in known]
    if missing:
        lines += ["", f"Not tried yet: {', '.join(missing)}."]
    return "\n".join(lines)


def write_page(rows: dict[str, dict[str, Any]], families: dict[str, str], mirror: str, page: Path = PAGE) -> None:
    """Put the table between its marks."""
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    if not found:
        raise SystemExit(f"{page} has no {BEGIN}")
    write_atomically(page, f"{before}{BEGIN}\n{table(rows, families, mirror)}\n{END}{rest.partition(END)[2]}")
