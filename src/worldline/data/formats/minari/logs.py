"""Importer and exporter of local Minari datasets: T+1 observations and T actions per episode.

Members of dictionaries and tuples become separate signals with dotted names. Spaces give the kinds of signals and the
bounds of actions. A text that is constant in an episode, such as a mission, becomes metadata. Members of `infos` are
left out unless schema.json has a signal `infos.<name>`.

`export_minari` writes HDF5 that the minari package can load. Observations are a dictionary; several actions are one
too. Exogenous signals, rewards that are not one number, masks and step durations are stored under `infos`; schema, seed
and source are attributes. All values have checksums.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldline.config import from_json, to_json
from worldline.data.base import LoggedEpisode, Logs, ReadOptions, refuse, schema_beside
from worldline.data.checks import Finding, Severity
from worldline.data.conversion import to_episode
from worldline.data.formats.hdf5.access import (
    MAX_TEXT_LENGTH,
    UNREADABLE,
    Array,
    drafted,
    embedded_json,
    finding_of,
    minari_folder,
    opened,
    source_of,
)
from worldline.data.formats.hdf5.rows import Metadata
from worldline.data.formats.minari.signals import infer_signals, named_arrays, names_of
from worldline.data.formats.minari.storage import (
    ACTION,
    INFOS,
    NOTE_ATTRIBUTE,
    OBSERVATION,
    ArrowStorage,
    Hdf5Storage,
    RawEpisode,
    Storage,
    read_metadata,
)
from worldline.data.formats.missing import check_known, mark_missing, partly_missing
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Role, Schema, Signal

SCHEMA_ATTRIBUTE = "worldline_schema"
FORMAT_VERSION = "0.5.4"
"""Minari version: the first one with lossless images; older versions refuse to load them."""
_MAIN_FILE = "main_data.hdf5"
_STEP_S, _OBSERVED, _EXOGENOUS, _REWARDS = "step_s", "observed.", "exogenous.", "rewards."


class MinariLogs(Logs):
    """A Minari dataset.

    Args:
        folder: with metadata.json and the data.
        metadata: see `read_metadata`.
        numbers: of the episodes.
        exported: the schema that our exporter stored; None for other datasets.
        schema: of every episode.
        unclear: see `Logs`.
    """

    def __init__(
        self,
        folder: Path,
        metadata: Mapping[str, Any],
        numbers: Sequence[int],
        exported: Schema | None,
        schema: Schema,
        unclear: Sequence[str],
    ) -> None:
        self._folder, self._metadata, self._numbers = folder, metadata, tuple(numbers)
        super().__init__(schema, unclear)
        self._exported = exported

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` or its folder `data` holds metadata.json with main_data.hdf5 or numbered folders."""
        return minari_folder(path) is not None

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> MinariLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "Minari")
        folder = minari_folder(path)
        if folder is None:
            fix = "Give the folder of one dataset, which contains data/metadata.json."
            raise DataError("the path is not a Minari dataset", fix=fix, file=path)
        metadata = read_metadata(folder)
        schema = schema or schema_beside(folder) or schema_beside(folder.parent)
        with _storage(folder, metadata) as (storage, embedded):
            numbers, unclear = storage.numbers, list[str]()
            exported = None if embedded is None else from_json(Schema, embedded, where=folder / _MAIN_FILE)
            schema = schema or exported
            if schema is None:
                schema, unclear = infer_signals(storage, metadata, folder)
        if len(numbers) != (total := metadata["total_episodes"]):
            unclear.append(f"The dataset declares {total} episodes; {len(numbers)} are read.")
        return cls(folder, metadata, numbers, exported, schema, unclear)

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields the episodes in the order of their numbers."""
        with ExitStack() as stack:
            try:
                storage, _ = stack.enter_context(_storage(self._folder, self._metadata))
            except DataError as error:
                yield from (self._failed(error, _MAIN_FILE, number) for number in range(len(self)))
                return
            for number, logged_number in enumerate(self._numbers):
                file = storage.file or str(logged_number)
                try:
                    logged = self._episode(storage.read(logged_number), file, number, logged_number)
                except UNREADABLE as error:
                    logged = self._failed(error, file, number)
                yield logged

    def _failed(self, error: Exception, file: str, number: int) -> LoggedEpisode:
        return LoggedEpisode(file=file, number=number, episode=None, findings=(finding_of(error, file, number),))

    def _episode(self, raw: RawEpisode, file: str, number: int, logged_number: int) -> LoggedEpisode:
        findings: list[Finding] = []
        observed: dict[str, Array] = {}
        if raw.note is not None and self._exported is not None:
            arrays, observed = _exported_arrays(raw, self._exported)
            seed, metadata = raw.note["seed"], raw.note["source"]
        else:
            arrays = named_arrays(raw)
            metadata, findings = _metadata_of(raw)
            metadata = {"dataset": str(self._metadata.get("dataset_id", ""))} | metadata
            seed = metadata.pop("seed", None)
            for name in [signal.name for signal in self.schema.observations if signal.name in arrays]:
                findings += partly_missing(arrays[name], name)
                arrays[name], known = mark_missing(arrays[name])
                observed |= {} if known is None else {name: known}
        for signal in self.schema.signals:
            if signal.role is not Role.OBSERVATION and signal.name in arrays:
                check_known(arrays[signal.name], signal.name)
        episode = to_episode(
            arrays,
            self.schema,
            observed=observed,
            terminated=_end(raw.terminations, len(raw.rewards), "terminations"),
            truncated=_end(raw.truncations, len(raw.rewards), "truncations"),
            seed=None if seed is None else int(seed),
            step_s=raw.parts[INFOS][_STEP_S].astype(np.float32) if raw.note and _STEP_S in raw.parts[INFOS] else None,
        )
        return LoggedEpisode(
            file=file,
            number=number,
            episode=episode,
            findings=tuple(replace(finding, file=file, episode=number) for finding in findings),
            source=source_of(file, logged_number, metadata),
        )


@contextmanager
def _storage(folder: Path, metadata: Mapping[str, Any]) -> Iterator[tuple[Storage, bytes | None]]:
    """Opens the storage of a dataset; also yields the schema that our exporter stored."""
    if metadata["data_format"] == "hdf5":
        with opened(folder / _MAIN_FILE) as file:
            yield Hdf5Storage(file, folder / _MAIN_FILE, metadata), embedded_json(file, SCHEMA_ATTRIBUTE)
    elif metadata["data_format"] in ("arrow", "parquet"):
        yield ArrowStorage(folder, metadata), None
    else:
        problem = f"its data_format is {metadata['data_format']!r}"
        raise DataError(problem, fix="Convert it to hdf5, arrow or parquet.", file=folder)


def _metadata_of(raw: RawEpisode) -> tuple[Metadata, list[Finding]]:
    """Returns numbers and texts that are constant in an episode, and warnings for texts that are not."""
    metadata, findings = dict(raw.metadata), []
    for (part, member), name in names_of(raw).items():
        if member not in raw.texts[part]:
            continue
        texts = set(raw.texts[part][member])
        if len(texts) == 1 and len(text := texts.pop()) <= MAX_TEXT_LENGTH:
            metadata[name] = text
        else:
            problem = "the text is left out: it changes within the episode or is too long"
            fix = f"Use one text of at most {MAX_TEXT_LENGTH} characters per episode."
            findings.append(Finding(problem=problem, fix=fix, severity=Severity.WARNING, signal=name))
    return metadata, findings


def _end(flags: Array, num_steps: int, name: str) -> bool:
    """Whether the flag is set in the last step."""
    if num_steps < 1 or flags.shape != (num_steps,):
        problem = f"the episode has {num_steps} rewards and {name} of shape {flags.shape}"
        raise DataError(problem, fix="Give one of each per step, and at least one step.")
    early = np.flatnonzero(flags[:-1])
    if len(early):
        fix = "The episode seems to hold several episodes. Split it after this step."
        raise DataError(f"{name} is set before the end", fix=fix, step=int(early[0]))
    return bool(flags[-1])


def _exported_arrays(raw: RawEpisode, schema: Schema) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns values and masks of an episode that `export_minari` wrote."""
    infos = raw.parts[INFOS]
    arrays = dict(raw.parts[OBSERVATION])
    actions, reward = schema.actions, _plain_reward(schema)
    arrays |= {actions[0].name: raw.parts[ACTION][""]} if len(actions) == 1 else raw.parts[ACTION]
    for prefix in (_EXOGENOUS, _REWARDS):
        arrays |= {name.removeprefix(prefix): values for name, values in infos.items() if name.startswith(prefix)}
    if reward is not None:
        arrays[reward.name] = raw.rewards[:, None]
    masks = {name.removeprefix(_OBSERVED): mask for name, mask in infos.items() if name.startswith(_OBSERVED)}
    return arrays, masks


