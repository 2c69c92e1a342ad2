"""From the store's NumPy windows to the tensors that models take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.data.store import Store
from worldline.data.windows import WindowBatch, Windows
from worldline.models.base import Belief, Inputs, Window, WorldModel
from worldline.models.layers.precision import autocast
from worldline.schema import Kind, Role, Schema, Signal

NUM_FITTED: Final = 512
"""Windows that a normaliser is fitted on."""
PICTURES: Final = 512
"""That are encoded at once as goals."""
BATCH: Final = 32
"""Episodes of equal length that are encoded at once."""
MAX_BATCH: Final = 4 * BATCH
"""Episodes of different lengths that are encoded at once, at most."""


def to_window(batch: WindowBatch, schema: Schema) -> Window:
    """The batch as tensors: vectors in float32, all else as it is stored, inputs concatenated in the schema's order."""
    return Window(
        observations={name: to_tensor(values) for name, values in batch.observations.items()},
        observed={name: torch.from_numpy(values) for name, values in batch.observed.items()},
        past=replace(
            to_inputs({k: v[:, None] for k, v in batch.actions.items()}, batch.exogenous, schema),
            step_s=torch.from_numpy(batch.step_s),
        ),
        reward=_reward(batch),
        terminated=torch.from_numpy(batch.terminated),
    )


def _reward(batch: WindowBatch) -> Float[Tensor, "B T"] | None:
    """The sum of all reward signals; None where there are none."""
    parts = [torch.from_numpy(values).float().flatten(2).sum(-1) for values in batch.rewards.values()]
    return torch.stack(parts).sum(0) if parts else None


def fit_normaliser(model: WorldModel, store: Store, numbers: Sequence[int], inputs: Sequence[str], window: int) -> None:
    """Tells a model the means and deviations of what it is given, and what else it takes from the data beforehand.

    Args:
        model: untrained.
        store: to read from.
        numbers: of the episodes.
        inputs: the observation signals that the model takes.
        window: observations, at least. Twice the model's context, where episodes are so long: a linear forecast is
            solved for over stretches of its own length.
    """
    length = max(window, min(2 * model.context, int(np.quantile(store.num_steps, 0.2)) + 1))
    windows = Windows(store, length, numbers, window_signals(store.schema, (*inputs, *model.targets)))
    model.fit_normaliser(to_window(windows.sample(NUM_FITTED, np.random.default_rng(0)), store.schema))


def window_signals(schema: Schema, inputs: Sequence[str]) -> list[str]:
    """Names of what training reads: these observations, and all actions, exogenous inputs and rewards."""
    return [*inputs, *(s.name for s in schema.signals if s.role is not Role.OBSERVATION)]


def to_tensor(values: NDArray[np.generic]) -> Tensor:
    """The values of an observation signal as models take them: float64 as float32, all else as it is."""
    # Torch takes neither views that run backwards nor, without a warning, arrays that may not be written to.
    tensor = torch.from_numpy(np.require(values, requirements=("C", "W")))
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def to_inputs(
    actions: Mapping[str, NDArray[np.generic]], exogenous: Mapping[str, NDArray[np.generic]], schema: Schema
) -> Inputs:
    """Concatenated inputs.

    Args:
        actions: per action signal [B, N, T, *shape].
        exogenous: per exogenous signal [B, T, *shape]; empty where the schema has none.
        schema: gives order and sizes.
    """
    joined = _join(schema.actions, actions)
    assert joined is not None
    return Inputs(
        actions=joined,
        exogenous=_join(schema.exogenous, exogenous),
        step_s=torch.full((joined.shape[0], joined.shape[2]), schema.step_s or 1.0),
    )


def _join(signals: Sequence[Signal], values: Mapping[str, NDArray[np.generic]]) -> Tensor | None:
    parts = [_flat(signal, to_tensor(values[signal.name])) for signal in signals]
    return torch.cat(parts, -1) if parts else None


def _flat(signal: Signal, values: Tensor) -> Tensor:
    """[..., size] float32; discrete values as one-hot."""
    if signal.kind is Kind.DISCRETE:
        return torch.nn.functional.one_hot(values.long(), signal.size).float()
    return values.float()


def split_actions(actions: Float[Tensor, "*lead A"], schema: Schema) -> dict[str, NDArray[np.generic]]:
    """Concatenated vector actions as named arrays, sharing memory."""
    sizes = [signal.size for signal in schema.actions]
    parts = actions.split(sizes, -1)
    return {signal.name: part.numpy() for signal, part in zip(schema.actions, parts, strict=True)}


@torch.no_grad()
def fold(model: WorldModel, window: Window, *, generator: torch.Generator) -> Float[Tensor, "B H D"]:
    """The features of the belief after each observation of `window` (mean over samples), in turn."""
    return _fold(model, window, None, generator)[0]


