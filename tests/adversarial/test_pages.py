"""Markup in names, units and notes: pages of judgements, results and worlds in a file show it as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from tests.report.parsed_page import ParsedPage
from tests.report.test_judge_page import controller
from tests.report.test_judge_page import judged as judgement
from tests.report.test_report import ATTACKS, poisoned
from tests.studio.conftest import chromium
from tests.studio.test_play import opened

import worldline
from worldline.control.controllers import load_controller
from worldline.control.judgement import Judgement, RunVerdict
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.planning.base import Goal
from worldline.report.judge_page import render_judgement
from worldline.schema import Kind, Role, Schema, Signal
from worldline.studio.pages import saved_page
from worldline.studio.play import play_data
from worldline.testing.toys import Integrator
from worldline.world.local import LocalWorld

judged = judgement
IMAGE, LOAD = "<img src=x onerror=hacked=1>", '"><svg onload=hacked=1>'
SCRIPT = "</script><script>hacked=1</script>{{7*7}}"
COUNTS = "[window.hacked === undefined, document.querySelectorAll('img[src=x], svg[onload]').length]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def hostile_judgement(judged: Judgement, text: str) -> Judgement:
    """The judgement with `text` wherever names, units, settings and notes of a user are."""
    each = tuple(
        replace(
            one,
            **{name: poisoned(getattr(one, name), text) for name in ("name", "card", "reason", "risky", "fans")},
            experiment=None if one.experiment is None else poisoned(one.experiment, text),
        )
        for one in judged.controllers
    )
    own = {name: poisoned(getattr(judged, name), text) for name in ("world", "logs", "goal", "notes", "factor")}
    differences = tuple(replace(one, first=text, second=text) for one in judged.differences)
    return replace(judged, controllers=each, differences=differences, **own)


@pytest.mark.parametrize("text", [*ATTACKS, IMAGE, LOAD, SCRIPT])
def test_a_judgement_shows_markup_as_text(text: str, judged: Judgement) -> None:
    hostile, harmless = (render_judgement(hostile_judgement(judged, word)) for word in (text, "word"))
    assert ParsedPage(hostile).counts() == ParsedPage(harmless).counts()


def test_settings_of_a_controller_file_are_text(tmp_path: Path, judged: Judgement) -> None:
    level, valve = (
        Signal(name=f"{name}{IMAGE}", role=role, kind=Kind.VECTOR, shape=(1,), unit=SCRIPT)
        for name, role in (("level", Role.OBSERVATION), ("valve", Role.ACTION))
    )
    file = tmp_path / "pid.toml"
    file.write_text(
        f"kind = 'pid'\nloops = [{{ reads = '{level.name}', acts = '{valve.name}', gain = 1, set_point = 2 }}]"
    )
    loaded = load_controller(file, Schema(signals=(level, valve)))
    one = replace(controller("pid", RunVerdict.JUDGED), card=loaded.card)
    page = render_judgement(replace(judged, controllers=(one,), differences=()))
    assert IMAGE not in page
    assert "onerror=hacked=1" in ParsedPage(page).text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Episodes whose names, units, components and origins hold markup."""
    toy = Integrator(noise=0.1, camera=False, wind=False)
    names = {"position": f"position{IMAGE}", "push": f"push{LOAD}"}
    signals = [replace(s, name=names[s.name], unit=IMAGE, components=(IMAGE, LOAD)) for s in toy.schema.signals]

    def renamed(episode: Episode) -> Episode:
        parts = ("observations", "actions")
        return replace(episode, **{p: {names[n]: v for n, v in getattr(episode, p).items()} for p in parts})

    made = Store.create(
        tmp_path_factory.mktemp("hostile") / "log", Schema(signals=tuple(signals)), notes={"note": SCRIPT}
    )
    for episode in toy.episodes(40, 20, seed=0):
        made.append(renamed(episode), {"file": f"a{LOAD}.csv"})
    return made


@pytest.fixture(scope="module")
def world(store: Store, tmp_path_factory: pytest.TempPathFactory) -> LocalWorld:
    learned = worldline.learn(store.path, tmp_path_factory.mktemp("learned") / "world", recipe="linear", progress=None)
    assert isinstance(learned, LocalWorld)
    return learned


def test_result_pages_show_markup_as_text(browser: Browser, world: LocalWorld, store: Store, tmp_path: Path) -> None:
    episode = store.episode(0)
    (seen,), (moved,) = episode.observations, episode.actions
    past, actions = episode.history(5, 4), {moved: episode.actions[moved][5:10]}
    goal = Goal(targets={seen: np.zeros(2)})
    results = {
        "predict": world.predict(past, actions),
        "plan": world.plan(past, goal, horizon=4),
        "what_if": replace(world.what_if(episode, 5, actions), reason=SCRIPT),
        "surprise": world.surprise(episode),
    }
    for name, result in results.items():
        file = worldline.save_page(result, tmp_path / f"{name}.html")
        page, problems = browser.new_page(), list[str]()
        page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_selector("h1")
        assert "position<img" in page.inner_text("body") or "push" in page.inner_text("body")
        assert page.evaluate(COUNTS) == [True, 0]
        page.close()
        assert not problems


def test_a_world_in_a_file_shows_markup_as_text(
    browser: Browser, world: LocalWorld, store: Store, tmp_path: Path
) -> None:
    data, file = play_data(world, [store.episode(0)], f"log{LOAD}"), tmp_path / "play.html"
    saved = {"title": f"world{SCRIPT}", "place": "#/imagine", "world": data | {"name": f"world{IMAGE}"}}
    file.write_text(saved_page(f"world{SCRIPT}", saved))
    with opened(browser, file) as page:
        assert f"position{IMAGE}" in page.inner_text("body")
        for view in ("what-if", "plan", "surprise", "dream", "imagine"):
            page.goto(f"{file.as_uri()}#/{view}")
            page.wait_for_timeout(200)
            assert page.evaluate(COUNTS) == [True, 0]
