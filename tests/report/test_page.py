from __future__ import annotations

import base64
import hashlib
import json
import re

from hypothesis import given
from hypothesis import strategies as st
from tests.report.parsed_page import ParsedPage

from worldline.plots.charts import ChartLine, LineChart
from worldline.plots.parts import Facts, Note
from worldline.report.page import render_page, show


def chart(label: str) -> LineChart:
    line = ChartLine(label=label, style="world", x=[0, 1], y=[1.0, 2.0])
    return LineChart(title="the title", alt="a", x_label="x", y_label="y", lines=[line])


def test_a_page_is_complete_and_blocks_everything_from_outside() -> None:
    html = render_page("<me>", Note("body"))
    assert html.startswith("<!doctype html>")
    assert "<title>&lt;me&gt;</title>" in html
    assert "default-src &#39;none&#39;" in html
    assert "script-src &#39;none&#39;" in html
    assert "prefers-color-scheme: dark" in html
    assert "<script" not in html


def test_the_only_script_is_allowed_by_its_hash() -> None:
    html = render_page("t", chart("a"))
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = dict(ParsedPage(html).elements[3][1])["content"]
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert "unsafe-eval" not in policy


HOSTILE = ["</script><img src=x onerror=alert(1)>", "<!--<script>", "\u2028&<>", "]]>", "{{ 7 * 7 }}"]


@given(st.one_of(st.sampled_from(HOSTILE), st.text()))
def test_data_of_a_chart_cannot_leave_their_script(label: str) -> None:
    html = str(show(chart(label)))
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["lines"][0]["label"] == label
    assert ParsedPage(html).counts() == ParsedPage(str(show(chart("word")))).counts()


def test_facts_may_repeat_a_name() -> None:
    assert show(Facts([("file", "a"), ("file", "b")])).count("<dt>file</dt>") == 2
