"""The `worldline` command."""

from __future__ import annotations

import errno
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from worldline.cli.audit import audit
from worldline.cli.catalogue import alias, promote, publish, roll_back, shadow, worlds
from worldline.cli.check import check
from worldline.cli.conform import conform
from worldline.cli.demo import demo
from worldline.cli.exam import compare, exam, regrade
from worldline.cli.export import export
from worldline.cli.import_logs import import_logs
from worldline.cli.learn import learn
from worldline.cli.record import record
from worldline.cli.serve import serve
from worldline.cli.show import show
from worldline.cli.version import version
from worldline.errors import WorldlineError

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space there and run the command again."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Ask for access, or choose another place."),
}


class _Commands(TyperGroup):
    """Prints one line instead of a traceback for errors of worldline and of the operating system."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; exit status 1 after such an error."""
        try:
            return super().invoke(ctx)
        except WorldlineError as error:
            print(f"worldline: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # not of the system; a pipe that was closed, which click handles
                raise
            print(f"worldline: {_system_error(error)}", file=sys.stderr)
            raise typer.Exit(1) from error


def _system_error(error: OSError) -> str:
    """Path, reason and what to do; the commands add notes on what was kept."""
    where = "" if error.filename is None else f"{error.filename}: "
    remedy = _REMEDIES.get(error.errno or 0, "Check the path and the disk, and run the command again.")
    return " ".join((f"{where}{error.strerror}. {remedy}", *getattr(error, "__notes__", ())))


app = typer.Typer(
    cls=_Commands,
    help="Learn how a world works from its logs; then predict, score, plan and ask what if.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(record)
app.command("import")(import_logs)
for command in (
    check,
    show,
    export,
    learn,
    audit,
    exam,
    regrade,
    compare,
    publish,
    worlds,
    alias,
    shadow,
    promote,
    serve,
    conform,
    version,
):
    app.command()(command)
app.command("rollback")(roll_back)