def _plain_reward(schema: Schema) -> Signal | None:
    """Returns the reward that Minari can hold: a single signal of one number."""
    rewards = schema.of(Role.REWARD)
    return rewards[0] if len(rewards) == 1 and rewards[0].kind is Kind.VECTOR and rewards[0].size == 1 else None


def export_minari(store: Store, destination: Path) -> None:
    """Writes the store as a dataset that the minari package can load: `MinariDataset(destination / "data")`.

    `minari.load_dataset` finds it if `destination` is in its folder of datasets and has a name like `name-v0`. Rewards
    are NaN unless the store has a single reward of one number.

    Args:
        store: to write.
        destination: a new folder.

    Raises:
        InputError: the folder exists, or a signal has a name that HDF5 cannot keep.
    """
    schema = store.schema
    for signal in schema.signals:
        if not signal.name.isprintable():
            raise InputError(f"signal {signal.name!r}: the name has unprintable characters. Rename the signal.")
    with drafted(destination) as draft:
        data = draft / "data"
        data.mkdir(parents=True)
        with h5py.File(data / _MAIN_FILE, "w", libver=("v110", "v110")) as file:
            file.attrs[SCHEMA_ATTRIBUTE] = np.bytes_(to_json(schema).encode())
            for number in range(len(store)):
                entry = store.entry(number)
                group = file.create_group(f"episode_{number}")
                _write(group, store.verify(number), schema)
                group.attrs["id"], group.attrs["total_steps"] = number, entry.num_steps
                if entry.seed is not None:
                    group.attrs["seed"] = entry.seed
                note = json.dumps({"seed": entry.seed, "source": dict(entry.source)}, allow_nan=False)
                group.attrs[NOTE_ATTRIBUTE] = np.bytes_(note.encode())
        actions = {signal.name: _space(signal) for signal in schema.actions}
        observations = {signal.name: _space(signal) for signal in schema.observations}
        metadata = {
            "dataset_id": _dataset_id(destination.name),
            "minari_version": FORMAT_VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": len(store),
            "total_steps": int(store.num_steps.sum()),
            "dataset_size": round((data / _MAIN_FILE).stat().st_size / 1e6, 1),
            "observation_space": json.dumps(_dictionary(observations)),
            "action_space": json.dumps(next(iter(actions.values())) if len(actions) == 1 else _dictionary(actions)),
        }
        (data / "metadata.json").write_text(json.dumps(metadata, indent=2), "utf-8")


