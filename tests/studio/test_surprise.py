"""The view of unexpected steps."""

from __future__ import annotations

import re

import numpy as np
from playwright.sync_api import Page, expect
from tests.studio.toy_studio import StudioService
from tests.studio.watched_page import assert_accessible, calls

PLACE = "#/surprise?world=toy&log=toy&episode=3"
PARTS = """async room => {
  const { surpriseOf } = await import("studio/views/surprise.js");
  const shape = [1, 1, Math.floor(2 ** 26 / (room + 2)) - 1], kind = "image", role = "observation";
  const schema = { signals: [{ name: "camera", role, kind, shape }] };
  return surpriseOf("v1/logs/toy/episodes/3", "toy", { context: 2, inputs: ["camera"], schema }, 26);
}"""


def test_moments_move_the_time_and_show_what_was_expected(sized_page: Page, studio_service: StudioService) -> None:
    page, world = sized_page, studio_service.worlds["toy"]
    expected = world.surprise(studio_service.stores["toy"].episode(3)).moments
    page.goto(f"/{PLACE}")
    moments = page.get_by_role("list", name="Moments").get_by_role("button")
    expect(moments).to_have_count(len(expected))
    expect(page.get_by_role("slider", name="Step")).to_have_attribute("aria-valuenow", str(expected[0].step))
    moments.nth(1).click()
    moments.nth(1).press("ArrowDown")
    third = expected[2].step
    expect(page.get_by_role("heading", name=f"Measured and predicted around step {third}")).to_be_visible()
    expect(page).to_have_url(re.compile(f"&at={third}$"))
    measured = studio_service.stores["toy"].episode(3).observations["position"][third + 1, 0]
    expect(page.get_by_text(f"{measured:.3g} m".replace("-", "−"))).to_be_visible()
    assert calls(page, verb=":surprise")[0].body == {}
    assert f"at={third}&steps=3" in calls(page, verb=":predict")[-1].path
    assert_accessible(page)


def test_a_step_is_chosen_in_a_chart_by_keyboard_and_pointer(page: Page) -> None:
    page.goto(f"/{PLACE}&at=9")
    chart = page.get_by_label("p-values of position; Enter chooses a step")
    chart.press("Home")
    chart.press("ArrowRight")
    chart.press("Enter")
    expect(page).to_have_url(re.compile("&at=1$"))
    page.get_by_label("p-values of all signals").locator(".u-over").click()
    expect(page).to_have_url(re.compile("&at=13$"))


def test_long_episodes_are_asked_in_parts_and_drawn_by_the_least_of_each_bucket(page: Page) -> None:
    page.goto(f"/{PLACE}")
    whole, parts = (page.evaluate(PARTS, room) for room in (5_000, 12))
    asked = [call.path.partition("world=toy")[2] for call in calls(page, verb=":surprise")]
    assert list(filter(None, asked)) == ["&at=0&steps=12", "&at=10&steps=12", "&at=20&steps=6"]
    assert parts["signals"]["position"]["steps"] == list(range(26))
    assert parts["rare"] == whole["rare"]
    assert [moment["step"] for moment in parts["moments"]] == [moment["step"] for moment in whole["moments"]]
    values = np.random.default_rng(0).random(1_000).round(6)
    script = 'async values => (await import("studio/views/surprise.js")).minima(values, 50, 100)'
    drawn = page.evaluate(script, values.tolist())
    least = values.reshape(10, 100).argmin(1) + 100 * np.arange(10)
    assert drawn == {"steps": (50 + least).tolist(), "p": values[least].tolist()}
