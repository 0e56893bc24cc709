"""`qcam`: all commands under one name."""

from __future__ import annotations

import importlib

import click

from qcam.commands import console

#: Command → its module; `qcam export` is `qcam-export`.
_COMMANDS = {
    "export": "qcam.commands.export",
    "import": "qcam.commands.importing",
    **{name: f"qcam.commands.{name}" for name in ("eval", "check", "report", "fetch")},
}


class _Lazy(console.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used (as in click)."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is no such one (as in click)."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name]).main
        return command


@click.group("qcam", cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Does a quantized vision model, as deployed, still look at the same place?"""


if __name__ == "__main__":
    main()
