"""Exporter of stores to local Minari datasets: HDF5 that the minari package can load.

Observations are a dictionary; several actions are one too. Exogenous signals, rewards that are not one number, masks
and step durations are stored under `infos`; schema, seed and source are attributes. All values have checksums.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldline.data.draft_folder import drafted
from worldline.data.exporting import create_dataset, new_hdf5, note_of
from worldline.data.formats.minari.logs import INFOS, MAIN_FILE, NOTE_ATTRIBUTE, STEP_S, plain_reward
from worldline.data.formats.reading import Array
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Schema, Signal

FORMAT_VERSION = "0.5.4"
"""Minari version: the first one with lossless images; older versions refuse to load them."""


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
        with new_hdf5(data / MAIN_FILE, schema) as file:
            for number in range(len(store)):
                entry = store.entry(number)
                group = file.create_group(f"episode_{number}")
                _write(group, store.verify(number), schema)
                group.attrs["id"], group.attrs["total_steps"] = number, entry.num_steps
                if entry.seed is not None:
                    group.attrs["seed"] = entry.seed
                group.attrs[NOTE_ATTRIBUTE] = note_of(entry)
        actions = {signal.name: _space(signal) for signal in schema.actions}
        observations = {signal.name: _space(signal) for signal in schema.observations}
        metadata = {
            "dataset_id": _dataset_id(destination.name),
            "minari_version": FORMAT_VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": len(store),
            "total_steps": int(store.num_steps.sum()),
            "dataset_size": round((data / MAIN_FILE).stat().st_size / 1e6, 1),
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
    reward, num_steps, is_alone = plain_reward(schema), episode.num_steps, len(schema.actions) == 1
    last = np.arange(num_steps) == num_steps - 1
    arrays: dict[str, Array] = {f"observations/{name}": values for name, values in episode.observations.items()}
    arrays |= {"actions" if is_alone else f"actions/{name}": values for name, values in episode.actions.items()}
    arrays["rewards"] = np.full(num_steps, np.nan) if reward is None else episode.rewards[reward.name][:, 0]
    arrays |= {"terminations": last & episode.terminated, "truncations": last & episode.truncated}
    arrays |= {f"{INFOS}/observed/{name}": mask for name, mask in episode.observed.items()}
    arrays |= {f"{INFOS}/exogenous/{name}": values for name, values in episode.exogenous.items()}
    if reward is None:
        arrays |= {f"{INFOS}/rewards/{name}": values for name, values in episode.rewards.items()}
    if episode.step_s is not None:
        arrays[f"{INFOS}/{STEP_S}"] = episode.step_s
    for path, values in arrays.items():
        create_dataset(group, path, values)
    for name in ("observations",) if is_alone else ("observations", "actions"):
        group.require_group(name)  # also without members
