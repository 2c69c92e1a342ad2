"""The `worldline` command."""

from __future__ import annotations

import errno
import sys
from importlib import import_module, metadata
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from worldline.cli.options import with_help
from worldline.errors import WorldlineError, install_command
from worldline.registry import load, names

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space and run the command again."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Get write access, or choose another path."),
}


class _Commands(TyperGroup):
    """Prints errors of worldline and of the operating system in one line, without a traceback."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name; commands of the exam may not be installed."""
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in EVALUATING:
            raise WorldlineError(f"{cmd_name!r} needs the package worldline-exam. Run: {install_command()}")
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, and keeps them for commands that print a variant of themselves."""
        ctx.meta["typed"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; the exit status after an error is 1."""
        try:
            return super().invoke(ctx)
        except WorldlineError as error:  # some are an OSError, too
            raise _ended(str(error)) from error
        except OSError as error:
            if error.errno in (None, errno.EPIPE):
                raise  # not a system error, or a closed pipe, which click handles
            raise _ended(_system_error(error)) from error


def _ended(text: str) -> typer.Exit:
    """Prints an error, and returns what ends the command."""
    print(f"worldline: {text}", file=sys.stderr)
    return typer.Exit(1)


def _system_error(error: OSError) -> str:
    """Path, reason and remedy; commands add notes on saved work."""
    where = "" if error.filename is None else f"{error.filename}: "
    remedy = _REMEDIES.get(error.errno or 0, "Check the path and the disk, and run the command again.")
    return " ".join((f"{where}{error.strerror}. {remedy}", *getattr(error, "__notes__", ())))


COMMANDS: Final = {
    "Start": ("demo", "doctor", "version"),
    "Data": ("record", "import", "schema", "check", "show", "export"),
    "Learn": ("learn", "adopt"),
    "Evaluate": ("audit", "compare-worlds", "judge"),
    "Run": ("studio", "run", "serve", "mcp", "login", "token"),
    "Versions": ("publish", "worlds", "alias", "shadow", "promote", "rollback"),
    "Extend": ("conform",),
}
"""The commands of this package by help group, in the order of the help."""
_PLACES: Final = {
    **{name: f"stores:{name}" for name in ("record", "schema", "show", "export")},
    **{name: f"catalog:{name}" for name in ("publish", "worlds", "alias", "shadow", "promote", "rollback")},
    "compare-worlds": "compare_worlds:compare_worlds",
    **{"import": "import_logs:import_logs", "version": "demo:version", "mcp": "serve:mcp", "studio": "serve:studio"},
}
"""Module and function of the commands that are not in a module of their name."""
EVALUATING: Final = ("exam", "regrade", "compare")
"""Commands of the exam package; they have another help group than commands of other packages."""

app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"worldline {metadata.version('worldline')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Learn world models from logs. Then predict, score and plan, and evaluate counterfactuals."""
    del version  # its callback ends the command


def _add(name: str, command: Any, group: str) -> None:
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name, rich_help_panel=group)
    else:
        app.command(name, rich_help_panel=group)(with_help(command))


for group, members in COMMANDS.items():
    for name in members:
        module, function = _PLACES.get(name, f"{name}:{name}").split(":")
        _add(name, getattr(import_module(f"worldline.cli.{module}"), function), group)
for name in names("command"):
    _add(name, load("command", name), "Evaluate" if name in EVALUATING else "Extend")
