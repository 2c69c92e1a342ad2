"""Logs that are small on disk and huge in memory, one function each.

Each function writes the logs into a folder and returns their path. A scale below 1 makes smaller ones.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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


ATTACKS: dict[str, tuple[Callable[[Path, float], Path], str]] = {
    "zip bomb": (zip_bomb, r"the arrays in it would take .* of memory, and the limit is 100 MB"),
    "huge chunks": (huge_chunks, r"its chunks have \d+ bytes each, and the limit is 268435456"),
    "long table": (long_table, r"the table would take .* of memory, and the limit is 100 MB"),
    "huge schema": (huge_schema, r"the schema has .* MB, and the limit is 16.8 MB"),
    "wide table": (wide_table, r"the table has 20002 columns, and the limit is 4096"),
    "nested schema": (nested_schema, r"recursion limit exceeded"),
    "empty rows": (empty_rows, r"a mask of its rows would take 1 TB of memory, and the limit is 100 MB"),
}
"""The attacks, with the message to an import that may take 100 MB."""
