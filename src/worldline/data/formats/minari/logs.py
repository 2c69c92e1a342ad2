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
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldline.config import from_json
from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.draft_folder import drafted
from worldline.data.exporting import SCHEMA_ATTRIBUTE, create_dataset, new_hdf5, note_of
from worldline.data.formats.hdf5 import access
from worldline.data.formats.hdf5.layout import add_text
from worldline.data.formats.minari import storage
from worldline.data.formats.minari.storage import infer_signals, members_of
from worldline.data.formats.reading import Array, EpisodeDraft, EpisodeLogs, ReadEpisode, flag_at_end, source_of
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

FORMAT_VERSION = "0.5.4"
"""Minari version: the first one with lossless images; older versions refuse to load them."""
_MAIN_FILE = "main_data.hdf5"
_STEP_S, _OBSERVED, _EXOGENOUS, _REWARDS = "step_s", "observed.", "exogenous.", "rewards."


class MinariLogs(EpisodeLogs):
    """A Minari dataset."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` or its folder `data` holds metadata.json with main_data.hdf5 or numbered folders."""
        return access.minari_folder(path) is not None

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> MinariLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "Minari")
        if (folder := access.minari_folder(path)) is None:
            fix = "Give the folder of one dataset, which contains data/metadata.json."
            raise DataError("the path is not a Minari dataset", fix=fix, file=path)
        metadata = storage.read_metadata(folder)
        schema = schema or schema_beside(folder) or schema_beside(folder.parent)
        with access.opened(folder / _MAIN_FILE) as file:
            dataset = storage.Storage(file, folder / _MAIN_FILE, metadata, max_images=1)
            embedded, unclear = access.embedded_json(file, SCHEMA_ATTRIBUTE), list[str]()
            exported = None if embedded is None else from_json(Schema, embedded, where=folder / _MAIN_FILE)
            schema = schema or exported
            if schema is None:
                schema, unclear = infer_signals(dataset, metadata, folder)
        if len(dataset.numbers) != metadata.total_episodes:
            unclear.append(f"The dataset declares {metadata.total_episodes} episodes; {len(dataset.numbers)} are read.")
        read, files = partial(_read_episode, metadata.dataset_id, schema, exported), [_MAIN_FILE] * len(dataset.numbers)

        def reader(stack: ExitStack) -> ReadEpisode:
            file = stack.enter_context(access.opened(folder / _MAIN_FILE))
            return partial(read, storage.Storage(file, folder / _MAIN_FILE, metadata, None))

        return cls(schema, unclear, root=folder, files=files, reader=reader)


def _read_episode(
    dataset_id: str, schema: Schema, exported: Schema | None, dataset: storage.Storage, number: int
) -> EpisodeDraft:
    """Reads an episode.

    Args:
        dataset_id: name of the dataset.
        schema: of every episode.
        exported: the schema that our exporter stored; None for other datasets.
        dataset: its open storage.
        number: index into `dataset.numbers`.
    """
    raw = dataset.read(dataset.numbers[number])
    draft = EpisodeDraft(source={"dataset": dataset_id, **raw.metadata})
    if exported is not None and raw.note is not None:
        arrays, masks = _exported_arrays(raw, exported)
        seed, draft.source = raw.note["seed"], raw.note["source"]
    else:
        arrays, masks = {member.name: member.values for member in members_of(raw)}, {}
        for member in members_of(raw):
            if member.is_text and member.part != storage.INFOS:
                add_text(draft, member.name, set(member.values.tolist()))
        seed = draft.source.pop("seed", None)
    for signal in (signal for signal in schema.signals if signal.name in arrays):
        draft.add(signal, arrays[signal.name], masks.get(signal.name))
    draft.terminated = _end(raw.terminations, len(raw.rewards), "terminations")
    draft.truncated = _end(raw.truncations, len(raw.rewards), "truncations")
    draft.seed = None if seed is None else int(seed)
    if raw.note and _STEP_S in raw.parts[storage.INFOS]:
        draft.step_s = raw.parts[storage.INFOS][_STEP_S].astype(np.float32)
    draft.source = source_of(_MAIN_FILE, dataset.numbers[number], draft.source)
    return draft


def _end(flags: Array, num_steps: int, name: str) -> bool:
    """Whether the flag is set in the last step."""
    if num_steps < 1 or flags.shape != (num_steps,):
        problem = f"the episode has {num_steps} rewards and {name} of shape {flags.shape}"
        raise DataError(problem, fix="Give one of each per step, and at least one step.")
    fix = "The episode seems to hold several episodes. Split it after this step."
    return flag_at_end(flags, name, fix=fix)


def _exported_arrays(raw: storage.MinariEpisode, schema: Schema) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns values and masks of an episode that `export_minari` wrote."""
    infos = raw.parts[storage.INFOS]
    arrays = dict(raw.parts[storage.OBSERVATION])
    actions, reward = schema.actions, _plain_reward(schema)
    arrays |= {actions[0].name: raw.parts[storage.ACTION][""]} if len(actions) == 1 else raw.parts[storage.ACTION]
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
    with drafted(destination) as draft:
        data = draft / "data"
        data.mkdir(parents=True)
        with new_hdf5(data / _MAIN_FILE, schema) as file:
            for number in range(len(store)):
                entry = store.entry(number)
                group = file.create_group(f"episode_{number}")
                _write(group, store.verify(number), schema)
                group.attrs["id"], group.attrs["total_steps"] = number, entry.num_steps
                if entry.seed is not None:
                    group.attrs["seed"] = entry.seed
                group.attrs[storage.NOTE_ATTRIBUTE] = note_of(entry)
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
    reward, num_steps, is_alone = _plain_reward(schema), episode.num_steps, len(schema.actions) == 1
    last = np.arange(num_steps) == num_steps - 1
    arrays: dict[str, Array] = {f"observations/{name}": values for name, values in episode.observations.items()}
    arrays |= {"actions" if is_alone else f"actions/{name}": values for name, values in episode.actions.items()}
    arrays["rewards"] = np.full(num_steps, np.nan) if reward is None else episode.rewards[reward.name][:, 0]
    arrays |= {"terminations": last & episode.terminated, "truncations": last & episode.truncated}
    arrays |= {f"{storage.INFOS}/observed/{name}": mask for name, mask in episode.observed.items()}
    arrays |= {f"{storage.INFOS}/exogenous/{name}": values for name, values in episode.exogenous.items()}
    if reward is None:
        arrays |= {f"{storage.INFOS}/rewards/{name}": values for name, values in episode.rewards.items()}
    if episode.step_s is not None:
        arrays[f"{storage.INFOS}/{_STEP_S}"] = episode.step_s
    for path, values in arrays.items():
        create_dataset(group, path, values)
    for name in ("observations",) if is_alone else ("observations", "actions"):
        group.require_group(name)  # also without members
