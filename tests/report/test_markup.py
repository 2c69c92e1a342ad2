from __future__ import annotations

from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from worldline.report.markup import Html, join, numbers, table, tag


@given(st.text(), st.text())
def test_strings_are_escaped_in_text_and_attributes(text: str, value: str) -> None:
    element = tag("p", {"title": value}, text)
    assert element.count("<") == 2
    assert element.count('"') == 2
    assert unescape(element) == f'<p title="{value}">{text}</p>'


def test_markup_is_not_escaped_twice() -> None:
    inner = tag("b", {}, "a < b")
    assert tag("p", {}, inner, "&") == "<p><b>a &lt; b</b>&amp;</p>"
    assert join([inner, "<"]) == "<b>a &lt; b</b>&lt;"
    assert isinstance(tag("p", {}), Html)


def test_void_elements_have_no_end() -> None:
    assert tag("img", {"alt": "x"}) == '<img alt="x">'


def test_tables_have_titles_for_rows_and_columns() -> None:
    built = table(["signal", "error"], [["place", "1 m"]], caption="errors")
    assert '<th scope="col">error</th>' in built
    assert '<th scope="row">place</th><td>1 m</td>' in built
    assert 'aria-label="errors"' in built
    assert numbers(["a"], [["b"]], caption="c").startswith("<details><summary>Numbers</summary>")
