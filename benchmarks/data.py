"""Data loading against stable-worldmodel 0.1.1, from a warm file cache; and the store's layout and growth.

Run: .venv/bin/python benchmarks/data.py [--quick] [--peer PYTHON] [--cache FOLDER]
Writes benchmarks/results/data.json and docs/images/data.png (with --quick into the cache folder).

Both sides read the same frames: 30 episodes of 61, rendered by the peer for its own environments. Both draw batches of
64 windows of 4 frames, every 5th step, uniformly at random, and take turns. The peer runs with its best settings: small
columns in memory, batched reads where it supports them, in its process or with 1 or 2 DataLoader workers. Our side uses
one thread. The fastest configuration of each side counts. The peer's windows hold 20 actions, ours the 15 in between.
Everything that is read is compared with what was written. The frames fit into the page cache. The cube scene renders
slowly, so it has a third of the episodes.
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
import data_tables
from data_frames import FrameSet, make_sensor, shrink
from data_sides import Ours, Peer, error_for, peer_python, speeds
from rich.console import Console

HERE = Path(__file__).parent
WORKERS = {"lance": (0, 1, 2), "hdf5": (0, 1, 2), "hdf5-zstd": (0, 2), "hdf5-memory": (0,), "folder": (0, 2)}
WORKERS["video"] = (0, 2)
WRITERS = ("lance", "hdf5", "folder", "video")
"""Formats that the peer writes. Formats that it only reads, or holds in memory, are listed separately."""

LOSSY = ("lance", "folder", "video")
MATCHED = ("lance", "folder")
"""Lossy formats, compared with our store of the largest error that reaches their PSNR. Video's PSNR lies in between."""

SCENES = ("two-room", "push-t", "cube", "sensor")
SLOW_SCENES = ("cube",)
"""Scenes with a third of the episodes: rendering takes 0.1 s per frame without a GPU."""

BIG, SMALL = 224, 64
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the benchmark."""

    scenes: tuple[str, ...] = SCENES
    episodes: int = 30
    repeats: int = 3
    seconds: float = 0.25
    layout_sets: tuple[str, ...] = ("push-t 64", "push-t 224", "sensor 224")
    layout_episodes: int = 20
    scales: tuple[int, ...] = (1_000, 10_000, 100_000)
    updates: int = 150
    memory_sets: tuple[str, ...] = ("push-t 64", "push-t 224")
    memory_batches: int = 10
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
    """Measures both sides on one set."""
    kept = {form: keep(form, peer, frames, folder) for form, peer in peers.items()}
    errors = {0, *(error_for(frames, kept[form]["psnr_db"]) for form in MATCHED)}
    ours = [Ours(frames, folder / f"store-{error}", error) for error in sorted(errors)]
    pairs = [(form, workers) for form in peers for workers in WORKERS[form]]
    for form, workers in pairs:
        peers[form].ask("open", folder=folder, workers=workers, seed=plan.seed)
    rates: dict[tuple[str, int], list[Row]] = {pair: [] for pair in pairs}
    for _ in range(plan.repeats):
        for number, (form, workers) in enumerate(pairs):
            if number % 8 == 0:
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
    """Writes a set in one of the peer's formats; returns its size, time and loss."""
    if form == "hdf5-memory":
        written = {"bytes": (folder / "hdf5.h5").stat().st_size, "write_s": 0.0}
    else:
        written = peer.ask("write", frames=frames.folder, folder=folder)
    checked = peer.ask("check", frames=frames.folder, folder=folder)
    if not (checked["vectors_exact"] and checked["windows_aligned"]):
        raise AssertionError(f"the peer's {form} does not return the frames that were written: {checked}")
    return {
        "lossless": checked["psnr_db"] is None,
        "bytes_per_frame": round(written["bytes"] / frames.num_frames, 1),
        "write_s": round(written["write_s"], 2),
        **checked,
    }


