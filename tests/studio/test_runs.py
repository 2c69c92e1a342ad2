"""The view Runs: jobs with live curves."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.serve import job_stub
from tests.serve.job_stub import FAIL, WAIT
from tests.studio.conftest import watched
from tests.studio.toy_studio import StudioService, toy_studio
from tests.studio.watched_page import assert_accessible, calls, expect_problem


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioService]:
    """A service that runs jobs, whose processes are stubs."""
    command = (sys.executable, job_stub.__file__)
    with toy_studio(tmp_path_factory.mktemp("runs"), workers=1, beat_s=0.05, command=command) as service:
        yield service


@pytest.fixture
def runs(browser: Browser, working: StudioService) -> Iterator[Page]:
    with watched(browser, working.url) as page:
        page.goto("/#/runs?world=toy&log=toy")
        yield page


def test_follows_cancels_and_resumes_a_job(working: StudioService, runs: Page) -> None:
    expect(runs.get_by_text("There are no jobs yet.")).to_be_visible()
    runs.get_by_label("Name in the catalog").fill("greenhouse")
    runs.get_by_label("Time for the training").fill("10min")
    runs.get_by_label("Seed").fill(str(WAIT))
    runs.get_by_role("button", name="Learn", exact=True).click()
    expect(runs.get_by_role("heading", name="Learn greenhouse")).to_be_visible()
    (posted,) = (call for call in calls(runs) if call.method == "POST")
    assert posted.body == {"kind": "learn", "logs": "toy", "seed": WAIT, "name": "greenhouse", "budget": "10min"}
    expect(runs.get_by_text("2 of 2 steps, loss 0.5")).to_be_visible()
    expect(runs.get_by_role("figure", name="Loss over updates").locator("canvas")).to_be_visible()
    assert_accessible(runs)
    runs.get_by_role("button", name="Cancel").click()
    expect(runs.locator(".bar .chip")).to_have_text("cancelled")
    runs.get_by_role("button", name="Resume").click()
    expect(runs.locator(".bar .chip")).to_contain_text("running")
    path = next(call.path for call in calls(runs) if call.method == "DELETE")
    assert calls(runs, verb=":resume")[0].path == f"{path}:resume"
    runs.get_by_role("link", name="Imagine").click()
    expect(runs.get_by_role("button", name="As logged")).to_have_count(0)
    seen = len(calls(runs, verb=path))
    runs.wait_for_timeout(1_500)
    assert len(calls(runs, verb=path)) == seen  # nothing is asked after the view was left
    runs.go_back()
    (working.folder / "go").touch()
    expect(runs.locator(".bar .chip")).to_have_text("done")
    expect(runs.get_by_text("1.5 s")).to_be_visible()
    runs.get_by_text("Report", exact=True).click()
    expect(runs.frame_locator("iframe[sandbox=allow-scripts]").get_by_text("the report")).to_be_visible()


def test_a_failure_has_its_reason_and_an_audit_starts(runs: Page) -> None:
    runs.get_by_role("radio", name="Audit").click()
    runs.get_by_label("Seed").fill(str(FAIL))
    runs.get_by_role("button", name="Audit", exact=True).click()
    expect(runs.get_by_role("heading", name="Audit toy")).to_be_visible()
    expect(runs.get_by_role("alert").get_by_text("the logs are empty.")).to_be_visible()
    expect(runs.get_by_role("button", name="Run again")).to_be_visible()
    (posted,) = (call for call in calls(runs) if call.method == "POST")
    assert posted.body == {"kind": "audit", "logs": "toy", "seed": FAIL, "world": "toy"}


@pytest.mark.parametrize(("status", "text"), [(403, "lacks the scope job"), (404, "it has no database")])
def test_says_what_is_missing(page: Page, status: int, text: str) -> None:
    problem = {"code": "forbidden", "title": "", "detail": "", "request_id": "1"}
    page.route("**/v1/jobs", lambda route: route.fulfill(status=status, json=problem))
    expect_problem(page, f"status of {status}")
    page.goto("/#/runs")
    expect(page.get_by_text(text)).to_be_visible()
