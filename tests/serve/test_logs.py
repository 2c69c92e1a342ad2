from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.data.stores import random_episode, stored
from tests.serve.scripted import FewTokens, linear_world
from tests.serve.test_http import Client
from tests.serve.test_openapi import toy_world

from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.callers import Scope
from worldline.serve.hosting import HostedWorld
from worldline.serve.limits import Limits
from worldline.serve.logs import ServedLogs
from worldline.testing.toys import Integrator
from worldline.world import wire
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world

SEEN = Integrator(camera=True, wind=True, noise=0.1)
LEVER = Signal(name="lever, left", role=Role.EXOGENOUS, kind=Kind.DISCRETE, shape=(), num_values=3)
WIDE = Schema(
    signals=(
        Signal(name="arm", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
        Signal(name="pull", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,)),
        LEVER,
    ),
    step_s=0.5,
)
LONG = random_episode(WIDE, 1000, observed={"arm": np.arange(1001) % 7 != 3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores `seen` and `wide`, a file that is no store, and what names must not reach."""
    folder = tmp_path_factory.mktemp("data")
    episodes = [replace(one, observed={"camera": np.arange(21) != 4}) for one in SEEN.episodes(3, 20, seed=0)]
    stored(folder / "logs" / "seen", SEEN.schema, episodes, [{"file": f"{n}.csv", "piece": n} for n in range(3)])
    timed = replace(random_episode(WIDE, 3), step_s=np.array([1, 2, 3], np.float32), terminated=True, truncated=False)
    stored(folder / "logs" / "wide", WIDE, [LONG, timed])
    (folder / "logs" / "plant.csv").write_text("a,b\n1,2\n")
    stored(folder / "private", WIDE, [random_episode(WIDE, 3)])
    return folder


def client_of(folder: Path, world: World | None = None, limits: Limits | None = None, **options: Any) -> Client:
    return Client(world or toy_world(wind=True), limits, logs=ServedLogs(folder / "logs"), **options)


@pytest.fixture(scope="module")
def client(folder: Path) -> Client:
    return client_of(folder)


def read(client: Client, path: str) -> Any:
    response = client.ask("GET", f"/v1/logs{path}")
    assert response.status_code == 200, response.text
    return response.json()


def test_logs_and_episodes_are_listed(client: Client) -> None:
    assert read(client, "") == {"logs": ["plant.csv", "seen", "wide"]}
    found = read(client, "/wide")
    assert (found["num_episodes"], found["num_steps"], found["schema"]["step_s"]) == (2, 1003, 0.5)
    assert [signal["name"] for signal in found["schema"]["signals"]] == ["arm", "pull", "lever, left"]
    assert read(client, "/wide/episodes?offset=1")["episodes"] == [
        {"number": 1, "num_steps": 3, "ending": "terminated", "source": ""}
    ]
    page = read(client, "/seen/episodes?offset=1&limit=1")
    assert page == {"total": 3, "episodes": [page["episodes"][0]]}
    assert page["episodes"][0] == {"number": 1, "num_steps": 20, "ending": "truncated", "source": "1.csv, piece 1"}


def test_short_parts_are_rows_of_steps(client: Client) -> None:
    found = read(client, "/wide/episodes/0?first=994&signals=arm,pull&signals=lever, left")
    assert found["steps"] == list(range(994, 1001))
    arm, pull = np.array(found["observations"]["arm"], float), np.array(found["actions"]["pull"], float)
    np.testing.assert_array_equal(np.isnan(arm[:, 0]), np.arange(994, 1001) % 7 == 3)
    kept = ~np.isnan(arm[:, 0])
    np.testing.assert_array_equal(arm[kept], LONG.observations["arm"][994:][kept])
    np.testing.assert_array_equal(pull[:-1], LONG.actions["pull"][994:])
    assert found["actions"]["pull"][-1] == [None]  # no action follows the last observation
    assert found["exogenous"]["lever, left"] == [*LONG.exogenous["lever, left"][994:].tolist(), None]
    assert (found["step_s"], found["times"], found["reward"]) == (0.5, None, {})
    timed = read(client, "/wide/episodes/1?first=1")
    assert (timed["step_s"], timed["times"]) == (None, [1, 3, 6])
    assert read(client, "/seen/episodes/0")["observations"].keys() == {"position"}  # no images


@pytest.mark.parametrize(("first", "last", "points"), [(0, 1000, 40), (3, 903, 101), (990, 1000, 2)])
def test_long_parts_are_minima_and_maxima(client: Client, first: int, last: int, points: int) -> None:
    found = read(client, f"/wide/episodes/0?first={first}&last={last}&points={points}")
    steps, rows = found["steps"], np.array(found["observations"]["arm"])
    assert len(steps) == len(rows) == points // 2 * 2
    assert (steps[0], steps[-1]) == (first, last)
    assert (np.diff(steps) > 0).all()
    known = np.where(LONG.observed["arm"][:, None], LONG.observations["arm"], np.nan)
    pull = np.append(LONG.actions["pull"], np.nan)
    for k in range(0, len(steps), 2):
        part = slice(steps[k], steps[k + 1] + 1)
        np.testing.assert_array_equal(rows[k : k + 2], [np.nanmin(known[part], 0), np.nanmax(known[part], 0)])
        assert found["actions"]["pull"][k : k + 2] == [[np.nanmin(pull[part])], [np.nanmax(pull[part])]]


def picture(response: httpx.Response) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_frames_stand_side_by_side_and_missing_ones_are_grey(client: Client) -> None:
    path = "/v1/logs/seen/episodes/0/frames/camera"
    strip = client.ask("GET", f"{path}?steps=0,4,20&height=4")
    assert strip.headers["content-type"] == "image/jpeg"
    assert picture(strip).shape == (4, 12, 3)  # of 8 by 8 pixels
    assert (picture(client.ask("GET", f"{path}?steps=4")) == 128).all()
    assert picture(client.ask("GET", f"{path}?steps=0,1")).shape == (8, 16, 3)  # never enlarged
    single = client.ask("GET", f"{path}?steps=20&height=0")
    assert single.headers["content-type"] == "image/png"
    (episode, *_) = SEEN.episodes(3, 20, seed=0)
    np.testing.assert_array_equal(picture(single)[..., :1], episode.observations["camera"][20])


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/other", 404, "Known: plant.csv, seen, wide"),
        ("/..%2Fprivate", 404, ""),
        ("/plant.csv/episodes", 422, "worldline import plant.csv STORE"),
        ("/wide/episodes/2", 404, "Known: 0 to 1"),
        ("/wide/episodes/x", 400, "number is 'x'"),
        ("/wide/episodes/0?first=4&last=1001", 400, "0 <= first <= last <= 1000"),
        ("/wide/episodes/0?points=5001", 400, "points is '5001'"),
        ("/wide/episodes/0?signals=arm,leg", 400, "Known: arm, lever, left, pull"),
        ("/wide/episodes?limit=10001", 400, "limit is '10001'"),
        ("/seen/episodes/0/frames/position", 404, "Known: camera"),
        ("/seen/episodes/0/frames/camera?steps=0,21", 400, "from 0 to 20"),
        (f"/seen/episodes/0/frames/camera?steps={','.join('0' * 65)}", 400, "1 to 64 numbers"),
        ("/seen/episodes/0/frames/camera?steps=0,1&height=0", 400, "1 to 1 numbers"),
    ],
)
def test_what_does_not_exist_or_is_too_large_is_refused(client: Client, path: str, status: int, text: str) -> None:
    response = client.ask("GET", f"/v1/logs{path}")
    assert response.status_code == status
    assert text in response.json()["detail"]
    assert "private" not in response.text or "%2F" in path


def test_a_store_that_was_changed_is_opened_again(tmp_path: Path) -> None:
    store = stored(tmp_path / "logs" / "wide", WIDE, [random_episode(WIDE, 3)])
    logs = ServedLogs(named={"mine": store.path})
    assert logs.store("mine") is logs.store("mine")
    store.append(random_episode(WIDE, 5))
    assert len(logs.store("mine")) == 2
    (store.path / "schema.json").write_text("{")
    client = client_of(tmp_path)
    assert "cannot be read. Run: worldline check wide" in client.ask("GET", "/v1/logs/wide").json()["detail"]


def called(client: Client, verb: str, query: str = "", log: str = "seen", **body: Any) -> httpx.Response:
    path = f"/v1/logs/{log}/episodes/0:{verb}?world=toy{query}"
    return client.ask("POST", path, content=wire.encode_json_answer(body), headers={"content-type": "application/json"})


EPISODE = SEEN.episodes(3, 20, seed=0)[0].select(["position", "push", "wind"])
PUSH, WIND = EPISODE.actions["push"], EPISODE.exogenous["wind"]
GOAL = {"targets": {"position": [0.0, 0.0]}}


def answered(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def as_sent(answer: object) -> Any:
    return json.loads(wire.encode_json_answer(answer))


def test_the_episode_fills_in_what_a_prediction_leaves_out(client: Client) -> None:
    world, ahead = toy_world(wind=True), slice(10, 14)
    history = EPISODE.history(10)
    logged = world.predict(history, {"push": PUSH[ahead]}, exogenous={"wind": WIND[ahead]})
    assert answered(called(client, "predict", "&at=10&steps=4")) == as_sent(logged)
    assert answered(called(client, "predict", "&at=10&steps=9", actions={"push": PUSH[ahead]})) == as_sent(logged)
    held = np.concatenate([WIND[18:], WIND[19:], WIND[19:]])  # the last value after the end
    after = world.predict(EPISODE.history(18), {"push": PUSH[:4]}, exogenous={"wind": held})
    assert answered(called(client, "predict", "&at=18", actions={"push": PUSH[:4]})) == as_sent(after)
    default = answered(called(client, "predict"))  # the last steps that have bands
    assert len(default["signals"]["position"]["mean"]) == world.describe().band_horizon == 8


def test_every_verb_takes_the_episode(client: Client) -> None:
    world, ahead = toy_world(wind=True), slice(10, 14)
    changed = {"push": np.zeros((4, 2))}
    twins = world.what_if(EPISODE, 10, changed)
    assert answered(called(client, "what_if", "&at=10", actions=changed)) == as_sent(twins)
    assert answered(called(client, "what_if", "&at=10&steps=4"))["signals"].keys() == {"position"}
    assert answered(called(client, "surprise")) == as_sent(world.surprise(EPISODE))
    part = world.surprise(EPISODE.window(10, 15))
    assert answered(called(client, "surprise", "&at=10&steps=4")) == as_sent(part)
    score = answered(called(client, "score", "&at=10&steps=4", goal=GOAL))
    both = np.stack([PUSH[ahead], PUSH[:4]])
    assert answered(called(client, "score", "&at=10", goal=GOAL, actions={"push": both}))["cost"][0] == score["cost"][0]
    plan = answered(called(client, "plan", "&at=20&steps=3", goal=GOAL, pending={"push": PUSH[:1]}))
    assert len(plan["actions"]["push"]) == 3


class Asked(World):
    """Keeps its calls, which it does not answer."""

    def __init__(self, **card: Any) -> None:
        self.card, self.calls = replace(toy_world(wind=True).describe(), **card), list[Any]()

    def describe(self) -> Any:
        return self.card

    def answer(self, call: Any) -> Any:
        self.calls.append(call)
        return {}


def test_histories_and_episodes_are_bounded(folder: Path) -> None:
    card = {"schema": WIDE, "inputs": ("arm",), "predicts": ("arm",), "context": 200}
    world = Asked(**card)
    client = client_of(folder, world, Limits(horizon=300))
    assert called(client, "predict", "&at=500&steps=2", log="wide").status_code == 200
    assert called(client, "what_if", "&at=500&steps=2", log="wide").status_code == 200
    assert called(client, "surprise", "&at=990&steps=100", log="wide").status_code == 200
    predicted, forked, surprised = world.calls
    np.testing.assert_array_equal(predicted.history.observations["arm"], LONG.observations["arm"][300:501])
    np.testing.assert_array_equal(predicted.history.observed["arm"], LONG.observed["arm"][300:501])
    assert (forked.at, forked.episode.num_steps) == (150, 299)
    np.testing.assert_array_equal(forked.episode.observations["arm"], LONG.observations["arm"][350:650])
    assert surprised.episode.num_steps == 10
    too_long = called(client, "surprise", log="wide")
    assert (too_long.status_code, "1001 observations are too many" in too_long.text) == (400, True)


@pytest.mark.parametrize(
    ("verb", "query", "body", "status", "text"),
    [
        ("predict", "&at=21", {}, 400, "from 0 to 20"),
        ("predict", "&at=20", {}, 400, "no actions are logged after observation 20"),
        ("predict", "&steps=0", {}, 400, "steps is '0'"),
        ("predict", "&at=3", {"history": {}}, 400, "unknown field `history`"),
        ("predict", "&at=3", {"actions": {"pull": [[0.0]]}}, 400, "'pull'"),
        ("predict", "&at=3", {"actions": {"push": 1.0}}, 400, "'push'"),
        ("plan", "&at=3", {}, 400, "missing required field `goal`"),
        ("fly", "", {}, 404, "path"),
    ],
)
def test_invalid_calls(client: Client, verb: str, query: str, body: dict[str, Any], status: int, text: str) -> None:
    response = called(client, verb, query, **body)
    assert (response.status_code, text in response.json()["detail"]) == (status, True), response.text


def test_a_log_of_other_signals_is_named(client: Client) -> None:
    response = called(client, "predict", log="wide")
    assert response.status_code == 422
    assert "signal 'position' of the world is not in the log 'wide'" in response.json()["detail"]


def test_reading_needs_the_scope_job_and_calls_need_infer_too(folder: Path) -> None:
    scopes = {"reader": {Scope.READ, Scope.INFER}, "job": {Scope.JOB}, "both": {Scope.JOB, Scope.INFER}}
    client = client_of(folder, tokens=FewTokens(scopes))
    paths = ("", "/seen", "/seen/episodes", "/seen/episodes/0", "/seen/episodes/0/frames/camera")

    def statuses(name: str) -> set[int]:
        headers = {"authorization": f"Bearer {name}"}
        return {client.ask("GET", f"/v1/logs{path}", headers=headers).status_code for path in paths}

    assert (statuses("nobody"), statuses("reader"), statuses("job")) == ({401}, {403}, {200})
    for name, status in (("nobody", 401), ("reader", 403), ("job", 403), ("both", 200)):
        headers = {"authorization": f"Bearer {name}", "content-type": "application/json"}
        path = "/v1/logs/seen/episodes/0:predict?world=toy"
        assert client.ask("POST", path, content=b"{}", headers=headers).status_code == status


def test_pages_of_a_world_are_sandboxed_and_links_are_not_followed(tmp_path: Path) -> None:
    world = linear_world()
    bundle = save_world(tmp_path / "world", world, report="<p>learned</p>").folder
    (tmp_path / "secret").write_text("secret")
    (bundle / "exam.html").symlink_to(tmp_path / "secret")
    (bundle / "audit.html").write_text("<p>audited</p>")
    client = Client(toy=world, other=world)
    client.service.hosts.add(HostedWorld("filed", None, world, bundle))

    def get(path: str) -> httpx.Response:
        return client.ask("GET", f"/v1/worlds/{path}")

    assert [page["name"] for page in get("filed/pages").json()["pages"]] == ["report", "audit"]
    assert get("toy/pages").json() == {"pages": []}
    shown = get("filed/pages/audit")
    assert shown.text == "<p>audited</p>"
    assert "sandbox allow-scripts" in shown.headers["content-security-policy"]
    assert "allow-same-origin" not in shown.headers["content-security-policy"]
    for name in ("exam", "schema", "..%2Freport"):
        assert get(f"filed/pages/{name}").status_code == 404
    assert open_world(bundle).describe() == world.describe()  # the added pages are no part of the world
    save_world(bundle, world)
    assert get("filed/pages").json() == {"pages": []}


def test_the_studio_is_served_from_a_table(client: Client) -> None:
    page = client.ask("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    script = client.ask("GET", "/studio/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers.get_list("cache-control") == ["no-cache"]
    again = client.ask("GET", "/studio/main.js", headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for name in ("", "pages.py", "../pages.py", "..%2Fpages.py", "static/main.js", "%2Fetc%2Fpasswd"):
        assert client.ask("GET", f"/studio/{name}").status_code == 404
