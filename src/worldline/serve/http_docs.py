"""The documentation of a service: /openapi.json and /docs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi import utils
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup, escape
from starlette.routing import BaseRoute

from worldline.audit.world_comparison import WorldComparison
from worldline.planning.calls import CALLS, PlanCall, PredictCall
from worldline.report.page import page_policy
from worldline.serve import problems
from worldline.serve.callers import Scope
from worldline.serve.environments import RunView
from worldline.serve.episode_calls import FIXED, OPTIONAL
from worldline.serve.examples import examples_of
from worldline.serve.hosting import HostedWorld
from worldline.serve.http_admin import NewAlias, NewWorld
from worldline.serve.http_environments import EnvironmentList, NewRun, RunStep
from worldline.serve.http_jobs import JobList
from worldline.serve.http_sessions import NewSession, NewStep
from worldline.serve.job_requests import JobRequest
from worldline.serve.jobs import JobView
from worldline.serve.log_views import EpisodeCurves, EpisodeList, LogList, LogView
from worldline.serve.openapi import REF, needs
from worldline.serve.requests import JSON, json_response
from worldline.serve.service import Service
from worldline.serve.usage import UsageReport
from worldline.serve.world_views import WorldList, WorldPages, WorldSummary, WorldView
from worldline.world.base import ANSWERS
from worldline.world.session import FILLED_IN, SessionView
from worldline.world.wire_schemas import json_schemas

_BODIES: Final[Mapping[str, tuple[Any, Any]]] = {
    **{kind.__name__: (kind, ()) for kind in CALLS.values()},
    **{kind.__name__: (kind, ()) for kind in (NewWorld, NewAlias, NewSession, NewStep, NewRun, RunStep)},
    "SessionPredictCall": (PredictCall, FILLED_IN),
    "SessionPlanCall": (PlanCall, FILLED_IN),
    **{f"Episode{kind.__name__}": (kind, FIXED) for kind in CALLS.values()},
}
"""Per name the type of a body, and its fields that the service fills in."""
_ANSWERS: Final = (
    *ANSWERS.values(), SessionView, RunView, WorldList, WorldSummary, WorldView, WorldPages, UsageReport,
    LogList, LogView, EpisodeList, EpisodeCurves,
)  # fmt: skip
_POLICY: Final = f"{page_policy('')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_JOBS: Final[Sequence[Any]] = (JobRequest, JobView, JobList, WorldComparison, EnvironmentList)
"""Types of msgspec, which are sent in JSON only. The first is a union."""


def docs_router(service: Service, app: FastAPI) -> APIRouter:
    """The routes of the documentation.

    Args:
        service: its first world is that of the examples.
        app: has the documented routes.
    """
    router = APIRouter(tags=["documentation"])

    async def document(*, has_examples: bool = True) -> dict[str, Any]:
        """The document, with examples of the first world if the caller may see its signals."""
        hosted = next(iter([*service.hosts.values()]), None) if has_examples else None
        return await asyncio.to_thread(create_openapi, app.routes, hosted, needs_token=service.needs_token)

    @router.get("/openapi.json", dependencies=[needs(Scope.READ)])
    async def get_openapi() -> Response:
        """This interface as OpenAPI 3.1."""
        return json_response(await document())

    @router.get("/docs", response_class=HTMLResponse)
    async def get_docs(request: Request) -> Response:
        """This page. Without a token, it shows no examples from served worlds."""
        authorization = request.headers.get("authorization")
        if has_examples := authorization is not None or not service.needs_token:
            await service.authorize(authorization, Scope.READ)
        shown = await document(has_examples=has_examples)
        page = render(shown, needs_token=service.needs_token, server=_address(request))
        return HTMLResponse(page, headers={"content-security-policy": _POLICY})

    return router


def create_openapi(routes: Sequence[BaseRoute], hosted: HostedWorld | None, *, needs_token: bool) -> dict[str, Any]:
    """The document.

    Args:
        routes: in the order of the document.
        hosted: the world of the examples; None for no examples.
        needs_token: whether callers need a token.
    """
    template = json.loads(_text("worldline.serve", "templates/openapi.json"))
    components, examples = template["components"], {} if hosted is None else examples_of(hosted)
    document: dict[str, Any] = utils.get_openapi(routes=routes, **template["about"]) | {"components": components}
    for method, stated in ((method, stated) for path in document["paths"].values() for method, stated in path.items()):
        if "security" in stated and not needs_token:
            stated["security"].append({})
        if stated["operationId"] in examples:
            stated["requestBody"]["content"][JSON]["example"] = examples[stated["operationId"]]
        for parameter in stated.get("parameters", ()):
            # What is deleted must be chosen by the caller.
            if hosted is not None and parameter.get("name") in ("name", "world") and method != "delete":
                parameter["example"] = hosted.name
    codes = sorted(code for texts in problems.STATUSES.values() for code in texts)
    components["schemas"]["Problem"]["properties"]["code"]["enum"] = codes
    components["schemas"] |= _schemas()
    return document


@cache
def _schemas() -> dict[str, Any]:
    """The schemas of all bodies and answers, and those that they use, by name."""
    _, components = json_schemas(_BODIES, {kind.__name__: kind for kind in _ANSWERS})
    for kind in CALLS.values():
        schema = components[f"Episode{kind.__name__}"]
        schema["required"] = [name for name in schema["required"] if name not in OPTIONAL]
    (job_request, *_), of_jobs = msgspec.json.schema_components(_JOBS, ref_template=REF)
    # Docstrings name the null of JSON as in Python.
    text = re.sub(rb"\bNone\b", b"null", msgspec.json.encode({**components, **of_jobs, "JobRequest": job_request}))
    return dict(sorted(msgspec.json.decode(text).items()))


def render(document: Mapping[str, Any], *, needs_token: bool, server: str) -> str:
    """The page for an OpenAPI document, without scripts and without parts from other hosts.

    Args:
        document: from `create_openapi`.
        needs_token: whether callers need a token.
        server: address of the service.
    """
    return _page().render(document=document, needs_token=needs_token, server=server)


@cache
def _page() -> Template:
    environment = Environment(
        loader=PackageLoader("worldline.serve"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"prose": _prose, "pretty": _pretty}
    style = Markup(_text("worldline.plots", "colours.css") + _text("worldline.serve", "templates/docs.css"))
    return environment.get_template("docs.html", globals={"style": style, "problems": problems.STATUSES})


def _pretty(value: object) -> str:
    """JSON with each list of numbers on one line."""
    text = json.dumps(value, indent=2)
    return re.sub(r"\[\n([^\[\]{}\"]*)\n\s*\]", lambda match: f"[{' '.join(match[1].split())}]", text)


def _prose(text: str) -> Markup:
    """The paragraphs of a docstring, with code between backticks."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup("").join(Markup(f"<p>{part}</p>") for part in marked.split("\n\n") if part)


def _address(request: Request) -> str:
    """The address that the caller used, if it cannot mean anything else in HTML or in a shell."""
    address = f"{request.url.scheme}://{request.headers.get('host', '')}"
    return address if re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]{1,255}", address) else "http://localhost:8000"


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text("utf-8")
