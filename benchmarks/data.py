"""Data loading side by side with stable-worldmodel 0.1.1, from a warm file cache; and the store's layout and growth.

Run: .venv/bin/python benchmarks/data.py [--quick] [--peer PYTHON] [--cache FOLDER]
Writes benchmarks/results/data.json and docs/images/data.png (with --quick into the cache folder).

Both sides get the same frames (36 episodes of 61; the peer renders its own environments) and draw batches of 64 windows
of 4 frames, every 5th step, uniformly at random, stacked; they take turns. The peer has its best settings: small
columns in memory, batches fetched at once where it can, in its process or from 1 or 2 workers of torch's DataLoader.
Ours reads with one thread, or with two that read ahead. What counts is the fastest of each side. The peer's windows
hold 20 actions, ours the 15 in between. What is read is compared with what was written. The frames fit into the page
cache. The cube scene is slow to render, and has a third of the episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import data_chart
import data_layouts
import data_scale
from data_frames import FrameSet, make_sensor, shrink
from data_layouts import NUM_OBSERVATIONS
from data_sides import Ours, Peer, error_for, peer_python, speeds
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WORKERS = {"lance": (0, 1, 2), "hdf5": (0, 1, 2), "hdf5-zstd": (0, 1, 2), "hdf5-memory": (0,), "folder": (0, 1, 2)}
WORKERS["video"] = (0, 2)
WRITERS = ("lance", "hdf5", "folder", "video")
"""The peer's own; what it reads but does not write, or holds in memory, is listed beside them."""

SCENES = ("two-room", "push-t", "cube", "sensor")
SLOW_SCENES = ("cube",)
"""A third of the episodes: they take 0.1 s a frame to render without a GPU."""

