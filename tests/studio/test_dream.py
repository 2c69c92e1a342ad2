"""The view of an episode beside the world that continues alone."""

from __future__ import annotations

import re

import numpy as np
from playwright.sync_api import Page, expect
from tests.studio.toy_studio import StudioService
from tests.studio.watched_page import assert_accessible, calls


def test_compares_log_and_dream_at_a_shared_time(sized_page: Page, studio_service: StudioService) -> None:
    page, episode = sized_page, studio_service.stores["camera"].episode(9)
    page.goto("/#/dream?world=camera&log=camera&episode=9&at=5&steps=12")
    future = {
        "actions": {"push": episode.actions["push"][5:17]},
        "exogenous": {"wind": episode.exogenous["wind"][5:17]},
    }
    dream = studio_service.worlds["camera"].predict(episode.history(at=5, length=1), **future).signals["position"].mean
    error = dream[:, 0] - episode.observations["position"][6:18, 0]
    expect(page.get_by_text(f"error {np.sqrt((error**2).mean()):.3g} m RMSE")).to_be_visible()
    (asked,) = calls(page, verb=":predict")
    assert (asked.path.partition("?")[2], asked.body) == ("world=camera&at=5&steps=12", {"level": 0.9, "images": True})
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    for _ in range(2):
        page.get_by_role("button", name="One step forward").click()
    expect(page.get_by_alt_text("camera at step 7")).to_be_visible()
    expect(page.get_by_text("dream, 200 ms ahead")).to_be_visible()
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
