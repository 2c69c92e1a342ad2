"""Episodes on disk: append-only blocks, and an index that is written last.

A store is a folder:

    schema.json                 the signals; units, bounds and names of components may be corrected by hand
    card.json                   what the store is made of: layout, loss of pictures, notes on the origin
    index.bin                   a record for each episode
    sources.jsonl               where each episode came from, a line each
    step_s.raw                  seconds of each step, 0 where it is the schema's; absent where all are
    blocks/<signal>.raw         vectors and discrete signals of all episodes, one after another, in C order
    blocks/<signal>.lz4         pictures, each compressed by itself
    blocks/<signal>.ends        where each picture ends, with a 0 in front
    blocks/<signal>.dictionary  the first picture, which the others are compressed against
    blocks/<signal>.missing     a byte for each observation, 1 where it is missing; absent or short where all are there

Where an episode lies in a block follows from the lengths of those before it. An append writes the blocks, makes
them durable, and only then adds the record; killed at any moment, it leaves whole episodes and perhaps a tail that no
record speaks of, which the next append overwrites.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json, to_json
from worldline.data.checks import arrays_of, check_episode, raise_errors
from worldline.data.data_card import CARD_FILE, DataCard, make_card
from worldline.data.fsync import OpenFiles, read_bytes, read_pieces, sync_folder, write_durably
from worldline.data.image_block import PictureBlock
from worldline.data.image_codec import round_off
from worldline.data.index import INDEX_FILE, MASKED, RECORD, SEEDED, TERMINATED, TIMED, TRUNCATED, Index, seal
from worldline.data.locking import locked
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Role, Schema

Array = NDArray[np.generic]
Source = Mapping[str, str | int | float]
"""Where an episode came from, in the words of whoever logged it."""

SCHEMA_FILE = "schema.json"
SOURCES_FILE = "sources.jsonl"
STEPS_FILE = "step_s.raw"
BLOCKS_FOLDER = "blocks"
_VALUES, _MISSING = ".raw", ".missing"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the store says of an episode beside its arrays.

    Args:
        num_steps: T.
        terminated: as in `Episode`.
        truncated: as in `Episode`.
        seed: as in `Episode`.
        source: where the episode came from.
        digest: 128 bits that tell its content (arrays, masks, ends, seed, times) from any other, in hex.
    """

    num_steps: int
    terminated: bool
    truncated: bool
    seed: int | None
    source: Source = field(default_factory=dict)
    digest: str = ""


