"""Episodes on disk: raw append-only blocks, and an index that is written last.

A store is a folder:

    schema.json                 the signals; units, bounds and names of components may be corrected by hand
    index.jsonl                 one line an episode: what `Entry` holds
    blocks/<signal>.raw         the values of all episodes, one after another, in C order
    blocks/<signal>.observed    a byte for each observation of those episodes that came with a mask

Where an episode lies in a block follows from the lengths of those before it. An append writes the blocks, makes
them durable, and only then adds the line; killed at any moment, it leaves whole episodes and perhaps a tail that no
line speaks of, which the next append overwrites.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json, to_json
from worldline.contracts.episode import Episode
from worldline.contracts.schema import Role, Schema
from worldline.data.checks import arrays_of, check_episode, raise_errors
from worldline.errors import DataError, InputError

Array = NDArray[np.generic]
Source = Mapping[str, str | int | float]
"""Where an episode came from, in the words of whoever logged it."""

SCHEMA_FILE = "schema.json"
INDEX_FILE = "index.jsonl"
BLOCKS_FOLDER = "blocks"
_VALUES, _MASK = ".raw", ".observed"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the index.

    Args:
        num_steps: T.
        terminated: as in `Episode`.
        truncated: as in `Episode`.
        seed: as in `Episode`.
        source: where the episode came from.
        masked: observation signals that came with a mask.
    """

    num_steps: int
    terminated: bool
    truncated: bool
    seed: int | None
    source: Source = field(default_factory=dict)
    masked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Index:
    entries: tuple[Entry, ...]


