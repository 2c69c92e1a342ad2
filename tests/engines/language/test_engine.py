from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.language.chat_server import ChatServer, Fault, Values, latest

from worldline.engines.base import CallCost, Parts
from worldline.engines.language.chat import Chat
from worldline.engines.language.endpoint import HOSTS_VARIABLE, Endpoint
from worldline.engines.language.engine import LanguageEngine
from worldline.engines.language.prompt import PROMPT, PROMPT_HASH
from worldline.episode import Future, History
from worldline.errors import BundleError, ConfigError, DataError, InputError, UnavailableError
from worldline.planning.base import Goal
from worldline.planning.planners.small_searches import Shooting
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_engine, check_world
from worldline.testing.toys import Integrator
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

NOISE = 0.2
TOY = Integrator(noise=NOISE)
START = np.array([[[1.0, -2.0]]], np.float32)


def pushed(history: Values, actions: Values, exogenous: Values) -> Values:
    return {"position": TOY.step(latest(history["position"]), actions["push"], exogenous["wind"])}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(pushed, noise=NOISE) as server:
        yield server


def engine_of(
    server: ChatServer, *, temperature: float = 0.0, chat: Mapping[str, Any] | None = None, **settings: Any
) -> LanguageEngine:
    endpoint = Endpoint(base_url=server.base_url, model="toy", temperature=temperature)
    given = {"schema": TOY.schema, "context": 2, **settings}
    return LanguageEngine(chat=Chat(endpoint, **(chat or {})), **given)


def start(position: np.ndarray = START) -> History:
    """One observation, no input yet."""
    worlds = len(position)
    return History(
        observations={"position": position},
        actions={"push": np.zeros((worlds, 0, 2), np.float32)},
        exogenous={"wind": np.zeros((worlds, 0, 2), np.float32)},
    )


def future(push: np.ndarray) -> Future:
    """The pushes [W, N, T, 2], without wind."""
    worlds, _, horizon, _ = push.shape
    return Future(actions={"push": push}, exogenous={"wind": np.zeros((worlds, horizon, 2), np.float32)})


