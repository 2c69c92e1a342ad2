"""Files that are opened without a service: views that were saved, and results of `worldline.save_page`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from tests.studio.conftest import watched
from tests.studio.toy_studio import StudioService
from tests.studio.watched_page import assert_accessible, calls

import worldline
from worldline.episode import Arrays, Episode
from worldline.errors import InputError
from worldline.planning.base import Goal
from worldline.schema import Kind, Role, Schema, Signal
from worldline.studio.result_page import MAX_NUMBERS
from worldline.world.base import Forecast, Prediction
from worldline.world.result import Result

MAX_BYTES = 2 * 10**6


@contextmanager
def opened(browser: Browser, path: Path, *, width: int = 1_280) -> Iterator[Page]:
    """The file in a new window without a network. Fails if it asks for anything, or logs an error."""
    with watched(browser, "http://no.service", width=width) as page:
        page.context.set_offline(True)
        page.goto(path.as_uri())
        yield page
        assert not calls(page)


def results(service: StudioService) -> dict[str, Result]:
    toy, camera = service.worlds["toy"], service.worlds["camera"]
    episode, filmed = (service.stores[name].episode(6) for name in ("toy", "camera"))

    def part(values: Arrays, steps: int) -> Arrays:
        return {name: value[4 : 4 + steps] for name, value in values.items()}

    def inputs(logged: Episode, steps: int) -> tuple[Arrays, Arrays]:
        return part(logged.actions, steps), part(logged.exogenous, steps)

    actions, wind = inputs(episode, 6)
    long, long_wind = inputs(filmed, 28)
    goal = Goal(targets={"position": np.zeros(2)})
    history = episode.history(at=4, length=2)
    return {
        "12 of 36 frames were left out": camera.predict(
            filmed.history(at=4, length=1),
            {name: np.tile(value, (2, 1))[:36] for name, value in long.items()},
            exogenous={name: np.tile(value, (2, 1))[:36] for name, value in long_wind.items()},
            num_samples=0,
            images=True,
        ),
        "actions": toy.plan(history, goal, horizon=6, exogenous=wind),
        "other actions": toy.what_if(episode, 4, actions),
        "p-values of the steps": toy.surprise(episode),
        "candidates": toy.score(
            history, {name: np.stack([value] * 3) for name, value in actions.items()}, goal, exogenous=wind
        ),
    }


def test_saves_each_result(browser: Browser, studio_service: StudioService, tmp_path: Path) -> None:
    for text, result in results(studio_service).items():
        path = worldline.save_page(result, tmp_path / "result.html")
        assert path.stat().st_size < MAX_BYTES
        with opened(browser, path) as page:
            expect(page.get_by_text(result.headline())).to_be_visible()
            expect(page.get_by_text(text).first).to_be_visible()
            curves = [name for series in result.series(None) for name in series.names]
            expect(page.get_by_role("figure", name=re.compile("over"))).to_have_count(len(curves))
            last = result.series(None)[-1].values[-1]
            expect(page.locator(".val").last).to_contain_text(re.sub("^-", "−", f"{float(np.ravel(last)[-1]):.3g}"))
            assert_accessible(page)


def test_saved_pictures_follow_the_slider(browser: Browser, studio_service: StudioService, tmp_path: Path) -> None:
    prediction = next(iter(results(studio_service).values()))
    with opened(browser, worldline.save_page(prediction, tmp_path / "forecast.html"), width=360) as page:
        first = page.get_by_alt_text("camera at step 1").get_attribute("src")
        page.get_by_label("Frame of camera").press("End")
        assert page.get_by_alt_text("camera at step 36").get_attribute("src") != first
        page.get_by_role("figure", name=re.compile("over")).first.focus()
        page.keyboard.press("Home")
        expect(page.get_by_alt_text("camera at step 1", exact=True)).to_be_visible()


def test_a_long_result_is_reduced_to_2_mb(browser: Browser, tmp_path: Path) -> None:
    signals = [Signal(name=f"s{k}", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m") for k in range(30)]
    mean = np.random.default_rng(0).normal(size=(2_000, 1)).astype(np.float32)
    forecast = Forecast(mean=mean, low=mean - np.inf, high=mean + 1, horizon=0, samples=np.stack([mean] * 30))
    prediction = Prediction(
        signals={signal.name: forecast for signal in signals},
        level=0.9,
        trust=np.full(3, np.nan),
        calibrated=True,
        schema=Schema(signals=tuple(signals), step_s=None),
    )
    plain = Prediction(**{**vars(prediction), "trust": np.nan})
    path = worldline.save_page(plain, tmp_path / "long.html")
    assert MAX_NUMBERS < 30 * 2_000 * 28
    assert path.stat().st_size < MAX_BYTES
    with opened(browser, path) as page:
        expect(page.get_by_text("every 17th row")).to_be_visible()
        page.get_by_role("button", name="Show all 30 curves").click()
        expect(page.get_by_role("figure", name="s29 over steps")).to_be_visible()
    with pytest.raises(InputError, match="no world 3"):
        worldline.save_page(prediction, path, world=3)


def test_save_as_file_shows_the_same_without_a_service(
    browser: Browser, page: Page, studio_service: StudioService, tmp_path: Path
) -> None:
    page.goto("/#/evidence?world=camera&log=camera&episode=4&at=6&steps=8")
    page.get_by_role("link", name="Imagine").click()
    findings = page.locator("aside").last
    expect(findings.get_by_text("inside the band").first).to_be_visible()
    push = page.get_by_role("slider", name=re.compile("^push")).first
    for value in ("0.2", "0.5"):
        push.fill(value)
        page.wait_for_load_state("networkidle")
    expect(page.get_by_role("button", name="As logged again")).to_be_visible()

    def shown(view: Page) -> list[str]:
        tables = view.locator(".numbers")
        for k in range(tables.count()):
            tables.nth(k).evaluate("part => { part.open = true }")
        expect(tables.first.locator("td").first).to_be_visible()
        return [*tables.all_inner_texts(), *view.locator("aside").last.locator("dl").all_inner_texts()]

    before = shown(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save as file").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.name == "camera-imagine.html"
    assert path.stat().st_size < MAX_BYTES
    assert path.read_text().count(":predict?") == 2  # only what is shown: curves and pictures
    with opened(browser, path) as file:
        for _ in range(2):
            expect(file.locator("aside").last.get_by_text("inside the band").first).to_be_visible()
            assert shown(file) == before
            file.reload()
        expect(file.get_by_role("button", name="As logged again")).to_be_visible()
        expect(file.get_by_role("link", name="Imagine")).to_have_count(0)
        file.get_by_role("slider", name=re.compile("^push")).first.fill("-0.5")
        expect(file.get_by_text("This file holds only what was saved")).to_be_visible()
