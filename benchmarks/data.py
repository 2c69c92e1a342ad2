"""Data loading against stable-worldmodel 0.1.1, from a warm file cache; and the store's growth.

Run: .venv/bin/python benchmarks/data.py [--quick] [--peer PYTHON]
Writes benchmarks/results/data.json (with --quick only prints). Environment and frames are kept in a cache folder.

Both sides read the same frames: 30 episodes of 61, rendered by the peer for its own environments. Both draw batches of
64 windows of 4 frames, every 5th step, uniformly at random, and take turns. The peer runs with its best settings: small
columns in memory, batched reads where it supports them, in its process or with 1 or 2 DataLoader workers. Our side uses
one thread. The fastest configuration of each side counts. The peer's windows hold 20 actions, ours the 15 in between.
Everything that is read is compared with what was written. The frames fit into the page cache. The cube scene renders
slowly, so it has a third of the episodes.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import data_scale
from common import CACHE, Peer, Row, arguments, peer_python, show, show_bars, write
from data_frames import FrameSet, make_sensor, shrink
from data_sides import PEER_PACKAGES, Ours, error_for, speeds

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the benchmark."""

    scenes: tuple[str, ...] = SCENES
    episodes: int = 30
    repeats: int = 3
    seconds: float = 0.25
    scales: tuple[int, ...] = (1_000, 10_000, 100_000)
    updates: int = 150
    loading_episodes: int = 100
    seed: int = 0


QUICK = Plan(
    scenes=("push-t",), episodes=6, repeats=2, seconds=0.1, scales=(100, 1_000), updates=20, loading_episodes=10
)


def peer_of(python: str, form: str) -> Peer:
    """A process of the peer that serves one format."""
    return Peer(python, Path(__file__).with_name("data_peer.py"), "serve", form)


def prepare(python: str, plan: Plan) -> list[FrameSet]:
    """The frame sets, made once and kept in the cache."""
    sets = []
    renderer = peer_of(python, "frames")
    for scene in plan.scenes:
        episodes = max(3, plan.episodes // 3) if scene in SLOW_SCENES else plan.episodes
        big, small = (
            FrameSet(name=f"{scene} {size}", folder=CACHE / "frames" / f"{scene}-{size}-{episodes}-{plan.seed}")
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


def measure(python: str, plan: Plan) -> Row:
    """Everything."""
    sets = prepare(python, plan)
    result: Row = {"plan": asdict(plan), "sets": []}
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        folder = Path(temporary)
        peers = {form: peer_of(python, form) for form in WORKERS}
        result["peer_versions"] = peers["lance"].ask("versions")
        for frames in sets:
            print(f"side by side: {frames.name}", flush=True)
            place = folder / frames.name.replace(" ", "-")
            result["sets"].append(measure_set(frames, peers, place, plan))
            for form, peer in peers.items():
                for workers in WORKERS[form]:
                    peer.ask("close", workers=workers)
            shutil.rmtree(place)
        for peer in peers.values():
            peer.close()
        print("growth of a store, loading in the demo's training", flush=True)
        result["growth"] = data_scale.growth(folder, plan.scales, plan.repeats)
        result["loading"] = data_scale.loading_share(folder, plan.loading_episodes, plan.updates)
    return result | {"bars": bars(result)}


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


def main() -> None:
    """Measures, writes and prints the results."""
    options = arguments(__doc__, peer="", quick=False)
    CACHE.mkdir(parents=True, exist_ok=True)
    result = measure(options.peer or peer_python("peer", PEER_PACKAGES), QUICK if options.quick else Plan())
    if not options.quick:
        write(options.out, result)
    for one in result["sets"]:
        header = ("format", "max error", "workers", "bytes/frame", "windows/s", "per CPU-s")
        rows = [
            (row["format"], row.get("max_error", ""), row.get("workers", 0), row["bytes_per_frame"], row["median"],
             row["per_cpu_s"]["median"])
            for row in one["rows"]
        ]  # fmt: skip
        show(header, rows, title=one["set"])
    print(result["growth"], result["loading"])
    show_bars(result["bars"])


if __name__ == "__main__":
    main()
