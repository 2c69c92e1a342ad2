"""The first view of the studio: worlds, signals, episodes."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect
from tests.studio.watched_page import assert_accessible, calls


@pytest.fixture
def evidence() -> list[dict[str, str]]:
    """The pages that the service states for every world; tests may add to it."""
    return []


def _opened(page: Page, place: str, pages: list[dict[str, str]]) -> Page:
    page.route("**/v1/worlds/*/pages", lambda route: route.fulfill(body=json.dumps({"pages": pages})))
    page.goto(f"/{place}")
    return page


def test_shows_what_a_chosen_world_predicts_and_how_far(sized_page: Page, evidence: list[dict[str, str]]) -> None:
    evidence.append({"name": "audit", "title": "Audit: passed"})
    page = _opened(sized_page, "#/home?log=camera", evidence)
    page.get_by_role("button", name="camera picture").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("camera")
    expect(page.get_by_role("row", name="position observation, predicted m none (2 components) 1.2 s")).to_be_visible()
    expect(page.get_by_role("row", name="push action m −1 to 1 (2 components)")).to_be_visible()
    expect(page.get_by_role("row", name="camera observation, predicted 8 × 8 pixels")).to_be_visible()
    first = page.get_by_role("navigation", name="What to do first").get_by_role("link")
    assert [link.get_attribute("href").partition("?")[0] for link in first.all()] == [
        "#/imagine",
        "#/plan",
        "#/evidence",
        "docs",
    ]
    expect(page.get_by_role("link", name="Audit: passed")).to_have_attribute(
        "href", re.compile("^#/evidence.*world=camera.*page=audit")
    )
    skill = calls(page, verb=":predict")[-1]
    assert (skill.path, skill.body) == ("/v1/logs/camera/episodes/0:predict?world=camera&steps=12", {})
    assert_accessible(page)


def test_names_the_signals_that_a_log_lacks_and_opens_an_episode(page: Page, evidence: list[dict[str, str]]) -> None:
    _opened(page, "#/home?world=camera&log=camera", evidence)
    page.get_by_role("complementary").get_by_label("Log").select_option("toy")
    expect(page.get_by_text("12 episodes, 372 steps")).to_be_visible()
    expect(page.get_by_text("It lacks camera.")).to_be_visible()
    page.get_by_role("searchbox").fill("run-07")
    page.get_by_role("button", name="Episode 7").click()
    expect(page).to_have_url(re.compile("#/imagine.*episode=7"))


def test_says_how_to_open_a_log(page: Page, evidence: list[dict[str, str]]) -> None:
    page.route("**/v1/logs", lambda route: route.fulfill(body='{"logs": []}'))
    _opened(page, "#/home?world=toy", evidence)
    expect(page.get_by_text("worldline studio toy LOGS")).to_be_visible()
    assert not calls(page, verb=":predict")
