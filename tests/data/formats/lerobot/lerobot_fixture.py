"""Small LeRobot datasets (v2.1 and v3.0) as the lerobot package lays them out, with what they should be read as."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH = 48, 64
FRONT, WRIST, MAP = "observation.images.front", "observation.images.wrist", "observation.images.map"
DEFAULTS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}


@dataclass(kw_only=True)
class Dataset:
    """A dataset before it is written.

    Args:
        version: "v2.1" or "v3.0".
        lengths: rows of each episode.
        fps: rows a second.
        cameras: features stored as video.
        tasks: of each episode.
        texts: whether there is a column of text.
    """

    version: str
    lengths: tuple[int, ...] = (5, 4, 6)
    fps: int = 10
    cameras: tuple[str, ...] = (FRONT, WRIST)
    tasks: tuple[str, ...] = ("push the block", "lift it", "push the block")
    texts: bool = True
    columns: list[dict[str, Any]] = field(init=False)
    frames: dict[str, list[np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        self.columns = [self._columns(number, rows) for number, rows in enumerate(self.lengths)]
        self.frames = {c: [pictures(rows, 10 * n + k) for n, rows in enumerate(self.lengths)]
                       for k, c in enumerate(self.cameras)}  # fmt: skip

    def _columns(self, number: int, rows: int) -> dict[str, Any]:
        draw = np.random.default_rng([number, rows])
        first = sum(self.lengths[:number])
        kinds = list(dict.fromkeys(self.tasks))
        done = np.arange(rows) == rows - 1
        columns = {
            "observation.state": draw.normal(size=(rows, 2)).astype(np.float32),
            "observation.gripper": draw.integers(0, 3, rows),
            MAP: draw.integers(0, 256, (rows, 6, 7, 3)).astype(np.uint8),
            "action": draw.uniform(-1, 1, (rows, 3)),
            "next.reward": draw.normal(size=rows).astype(np.float32),
            "next.done": done,
            "next.success": done,
            "timestamp": (np.arange(rows) / self.fps).astype(np.float32),
            "frame_index": np.arange(rows),
            "episode_index": np.full(rows, number),
            "index": np.arange(first, first + rows),
            "task_index": np.full(rows, kinds.index(self.tasks[number])),
        }
        return columns | ({"weather": [f"day {number}"] * rows} if self.texts else {})

    def features(self) -> dict[str, Any]:
        names = {"observation.state": ["x", "y"], "action": {"motors": ["shoulder", "elbow", "wrist"]}}
        features: dict[str, Any] = {}
        for camera in self.cameras:
            info = {"video.fps": float(self.fps), "video.codec": "h264", "video.is_depth_map": False}
            features[camera] = {
                "dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"], "info": info,
            }  # fmt: skip
        for key, values in self.columns[0].items():
            if key == MAP:
                features[key] = {"dtype": "image", "shape": [6, 7, 3], "names": ["height", "width", "channels"]}
            elif isinstance(values, list):
                features[key] = {"dtype": "string", "shape": [1], "names": None}
            else:
                shape = list(values.shape[1:]) or [1]
                features[key] = {"dtype": str(values.dtype), "shape": shape, "names": names.get(key)}
        return features

    def info(self) -> dict[str, Any]:
        old = self.version < "v3"
        where = "chunk-{episode_chunk:03d}/episode_{episode_index:06d}" if old else (
            "chunk-{chunk_index:03d}/file-{file_index:03d}"
        )  # fmt: skip
        chunk, _, file = where.partition("/")
        video = f"videos/{chunk}/{{video_key}}/{file}.mp4" if old else f"videos/{{video_key}}/{where}.mp4"
        return {
            "codebase_version": self.version, "robot_type": "so100", "total_episodes": len(self.lengths),
            "total_frames": sum(self.lengths), "total_tasks": len(set(self.tasks)), "chunks_size": 1000,
            "fps": self.fps, "splits": {"train": f"0:{len(self.lengths)}"}, "data_path": f"data/{where}.parquet",
            "video_path": video if self.cameras else None, "features": self.features(),
        }  # fmt: skip

    def write(self, root: Path) -> Path:
        """Writes the dataset and gives its folder back."""
        (root / "meta").mkdir(parents=True)
        (root / "meta/info.json").write_text(json.dumps(self.info(), indent=4))
        if self.version < "v3":
            self._write_v2(root)
        else:
            self._write_v3(root)
        return root

    def _write_v2(self, root: Path) -> None:
        kinds = list(dict.fromkeys(self.tasks))
        tasks = [{"task_index": index, "task": task} for index, task in enumerate(kinds)]
        episodes = [
            {"episode_index": number, "tasks": [self.tasks[number]], "length": rows}
            for number, rows in enumerate(self.lengths)
        ]
        for name, lines in (("tasks", tasks), ("episodes", episodes)):
            (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for number, columns in enumerate(self.columns):
            write_parquet(root / f"data/chunk-000/episode_{number:06d}.parquet", [table(columns)])
            for camera, episodes_of in self.frames.items():
                write_video(root / f"videos/chunk-000/{camera}/episode_{number:06d}.mp4", episodes_of[number], self.fps)

    def _write_v3(self, root: Path) -> None:
        kinds = list(dict.fromkeys(self.tasks))
        tasks = pa.table({"task_index": pa.array(range(len(kinds)), pa.int64()), "__index_level_0__": kinds})
        write_parquet(root / "meta/tasks.parquet", [tasks])
        write_parquet(root / "data/chunk-000/file-000.parquet", [table(columns) for columns in self.columns])
        rows = []
        for number, length in enumerate(self.lengths):
            first = sum(self.lengths[:number])
            row = {
                "episode_index": number, "tasks": [self.tasks[number]], "length": length,
                "data/chunk_index": 0, "data/file_index": 0,
                "dataset_from_index": first, "dataset_to_index": first + length,
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
                "stats/action/mean": self.columns[number]["action"].mean(0).tolist(),
            }  # fmt: skip
            for camera in self.cameras:
                row |= {
                    f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": 0,
                    f"videos/{camera}/from_timestamp": first / self.fps,
                    f"videos/{camera}/to_timestamp": (first + length) / self.fps,
                }  # fmt: skip
            rows.append(row)
        write_parquet(root / "meta/episodes/chunk-000/file-000.parquet", [pa.Table.from_pylist(rows)])
        for camera, episodes in self.frames.items():
            write_video(root / f"videos/{camera}/chunk-000/file-000.mp4", np.concatenate(episodes), self.fps)


def table(columns: dict[str, Any]) -> pa.Table:
    """Lists of fixed size for vectors, structs of bytes for pictures, as the datasets package stores them."""
    arrays = {}
    for key, values in columns.items():
        if key == MAP:
            arrays[key] = pa.array([{"bytes": png(v), "path": f"frame-{i:06d}.png"} for i, v in enumerate(values)])
        elif isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(values.reshape(-1))
            arrays[key] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[key] = pa.array(values)
    return pa.table(arrays)


def write_parquet(path: Path, parts: list[pa.Table]) -> None:
    """One row group a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, parts[0].schema) as writer:
        for part in parts:
            writer.write_table(part)


def png(picture: np.ndarray) -> bytes:
    out = BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def pictures(rows: int, start: int) -> np.ndarray:
    """[rows, h, w, 3]: plain pictures whose brightness tells which one it is, so that lossy coding changes little."""
    grey = 20 + (np.arange(start, start + rows) * 37) % 200
    return np.broadcast_to(grey[:, None, None, None], (rows, HEIGHT, WIDTH, 3)).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, fps: int, times: list[int] | None = None, codec: str = "") -> None:
    """Encodes frames [rows, h, w, 3].

    Args:
        path: its suffix says the container.
        frames: the pictures.
        fps: frames a second.
        times: of each frame, in units of 1/fps; None for one after another.
        codec: default is H.264, or MPEG-4 where that is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = codec or ("libx264" if "libx264" in av.codecs_available else "mpeg4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.thread_type = "NONE"
        stream.options = {"crf": "10", "g": "4", "threads": "1"} if codec == "libx264" else {"g": "4"}
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
