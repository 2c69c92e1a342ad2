"""The view Evidence: pages of a world, and two worlds compared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect
from tests.studio.toy_studio import StudioService
from tests.studio.watched_page import assert_accessible, calls

from worldline.plots.charts import ChartLine, LineChart
from worldline.report.page import render_page
from worldline.studio.pages import hash_of, report_hash
from worldline.world.bundle_io import save_world


@pytest.fixture
def with_pages(studio_service: StudioService) -> Iterator[StudioService]:
    """The service, whose world `toy` has a report with a chart, and an audit by another version."""
    line = ChartLine(label="a", style="world", x=[0, 1], y=[0, 1])
    chart = LineChart(
        title="Chart of the report", alt="", x_label="", y_label="", lines=[line], x_ends=(0, 1), y_ticks=[0, 1]
    )
    folder = studio_service.folder / "toy"
    save_world(folder, studio_service.worlds["toy"], report=render_page("The report", chart))
    older = render_page("The audit", chart).replace(report_hash()[1:-1], hash_of("of another version")[1:-1])
    (folder / "audit.html").write_text(older, encoding="utf-8")
    yield studio_service
    shutil.rmtree(folder)


def test_shows_pages_in_a_sandbox(with_pages: StudioService, sized_page: Page) -> None:
    sized_page.goto("/#/evidence?world=toy")
    report = sized_page.frame_locator("iframe[sandbox=allow-scripts]")
    expect(report.get_by_text("Chart of the report")).to_be_visible()
    expect(report.locator("canvas")).to_be_visible()  # its script may run
    size = sized_page.locator("iframe").bounding_box()
    assert size is not None
    assert size["height"] > 0.6 * (sized_page.viewport_size or {})["height"]
    sized_page.get_by_role("radio", name="Audit").click()
    expect(sized_page.locator("iframe")).to_have_attribute("title", "Audit")
    expect(report.locator("figure svg")).to_be_visible()
    assert "page=audit" in sized_page.url
    assert [call.path for call in calls(sized_page) if "/pages" in call.path] == [
        f"/v1/worlds/toy/pages{page}" for page in ("", "/report", "/audit")
    ]
    assert_accessible(sized_page)


def test_compares_worlds_while_other_tabs_are_used(with_pages: StudioService, sized_page: Page) -> None:
    page, waiting = sized_page, list[Route]()
    page.route("**/comparison?*", lambda route: waiting.append(route))  # playwright sets attributes of it
    page.goto("/#/evidence?world=toy&log=camera&page=compare")
    expect(page.get_by_text("Choose a second world")).to_be_visible()
    page.get_by_label("Second world").select_option("camera")
    expect(page.get_by_role("progressbar", name="Comparison")).to_be_visible()
    page.get_by_role("radio", name="Audit").click()
    expect(page.frame_locator("iframe").get_by_text("Chart of the report")).to_be_visible()
    page.get_by_role("radio", name="Compare").click()
    expect(page.get_by_text("can take minutes")).to_be_visible()
    waiting.pop().continue_()
    errors = page.get_by_role("region", name="Errors")
    expect(errors.get_by_role("row")).to_have_count(5)
    expect(errors.get_by_role("row").nth(1)).to_contain_text("position m")
    expect(errors.locator(".chip")).to_have_count(1)
    expect(errors.locator("svg.interval")).to_have_count(4)
    expect(page.get_by_role("region", name="Bands").get_by_text("%")).to_have_count(2)
    expect(page.get_by_role("region", name="Worlds").get_by_text("ms")).to_have_count(2)
    assert [call.path for call in calls(page, verb="/comparison")] == ["/v1/logs/camera/comparison?worlds=toy,camera"]
    assert_accessible(page)


def test_says_what_a_comparison_lacks(page: Page) -> None:
    one = {"worlds": [{"name": "toy", "reference": None, "version": None, "engine": "linear"}]}
    page.route("**/v1/worlds", lambda route: route.fulfill(json=one))
    page.goto("/#/evidence?world=toy&page=compare")
    expect(page.get_by_text("Only one world is served.")).to_be_visible()
