"""The studio in Chromium: delay of the prediction while an action is dragged, frames while lists and time scroll.

Run: .venv/bin/python benchmarks/studio.py [FOLDER] [--parts drag large play] [--seconds 10] [--repeats 3]
Learns the demo world, a greenhouse and a linear greenhouse into FOLDER (default: a temporary one) if it holds none.
Writes benchmarks/results/studio.json.

Playwright moves the mouse 60 times a second over a page of `worldline serve`, which runs in another process with one
thread per worker. In the part drag, the delay of a move ends with the frame after the first prediction that was
requested after the move and drawn. Pictures have their own requests, a few a second. Repeats use other episodes. In
the part large, the log has 10,000 episodes, one of 100,000 steps, 64 signals and pictures of 224 pixels. A frame
lasts from one requestAnimationFrame to the next. In the part play, the page comes from `worldline export`, and is
opened from disk.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
from common import Row, arguments, kept_or_temporary, median_interval, one_thread, read, share, show_bars, stored, write
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect, sync_playwright
from serve import WORLDLINE, learned, served
from studio_logs import NUM_EPISODES, SCHEMA, pattern, record_large

from worldline.engines.baselines import Linear
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld

SIZE: Final = ViewportSize(width=1_280, height=800)
MOVE_S: Final = 1 / 60
SLOW_FRAME_MS: Final = 50.0
PLAY_RATE: Final = 30.0
PLAYED: Final = ("greenhouse",)
ACTIONS: Final = {"demo": "move", "greenhouse": "heating"}

RECORDER: Final = """
window.seen = {moves: [], asked: [], drawn: [], frames: []};
addEventListener("pointermove", event => seen.moves.push(event.timeStamp), true);
const send = window.fetch;
window.fetch = async (...request) => {
  const began = performance.now(), answer = await send(...request);
  const isCurves = answer.url.includes(":predict") && !request[1].body.includes('"images"');
  if (answer.ok && isCurves) seen.asked.push([began, performance.now()]);
  return answer;
};
new MutationObserver(() => {
  const changed = performance.now();
  requestAnimationFrame(() => seen.drawn.push([changed, performance.now()]));
}).observe(document, {subtree: true, attributes: true, attributeFilter: ["data-predicted"]});
const tick = now => { seen.frames.push(now); requestAnimationFrame(tick); };
requestAnimationFrame(tick);
"""
"""Records milliseconds since the page was opened. `asked` are the predictions with their begin and end, but not those
of pictures; `drawn` are the changes of a predicted curve, and the frames after them."""
SCROLLED: Final = "[...document.querySelectorAll('*')].reduce((sum, part) => sum + part.scrollTop, scrollY)"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium of the system, without a window."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("Chromium is missing. Run scripts/ci-deps.")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])


def view(url: str, name: str, **state: object) -> str:
    """The URL of a view of the studio."""
    return f"{url}/#/{name}?{urlencode(state)}"


def in_turn(seconds: float, act: Callable[[float], None]) -> None:
    """Calls `act` 60 times a second with a share that swings between 0 and 1 every two seconds."""
    began_s = time.perf_counter()
    for number in range(int(seconds / MOVE_S)):
        act(0.5 + 0.5 * float(np.sin(np.pi * number * MOVE_S)))
        time.sleep(max(0.0, began_s + (number + 1) * MOVE_S - time.perf_counter()))


def drag(page: Page, slider: Locator, seconds: float) -> dict[str, list[Any]]:
    """What the page recorded while the mouse dragged a slider."""
    expect(slider).to_be_visible(timeout=60_000)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    row = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, row)
    page.mouse.down()
    before = slider.get_attribute("aria-valuetext") or slider.input_value()
    page.evaluate("for (const list of Object.values(seen)) list.length = 0")
    in_turn(seconds, lambda at: page.mouse.move(box["x"] + box["width"] * (0.1 + 0.8 * at), row))
    assert (slider.get_attribute("aria-valuetext") or slider.input_value()) != before, "the slider did not move"
    page.wait_for_timeout(2_000)  # the last prediction arrives
    seen: dict[str, list[Any]] = page.evaluate("seen")
    page.mouse.up()
    return seen


def delays(seen: dict[str, list[Any]]) -> list[float]:
    """Milliseconds from each move to the frame with the first prediction that was requested after it."""
    drawn = []
    for changed, frame in seen["drawn"]:
        if begins := [began for began, ended in seen["asked"] if ended <= changed]:
            drawn.append((begins[-1], frame))
    first = [next((frame - move for asked, frame in drawn if asked >= move), None) for move in seen["moves"]]
    return [delay for delay in first if delay is not None]


def frames(seen: dict[str, list[Any]]) -> Row:
    """Durations of the frames."""
    lasted = np.diff(seen["frames"])
    slow = share(int((lasted > SLOW_FRAME_MS).sum()), len(lasted))
    return {"median_ms": float(np.median(lasted)), "95_ms": float(np.quantile(lasted, 0.95)), "slow": slow}


def dragged(browser: Browser, url: str, world: str, options: Any) -> Row:
    """Delays of predictions in Imagine, over all repeats."""
    every, runs = list[float](), []
    for number in range(options.repeats):
        page = opened(browser, view(url, "imagine", world=world, log=world, episode=number, at=20))
        found = delays(drag(page, page.get_by_role("slider", name=ACTIONS[world]).first, options.seconds))
        runs.append({"episode": number, "moves": len(found), "median_ms": float(np.median(found))})
        every += found
        page.context.close()
    return {"delay_ms": median_interval(every), "95_ms": float(np.quantile(every, 0.95)), "runs": runs}


def opened(browser: Browser, url: str) -> Page:
    """A page that records."""
    context = browser.new_context(viewport=SIZE)
    context.add_init_script(RECORDER)
    page = context.new_page()
    page.goto(url)
    return page


def large(browser: Browser, url: str, seconds: float) -> Row:
    """Frames while the list of episodes scrolls, and while the present of the long episode is dragged."""
    page = opened(browser, view(url, "home", world="large", log="large"))
    search = page.get_by_role("searchbox", name=f"Search {NUM_EPISODES} episodes")
    expect(search).to_be_visible(timeout=60_000)
    box = search.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, box["y"] + 240)
    page.evaluate("seen.frames.length = 0")
    in_turn(seconds, lambda at: page.mouse.wheel(0, 400 if at > 0.25 else -400))
    scrolled = frames(page.evaluate("seen"))
    assert page.evaluate(SCROLLED) > 1_000, "the list did not scroll"
    page.context.close()
    page = opened(browser, view(url, "imagine", world="large", log="large", episode=0, at=50_000))
    scrubbed = frames(drag(page, page.get_by_role("slider", name="Present"), seconds))
    page.context.close()
    return {"scroll": scrolled, "scrub": scrubbed}


def play(browser: Browser, world: Path, folder: Path, seconds: float) -> Row:
    """Updates a second of a world in a file."""
    file = folder / f"play-{world.name}.html"
    file.unlink(missing_ok=True)
    subprocess.run([WORLDLINE, "export", str(world), str(file), "--logs", str(folder / "greenhouse-store")], check=True)
    page = opened(browser, file.as_uri())
    seen = drag(page, page.get_by_role("slider", name="heating").first, seconds)
    page.context.close()
    return {"updates_per_s": len(seen["drawn"]) / seconds, "bytes": file.stat().st_size, **frames(seen)}


def prepared(folder: Path) -> tuple[dict[str, Path], Path]:
    """The worlds, and the folder of their logs."""
    worlds, logs = learned(folder), folder / "logs"
    logs.mkdir(exist_ok=True)
    for name, path in (("demo", folder / "demo-run" / "logs"), ("greenhouse", folder / "greenhouse-store")):
        if not (logs / name).exists():
            (logs / name).symlink_to(path)
    stored(logs / "large", record_large)
    worlds["large"] = folder / "large"
    if not worlds["large"].exists():
        save_world(worlds["large"], LocalWorld(Linear.fit([pattern()], SCHEMA, context=1), None, CrossEntropy()))
    return worlds, logs


def bars(figures: Row) -> Row:
    """The targets, each with its figure."""
    rows = [(f"{name} drag, median", row["delay_ms"]["median"], 100.0) for name, row in figures.get("drag", {}).items()]
    rows += [(f"{name} drag, 95 %", row["95_ms"], 250.0) for name, row in figures.get("drag", {}).items()]
    rows += [(f"{name} frame, 95 %", row["95_ms"], SLOW_FRAME_MS) for name, row in figures.get("large", {}).items()]
    met = {name: {"ms": value, "at_most_ms": most, "met": value <= most} for name, value, most in rows}
    for name, row in figures.get("play", {}).items():
        rate = row["updates_per_s"]
        met[f"{name} play"] = {"updates_per_s": rate, "at_least": PLAY_RATE, "met": rate >= PLAY_RATE}
    return met


def main() -> None:
    """Measures the parts, prints and writes each result."""
    options = arguments(__doc__, folder=Path, parts=("drag", "large", "play"), seconds=10.0, repeats=3)
    one_thread()
    figures = read(options.out)
    with kept_or_temporary(options.folder) as folder:
        worlds, logs = prepared(folder)
        shown = {name: worlds[name] for name in ("demo", "greenhouse", "large")}
        with served(shown, folder, batch=32, more=("--data", str(logs))) as (port, _), chromium() as browser:
            url = f"http://127.0.0.1:{port}"
            measure: dict[str, Callable[[], Row]] = {
                "drag": lambda: {world: dragged(browser, url, world, options) for world in ACTIONS},
                "large": lambda: large(browser, url, options.seconds),
                "play": lambda: {name: play(browser, worlds[name], folder, options.seconds) for name in PLAYED},
            }
            for part in options.parts:
                figures[part] = measure[part]()
                figures |= {"bars": bars(figures), "chromium": browser.version}
                write(options.out, figures)
    show_bars(figures["bars"])


if __name__ == "__main__":
    main()
