"""Options that several commands share, each defined once; and how options are grouped in help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from qcam.commands import console
from qcam.common.errors import QcamError
from qcam.common.vocabulary import PRECISION_NAME, PRECISIONS, ColourMap, Device, words

Function = TypeVar("Function", bound=Callable[..., Any])

#: Groups, in the order of help.
INPUT, COMPARED, OUTPUT, RUNTIME = "Input", "What is compared", "Output", "Runtime"
#: What else people call them.
_ALIASES = {"fp32": "f32", "float32": "f32"}


class Option(click.Option):
    """An option that knows its group in help, and whether only --help-all shows it."""

    def __init__(self, *args: Any, group: str = "", advanced: bool = False, **kwargs: Any) -> None:
        """Take what click takes.

        Args:
            *args: As in click.
            group: The heading that it stands below.
            advanced: Whether only --help-all shows it.
            **kwargs: As in click.
        """
        super().__init__(*args, **kwargs)
        self.group = group
        self.advanced = advanced


def option(*names: str, group: str = "", advanced: bool = False, **settings: Any) -> Callable[[Function], Function]:
    """Return click's decorator of an option in a group.

    Args:
        *names: As in click.
        group: The heading that it stands below.
        advanced: Whether only --help-all shows it.
        **settings: As in click.
    """
    return click.option(*names, cls=Option, group=group, advanced=advanced, **settings)


def images() -> Callable[[Function], Function]:
    """Return `--images`."""
    return option(
        "--images",
        group=INPUT,
        metavar="DIR|URL|TAR|PARQUET",
        help="Photographs in a folder, WebDataset tars or Parquet files, local or behind a URL, or one photograph; by default "
        "the demo's.",
    )


def limit() -> Callable[[Function], Function]:
    """Return `--limit`."""
    return option("--limit", group=INPUT, type=click.IntRange(1), help="Take only the first so many images.")


def precision() -> Callable[[Function], Function]:
    """Return `--precision` of commands that open bundles: names with commas, or several times; a bundle knows what it holds."""
    return _precision("All that a bundle holds by default.", COMPARED, "f32|int16|int8|NAME,…", _names)


def precision_made(says: str, group: str) -> Callable[[Function], Function]:
    """Return `--precision` of a command that makes them: those that qcam exports, with commas, or several times.

    Args:
        says: What is taken without it.
        group: The heading that it stands below.
    """
    return _precision(says, group, "f32|int16|int8,…", _own_names)


def _precision(says: str, group: str, metavar: str, read: Callable[..., Any]) -> Callable[[Function], Function]:
    return option(
        "--precision",
        "precisions",
        group=group,
        multiple=True,
        metavar=metavar,
        callback=read,
        help=f"With commas, or several times. {says}",
    )


def provider() -> Callable[[Function], Function]:
    """Return `--provider`."""
    return option(
        "--provider",
        group=RUNTIME,
        default="CPU",
        show_default=True,
        help="ONNX Runtime execution provider: CPU, CUDA, TensorRT, OpenVINO … Strict: never silently another one.",
    )


def allow_fallback(says: str) -> Callable[[Function], Function]:
    """Return `--allow-fallback`.

    Args:
        says: Where the command tells of it.
    """
    return option(
        "--allow-fallback", group=RUNTIME, advanced=True, is_flag=True,
        help=f"Accept nodes or sessions on another provider, and {says}.",
    )  # fmt: skip


def colormap(group: str, *, advanced: bool = False) -> Callable[[Function], Function]:
    """Return `--colormap`.

    Args:
        group: The heading that it stands below.
        advanced: Whether only --help-all shows it.
    """
    return option(
        "--colormap", group=group, advanced=advanced, type=click.Choice(words(ColourMap)), default=ColourMap.INFERNO.value,
        show_default=True, help="Colours of CAMs; jet is the paper's, and unreadable for colour-blind people.",
    )  # fmt: skip


def session_config() -> Callable[[Function], Function]:
    """Return `--session-config`."""
    return option(
        "--session-config",
        group=RUNTIME,
        advanced=True,
        multiple=True,
        metavar="KEY=VALUE",
        help="ONNX Runtime session configuration entry.",
    )


def provider_option() -> Callable[[Function], Function]:
    """Return `--provider-option`."""
    return option(
        "--provider-option",
        "provider_options",
        group=RUNTIME,
        advanced=True,
        multiple=True,
        metavar="KEY=VALUE",
        help="What the provider is told: device_id=1, gpu_mem_limit=BYTES, prefer_nhwc=1, device_type=NPU … (docs/gpu.md).",
    )


def tf32() -> Callable[[Function], Function]:
    """Return `--tf32`."""
    return option(
        "--tf32",
        group=RUNTIME,
        advanced=True,
        is_flag=True,
        help="Allow a GPU to compute float32 in TF32, 10 bits behind the point: faster, and another float. Off by default.",
    )


def batch_size() -> Callable[[Function], Function]:
    """Return `--batch-size`."""
    return option(
        "--batch-size", group=RUNTIME, advanced=True, type=click.IntRange(1), default=8, show_default=True,
        help="Images at a time.",
    )  # fmt: skip


def threads(says: str) -> Callable[[Function], Function]:
    """Return `--threads`.

    Args:
        says: Whose they are, and what is taken without it.
    """
    return option("--threads", group=RUNTIME, advanced=True, type=click.IntRange(1), help=says)


def device() -> Callable[[Function], Function]:
    """Return `--device`."""
    return option(
        "--device", group=RUNTIME, advanced=True, type=click.Choice(words(Device)), default=Device.AUTO.value,
        show_default=True, help="For PyTorch.",
    )  # fmt: skip


def key_value(text: str, name: str) -> tuple[str, str]:
    """Split KEY=VALUE.

    Args:
        text: What was given.
        name: The option that it was given to, for the message.

    Raises:
        QcamError: If it is not of that form.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise QcamError(f"{name} {text!r} is not of the form KEY=VALUE")
    return key, value


def key_values(given: Sequence[str], name: str) -> dict[str, str]:
    """Split several KEY=VALUE.

    Args:
        given: What was given.
        name: The option that they were given to, for the message.

    Raises:
        QcamError: If one is not of that form, or a key is given twice.
    """
    found: dict[str, str] = {}
    for key, value in (key_value(text, name) for text in given):
        if key in found:
            raise QcamError(f"{name} {key} is given twice: {found[key]!r} and {value!r}; give it once")
        found[key] = value
    return found


def _names(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in what was given, aliases told and replaced."""
    found = []
    for name in (part.strip() for text in given for part in text.split(",")):
        if not PRECISION_NAME.fullmatch(name):
            raise click.BadParameter(
                f"{name!r} is no name of a precision: it has 1 to 40 letters, digits, '.', '_' and '-'.", ctx, param
            )
        known = _ALIASES.get(name, name)
        if known != name:
            console.note(f"{name} is called {known} here")
        found.append(known)
    return tuple(dict.fromkeys(found))


def _own_names(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return what `_names` does, if qcam can make all of them."""
    for name in (part.strip() for text in given for part in text.split(",")):
        if _ALIASES.get(name, name) not in PRECISIONS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(PRECISIONS)}.", ctx, param)
    return _names(ctx, param, given)