BIG, SMALL = 224, 64
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure."""

    scenes: tuple[str, ...] = SCENES
    episodes: int = 36
    repeats: int = 5
    seconds: float = 0.3
    layout_sets: tuple[str, ...] = ("push-t 64", "push-t 224", "sensor 224")
    layout_episodes: int = 20
    scales: tuple[int, ...] = (1_000, 10_000, 100_000)
    updates: int = 150
    memory_sets: tuple[str, ...] = ("push-t 64", "push-t 224")
    memory_batches: int = 20
    loading_episodes: int = 100
    seed: int = 0


QUICK = Plan(
    scenes=("push-t",),
    episodes=6,
    repeats=2,
    seconds=0.1,
    layout_sets=("push-t 64",),
    layout_episodes=4,
    scales=(100, 1_000),
    updates=20,
    memory_sets=("push-t 64",),
    memory_batches=3,
    loading_episodes=10,
)


def prepare(cache: Path, python: str, plan: Plan) -> list[FrameSet]:
    """The frame sets, made once and kept in the cache."""
    sets = []
    renderer = Peer(python, "frames", cache)
    for scene in plan.scenes:
        episodes = max(3, plan.episodes // 3) if scene in SLOW_SCENES else plan.episodes
        big, small = (
            FrameSet(name=f"{scene} {size}", folder=cache / "frames" / f"{scene}-{size}-{episodes}-{plan.seed}")
            for size in (BIG, SMALL)
        )
        if not (big.folder / "camera.npy").exists():
            if scene == "sensor":
                make_sensor(big.folder, episodes, BIG, plan.seed)
            else:
                renderer.ask("render", scene=scene, episodes=episodes, frames=big.folder, seed=plan.seed)
        if not (small.folder / "camera.npy").exists():
            if scene == "sensor":  # averaging would remove its noise
                make_sensor(small.folder, episodes, SMALL, plan.seed)
            else:
                shrink(big, small.folder, SMALL)
        sets += [small, big]
    renderer.close()
    return sets


def measure_set(frames: FrameSet, peers: dict[str, Peer], folder: Path, plan: Plan) -> Row:
    """Both sides on one set."""
    kept = {form: keep(form, peer, frames, folder) for form, peer in peers.items()}
    best_psnr = max(row["psnr_db"] for row in kept.values() if not row["lossless"])
    ours = Ours(frames, folder / "exact", 0), Ours(frames, folder / "lossy", error_for(frames, best_psnr))
    pairs = [(form, workers) for form in peers for workers in WORKERS[form]]
    for form, workers in pairs:
        peers[form].ask("open", folder=folder, workers=workers, seed=plan.seed)
    rates: dict[tuple[str, int], list[Row]] = {pair: [] for pair in pairs}
    for _ in range(plan.repeats):
        for number, (form, workers) in enumerate(pairs):
            if number % 6 == 0:
                for one in ours:
                    one.measure(plan.seconds)
            rates[form, workers].append(peers[form].ask("measure", workers=workers, seconds=plan.seconds))
    rows = [row for one in ours for row in one.rows()]
    for (form, workers), measured in rates.items():
        rows.append({"format": form, "workers": workers, **kept[form], **speeds(measured)})
    scene, size = frames.name.split()
    result = {"set": frames.name, "scene": scene, "size": int(size), "episodes": len(frames), "rows": rows}
    return result | {"verdict": verdict(rows)}


def keep(form: str, peer: Peer, frames: FrameSet, folder: Path) -> Row:
    """Has the peer write a set in one of its formats, and tells what that takes and what it loses."""
    if form == "hdf5-memory":
        written = {"bytes": (folder / "hdf5.h5").stat().st_size, "write_s": 0.0}
    else:
        written = peer.ask("write", frames=frames.folder, folder=folder)
    checked = peer.ask("check", frames=frames.folder, folder=folder)
    if not (checked["vectors_exact"] and checked["windows_aligned"]):
        raise AssertionError(f"the peer's {form} does not give back what was written: {checked}")
    return {
        "lossless": checked["psnr_db"] is None,
        "bytes_per_frame": round(written["bytes"] / frames.num_frames, 1),
        "write_s": round(written["write_s"], 2),
        **checked,
    }


def verdict(rows: Sequence[Row]) -> Row:
    """The ratios that the bars are about: ours over the peer's."""
    ours = [row for row in rows if row["format"] == "store"]
    exact = fastest_of([row for row in ours if row["lossless"]])
    lossy = fastest_of([row for row in ours if row["max_error"]] or ours)
    own = [row for row in rows if row["format"] in WRITERS]
    on_disk = [row for row in rows if row["format"] in (*WRITERS, "hdf5-zstd")]
    fastest, fastest_lossy = fastest_of(own), fastest_of([row for row in own if not row["lossless"]])
    best_lossless = min(row["bytes_per_frame"] for row in own if row["lossless"])
    zstd = next(row["bytes_per_frame"] for row in rows if row["format"] == "hdf5-zstd")
    in_memory = next(row for row in rows if row["format"] == "hdf5-memory")
    frugal, own_frugal = (
        max(row["per_cpu_s"]["median"] for row in some) for some in (own, [row for row in ours if row["lossless"]])
    )
    return {
        "fastest": f"{fastest['format']}, {fastest['workers']} workers",
        "speed": round(exact["median"] / fastest["median"], 2),
        "speed_per_cpu_s": round(own_frugal / frugal, 2),
        "speed_with_zstd_added": round(exact["median"] / fastest_of(on_disk)["median"], 2),
        "speed_over_all_in_memory": round(exact["median"] / in_memory["median"], 2),
        "bytes": round(exact["bytes_per_frame"] / best_lossless, 4),
        "bytes_over_zstd_added": round(exact["bytes_per_frame"] / zstd, 4),
        "fastest_lossy": f"{fastest_lossy['format']}, {fastest_lossy['workers']} workers",
        "lossy_speed": round(lossy["median"] / fastest_lossy["median"], 2),
        "lossy_bytes": round(lossy["bytes_per_frame"] / fastest_lossy["bytes_per_frame"], 3),
        "lossy_psnr_db": [lossy["psnr_db"], fastest_lossy["psnr_db"]],
    }


def fastest_of(rows: Sequence[Row]) -> Row:
    """The row with the most windows a second."""
    return max(rows, key=lambda row: float(row["median"]))


