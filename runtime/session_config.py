"""Session configuration entries of ONNX Runtime: those that a file is deployed with, and which of them can change a code.

A setting can decide what ONNX Runtime makes of a file, and with that every code. So a manifest says which ones the user deploys
with, tables show them, and nothing is set in silence but what changes no code: `HARMLESS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Makes ONNX Runtime run signed 8-bit activations as they are; on x86 it otherwise turns some of them into unsigned ones.
S8_AS_IT_IS = "session.qdqisint8allowed"
#: Makes x86 processors with AVX2 but without VNNI add products exactly, as those with VNNI do.
EXACT_SUMS = "session.x64quantprecision"
#: Makes a session tell which provider each node was assigned to.
ASSIGNMENT = "session.record_ep_graph_assignment_info"
#: Makes a session's threads rest when a run ends.
NO_SPINNING = "session.force_spinning_stop"
#: Makes sessions share one arena of memory.
SHARED_ARENA = "session.use_env_allocators"
#: Makes ONNX Runtime refuse a session in which any node was left to the CPU.
NO_CPU = "session.disable_cpu_ep_fallback"
#: Entries that change no code, which a test shows: qcam's own, and the further ones about waiting threads.
HARMLESS = frozenset(
    {
        ASSIGNMENT, NO_SPINNING, SHARED_ARENA, NO_CPU,
        "session.intra_op.allow_spinning", "session.inter_op.allow_spinning",
    }
)  # fmt: skip

_LONGEST_KEY, _LONGEST_VALUE, _MOST = 128, 1024, 64
_KEY = re.compile(r"[A-Za-z0-9_.-]+")
#: Words in the names of entries that make a session read or write files, which no manifest may ask for.
_OF_FILES = re.compile("file|path|folder|directory|context", re.IGNORECASE)


def session_of_schema_1(tap_dtype: str) -> dict[str, str]:
    """Return what sessions were always told in silence before schema 2, by the type of the tap's codes."""
    return {S8_AS_IT_IS: "1"} if tap_dtype == "int8" else {}


def wrong_in_session(session: Mapping[str, str]) -> str:
    """Say what is wrong with the session configuration of a manifest; nothing is: an empty text."""
    if len(session) > _MOST:
        return f"it has {len(session)} entries, more than {_MOST}"
    for key, value in session.items():
        if not _KEY.fullmatch(key) or len(key) > _LONGEST_KEY:
            return f"{ascii(key)[:80]} is no name of an entry: 1 to {_LONGEST_KEY} letters, digits, '.', '_' and '-'"
        if len(value) > _LONGEST_VALUE or not value.isprintable():
            return f"the value of {key} has control characters, or more than {_LONGEST_VALUE} letters"
        if _OF_FILES.search(key):
            return f"{key} is about files: a bundle names all its files itself"
        if key == ASSIGNMENT:
            return f"{key}: qcam needs this one itself"
    return ""


def merged(session: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return a session's configuration: what a file is deployed with, and over it what a command was given."""
    return {**session, **given}


def probed(session: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the configuration under which this CPU's kernels are asked for a file: what runs signed codes is not asked with.

    Args:
        session: What the file is deployed with.
        given: What a command was given.
    """
    return {key: value for key, value in changing(session).items() if key != S8_AS_IT_IS} | dict(given)


def changing(config: Mapping[str, str]) -> dict[str, str]:
    """Return the entries that can change a code, by name."""
    return {key: value for key, value in sorted(config.items()) if key not in HARMLESS}


def described(config: Mapping[str, str]) -> str:
    """Return the entries that can change a code in words, as below every table; empty where there is none.

    Example:
        >>> described({"session.qdqisint8allowed": "1", "session.force_spinning_stop": "1"})
        'settings: session.qdqisint8allowed=1'
    """
    told = ", ".join(f"{key}={value}" for key, value in changing(config).items())
    return f"settings: {told}" if told else ""
