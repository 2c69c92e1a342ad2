"""The view Imagine draws futures; the frame of the studio restores links and survives a lost service."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from tests.studio.conftest import TIMEOUT_MS
from tests.studio.watched_page import ApiCall, assert_accessible, calls, expect_problem

PLACE = "/#/imagine?world=toy&log=toy&episode=4&at=10&steps=8"


def predictions(page: Page) -> list[ApiCall]:
    return calls(page, verb=":predict")


def pushes(page: Page) -> list[float]:
    """The first component of the actions of the last prediction."""
    return [push[0] for push in predictions(page)[-1].body.get("actions", {"push": []})["push"]]


def wait_until(page: Page, check: Callable[[], bool]) -> None:
    """Fails after `TIMEOUT_MS`."""
    for _ in range(TIMEOUT_MS // 50):
        if check():
            return
        page.wait_for_timeout(50)
    assert check()


def drawn(page: Page, number: int = 1) -> None:
    """Waits until so many predictions were drawn, at most nine."""
    expect(page.locator("html")).to_have_attribute("data-predicted", re.compile(f"[{number}-9]"))


def after(page: Page) -> Locator:
    """The first value in the column of findings."""
    return page.locator("dd").first


def test_a_slider_changes_the_future_and_a_link_restores_it(sized_page: Page) -> None:
    page = sized_page
    page.goto(PLACE)
    drawn(page)
    assert predictions(page)[-1].path == "/v1/logs/toy/episodes/4:predict?world=toy&at=10&steps=8"
    assert "actions" not in predictions(page)[-1].body  # those of the log
    before = after(page).text_content() or ""
    page.get_by_role("slider", name="push 1").fill("1")
    expect(after(page)).not_to_have_text(before)
    assert [push[0] for push in predictions(page)[-1].body["actions"]["push"]] == [1.0] * 8
    expect(page.get_by_text("The log has other inputs")).to_be_visible()
    expect(page).to_have_url(re.compile("edits"))
    changed, address = after(page).text_content() or "", page.url
    assert_accessible(page)

    page.goto("about:blank")
    page.goto(address)
    expect(after(page)).to_have_text(changed)
    page.get_by_role("button", name="As logged again").click()
    expect(after(page)).to_have_text(before)


def test_a_curve_is_drawn_by_pointer_and_keyboard(page: Page) -> None:
    page.goto(PLACE)
    drawn(page)
    curve = page.get_by_label(re.compile("^push 1, .*drag to draw"))
    curve.scroll_into_view_if_needed()
    box = curve.locator(".u-over").bounding_box()
    assert box is not None
    # The axis shows 4 steps of the past and 8 of the future.
    page.mouse.move(box["x"] + box["width"] * 6.5 / 12, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 8.5 / 12, box["y"] + 2, steps=3)
    page.mouse.up()
    expect(page).to_have_url(re.compile("edits"))
    wait_until(page, lambda: pushes(page)[2:5] == [1.0] * 3)
    before = pushes(page)
    assert 1.0 not in (*before[:2], *before[5:])

    curve.press("End")
    curve.press("ArrowDown")
    wait_until(page, lambda: pushes(page)[7] < before[7])


def test_a_number_that_is_being_typed_survives_a_redraw(page: Page) -> None:
    page.goto(PLACE)
    drawn(page)
    horizon = page.get_by_label("Horizon in steps")
    horizon.press("Control+a")
    horizon.press_sequentially("12")
    page.evaluate("location.hash += '&level=0.5'")
    expect(page.get_by_role("radio", name="50 %")).to_be_checked()
    expect(horizon).to_have_value("12")
    horizon.press("Enter")
    expect(page).to_have_url(re.compile("steps=12"))
    expect(page.get_by_role("heading", name="After 1.2 s")).to_be_visible()


def test_charts_have_a_cursor_by_keyboard_and_a_table(page: Page) -> None:
    page.goto(PLACE)
    drawn(page)
    chart = page.get_by_role("figure", name="position 1 over time")
    chart.press("Home")
    chart.press("ArrowRight")
    expect(page.get_by_text(re.compile("^700 milliseconds: measured"))).to_be_attached()
    page.get_by_text("Table of position 1").click()
    row = page.get_by_role("row", name=re.compile("^1800 "))
    expect(row).to_contain_text(re.compile(r"\(.* to .*\)"))  # the last prediction with its band


def test_the_present_moves_along_the_episode(page: Page) -> None:
    page.goto(PLACE)
    drawn(page)
    present = page.get_by_role("slider", name="Present")
    present.press("ArrowRight")
    expect(present).to_have_attribute("aria-valuenow", "11")
    expect(page).to_have_url(re.compile("at=11"))
    page.get_by_role("button", name="Episode 5").click()
    expect(page).to_have_url(re.compile("episode=5"))
    page.go_back()
    expect(present).to_have_attribute("aria-valuenow", "11")


def test_episodes_are_searched_scored_and_sorted(page: Page) -> None:
    page.goto("/#/imagine?world=toy&log=toy")
    page.get_by_role("searchbox").fill("run-0")
    expect(page.get_by_role("listitem")).to_have_count(10)
    page.get_by_role("searchbox").fill("run-1")
    expect(page.get_by_role("listitem")).to_have_count(2)
    page.get_by_role("button", name="Score").click()
    expect(page.locator(".chip")).to_have_count(2)
    values = [call.path for call in calls(page, verb=":surprise")]
    assert [urlsplit(path).path for path in values] == [f"/v1/logs/toy/episodes/{k}:surprise" for k in (10, 11)]
    page.get_by_role("searchbox").fill("nowhere")
    expect(page.get_by_text("No episode matches")).to_be_visible()


def test_a_world_without_logs_predicts_from_typed_values(page: Page) -> None:
    page.route("**/v1/logs", lambda route: route.fulfill(json={"logs": []}))
    page.goto("/#/imagine?world=toy")
    drawn(page)
    page.get_by_role("spinbutton", name="position 1").fill("2.5")
    page.get_by_role("spinbutton", name="position 1").blur()
    drawn(page, 2)
    path, body = predictions(page)[-1][1:]
    assert path == "/v1/worlds/toy:predict"
    assert body["history"]["observations"]["position"][0][0] == 2.5
    assert len(body["actions"]["push"]) == len(body["exogenous"]["wind"]) == 12


def test_a_view_continues_when_the_service_returns(page: Page) -> None:
    page.goto(PLACE)
    drawn(page)
    before = after(page).text_content() or ""
    expect_problem(page, "ERR_FAILED")

    def gone(route: Route) -> None:
        route.abort()

    page.route("**/v1/**", gone)
    page.route("**/healthz", gone)
    page.get_by_role("slider", name="push 1").fill("1")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(after(page)).to_have_text(before)
    page.unroute("**/v1/**")
    page.unroute("**/healthz")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(after(page)).not_to_have_text(before)


def test_a_refused_token_is_asked_for_again(page: Page) -> None:
    def check(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer fresh":
            route.continue_()
        else:
            route.fulfill(status=401, json={"code": "unauthorized", "detail": "The token is not valid."})

    page.route("**/v1/**", check)
    expect_problem(page, "status of 401")
    page.goto(PLACE)
    page.get_by_label(re.compile("needs a token")).fill("fresh")
    page.get_by_role("button", name="Continue").click()
    drawn(page)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("#/imagine?world=toy&log=toy&episode=99", "99"),
        ("#/imagine?world=camera&log=toy&episode=1", "camera"),  # the log has no pictures
    ],
)
def test_what_does_not_fit_is_named(page: Page, place: str, text: str) -> None:
    expect_problem(page, "status of 4")
    page.goto(f"/{place}")
    expect(page.get_by_role("alert").first).to_contain_text(text)
