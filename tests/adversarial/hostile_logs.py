"""Logs that are small on disk and huge in memory, one function each.

Each function writes the logs into a folder and returns their path. A scale below 1 makes smaller ones.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

GIGABYTE = 10**9
LEVEL = 1
"""Of the compression: fast, and a thousandth of the size."""


def zip_bomb(folder: Path, scale: float = 1.0) -> Path:
    """An npz file with two arrays of 8 GB zeros."""
    rows = int(scale * GIGABYTE)
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (rows, 1)})
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        for name in ("temperature", "action"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header.getvalue())
                block = bytes(1 << 24)
                for _ in range(8 * rows >> 24):
                    member.write(block)
                member.write(bytes(8 * rows & ((1 << 24) - 1)))
    return folder / "bomb.npz"


def huge_chunks(folder: Path, scale: float = 1.0) -> Path:
    """An HDF5 file with compressed chunks of 1.6 GB."""
    with h5py.File(folder / "chunks.h5", "w") as file:
        rows = int(scale * 200_000_000)
        for name in ("observation", "action"):
            file.create_dataset(name, (rows, 1), "f8", chunks=(rows, 1), compression="gzip")
            file[name].id.write_direct_chunk((0, 0), _zeros(8 * rows))
        file["ep_len"], file["ep_offset"] = np.array([rows]), np.array([0])
    return folder / "chunks.h5"


def _zeros(count: int) -> bytes:
    """Zeros, compressed in parts."""
    packer, parts = zlib.compressobj(LEVEL), list[bytes]()
    block = bytes(1 << 24)
    for _ in range(count >> 24):
        parts.append(packer.compress(block))
    return b"".join([*parts, packer.compress(bytes(count & ((1 << 24) - 1))), packer.flush()])


def long_table(folder: Path, scale: float = 1.0) -> Path:
    """A Parquet file of about 1 MB with 10^8 rows."""
    rows, parts = int(scale * 10**8), 100
    schema = pa.schema([("time", pa.float64()), ("valve_command", pa.float64()), ("temperature", pa.float64())])
    with pq.ParquetWriter(folder / "long.parquet", schema, compression="zstd") as writer:
        column = pa.array(np.zeros(rows // parts))
        for _ in range(parts):
            writer.write_table(pa.table([column, column, column], schema=schema))
    return folder / "long.parquet"


def huge_schema(folder: Path, scale: float = 1.0) -> Path:
    """A table of a few rows and a schema.json of 3 million signals."""
    (folder / "log.csv").write_text("time,valve,temperature\n" + "".join(f"{t},{t % 3},{t % 7}\n" for t in range(100)))
    signal = '{"name": "s%d", "role": "observation", "kind": "vector", "shape": [1]}'
    with (folder / "schema.json").open("w") as file:
        file.write('{"signals": [')
        for first in range(0, int(scale * 3_000_000), 10_000):
            file.write(("," if first else "") + ",".join(signal % number for number in range(first, first + 10_000)))
        file.write("]}")
    return folder / "log.csv"


def single_rows(folder: Path, scale: float = 1.0) -> Path:
    """A CSV file of 7.5 MB with a million episodes of one row."""
    rows = (f"{number},0,{number % 2}\n" for number in range(int(scale * 10**6)))
    (folder / "rows.csv").write_text("episode,temperature,valve_command\n" + "".join(rows))
    return folder / "rows.csv"


def wide_table(folder: Path, scale: float = 1.0) -> Path:
    """A CSV file of 20,000 columns."""
    names = ["time", "valve_command", *(f"sensor_{number}" for number in range(20_000))]
    rng = np.random.default_rng(0)
    with (folder / "wide.csv").open("w") as file:
        file.write(",".join(names) + "\n")
        for row in range(int(scale * 200)):
            file.write(f"{row}," + ",".join(f"{value:.3f}" for value in rng.normal(size=len(names) - 1)) + "\n")
    return folder / "wide.csv"


def nested_schema(folder: Path, scale: float = 1.0) -> Path:
    """A schema.json of a million open brackets."""
    (folder / "log.csv").write_text("time,valve,temperature\n0,1,2\n1,2,3\n2,1,2\n")
    (folder / "schema.json").write_text("[" * int(scale * 1_000_000))
    return folder / "log.csv"


def empty_rows(folder: Path, scale: float = 1.0) -> Path:
    """An HDF5 file that declares 10^12 rows and holds none."""
    del scale
    with h5py.File(folder / "empty.h5", "w") as file:
        for name in ("observation", "action"):
            file.create_dataset(name, (10**12, 1), "f8", chunks=(1024, 1))
        file["ep_len"], file["ep_offset"] = np.array([10**12]), np.array([0])
    return folder / "empty.h5"


def long_video(folder: Path, scale: float = 1.0) -> Path:
    """A video of 3,000 equal frames of 6 MB, with a table of its rows."""
    count = int(scale * 3000)
    _write_video(folder / "run.mp4", count, 1920, 1080)
    _write_rows(folder / "run.csv", count)
    return folder


def many_pictures(folder: Path, scale: float = 1.0) -> Path:
    """An episode of 10,000 images of 3 MB."""
    count, content = int(scale * 10_000), BytesIO()
    Image.fromarray(np.zeros((1000, 1000, 3), np.uint8)).save(content, "PNG")
    (folder / "run").mkdir()
    for number in range(count):
        (folder / "run" / f"{number:05}.png").write_bytes(content.getvalue())
    _write_rows(folder / "run.csv", count)
    return folder


def _write_video(path: Path, count: int, width: int, height: int) -> None:
    """A video of equal frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = np.zeros((height, width, 3), np.uint8)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_rows(path: Path, count: int) -> None:
    path.write_text("frame,valve_command,temperature\n" + "".join(f"{t},{t % 3},{t % 7}\n" for t in range(count)))


