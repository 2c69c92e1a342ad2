"""What callers may ask of jobs: requests, and logs by name below one folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from worldline.catalog.aliases import check_name
from worldline.errors import ConfigError, UnknownNameError, UnsupportedError
from worldline.registry import names
from worldline.serve.callers import Caller, ForbiddenError, Scope
from worldline.serve.hosting import NAME
from worldline.workflows.learn_options import AUTO, seconds
from worldline.world.wire import MessageError

MAX_BYTES: Final = 2**14
"""Largest request for a job."""

_Seed = Annotated[int, Meta(ge=0, lt=2**31)]
_Name = Annotated[str, Meta(max_length=100)]


class LearnJob(Struct, tag_field="kind", tag="learn", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Learns a world and publishes it as the next version of a name in the catalog; see `worldline.learn`.

    Args:
        logs: name of the logs.
        name: of the world in the catalog.
        recipe: registered name of a recipe; "auto" to choose by comparison.
        budget: time for the training, such as "10min"; None for that of the recipe.
        seed: of initial weights and batches.
        alias: alias that is pointed to the new version, which needs the scope admin; None for no alias.
    """

    logs: _Name
    name: _Name
    recipe: _Name = AUTO
    budget: _Name | None = None
    seed: _Seed = 0
    alias: _Name | None = None


class AuditJob(Struct, tag_field="kind", tag="audit", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Audits a world on logs; see `worldline.audit`.

    Args:
        world: name of a served world, or NAME@ALIAS or NAME@NUMBER in the catalog.
        logs: name of the logs.
        goals: signals of the goals that are planned to; None for all inputs of a world with a distance head.
        seed: of all draws.
    """

    world: Annotated[str, Meta(max_length=201)]
    logs: _Name
    goals: Annotated[list[_Name], Meta(max_length=100)] | None = None
    seed: _Seed = 0


class ExamJob(Struct, tag_field="kind", tag="exam", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Trains a recipe on the logs of labs and grades it; see the command `worldline exam`.

    Args:
        recipe: registered name of a recipe or baseline.
        tests: codes of tests; None for all.
        pixels: whether worlds observe images instead of vectors.
        seed: of logs and scenes.
        num_seeds: number of trainings.
    """

    recipe: _Name
    tests: (
        Annotated[list[Annotated[str, Meta(pattern="^[A-Z][0-9]{1,2}$")]], Meta(min_length=1, max_length=32)] | None
    ) = None
    pixels: bool = False
    seed: _Seed = 0
    num_seeds: Annotated[int, Meta(ge=1, le=10)] = 1


JobRequest = LearnJob | AuditJob | ExamJob


def decode_request(body: bytes) -> JobRequest:
    """The request in a JSON body.

    Raises:
        MessageError: it is not valid.
    """
    try:
        return msgspec.json.decode(body, type=JobRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        place = re.search(r" - at `\$(.*)`$", str(error))
        pointer = re.sub(r"[.\[]", "/", place[1].replace("]", "")) if place else ""
        raise MessageError(f"the job is not valid: {str(error)[:300]}. /docs lists the fields.", pointer) from error


def check_request(request: JobRequest, caller: Caller) -> None:
    """Checks what needs neither logs nor worlds.

    Raises:
        InputError: a name or the budget is not allowed.
        UnknownNameError: there is no such recipe.
        ForbiddenError: an alias is given without the scope admin.
        UnsupportedError: the exam is not installed.
    """
    if isinstance(request, ExamJob):
        if "exam" not in names("command"):
            raise UnsupportedError("the exam is not installed on the server. Ask the operator for worldline-exam.")
        check_name("recipe", request.recipe)
    if not isinstance(request, LearnJob):
        return
    check_name("world", request.name)
    if request.recipe not in (known := [AUTO, *names("recipe")]):  # never module:name, which is code
        raise UnknownNameError("recipe", request.recipe, known)
    if request.alias is not None:
        check_name("alias", request.alias)
        if Scope.ADMIN not in caller.scopes:
            raise ForbiddenError("an alias needs a token with the scope 'admin'. Leave it out.")
    try:
        seconds(request.budget or 1.0)
    except ConfigError as error:
        raise MessageError(str(error), "/budget") from error


def log_names(root: Path | None) -> list[str]:
    """The names of the logs in a folder, sorted; none without a folder."""
    if root is None or not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if NAME.fullmatch(path.name) and _is_within(root, path))


def log_path(root: Path | None, name: str) -> Path:
    """The path of the logs with this name.

    Raises:
        UnknownNameError: there are none.
        UnsupportedError: they hold a link that leads out of the folder.
    """
    if root is None or name not in log_names(root):
        raise UnknownNameError("logs", name, log_names(root))
    if any(path.is_symlink() and not _is_within(root, path) for path in (root / name).rglob("*")):
        raise UnsupportedError(f"the logs {name!r} hold a link to another folder. Replace it with a copy.")
    return root.resolve() / name


def _is_within(root: Path, path: Path) -> bool:
    return root.resolve() in path.resolve().parents
