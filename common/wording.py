"""How messages name options: as Python's parameters, or as options of the commands.

Library code does not know who reads it. Its texts name an option by a token, `{force}` (`{{force}}` in an f-string), and keep
it through every wrapping, process and record; only where a text is shown or written is it put into somebody's words. Errors and
`logging` speak to Python users; the commands, and every file that is written, speak of options, so that a file does not depend
on who ran. Braces around anything that is not in the tables below stay as they are.
"""

from __future__ import annotations

import re

#: Option → what a Python user writes. The name of the command stands before those that the API has no parameter for.
OPTIONS = {
    "allow_fallback": "allow_fallback=True",
    "batch_size": "batch_size",
    "calibration_limit": "calibration_limit",
    "cam": "method",
    "cam_layer": "cam_layer",
    "channels": "channels",
    "check": "qcam-report --check",
    "classes": "classes",
    "crop": "crop",
    "device": "device",
    "engine": "engine",
    "fail_under": "gates",
    "finite_differences": "finite_differences=True",
    "float": "float_file",
    "float_cam_layer": "float_cam_layer",
    "force": "force=True",
    "gate": "presets",
    "gpus_per_worker": "gpus_per_worker",
    "grid_rows": "grid_rows",
    "interpolation": "interpolation",
    "keep": "keep=True",
    "label_format": "label_format",
    "labels": "labels",
    "layout": "layout",
    "into": "into",
    "like": "like",
    "limit": "limit",
    "logits": "logits",
    "mask_classes": "mask_classes",
    "mask_void": "mask_void",
    "mean": "mean",
    "method": "method",
    "name": "name",
    "names": "names",
    "non_inferior_to": "non_inferior_to",
    "opset": "opset",
    "output": "output",
    "paper_fix": "paper_fixes",
    "paper_weights": "paper_weights",
    "pictures": "pictures",
    "precision": "precisions",
    "protocol": "protocol",
    "provider": "provider",
    "provider_option": "provider_options",
    "ray_address": "ray_address",
    "reduce_range": "reduce_range=True",
    "references": "references",
    "require": "requirements",
    "resize": "resize",
    "saliency": "saliency",
    "saliency_cache": "saliency_cache",
    "saliency_option": "saliency_options",
    "saliency_preset": "saliency_preset",
    "scheme": "scheme",
    "session_config": "session_config",
    "size": "size",
    "std": "std",
    "target": "target",
    "tf32": "tf32=True",
    "threads": "threads",
    "trained": "trained",
    "trust_remote_code": "trust_remote_code=True",
    "values": "values",
    "weights": "weights",
    "weights_key": "weights_key",
    "workers": "workers",
}
#: Command → the function that does the same.
COMMANDS = {
    "qcam-check": "qcam.check", "qcam-eval": "qcam.study", "qcam-export": "qcam.export", "qcam-import": "qcam.import_onnx",
    "qcam-report": "qcam.report",
}  # fmt: skip

_IN_PYTHON = OPTIONS | COMMANDS
_IN_OPTIONS = {name: "--" + name.replace("_", "-") for name in OPTIONS} | {name: name for name in COMMANDS}
_TOKEN = re.compile(r"\{(" + "|".join(map(re.escape, _IN_PYTHON)) + r")\}")


def in_python(text: str) -> str:
    """Put a text with tokens into the words of a Python user.

    Args:
        text: What library code says.

    Returns:
        The text with parameters and functions for tokens.

    >>> in_python("a exists; use {force}, or {output} for another place than {it}")
    'a exists; use force=True, or output for another place than {it}'
    """
    return _TOKEN.sub(lambda found: _IN_PYTHON[found[1]], text)


def in_options(text: str) -> str:
    """Put a text with tokens into the words of the commands.

    Args:
        text: What library code says.

    Returns:
        The text with options and commands for tokens.

    >>> in_options("a exists; use {force}, or {output} for another place than {it}")
    'a exists; use --force, or --output for another place than {it}'
    """
    return _TOKEN.sub(lambda found: _IN_OPTIONS[found[1]], text)
