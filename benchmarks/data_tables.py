"""Prints the results of benchmarks/data.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from data_layouts import NUM_OBSERVATIONS
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def show(result: Row) -> None:
    """Prints the results."""
    console = Console(width=140)
    for one in result["sets"]:
        console.print(table_of_set(one))
        for form, pair in one["verdict"]["lossy"].items():
            sizes = f"{pair['speed']:.1f}× the speed, {pair['bytes']:.2f}× the bytes"
            console.print(f"at the PSNR of {form}: max_error {pair['max_error']}, {sizes}")
    for name, rows in result["layouts"].items():
        console.print(table_of_layouts(name, rows))
    for row in result["memory"]:
        grown = f"+{row['resident_mb']:.0f} MB in {row['batches']} batches"
        console.print(f"memory, {row['set']}, {row['format']}: {grown}")
    for row in result["growth"]:
        opened = 1e3 * statistics.median(row["open_s"])
        grown = f"+{row['resident_mb']:.1f} MB, {row['batch_ms']:.2f} ms per batch"
        console.print(f"{row['episodes']:>7,} episodes: opens in {opened:.1f} ms, {grown}")
    loading = result["loading"]
    share = f"{loading['share']:.1%} of an update of {loading['update_ms']:.1f} ms"
    console.print(f"loading in the demo's training: {loading['load_ms']:.2f} ms, {share}")
    for name, bar in result["bars"].items():
        console.print(f"{'met   ' if bar['met'] else 'MISSED'} {name}")


def table_of_set(one: Row) -> Table:
    """Prints one row per way to read a set."""
    table = Table(title=f"{one['set']}: random windows of {NUM_OBSERVATIONS} frames", title_justify="left")
    for name in (
        "format",
        "workers",
        "bytes/frame",
        "PSNR",
        "worst",
        "windows/s",
        "range",
        "per CPU-s",
        "lossless ours is",
    ):
        table.add_column(name, justify="left" if name == "format" else "right")
    exact = max(row["median"] for row in one["rows"] if row["format"] == "store" and row["lossless"])
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
            "" if row["format"] == "store" else f"{exact / row['median']:.1f}×",
        )
    return table


def table_of_layouts(name: str, rows: Sequence[Row]) -> Table:
    """Prints one row per layout."""
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
