"""What callers may ask of jobs: requests and their checks."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from worldline.catalog.versions import Catalog
from worldline.errors import ConfigError, UnknownNameError
from worldline.registry import names
from worldline.serve.logs import ServedLogs
from worldline.workflows.learn_options import AUTO, seconds
from worldline.world.wire import MessageError, convert

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
    """

    logs: _Name
    name: _Name
    recipe: _Name = AUTO
    budget: _Name | None = None
    seed: _Seed = 0


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


JobRequest = LearnJob | AuditJob


def decode_request(body: bytes) -> JobRequest:
    """The request in a JSON body.

    Raises:
        MessageError: it is not valid.
    """
    try:
        request: JobRequest = convert(msgspec.json.decode(body), JobRequest, ("job",))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"the job is not JSON: {str(error)[:300]}. /docs lists the fields.") from error
    return request


def check_request(request: JobRequest, logs: ServedLogs) -> None:
    """Checks everything but the world of an audit.

    Args:
        request: from a caller.
        logs: of the service.

    Raises:
        InputError: a name or the budget is not allowed.
        UnknownNameError: there are no such logs, or there is no such recipe.
    """
    logs.path(request.logs)
    if not isinstance(request, LearnJob):
        return
    Catalog().check_name(request.name)
    if request.recipe not in (known := [AUTO, *names("recipe")]):  # never module:name, which is code
        raise UnknownNameError("recipe", request.recipe, known)
    try:
        seconds(request.budget or 1.0)
    except ConfigError as error:
        raise MessageError(str(error), "/budget") from error
