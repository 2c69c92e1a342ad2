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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.hdf5 import access
from worldline.data.formats.hdf5.access import attributes, is_numeric, read_rows
from worldline.data.formats.hdf5.layout import Columns
from worldline.data.formats.reading import (
    DAMAGED,
    FOREIGN_ENDS,
    UNREADABLE,
    Array,
    EpisodeDraft,
    EpisodeLogs,
    Metadata,
    ReadEpisode,
    converted,
    readable,
    source_of,
    summaries_of,
)
from worldline.data.infer import SchemaDraft, Summary, summarise
from worldline.errors import DataError
from worldline.schema import Role, Schema, Signal

_DEMO = re.compile(r"demo_(\d+)")
_ROLES = {"actions": Role.ACTION, "rewards": Role.REWARD}
_OBS, _NEXT = "obs.", "next_obs."


@dataclass(frozen=True, kw_only=True)
class _Demo:
    """The datasets of a demo by signal name.

    Args:
        obs: the observations.
        following: the next observations, from next_obs.
        others: actions, rewards and all other datasets.
        num_samples: number of rows of each.
        metadata: its attributes.
    """

    obs: Columns
    following: Columns
    others: Columns
    num_samples: int
    metadata: Metadata

    @property
    def arrays(self) -> dict[str, h5py.Dataset]:
        """All datasets except the next observations."""
        return {**self.others, **self.obs}

    @property
    def num_steps(self) -> int:
        """T; without next observations, the last action has no outcome and does not count."""
        return self.num_samples if self.following else self.num_samples - 1


class RobomimicLogs(EpisodeLogs):
    """The demos of one file, in the order of their numbers."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is an HDF5 file with demos in its group `data`, or a folder with exactly one such file."""
        return access.is_robomimic(path)

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> RobomimicLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "robomimic")
        path = access.only_file(path, "robomimic")
        schema = schema_beside(path) if schema is None else schema
        with access.opened(path) as file:
            names, unclear = _demo_names(file, path)
            common: Metadata = {}
            with suppress(*UNREADABLE):  # the demos may be readable without the attributes
                common = {key: value for key, value in attributes(file["data"]).items() if key != "total"}
            if schema is None:
                schema, doubts = _infer(file, names, common, path)
                unclear += doubts
            _, first = next(readable(names, lambda name: _demo(file, name, path), what="demos", file=path))
            unclear += _doubts_of_rows(first, schema)
        read, files = partial(_read_demo, path, names, common, schema), [path.name] * len(names)

        def reader(stack: ExitStack) -> ReadEpisode:
            return partial(read, stack.enter_context(access.opened(path)))

        return cls(schema, unclear, root=path.parent, files=files, reader=reader)


def _read_demo(
    path: Path, names: Sequence[str], common: Metadata, schema: Schema, file: h5py.File, number: int
) -> EpisodeDraft:
    """Reads a demo.

    Args:
        path: of the file.
        names: of the demos.
        common: metadata of all demos.
        schema: of every episode.
        file: the open file.
        number: of the demo among `names`.
    """
    demo = _demo(file, names[number], path)
    if demo.num_steps < 1:
        problem = f"it has no complete step: {demo.num_samples} samples and no observation after the last action"
        raise DataError(problem, fix="Add next_obs, or leave the demo out.")
    metadata = {"demo": names[number]} | common | demo.metadata
    draft = EpisodeDraft(source=source_of(path.name, number, metadata))
    for signal in (signal for signal in schema.signals if signal.name in demo.arrays):
        values = _rows(demo.arrays[signal.name], demo.num_samples, signal.name)
        if signal.role is not Role.OBSERVATION:
            draft.add(signal, values[: demo.num_steps])
        else:
            _add_observations(draft, values, demo, signal)
    return draft


def _add_observations(draft: EpisodeDraft, values: Array, demo: _Demo, signal: Signal) -> None:
    """Adds T+1 observations, and warnings."""
    name, mask = signal.name, None
    if name in demo.following:
        after = _rows(demo.following[name], demo.num_samples, f"{_NEXT}{name}")
        if after.shape != values.shape or after.dtype != values.dtype:
            problem = f"next_obs is {after.dtype} of shape {after.shape}, obs is {values.dtype} of shape {values.shape}"
            raise DataError(problem, fix="Write both with the same dtype and shape.", signal=name)
        differs = (after[:-1] != values[1:]) & ~((after[:-1] != after[:-1]) & (values[1:] != values[1:]))
        steps = np.flatnonzero(differs.reshape(len(after) - 1, -1).any(1)) if len(after) > 1 else np.empty(0, np.intp)
        if len(steps):
            problem = f"next_obs differs from the obs that follows in {len(steps)} of {len(after) - 1} steps"
            fix = "The values of obs are used. Check whether rows are missing at these steps."
            draft.warn(problem, fix, signal=name, step=int(steps[0]))
        values = np.concatenate([values, after[-1:]])
    elif demo.num_steps == demo.num_samples:
        values = np.concatenate([values, values[-1:]])
        mask = np.arange(len(values)) < demo.num_samples
    draft.add(signal, values, mask)


