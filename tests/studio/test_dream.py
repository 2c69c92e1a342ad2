"""The view of an episode and of the world that continues alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.studio.conftest import watched
from tests.studio.toy_studio import StudioService
from tests.studio.watched_page import assert_accessible, calls

from worldline.engines.baselines import Linear
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind
from worldline.serve.environments import Environments
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.server import serving
from worldline.serve.service import Service
from worldline.workflows.record import record
from worldline.world.local import LocalWorld


@pytest.fixture(scope="module")
def rooms_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of the environment two-rooms, and of a linear world of its positions."""
    store = record("two-rooms", tmp_path_factory.mktemp("rooms") / "log", num_episodes=8, max_steps=12, seed=0)
    vectors = replace(store.schema, signals=tuple(s for s in store.schema.signals if s.kind is Kind.VECTOR))
    engine = Linear.fit([store.episode(number) for number in range(8)], vectors, context=1)
    hosts = Hosts(lambda reference: pytest.fail(reference))
    hosts.add(HostedWorld("rooms", None, LocalWorld(engine, None, CrossEntropy())))
    with serving(Service(hosts), environments=Environments(["two-rooms"])) as url:
        yield url


def test_compares_log_and_dream_at_a_shared_time(sized_page: Page, studio_service: StudioService) -> None:
    page, episode = sized_page, studio_service.stores["camera"].episode(9)
    page.goto("/#/dream?world=camera&log=camera&episode=9&at=5&steps=12")
    actions, exogenous = {"push": episode.actions["push"][5:17]}, {"wind": episode.exogenous["wind"][5:17]}
    dream = studio_service.worlds["camera"].predict(episode.history(at=5, length=1), actions, exogenous=exogenous)
    error = np.subtract(dream.signals["position"].mean, episode.observations["position"][6:18])[:, 0]
    expect(page.get_by_text(f"error {np.sqrt((error**2).mean()):.3g} m RMSE")).to_be_visible()
    asked = calls(page, verb=":predict")
    assert {call.path.partition("?")[2] for call in asked} == {"world=camera&at=5&steps=12"}
    assert [call.body for call in asked] == [{"level": 0.9}, {"images": True}]
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    for _ in range(2):
        page.get_by_role("button", name="One step forward").click()
    expect(page.get_by_alt_text("camera at step 7")).to_be_visible()
    expect(page.get_by_text("dream, 0.2 s ahead")).to_be_visible()
    expect(page.get_by_text(f"error {abs(error[1]):.2g}")).to_be_visible()
    assert_accessible(page)


def test_plays_to_the_end_and_pauses(page: Page) -> None:
    page.goto("/#/dream?world=toy&log=toy&episode=9&at=5&steps=12&speed=100")
    page.get_by_role("slider", name="Time").press(" ")
    expect(page).to_have_url(re.compile("&step=17$"))
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_label("Speed").select_option("1")
    page.get_by_role("button", name="Play").click()  # from the start again
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("slider", name="Time")).to_have_value("0")


def test_the_log_alone_is_the_whole_episode(page: Page) -> None:
    page.goto("/#/dream?world=toy&log=toy&episode=9&at=5&mode=log")
    chart = page.get_by_label("push 1 over the episode")
    chart.press("End")
    chart.press("Enter")
    expect(page).to_have_url(re.compile("&step=38$"))
    expect(page.get_by_role("slider", name="Time").first).to_have_attribute("aria-valuenow", "38")
    assert not calls(page, verb=":predict")


def test_drives_an_environment_and_the_world_at_once(browser: Browser, rooms_url: str) -> None:
    with watched(browser, rooms_url) as page:
        page.goto("/#/dream?mode=drive")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_label("environment now")).to_be_visible()
        for step, key in enumerate(["ArrowRight", "s"], 1):
            page.keyboard.press(key)
            expect(page.get_by_text(re.compile(f"^{step} steps?, reward"))).to_be_visible()
        page.get_by_label("move y").fill("1.5")
        moves = [[6, 0], [0, -6], [0, 1.5]]
        with page.expect_request(lambda asked: (asked.post_data_json or {}).get("actions") == {"move": moves}) as dream:
            page.get_by_role("button", name="One step").click()
        expect(page.get_by_text("3 steps, reward")).to_be_visible()
        assert [call.body for call in calls(page, verb=":step")] == [{"actions": {"move": move}} for move in moves]
        expect(page.get_by_text(re.compile(r"error .* px RMSE")).first).to_be_visible()
        assert np.shape(dream.value.post_data_json["history"]["observations"]["position"]) == (1, 2)
        assert_accessible(page)
        page.get_by_role("link", name="Home").click()
        expect(page.get_by_role("heading", name="rooms")).to_be_visible()
        assert "DELETE" in [call.method for call in calls(page)]  # the run ends with the view
