"""The `worldline` command."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from worldline.cli.audit import audit
from worldline.cli.catalog import alias, promote, publish, roll_back, shadow, worlds
from worldline.cli.check import check
from worldline.cli.conform import conform
from worldline.cli.demo import demo
from worldline_exam.cli import compare, exam, regrade
from worldline.cli.export import export
from worldline.cli.import_logs import import_logs
from worldline.cli.learn import learn
from worldline.cli.record import record
from worldline.cli.serve import serve
from worldline.cli.show import show
from worldline.cli.version import version
from worldline.errors import WorldlineError


class _Commands(TyperGroup):
    """Says what went wrong in one line instead of a traceback, where worldline raised it on purpose."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; exit status 1 after an error of worldline's own."""
        try:
            return super().invoke(ctx)
        except WorldlineError as error:
            print(f"worldline: {error}", file=sys.stderr)
            raise typer.Exit(1) from error


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
