"""Renders a self-contained HTML page from its parts."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from worldline.plots.parts import PagePart

_STYLES: Final = ("plots/colours.css", "report/static/uPlot.min.css", "report/static/page.css")
_SCRIPTS: Final = ("report/static/uPlot.iife.min.js", "report/static/charts.js")


def render_page(title: str, *parts: PagePart | None) -> str:
    """A self-contained UTF-8 page with light and dark mode; deterministic.

    The browser blocks network access, and all scripts except the one of the page, by a content security policy with its
    hash. Data of charts are JSON that the script reads; without script the page has drawings and tables.

    Args:
        title: title of the page.
        parts: content of the page, in order.
    """
    body = Markup("").join(show(part) for part in parts)
    script = _script() if 'type="application/json"' in body else ""
    page = _environment().get_template("page.html.jinja")
    return page.render(title=title, body=body, policy=page_policy(script), style=_style(), script=Markup(script))


def page_policy(script: str | None = None) -> str:
    """The content security policy of a page with this script; None for the script of pages with charts."""
    script = _script() if script is None else script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"


def show(part: PagePart | str | None) -> Markup:
    """The HTML of a part, or an escaped string."""
    if part is None or isinstance(part, str):
        return escape(part or "")
    macros = _environment().get_template("parts.html.jinja").module
    return Markup(getattr(macros, type(part).__name__)(part))


@cache
def _environment() -> Environment:
    """Templates with escaped strings; `tojson` escapes <, >, &, ' and all characters outside ASCII."""
    environment = Environment(loader=PackageLoader("worldline.report"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.globals["show"] = show
    return environment


@cache
def _style() -> Markup:
    return Markup("\n".join(map(_text, _STYLES)))


@cache
def _script() -> str:
    return "\n".join(map(_text, _SCRIPTS))


def _text(path: str) -> str:
    return resources.files("worldline").joinpath(path).read_text(encoding="utf-8")
