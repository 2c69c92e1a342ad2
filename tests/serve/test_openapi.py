"""The documentation. `python -m tests.serve.test_openapi` writes the snapshot anew."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import httpx
import jsonschema
import numpy as np
import pytest
from tests.data.stores import stored

from worldline.catalog.opening import open_target
from worldline.catalog.versions import HOME, Catalog
from worldline.engines.baselines import Linear, Persistence
from worldline.planning.calls import CALLS
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.callers import Scope
from worldline.serve.database import Database
from worldline.serve.environments import Environments
from worldline.serve.examples import examples_of
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.http import create_app
from worldline.serve.jobs import JobSettings
from worldline.serve.logs import ServedLogs
from worldline.serve.server import serving
from worldline.serve.service import Service
from worldline.serve.tokens import Tokens
from worldline.testing.toys import Integrator
from worldline.world import wire
from worldline.world.base import ANSWERS
from worldline.world.bundle_io import save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

SNAPSHOT = Path(__file__).with_name("openapi.jsonl")
"""A line for each operation and schema."""
VERBS = ("predict", "score", "plan", "what_if", "surprise")
JSON = "application/json"


@cache
def toy_world(*, camera: bool = False, wind: bool = False) -> LocalWorld:
    toy = Integrator(noise=0.1, camera=camera, wind=wind)
    engine = (Persistence if camera else Linear).fit(toy.episodes(9, 20, seed=0), toy.schema)
    calibration = calibrate(engine, toy.episodes(30, 12, seed=1), horizon=8, num_windows=1, seed=0, with_causes=False)
    return LocalWorld(engine, calibration, CrossEntropy(num_candidates=16, num_iterations=2))


@contextmanager
def toy_service(folder: Path, *, has_tokens: bool = False) -> Iterator[tuple[str, str]]:
    """Serves toy@prod of a catalog in an empty folder; with tokens also jobs. Yields the URL and a token for all."""
    path = folder / "service.sqlite"
    with mock.patch.dict(os.environ, {HOME: str(folder)}), Database(f"sqlite:///{path}") as database:
        save_world(folder / "bundle", toy_world(), report="<p>Report</p>")
        Catalog().publish(folder / "bundle", "toy", alias="prod")
        hosts = Hosts(open_target)
        for name in ("toy", "twin"):
            hosts.open("toy@prod", name)
        seen = Integrator(camera=True, wind=False)
        stored(folder / "logs" / "seen", seen.schema, seen.episodes(2, 12, seed=0))
        tokens = Tokens(database) if has_tokens else None
        token = "" if tokens is None else tokens.create("all", Scope)
        if tokens is not None:
            tokens.create("other", [Scope.INFER])
        jobs = JobSettings(folder=folder / "jobs", command=(sys.executable, "-c", "")) if has_tokens else None
        environments = Environments(["two-rooms"]) if has_tokens else None
        options = {"job_settings": jobs, "environments": environments}
        service = Service(hosts, tokens=tokens, logs=ServedLogs(folder / "logs"))
        with serving(service, database, **options) as url:
            yield url, token


def read(url: str, path: str, **headers: str) -> httpx.Response:
    return httpx.get(url + path, headers=headers, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with toy_service(tmp_path_factory.mktemp("service")) as (found, _):
        yield found


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with toy_service(tmp_path_factory.mktemp("secured"), has_tokens=True) as found:
        yield found


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    return dict(read(url, "/openapi.json").json())


def operations(document: Mapping[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {
        one["operationId"]: (path, method, one)
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    }


def validate(document: Mapping[str, Any], content: Mapping[str, Any], value: object) -> None:
    jsonschema.Draft202012Validator({**content["schema"], "components": document["components"]}).validate(value)


def without_texts(value: Any) -> Any:
    if isinstance(value, list):
        return [without_texts(one) for one in value]
    if not isinstance(value, dict):
        return value
    texts = {name for name in ("summary", "description") if isinstance(value.get(name), str)}
    return {name: without_texts(one) for name, one in value.items() if name not in texts}


def snapshot_of(document: Mapping[str, Any]) -> str:
    """The document without texts."""
    found = without_texts(document)
    schemas = found["components"].pop("schemas")
    parts = {**operations(found), **schemas, "": {**found, "paths": None}}
    return "".join(f"{json.dumps({name: one}, sort_keys=True)}\n" for name, one in sorted(parts.items()))


def test_the_document_is_that_of_the_snapshot(secured: tuple[str, str]) -> None:
    url, token = secured
    document = read(url, "/openapi.json", authorization=f"Bearer {token}").json()
    assert snapshot_of(document) == SNAPSHOT.read_text(), "run python -m tests.serve.test_openapi and read the changes"


def test_every_route_is_documented(document: dict[str, Any], tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path / 'service.sqlite'}") as database:
        app = create_app(Service(Hosts(open_target)), database)
    lists = [getattr(route, "original_router", None) for route in app.routes]  # FastAPI from 0.128 on
    routes = [one for router in lists if router is not None for one in router.routes] + app.routes
    found = {(one.path_format, method.lower()) for one in routes if hasattr(one, "methods") for method in one.methods}
    studio = {("/", "get"), ("/studio/{file}", "get")}
    undocumented = {*studio, ("/v1/worlds/{name}:{verb}", "post")}  # the last one answers all verbs
    assert undocumented <= found
    documented = {(path, method) for path, method, _ in operations(document).values()}
    assert documented == found - undocumented
    assert {("/v1/worlds/{name}:" + verb, "post") for verb in VERBS} <= documented
    for reference in re.findall(r'"#/components/([^"]+)"', json.dumps(document)):
        kind, _, name = reference.partition("/")
        assert name in document["components"][kind]


def commands_of(page: str) -> dict[str, str]:
    """The command of each operation of a page."""
    parts = re.findall(r'<article id="(\w+)">(.*?)</article>', page, re.DOTALL)
    shown = {name: re.search(r"<pre[^>]*>(curl .*?)</pre>", part, re.DOTALL) for name, part in parts}
    return {name: html.unescape(one[1]) for name, one in shown.items() if one is not None}


def run_in_shell(command: str, folder: Path, **variables: str) -> str:
    environment, shell = {"PATH": os.environ["PATH"], **variables}, ["bash", "-c", command]
    return subprocess.run(shell, capture_output=True, env=environment, cwd=folder, timeout=60).stdout.decode(
        errors="replace"
    )


def test_every_command_works_when_pasted(url: str, document: dict[str, Any], tmp_path: Path) -> None:
    assert which("curl") is not None, "curl is missing. Run scripts/ci-deps."
    commands = commands_of(read(url, "/docs").text)
    assert commands.keys() == operations(document).keys()
    variables = {"NAME": "toy-2", "ALIAS": "prod", "LOG": "seen", "NUMBER": "1", "SIGNAL": "camera", "PAGE": "report"}
    variables["WORLDS"] = "toy,twin"
    for name, (_, _, stated) in operations(document).items():
        content = stated.get("requestBody", {}).get("content", {}).get(JSON, {})
        if content:
            validate(document, content, content["example"])
        command = f"curl() {{ command curl -s -w '\\n%{{http_code}}' \"$@\"; }}\n{commands[name]}"
        body, _, status = run_in_shell(command, tmp_path, **variables).rpartition("\n")
        assert status in stated["responses"], f"{name}: {status} {body}"
        content = stated["responses"][status].get("content", {}).get(JSON)
        if content is not None:
            validate(document, content, answer := json.loads(body))
            variables |= {"SESSION": answer["id"]} if name == "create_session" else {}


def test_the_page_loads_nothing_and_runs_nothing(url: str) -> None:
    response = read(url, "/docs")
    page, policy = response.text, response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "script-src 'none'" in policy
    assert not re.search(r"<(script|link|img|iframe|form)|\sstyle=|\son\w+=|url\(|@import", page)
    assert set(re.findall(r"https?://[^/\s\"&<]*", page)) == {url}
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert len(anchors) > 100
    assert set(anchors) <= set(re.findall(r'\bid="([^"]+)"', page))


@pytest.mark.parametrize(("camera", "verbs"), [(False, VERBS), (True, ("predict", "score", "what_if", "surprise"))])
def test_examples_hold_all_inputs(camera: bool, verbs: tuple[str, ...]) -> None:
    world = toy_world(camera=camera, wind=True)
    found = examples_of(HostedWorld("toy", None, world))
    assert found.keys() & set(VERBS) == set(verbs)  # worlds that ignore actions do not plan
    asked = found["predict"]
    for name, (low, high) in world.calibration.logged_range.items() if world.calibration else ():
        values = (asked["history"]["observations"] | asked["actions"] | asked["exogenous"])[name]
        assert np.allclose(values, (low + high) / 2, atol=0.01 * float((high - low).max()))  # typical, not 0
    assert len(asked["exogenous"]["wind"]) == len(asked["actions"]["push"]) == 3
    if camera:
        assert asked["history"]["observations"]["camera"]["shape"] == [2, 8, 8, 1]
    for verb in verbs:
        call = wire.decode_json(CALLS[verb], json.dumps(found[verb]).encode())
        assert isinstance(world.answer(call), ANSWERS[type(call)])


def test_a_service_with_tokens_shows_its_worlds_to_readers_only(secured: tuple[str, str]) -> None:
    url, token = secured
    assert read(url, "/openapi.json").status_code == 401
    assert read(url, "/docs", authorization="Bearer wl_0").status_code == 401
    public, shown = read(url, "/docs"), read(url, "/docs", authorization=f"Bearer {token}")
    assert (public.status_code, shown.status_code) == (200, 200)
    assert "push" not in public.text
    assert "toy" not in public.text
    assert "push" in shown.text
    assert token not in shown.text
    assert all(
        '-H "Authorization: Bearer $TOKEN"' in one for name, one in commands_of(shown.text).items() if name in VERBS
    )
    found = read(url, "/openapi.json", authorization=f"Bearer {token}").json()
    assert operations(found)["predict"][2]["security"] == [{"bearer": ["infer"]}]
    hostile = read(url, "/docs", host='"><script>alert(1)</script>')
    assert "<script" not in hostile.text


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)


@pytest.mark.parametrize(
    ("phases", "num_examples"),
    [
        ("examples,fuzzing", 1),
        pytest.param("coverage", 1, marks=pytest.mark.slow),
        pytest.param("fuzzing,stateful", 30, marks=pytest.mark.slow),
    ],
)
def test_generated_requests_get_documented_answers(
    phases: str, num_examples: int, secured: tuple[str, str], tmp_path: Path
) -> None:
    url, token = secured
    # A short deadline makes 504 the right answer, which counts as a failure of the server.
    (tmp_path / "schemathesis.toml").write_text('parameters = { "Deadline-Ms" = "60000" }')
    checks = [*CHECKS, *([] if phases == "coverage" else ["negative_data_rejection"])]  # it refuses unknown headers
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color", "--phases", phases]
    command += ["--max-examples", str(num_examples), "--checks", ",".join(checks), "--request-timeout", "60"]
    command += ["--header", f"Authorization: Bearer {token}", "--seed", "1", "--warnings", "off"]
    command += ["--generation-database", "none"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert found.returncode == 0, found.stdout
    assert "passed" in found.stdout


if __name__ == "__main__":
    with TemporaryDirectory() as home, toy_service(Path(home), has_tokens=True) as (address, key):
        SNAPSHOT.write_text(snapshot_of(read(address, "/openapi.json", authorization=f"Bearer {key}").json()))