def pushes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 2)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_is_an_engine(temperature: float, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(server, temperature=temperature)
    monkeypatch.setenv(HOSTS_VARIABLE, engine.chat.endpoint.origin)
    check_engine(engine, TOY.episodes(4, 12, seed=2), horizon=3, num_samples=2)


@pytest.mark.parametrize(
    ("temperature", "num", "held"),
    [(0.0, 20, 6), pytest.param(1.0, 20, 12, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_a_calibrated_world_keeps_the_contract(server: ChatServer, temperature: float, num: int, held: int) -> None:
    engine = engine_of(server, temperature=temperature)
    calibration = calibrate(engine, TOY.episodes(num, 5, seed=4), horizon=2, num_windows=1, seed=0)
    world = LocalWorld(engine, calibration, Shooting(num_candidates=8))
    goal = Goal(targets={"position": np.array([1.0, -0.5], np.float32)})
    check_world(world, TOY.episodes(held, 6, seed=5), goal, horizon=2, num_calibration=calibration.num_episodes)


def test_it_tells_what_the_model_knows(server: ChatServer) -> None:
    engine, push = engine_of(server, context=4), pushes(1, 1, 6)
    episode = TOY.episodes(1, 10, seed=0)[0]
    history = History.stack([episode.history(3, 4)])
    found = engine.imagine(engine.observe(None, history, seed=0), future(push), num_samples=5, seed=0).signals
    assert set(found) == {"position"}
    due, position = [], episode.observations["position"][3]
    for step in push[0, 0]:
        position = TOY.step(position, step, np.zeros(2))
        due.append(position)
    assert found["position"].shape == (1, 1, 1, 6, 2)
    assert found["position"][0, 0, 0] == pytest.approx(np.stack(due), abs=1e-4)


def test_the_model_is_told_the_past_the_next_input_and_nothing_later(server: ChatServer) -> None:
    engine = engine_of(server, context=3, about="A cart on ice.", digits=3)
    history = History(
        observations={"position": np.array([[[0.12345, 1], [np.nan, 9], [3, 4]]], np.float32)},
        actions={"push": np.array([[[0.5, 0.25], [1, -1]]], np.float32)},
        exogenous={"wind": np.zeros((1, 2, 2), np.float32)},
        observed={"position": np.array([[True, False, True]])},
    )
    push = np.array([[[[0.1, 0.2], [0.3, 0.4]]]], np.float32)
    found = engine.imagine(engine.observe(None, history, seed=0), future(push), num_samples=1, seed=0).signals
    first, second = server.questions
    assert server.seen[0].body["messages"][0] == {"role": "system", "content": PROMPT}
    still = [0.0, 0.0]
    assert first["history"] == [
        {"observations": {"position": [0.123, 1.0]}, "inputs": {"push": [0.5, 0.25], "wind": still}},
        {"observations": {"position": None}, "inputs": {"push": [1.0, -1.0], "wind": still}},
        {"observations": {"position": [3.0, 4.0]}},
    ]
    assert first["apply"] == {"push": [0.1, 0.2], "wind": still}
    assert "0.3" not in json.dumps([first["history"], first["apply"]])
    assert (first["about"], first["step_s"], first["predict"]) == ("A cart on ice.", 0.1, ["position"])
    assert first["answer"] == "expectation"
    assert [(signal["name"], signal["role"]) for signal in first["signals"]] == [
        ("position", "observation"),
        ("push", "action"),
        ("wind", "exogenous"),
    ]
    # What was imagined is the present of the next question, and the oldest step is forgotten.
    imagined = [float(f"{number:.3g}") for number in found["position"][0, 0, 0, 0]]
    assert second["history"] == [
        first["history"][1],
        {**first["history"][2], "inputs": first["apply"]},
        {"observations": {"position": imagined}},
    ]
    assert second["apply"] == {"push": [0.3, 0.4], "wind": still}


def test_going_on_from_a_belief_is_the_longer_history(server: ChatServer) -> None:
    engine, episode = engine_of(server, context=3), TOY.episodes(1, 6, seed=1)[0]
    whole = {
        group: {name: value[None] for name, value in getattr(episode, group).items()}
        for group in ("observations", "actions", "exogenous")
    }
    at_once = engine.observe(None, History(**whole), seed=0)
    belief = engine.observe(None, start(whole["observations"]["position"][:, :1]), seed=0)
    for first, last in ((0, 1), (1, 4), (4, 6)):
        belief = engine.observe(
            belief,
            History(
                observations={n: v[:, first + 1 : last + 1] for n, v in whole["observations"].items()},
                actions={n: v[:, first:last] for n, v in whole["actions"].items()},
                exogenous={n: v[:, first:last] for n, v in whole["exogenous"].items()},
            ),
            seed=0,
        )
    assert (belief.worlds, len(belief.worlds[0])) == (at_once.worlds, 3)


def test_versions_that_begin_alike_share_their_requests(server: ChatServer) -> None:
    engine = engine_of(server, temperature=1.0)
    push = np.repeat(pushes(1, 1, 4), 3, axis=1)
    push[0, 1, 2:], push[0, 2, 3:] = 0.5, -0.5
    found = engine.imagine(engine.observe(None, start(), seed=0), future(push), num_samples=5, seed=0).signals
    assert len(server.seen) == 5 * (1 + 1 + 2 + 3)
    assert (found["position"][:, 0, :, :2] == found["position"][:, 1, :, :2]).all()
    assert (found["position"][:, 0, :, :3] == found["position"][:, 2, :, :3]).all()
    assert (found["position"][:, 0, :, 3] != found["position"][:, 1, :, 3]).all()


def test_samples_have_the_spread_of_the_world_and_draws_of_their_own_at_each_step(server: ChatServer) -> None:
    engine = engine_of(server, temperature=1.0, context=1)
    found = engine.imagine(
        engine.observe(None, start(), seed=0), future(pushes(1, 2, 2)), num_samples=150, seed=0
    ).signals["position"]
    assert {question["answer"] for question in server.questions} == {"draw"}
    noise = found[0, :, :, 1] - 0.9 * found[0, :, :, 0]
    noise -= noise.mean(1, keepdims=True)
    assert found[0, 0, :, 0].std(0) == pytest.approx([NOISE] * 2, rel=0.3)
    assert noise[0].std(0) == pytest.approx([NOISE] * 2, rel=0.3)
    assert noise[0] == pytest.approx(noise[1], abs=1e-4), "the same draws for both versions"
    first = found[0, 0, :, 0] - found[0, 0, :, 0].mean(0)
    assert abs(np.corrcoef(first[:, 0], noise[0, :, 0])[0, 1]) < 0.3


def test_a_transcript_gives_bitwise_the_same_without_a_server(tmp_path: Path) -> None:
    path, asked = tmp_path / "t.jsonl", future(pushes(2, 3, 3))
    position = np.concatenate([START, START + 1])
    with ChatServer(pushed, noise=NOISE) as server:
        engine = engine_of(server, temperature=0.7, chat={"transcript": path})
        due = engine.imagine(engine.observe(None, start(position), seed=0), asked, num_samples=3, seed=5).signals
    again = replace(engine, chat=Chat(engine.chat.endpoint, transcript=path, replay_only=True))
    belief = again.observe(None, start(position), seed=0)
    found = again.imagine(belief, asked, num_samples=3, seed=5).signals
    assert (found["position"] == due["position"]).all()
    with pytest.raises(UnavailableError, match="not in the transcript"):
        again.imagine(belief, asked, num_samples=3, seed=6)


def test_discrete_signals_are_labels_and_images_are_left_out() -> None:
    schema = Schema(
        signals=(
            Signal(
                name="light", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2,
                components=("off", "on"),
            ),
            Signal(name="view", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(4, 4, 1)),
            Signal(name="press", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2),
        )
    )  # fmt: skip

    def switched(history: Values, actions: Values, exogenous: Values) -> Values:
        return {"light": (latest(history["light"]) + actions["press"]) % 2}

    with ChatServer(switched) as server:
        engine = engine_of(server, schema=schema)
        history = History(observations={"light": np.array([[1]])}, actions={"press": np.zeros((1, 0), np.int64)})
        presses = np.array([[[1, 0, 1, 1], [0, 0, 0, 1]]])
        found = engine.imagine(
            engine.observe(None, history, seed=0), Future(actions={"press": presses}), num_samples=1, seed=0
        ).signals
        assert engine.describe().predicts == ("light",)
        assert found["light"].dtype == np.int64
        assert found["light"][0, :, 0].tolist() == [[0, 0, 1, 0], [1, 1, 1, 0]]
        assert server.questions[0]["signals"][0]["labels"] == ["off", "on"]


def test_a_bound_that_is_broken_is_told_and_asked_for_again() -> None:
    low, high = (0.0, 0.0), (1.0, 1.0)
    schema = Schema(
        signals=tuple(replace(s, low=low, high=high) if s.name == "position" else s for s in TOY.schema.signals)
    )

    def halved(history: Values, actions: Values, exogenous: Values) -> Values:
        return {"position": latest(history["position"]) / 2}

    with ChatServer(halved) as server:
        engine = engine_of(server, schema=schema)
        server.next(Fault.OUTSIDE)
        belief = engine.observe(None, start(np.array([[[0.5, 1.0]]], np.float32)), seed=0)
        found = engine.imagine(belief, future(pushes(1, 1, 1)), num_samples=1, seed=0).signals
        assert found["position"].ravel().tolist() == [0.25, 0.5]
        assert "bounds are (0.0, 0.0) to (1.0, 1.0)" in server.seen[1].body["messages"][-1]["content"]
        server.always(Fault.OUTSIDE)
        with pytest.raises(UnavailableError, match=r"'position' is .* bounds"):
            engine.imagine(belief, future(pushes(1, 1, 1, seed=9)), num_samples=1, seed=0)


def test_the_card_says_what_stands_behind_it(server: ChatServer) -> None:
    engine = engine_of(server, temperature=0.5, name="adviser", inputs=("position",), context=5)
    card = engine.describe()
    assert (card.name, card.engine, card.inputs, card.predicts) == ("adviser", "language", ("position",), ("position",))
    assert (card.context, card.deterministic, card.abilities, card.call) == (5, False, (), None)
    assert card.notes == {"model": "toy", "endpoint": engine.chat.endpoint.origin, "prompt": PROMPT_HASH}
    assert engine.measured() is None
    engine.imagine(engine.observe(None, start(), seed=0), future(pushes(1, 1, 2)), num_samples=2, seed=0)
    measured = engine.measured()
    assert measured is not None
    priced = replace(engine, call=measured)
    assert (priced.describe(), priced.describe().call) == (priced.describe(), measured)
    assert engine_of(server).describe().deterministic


@pytest.mark.parametrize(("settings", "word"), [
    ({"inputs": ("camera",)}, "'camera'. Name vector"),
    ({"inputs": ("push",)}, "'push'. Name vector"),
    ({"schema": Schema(signals=TOY.schema.signals[1:])}, "no vector and no discrete observation"),
    ({"context": 0}, "context is 0"),
    ({"digits": 1}, "digits is 1"),
    ({"about": "x" * 30_000}, "30000"),
])  # fmt: skip
def test_what_a_text_model_cannot_take_is_refused(settings: dict[str, Any], word: str, server: ChatServer) -> None:
    with pytest.raises(ConfigError, match=word):
        engine_of(server, **settings)


def test_inputs_that_do_not_fit_are_refused(server: ChatServer) -> None:
    engine = engine_of(server)
    belief = engine.observe(None, start(), seed=0)
    with pytest.raises(InputError, match="of 1 worlds, and the other arguments are of 2"):
        engine.imagine(belief, future(pushes(2, 1, 2)), num_samples=1, seed=0)
    with pytest.raises(InputError, match="belief is a str"):
        engine.imagine("belief", future(pushes(1, 1, 2)), num_samples=1, seed=0)
    with pytest.raises(InputError, match=r"'position' is .*nan"):
        engine.observe(None, start(np.full((1, 1, 2), np.nan, np.float32)), seed=0)
    longer = replace(
        start(np.zeros((2, 1, 2), np.float32)),
        actions={"push": np.zeros((2, 1, 2), np.float32)},
        exogenous={"wind": np.zeros((2, 1, 2), np.float32)},
    )
    with pytest.raises(InputError, match="of 1 worlds, and the other arguments are of 2"):
        engine.observe(belief, longer, seed=0)
    assert server.seen == []


def test_it_is_stored_without_a_secret_and_asks_nobody_unlisted(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-0123456789")
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
    endpoint = Endpoint(base_url=server.base_url, model="toy", api_key_env="MY_KEY", temperature=0.0)
    engine = LanguageEngine(
        schema=TOY.schema, chat=Chat(endpoint, transcript=tmp_path / "t.jsonl", max_requests=50), context=2,
        about="Ice.", call=CallCost(latency_s=0.5, price=0.01, currency="USD"),
    )  # fmt: skip
    parts = engine.to_parts()
    text = json.dumps(dict(parts.config))
    assert not parts.arrays
    assert "sk-0123456789" not in text
    assert str(tmp_path) not in text
    again = LanguageEngine.from_parts(TOY.schema, Parts(config=json.loads(text)))
    assert (again.describe(), again.to_parts()) == (engine.describe(), parts)
    assert (again.about, again.digits, again.chat.endpoint) == ("Ice.", 6, endpoint)
    belief, asked = again.observe(None, start(), seed=0), future(pushes(1, 1, 2))
    with pytest.raises(BundleError, match=HOSTS_VARIABLE):
        again.imagine(belief, asked, num_samples=1, seed=0)
    assert server.seen == []
    due = engine.imagine(belief, asked, num_samples=1, seed=0).signals["position"]
    monkeypatch.setenv(HOSTS_VARIABLE, f"{endpoint.origin}=MY_KEY")
    assert (again.imagine(belief, asked, num_samples=1, seed=0).signals["position"] == due).all()


@pytest.mark.parametrize(("place", "value", "word"), [
    (("endpoint", "base_url"), "file:///etc/passwd", "base_url"),
    (("endpoint", "num_retries"), 10**6, "num_retries"),
    (("endpoint", "headers"), {}, "headers"),
    (("context",), 10**9, "context"),
    (("inputs",), ["camera"], "camera"),
    (("about",), "x" * 10**5, "about"),
    (("prompt",), "another", "prompt hash"),
    (("transcript",), "/tmp/t", "transcript"),
    (("call",), {"latency_s": "fast"}, "latency_s"),
])  # fmt: skip
def test_parts_of_a_stranger_are_checked(place: tuple[str, ...], value: object, word: str, server: ChatServer) -> None:
    config = json.loads(json.dumps(dict(engine_of(server).to_parts().config)))
    inner = config
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(DataError, match=word):
        LanguageEngine.from_parts(TOY.schema, Parts(config=config))


def test_parts_with_arrays_or_without_settings_are_refused(server: ChatServer) -> None:
    config = engine_of(server).to_parts().config
    with pytest.raises(DataError, match="no arrays"):
        LanguageEngine.from_parts(TOY.schema, Parts(config=config, arrays={"w": np.zeros(1)}))
    with pytest.raises(DataError, match="endpoint"):
        LanguageEngine.from_parts(TOY.schema, Parts(config={}))
    with pytest.raises(DataError, match="no vector"):
        LanguageEngine.from_parts(Schema(signals=TOY.schema.signals[1:]), Parts(config=config))
