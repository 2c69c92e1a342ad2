"""Episodes on disk: append-only blocks, and an index that is written last.

A store is a folder. Its `schema.json` may be corrected by hand: units, bounds, names of components, entities, periods,
roles and kinds. Other roles or kinds change the layout of the blocks, so the store is rewritten when it is opened.

    schema.json                 the signals.
    layout.json                 the schema with which the blocks were written. Absent in older stores.
    card.json                   layout version, loss of image compression, notes on the origin.
    index.bin                   one record per episode.
    sources.jsonl               the origin of each episode, one line each.
    step_s.raw                  seconds of each step, 0 for that of the schema. Absent if no episode has its own.
    blocks/<signal>.raw         vectors and discrete signals of all episodes, one after another, in C order.
    blocks/<signal>.lz4         images, compressed one by one.
    blocks/<signal>.ends        a 0 and the end offset of each image.
    blocks/<signal>.dictionary  the first image, the dictionary of all others.
    blocks/<signal>.missing     one byte per observation, 1 if missing. Absent or short if no more are missing.

The position of an episode in a block follows from the lengths of the episodes before it. An append writes the blocks,
syncs them to disk, and only then adds the record. A killed append leaves complete episodes, and perhaps bytes after
the last one that no record covers. The next append overwrites them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json, to_json
from worldline.data.checks import arrays_of, check_episode, grouped, raise_errors, with_values
from worldline.data.conversion import bounds_of, layout_of, refitted
from worldline.data.data_card import CARD_FILE, DataCard, make_card
from worldline.data.draft_folder import draft_beside, drafted, finish_replace, replace_folder
from worldline.data.fsync import OpenFiles, locked, read_bytes, read_pieces, refuse_special_files, write_durably
from worldline.data.image_block import PictureBlock, round_off
from worldline.data.index import INDEX_FILE, TERMINATED, Entry, Index, Source, lacks_any
from worldline.data.windows import Windows
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.formatting import first_of, html_table, plural
from worldline.schema import Kind, Role, Schema

if TYPE_CHECKING:
    from worldline.plots.figure import PlotFigure

Array = NDArray[np.generic]

SCHEMA_FILE, LAYOUT_FILE, SOURCES_FILE = "schema.json", "layout.json", "sources.jsonl"
STEPS_FILE, BLOCKS_FOLDER = "step_s.raw", "blocks"
_VALUES, _MISSING = ".raw", ".missing"


class Store:
    """The episodes in a folder; use `Store.create` or `open_store`.

    Any number of threads and processes may read while one appends. Concurrent appends wait for each other.

    Args:
        path: the folder.
        schema: of every episode.
        card: of the store.
    """

    split_rule = "episode"
    """Rule by which `split_store` splits the episodes by default."""

    def __init__(self, path: Path, schema: Schema, card: DataCard) -> None:
        self.path, self.schema, self.card = path, schema, card
        self._row_bytes = {s.name: math.prod(s.shape) * np.dtype(s.dtype).itemsize for s in schema.signals}
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
            schema: of the episodes.
            max_error: per image signal, the largest error of a pixel, in grey levels from 0 to 64; default is 0.
            notes: for the card: origin of the data and assumptions.

        Raises:
            InputError: the path exists and is not empty, or a `max_error` is out of range.
            UnknownNameError: `max_error` names no image signal.
        """
        path, card = Path(path), make_card(schema, max_error or {}, notes or {})
        with drafted(path) as draft:
            blocks = draft / BLOCKS_FOLDER
            blocks.mkdir(parents=True)
            text = to_json(schema).encode()
            files = {draft / SCHEMA_FILE: text, draft / LAYOUT_FILE: text, draft / CARD_FILE: to_json(card).encode()}
            files |= {draft / name: b"" for name in (INDEX_FILE, SOURCES_FILE)}
            for signal in schema.signals:
                if signal.kind is Kind.IMAGE:
                    files |= PictureBlock(blocks, signal.name, signal.shape).empty()
                else:
                    files[blocks / f"{signal.name}{_VALUES}"] = b""
            write_durably({file: (0, content) for file, content in files.items()})
        return cls(path, schema, card)

    def _repr_html_(self) -> str:
        """For notebooks: the signals, and the numbers of episodes and steps."""
        rows = [(s.name, s.role.value, s.kind.value, str(list(s.shape)), s.unit) for s in self.schema.signals]
        counts = f"{plural(len(self), 'episode')}, {plural(int(self.num_steps.sum()), 'step')}"
        return html_table(f"{self.path}: {counts}", ("signal", "role", "kind", "shape", "unit"), rows)

    def __repr__(self) -> str:
        signals = first_of([f"{signal.name} ({signal.role.value})" for signal in self.schema.signals])
        return f"Store({self.path}: {len(self)} episodes, {int(self.num_steps.sum())} steps; {signals})"

    def __reduce__(self) -> tuple[Callable[[Path], Store], tuple[Path]]:
        return open_store, (self.path.absolute(),)

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
        """The metadata of an episode.

        Args:
            number: 0 to len - 1.

        Raises:
            InputError: the episode does not exist.
        """
        self._check_rows(number, 0, 0, Role.OBSERVATION)
        begin, end = self._source_range(number)
        return self._entry(number, read_bytes(self._files[SOURCES_FILE], end - begin, begin))

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """The metadata of each episode from `start` to `stop - 1`, in order; faster than `entry` in a loop."""
        lines = read_bytes(self._files[SOURCES_FILE], self._index.source_end, 0)
        for number in range(len(self))[start:stop]:
            yield self._entry(number, lines[slice(*self._source_range(number))])

    def append(self, episode: Episode, source: Source | None = None) -> None:
        """Adds an episode; it is on disk when this returns.

        Args:
            episode: in the dtypes, shapes and bounds of the schema.
            source: origin, such as the file's name; default is empty.

        Raises:
            DataError: the episode does not fit the schema; nothing was written.
        """
        raise_errors(check_episode(episode, self.schema, number=len(self)))
        self.append_checked(episode, source, digest=self.digest(episode))

    def append_checked(self, episode: Episode, source: Source | None = None, *, digest: str) -> None:
        """Adds an episode that was already checked; `append` checks and adds.

        Args:
            episode: for which `check_episode` finds no error.
            source: as for `append`.
            digest: of the episode, from `digest`.
        """
        line = json.dumps(dict(source or {}), allow_nan=False).encode() + b"\n"
        episode = self.as_stored(episode)
        with locked(self.path / INDEX_FILE):
            self.refresh()
            record = self._index.next_record(episode, len(line), digest)
            write_durably(self._new_ends(episode) | {self.path / SOURCES_FILE: (self._index.source_end, line)})
            write_durably({self.path / INDEX_FILE: (self._index.num_bytes, record)})
            self._index.refresh()

    def as_stored(self, episode: Episode) -> Episode:
        """The episode with its images rounded as this store keeps them."""
        errors = {name: error for name, error in self.card.max_error.items() if error}

        def rounded(name: str, values: Array) -> Array:
            return round_off(values.astype(np.uint8, copy=False), errors[name]) if name in errors else values

        return with_values(episode, rounded) if errors else episode

    def read(self, signal: str, episode: int, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of one signal, [stop - start, *shape].

        Args:
            signal: name of the signal.
            episode: 0 to len - 1.
            start: first row, from 0.
            stop: end, at most T+1 for observations and T for all others.

        Raises:
            InputError: the episode or the rows do not exist.
            UnknownNameError: the signal does not exist.
            DataError: the data is damaged.
        """
        described = self.schema[signal]
        self._check_rows(episode, start, stop, described.role)
        values: Array = np.empty((stop - start, *described.shape), described.dtype)
        self.read_into(signal, np.array([(episode, start)]), values[None])
        return values

    def read_into(self, signal: str, places: NDArray[np.int64], out: Array, stride: int = 1) -> None:
        """Fills `out` with every `stride`-th row of B windows, without a copy and without checks.

        Args:
            signal: name of the signal.
            places: [B, 2]: episode, and first row.
            out: [B, rows, *shape], contiguous; the rows must lie within their episodes.
            stride: distance between rows, at least 1.
        """
        if not out.size:
            return
        rows = self._rows(signal, places)
        if signal in self._pictures:
            self._pictures[signal].read(rows, out, stride)
            return
        length = (out.shape[1] - 1) * stride + 1
        whole = out if stride == 1 else np.empty((len(out), length, *out.shape[2:]), out.dtype)
        read_pieces(self._files[f"{BLOCKS_FOLDER}/{signal}{_VALUES}"], whole, rows * self._row_bytes[signal])
        if stride > 1:
            out[:] = whole[:, ::stride]

    def observed(self, signal: str, episode: int, start: int, stop: int) -> NDArray[np.bool_]:
        """Mask of an observation signal, [stop - start]; False for missing values.

        Arguments and errors are those of `read`.
        """
        self._check_rows(episode, start, stop, Role.OBSERVATION)
        self.schema[signal]  # raises on an unknown name
        mask = np.ones(stop - start, np.bool_)
        self.observed_into(signal, episode, start, mask)
        return mask

    def observed_into(self, signal: str, episode: int, start: int, out: NDArray[np.bool_], stride: int = 1) -> None:
        """Sets `out` to False in missing rows, without checks.

        Args:
            signal: the name of an observation signal.
            episode: 0 to len - 1.
            start: first row.
            out: [rows], all True.
            stride: distance between rows, at least 1.
        """
        if episode <= self._index.last_masked:
            file = self._files[f"{BLOCKS_FOLDER}/{signal}{_MISSING}"]
            first = int(self._index.first_step[episode]) + episode + start
            missing = np.frombuffer(os.pread(file, max(0, (len(out) - 1) * stride + 1), first), np.uint8)[::stride]
            out[: len(missing)][missing != 0] = False

    def has_missing(self) -> bool:
        """Whether any observation of any episode is missing."""
        return self._index.last_masked >= 0

    def has_step_s(self) -> bool:
        """Whether any episode has its own step durations."""
        return self._index.last_timed >= 0

    def step_s(self, episode: int, start: int, stop: int) -> NDArray[np.float32] | None:
        """Seconds of the steps `start` to `stop`, [stop - start]; None if all take the schema's `step_s`.

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
        """Overwrites `out` [steps] with the logged seconds of steps that have them, without checks.

        Args:
            episode: 0 to len - 1.
            start: first step.
            out: default values, kept for the other steps.
        """
        if episode <= self._index.last_timed:
            first = 4 * (int(self._index.first_step[episode]) + start)
            rows = os.pread(self._files[STEPS_FILE], 4 * len(out), first)
            own = np.frombuffer(rows.ljust(4 * len(out), b"\0"), np.float32)
            np.copyto(out, own, where=own > 0)

    def windows(
        self,
        num_observations: int,
        *,
        episodes: Sequence[int] | None = None,
        signals: Sequence[str] | None = None,
        stride: int = 1,
        shard: tuple[int, int] = (0, 1),
    ) -> Windows:
        """Windows of consecutive observations with the inputs between them, for training loops of your own.

        Args:
            num_observations: H, at least 1.
            episodes: numbers of the episodes; None for all.
            signals: names of the signals to read; None for all.
            stride: steps from one observation to the next, at least 1.
            shard: rank and number of processes, of which each gets its share; see `Windows`.

        Raises:
            InputError: H or the stride is not positive, an episode does not exist, or there is no such shard.
            UnknownNameError: a signal does not exist.
            DataError: no episode is long enough, or there are fewer windows than processes.
        """
        names = [signal.name for signal in self.schema.signals] if signals is None else signals
        return Windows(self, num_observations, range(len(self)) if episodes is None else episodes, names, stride, shard)

    def episode(self, number: int, *, images: bool = True) -> Episode:
        """A whole episode.

        Args:
            number: 0 to len - 1.
            images: whether images are read, which take most of the time and memory.

        Raises:
            InputError: the episode does not exist.
            DataError: the data is damaged.
        """
        entry = self.entry(number)
        chosen = [signal for signal in self.schema.signals if images or signal.kind is not Kind.IMAGE]
        arrays = grouped(chosen, lambda s: self.read(s.name, number, 0, entry.num_steps + (s.role is Role.OBSERVATION)))
        masks = {name: self.observed(name, number, 0, entry.num_steps + 1) for name in arrays["observations"]}
        return Episode(
            **arrays,
            observed={name: mask for name, mask in masks.items() if not mask.all()},
            terminated=entry.terminated,
            truncated=entry.truncated,
            seed=entry.seed,
            step_s=self.step_s(number, 0, entry.num_steps),
        )

    def plot(self, episodes: int | Sequence[int] | None = None, *, signals: Sequence[str] = ()) -> PlotFigure:
        """A figure of matplotlib: one panel per signal over time; `store.plot().savefig("store.png")` saves it.

        Several episodes are drawn over each other, from the start of each, without images.

        Args:
            episodes: number of the episode, or up to 8 numbers. None for up to 5 episodes that are spread evenly.
            signals: names of the signals; default is the first 12, and 4 cameras of a single episode.

        Raises:
            InputError: there is no such episode, or no or too many episodes.
            UnknownNameError: there is no such signal.
        """
        from worldline.data.store_plot import view_store
        from worldline.plots.figure import episode_figure

        return episode_figure(view_store(self, episodes, signals))

    def verify(self, number: int) -> Episode:
        """A whole episode, checked with its digest.

        Args:
            number: 0 to len - 1.

        Raises:
            DataError: the episode differs from the one that was added.
        """
        episode = self.episode(number)
        if self.digest(episode) != self.entry(number).digest:
            fix = "The store is damaged: restore it from a copy, or import the logs again."
            raise DataError("the episode differs from the one that was added", fix=fix, file=self.path, episode=number)
        return episode

    def digest(self, episode: Episode) -> str:
        """The `digest` that `Entry` gets when this episode is stored."""
        episode = self.as_stored(episode)
        ends = f"{episode.terminated} {episode.truncated} {episode.seed}"
        parts = hashlib.blake2b(ends.encode(), digest_size=16)
        for signal in self.schema.signals:
            parts.update(signal.name.encode())
            parts.update(np.ascontiguousarray(arrays_of(episode, signal.role)[signal.name]).data.cast("B"))
            mask = episode.observed.get(signal.name)
            if mask is not None and not mask.all():
                parts.update(mask.tobytes())
        if episode.step_s is not None:
            parts.update(episode.step_s.tobytes())
        return parts.hexdigest()

    def content_hash(self) -> str:
        """SHA-256 in hex of schema, digests of episodes, and sources. Does not read the blocks."""
        content = hashlib.sha256(to_json(self.schema).encode())
        content.update(self._index.records["digest"].tobytes())
        content.update(read_bytes(self._files[SOURCES_FILE], self._index.source_end, 0))
        return content.hexdigest()

    def num_bytes(self) -> dict[str, int]:
        """Bytes on disk of each signal; the key "" holds those of index, sources, card and schema."""
        sizes = dict.fromkeys((signal.name for signal in self.schema.signals), 0)
        for file in (self.path / BLOCKS_FOLDER).iterdir():
            name = file.name.rpartition(".")[0]
            if name in sizes:
                sizes[name] += file.stat().st_size
        return sizes | {"": sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())}

    def refresh(self) -> None:
        """Makes the episodes visible that other processes have added.

        Raises:
            DataError: a block is shorter than the index says, or the index is damaged.
        """
        self._index.refresh()
        for file, length in self._lengths().items():
            size = file.stat().st_size if file.exists() else -1
            if size < length:
                problem = "the file is missing" if size < 0 else f"the file has {size} bytes; the index needs {length}"
                raise DataError(problem, fix="Restore the file from a copy, or import the logs again.", file=file)

    def _check_rows(self, episode: int, start: int, stop: int, role: Role) -> None:
        if not 0 <= episode < len(self):
            raise InputError(f"there is no episode {episode}. The store has {len(self)}, counted from 0.")
        rows = int(self._index.records[episode]["num_steps"]) + (role is Role.OBSERVATION)
        if not 0 <= start <= stop <= rows:
            raise InputError(f"episode {episode} has no rows {start} to {stop}. It has {rows} rows ({role}).")

    def _rows(self, signal: str, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first row of each window in the block of a signal, [B]."""
        rows = self._index.first_step[places[:, 0]].astype(np.int64) + places[:, 1]
        return rows + places[:, 0] if signal in self._observed_names else rows

    def _num_rows(self, signal: str) -> int:
        return self._index.num_steps + (len(self) if signal in self._observed_names else 0)

    def _entry(self, number: int, line: bytes) -> Entry:
        try:
            return self._index.entry(number, json.loads(line))
        except ValueError as error:
            fix = "The file is damaged: restore it from a copy, or import the logs again."
            raise DataError("the source cannot be read", fix=fix, file=SOURCES_FILE, episode=number) from error

    def num_unlisted(self) -> int:
        """The number of sources after those that the index lists; more than 1 mean that the index was cut."""
        end, size = self._index.source_end, (self.path / SOURCES_FILE).stat().st_size
        return read_bytes(self._files[SOURCES_FILE], max(0, size - end), end).count(b"\n")

    def _source_range(self, number: int) -> tuple[int, int]:
        ends = self._index.records["source_end"]
        return int(ends[number - 1]) if number else 0, int(ends[number])

    def _new_ends(self, episode: Episode) -> dict[Path, tuple[int, bytes]]:
        """The changes of all blocks that append an episode, for `write_durably`."""
        ends: dict[Path, tuple[int, bytes]] = {}
        for signal in self.schema.signals:
            values, rows = arrays_of(episode, signal.role)[signal.name], self._num_rows(signal.name)
            if signal.kind is Kind.IMAGE:
                ends |= self._pictures[signal.name].new_ends(values.astype(np.uint8, copy=False), rows)
            else:
                block = self.path / BLOCKS_FOLDER / f"{signal.name}{_VALUES}"
                ends[block] = rows * self._row_bytes[signal.name], values.tobytes()
        if lacks_any(episode):
            for name in self._observed_names:
                missing = ~episode.mask(name)
                ends[self.path / BLOCKS_FOLDER / f"{name}{_MISSING}"] = self._num_rows(name), missing.tobytes()
        if episode.step_s is not None:
            ends[self.path / STEPS_FILE] = 4 * self._index.num_steps, episode.step_s.tobytes()
        return ends

    def _lengths(self) -> dict[Path, int]:
        """The bytes of each file that the episodes in the index take up."""
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
                lengths[block / f"{signal.name}{_VALUES}"] = rows * self._row_bytes[signal.name]
        return lengths


def is_store(path: Path | str) -> bool:
    """Whether the folder holds a store. A correction of its schema that was killed in its last step is completed."""
    finish_replace(Path(path))
    return all((Path(path) / name).is_file() for name in (SCHEMA_FILE, CARD_FILE, INDEX_FILE))


def open_store(path: Path | str) -> Store:
    """The store in a folder, with every complete episode.

    Args:
        path: a folder that `Store.create` made.

    Raises:
        DataError: the folder holds no store, or a link or special file, or a block is shorter than the index says.
        ConfigError: the schema or card cannot be read.
    """
    path = Path(path)
    if not is_store(path):
        problem = f"the folder is no store: {SCHEMA_FILE}, {CARD_FILE} or {INDEX_FILE} is missing"
        raise DataError(problem, fix="Check the path, or import the logs first.", file=path)
    refuse_special_files(path)
    file, layout, card = (path / name for name in (SCHEMA_FILE, LAYOUT_FILE, CARD_FILE))
    schema = from_json(Schema, file.read_bytes(), where=file)
    written = from_json(Schema, layout.read_bytes(), where=layout) if layout.is_file() else schema
    store = Store(path, written, from_json(DataCard, card.read_bytes(), where=card))
    store.refresh()
    if written == schema:
        return store
    names = {signal.name for signal in schema.signals}
    if gone := [signal.name for signal in written.signals if signal.name not in names]:
        fix = f"Write it back, or leave the signal out of the store: worldline schema {path} {gone[0]}=ignore"
        raise InputError(f"{file}: the signal {gone[0]!r} of the store is missing. {fix}")
    return change_schema(store, schema)


def change_schema(store: Store, schema: Schema, *, progress: Callable[[int, int], None] | None = None) -> Store:
    """The store with a corrected schema.

    Other roles or kinds, and signals that are left out, need other blocks and digests: all episodes are written again
    into a new folder, which then replaces the old one. Otherwise only `schema.json` is written.

    Args:
        store: to change; do not use it afterwards.
        schema: with the same shapes of images, and no new signal.
        progress: called with the number of episodes done and their total.

    Raises:
        InputError: the schema has a new signal or no observation, or an import is running; nothing was changed.
        DataError: an episode does not fit the new schema; the message names the value. Nothing was changed.
    """
    file, names = store.path / SCHEMA_FILE, {signal.name for signal in store.schema.signals}
    if new := [signal.name for signal in schema.signals if signal.name not in names]:
        fix = "Import the logs again to add it; write back the old name to keep the signal."
        raise InputError(f"{file}: the store has no signal {new[0]!r}. {fix}")
    make_card(schema, {}, {})  # checks the schema
    draft = draft_beside(store.path)
    is_rewritten = layout_of(schema) != layout_of(store.schema)
    is_checked = is_rewritten or bounds_of(schema) != bounds_of(store.schema)
    problem = f"an import into {store.path} is running. Change the schema when it has ended."
    with locked(store.path / CARD_FILE, busy=problem), locked(store.path / INDEX_FILE):
        store.refresh()
        try:
            images = [signal.name for signal in schema.signals if signal.kind is Kind.IMAGE]
            kept = {name: store.card.max_error.get(name, 0) for name in images}
            target = Store.create(draft, schema, max_error=kept, notes=store.card.notes) if is_rewritten else None
            for number in range(len(store)) if is_checked else ():
                episode = refitted(store.verify(number), store.schema, schema, file=file, number=number)
                if target is not None:
                    target.append_checked(episode, store.entry(number).source, digest=target.digest(episode))
                if progress is not None:
                    progress(number + 1, len(store))
            if target is None:
                for name in (LAYOUT_FILE, SCHEMA_FILE):
                    draft.write_text(to_json(schema), encoding="utf-8")
                    draft.replace(store.path / name)
            else:
                replace_folder(draft, store.path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # still there only if the change failed
    return open_store(store.path)