class Store:
    """The episodes in a folder; made by `Store.create` and `open_store`.

    Any number of threads and processes may read while one appends; appends of several take turns.

    Args:
        path: the folder.
        schema: of every episode.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self.schema = path, schema
        self._bytes_a_row = {s.name: np.empty(s.shape, s.dtype).nbytes for s in schema.signals}
        self._entries: list[Entry] = []
        self._first_step = [0]  # of each episode, counted over the store; the last is where the next will begin
        self._first_masked = {signal.name: [0] for signal in schema.observations}  # the same for rows of masks
        self._index_bytes = 0
        self._descriptors: dict[str, int] = {}
        weakref.finalize(self, _close, self._descriptors)

    @classmethod
    def create(cls, path: Path | str, schema: Schema) -> Store:
        """An empty store in a new folder.

        Args:
            path: must not exist yet, or be an empty folder.
            schema: of the episodes to come.

        Raises:
            InputError: something is there already.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is not empty. Choose another place, or delete it first.")
        (path / BLOCKS_FOLDER).mkdir(parents=True, exist_ok=True)
        store = cls(path, schema)
        for file in store._lengths():
            file.touch()
        draft = path / f".{SCHEMA_FILE}"
        _write_durably({draft: (0, to_json(schema).encode())})
        draft.replace(path / SCHEMA_FILE)  # a folder is a store once it has a schema
        for folder in (path / BLOCKS_FOLDER, path):
            _sync_folder(folder)
        return store

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_steps(self) -> NDArray[np.int64]:
        """T of each episode, [episodes]."""
        return np.array([entry.num_steps for entry in self._entries], np.int64)

    @property
    def entries(self) -> Sequence[Entry]:
        """What the index says of each episode."""
        return tuple(self._entries)

    def append(self, episode: Episode, source: Source | None = None) -> None:
        """Adds an episode; it is on disk when this returns.

        Args:
            episode: in the dtypes, shapes and bounds of the schema.
            source: where it came from, such as the file's name; default is nothing.

        Raises:
            DataError: the episode does not fit the schema; nothing was written.
        """
        raise_errors(check_episode(episode, self.schema, number=len(self)))
        entry = Entry(
            num_steps=episode.num_steps,
            terminated=episode.terminated,
            truncated=episode.truncated,
            seed=episode.seed,
            source=dict(source or {}),
            masked=tuple(name for name in self._first_masked if name in episode.observed),
        )
        line = json.dumps(asdict(entry), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        blocks = {self._block(s.name): arrays_of(episode, s.role)[s.name] for s in self.schema.signals}
        blocks |= {self._mask(name): episode.observed[name] for name in entry.masked}
        with (self.path / INDEX_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            ends = self._lengths()
            _write_durably({file: (ends[file], values.tobytes()) for file, values in blocks.items()})
            _write_durably({self.path / INDEX_FILE: (self._index_bytes, line)})
            self._add([entry], len(line))

    def read(self, signal: str, episode: int, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of one signal, [stop - start, *shape].

        Args:
            signal: its name.
            episode: 0 to len - 1.
            start: first row, from 0.
            stop: end, at most T+1 for observations and T for all others.

        Raises:
            InputError: the episode or the rows do not exist.
            UnknownNameError: there is no such signal.
        """
        one = self.schema[signal]
        self._check_rows(episode, start, stop, one.role)
        values = np.empty((stop - start, *one.shape), one.dtype)
        self.read_into(signal, episode, start, values)
        return values

    def read_into(self, signal: str, episode: int, start: int, out: Array) -> None:
        """Fills `out` [rows, *shape] with the rows from `start` on: one read, straight into place, without checks.

        Args:
            signal: its name.
            episode: 0 to len - 1.
            start: first row.
            out: contiguous, in the dtype of the signal; the rows must lie within the episode.
        """
        row = self._first_step[episode] + start + (episode if signal in self._first_masked else 0)
        _read(self._descriptor(signal, _VALUES), out, row * self._bytes_a_row[signal])

    def observed(self, signal: str, episode: int, start: int, stop: int) -> NDArray[np.bool_]:
        """Where an observation signal was observed, [stop - start]; all True where no mask was given.

        Args:
            signal: the name of an observation signal.
            episode: 0 to len - 1.
            start: first row.
            stop: end, at most T+1.

        Raises:
            InputError: the episode or the rows do not exist.
        """
        self._check_rows(episode, start, stop, Role.OBSERVATION)
        mask = np.ones(stop - start, np.bool_)
        if signal in self._entries[episode].masked:
            _read(self._descriptor(signal, _MASK), mask, self._first_masked[signal][episode] + start)
        return mask

    def episode(self, number: int) -> Episode:
        """A whole episode.

        Args:
            number: 0 to len - 1.

        Raises:
            InputError: there is no such episode.
        """
        self._check_rows(number, 0, 0, Role.OBSERVATION)
        entry = self._entries[number]
        arrays: dict[Role, dict[str, Array]] = {role: {} for role in Role}
        for signal in self.schema.signals:
            rows = entry.num_steps + (signal.role is Role.OBSERVATION)
            arrays[signal.role][signal.name] = self.read(signal.name, number, 0, rows)
        return Episode(
            observations=arrays[Role.OBSERVATION],
            actions=arrays[Role.ACTION],
            exogenous=arrays[Role.EXOGENOUS],
            rewards=arrays[Role.REWARD],
            observed={name: self.observed(name, number, 0, entry.num_steps + 1) for name in entry.masked},
            terminated=entry.terminated,
            truncated=entry.truncated,
            seed=entry.seed,
        )

    def content_hash(self) -> str:
        """SHA-256 in hex of schema, index and blocks: equal where everything that is stored is equal."""
        digest = hashlib.sha256(to_json(self.schema).encode())
        for file, length in self._lengths().items():
            digest.update(f"\n{file.name} {length}\n".encode())
            with file.open("rb") as block:
                while length > 0 and (chunk := block.read(min(_CHUNK, length))):
                    digest.update(chunk)
                    length -= len(chunk)
        return digest.hexdigest()

    def refresh(self) -> None:
        """Takes in the episodes that another process has added.

        Raises:
            ConfigError: a line of the index cannot be read.
            DataError: a block is shorter than the index says.
        """
        index = self.path / INDEX_FILE
        with index.open("rb") as file:
            file.seek(self._index_bytes)
            self._add(*_parse_index(file.read(), index))
        for block, length in self._lengths().items():
            size = block.stat().st_size if block.exists() else -1
            if size < length:
                raise DataError(
                    "the file is missing" if size < 0 else f"the file has {size} bytes where the index needs {length}",
                    fix="It was damaged after it was written: restore it from a copy, or keep the episodes before the "
                    f"damage by deleting the last lines of {INDEX_FILE}.",
                    file=block,
                )

    def _check_rows(self, episode: int, start: int, stop: int, role: Role) -> None:
        if not 0 <= episode < len(self):
            raise InputError(f"there is no episode {episode}. The store has {len(self)}, counted from 0.")
        rows = self._entries[episode].num_steps + (role is Role.OBSERVATION)
        if not 0 <= start <= stop <= rows:
            raise InputError(f"rows {start} to {stop} of episode {episode} do not exist. It has {rows} ({role}).")

    def _add(self, entries: Sequence[Entry], num_bytes: int) -> None:
        for entry in entries:
            self._entries.append(entry)
            self._first_step.append(self._first_step[-1] + entry.num_steps)
            for name, first in self._first_masked.items():
                first.append(first[-1] + (entry.num_steps + 1 if name in entry.masked else 0))
        self._index_bytes += num_bytes

    def _lengths(self) -> dict[Path, int]:
        """Every file but the schema, and how many of its bytes the episodes take up."""
        lengths = {self.path / INDEX_FILE: self._index_bytes}
        for signal in self.schema.signals:
            rows = self._first_step[-1] + (len(self) if signal.role is Role.OBSERVATION else 0)
            lengths[self._block(signal.name)] = rows * self._bytes_a_row[signal.name]
        return lengths | {self._mask(name): first[-1] for name, first in self._first_masked.items()}

    def _block(self, signal: str) -> Path:
        return self.path / BLOCKS_FOLDER / f"{signal}{_VALUES}"

    def _mask(self, signal: str) -> Path:
        return self.path / BLOCKS_FOLDER / f"{signal}{_MASK}"

    def _descriptor(self, signal: str, ending: str) -> int:
        """A descriptor that stays open: opening costs more than a read, and so does building a path."""
        name = signal + ending
        if name not in self._descriptors:
            self._descriptors[name] = os.open(self.path / BLOCKS_FOLDER / name, os.O_RDONLY)
        return self._descriptors[name]


def is_store(path: Path | str) -> bool:
    """Whether there is a store in this folder."""
    return (Path(path) / SCHEMA_FILE).is_file() and (Path(path) / INDEX_FILE).is_file()


def open_store(path: Path | str) -> Store:
    """The store in a folder, with every episode that was added completely.

    Args:
        path: a folder that `Store.create` made.

    Raises:
        DataError: there is no store, or a block is shorter than the index says.
        ConfigError: its schema or index cannot be read.
    """
    path = Path(path)
    if not is_store(path):
        problem = f"this is no store: it lacks {SCHEMA_FILE} or {INDEX_FILE}"
        raise DataError(problem, fix="Check the path, or import the logs first.", file=path)
    store = Store(path, from_json(Schema, (path / SCHEMA_FILE).read_bytes(), where=path / SCHEMA_FILE))
    store.refresh()
    return store


def _parse_index(text: bytes, where: Path) -> tuple[tuple[Entry, ...], int]:
    """The entries of all complete lines, and how many bytes these take; a torn last line is left out."""
    lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
    if lines and not _is_json(lines[-1]):  # a power cut can leave zeros in front of the end of the line
        lines.pop()
    if not lines:
        return (), 0
    index = from_json(_Index, b'{"entries": [' + b",".join(lines) + b"]}", where=where)
    return index.entries, sum(len(line) for line in lines)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _write_durably(ends: Mapping[Path, tuple[int, bytes]]) -> None:
    """Gives each file a new end, from an offset on; all of it is on disk when this returns."""
    with ExitStack() as stack:
        streams = []
        for file, (offset, content) in ends.items():
            stream = stack.enter_context(os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), "wb"))
            stream.truncate(offset)
            stream.seek(offset)
            stream.write(content)
            stream.flush()
            streams.append(stream.fileno())
        # Syncs that run together share one commit of the file system: 11 files take 1 ms, one after another 50 ms.
        with ThreadPoolExecutor(len(streams)) as pool:
            list(pool.map(os.fsync, streams))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _read(descriptor: int, out: Array, offset: int) -> None:
    """Fills `out` from the file. `os.preadv` copies straight into it and moves no shared file position."""
    if out.nbytes == 0:
        return
    rest = out.data.cast("B")
    while len(rest) > 0:
        got = os.preadv(descriptor, [rest], offset)
        if got == 0:
            raise DataError("a block ends too early", fix="It was cut while it was open: restore it from a copy.")
        rest, offset = rest[got:], offset + got


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
