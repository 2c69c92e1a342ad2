"""Pictures of the studio: the animated tour of the README, and one picture of each view for the docs.

Run: .venv/bin/python benchmarks/studio_tour.py FOLDER [--images docs/images]
FOLDER is that of benchmarks/studio.py, which learns the worlds into it if they are missing. Writes studio-tour.webp,
at most 3 MB, and studio-VIEW.png.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import io
import re
from pathlib import Path
from typing import Final

import numpy as np
from common import ROOT, Row, arguments, kept_or_temporary
from PIL import Image
from playwright.sync_api import Page, expect
from serve import served
from studio import SIZE, chromium, prepared, view

TOUR_SIZE: Final = (960, 600)
FRAME_MS, PAUSE_MS = 90, 1_400
"""How long a frame of the tour stays, and the last one of a view."""
NUM_FRAMES: Final = 14
"""While a slider moves."""
MAX_BYTES: Final = 3_000_000
QUALITIES: Final = (80, 65, 50, 35)

SHOWN: Final = '["air_temperature","air_humidity"]'
WAITING: Final = re.compile(
    "^(Loading|Predicting|Inferring|Planning|Measuring the surprise of .*|Both worlds predict the episodes)…"
)
GREENHOUSE: Final[Row] = {"world": "greenhouse", "log": "greenhouse"}
DEMO: Final[Row] = {"world": "demo", "log": "demo"}
VIEWS: Final[dict[str, Row]] = {
    "home": GREENHOUSE,
    "imagine": GREENHOUSE | {"episode": 46, "at": 66, "show": SHOWN},
    "dream": DEMO | {"episode": 3, "at": 10},
    "what-if": GREENHOUSE | {"episode": 46, "at": 66, "show": SHOWN, "edits": '{"heating":[[0,120],[24,20]]}'},
    "plan": GREENHOUSE | {"episode": 46, "at": 66, "goal": '{"targets":{"air_temperature":22},"ran":1}'},
    "surprise": GREENHOUSE | {"episode": 12},
    "evidence": GREENHOUSE | {"page": "compare", "other": "linear"},
    "runs": GREENHOUSE,
}
"""The place that each view shows."""
JOB: Final = {"kind": "learn", "logs": "greenhouse", "name": "example", "recipe": "vectors", "budget": "2min"}
JOB_MS: Final = 60_000
"""From the start of the job to its picture."""
SLIDERS: Final = {"imagine": "heating", "dream": "Present"}
"""The slider that the tour moves in a view."""


def shoot(page: Page, url: str, images: Path) -> list[tuple[bytes, int]]:
    """Takes the picture of each view; returns the frames of the tour and their milliseconds."""
    film = []
    for name, place in VIEWS.items():
        if name == "runs":
            job = page.request.post(f"{url}/v1/jobs", data=JOB).json()["id"]
            page.wait_for_timeout(JOB_MS)
            place = place | {"job": job}
        page.goto(view(url, name, **place))
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1_000)
        expect(page.get_by_text(WAITING)).to_have_count(0, timeout=120_000)
        page.wait_for_timeout(500)
        page.screenshot(path=images / f"studio-{name}.png")
        if name in SLIDERS:
            slider = page.get_by_role("slider", name=SLIDERS[name]).first
            slider.scroll_into_view_if_needed()
            box = slider.bounding_box()
            assert box is not None, name
            row = box["y"] + box["height"] / 2
            page.mouse.move(box["x"] + 0.3 * box["width"], row)
            page.mouse.down()
            for share in np.linspace(0.3, 0.8, NUM_FRAMES):
                page.mouse.move(box["x"] + float(share) * box["width"], row)
                page.wait_for_timeout(150)  # the prediction arrives
                film.append((page.screenshot(), FRAME_MS))
            page.mouse.up()
        film.append((page.screenshot(), PAUSE_MS))
    return film


def save_tour(film: list[tuple[bytes, int]], path: Path) -> None:
    """Writes an animated WebP in the best quality that is small enough."""
    frames = [
        Image.open(io.BytesIO(shot)).convert("RGB").resize(TOUR_SIZE, Image.Resampling.LANCZOS) for shot, _ in film
    ]
    lasts_ms = [lasts for _, lasts in film]
    for quality in QUALITIES:
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=lasts_ms, loop=0, quality=quality, method=6
        )
        if (size := path.stat().st_size) <= MAX_BYTES:
            print(f"{path}: {size:,} bytes, quality {quality}")
            return
    raise SystemExit(f"{path} has {size:,} bytes, at most {MAX_BYTES:,} are allowed. Film fewer views.")


def main() -> None:
    """Serves the worlds and takes the pictures."""
    options = arguments(__doc__, folder=Path, images=ROOT / "docs" / "images")
    with kept_or_temporary(options.folder) as folder:
        worlds, logs = prepared(folder)
        shown = {name: worlds[name] for name in ("greenhouse", "demo", "linear")}
        os.environ["WORLDLINE_HOME"] = str(folder / "home")  # of the world that the job publishes
        with served(shown, folder, batch=32, more=("--data", str(logs))) as (port, _), chromium() as browser:
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            save_tour(shoot(page, f"http://127.0.0.1:{port}", options.images), options.images / "studio-tour.webp")


if __name__ == "__main__":
    main()
