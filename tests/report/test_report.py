from __future__ import annotations

import base64
import io
import re
import runpy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.audit.toy_reports import TRUST, flat
from tests.report.parsed_page import ParsedPage
from tests.report.test_page import HOSTILE

from worldline.audit.diagnostics import Diagnostics, SkillCurve
from worldline.audit.forecast_measurements import Decoded, DecodedWindow, Forecasts, TrustedHorizons
from worldline.audit.planning_measurements import Films, Planning
from worldline.audit.training_measurements import Learning
from worldline.report.learn_page import Report, render

MARKERS = {
    Planning: "Goals reached",
    Learning: "Validation loss",
    Diagnostics: "The world uses its actions",
    Decoded: "The decoder serves visualisation only",
    Films: "shown reached the goal",
    Forecasts: "Episode 1: typical",
}


def test_the_page_is_well_formed_and_complete(report: Report) -> None:
    html = render(report)
    page = ParsedPage(html)
    assert html.startswith('<!doctype html>\n<html lang="en">')
    assert page.headings == [
        "Planning reaches 99 of 100\u00a0goals: 99.0\u00a0% (94.6 to 99.8\u00a0%).",
        "Worth knowing",
        "Next",
        "Planning",
        "Images",
        "Use of actions",
        "Prediction bands",
        "All signals in these episodes",
        "Errors and baselines",
        "Training and latents",
        "Methods and details",
    ]
    assert len(html) < 3_000_000


def test_nothing_comes_from_outside(report: Report) -> None:
    html = render(report)
    assert not re.search(r"@import|url\(|<link|<iframe|<script src|javascript:", html, re.IGNORECASE)
    for _, attributes in ParsedPage(html).elements:
        for name in ("src", "href", "srcset"):
            assert str(attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert "default-src 'none'" in html.replace("&#39;", "'")


def test_everything_seen_is_also_said(report: Report) -> None:
    page = ParsedPage(render(report))
    for tag, attributes in page.elements:
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"]
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["for"] for _, attributes in page.elements if "for" in attributes}
    assert targets == set(ids)


def test_every_chart_of_intervals_folds_its_numbers(report: Report) -> None:
    html = render(report)
    charts = re.findall(r'<figure class="intervals">.*?</figure>', html, re.DOTALL)
    assert len(charts) > 4
    assert all("<details>" in chart and "<table" in chart for chart in charts)


@pytest.mark.parametrize("kind", MARKERS, ids=lambda kind: kind.__name__)
def test_only_what_is_given_is_shown(report: Report, kind: type) -> None:
    alone = replace(report, sections=tuple(one for one in report.sections if isinstance(one, kind)))
    html = render(alone)
    ParsedPage(html)
    assert MARKERS[kind] in html
    for other, marker in MARKERS.items():
        if other is not kind:
            assert marker not in html


def test_an_empty_report_is_still_a_page() -> None:
    html = render(Report(title="Nothing yet", subtitle="", facts={}, sections=()))
    assert ParsedPage(html).headings == ["Nothing yet"]


def test_without_plans_the_headline_is_an_error_in_units(report: Report, diagnostics: Diagnostics) -> None:
    page = ParsedPage(render(replace(report, sections=(diagnostics, TRUST))))
    text = " ".join(page.text.split())
    assert page.headings[0].replace("\u00a0", " ") == "place: error 0.60 m after 30 min, 62 % below persistence."
    assert "place 0.10 m 0.60 m 62 % 100 % 20 min" in text
    assert "One sensor was frozen." in text
    assert "worldline audit world NEW-LOGS" in text


def skilled(diagnostics: Diagnostics, against: str, low: float, high: float) -> Diagnostics:
    """With one more baseline that has half of the world's error, or 24 times."""
    value = (low + high) / 2
    own = next(one for one in diagnostics.errors if not one.world)
    theirs = tuple(one / (1 - value) for one in own.rmse.value)
    rival = replace(own, world=against, rmse=replace(own.rmse, value=theirs))
    skills = (*diagnostics.skills, SkillCurve(against=against, signal="place", skill=flat(low, high, 6)))
    return replace(diagnostics, errors=(*diagnostics.errors, rival), skills=skills)


@pytest.mark.parametrize(
    ("ends", "deviation", "cell", "said"),
    [
        ((0.3, 0.5), 1.5, "40 %", "40 % below the best linear baseline"),
        ((-0.1, 0.3), 1.5, "tie", "tied with the best linear baseline"),
        ((-0.6, -0.4), 1.5, "50 % above", "50 % above the best linear baseline"),
        ((-0.6, -0.4), 100.0, "tie", "tied with persistence and the best linear baseline"),
        ((-24.0, -22.0), 1.5, "×24", "24 times that of the best linear baseline"),
        ((0.998, 0.9999), 1.5, "over 99 %", "over 99 % below the best linear baseline"),
    ],
)
def test_ties_are_ties_and_no_percentage_exceeds_a_thousand(
    report: Report, diagnostics: Diagnostics, ends: tuple[float, float], deviation: float, cell: str, said: str
) -> None:
    trust = replace(TRUST, deviation={"place": deviation})
    page = ParsedPage(render(replace(report, sections=(skilled(diagnostics, "linear", *ends), trust))))
    assert said in page.headings[0].replace("\u00a0", " ")
    assert re.search(rf"0.60 m (62 %|tie) {cell}", " ".join(page.text.split()))