def verdict(rows: Sequence[Row]) -> Row:
    """The ratios that have targets: ours over the peer's."""
    ours = [row for row in rows if row["format"] == "store"]
    lossless = [row for row in ours if row["lossless"]]
    own = [row for row in rows if row["format"] in WRITERS]
    exact, fastest = fastest_of(lossless), fastest_of(own)
    zstd = [row for row in rows if row["format"] == "hdf5-zstd"]
    in_memory = next(row for row in rows if row["format"] == "hdf5-memory")
    least_cpu, own_least_cpu = (max(row["per_cpu_s"]["median"] for row in some) for some in (own, lossless))
    alone = fastest_of([row for row in own if row["workers"] == 0])
    return {
        "fastest": f"{fastest['format']}, {fastest['workers']} workers",
        "speed": ratio(exact, fastest),
        "speed_one_thread_no_workers": ratio(next(row for row in lossless if row["threads"] == 1), alone),
        "speed_per_cpu_s": round(own_least_cpu / least_cpu, 2),
        "speed_over_zstd_added": ratio(exact, fastest_of(zstd)),
        "speed_over_all_in_memory": ratio(exact, in_memory),
        "bytes": round(exact["bytes_per_frame"] / min(row["bytes_per_frame"] for row in own if row["lossless"]), 4),
        "bytes_over_zstd_added": round(exact["bytes_per_frame"] / zstd[0]["bytes_per_frame"], 4),
        "lossy": {form: at_equal_psnr(ours, [row for row in own if row["format"] == form]) for form in LOSSY},
    }


def at_equal_psnr(ours: Sequence[Row], theirs: Sequence[Row]) -> Row:
    """Our smallest store with at least the PSNR of a lossy peer format, relative to that format."""
    fastest = fastest_of(theirs)
    close = [row for row in ours if row["lossless"] or row["psnr_db"] >= fastest["psnr_db"]]
    error = max(row["max_error"] for row in close)
    chosen = fastest_of([row for row in close if row["max_error"] == error])
    return {
        "max_error": error,
        "speed": ratio(chosen, fastest),
        "bytes": round(chosen["bytes_per_frame"] / fastest["bytes_per_frame"], 3),
        "psnr_db": [chosen["psnr_db"], fastest["psnr_db"]],
    }


def ratio(ours: Row, theirs: Row) -> float:
    """The ratio of median windows per second."""
    return round(float(ours["median"]) / float(theirs["median"]), 2)


def fastest_of(rows: Sequence[Row]) -> Row:
    """The row with the most windows per second."""
    return max(rows, key=lambda row: float(row["median"]))


def measure_memory(frames: FrameSet, python: str, folder: Path, log: Path, plan: Plan) -> list[Row]:
    """Memory growth of opening and drawing, each format in a separate process."""
    rows: list[Row] = [{"set": frames.name, "format": "store", **data_scale.store_memory(folder / "store-0")}]
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
    """The peer's Lance table as a layout: the same frames as JPEG, with more episodes and vectors."""
    lance = next(row for row in rows if row["format"] == "lance" and row["workers"] == 0)
    own = {"windows_per_s": lance["repeats"], "bytes_per_frame": lance["bytes_per_frame"]}
    return {"layout": "Lance with JPEG, the peer's", **own}


def bars(result: Row) -> Row:
    """Targets and whether they are met."""
    speeds = {one["set"]: one["verdict"]["speed"] for one in result["sets"]}
    sizes = {one["set"]: one["verdict"]["bytes"] for one in result["sets"]}
    lossy = {
        f"{one['set']}, {form}": pair["speed"]
        for one in result["sets"]
        for form, pair in one["verdict"]["lossy"].items()
    }
    opened = {row["episodes"]: statistics.median(row["open_s"]) for row in result["growth"]}
    return {
        "5 times the peer's fastest": {"met": min(speeds.values()) >= 5, **speeds},
        "bytes at most its best lossless": {"met": max(sizes.values()) <= 1, **sizes},
        "5 times, lossy at equal PSNR": {"met": min(lossy.values()) >= 5, **lossy},
        "store opens in 0.2 s": {"met": max(opened.values()) < 0.2, **opened},
        "loading at most 5 % of a training step": {"met": result["loading"]["share"] <= 0.05},
    }


def machine() -> Row:
    """The machine and the versions."""
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
    """Prints the current stage."""
    Console(stderr=True).print(text, style="dim")


def main() -> None:
    """Measures, writes, draws and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "worldline-benchmark-data"
    parser.add_argument("--peer", help="Python of an environment with the peer; default: create one in the cache")
    parser.add_argument("--cache", type=Path, default=default, help="folder for that environment and for the frames")
    parser.add_argument("--quick", action="store_true", help="one scene and few episodes, as a smoke test")
    options = parser.parse_args()
    cache: Path = options.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    result = measure(cache, options.peer or peer_python(cache), QUICK if options.quick else Plan())
    result["elapsed_s"] = round(time.monotonic() - begin)
    results, images = (cache, cache) if options.quick else (HERE / "results", HERE.parent / "docs" / "images")
    (results / "data.json").write_text(json.dumps(result, indent=1) + "\n")
    data_chart.draw(result["sets"], images / "data.png")
    data_tables.show(result)


if __name__ == "__main__":
    main()
