"""Importer of LeRobot datasets (v2.0, v2.1 and v3.0), without the lerobot package.

A row holds an observation and the next action, so an episode has as many actions as observations. The last action has
no logged outcome. It is dropped together with its reward and exogenous inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from worldline.config import from_json
from worldline.data.base import ReadOptions, refuse
from worldline.data.checks import Finding
from worldline.data.formats.lerobot import episode
from worldline.data.formats.lerobot.layout import (
    INFO_FILE,
    OWN,
    EpisodePlace,
    Feature,
    LeRobotLayout,
    read_layout,
    read_tasks,
)
from worldline.data.formats.lerobot.tables import DataFiles, within
from worldline.data.formats.reading import Array, EpisodeDraft, EpisodeLogs, readable
from worldline.data.infer import SchemaDraft, Summary, role_of_column, summarise
from worldline.data.store import SCHEMA_FILE
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal


class LeRobotLogs(EpisodeLogs[episode.EpisodeReader]):
    """The episodes of a LeRobot dataset.

    Args:
        layout: of the dataset.
        schema: of every episode.
        unclear: see `Logs`.
        lost: errors in the lists of episodes and tasks; each is reported as an unreadable episode.
        tasks: descriptions by `task_index`.
    """

    def __init__(
        self,
        layout: LeRobotLayout,
        schema: Schema,
        unclear: Sequence[str],
        lost: Sequence[Finding],
        tasks: Mapping[int, str],
    ) -> None:
        files = [*(place.data for place in layout.episodes), *(one.file or INFO_FILE for one in lost)]
        super().__init__(schema, unclear, layout.root, files)
        self._layout = layout
        self._lost, self._tasks = tuple(lost), tasks

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a folder with `meta/info.json`."""
        return (path / INFO_FILE).is_file()

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> LeRobotLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "LeRobot")
        layout = read_layout(path)
        lost, tasks = list(layout.lost), dict[int, str]()
        try:
            tasks.update(read_tasks(path))
        except DataError as error:
            lost.append(Finding.of(error))
        if schema is None and (path / SCHEMA_FILE).exists():
            where = within(path, SCHEMA_FILE)
            schema = from_json(Schema, where.read_bytes(), where=where)
        schema, unclear = (schema, _assumptions(layout, schema)) if schema is not None else _infer(layout)
        return cls(layout, schema, unclear, lost, tasks)

    def opened(self) -> nullcontext[episode.EpisodeReader]:
        """A reader that opens the files one after another."""
        return nullcontext(episode.EpisodeReader(self._layout, self.schema, self._tasks))

    def draft(self, opened: episode.EpisodeReader, number: int) -> EpisodeDraft:
        """Reads a listed episode; the lost ones come after them."""
        if number >= len(self._layout.episodes):
            raise self._lost[number - len(self._layout.episodes)].error()
        return opened.read(self._layout.episodes[number])


def _infer(layout: LeRobotLayout) -> tuple[Schema, list[str]]:
    """Infers a schema from the declared features and the numbers in the rows; also returns doubts."""
    draft = SchemaDraft(layout.root)
    seen = _summaries(layout, [feature for feature in layout.features.values() if episode.is_numeric(feature)])
    for feature in layout.features.values():
        name, role = episode.signal_name(layout, feature.key), _role(feature.key)
        if feature.dtype in ("video", "image") and not feature.is_depth:
            channels = 3 if feature.dtype == "video" else feature.num_channels  # a decoded video has three
            draft.add(Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*feature.height_width, channels), unit="1"))
        elif feature.key in seen:
            signal, doubts = draft.infer(name, role, seen[feature.key])
            if feature.key == episode.SUCCESS:
                doubts.append("used as a reward of 0 or 1, not as an end of the episode.")
            if not feature.key.startswith(("observation", "action", "next.")):
                doubts.insert(0, f"its role is {role} because of its name.")
            if feature.components and signal.kind is Kind.VECTOR and len(feature.components) == signal.size:
                signal = replace(signal, components=feature.components)
            draft.add(signal, doubts)
    schema, unclear = draft.result(1 / layout.fps)
    return schema, [*unclear, *_assumptions(layout, schema)]


def _summaries(layout: LeRobotLayout, features: Sequence[Feature]) -> dict[str, list[Summary]]:
    """Returns a summary for each readable episode, by feature key."""
    files, seen = DataFiles(layout.root), dict[str, list[Summary]]()

    def summaries(place: EpisodePlace) -> dict[str, Summary]:
        piece = files.locate(place.data, place.number, place.num_rows)
        found = {}
        for feature in features:
            values = piece.numbers(feature.key, feature.shape, feature.key).values
            keep = len(piece) if _role(feature.key) is Role.OBSERVATION else len(piece) - 1
            if keep:
                found[feature.key] = summarise(_cells(values[:keep], feature))
        return found

    for _, found in readable(layout.episodes, summaries, what="episodes", file=layout.root):
        for key, summary in found.items():
            seen.setdefault(key, []).append(summary)
    return seen


def _cells(values: Array, feature: Feature) -> Array:
    """Drops the component axis of single numbers, as `infer_signal` expects."""
    return values.reshape(-1) if feature.shape == (1,) else values


def _role(key: str) -> Role:
    """Returns the role of a feature by LeRobot's naming convention."""
    if key.split(".")[0] in ("observation", "action"):
        return Role(key.split(".")[0])
    return Role.REWARD if key == episode.SUCCESS else role_of_column(key)


def _assumptions(layout: LeRobotLayout, schema: Schema) -> list[str]:
    """Returns sentences on what reading the dataset with this schema leaves out or assumes."""
    notes = []
    if episode.SURPLUS not in layout.features:
        notes.append(
            "The last action of each episode has no following observation. It is dropped with its reward and exogenous "
            "inputs."
        )
    names, others = {signal.name for signal in schema.signals}, (*episode.BOOKKEEPING, *episode.ENDS)
    for key, feature in layout.features.items():
        name = episode.signal_name(layout, key)
        if key in episode.ENDS and not layout.is_own:
            notes.append(
                f"{key}: used as the end of the episode ({episode.ENDS[key]}) if it is set at the last action that is "
                "kept. An episode that sets it only in the last row counts as truncated."
            )
        elif feature.dtype == "string":
            notes.append(f"{key}: text; kept in the source if it is constant in the episode.")
        elif name not in names and key not in others and not key.startswith(f"{OWN}."):
            why = "a depth map" if feature.is_depth else f"{feature.dtype} of shape {feature.shape}"
            notes.append(f"{key}: left out, because the schema has no signal {name!r} ({why}).")
        elif feature.dtype == "video":
            notes.append(f"{key}: decoded from a lossy video.")
    if schema.step_s is not None and abs(schema.step_s * layout.fps - 1) > 0.01:
        notes.append(
            f"The schema has {schema.step_s:g} s per step, the dataset {1 / layout.fps:g} s; the schema's is used."
        )
    return notes
