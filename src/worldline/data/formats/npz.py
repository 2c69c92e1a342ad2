"""Importer of .npz files, one per episode: arrays named by signal, T+1 observations and T actions.

A file may also hold:

    terminated, truncated       one flag, or one flag per step.
                                Only the last may be set.
    seed                        the reset seed.
    observed.<signal>           [T+1] bool, False if an observation is missing.
    time or timestamp           seconds; they give the step duration.
    a scalar text or number     metadata of the episode, such as its task or date.
                                It is kept as the episode's source.

A `schema.json` next to the files describes the signals; without it the schema is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from worldline.data.array_size import MAX_ARRAYS, check_entries, check_size
from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.reading import (
    FLAGS,
    FOREIGN_ENDS,
    MASK_PREFIX,
    TIMES,
    EpisodeLogs,
    RawEpisode,
    converted,
    draft_of_arrays,
    duplicate,
    natural,
    readable,
    unread,
)
from worldline.data.infer import SchemaDraft, Summary, infer_schema, summarise
from worldline.schema import Schema

Array = NDArray[np.generic]
_Header = tuple[tuple[int, ...], np.dtype[np.generic]]
"""Shape and dtype."""

_HEADER_BYTES = 1 << 14
"""Longest start of an array that is read; numpy refuses headers above 10,000 characters."""
_FIX = "Save it again with numpy.savez; arrays of Python objects cannot be read."
_SEVERAL = "The file seems to hold several episodes. Save each episode in a separate file."


class NpzLogs(EpisodeLogs):
    """A folder of .npz files in natural order of their names, or a single file."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is an .npz file, or a folder that contains one."""
        return path.suffix == ".npz" if path.is_file() else any(path.glob("*.npz"))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> NpzLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "npz")
        files = [path] if path.is_file() else sorted(path.glob("*.npz"), key=natural)
        unclear, draft = list[str](), SchemaDraft()
        schema = schema_beside(path) if schema is None else schema
        if schema is None:
            schema, unclear = _infer(files, draft)
        known = schema
        return cls(
            known,
            [*unclear, *unread(path, files, "not .npz files")],
            root=files[0].parent,
            files=[file.name for file in files],
            reader=lambda _: lambda number: _read_file(files[number], known),
            columns=draft.columns,
        )


def _read_file(file: Path, schema: Schema) -> RawEpisode:
    arrays, metadata, unknown = _load(file, schema)
    draft = draft_of_arrays(arrays, {"file": file.name, **metadata}, fix=_SEVERAL)
    for name in unknown:
        fix = "Add a signal of this name to schema.json to keep it."
        draft.warn("the array is not in the schema and is left out", fix, signal=name)
    return draft


@contextmanager
def _archive(file: Path) -> Iterator[tuple[NpzFile, dict[str, str], dict[str, _Header]]]:
    """Opens a file: the archive, and for each signal name the name of its array and its header."""
    with (
        converted("the file cannot be read", fix=_FIX, file=file),
        file.open("rb") as stream,
        NpzFile(stream, allow_pickle=False) as archive,
    ):
        check_entries(len(archive.files), "arrays", MAX_ARRAYS, file=file)
        names = [key.replace("/", ".") for key in archive.files]  # signal names have no slashes of nested logs
        if twice := duplicate(sorted(names)):
            raise ValueError(f"it holds two arrays named {twice}")
        keys = dict(zip(names, archive.files, strict=True))
        headers = {name: _header(archive, key) for name, key in keys.items()}
        num_bytes = sum(prod(shape) * dtype.itemsize for shape, dtype in headers.values())
        check_size(num_bytes, "the arrays in it", file=file)
        yield archive, keys, headers


def _load(file: Path, schema: Schema) -> tuple[dict[str, Array], dict[str, str | int | float], list[str]]:
    """Returns the known arrays, the metadata (scalar texts and numbers), and the names of all other arrays."""
    known = {signal.name for signal in schema.signals} | {*FLAGS, *TIMES, "seed"}
    with _archive(file) as (archive, keys, headers):
        arrays = {name: archive[key] for name, key in keys.items() if name in known or name.startswith(MASK_PREFIX)}
        scalars = [name for name in keys if name not in arrays and headers[name][0] == ()]
        items = {name: archive[keys[name]].item() for name in scalars}
    arrays = {k: v for k, v in arrays.items() if k not in TIMES or v.dtype.kind in "fiu"}
    metadata = {k: v for k, v in items.items() if isinstance(v, str | int | float) and v == v}  # v != v: NaN
    return arrays, metadata, [name for name in keys if name not in arrays and name not in metadata]


def _infer(files: Sequence[Path], draft: SchemaDraft) -> tuple[Schema, list[str]]:
    """Infers the schema from the readable files; `read` reports the others."""
    summaries: dict[str, dict[str, Summary]] = {}
    steps_s = list[float]()
    for file, (arrays, times) in readable(files, _summarise, what="files", file=files[0]):
        for name in [name for name in arrays if name.lower() in FOREIGN_ENDS]:
            draft.note(f"{name}: looks like an end flag and is left out; save `terminated` and `truncated` instead.")
            del arrays[name]
        summaries[file.name] = arrays
        steps_s += [draft.usual_step(name, gaps) for name, gaps in times.items()]
    step_s = float(np.median(steps_s)) if steps_s else None
    return infer_schema(summaries, step_s if step_s is not None and step_s > 0 else None, draft)


def _summarise(file: Path) -> tuple[dict[str, Summary], dict[str, NDArray[np.float64]]]:
    """Returns a summary per signal and the step durations per array of times; of images it reads only the header."""
    summaries: dict[str, Summary] = {}
    times: dict[str, NDArray[np.float64]] = {}
    with _archive(file) as (archive, keys, headers):
        for name, key in keys.items():
            if name in FLAGS or name == "seed" or name.startswith(MASK_PREFIX):
                continue
            shape, dtype = headers[name]
            if dtype.kind not in "fiub" or shape == ():
                continue  # metadata or text; `read` keeps or reports it
            if dtype == np.uint8 and len(shape) in (3, 4):
                summaries[name] = Summary(shape=shape, dtype=dtype)
                continue
            values = archive[key]
            if name in TIMES and len(shape) == 1 and len(values) > 1:
                times[name] = np.diff(values.astype(np.float64))
            else:
                summaries[name] = summarise(values)
    return summaries, times


def _header(archive: NpzFile, key: str) -> _Header:
    """Reads shape and dtype of an array without its values, and without a header that is too long."""
    assert archive.zip is not None  # it is open
    with archive.zip.open(f"{key}.npy") as member:
        stream = BytesIO(member.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype
