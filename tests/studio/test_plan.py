"""The view Plan takes goals and limits, improves a plan in rounds, and compares it with the log."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from tests.studio.toy_studio import StudioService
from tests.studio.watched_page import ApiCall, assert_accessible, calls, expect_problem


def address(world: str, **goal: Any) -> str:
    return f"/#/plan?world={world}&log={world}&episode=4&at=10&steps=6&goal={quote(json.dumps(goal))}"


def plans(page: Page) -> list[ApiCall]:
    return calls(page, verb=":plan")


def test_plans_for_typed_goals(sized_page: Page) -> None:
    page = sized_page
    page.goto(address("toy"))
    button = page.get_by_role("button", name="Plan", exact=True)
    expect(button).to_be_disabled()
    page.get_by_label("Target of position 1").fill("1.5")
    page.get_by_label("Target of position 2").fill("0")
    page.get_by_label("Tolerance of position 1").fill("0.5")
    page.get_by_label("position 1 at most").fill("2")
    page.get_by_label("Price of push 2").fill("0.1")
    page.get_by_label("Limits hold").select_option("0.8")
    page.get_by_label("Planner").select_option("icem")
    button.click()
    expect(page.get_by_role("heading", name="Logged actions")).to_be_visible()
    expect(page.get_by_text("Plan found")).to_be_visible()
    expect(page.get_by_text("position 1 at most 2 m")).to_have_count(2)
    call = plans(page)[0]
    assert call.path == "/v1/logs/toy/episodes/4:plan?world=toy&at=10&steps=6"
    assert call.body == {
        "goal": {
            "targets": {"position": [1.5, 0]},
            "tolerance": {"position": 0.5},
            "costs": [{"rule": "Price", "signal": "push", "price": [0, 0.1]}],
        },
        "constraints": [
            {"rule": "Chance", "level": 0.8, "constraint": {"rule": "AtMost", "signal": "position", "bound": [2, None]}}
        ],
        "horizon": 6,
        "budget_s": 2,
        "min_trust": 0,
        "seed": 0,
        "planner": "icem",
    }
    assert_accessible(page)

    page.get_by_role("button", name="Use in Imagine").click()
    expect(page.get_by_text("As logged again")).to_be_visible()
    assert len(calls(page, verb=":predict")[-1].body["actions"]["push"]) == 6


def test_rounds_continue_the_last_plan(page: Page) -> None:
    page.goto(address("camera", targets={"position.0": 2}, boxes=[], rounds=3, ran=3))  # a link that shows a plan
    expect(page.get_by_text("Candidates converge")).to_be_visible()
    expect(page.get_by_role("heading", name="Logged actions")).to_be_visible()
    first, second, third = (call.body for call in plans(page))
    assert first["goal"]["costs"][0]["low"] == [[2, None]] * 6  # a target of one of two components
    assert "proposals" not in first
    assert second["seed"] == 1
    assert len(third["proposals"]["push"][0]) == 6


def test_draws_targets_and_boxes(page: Page) -> None:
    page.goto(address("toy"))
    chart = page.get_by_label("position 1 over time", exact=True).locator(".u-over")
    size = chart.bounding_box()
    assert size
    chart.click(position={"x": size["width"] * 0.9, "y": size["height"] / 2})
    expect(page.get_by_label("Target of position 1")).not_to_have_value("")
    page.get_by_role("radio", name="curve").click()
    x, y = size["x"], size["y"] + size["height"] / 2
    page.mouse.move(x + 0.7 * size["width"], y)
    page.mouse.down()
    page.mouse.move(x + 0.9 * size["width"], y + 20, steps=4)
    page.mouse.up()
    expect(page.get_by_label("Target of position 1")).to_have_attribute("placeholder", "curve")

    plane = page.get_by_role("img", name="position 2 over position 1")
    plane.scroll_into_view_if_needed()
    plane.hover(position={"x": 20, "y": 20})
    page.mouse.down()
    plane.hover(position={"x": 90, "y": 60})
    page.mouse.up()
    page.get_by_role("button", name="Plan", exact=True).click()
    expect(page.get_by_text("position 1 and position 2 out of the box").first).to_be_visible()
    (rule,) = plans(page)[0].body["constraints"]
    assert rule["rule"] == "KeepOut"
    assert all(low < high for low, high in zip(rule["low"]["position"], rule["high"]["position"], strict=True))


@pytest.mark.parametrize(
    ("goal", "title", "reason"),
    [
        ({"high": {"position.0": -90}}, "Infeasible", "position"),
        ({"trust": 1}, "Refused", "trust"),
    ],
)
def test_says_why_there_is_no_plan(page: Page, goal: dict[str, Any], title: str, reason: str) -> None:
    page.goto(address("toy", targets={"position.0": 1, "position.1": 0}, rounds=1, **goal))
    page.get_by_role("button", name="Plan", exact=True).click()
    expect(page.get_by_text(title, exact=True)).to_be_visible()
    expect(page.locator(".warn")).to_contain_text(reason)


def test_sends_a_frame_of_the_log_as_goal(page: Page, studio_service: StudioService) -> None:
    def with_distance(route: Any) -> None:
        view = route.fetch().json()
        view["card"]["abilities"] = ["reaches"]
        view["card"]["inputs"] = ["position", "camera"]
        route.fulfill(json=view)

    page.route("**/v1/worlds/camera", with_distance)
    page.route("**/*:plan?*", lambda route: route.fulfill(status=422, json={"detail": "no"}))
    expect_problem(page, "status of 422")
    page.goto(address("camera"))
    page.get_by_label("Step of the goal picture").fill("7")
    expect(page.get_by_alt_text("Goal: camera at step 7")).to_be_visible()
    with page.expect_request("**/*:plan?*"):
        page.get_by_role("button", name="Plan", exact=True).click()
    picture = plans(page)[0].body["goal"]["targets"]["camera"]
    frame = studio_service.stores["camera"].episode(4).observations["camera"][7]
    assert picture["shape"] == list(frame.shape)
    assert base64.b64decode(picture["data"]) == frame.tobytes()


def test_runs_the_plan_in_a_simulator(page: Page) -> None:
    steps: list[Any] = []

    def run(route: Any) -> None:
        if route.request.url.endswith(":step"):
            steps.append(route.request.post_data_json["actions"])
        view = {"id": "a", "step": len(steps), "observations": {"position": [len(steps) / 10, 0]}, "done": False}
        answers = {"GET": {"environments": ["lab"]}, "POST": view, "DELETE": None}
        route.fulfill(json=answers[route.request.method])

    page.route("**/v1/environments**", run)
    page.route("**/v1/environments/**", run)
    page.goto(address("toy", targets={"position.0": 1, "position.1": 0}))
    page.get_by_text("Run in a simulator").click()
    page.get_by_role("button", name="Plan from its reset").click()
    expect(page.get_by_text("simulator", exact=True)).to_be_visible()
    assert plans(page)[0].body["history"]["observations"] == {"position": [[0, 0]]}
    assert len(steps) == 6
    assert calls(page, verb="/runs/a")[0].method == "DELETE"
