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

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from worldline.data.base import LoggedEpisode, Logs, ReadOptions, refuse, schema_beside
from worldline.data.checks import Finding, Severity
from worldline.data.conversion import steps_s, to_episode
from worldline.data.formats.natural_order import natural
from worldline.data.infer import Summary, infer_schema, summarise
from worldline.data.store import SCHEMA_FILE
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Schema

Array = NDArray[np.generic]

FLAGS = ("terminated", "truncated")
TIMES = ("time", "timestamp")
MASK_PREFIX = "observed."
FOREIGN_ENDS = ("done", "dones", "terminal", "terminals", "timeout", "timeouts")
_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class NpzLogs(Logs):
    """A folder of .npz files in natural order of their names, or a single file.

    Args:
        files: one per episode.
        schema: of every episode.
        unclear: see `Logs`.
    """

    def __init__(self, files: Sequence[Path], schema: Schema, unclear: Sequence[str]) -> None:
        super().__init__(schema, unclear)
        self._files = tuple(files)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is an .npz file, or a folder that contains one."""
        return path.suffix == ".npz" if path.is_file() else any(path.glob("*.npz"))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> NpzLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "npz")
        folder = path.parent if path.is_file() else path
        files = [path] if path.is_file() else sorted(folder.glob("*.npz"), key=natural)
        unclear: list[str] = []
        schema = schema_beside(folder) if schema is None else schema
        if schema is None:
            schema, unclear = _infer(files)
        if path.is_dir():
            others = sorted(p.name for p in path.iterdir() if p not in files and p.name != SCHEMA_FILE)
            unclear += [f"Not read, because they are not .npz files: {', '.join(others)}."] if others else []
        return cls(files, schema, unclear)

    def __len__(self) -> int:
        return len(self._files)

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields one episode per file."""
        for number, file in enumerate(self._files):
            try:
                arrays, metadata, unknown = _load(file, self.schema)
                episode = _episode(arrays, self.schema)
            except _UNREADABLE as error:
                finding = Finding(problem=_unreadable(error), fix=_UNREADABLE_FIX, file=file.name, episode=number)
                yield LoggedEpisode(file=file.name, number=number, episode=None, findings=(finding,))
                continue
            findings = [_left_out(name, file.name, number) for name in unknown]
            findings += _early_ends(arrays, file.name, number)
            source = {"file": file.name, **metadata}
            yield LoggedEpisode(file=file.name, number=number, episode=episode, findings=tuple(findings), source=source)


_UNREADABLE_FIX = "Save it again with numpy.savez; arrays of Python objects cannot be read."


def _unreadable(error: Exception) -> str:
    return f"the file cannot be read ({type(error).__name__}: {error})".replace("\n", " ")


def _load(file: Path, schema: Schema) -> tuple[dict[str, Array], dict[str, str | int | float], list[str]]:
    """Returns the known arrays, the metadata (scalar texts and numbers), and the names of all other arrays."""
    known = {signal.name for signal in schema.signals} | {*FLAGS, *TIMES, "seed"}
    with file.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive:
        keys = _keys(archive)
        arrays = {name: archive[key] for name, key in keys.items() if name in known or name.startswith(MASK_PREFIX)}
        with zipfile.ZipFile(stream) as headers:
            scalars = [name for name in keys if name not in arrays and _header(headers, keys[name])[0] == ()]
        items = {name: archive[keys[name]].item() for name in scalars}
    arrays = {k: v for k, v in arrays.items() if k not in TIMES or v.dtype.kind in "fiu"}
    metadata = {k: v for k, v in items.items() if isinstance(v, str | int | float) and v == v}  # v != v: NaN
    return arrays, metadata, [name for name in keys if name not in arrays and name not in metadata]


def _keys(archive: NpzFile) -> dict[str, str]:
    """Returns the name of the array in the file for each signal name."""
    names = [_signal_name(key) for key in archive.files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"it holds two arrays named {twice[0]}")
    return dict(zip(names, archive.files, strict=True))


