"""A world in a file: the page answers in Chromium, from disk, what the world answers in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from tests.data.stores import stored
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.episode import Episode
from worldline.errors import UnsupportedError
from worldline.planning.base import Goal
from worldline.schema import Schema
from worldline.studio.play import export_page, play_data
from worldline.testing.toys import Integrator
from worldline.world.bundle_io import open_world
from worldline.world.local import LocalWorld

pytest.importorskip("onnxscript", reason="needs the extra play")
BUNDLES = Path(__file__).parents[1] / "golden" / "bundles"
STEPS = 8
"""More than the bands of the worlds have."""
ASK = """async questions => {
    const { api } = await import("studio/api.js"), answers = [];
    const failed = error => ({ error: error.message });
    for (const [path, body] of questions) answers.push(await api.post(path, body).catch(failed));
    return answers;
}"""


def examples(world: LocalWorld) -> list[Episode]:
    """Episodes of the toy that all worlds have learned; the second one misses observations."""
    wind = bool(world.describe().schema.exogenous)
    first, second = Integrator(noise=0.1, wind=wind, camera=False).episodes(2, 30, seed=5)
    seen = np.arange(31) % 7 != 3
    return [first, replace(second, observed={"position": seen})]


@contextmanager
def opened(browser: Browser, file: Path) -> Iterator[Page]:
    """The page, from disk; an error or a request fails the test."""
    page, problems = browser.new_page(), list[str]()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    local = (file.as_uri(), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(local) else problems.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-predicted]")
    yield page
    page.close()
    assert not problems


def assert_equal(world: LocalWorld, answer: dict[str, Any], expected: Any) -> None:
    """Within 1e-3 of the usual spread."""
    assert world.calibration is not None
    for name, forecast in expected.signals.items():
        unit, shown = world.calibration.tolerance(name), answer["signals"][name]
        for edge in ("mean", "low", "high"):
            known = getattr(forecast, edge)
            numbers = np.array(shown[edge], np.float64)
            np.testing.assert_array_equal(np.isfinite(numbers), np.isfinite(known))
            assert np.nanmax(np.abs(numbers - np.where(np.isfinite(known), known, np.nan)) / unit) < 1e-3, (name, edge)
        assert shown["horizon"] == forecast.horizon
    assert answer["trust"] == pytest.approx(expected.trust, abs=1e-6)
    assert answer["level"] == pytest.approx(expected.level)


@pytest.mark.parametrize("name", [
    "linear-model", "ensemble", "jepa-memory", pytest.param("recurrent", marks=pytest.mark.slow),
])  # fmt: skip
def test_the_page_predicts_as_the_world_does(name: str, browser: Browser, tmp_path: Path) -> None:
    world = open_world(BUNDLES / name, device="cpu")
    episodes, file = examples(world), tmp_path / "play.html"
    export_page(world, file, episodes=episodes)
    pushed = {"push": np.linspace([-1, 0.5], [1, -1.05], STEPS).astype(np.float32)}  # beyond a bound
    cases: list[tuple[int, int, dict[str, Any]]] = [(0, 0, {}), (0, 12, {"level": 0.8}), (1, 10, {"actions": pushed})]
    questions, expected = list[tuple[str, Any]](), list[Any]()
    for number, at, body in cases:
        episode = episodes[number]
        path = f"v1/logs/examples/episodes/{number}:predict?world=toy&at={at}&steps={STEPS}"
        questions.append((path, {key: plain(value) for key, value in body.items()}))
        logged = {n: v[at : at + STEPS] for n, v in episode.actions.items()}
        known = {n: v[at : at + STEPS] for n, v in episode.exogenous.items()} or None
        expected.append(world.predict(episode.history(at), **{"actions": logged, "exogenous": known, **body}))
    with opened(browser, file) as page:
        answers = page.evaluate(ASK, questions)
    for answer, prediction in zip(answers, expected, strict=True):
        assert_equal(world, answer, prediction)


def plain(value: Any) -> Any:
    return {name: array.tolist() for name, array in value.items()} if isinstance(value, dict) else value


def test_the_page_plans_compares_futures_and_shows_its_episodes(browser: Browser, tmp_path: Path) -> None:
    world, file = open_world(BUNDLES / "recurrent", device="cpu"), tmp_path / "play.html"
    log = stored(tmp_path / "log", *shown(examples(world)))
    result = CliRunner().invoke(app, ["export", str(BUNDLES / "recurrent"), str(file), "--logs", str(log.path)])
    assert result.exit_code == 0, result.output
    episode, at, target = log.episode(0), 6, np.array([0.6, -0.4])
    place = f"v1/logs/log/episodes/0:{{}}?world=toy&at={at}&steps=5"
    goal, other = {"targets": {"position": target.tolist()}}, {"push": np.full((5, 2), 0.5).tolist()}
    with opened(browser, file) as page:
        plan, what_if, predicted, scores, refused = page.evaluate(
            ASK,
            [
                (place.format("plan"), {"goal": goal, "horizon": 5}),
                (place.format("what_if"), {"actions": other}),
                (place.format("predict"), {"actions": other}),
                (place.format("score"), {"goal": goal, "actions": {"push": [other["push"]]}}),
                (place.format("surprise"), {}),
            ],
        )
        page.get_by_text("Episode 1").click()
        page.wait_for_function("location.hash.includes('episode=1')")
    future = {name: value[at : at + 5] for name, value in episode.exogenous.items()}
    plans = {"push": np.stack([np.array(plan["actions"]["push"], np.float32), episode.actions["push"][at : at + 5]])}
    ours, logged = world.score(episode.history(at), plans, Goal(targets={"position": target}), exogenous=future).cost
    best = world.plan(episode.history(at), Goal(targets={"position": target}), horizon=5, exogenous=future).cost
    assert ours < min(logged, 1.5 * best)
    assert np.abs(plan["actions"]["push"]).max() <= 1
    assert what_if["abduction"] == "none"
    assert what_if["signals"]["position"] == predicted["signals"]["position"]["mean"] != what_if["factual"]["position"]
    other_cost = world.score(
        episode.history(at),
        {"push": np.full((1, 5, 2), 0.5, np.float32)},
        Goal(targets={"position": target}),
        exogenous=future,
    ).cost
    assert scores["cost"] == pytest.approx(other_cost.tolist(), rel=0.05)  # of the mean path, not over the members
    assert "does not answer surprise" in refused["error"]


def shown(episodes: Sequence[Episode]) -> tuple[Schema, Sequence[Episode]]:
    return Integrator(camera=False).schema, episodes


@pytest.mark.parametrize(
    ("name", "reason"),
    [("jepa-pixels", "image 'camera'"), ("jepa-transformer", "grows with each step"), ("linear", "has no networks")],
)
def test_other_worlds_name_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        play_data(open_world(BUNDLES / name, device="cpu"), [], "examples")
