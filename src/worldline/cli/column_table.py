"""The table of columns of `worldline import`, and the questions about uncertain roles."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from worldline.cli.output import print_wrapped
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.data.roles import ColumnGuess
    from worldline.data.schema_edits import SchemaEdits

ROLES: Final = ("observation", "action", "exogenous", "reward", "ignore")


def is_terminal() -> bool:
    """Whether a person can answer questions: standard input and output are terminals."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def print_columns(columns: Sequence[ColumnGuess]) -> None:
    """Prints each column with its role and the range of its values; below it, how it changes and the reason."""
    if not columns:
        return
    cells = [(column.name, _guessed(column), _range(column)) for column in columns]
    wide = [max(map(len, texts)) for texts in zip(*cells, strict=True)]
    print("Columns")
    for column, texts in zip(columns, cells, strict=True):
        print("  ".join(text.ljust(width) for text, width in zip(texts, wide, strict=True)).rstrip())
        changes, reason = str(column.behaviour or ""), column.guess.reason
        print_wrapped(reason if not changes or changes in reason else f"{changes}; {reason}", "    ")
    print()


def print_correction(columns: Sequence[ColumnGuess]) -> None:
    """Prints the options that correct a guess, with the likeliest action as example."""
    from worldline.data.roles import likely_actions

    likely = likely_actions(columns)
    # A column that is an action already is no example of --action, unless all of them are.
    examples = [column for column in likely if column.guess.role != "action"] or likely
    if not examples:
        return
    name, role = examples[0].name, "--exogenous" if examples[0].guess.role == "action" else "--action"
    print_wrapped(
        f"To correct a role, add for example: {role} {shlex.quote(name)} (or --observation, --reward, --ignore)"
    )


def _proposal(columns: Sequence[ColumnGuess]) -> list[str]:
    """The options with the guessed roles of columns."""
    names: dict[str, list[str]] = {}
    for column in columns:
        names.setdefault(_role(column), []).append(column.name)
    return [part for role, group in names.items() for part in (f"--{role}", ",".join(group))]


def confirmed_roles(columns: Sequence[ColumnGuess], words: Sequence[str], *commands: Sequence[str]) -> SchemaEdits:
    """The roles of uncertain columns that the user gives on a terminal, with an action if there is none.

    Args:
        columns: of the logs.
        words: the running command; where nobody can answer, the option to type is --yes.
        commands: or what to type instead; the first of them takes the guessed roles as options.

    Raises:
        InputError: roles are uncertain, and this is no terminal.
    """
    from worldline.data.roles import uncertain

    uncertain_columns = uncertain(columns)
    if is_terminal():
        return _asked_roles(columns, uncertain_columns) if columns else {}
    # In files with arrays of T+1 and T rows, the lengths tell inputs from observations.
    doubtful = [column for column in uncertain_columns if column.behaviour is not None]
    if not doubtful or all(column.guess.role != "action" for column in columns):
        return {}  # the import refuses logs without an action, and names columns that may be one
    listed = ", ".join(f"{column.name} ({_guessed(column)})" for column in doubtful)
    typed = [[*commands[0], *_proposal(uncertain_columns)], *commands[1:]]
    lines = [f"  {shlex.join(['worldline', *command])}" for command in typed]
    raise InputError(
        f"{_uncertain_text(len(doubtful))}, and nothing was written: {listed}.\n"
        "Type this to confirm them, or correct them in it:\n"
        + "\n".join(lines)
        + f"\nTo accept all guesses: {shlex.join(['worldline', *words, '--yes'])}"
    )


def _asked_roles(columns: Sequence[ColumnGuess], doubtful: Sequence[ColumnGuess]) -> SchemaEdits:
    """The roles that the user gives, in one question: of the uncertain columns, and of an action if there is none."""
    from rich.prompt import Prompt

    roles = {column.name: _role(column) for column in columns if column.signal is not None}
    guesses = {column.name: _role(column) for column in doubtful}
    if guesses:
        listed = ", ".join(f"{name} ({role}?)" for name, role in guesses.items())
        print_wrapped(f"{_uncertain_text(len(guesses))}: {listed}.")
    if "action" not in roles.values():
        print_wrapped("No column is an action. Name those that an operator or a controller chooses: NAME=action.")
    elif not guesses:
        return {}
    question = "Enter accepts the roles; else type corrections such as NAME=action, NAME=ignore"
    while True:
        pairs = [text.rpartition("=") for text in split_names(Prompt.ask(question, default="", show_default=False))]
        answers = {name.strip(): role.strip() for name, _, role in pairs}
        wrong = [f"{name}={role}" for name, role in answers.items() if name not in roles or role not in ROLES]
        if not wrong:
            return {name: {"role": role} for name, role in (guesses | answers).items()}
        print_wrapped(f"{wrong[0]!r} is no correction. Columns: {', '.join(roles)}. Roles: {', '.join(ROLES)}.")


def _uncertain_text(count: int) -> str:
    """A clause with the number of uncertain roles."""
    return "1 role is uncertain" if count == 1 else f"{count} roles are uncertain"


def split_names(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _guessed(column: ColumnGuess) -> str:
    """The role, with a question mark if a user should confirm it; empty for times and episodes."""
    return "" if column.signal is None else _role(column) + ("" if column.guess.sure else "?")


def _role(column: ColumnGuess) -> str:
    return "ignore" if column.guess.role is None else str(column.guess.role)


def _range(column: ColumnGuess) -> str:
    """The logged range, with the unit if it is known; of several components, that of all. Empty until data are read."""
    signal = column.signal
    if not column.low or not column.high:
        return "" if signal is None or not signal.components else f"{signal.num_values} texts"
    if math.isnan(column.low[0]):
        return ""
    unit = f" {signal.unit}" if signal is not None and signal.unit not in ("1", "?") else ""
    return f"{min(column.low):.4g} to {max(column.high):.4g}{unit}"