def _rows(dataset: h5py.Dataset, num_samples: int, name: str) -> Array:
    if not is_numeric(dataset):
        problem = f"its dtype {dataset.dtype} is not numeric"
        raise DataError(problem, fix="Remove it from the schema.", signal=name)
    if len(dataset) != num_samples:
        problem = f"it has {len(dataset)} rows, but the demo has {num_samples} samples"
        raise DataError(problem, fix=DAMAGED, signal=name)
    return read_rows(dataset, 0, num_samples, name)


def _demo(file: h5py.File, name: str, path: Path) -> _Demo:
    """Opens the demo `name`; its values are not read yet."""
    group = file["data"][name]
    if not isinstance(group, h5py.Group):
        raise DataError("the demo is not a group", fix=DAMAGED)
    datasets = access.arrays_in(group, path)
    if "actions" not in datasets or not is_numeric(datasets["actions"]):
        raise DataError("the demo has no actions", fix="Add a dataset `actions`, or leave the demo out.")
    others = {n: d for n, d in datasets.items() if not n.startswith((_OBS, _NEXT))}
    parts: dict[str, dict[str, h5py.Dataset]] = {}
    for prefix in (_OBS, _NEXT):
        inner = {n.removeprefix(prefix): d for n, d in datasets.items() if n.startswith(prefix)}
        parts[prefix] = {f"{_OBS}{n}" if n in others else n: d for n, d in inner.items()}
    num_samples = len(datasets["actions"])
    metadata = attributes(group)
    if (declared := metadata.pop("num_samples", num_samples)) != num_samples:
        problem = f"num_samples is {declared}, but the demo has {num_samples} actions"
        raise DataError(problem, fix=DAMAGED, signal="actions")
    return _Demo(obs=parts[_OBS], following=parts[_NEXT], others=others, num_samples=num_samples, metadata=metadata)


def _demo_names(file: h5py.File, path: Path) -> tuple[list[str], list[str]]:
    """Returns the demos in the order of their numbers, and a sentence about other members."""
    with converted("the group data cannot be read", file=path):
        members = list(file["data"])
    demos = {name: int(match[1]) for name in members if (match := _DEMO.fullmatch(name))}
    if not demos:
        raise DataError("the group data has no demos", fix="Name the demos demo_0, demo_1, ...", file=path)
    others = sorted(set(members) - set(demos))
    unclear = [f"Not read, because they are not demos: {', '.join(others[:20])}."] if others else []
    return sorted(demos, key=lambda name: (demos[name], name)), unclear


def _infer(file: h5py.File, names: Sequence[str], metadata: Metadata, path: Path) -> tuple[Schema, list[str]]:
    """Infers a schema from the observations, actions and rewards of all demos; also returns doubts."""
    draft = SchemaDraft(path)

    def read(name: str) -> dict[str, Summary]:
        demo = _demo(file, name, path)
        known = [n for n, d in demo.arrays.items() if is_numeric(d) and (n in demo.obs or n in _ROLES)]
        return {name: _summary(demo, name) for name in known}

    seen = summaries_of(names, read, what="demos", file=path)
    for name, summaries in seen.items():
        draft.add(*draft.infer(name, _ROLES.get(name, Role.OBSERVATION), summaries))
    if draft.lacks(Role.OBSERVATION):
        fix = "Extract observations from the states with robomimic's scripts."
        raise DataError("no demo has observations", fix=fix, file=path)
    step_s = _step_s(metadata)
    draft.note(
        "The step duration is not in the logs: step_s is left empty."
        if step_s is None
        else "The step duration comes from control_freq in env_args."
    )
    return draft.result(step_s)


def _summary(demo: _Demo, name: str) -> Summary:
    dataset = demo.arrays[name]
    if dataset.dtype == np.uint8 and dataset.ndim in (3, 4):
        return Summary(shape=dataset.shape, dtype=dataset.dtype)  # values of images are not needed
    values = _rows(dataset, demo.num_samples, name)
    if name in demo.following and demo.num_samples:
        last = read_rows(demo.following[name], demo.num_samples - 1, demo.num_samples, name)
        values = np.concatenate([values, last])
    return summarise(values)


def _step_s(metadata: Metadata) -> float | None:
    """Returns seconds per step from the simulator's control rate in env_args, if it is there."""
    try:
        rate = json.loads(str(metadata.get("env_args", "")))["env_kwargs"]["control_freq"]
        return 1 / rate if rate > 0 else None
    except (ValueError, KeyError, TypeError):
        return None


def _doubts_of_rows(demo: _Demo, schema: Schema) -> list[str]:
    """Returns sentences on how rows become steps, and on datasets that are left out."""
    signals = {signal.name: signal for signal in schema.signals}
    unclear: list[str] = []
    if not demo.following:
        unclear.append("There is no next_obs: the last action of each demo has no outcome and is left out.")
    if left := [name for name in demo.arrays if name not in signals]:
        unclear.append(f"Left out, because the schema has no such signals: {', '.join(left)}.")
    if any(name.lower() in FOREIGN_ENDS for name in left):
        unclear.append("All episodes count as truncated, because the end flags also mark success.")
    partial = [n for n, s in signals.items() if s.role is Role.OBSERVATION and n in demo.arrays]
    partial = [n for n in partial if demo.following and n not in demo.following]
    if partial:
        unclear.append(f"{', '.join(partial)}: not in next_obs, so it is missing after the last action.")
    return unclear
