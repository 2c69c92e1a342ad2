"""The error classes. Each message gives the problem, the value, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

__all__ = [
    "BundleError",
    "CollapseError",
    "ConfigError",
    "DataError",
    "EngineError",
    "InputError",
    "MissingExtraError",
    "NoGoodAnswerError",
    "StoppedError",
    "UnavailableError",
    "UnknownNameError",
    "UnreadableError",
    "UnsupportedError",
    "WorldlineError",
]


class WorldlineError(Exception):
    """Base of every error that worldline raises on purpose."""


class InputError(WorldlineError, ValueError):
    """An argument has the wrong value, shape, dtype or unit, whichever world is asked."""


class ConfigError(WorldlineError, ValueError):
    """A configuration, schema or manifest cannot be read or contradicts itself."""


class DataError(WorldlineError, ValueError):
    """Logged data cannot be used; the message names the place.

    Args:
        problem: what is wrong, with the offending value.
        fix: what the user can do about it.
        file: the file with the problem.
        episode: the episode's number in the source, from 0.
        signal: the signal's name.
        step: the step within the episode, from 0.
    """

    def __init__(
        self,
        problem: str,
        *,
        fix: str,
        file: Path | str | None = None,
        episode: int | None = None,
        signal: str | None = None,
        step: int | None = None,
    ) -> None:
        self.problem, self.fix = problem, fix
        self.file, self.episode, self.signal, self.step = file, episode, signal, step
        places = {
            "": file,
            "episode ": episode,
            "signal ": None if signal is None else repr(signal),
            "step ": step,
        }
        where = ", ".join(f"{word}{value}" for word, value in places.items() if value is not None)
        super().__init__(f"{where}: {problem}. {fix}" if where else f"{problem}. {fix}")

    def __reduce__(self) -> tuple[Callable[..., DataError], tuple[()]]:
        """For worker processes, which send their errors home."""
        return partial(DataError, **vars(self)), ()


class UnknownNameError(WorldlineError, LookupError):
    """A name is not registered; the message suggests the nearest ones.

    Args:
        kind: kind of the name, such as "planner".
        name: the unknown name.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
        listed = ", ".join(self.known) or "none"
        super().__init__(
            f"no {kind} is called {name!r}. {hint} Known: {listed}.".replace(". . ", ". ").replace("  ", " ")
        )

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        """For worker processes, which send their errors home."""
        return UnknownNameError, (self.kind, self.name, self.known)


def install_command(extra: str = "") -> str:
    """The command that installs an extra, or worldline-exam; from the clone that worldline was installed from, if any.

    Args:
        extra: of worldline; "" for the package worldline-exam, which is a folder of the clone.
    """
    import json  # here, because most programs never need these modules
    import shlex
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    try:
        source = json.loads(metadata.distribution("worldline").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:  # the code is on the path only
        source = {}
    if "dir_info" not in source:
        return f"pip install 'worldline[{extra}]'" if extra else "pip install worldline-exam"
    folder = unquote(urlsplit(source["url"]).path)
    option = "-e " if source["dir_info"].get("editable") else ""
    return f"pip install {option}{shlex.quote(f'{folder}[{extra}]' if extra else str(Path(folder) / 'exam'))}"


class MissingExtraError(WorldlineError, ImportError):
    """An optional package is needed; the message gives the command that installs it.

    Args:
        package: the import name that was not found.
        extra: the extra of worldline that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package!r} is not installed. Run: {install_command(extra)}")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """For worker processes, which send their errors home."""
        return MissingExtraError, (self.package, self.extra)


class UnsupportedError(WorldlineError, NotImplementedError):
    """This world or engine does not support the requested operation; another one might."""


class UnreadableError(UnsupportedError):
    """A world does not predict the requested signals, and they cannot be read from its predictions."""


class CollapseError(WorldlineError, ArithmeticError):
    """Training was stopped because the latents collapsed; the message is the diagnosis."""


class StoppedError(WorldlineError, RuntimeError):
    """A call ended early because its `stop` returned True; the message says what was saved and how to resume."""


class BundleError(WorldlineError, ValueError):
    """A bundle is damaged, from another version, or violates a security limit."""


class UnavailableError(WorldlineError, ConnectionError):
    """A remote service cannot be reached or returned an error; the message names the service and its response."""


class NoGoodAnswerError(UnavailableError):
    """A remote world or a language model returned an invalid answer, a language model also on the second request."""


class EngineError(NoGoodAnswerError):
    """An engine returned a value that is not finite; the message names the signal and the step.

    Args:
        message: the whole text.
        step: the first such step, from 1; None if unknown.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step
