from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.report.parsed_page import ParsedPage

from worldline.audit.diagnostics import Diagnostics
from worldline.audit.report_evidence import (
    Decoded,
    Films,
    Forecasts,
    ForecastSample,
    GoalOutcome,
    LatentHealth,
    Learning,
    Planning,
    PredictedPaths,
    ReadoutQuality,
    ReadoutRow,
    Series,
    Vital,
)
from worldline.report.report import Report, render
from worldline.stats import wilson

MARKERS = {
    Planning: "Goals reached",
    Learning: "Validation loss",
    LatentHealth: "The latent did not collapse",
    ReadoutQuality: "can be read from the latent",
    Diagnostics: "The world uses its actions",
    PredictedPaths: "predicted steps",
    Decoded: "The decoder serves visualisation only",
    Films: "The plan shown",
    Forecasts: "One held-out forecast",
}


def test_the_page_is_well_formed_and_complete(report: Report) -> None:
    html = render(report)
    page = ParsedPage(html)
    assert html.startswith('<!doctype html>\n<html lang="en">')
    assert page.headings == [
        "A toy world",
        "Predictions and readouts",
        "Training",
        "Open-loop error",
        "Use of actions and calibration",
        "Planning",
        "Methods and details",
    ]
    assert len(html) < 3_000_000


def test_nothing_comes_from_outside(report: Report) -> None:
    html = render(report)
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe|javascript:", html, re.IGNORECASE)
    for _, attributes in ParsedPage(html).elements:
        for name in ("src", "href", "srcset"):
            assert str(attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert "default-src 'none'" in html.replace("&#x27;", "'")


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


def test_every_chart_folds_its_numbers(report: Report) -> None:
    html = render(report)
    charts = re.findall(r'<figure class="(?:chart|intervals)">.*?</figure>', html, re.DOTALL)
    assert len(charts) > 8
    assert all("<details>" in chart and "<table" in chart for chart in charts)


def test_it_suits_dark_print_and_stillness(report: Report) -> None:
    html = render(report)
    for query in ("prefers-color-scheme: dark", "prefers-reduced-motion: reduce", "@media print", "max-width"):
        assert query in html
    assert html.count("as a strip of frames") == 1
    assert 'name="viewport"' in html


def test_the_same_report_gives_the_same_bytes_in_any_order(report: Report) -> None:
    assert render(report) == render(report)
    assert render(replace(report, sections=report.sections[::-1])) == render(report)


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


def test_the_headline_is_the_success_rate(report: Report) -> None:
    text = render(report).replace("\u00a0", " ")
    assert '<p class="big good">99.0 %</p>' in text
    assert "95 % interval 94.6 to 99.8 %" in text


def test_without_plans_the_headline_is_the_signals_won(report: Report, diagnostics: Diagnostics) -> None:
    html = render(replace(report, sections=(diagnostics,)))
    assert re.search(r'<p class="big \w+">[01] of 1</p>', html)
    assert "Error reduction after" in html


def test_an_undiagnosed_part_is_left_out(report: Report, diagnostics: Diagnostics) -> None:
    bare = replace(diagnostics, gaps=(), bands=(), skills=())
    assert ParsedPage(render(replace(report, sections=(bare,)))).headings == [
        "A toy world",
        "Open-loop error",
        "Methods and details",
    ]


def test_missing_steps_and_endless_bands_can_be_shown(report: Report, diagnostics: Diagnostics) -> None:
    spoiled = replace(
        diagnostics,
        errors=tuple(
            replace(one, rmse=replace(one.rmse, value=(np.nan, *one.rmse.value[1:]))) for one in diagnostics.errors
        ),
        bands=tuple(replace(band, width=(float("inf"),) * 6) for band in diagnostics.bands),
    )
    html = render(replace(report, sections=(spoiled,)))
    ParsedPage(html)
    assert "∞" in html


ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='x",
    "</style><b>",
    "{{x}}",
    "&amp;",
    "]]>",
]


def poisoned(report: Report, text: str) -> Report:
    """The report with `text` wherever a user's string can be."""
    found: list[Any] = []
    for one in report.sections:
        if isinstance(one, Planning):
            rows = [
                GoalOutcome(name=text, role=row.role, all=row.all, split={text: wilson(1, 2)}) for row in one.outcomes
            ]
            found.append(replace(one, task=text, outcomes=tuple(rows)))
        elif isinstance(one, Learning):
            series = Series(name=text, steps=(0, 1), values=(1.0, 0.5))
            found.append(replace(one, terms=(series,)))
        elif isinstance(one, LatentHealth):
            found.append(
                LatentHealth(
                    vitals=tuple(
                        Vital(series=replace(v.series, name=text), threshold=v.threshold, most=v.most)
                        for v in one.vitals
                    )
                )
            )
        elif isinstance(one, ReadoutQuality):
            found.append(
                ReadoutQuality(
                    rows=tuple(ReadoutRow(signal=text, unit=text, r2=row.r2, rmse=row.rmse) for row in one.rows)
                )
            )
        elif isinstance(one, PredictedPaths):
            found.append(replace(one, signal=text, unit=text))
        elif isinstance(one, Decoded):
            found.append(replace(one, camera=text))
        elif isinstance(one, Forecasts):
            samples: list[ForecastSample] = [replace(sample, label=text, unit=text) for sample in one.samples]
            found.append(replace(one, samples=tuple(samples)))
        elif isinstance(one, Diagnostics):
            found.append(
                replace(
                    one,
                    units={text: text},
                    errors=tuple(replace(e, signal=text, world=text if e.world else "") for e in one.errors),
                    skills=tuple(replace(s, signal=text, against=text) for s in one.skills),
                    gaps=tuple(replace(g, signal=text if g.signal else None) for g in one.gaps),
                    bands=tuple(replace(b, signal=text) for b in one.bands),
                )
            )
        else:
            found.append(one)
    return Report(title=text, subtitle=text, facts={text: text}, sections=tuple(found))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
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
