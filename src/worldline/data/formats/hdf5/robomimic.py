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
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from worldline.data.array_size import check_episodes
from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.hdf5 import access
from worldline.data.formats.hdf5.access import Datasets, attributes, is_numeric
from worldline.data.formats.reading import (
    DAMAGED,
    UNREADABLE,
    Array,
    EpisodeLogs,
    Metadata,
    RawEpisode,
    ReadEpisode,
    converted,
    readable,
    source_of,
    summaries_of,
)
from worldline.data.infer import SchemaDraft, Summary, summarise
from worldline.errors import DataError
from worldline.schema import Role, Schema

_DEMO = re.compile(r"demo_(\d+)")
_ROLES = {"actions": Role.ACTION, "rewards": Role.REWARD}
_OBS, _NEXT = "obs.", "next_obs."


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
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> RobomimicLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "robomimic")
        path = access.only_file(path, "robomimic")
        schema, common, unclear = schema_beside(path) if schema is None else schema, Metadata(), list[str]()
        with access.opened(path) as file:
            names = _demo_names(file, path)
            with suppress(*UNREADABLE):  # the demos may be readable without the attributes
                common = {key: value for key, value in attributes(file["data"]).items() if key != "total"}
            if schema is None:
                schema, unclear = _infer(file, names, common, path)
            _, first = next(readable(names, lambda name: _Demo(file, name, path), what="demos", file=path))
            unclear += _doubts_of_rows(first, schema)
            if others := sorted(set(file["data"]) - set(names))[:20]:
                unclear.append(f"Not read, because they are not demos: {', '.join(others)}.")

        def reader(stack: ExitStack) -> ReadEpisode:
            return partial(_read_demo, stack.enter_context(access.opened(path)), path, names, common, schema)

        return cls(schema, unclear, root=path.parent, files=[path.name] * len(names), reader=reader)


class _Demo:
    """The datasets of a demo by signal name; their values are not read yet.

    Args:
        file: the open file.
        name: of the demo.
        path: of the file.

    Raises:
        DataError: it is no group, has no actions, or declares another number of samples.
    """

    def __init__(self, file: h5py.File, name: str, path: Path) -> None:
        datasets = access.arrays_in(file["data"][name], path)
        if "actions" not in datasets or not is_numeric(datasets["actions"]):
            raise DataError("the demo has no actions", fix="Add a dataset `actions`, or leave the demo out.")
        self.obs = {n.removeprefix(_OBS): d for n, d in datasets.items() if n.startswith(_OBS)}
        self.following = {n.removeprefix(_NEXT): d for n, d in datasets.items() if n.startswith(_NEXT)}
        """Next observations."""
        self.arrays = {n: d for n, d in datasets.items() if not n.startswith((_OBS, _NEXT))} | self.obs
        """All datasets except the next observations."""
        self.metadata, self.num_samples = attributes(file["data"][name]), len(datasets["actions"])
        self.num_steps = self.num_samples - (not self.following)
        """T; without next observations, the last action has no outcome and does not count."""
        if (declared := self.metadata.pop("num_samples", self.num_samples)) != self.num_samples:
            problem = f"num_samples is {declared}, but the demo has {self.num_samples} actions"
            raise DataError(problem, fix=DAMAGED, signal="actions")

    def read(self, datasets: Datasets, name: str) -> Array:
        """Returns all rows of a dataset."""
        if not is_numeric(datasets[name]) or len(datasets[name]) != self.num_samples:
            shape, dtype = datasets[name].shape, datasets[name].dtype
            problem = f"its shape is {shape} and its dtype {dtype}, but the demo has {self.num_samples} samples"
            raise DataError(problem, fix="Repair it, or remove it from the schema.", signal=name)
        return access.read_rows(datasets[name], 0, self.num_samples, name)

    def rows(self, name: str) -> Array:
        """Returns all rows of an array, and the last next observation if there is one."""
        values = self.read(self.arrays, name)
        if name not in self.following or not self.num_samples:
            return values
        last = access.read_rows(self.following[name], self.num_samples - 1, self.num_samples, name)
        with converted("obs and next_obs have different shapes", signal=name):
            return np.concatenate([values, last])


