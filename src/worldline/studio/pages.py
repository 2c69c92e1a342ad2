"""The studio as a page of a service, and as one file that needs no service."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from worldline.report.page import page_policy

STYLES: Final = ("colours.css", "uPlot.min.css", "studio.css")
SCRIPTS: Final = ("uPlot.iife.min.js", "charts.js")
"""Classic scripts, before the modules."""
_VENDORED: Final = {
    "preact": "preact.mjs",
    "preact/hooks": "hooks.mjs",
    "htm": "htm.module.js",
    "@preact/signals-core": "signals-core.mjs",
}
_SHARED: Final = (
    ("worldline.plots", "colours.css"),
    ("worldline.report", "static/uPlot.min.css"),
    ("worldline.report", "static/uPlot.iife.min.js"),
    ("worldline.report", "static/charts.js"),
)
SAVED: Final = '<script type="text/plain" id="saved"></script>'
"""The place of the saved content in a file."""


@cache
def files() -> Mapping[str, bytes]:
    """The files of the studio by their path below `studio/`."""
    package = resources.files("worldline.studio")
    shared = {name.rpartition("/")[2]: resources.files(place).joinpath(name) for place, name in _SHARED}
    vendored = {f"vendor/{name}": package / "vendor" / name for name in _VENDORED.values()}
    own = {f"{path}": file for path, file in _tree(package / "static", "")}
    return {name: file.read_bytes() for name, file in {**shared, **vendored, **own}.items()}


def _tree(folder: Traversable, before: str) -> list[tuple[str, Traversable]]:
    """The files of a folder with their relative paths."""
    entries = [(f"{before}{entry.name}", entry) for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)]
    nested = [_tree(entry, f"{name}/") for name, entry in entries if entry.is_dir()]
    return [(name, entry) for name, entry in entries if entry.is_file()] + [file for part in nested for file in part]


@cache
def import_map() -> str:
    """The import map of the served page: own modules are imported as `studio/NAME`."""
    vendored = {name: f"./studio/vendor/{file}" for name, file in _VENDORED.items()}
    return json.dumps({"imports": {**vendored, "studio/": "./studio/"}})


def hash_of(script: str) -> str:
    """The source expression of an inline script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def report_hash() -> str:
    """As `hash_of`, for the script of reports: a frame with a report inherits the policy of the studio."""
    return page_policy().rpartition(" ")[2]


@cache
def index() -> str:
    """The page of a service. Its other files lie below `studio/`."""
    styles = "".join(f'<link rel="stylesheet" href="studio/{name}">' for name in STYLES)
    scripts = "".join(f'<script src="studio/{name}"></script>' for name in SCRIPTS)
    head = f'{styles}<script type="importmap">{import_map()}</script>{scripts}'
    return _page("worldline", head, '<script type="module" src="studio/main.js"></script>')


def saved_page(title: str, saved: Mapping[str, Any] | None) -> str:
    """One file with all modules, styles and saved content. It makes no requests.

    Args:
        title: of the page.
        saved: what `saved.js` restores: the answers of a view, or a world. None leaves the place empty, for a browser
            that adds it.
    """
    sources = {name: content.decode() for name, content in files().items() if not name.endswith("LICENSE")}
    modules = {name: sources[f"vendor/{file}"] for name, file in _VENDORED.items()}
    modules |= {
        f"studio/{name}": text for name, text in sources.items() if name.endswith(".js") and name not in SCRIPTS
    }
    links = {
        name: f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"
        for name, text in modules.items()
    }
    mapped, start = json.dumps({"imports": links}), 'import "studio/main.js";'
    scripts = [sources[name] for name in SCRIPTS]
    allowed = " ".join([*map(hash_of, [mapped, start, *scripts]), report_hash()])
    policy = f"default-src 'none'; script-src data: {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    style = "\n".join(sources[name] for name in STYLES)
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style}</style>'
    head += f'<script type="importmap">{mapped}</script>' + "".join(f"<script>{text}</script>" for text in scripts)
    page = _page(title, head, f'{SAVED}<script type="module">{start}</script>')
    if saved is None:
        return page
    content = json.dumps(saved, allow_nan=False).replace("<", "\\u003c")
    return page.replace(SAVED, SAVED.replace("></", f">{content}</", 1), 1)


def _page(title: str, head: str, end: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'  # else browsers ask for one
        f'<meta name="report-script" content={report_hash()}>'
        f'<title>{escape(title)}</title>{head}</head><body><div id="studio"></div>'
        f"<noscript>The studio needs JavaScript.</noscript>{end}</body></html>"
    )