def long_texts(folder: Path, scale: float = 1.0) -> Path:
    """A Parquet file of a few kB with a text of 1 MB that is repeated 100,000 times."""
    rows = int(scale * 100_000)
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 1_000_000]))
    columns = {"valve_command": np.arange(rows) % 3, "temperature": np.arange(rows) % 7, "note": text}
    pq.write_table(pa.table(columns), folder / "texts.parquet", store_schema=False)
    return folder / "texts.parquet"


def different_texts(folder: Path, scale: float = 1.0) -> Path:
    """A Parquet file of 50 kB with 2,000 different texts of 500 kB."""
    rows = int(scale * 2000)
    texts = [f"{number:0500000}" for number in range(rows)]
    columns = {"valve_command": np.arange(rows) % 3, "temperature": np.arange(rows) % 7, "note": texts}
    pq.write_table(pa.table(columns), folder / "texts.parquet", compression="zstd")
    return folder / "texts.parquet"


def short_episodes(folder: Path, scale: float = 1.0) -> Path:
    """A CSV file of 6 MB with 200,000 episodes of three rows."""
    rows = (f"{row // 3},{row % 3},{row % 2}\n" for row in range(int(scale * 600_000)))
    (folder / "short.csv").write_text("episode,temperature,valve_command\n" + "".join(rows))
    return folder / "short.csv"


def wide_files(folder: Path, scale: float = 1.0) -> Path:
    """10,000 npz files with a vector of 100,000 components each."""
    content = BytesIO()
    np.savez_compressed(content, temperature=np.zeros((3, 100_000)), valve_action=np.zeros((2, 1)))
    for number in range(int(scale * 10_000)):
        (folder / f"{number}.npz").write_bytes(content.getvalue())
    return folder


def many_texts(folder: Path, scale: float = 1.0) -> Path:
    """2,000 tables with 100 different texts of 10 kB each, which compress well."""
    for number in range(int(scale * 2000)):
        texts = [f"{row + 100 * number:010000}" for row in range(100)]
        columns = {"valve_command": np.arange(100) % 3, "temperature": np.arange(100) % 7, "note": texts}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", compression="zstd")
    return folder


def many_columns(folder: Path, scale: float = 1.0) -> Path:
    """An HDF5 file with 1,000 columns of 40 MB zeros."""
    rows, packed = 5_000_000, _zeros(40_000_000)
    with h5py.File(folder / "columns.h5", "w") as file:
        for name in ("action", *(f"observation_{number}" for number in range(int(scale * 1000)))):
            file.create_dataset(name, (rows, 1), "f8", chunks=(rows, 1), compression="gzip")
            file[name].id.write_direct_chunk((0, 0), packed)
        file["ep_len"], file["ep_offset"] = np.array([rows]), np.array([0])
    return folder / "columns.h5"