def _read_demo(
    file: h5py.File, path: Path, names: Sequence[str], common: Metadata, schema: Schema, number: int
) -> RawEpisode:
    """Reads a demo.

    Args:
        file: the open file.
        path: of the file.
        names: of the demos.
        common: metadata of all demos.
        schema: of every episode.
        number: of the demo among `names`.
    """
    demo = _Demo(file, names[number], path)
    if demo.num_steps < 1:
        problem = f"it has no complete step: {demo.num_samples} samples and no observation after the last action"
        raise DataError(problem, fix="Add next_obs, or leave the demo out.")
    metadata = {"demo": names[number]} | common | demo.metadata
    draft = RawEpisode(source=source_of(path.name, number, metadata))
    for signal in (signal for signal in schema.signals if signal.name in demo.arrays):
        values = demo.rows(signal.name)
        if signal.role is not Role.OBSERVATION:
            draft.add(signal, values[: demo.num_steps])
        elif demo.following and signal.name not in demo.following:  # the observation after the last action is missing
            draft.add(signal, np.concatenate([values, values[-1:]]), np.arange(len(values) + 1) < len(values))
        else:
            draft.add(signal, values)
            _check_next(draft, values, demo, signal.name)
    return draft


def _check_next(draft: RawEpisode, values: Array, demo: _Demo, name: str) -> None:
    """Adds a warning if the next observations differ from those that follow."""
    after = demo.read(demo.following, name) if demo.following else values[1:]
    equal = (after == values[1:]) | ((after != after) & (values[1:] != values[1:]))
    if steps := np.flatnonzero(~equal.reshape(len(after), -1).all(1)).tolist():
        problem = f"next_obs differs from the obs that follows in {len(steps)} of {len(after) - 1} steps"
        fix = "The values of obs are used. Check whether rows are missing at these steps."
        draft.warn(problem, fix, signal=name, step=steps[0])


def _demo_names(file: h5py.File, path: Path) -> list[str]:
    """Returns the demos in the order of their numbers."""
    with converted("the group data cannot be read", file=path):
        check_episodes(len(file["data"]), path)
        demos = sorted((int(match[1]), match[0]) for match in map(_DEMO.fullmatch, file["data"]) if match)
    if not demos:
        raise DataError("the group data has no demos", fix="Name the demos demo_0, demo_1, ...", file=path)
    return [name for _, name in demos]


def _infer(file: h5py.File, names: Sequence[str], metadata: Metadata, path: Path) -> tuple[Schema, list[str]]:
    """Infers a schema from the observations, actions and rewards of all demos; also returns doubts."""
    draft = SchemaDraft(path)

    def summaries(number: str) -> dict[str, Summary]:
        demo = _Demo(file, number, path)
        known = {n: d for n, d in demo.arrays.items() if is_numeric(d) and (n in demo.obs or n in _ROLES)}
        images = {
            n: Summary(shape=d.shape, dtype=d.dtype) for n, d in known.items() if d.dtype == np.uint8 and d.ndim > 2
        }
        return images | {n: summarise(demo.rows(n)) for n in known if n not in images}

    for name, seen in summaries_of(names, summaries, what="demos", file=path).items():
        draft.add(*draft.infer(name, _ROLES.get(name, Role.OBSERVATION), seen))
    if draft.lacks(Role.OBSERVATION):
        fix = "Extract observations from the states with robomimic's scripts."
        raise DataError("no demo has observations", fix=fix, file=path)
    step_s = None
    with suppress(ValueError, KeyError, TypeError, ArithmeticError):
        step_s = 1 / json.loads(str(metadata["env_args"]))["env_kwargs"]["control_freq"]
    known = "comes from control_freq in env_args" if step_s else "is not in the logs: step_s is left empty"
    draft.note(f"The step duration {known}.")
    return draft.result(step_s if step_s and step_s > 0 else None)


def _doubts_of_rows(demo: _Demo, schema: Schema) -> list[str]:
    """Returns sentences on how rows become steps, and on datasets that are left out."""
    sentences = ["All episodes count as truncated, because end flags also mark success."]
    if not demo.following:
        sentences.append("There is no next_obs: the last action of each demo has no outcome and is left out.")
    elif lacking := [s.name for s in schema.observations if s.name in demo.arrays and s.name not in demo.following]:
        sentences.append(f"{', '.join(lacking)}: not in next_obs, so it is missing after the last action.")
    if left := sorted(set(demo.arrays) - {signal.name for signal in schema.signals}):
        sentences.append(f"Left out, because the schema has no such signals: {', '.join(left)}.")
    return sentences