class Store:
    """The episodes in a folder; made by `Store.create` and `open_store`.

    Any number of threads and processes may read while one appends; appends of several take turns.

    Args:
        path: the folder.
        schema: of every episode.
        card: of the store.
    """

    def __init__(self, path: Path, schema: Schema, card: DataCard) -> None:
        self.path, self.schema, self.card = path, schema, card
        self._bytes_a_row = {s.name: math.prod(s.shape) * np.dtype(s.dtype).itemsize for s in schema.signals}
        self._observed_names = frozenset(signal.name for signal in schema.observations)
        images = [signal for signal in schema.signals if signal.kind is Kind.IMAGE]
        self._pictures = {s.name: PictureBlock(path / BLOCKS_FOLDER, s.name, s.shape) for s in images}
        self._index = Index(path / INDEX_FILE)
        self._num_steps: NDArray[np.int64] = np.empty(0, np.int64)
        self._files = OpenFiles(path)

    @classmethod
    def create(
        cls,
        path: Path | str,
        schema: Schema,
        *,
        max_error: Mapping[str, int] | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Store:
        """An empty store in a new folder.

        Args:
            path: must not exist yet, or be an empty folder.
            schema: of the episodes to come.
            max_error: per image signal, how far off a pixel may be, in grey levels from 0 to 64; default is 0.
            notes: for the card: where the data comes from and what was assumed.

        Raises:
            InputError: something is there already, or a `max_error` is out of range.
            UnknownNameError: `max_error` names no image signal.
        """
        path, card = Path(path), make_card(schema, max_error or {}, notes or {})
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is not empty. Choose another place, or delete it first.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: no folder can be made there ({error}). Choose another place.") from error
        draft = path.absolute().with_name(f".{path.absolute().name}.{secrets.token_hex(4)}")
        blocks = draft / BLOCKS_FOLDER
        blocks.mkdir(parents=True)
        files = {draft / SCHEMA_FILE: to_json(schema).encode(), draft / CARD_FILE: to_json(card).encode()}
        files |= {draft / name: b"" for name in (INDEX_FILE, SOURCES_FILE)}
        for signal in schema.signals:
            if signal.kind is Kind.IMAGE:
                files |= PictureBlock(blocks, signal.name, signal.shape).empty()
            else:
                files[blocks / f"{signal.name}{_VALUES}"] = b""
        try:
            write_durably({file: (0, content) for file, content in files.items()})
            _put_in_place(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # where it was not put in place
        sync_folder(draft.parent)
        return cls(path, schema, card)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def num_steps(self) -> NDArray[np.int64]:
        """T of each episode, [episodes], read-only."""
        if len(self._num_steps) != len(self):
            self._num_steps = self._index.records["num_steps"].astype(np.int64)
            self._num_steps.flags.writeable = False
        return self._num_steps

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """Whether the last observation of each episode is a terminal state, [episodes]."""
        return (self._index.records["flags"] & TERMINATED).astype(bool)

    def entry(self, number: int) -> Entry:
        """What the store says of an episode beside its arrays.

        Args:
            number: 0 to len - 1.

        Raises:
            InputError: there is no such episode.
        """
        self._check_rows(number, 0, 0, Role.OBSERVATION)
        begin, end = self._source_begin(number), int(self._index.records[number]["source_end"])
        return self._entry(number, read_bytes(self._files[SOURCES_FILE], end - begin, begin))

    def entries(self) -> Iterator[Entry]:
        """What the store says of each episode, in order; reads its file once."""
        lines = read_bytes(self._files[SOURCES_FILE], self._index.source_end, 0)
        for number in range(len(self)):
            begin, end = self._source_begin(number), int(self._index.records[number]["source_end"])
            yield self._entry(number, lines[begin:end])

    def append(self, episode: Episode, source: Source | None = None) -> None:
        """Adds an episode; it is on disk when this returns.

        Args:
            episode: in the dtypes, shapes and bounds of the schema.
            source: where it came from, such as the file's name; default is nothing.

        Raises:
            DataError: the episode does not fit the schema; nothing was written.
        """
        raise_errors(check_episode(episode, self.schema, number=len(self)))
        self.append_checked(episode, source, digest=self.digest(episode))

    def append_checked(self, episode: Episode, source: Source | None = None, *, digest: str) -> None:
        """Adds an episode that has been checked already; `append` does both.

        Args:
            episode: without errors by `check_episode`.
            source: as for `append`.
            digest: of the episode, from `digest`.
        """
        line = json.dumps(dict(source or {}), allow_nan=False).encode() + b"\n"
        episode = self.as_stored(episode)
        with locked(self.path / INDEX_FILE):
            self.refresh()
            record = seal(np.array([self._record(episode, len(line), digest)], RECORD))
            write_durably(self._new_ends(episode) | {self.path / SOURCES_FILE: (self._index.source_end, line)})
            write_durably({self.path / INDEX_FILE: (self._index.num_bytes, record.tobytes())})
            self._index.refresh()

    def as_stored(self, episode: Episode) -> Episode:
        """The episode with its pictures as this store keeps them: off by no more than the card says."""
        if not any(self.card.max_error.values()):
            return episode
        return replace(
            episode,
            observations={name: self._rounded(name, values) for name, values in episode.observations.items()},
            actions={name: self._rounded(name, values) for name, values in episode.actions.items()},
            exogenous={name: self._rounded(name, values) for name, values in episode.exogenous.items()},
            rewards={name: self._rounded(name, values) for name, values in episode.rewards.items()},
        )

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
            DataError: what lies there was damaged.
        """
        one = self.schema[signal]
        self._check_rows(episode, start, stop, one.role)
        values: Array = np.empty((stop - start, *one.shape), one.dtype)
        self.read_into(signal, np.array([(episode, start)]), values[None])
        return values

    def read_into(self, signal: str, places: NDArray[np.int64], out: Array, stride: int = 1) -> None:
        """Fills `out` [B, rows, *shape] with every `stride`-th row of B windows: straight into place, without checks.

        Args:
            signal: its name.
            places: [B, 2]: episode, and first row.
            out: contiguous, in the dtype of the signal; the rows must lie within their episodes.
            stride: rows from one to the next, at least 1.

        Raises:
            DataError: what lies there was damaged.
        """
        if not out.size:
            return
        rows = self._rows(signal, places)
        if signal in self._pictures:
            self._pictures[signal].read(rows, out, stride)
        elif stride == 1:
            read_pieces(self._files[f"{BLOCKS_FOLDER}/{signal}{_VALUES}"], out, rows * self._bytes_a_row[signal])
        else:
            between = np.empty((len(out), (out.shape[1] - 1) * stride + 1, *out.shape[2:]), out.dtype)
            read_pieces(self._files[f"{BLOCKS_FOLDER}/{signal}{_VALUES}"], between, rows * self._bytes_a_row[signal])
            out[:] = between[:, ::stride]

    def observed(self, signal: str, episode: int, start: int, stop: int) -> NDArray[np.bool_]:
        """Where an observation signal was observed, [stop - start]; all True where nothing is missing.

        Args:
            signal: the name of an observation signal.
            episode: 0 to len - 1.
            start: first row.
            stop: end, at most T+1.

        Raises:
            InputError: the episode or the rows do not exist.
        """
        self._check_rows(episode, start, stop, Role.OBSERVATION)
        self.schema[signal]  # refuses a name that is not there
        mask = np.ones(stop - start, np.bool_)
        self.observed_into(signal, episode, start, mask)
        return mask

    def observed_into(self, signal: str, episode: int, start: int, out: NDArray[np.bool_], stride: int = 1) -> None:
        """Makes False every value of `out` [rows] whose row is missing; see `read_into`.

        Args:
            signal: the name of an observation signal.
            episode: 0 to len - 1.
            start: first row.
            out: all True.
            stride: rows from one to the next, at least 1.
        """
        if episode <= self._index.last_masked:
            missing = np.zeros((len(out) - 1) * stride + 1 if len(out) else 0, np.uint8)
            rows = os.pread(
                self._files[f"{BLOCKS_FOLDER}/{signal}{_MISSING}"],
                len(missing),
                self._first_row(signal, episode) + start,
            )
            missing[: len(rows)] = np.frombuffer(rows, np.uint8)
            out[missing[::stride] != 0] = False

    def has_missing(self) -> bool:
        """Whether any observation of any episode is missing."""
        return self._index.last_masked >= 0

    def has_step_s(self) -> bool:
        """Whether any episode has times of its own."""
        return self._index.last_timed >= 0

    def step_s(self, episode: int, start: int, stop: int) -> NDArray[np.float32] | None:
        """Seconds of the steps `start` to `stop`, [stop - start]; None where all take the schema's `step_s`.

        Args:
            episode: 0 to len - 1.
            start: first step.
            stop: end, at most T.

        Raises:
            InputError: the episode or the steps do not exist.
        """
        self._check_rows(episode, start, stop, Role.ACTION)
        own = np.zeros(stop - start, np.float32)
        self.step_s_into(episode, start, own)
        return own if own.any() else None

    def step_s_into(self, episode: int, start: int, out: NDArray[np.float32]) -> None:
        """Puts the seconds of each step that has its own into `out` [steps]; see `read_into`.

        Args:
            episode: 0 to len - 1.
            start: first step.
            out: what to keep for the others.
        """
        if episode <= self._index.last_timed:
            first = 4 * (int(self._index.first_step[episode]) + start)
            rows = os.pread(self._files[STEPS_FILE], 4 * len(out), first)
            own = np.frombuffer(rows.ljust(4 * len(out), b"\0"), np.float32)
            np.copyto(out, own, where=own > 0)

    def episode(self, number: int) -> Episode:
        """A whole episode.

        Args:
            number: 0 to len - 1.

        Raises:
            InputError: there is no such episode.
            DataError: what lies there was damaged.
        """
        entry = self.entry(number)
        arrays: dict[Role, dict[str, Array]] = {role: {} for role in Role}
        for signal in self.schema.signals:
            rows = entry.num_steps + (signal.role is Role.OBSERVATION)
            arrays[signal.role][signal.name] = self.read(signal.name, number, 0, rows)
        masks = {name: self.observed(name, number, 0, entry.num_steps + 1) for name in arrays[Role.OBSERVATION]}
        return Episode(
            observations=arrays[Role.OBSERVATION],
            actions=arrays[Role.ACTION],
            exogenous=arrays[Role.EXOGENOUS],
            rewards=arrays[Role.REWARD],
            observed={name: mask for name, mask in masks.items() if not mask.all()},
            terminated=entry.terminated,
            truncated=entry.truncated,
            seed=entry.seed,
            step_s=self.step_s(number, 0, entry.num_steps),
        )

    def verify(self, number: int) -> Episode:
        """A whole episode, once it was compared with what was added.

        Args:
            number: 0 to len - 1.

        Raises:
            DataError: it is not what was added.
        """
        episode = self.episode(number)
        if self.digest(episode) != self.entry(number).digest:
            fix = "It was changed after it was written: restore the store from a copy, or import the logs again."
            raise DataError("the episode is not what was added", fix=fix, file=self.path, episode=number)
        return episode

    def digest(self, episode: Episode) -> str:
        """The digest that `Entry` has of an episode that is equal to this one, once stored."""
        episode = self.as_stored(episode)
        ends = f"{episode.terminated} {episode.truncated} {episode.seed}"
        parts = hashlib.blake2b(ends.encode(), digest_size=16)
        for signal in self.schema.signals:
            parts.update(signal.name.encode())
            parts.update(np.ascontiguousarray(arrays_of(episode, signal.role)[signal.name]).data.cast("B"))
            if signal.name in episode.observed and not episode.observed[signal.name].all():
                parts.update(episode.observed[signal.name].tobytes())
        if episode.step_s is not None:
            parts.update(episode.step_s.tobytes())
        return parts.hexdigest()

    def content_hash(self) -> str:
        """SHA-256 in hex: equal where schema, episodes and their sources are equal. Does not read the blocks again."""
        whole = hashlib.sha256(to_json(self.schema).encode())
        whole.update(self._index.records["digest"].tobytes())
        whole.update(read_bytes(self._files[SOURCES_FILE], self._index.source_end, 0))
        return whole.hexdigest()

    def num_bytes(self) -> dict[str, int]:
        """Bytes on disk of each signal, and under "" of index, sources, card and schema."""
        sizes = dict.fromkeys((signal.name for signal in self.schema.signals), 0)
        for file in (self.path / BLOCKS_FOLDER).iterdir():
            name = file.name.rpartition(".")[0]
            if name in sizes:
                sizes[name] += file.stat().st_size
        return sizes | {"": sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())}

    def refresh(self) -> None:
        """Takes in the episodes that another process has added.

        Raises:
            DataError: a block is shorter than the index says, or the index is damaged.
        """
        self._index.refresh()
        for file, length in self._lengths().items():
            size = file.stat().st_size if file.exists() else -1
            if size < length:
                raise DataError(
                    "the file is missing" if size < 0 else f"the file has {size} bytes where the index needs {length}",
                    fix="It was damaged after it was written: restore it from a copy, or import the logs again.",
                    file=file,
                )

    def _check_rows(self, episode: int, start: int, stop: int, role: Role) -> None:
        if not 0 <= episode < len(self):
            raise InputError(f"there is no episode {episode}. The store has {len(self)}, counted from 0.")
        rows = int(self._index.records[episode]["num_steps"]) + (role is Role.OBSERVATION)
        if not 0 <= start <= stop <= rows:
            raise InputError(f"rows {start} to {stop} of episode {episode} do not exist. It has {rows} ({role}).")

    def _first_row(self, signal: str, episode: int) -> int:
        return int(self._index.first_step[episode]) + (episode if signal in self._observed_names else 0)

    def _rows(self, signal: str, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of a signal's block where windows begin, [B]."""
        rows = self._index.first_step[places[:, 0]].astype(np.int64) + places[:, 1]
        return rows + places[:, 0] if signal in self._observed_names else rows

    def _num_rows(self, signal: str) -> int:
        return self._index.num_steps + (len(self) if signal in self._observed_names else 0)

    def _entry(self, number: int, line: bytes) -> Entry:
        record = self._index.records[number]
        try:
            source = json.loads(line)
        except ValueError as error:
            fix = "It was changed after it was written: restore the file from a copy, or import the logs again."
            raise DataError("the source cannot be read", fix=fix, file=SOURCES_FILE, episode=number) from error
        return Entry(
            num_steps=int(record["num_steps"]),
            terminated=bool(record["flags"] & TERMINATED),
            truncated=bool(record["flags"] & TRUNCATED),
            seed=int(record["seed"]) if record["flags"] & SEEDED else None,
            source=source,
            digest=record["digest"].tobytes().hex(),
        )

    def _source_begin(self, number: int) -> int:
        return int(self._index.records[number - 1]["source_end"]) if number else 0

    def _rounded(self, name: str, values: Array) -> Array:
        error = self.card.max_error.get(name, 0)
        return round_off(values.astype(np.uint8, copy=False), error) if error else values

    def _record(self, episode: Episode, line_bytes: int, digest: str) -> tuple[int, int, int, int, int, bytes, int]:
        flags = TERMINATED * episode.terminated | TRUNCATED * episode.truncated | SEEDED * (episode.seed is not None)
        flags |= MASKED * _lacks_any(episode) | TIMED * (episode.step_s is not None)
        source_end = self._index.source_end + line_bytes
        seed, first_step = episode.seed or 0, self._index.num_steps
        return episode.num_steps, flags, seed, first_step, source_end, bytes.fromhex(digest), 0

    def _new_ends(self, episode: Episode) -> dict[Path, tuple[int, bytes]]:
        """Every block with the offset from which on it changes, and its new end."""
        ends: dict[Path, tuple[int, bytes]] = {}
        for signal in self.schema.signals:
            values, rows = arrays_of(episode, signal.role)[signal.name], self._num_rows(signal.name)
            if signal.kind is Kind.IMAGE:
                ends |= self._pictures[signal.name].new_ends(values.astype(np.uint8, copy=False), rows)
            else:
                block = self.path / BLOCKS_FOLDER / f"{signal.name}{_VALUES}"
                ends[block] = rows * self._bytes_a_row[signal.name], values.tobytes()
        if _lacks_any(episode):
            everything = np.ones(episode.num_steps + 1, np.bool_)
            for name in self._observed_names:
                missing = ~episode.observed.get(name, everything).astype(np.bool_)
                ends[self.path / BLOCKS_FOLDER / f"{name}{_MISSING}"] = self._num_rows(name), missing.tobytes()
        if episode.step_s is not None:
            ends[self.path / STEPS_FILE] = 4 * self._index.num_steps, episode.step_s.tobytes()
        return ends

    def _lengths(self) -> dict[Path, int]:
        """Every file that the index speaks of, and how many of its bytes the episodes take up."""
        index, block = self._index, self.path / BLOCKS_FOLDER
        lengths = {self.path / INDEX_FILE: index.num_bytes, self.path / SOURCES_FILE: index.source_end}
        if index.last_timed >= 0:
            lengths[self.path / STEPS_FILE] = 4 * index.end_of(index.last_timed)
        if index.last_masked >= 0:
            rows = index.end_of(index.last_masked) + index.last_masked + 1
            lengths |= {block / f"{name}{_MISSING}": rows for name in self._observed_names}
        for signal in self.schema.signals:
            rows = self._num_rows(signal.name)
            if signal.kind is Kind.IMAGE:
                lengths |= self._pictures[signal.name].lengths(rows)
            else:
                lengths[block / f"{signal.name}{_VALUES}"] = rows * self._bytes_a_row[signal.name]
        return lengths


def _put_in_place(draft: Path, path: Path) -> None:
    """All at once, so that of two who make a store at the same place one is told."""
    try:
        draft.rename(path)
    except OSError as error:
        raise InputError(f"{path} was made by somebody else meanwhile. Wait until they are done.") from error


def _lacks_any(episode: Episode) -> bool:
    return not all(mask.all() for mask in episode.observed.values())


def is_store(path: Path | str) -> bool:
    """Whether there is a store in this folder."""
    return all((Path(path) / name).is_file() for name in (SCHEMA_FILE, CARD_FILE, INDEX_FILE))


def open_store(path: Path | str) -> Store:
    """The store in a folder, with every episode that was added completely.

    Args:
        path: a folder that `Store.create` made.

    Raises:
        DataError: there is no store, or a block is shorter than the index says.
        ConfigError: its schema or card cannot be read.
    """
    path = Path(path)
    if not is_store(path):
        old = (path / "index.jsonl").is_file()
        problem = "this store was written by an earlier version" if old else "this is no store"
        fix = "Record or import the logs again." if old else "Check the path, or import the logs first."
        raise DataError(f"{problem}: it lacks {SCHEMA_FILE}, {CARD_FILE} or {INDEX_FILE}", fix=fix, file=path)
    schema = from_json(Schema, (path / SCHEMA_FILE).read_bytes(), where=path / SCHEMA_FILE)
    store = Store(path, schema, from_json(DataCard, (path / CARD_FILE).read_bytes(), where=path / CARD_FILE))
    store.refresh()
    return store
