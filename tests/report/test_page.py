from __future__ import annotations

from worldline.report.markup import tag
from worldline.report.page import chapter, facts, header, render_page


def test_a_page_is_whole_and_asks_for_nothing_from_outside() -> None:
    html = render_page("<me>", tag("p", {}, "body"))
    assert html.startswith("<!doctype html>")
    assert "<title>&lt;me&gt;</title>" in html
    assert "default-src &#x27;none&#x27;" in html
    assert "prefers-color-scheme: dark" in html
    assert "http://" not in html
    assert "https://" not in html
    assert "<script" not in html


def test_what_is_empty_is_left_out() -> None:
    assert chapter("title") == ""
    assert chapter("title", "") == ""
    assert facts([]) == ""
    assert "glance" not in header("title", "", {})
    assert "<h2>title</h2>" in chapter("title", tag("p", {}, "x"))


def test_facts_of_the_same_name_are_all_there() -> None:
    html = facts([("file", "a"), ("file", "b")])
    assert html.count("<dt>file</dt>") == 2