def test_constant_signals_are_left_out(report: Report, diagnostics: Diagnostics) -> None:
    still = replace(TRUST, trusted=(), deviation={"place": 0.0})
    html = render(replace(report, sections=(diagnostics, still)))
    assert ParsedPage(html).headings[0] == "A toy world"
    assert "place [m]" not in html


def test_baselines_that_see_more_than_the_world_are_left_out(report: Report, diagnostics: Diagnostics) -> None:
    trust = TrustedHorizons(trusted=(), deviation={"place": 1.5}, unseen=("place",))
    page = ParsedPage(render(replace(report, sections=(skilled(diagnostics, "linear", -0.6, -0.4), trust))))
    assert page.headings[0].replace("\u00a0", " ") == "place: error 0.60 m after 30 min."
    assert "The world does not see place" in page.text
    assert "worse than" not in page.text


def test_worlds_of_pixels_begin_with_real_and_imagined_frames(report: Report) -> None:
    html = render(report)
    assert html.index("true and predicted frames") < html.index("Error (RMSE) on")
    shown = re.findall(r'<img class="\w+" src="data:image/png;base64,([^"]+)" alt="((?:true|predicted), [^"]+)">', html)
    ahead = ["now", *(f"{step} steps ahead" for step in (2, 4, 6, 8))]
    assert [said for _, said in shown] == 2 * [f"{name}, {when}" for name in ("true", "predicted") for when in ahead]
    (found,) = (one for one in report.sections if isinstance(one, Decoded))
    window = found.windows[0]
    for (data, _), frame in zip(shown, [*window.real, *window.drawn], strict=False):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), frame)


def test_large_frames_are_shrunk_and_grey_ones_shown(report: Report) -> None:
    (found,) = (one for one in report.sections if isinstance(one, Decoded))
    frames = np.full((5, 300, 600, 1), 99, np.uint8)
    large = replace(found, step_s=3600.0, windows=(DecodedWindow(real=frames, drawn=frames),))
    html = render(replace(report, sections=(large,)))
    assert "hours ahead" in html
    for data in re.findall(r'<img class="smooth" src="data:image/png;base64,([^"]+)"', html):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert pixels.shape == (128, 256, 3)
        assert (pixels == 99).all()


def test_missing_steps_and_endless_bands_can_be_shown(report: Report, diagnostics: Diagnostics) -> None:
    losing = [replace(one.rmse, value=(np.nan, *one.rmse.value[1:])) for one in diagnostics.errors]
    errors = tuple(replace(one, rmse=rmse) for one, rmse in zip(diagnostics.errors, losing, strict=True))
    bands = tuple(replace(band, width=(float("inf"),) * 6) for band in diagnostics.bands)
    html = render(replace(report, sections=(replace(diagnostics, errors=errors, bands=bands),)))
    ParsedPage(html)
    assert "∞" in html


ATTACKS = [*HOSTILE, '"><img src=x onerror=alert(1)>', "' onload='x", "</style><b>", "&amp;", "<script>alert(1)"]


def poisoned(part: Any, text: str, name: str = "") -> Any:
    """A report with `text` wherever a user's string can be."""
    if isinstance(part, str):
        return text if part and name not in ("role", "change", "stops") else part  # these are the toolkit's own words
    if isinstance(part, tuple):
        return tuple(poisoned(one, text, name) for one in part)
    if isinstance(part, Mapping):
        return {poisoned(key, text): poisoned(value, text) for key, value in part.items()}
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{one.name: poisoned(getattr(part, one.name), text, one.name) for one in fields(part)})
    return part


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=st.one_of(st.sampled_from(ATTACKS), st.text(alphabet="<>&\"'/ax= ", min_size=1)))
def test_no_string_becomes_markup(report: Report, text: str) -> None:
    """The page has the same elements and attributes whatever its strings say."""
    harmless, html = ParsedPage(render(poisoned(report, "word"))), render(poisoned(report, text))
    page = ParsedPage(html)
    assert page.counts() == harmless.counts()
    for (tag, attributes), (expected, same) in zip(page.elements, harmless.elements, strict=True):
        assert (tag, list(attributes)) == (expected, list(same))


def test_headings_never_skip_a_level(report: Report) -> None:
    levels = [int(tag[1]) for tag, _ in ParsedPage(render(report)).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_figure_of_the_page_for_contributors_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text().split("## Adding a figure to the report")[1]
    figure, check = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[:2]
    (tmp_path / "episode_lengths.py").write_text(figure)
    (tmp_path / "check.py").write_text(check.replace("worldline.audit.episode_lengths", "episode_lengths"))
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path(str(tmp_path / "check.py"))["test_the_report_shows_the_lengths"]()
