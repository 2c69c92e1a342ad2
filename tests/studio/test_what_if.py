"""The view What if forks an episode, shows both futures, and says what was inferred."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from tests.studio.watched_page import assert_accessible, calls, expect_problem


def test_other_actions_lead_to_another_future(sized_page: Page) -> None:
    page = sized_page
    page.goto("/#/what-if?world=toy&log=toy&episode=4&at=10&steps=8")
    expect(page.get_by_text("Draw other actions to compare")).to_be_visible()
    assert calls(page, verb=":what_if")[-1].body == {}

    page.get_by_role("slider", name="push 1").fill("1")
    expect(page.get_by_text("other actions", exact=True)).to_be_visible()
    expect(page.get_by_text("instead of")).to_have_count(2)
    path, body = calls(page, verb=":what_if")[-1][1:]
    assert path == "/v1/logs/toy/episodes/4:what_if?world=toy&at=10&steps=8"
    assert [push[0] for push in body["actions"]["push"]] == [1.0] * 8
    expect(page.get_by_text("Causes and noise")).to_be_visible()
    expect(page.get_by_role("slider", name="wind 1")).to_have_count(0)  # weather stays as logged
    assert_accessible(page)


def test_the_future_ends_with_the_log(page: Page) -> None:
    page.goto("/#/what-if?world=camera&log=camera&episode=0&at=15&steps=12")
    expect(page.get_by_label("Horizon in steps")).to_have_value("5")
    expect(page.get_by_role("img", name="camera, other actions")).to_be_visible()
    assert calls(page, verb=":what_if")[-1].path.endswith("at=15&steps=5")


def test_without_what_if_two_predictions_are_compared(page: Page) -> None:
    problem = {"code": "unsupported", "detail": "what_if is not possible here."}
    page.route("**/*:what_if?*", lambda route: route.fulfill(status=422, json=problem))
    expect_problem(page, "status of 422")
    edits = quote(json.dumps({"push.0": [[0, 1]]}))
    page.goto(f"/#/what-if?world=toy&log=toy&episode=4&at=10&steps=8&edits={edits}")
    expect(page.get_by_text("without abduction")).to_be_visible()
    expect(page.get_by_text("what_if is not possible here.")).to_be_visible()
    logged, other = sorted((call.body for call in calls(page, verb=":predict")), key=len)
    assert logged == {}
    assert other["actions"]["push"][0][0] == pytest.approx(1)
