"""The `worldline` command."""

from __future__ import annotations

import errno
import sys
from importlib import metadata
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from worldline.cli.audit import audit
from worldline.cli.catalog import alias, promote, publish, roll_back, shadow, worlds
from worldline.cli.check import check
from worldline.cli.conform import conform
from worldline.cli.demo import demo
from worldline.cli.export import export
from worldline.cli.goals import goals
from worldline.cli.import_logs import import_logs
from worldline.cli.learn import learn
from worldline.cli.mcp import mcp
from worldline.cli.options import with_help
from worldline.cli.record import record
from worldline.cli.schema import schema
from worldline.cli.serve import serve
from worldline.cli.show import show
from worldline.cli.token import token
from worldline.cli.version import version
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

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; the exit status after an error is 1."""
        try:
            return super().invoke(ctx)
        except WorldlineError as error:
            print(f"worldline: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # not a system error, or a closed pipe, which click handles
                raise
            print(f"worldline: {_system_error(error)}", file=sys.stderr)
            raise typer.Exit(1) from error


def _system_error(error: OSError) -> str:
    """Path, reason and remedy; commands add notes on saved work."""
    where = "" if error.filename is None else f"{error.filename}: "
    remedy = _REMEDIES.get(error.errno or 0, "Check the path and the disk, and run the command again.")
    return " ".join((f"{where}{error.strerror}. {remedy}", *getattr(error, "__notes__", ())))


START, DATA, LEARN, EVALUATE, RUN, EXTEND = "Start", "Data", "Learn", "Evaluate", "Run", "Extend"
COMMANDS: Final = (
    ("demo", demo, START),
    ("version", version, START),
    ("record", record, DATA),
    ("import", import_logs, DATA),
    ("schema", schema, DATA),
    ("check", check, DATA),
    ("show", show, DATA),
    ("export", export, DATA),
    ("learn", learn, LEARN),
    ("goals", goals, LEARN),
    ("audit", audit, EVALUATE),
    ("serve", serve, RUN),
    ("mcp", mcp, RUN),
    ("publish", publish, RUN),
    ("worlds", worlds, RUN),
    ("alias", alias, RUN),
    ("shadow", shadow, RUN),
    ("promote", promote, RUN),
    ("rollback", roll_back, RUN),
    ("conform", conform, EXTEND),
)
"""Name, function and help group of each command of this package."""
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


for name, command, group in COMMANDS:
    app.command(name, rich_help_panel=group)(with_help(command))
app.add_typer(token, name="token", rich_help_panel=RUN)
for name in names("command"):
    app.command(name, rich_help_panel=EVALUATE if name in EVALUATING else EXTEND)(with_help(load("command", name)))