def repeated_lists(folder: Path, scale: float = 1.0) -> Path:
    """A Parquet file of 2 kB with 4 lists, together of 10^8 zeros."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(int(scale * 10**8), np.uint8)), int(scale * 10**8) // 4)
    return _write_spectra(folder, lists)


def _write_spectra(folder: Path, lists: pa.Array) -> Path:
    columns = {"valve_command": np.arange(4) % 3, "temperature": np.arange(4.0), "spectrum": lists}
    pq.write_table(pa.table(columns), folder / "lists.parquet", compression="zstd")
    return folder / "lists.parquet"


def missing_lists(folder: Path, scale: float = 1.0) -> Path:
    """A Parquet file of 2 kB with 4 lists of 10^8 numbers, all of which are missing."""
    lists = pa.array([None] * 4, pa.list_(pa.float32(), int(scale * 10**8)))
    return _write_spectra(folder, lists)


def many_choices(folder: Path, scale: float = 1.0) -> Path:
    """A table of a few rows and a schema.json of a signal with 10^9 values."""
    _write_rows(folder / "log.csv", 100)
    values = {"kind": "discrete", "shape": [], "num_values": int(scale * 1e9)}
    choice = {"name": "valve_command", "role": "action", **values}
    other = {"name": "temperature", "role": "observation", "kind": "vector", "shape": [1]}
    (folder / "schema.json").write_text(json.dumps({"signals": [choice, other]}))
    return folder / "log.csv"


def many_lengths(folder: Path, scale: float = 1.0) -> Path:
    """An HDF5 file of 0.1 MB with 10^7 episodes of one row."""
    count = int(scale * 10**7)
    with h5py.File(folder / "lengths.h5", "w") as file:
        for name, dtype in (("observation", np.float32), ("action", np.float32), ("ep_len", np.uint8)):
            values = np.ones((count, 1) if name != "ep_len" else count, dtype)
            file.create_dataset(name, data=values, chunks=(count // 10, *values.shape[1:]), compression="gzip")
    return folder / "lengths.h5"


def many_data_sets(folder: Path, scale: float = 1.0) -> Path:
    """An HDF5 file with 100,000 data sets of two rows."""
    with h5py.File(folder / "sets.h5", "w", libver="latest") as file:
        file["ep_len"] = [2]
        for number in range(int(scale * 100_000)):
            file.create_dataset(f"sensor_{number}", data=np.zeros(2), track_times=False)
    return folder / "sets.h5"


def many_members(folder: Path, scale: float = 1.0) -> Path:
    """An npz file with 200,000 arrays of three rows."""
    content = BytesIO()
    np.save(content, np.zeros((3, 1)))
    with zipfile.ZipFile(folder / "members.npz", "w") as archive:
        for number in range(int(scale * 200_000)):
            archive.writestr(f"sensor_{number}.npy", content.getvalue())
    return folder / "members.npz"


def _write_info(folder: Path, version: str, count: int, place: str) -> None:
    """The metadata of a LeRobot dataset of two signals."""
    features = {name: {"dtype": "float32", "shape": [1]} for name in ("observation.state", "action")}
    info = {"codebase_version": version, "fps": 10, "data_path": f"data/{place}", "features": features}
    info |= {"total_episodes": count, "total_frames": count}
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def many_lines(folder: Path, scale: float = 1.0) -> Path:
    """A LeRobot dataset whose list of episodes has 3 million lines."""
    count = int(scale * 3_000_000)
    _write_info(folder, "v2.1", count, "episode_{episode_index:06d}.parquet")
    (folder / "meta" / "episodes.jsonl").write_text('{"episode_index": 0, "length": 2}\n' * count)
    return folder


def missing_files(folder: Path, scale: float = 1.0) -> Path:
    """A LeRobot dataset of 500,000 episodes without their files."""
    count = int(scale * 500_000)
    _write_info(folder, "v2.1", count, "episode_{episode_index:06d}.parquet")
    lines = (json.dumps({"episode_index": number, "length": 2}) for number in range(count))
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    return folder


def many_entries(folder: Path, scale: float = 1.0) -> Path:
    """A LeRobot dataset whose list of 10 million episodes takes 1 MB."""
    _write_entries(folder, int(scale * 10**7))
    return folder


def _write_entries(folder: Path, count: int) -> None:
    """A LeRobot dataset with a list of episodes of one row."""
    _write_info(folder, "v3.0", count, "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")
    numbers = np.arange(count)
    entries = {"episode_index": numbers, "dataset_from_index": numbers, "dataset_to_index": numbers + 1}
    entries |= dict.fromkeys(("data/chunk_index", "data/file_index"), numbers * 0) | {"length": numbers * 0 + 1}
    packed, file = dict.fromkeys(entries, "DELTA_BINARY_PACKED"), folder / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pa.table(entries), file, compression="zstd", use_dictionary=False, column_encoding=packed)


def long_tasks(folder: Path, scale: float = 1.0) -> Path:
    """A LeRobot dataset with two tasks of 800 MB, which take 60 kB."""
    _write_entries(folder, 3)
    tasks = pa.table({"task_index": [0, 1], "task": ["x" * int(scale * 8 * 10**8)] * 2})
    pq.write_table(tasks, folder / "meta" / "tasks.parquet", compression="zstd", use_dictionary=False)
    return folder


def repeated_tasks(folder: Path, scale: float = 1.0) -> Path:
    """A LeRobot dataset with a task of 1 MB that is listed 1,600 times."""
    count = int(scale * 1600)
    _write_entries(folder, 3)
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(
        pa.table({"task_index": np.arange(count), "task": text}), folder / "meta/tasks.parquet", store_schema=False
    )
    return folder


def nested_header(folder: Path, scale: float = 1.0) -> Path:
    """An npz file with an array whose header has thousands of nested parentheses."""
    count = int(scale * 4000)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + b"(" * count + b")" * count + b"}"
    with zipfile.ZipFile(folder / "nested.npz", "w") as archive:
        archive.writestr("action.npy", b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header)
    return folder / "nested.npz"


def long_header(folder: Path, scale: float = 1.0) -> Path:
    """An npz file of 2 MB with an array whose header has 500 MB."""
    length, block = int(scale * 5 * 10**8), bytes(1 << 20)
    archive = zipfile.ZipFile(folder / "header.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL)
    with archive, archive.open("action.npy", "w") as member:
        member.write(b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little"))
        for _ in range(-(-length >> 20)):
            member.write(block)
    return folder / "header.npz"


_TOO_LARGE = "would take .* of memory, and the limit is 100 MB"
ATTACKS: dict[str, tuple[Callable[[Path, float], Path], float, str]] = {
    "zip bomb": (zip_bomb, 0.02, f"the arrays in it {_TOO_LARGE}"),
    "huge chunks": (huge_chunks, 0.17, f"its values {_TOO_LARGE}"),
    "long table": (long_table, 0.1, f"the table {_TOO_LARGE}"),
    "huge schema": (huge_schema, 0.1, f"the schema {_TOO_LARGE}"),
    "single rows": (single_rows, 0.1, "100000 of the 100000 episodes have a single row, and an episode needs two"),
    "wide table": (wide_table, 0.1, r"the table has 20002 columns, and the limit is 4096"),
    "nested schema": (nested_schema, 0.1, r"recursion limit exceeded"),
    "empty rows": (empty_rows, 0.1, "its length is 1000000000000 and its offset is 0"),
    "long video": (long_video, 0.01, rf"images of shape \(1080, 1920, 3\) {_TOO_LARGE}"),
    "repeated lists": (repeated_lists, 0.05, f"its lists {_TOO_LARGE}"),
    "missing lists": (missing_lists, 0.05, f"its lists {_TOO_LARGE}"),
    "many choices": (many_choices, 0.1, rf"valve_command.*\(num_values\) {_TOO_LARGE}"),
    "many lengths": (many_lengths, 0.05, "a list of 500000 episodes would take 1 GB .* for a file of this size"),
    "many entries": (many_entries, 0.06, "it has more than 500000 entries"),
    "many lines": (many_lines, 0.17, "it has more than 500000 lines"),
    "missing files": (
        missing_files,
        0.2,
        "none of the first 1000 episodes can be read; the first: the file is missing",
    ),
    "different texts": (different_texts, 0.5, "its texts would take .* of memory, .* for a file of this size"),
    "short episodes": (short_episodes, 0.1, r"20000 episodes of 3 rows on average.*\(--episode\)"),
    "many data sets": (many_data_sets, 0.042, "it has more than 4096 data sets and groups"),
    "many members": (many_members, 0.025, "it has more than 4096 arrays"),
    "long tasks": (long_tasks, 0.07, "its list would take 112 MB of memory, and the limit is 100 MB"),
    "repeated tasks": (repeated_tasks, 0.07, "its list would take 112 MB of memory, and the limit is 100 MB"),
    "nested header": (nested_header, 0.5, "Cannot parse header"),
    "long header": (long_header, 0.2, "reading array header, expected 100000000 bytes"),
    "many pictures": (many_pictures, 0.005, rf"images of shape \(1000, 1000, 3\) {_TOO_LARGE}"),
}
"""The attacks, with the scale of a quick test, and the message if one array may take 100 MB."""
SUMS: dict[str, tuple[Callable[[Path, float], Path], float]] = {
    "wide files": (wide_files, 0.015),
    "many texts": (many_texts, 0.3),
    "many columns": (many_columns, 0.03),
}
"""Attacks whose parts are small: only the limit of the process stops them. The scale is that of a quick test."""