def _fold(
    model: WorldModel, window: Window, belief: Belief | None, generator: torch.Generator
) -> tuple[Float[Tensor, "B H D"], Belief]:
    """The features after each observation, and the last belief. Given the belief after the first, that is left out."""
    features = []
    if belief is None:
        belief = model.encode(window.first(1), generator=generator)
        features.append(belief.features().mean(1))
    for step in range(window.past.step_s.shape[1]):
        inputs = window.past.steps(slice(step, step + 1))
        observation = {name: values[:, step + 1] for name, values in window.observations.items()}
        observed = {name: values[:, step + 1] for name, values in window.observed.items()}
        belief = model.update(belief, inputs, observation, observed, generator=generator)
        features.append(belief.features().mean(1))
    return torch.stack(features, 1).float(), belief


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One episode as a model sees it.

    Args:
        features: after each observation.
        actions: concatenated, physical units.
        exogenous: concatenated; None where the schema has none.
        step_s: seconds that each step took.
        whole: whether everything that the model takes was observed.
    """

    features: Float[Tensor, "T1 D"]
    actions: Float[Tensor, "T A"]
    exogenous: Float[Tensor, "T E"] | None
    step_s: Float[Tensor, " T"]
    whole: Bool[Tensor, " T1"]


@dataclass(frozen=True, kw_only=True)
class PictureGoals:
    """Observations as goals of which only the pictures are known.

    Args:
        latents: of the pictures alone.
        taken: whether there were pictures, all of them; else the latent is that of nothing.
    """

    latents: Float[Tensor, "M P"]
    taken: Bool[Tensor, " M"]


@torch.no_grad()
def goal_latents(model: WorldModel, window: Window) -> Float[Tensor, "B D"]:
    """The latents of goals: single observations with nothing before them, H = 1. Always the same draws."""
    belief = model.encode(window, generator=torch.Generator().manual_seed(0))
    return belief.features().mean(1)[:, model.present]


@torch.no_grad()
def picture_goals(
    model: WorldModel, store: Store, episodes: Sequence[int], signals: Sequence[str]
) -> PictureGoals | None:
    """Each observation, episode after episode, if it were a goal of which only the pictures are known.

    Args:
        model: frozen; in evaluation mode.
        store: to read from.
        episodes: their numbers.
        signals: the observation signals that the model takes; None is returned where they are all of one sort.
    """
    pictures = [name for name in signals if store.schema[name].kind is Kind.IMAGE]
    if len(pictures) in (0, len(signals)):
        return None
    windows = Windows(store, 1, episodes, window_signals(store.schema, signals))
    starts, found, taken = windows.all_starts(), [], []
    for first in range(0, len(starts), PICTURES):
        window = to_window(windows.read(starts[first : first + PICTURES]), store.schema)
        shown = {n: flags if n in pictures else torch.zeros_like(flags) for n, flags in window.observed.items()}
        with autocast():
            found.append(goal_latents(model, replace(window, observed=shown)).float())
        taken.append(torch.stack([window.observed[name][:, 0] for name in pictures]).all(0))
    return PictureGoals(latents=torch.cat(found), taken=torch.cat(taken))


@torch.no_grad()
def trace(
    model: WorldModel, store: Store, episodes: Sequence[int], signals: Sequence[str], *, generator: torch.Generator
) -> list[Trace]:
    """Every episode encoded once, so that heads can be fitted without reading an image again.

    Args:
        model: frozen; in evaluation mode.
        store: to read from.
        episodes: their numbers; one trace each, in this order.
        signals: the observation signals that the model takes.
        generator: for the model's draws.
    """
    lengths = {episode: int(store.num_steps[episode]) for episode in episodes}
    found: dict[int, Trace] = {}
    for batch in _batches(lengths):
        found |= _trace_batch(model, store, batch, signals, generator)
    return [found[episode] for episode in episodes]


def _batches(lengths: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Episodes with their lengths, longest first, in batches that hold as many steps as `BATCH` of the longest.

    A batch takes as many updates as its longest episode has steps. So a fixed number of episodes would need more
    updates for different lengths than for equal ones.
    """
    batch: dict[int, int] = {}
    for episode in sorted(lengths, key=lambda number: lengths[number], reverse=True):
        if batch and (len(batch) == MAX_BATCH or sum(batch.values()) >= BATCH * max(batch.values())):
            yield batch
            batch = {}
        batch[episode] = lengths[episode]
    if batch:
        yield batch


def _trace_batch(
    model: WorldModel, store: Store, lengths: Mapping[int, int], signals: Sequence[str], generator: torch.Generator
) -> dict[int, Trace]:
    """The traces of one batch, longest first, so that the episodes that have not ended are always its first rows."""
    names = [*signals, *(signal.name for signal in (*store.schema.actions, *store.schema.exogenous))]
    parts: dict[int, list[Trace]] = {episode: [] for episode in lengths}
    belief, start = None, 0
    for stop in sorted(set(lengths.values())):
        going = [episode for episode, length in lengths.items() if length >= stop]
        windows = Windows(store, stop - start + 1, going, names)
        window = to_window(windows.read(np.array([(episode, start) for episode in going])), store.schema)
        if belief is not None:
            belief = belief.select(torch.arange(len(going)))
        with autocast():
            features, belief = _fold(model, window, belief, generator)
        whole = torch.stack([window.observed[name] for name in signals]).all(0)[:, -features.shape[1] :]
        known = window.past.exogenous
        for row, episode in enumerate(going):
            part = Trace(
                features=features[row],
                actions=window.past.actions[row, 0],
                exogenous=None if known is None else known[row],
                step_s=window.past.step_s[row],
                whole=whole[row],
            )
            parts[episode].append(part)
        start = stop
    return {episode: _joined(pieces) for episode, pieces in parts.items()}


def _joined(parts: Sequence[Trace]) -> Trace:
    known = [part.exogenous for part in parts if part.exogenous is not None]
    return Trace(
        features=torch.cat([part.features for part in parts]),
        actions=torch.cat([part.actions for part in parts]),
        exogenous=torch.cat(known) if known else None,
        step_s=torch.cat([part.step_s for part in parts]),
        whole=torch.cat([part.whole for part in parts]),
    )