def _signal_name(key: str) -> str:
    """Replaces the slashes of nested logs, which signal names cannot have."""
    return key.replace("/", ".")


def _infer(files: Sequence[Path]) -> tuple[Schema, list[str]]:
    """Infers the schema from the readable files; `read` reports the others."""
    summaries: dict[str, dict[str, Summary]] = {}
    steps_s: list[float] = []
    unclear: dict[str, None] = {}  # a dict keeps each sentence once, in order
    failure: Exception | None = None
    for file in files:
        try:
            arrays, times = _summarise(file)
        except _UNREADABLE as error:
            failure = failure or error
            continue
        for name in [name for name in arrays if name.lower() in FOREIGN_ENDS]:
            unclear[f"{name}: looks like an end flag and is left out; save `terminated` and `truncated` instead."] = (
                None
            )
            del arrays[name]
        summaries[file.name] = arrays
        for name, gaps in times.items():
            steps_s.append(float(np.median(gaps)))
            unclear[f"{name}: read as seconds; gives the step duration and is not stored as a signal."] = None
            if np.abs(gaps - steps_s[-1]).max() > 0.01 * abs(steps_s[-1]):
                unclear[f"{name}: step durations vary by more than 1 %, so each step keeps its duration."] = None
    if not summaries:
        reason = _unreadable(failure) if failure else "there are no files"
        raise DataError(f"none of the {len(files)} files can be read: {reason}", fix=_UNREADABLE_FIX, file=files[0])
    step_s = float(np.median(steps_s)) if steps_s else None
    inferred = infer_schema(summaries, step_s if step_s is not None and step_s > 0 else None)
    return inferred.schema, [*inferred.unclear, *unclear]


def _summarise(file: Path) -> tuple[dict[str, Summary], dict[str, NDArray[np.float64]]]:
    """Returns a summary per signal and the step durations per array of times; of images it reads only the header."""
    summaries: dict[str, Summary] = {}
    times: dict[str, NDArray[np.float64]] = {}
    with file.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive, zipfile.ZipFile(stream) as headers:
        for name, key in _keys(archive).items():
            if name in FLAGS or name == "seed" or name.startswith(MASK_PREFIX):
                continue
            shape, dtype = _header(headers, key)
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


def _header(archive: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Reads shape and dtype of an array without its values."""
    with archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return shape, dtype


def _left_out(name: str, file: str, number: int) -> Finding:
    return Finding(
        problem="the array is not in the schema and is left out",
        fix="Add a signal of this name to schema.json to keep it.",
        severity=Severity.WARNING,
        file=file,
        episode=number,
        signal=name,
    )


def _early_ends(arrays: Mapping[str, Array], file: str, number: int) -> Iterator[Finding]:
    """Yields an error for each flag that is set before the last step."""
    for name in (name for name in FLAGS if name in arrays):
        steps = np.flatnonzero(arrays[name].reshape(-1)[:-1])
        if len(steps):
            fix = "The file seems to hold several episodes. Save each episode in a separate file."
            yield Finding(
                problem=f"{name} is set before the end", fix=fix, file=file, episode=number, step=int(steps[0])
            )


def _episode(arrays: Mapping[str, Array], schema: Schema) -> Episode:
    """Builds the episode; `check_episode` reports arrays that do not fit the schema."""
    ends = {name: bool(arrays[name].reshape(-1)[-1:].any()) for name in FLAGS if name in arrays}
    terminated = ends.get("terminated", False)
    return to_episode(
        arrays,
        schema,
        observed={name[len(MASK_PREFIX) :]: mask for name, mask in arrays.items() if name.startswith(MASK_PREFIX)},
        terminated=terminated,
        truncated=ends.get("truncated", not terminated),
        seed=int(arrays["seed"].item()) if "seed" in arrays and arrays["seed"].size == 1 else None,
        step_s=next((steps_s(arrays[name], schema.step_s) for name in TIMES if name in arrays), None),
    )