def _dataset_id(name: str) -> str:
    """Returns the name as an id that Minari accepts, such as `name-v0`."""
    words = re.sub(r"[^-\w]+", "-", name).strip("-") or "worldline"
    return words if re.fullmatch(r".+-v\d+", words) else f"{words}-v0"


def _dictionary(spaces: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Dict", "subspaces": dict(spaces)}


def _space(signal: Signal) -> dict[str, Any]:
    """Returns the space of a signal in Minari's JSON format."""
    if signal.num_values is not None:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": signal.num_values}
    if signal.kind is Kind.IMAGE:
        low, high = np.zeros(signal.shape, np.uint8), np.full(signal.shape, 255, np.uint8)
    else:
        low = np.full(signal.shape, -np.inf) if signal.low is None else np.array(signal.low)
        high = np.full(signal.shape, np.inf) if signal.high is None else np.array(signal.high)
    shape = list(signal.shape)
    return {"type": "Box", "dtype": signal.dtype, "shape": shape, "low": low.tolist(), "high": high.tolist()}


def _write(group: h5py.Group, episode: Episode, schema: Schema) -> None:
    """Writes an episode to its group."""
    actions, reward, num_steps = schema.actions, _plain_reward(schema), episode.num_steps
    for name in ("observations", "actions") if len(actions) != 1 else ("observations",):
        group.create_group(name)
    for name, values in episode.observations.items():
        _create(group["observations"], name, values)
    for name, values in episode.actions.items():
        _create(group if len(actions) == 1 else group["actions"], "actions" if len(actions) == 1 else name, values)
    rewards = np.full(num_steps, np.nan) if reward is None else episode.rewards[reward.name][:, 0]
    _create(group, "rewards", rewards)
    last = np.arange(num_steps) == num_steps - 1
    _create(group, "terminations", last & episode.terminated)
    _create(group, "truncations", last & episode.truncated)
    infos = {f"{INFOS}/observed/{name}": mask for name, mask in episode.observed.items()}
    infos |= {f"{INFOS}/exogenous/{name}": values for name, values in episode.exogenous.items()}
    if reward is None:
        infos |= {f"{INFOS}/rewards/{name}": values for name, values in episode.rewards.items()}
    if episode.step_s is not None:
        infos[f"{INFOS}/{_STEP_S}"] = episode.step_s
    for path, values in infos.items():
        _create(group, path, values)


def _create(group: h5py.Group, name: str, values: Array) -> None:
    picture = values.dtype == np.uint8 and values.ndim == 4
    chunk = (1, *values.shape[1:]) if picture else values.shape
    group.create_dataset(
        name, data=values, chunks=chunk, shuffle=True, compression="gzip", compression_opts=1, fletcher32=True
    )
