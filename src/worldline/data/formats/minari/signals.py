"""Inference of a Minari dataset's signals: names from its structure, kinds and bounds from its spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.formats.hdf5.layout import summary_of
from worldline.data.formats.minari.storage import (
    ACTION,
    INFOS,
    OBSERVATION,
    REWARD,
    RawEpisode,
    Space,
    Storage,
    is_jpeg,
    leaves,
)
from worldline.data.formats.reading import DAMAGED, Array, readable, reason
from worldline.data.infer import SchemaDraft, Summary
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

_ROLES = {OBSERVATION: Role.OBSERVATION, ACTION: Role.ACTION}


def names_of(raw: RawEpisode) -> dict[tuple[str, str], str]:
    """Returns the signal name of each member of observation and action, texts included.

    Members of tuples, and members whose names would collide, get the part's name as prefix.

    Args:
        raw: an episode.
    """
    members = [(part, member) for part in _ROLES for member in (*raw.parts[part], *raw.texts[part])]
    plain = [member.replace("/", ".") or part for part, member in members]
    names = {}
    for (part, member), name in zip(members, plain, strict=True):
        shared = plain.count(name) > 1 or name == REWARD or name.startswith(f"{INFOS}.") or name[0].isdigit()
        names[part, member] = f"{part}.{name}" if member and shared else name
    return names


def named_arrays(raw: RawEpisode) -> dict[str, Array]:
    """Returns the arrays of an episode by signal name."""
    names = names_of(raw)
    arrays = {name: raw.parts[part][member] for (part, member), name in names.items() if member in raw.parts[part]}
    infos = {f"{INFOS}.{member}" if member else INFOS: values for member, values in raw.parts[INFOS].items()}
    return {**infos, **arrays, REWARD: raw.rewards}


def infer_signals(storage: Storage, metadata: Mapping[str, Any], folder: Path) -> tuple[Schema, list[str]]:
    """Infers the schema from spaces and values; also returns doubts, in full sentences.

    Args:
        storage: of the dataset; every episode is read.
        metadata: see `read_metadata`.
        folder: for errors.

    Raises:
        DataError: no episode can be read, or none has observations.
    """
    seen: dict[tuple[str, str], tuple[str, list[Summary]]] = {}
    left: dict[str, None] = {}
    for _, raw in readable(storage.numbers, storage.read, what="episodes", file=folder):
        parts = {**raw.parts, REWARD: {"": raw.rewards}}
        for (part, member), name in (names_of(raw) | {(REWARD, ""): REWARD}).items():
            if member in parts[part]:
                seen.setdefault((part, member), (name, []))[1].append(summary_of(parts[part][member]))
        left |= dict.fromkeys(f"{INFOS}.{member}" for member in (*raw.parts[INFOS], *raw.texts[INFOS]))
    if not any(part == OBSERVATION for part, _ in seen):
        raise DataError("no episode has observations", fix=DAMAGED, file=folder)
    draft = SchemaDraft(folder)
    draft.note("The step duration is not in the logs: step_s is left empty.")
    spaces = {part: leaves(metadata[f"{part}_space"]) for part in _ROLES}
    for (part, member), (name, summaries) in seen.items():
        space = spaces[part].get(member) if part in spaces else None
        signal, doubts = draft.infer(name, _ROLES.get(part, Role.REWARD), summaries)
        signal, doubts = _with_space(signal, doubts, space, summaries)
        if is_jpeg(space, metadata):
            doubts = [*doubts, "its images were stored as JPEG, which loses detail."]
        draft.add(signal, doubts)
    if left:
        draft.note(f"Left out; to keep one, add it to schema.json: {', '.join(left)}.")
    return draft.result()


def _with_space(
    signal: Signal, doubts: list[str], space: Space | None, seen: list[Summary]
) -> tuple[Signal, list[str]]:
    """Adds kind and bounds of the space to the signal, if the logged values lie within them."""
    bounds = [summary for summary in seen if summary.low and np.isfinite(summary.low).all()]
    if space is None or not bounds:
        return signal, doubts
    low, high = np.min([s.low for s in bounds], axis=0), np.max([s.high for s in bounds], axis=0)
    try:
        if space["type"] == "Discrete":
            start, end = int(space["start"]), int(space["start"]) + int(space["n"])
            if start < 0 or low.size != 1 or not start <= low[0] <= high[0] < end:
                return signal, [*doubts, f"its values are not within {start} to {end - 1}, the range of its space."]
            choice = replace(signal, kind=Kind.DISCRETE, shape=(), num_values=end, unit="1", low=None, high=None)
            return replace(choice, precision="float32"), []
        if space["type"] != "Box" or signal.kind is not Kind.VECTOR:
            return signal, doubts
        space_low = np.array(space["low"], np.float64).reshape(-1)
        space_high = np.array(space["high"], np.float64).reshape(-1)
        if not np.isfinite([space_low, space_high]).any():
            return signal, doubts
        dtype = np.dtype(signal.dtype)  # bounds are rounded like the values before they are compared
        is_within = (low >= space_low.astype(dtype)) & (high <= space_high.astype(dtype))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        return signal, [*doubts, f"its space cannot be read ({reason(error)})."]
    if space_low.size != signal.size or not is_within.all():
        return signal, [*doubts, "its values exceed the bounds of its space, so these are not used."]
    return replace(signal, low=tuple(space_low.tolist()), high=tuple(space_high.tolist())), []