def measure_memory(frames: FrameSet, python: str, folder: Path, log: Path, plan: Plan) -> list[Row]:
    """How much memory grows over opening and drawing, each format in a process of its own."""
    rows: list[Row] = [{"set": frames.name, "format": "store", **data_scale.store_memory(folder / "exact")}]
    for form in WORKERS:
        peer = Peer(python, form, log)
        grown = peer.ask("memory", folder=folder, batches=plan.memory_batches)
        rows.append({"set": frames.name, "format": form, **grown})
        peer.close()
    return rows


def measure(cache: Path, python: str, plan: Plan) -> Row:
    """Everything."""
    sets = prepare(cache, python, plan)
    result: Row = {"plan": asdict(plan), "machine": machine()}
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        folder = Path(temporary)
        peers = {form: Peer(python, form, cache) for form in WORKERS}
        result["peer_versions"] = peers["lance"].ask("versions")
        result["sets"], result["memory"], result["layouts"] = [], [], {}
        for frames in sets:
            tell(f"side by side: {frames.name}")
            place = folder / frames.name.replace(" ", "-")
            result["sets"].append(measure_set(frames, peers, place, plan))
            if frames.name in plan.memory_sets:
                result["memory"] += measure_memory(frames, python, place, cache, plan)
            for form, peer in peers.items():
                for workers in WORKERS[form]:
                    peer.ask("close", workers=workers)
            shutil.rmtree(place)
        for peer in peers.values():
            peer.close()
        for frames in sets:
            if frames.name in plan.layout_sets:
                tell(f"layouts: {frames.name}")
                place = folder / "layouts" / frames.name.replace(" ", "-")
                found = data_layouts.compare(frames, place, plan.layout_episodes, plan.repeats, plan.seconds)
                measured = next(one["rows"] for one in result["sets"] if one["set"] == frames.name)
                lance = Peer(python, "lance", cache)
                how = {"episodes": plan.layout_episodes, "repeats": plan.repeats, "seconds": plan.seconds}
                found.append(lance.ask("layout", frames=frames.folder, folder=place, **how))
                lance.close()
                result["layouts"][frames.name] = [*found, lance_as_layout(measured)]
                shutil.rmtree(place)
        tell("growth of a store, loading in the demo's training")
        result["growth"] = data_scale.growth(folder, plan.scales, plan.repeats)
        result["loading"] = data_scale.loading_share(folder, plan.loading_episodes, plan.updates)
    result["machine"]["load_after"] = os.getloadavg()[0]
    return result | {"bars": bars(result)}


def lance_as_layout(rows: Sequence[Row]) -> Row:
    """The peer's Lance table among our layouts: the same frames, but JPEG, more episodes, and vectors with them."""
    lance = next(row for row in rows if row["format"] == "lance" and row["workers"] == 0)
    own = {"windows_per_s": lance["repeats"], "bytes_per_frame": lance["bytes_per_frame"]}
    return {"layout": "Lance with JPEG, the peer's", **own}


def bars(result: Row) -> Row:
    """What was asked for, and whether it was met."""
    speeds = {one["set"]: one["verdict"]["speed"] for one in result["sets"]}
    sizes = {one["set"]: one["verdict"]["bytes"] for one in result["sets"]}
    lossy = {one["set"]: one["verdict"]["lossy_speed"] for one in result["sets"]}
    opened = {row["episodes"]: statistics.median(row["open_s"]) for row in result["growth"]}
    return {
        "5 times the peer's fastest": {"met": min(speeds.values()) >= 5, **speeds},
        "bytes at most its best lossless": {"met": max(sizes.values()) <= 1, **sizes},
        "5 times, lossy at equal PSNR": {"met": min(lossy.values()) >= 5, **lossy},
        "store opens in 0.2 s": {"met": max(opened.values()) < 0.2, **opened},
        "loading at most 5 % of a training step": {"met": result["loading"]["share"] <= 0.05},
    }


