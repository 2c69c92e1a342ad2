"""Importer of robomimic's HDF5 files: one group `data/demo_N` per episode, T rows in every dataset.

Row t of `obs` is observation t. Row t of `actions`, `rewards` and `next_obs` belongs to the step after it. So only the
last row of `next_obs` holds the observation after the last action. In files without `next_obs` the last action is left
out, and the episode has one step less.

`dones` marks success, the last row, or both, depending on how the file was made. It does not distinguish terminated
from truncated, so it is left out. Simulator `states` and other datasets are left out unless schema.json names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldline.data.array_size import check_episodes
from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.hdf5 import access
from worldline.data.formats.hdf5.access import attributes, is_numeric, read_rows
from worldline.data.formats.importer import FileEpisode, episode_logs
from worldline.data.formats.raw_episode import EpisodeLogs, LazyArray, RawEpisode, source_of
from worldline.data.formats.reading import DAMAGED, UNREADABLE, Array, Metadata, converted
from worldline.errors import DataError
from worldline.schema import Role, Schema

_DEMO = re.compile(r"demo_(\d+)")
_ROLES = {"actions": Role.ACTION, "rewards": Role.REWARD}
_OBS, _NEXT = "obs.", "next_obs."
_ASSUMED = (
    "All episodes count as truncated, because end flags also mark success.",
    "Without next_obs, the last action of each demo has no outcome and is left out.",
    "Step durations come from control_freq in env_args, if it is there.",
    "Left out unless schema.json names them: end flags, states of the simulator, and other datasets.",
)


class RobomimicLogs(EpisodeLogs):
    """The demos of one file, in the order of their numbers."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is an HDF5 file with demos in its group `data`, or a folder with exactly one such file."""
        files = access.hdf5_files(path)
        with suppress(*UNREADABLE):
            if len(files) == 1:
                with h5py.File(files[0], "r") as file:
                    data = file.get("data")
                    return isinstance(data, h5py.Group) and any(name.startswith("demo_") for name in data)
        return False

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> EpisodeLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "robomimic")
        path = access.only_file(path, "robomimic")
        known = schema_beside(path) if schema is None else schema
        logs = episode_logs(lambda: _demos(path, known), known, path.parent)
        logs.unclear += _ASSUMED
        if known is None and logs.schema.step_s:  # differences of times have rounding errors
            logs.schema = replace(logs.schema, step_s=round(logs.schema.step_s, 12))
        return logs


def _demos(path: Path, schema: Schema | None) -> Iterator[FileEpisode]:
    """The demos of a file, or the errors in them; without a schema, those of its signals whose roles are known."""
    common, step_s = Metadata(), None
    with access.opened(path) as file:
        names = _demo_names(file, path)
        with suppress(*UNREADABLE):  # the demos may be readable without the attributes
            common = {key: value for key, value in attributes(file["data"]).items() if key != "total"}
            step_s = 1 / json.loads(str(common["env_args"]))["env_kwargs"]["control_freq"]
        for number, name in enumerate(names):
            try:
                demo = _demo(file["data"][name], path, schema)
                demo.source = source_of(path.name, number, {"demo": name} | common | demo.source)
                if schema is None and step_s and step_s > 0:
                    demo.times = step_s * np.arange(demo.values["actions"].shape[0] + 1)
                yield path.name, demo
            except UNREADABLE as error:
                yield path.name, error


def _demo(group: h5py.Group, path: Path, schema: Schema | None) -> RawEpisode:
    """The demo in a group; its values are read when they are needed."""
    datasets, metadata = access.arrays_in(group, path), attributes(group)
    if "actions" not in datasets or not is_numeric(datasets["actions"]):
        raise DataError("the demo has no actions", fix="Add a dataset `actions`, or leave the demo out.")
    count = len(datasets["actions"])
    if (declared := metadata.pop("num_samples", count)) != count:
        problem = f"num_samples is {declared}, but the demo has {count} actions"
        raise DataError(problem, fix=DAMAGED, signal="actions")
    obs = {name.removeprefix(_OBS): data for name, data in datasets.items() if name.startswith(_OBS)}
    following = {name.removeprefix(_NEXT): data for name, data in datasets.items() if name.startswith(_NEXT)}
    num_steps = count - (not following)
    if num_steps < 1:
        problem = f"it has no complete step: {count} samples and no observation after the last action"
        raise DataError(problem, fix="Add next_obs, or leave the demo out.")
    roles = dict.fromkeys(obs, Role.OBSERVATION) | _ROLES
    if schema is not None:
        roles = {signal.name: signal.role for signal in schema.signals}
    values, masks = dict[str, Any](), dict[str, Array]()
    for name, data in (datasets | obs).items():
        if name not in roles or (schema is None and not is_numeric(data)):
            continue
        if not is_numeric(data) or len(data) != count:
            problem = f"its shape is {data.shape} and its dtype {data.dtype}, but the demo has {count} samples"
            raise DataError(problem, fix="Repair it, or remove it from the schema.", signal=name)
        # The observation after the last action is the last next observation, or missing.
        last = following.get(name, data) if roles[name] is Role.OBSERVATION and following else None
        rows = count if roles[name] is Role.OBSERVATION else num_steps
        shape = (rows + (last is not None), *data.shape[1:])
        values[name] = LazyArray(shape, data.dtype.newbyteorder("="), partial(_rows, name, data, rows, last))
        if last is data:
            masks[name] = np.arange(count + 1) < count
    known = {name: role.value for name, role in roles.items()}
    return RawEpisode(source=metadata, values=values, observed=masks, roles=known)


def _rows(name: str, data: h5py.Dataset, rows: int, last: h5py.Dataset | None) -> Array:
    """The first rows of a dataset, and the last row of another one."""
    values = read_rows(data, 0, rows, name)
    if last is None:
        return values
    with converted("obs and next_obs have different shapes", signal=name):
        return np.concatenate([values, read_rows(last, rows - 1, rows, name)])


def _demo_names(file: h5py.File, path: Path) -> list[str]:
    """Returns the demos in the order of their numbers."""
    with converted("the group data cannot be read", file=path):
        check_episodes(len(file["data"]), path)
        demos = sorted((int(match[1]), match[0]) for match in map(_DEMO.fullmatch, file["data"]) if match)
    if not demos:
        raise DataError("the group data has no demos", fix="Name the demos demo_0, demo_1, ...", file=path)
    return [name for _, name in demos]