def machine() -> Row:
    """What it was measured on."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {name.strip(): text.strip() for name, text in facts.items()}
    names = ("numpy", "torch", "zstandard", "h5py", "pillow")
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cpu_flags": [flag for flag in facts.get("flags", "").split() if flag.startswith(("avx", "sse4", "bmi"))],
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def tell(text: str) -> None:
    """Says what is being done."""
    Console(stderr=True).print(text, style="dim")


def show(result: Row) -> None:
    """Prints the figures."""
    console = Console(width=140)
    for one in result["sets"]:
        console.print(table_of_set(one))
    for name, rows in result["layouts"].items():
        console.print(table_of_layouts(name, rows))
    for row in result["memory"]:
        grown = f"+{row['resident_mb']:.0f} MB in {row['batches']} batches"
        console.print(f"memory, {row['set']}, {row['format']}: {grown}")
    for row in result["growth"]:
        opened = 1e3 * statistics.median(row["open_s"])
        grown = f"+{row['resident_mb']:.1f} MB, {row['batch_ms']:.2f} ms a batch"
        console.print(f"{row['episodes']:>7,} episodes: opens in {opened:.1f} ms, {grown}")
    loading = result["loading"]
    share = f"{loading['share']:.1%} of an update of {loading['update_ms']:.1f} ms"
    console.print(f"loading in the demo's training: {loading['load_ms']:.2f} ms, {share}")
    for name, bar in result["bars"].items():
        console.print(f"{'met   ' if bar['met'] else 'MISSED'} {name}")


def table_of_set(one: Row) -> Table:
    """A row for each way to read a set."""
    table = Table(title=f"{one['set']}: random windows of {NUM_OBSERVATIONS} frames", title_justify="left")
    for name in ("format", "workers", "bytes/frame", "PSNR", "worst", "windows/s", "range", "per CPU-s", "ours is"):
        table.add_column(name, justify="left" if name == "format" else "right")
    ours = [row for row in one["rows"] if row["format"] == "store"]
    best = {
        loss: fastest_of([row for row in ours if row["lossless"] is loss] or ours)["median"] for loss in (True, False)
    }
    for row in one["rows"]:
        rounded = f", max_error {row['max_error']}" if row.get("max_error") else ""
        table.add_row(
            row["format"] + rounded,
            f"{row['threads']} thr." if "threads" in row else str(row["workers"]),
            f"{row['bytes_per_frame']:,.0f}",
            "exact" if row["lossless"] else f"{row['psnr_db']:.1f} dB",
            "" if row["lossless"] else str(row["worst_error"]),
            f"{row['median']:,.0f}",
            f"{row['low']:,.0f}–{row['high']:,.0f}",
            f"{row['per_cpu_s']['median']:,.0f}",
            "" if row["format"] == "store" else f"{best[row['lossless']] / row['median']:.1f}×",
        )
    return table


def table_of_layouts(name: str, rows: Sequence[Row]) -> Table:
    """A row for each layout."""
    table = Table(title=f"layouts: {name}", title_justify="left")
    for heading in ("layout", "bytes/frame", "windows/s", "evicted", "two readers", "append, ms", "memory, MB"):
        table.add_column(heading, justify="left" if heading == "layout" else "right")
    for row in rows:
        apart = row.get("cold_windows_per_s"), row.get("two_readers_windows_per_s")
        whole = (row["bytes_per_frame"], statistics.median(row["windows_per_s"]), *apart)
        cells = ["" if number is None else f"{number:,.0f}" for number in whole]
        fine = (row.get("append_ms"), row.get("resident_mb"))
        table.add_row(row["layout"], *cells, *("" if number is None else f"{number:.1f}" for number in fine))
    return table


def main() -> None:
    """Measures, writes, draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "worldline-benchmark-data"
    parser.add_argument("--peer", help="Python of an environment with the peer; default is to make one in the cache")
    parser.add_argument("--cache", type=Path, default=default, help="folder for that environment and for the frames")
    parser.add_argument("--quick", action="store_true", help="one scene, few episodes: only to see that it runs")
    options = parser.parse_args()
    cache: Path = options.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    result = measure(cache, options.peer or peer_python(cache), QUICK if options.quick else Plan())
    result["elapsed_s"] = round(time.monotonic() - begin)
    results, images = (cache, cache) if options.quick else (HERE / "results", HERE.parent / "docs" / "images")
    (results / "data.json").write_text(json.dumps(result, indent=1) + "\n")
    data_chart.draw(result["sets"], images / "data.png")
    show(result)


if __name__ == "__main__":
    main()
