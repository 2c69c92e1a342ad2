"""Conversion of the store's NumPy windows to the tensors of models, and encoding of whole episodes."""

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
from worldline.device import CPU, autocast, device_of, move
from worldline.episode import Arrays
from worldline.models.base import Belief, Inputs, Window, WorldModel, join_parts
from worldline.schema import Kind, Role, Schema, Signal

NUM_FITTED_WINDOWS: Final = 512
"""Windows that a normaliser is fitted on."""
COVER_LENGTH: Final = 128
"""Observations of the windows that a model in closed form is fitted on."""
MAX_COVER_STEPS: Final = 100_000
"""Approximate number of steps that a model in closed form is fitted on; of longer logs, evenly spread windows."""
GOALS_AT_ONCE: Final = 512
"""Image-only goals that are encoded at once."""
EPISODES_AT_ONCE: Final = 32
"""Episodes of equal length that are encoded at once."""
MAX_EPISODES_AT_ONCE: Final = 4 * EPISODES_AT_ONCE
"""Maximum number of episodes of different lengths that are encoded at once."""


def to_window(batch: WindowBatch, schema: Schema, device: torch.device = CPU) -> Window:
    """The batch as tensors: vectors in float32, other signals in the stored dtype, inputs in the schema's order."""
    return Window(
        observations={name: to_tensor(values, device) for name, values in batch.observations.items()},
        observed={name: to_tensor(values, device) for name, values in batch.observed.items()},
        past=replace(
            to_inputs({k: v[:, None] for k, v in batch.actions.items()}, batch.exogenous, schema, device),
            step_s=to_tensor(batch.step_s, device),
        ),
        reward=_reward(batch, device),
        terminated=to_tensor(batch.terminated, device),
        episode=to_tensor(batch.starts[:, 0], device),
    )


def _reward(batch: WindowBatch, device: torch.device) -> Float[Tensor, "B T"] | None:
    parts = [to_tensor(values).float().flatten(2).sum(-1) for values in batch.rewards.values()]
    return move(torch.stack(parts).sum(0), device) if parts else None


def fit_normaliser(model: WorldModel, store: Store, numbers: Sequence[int], inputs: Sequence[str], window: int) -> None:
    """Fits a model's normaliser, and whatever else it fits before training, on a sample of windows.

    A model in closed form, or with a part in closed form, is fitted on `covering_window`.

    Args:
        model: untrained, on the CPU, because fits need double precision.
        store: to read from.
        numbers: of the episodes.
        inputs: observation signals that the model takes.
        window: minimum number of observations per window. Windows have twice the model's context if episodes are long
            enough, because a linear forecast needs windows longer than its history.
    """
    if model.closed_form or model.fits_linear:
        model.fit_normaliser(covering_window(store, numbers, inputs, history=model.context))
        return
    length = max(window, min(2 * model.context, int(np.quantile(store.num_steps, 0.2)) + 1))
    windows = Windows(store, length, numbers, window_signals(store.schema, (*inputs, *model.targets)))
    model.fit_normaliser(to_window(windows.sample(NUM_FITTED_WINDOWS, np.random.default_rng(0)), store.schema))


def covering_window(
    store: Store, numbers: Sequence[int], inputs: Sequence[str], *, history: int, device: torch.device = CPU
) -> Window:
    """Windows that cover the episodes, in order; at most about `MAX_COVER_STEPS` steps of them.

    Windows are as long as four in five episodes allow, up to `COVER_LENGTH`; shorter episodes are left out.

    Args:
        store: to read from.
        numbers: of the episodes.
        inputs: observation signals to read.
        history: observations by which successive windows overlap, so that each prediction from so many counts once.
        device: of the result.
    """
    steps = store.num_steps
    length = min(max(COVER_LENGTH, 2 * history), int(np.quantile(steps[list(numbers)], 0.2)) + 1)
    windows = Windows(store, length, numbers, window_signals(store.schema, inputs))
    stride = max(1, length - history)
    lasts = [(number, int(steps[number]) + 1 - length) for number in numbers]
    starts = [(n, min(start, last)) for n, last in lasts if last >= 0 for start in range(0, last + stride, stride)]
    chosen = np.linspace(0, len(starts) - 1, min(len(starts), max(1, MAX_COVER_STEPS // length))).astype(int)
    return to_window(windows.read(np.array(starts)[chosen]), store.schema, device)


def window_signals(schema: Schema, inputs: Sequence[str]) -> list[str]:
    """Names of the signals that training reads: these observations, and all actions, exogenous signals and rewards."""
    return [*inputs, *(s.name for s in schema.signals if s.role is not Role.OBSERVATION)]


def to_tensor(values: NDArray[np.generic], device: torch.device = CPU) -> Tensor:
    """The values of an observation signal as a tensor; float64 becomes float32, other dtypes are kept."""
    # Torch rejects arrays with negative strides, and warns about read-only ones.
    tensor = torch.from_numpy(np.require(values, requirements=("C", "W")))
    return move(tensor.float() if tensor.dtype == torch.float64 else tensor, device)


def to_inputs(actions: Arrays, exogenous: Arrays, schema: Schema, device: torch.device = CPU) -> Inputs:
    """Concatenated inputs.

    Args:
        actions: per action signal [B, N, T, *shape].
        exogenous: per exogenous signal [B, T, *shape]; empty if the schema has none.
        schema: determines order and sizes.
        device: of the result.
    """
    joined = join(schema.actions, actions, device)
    return Inputs(
        actions=joined,
        exogenous=join(schema.exogenous, exogenous, device) if schema.exogenous else None,
        step_s=torch.full((joined.shape[0], joined.shape[2]), schema.step_s or 1.0, device=device),
    )


def join(signals: Sequence[Signal], values: Arrays, device: torch.device = CPU) -> Float[Tensor, "*lead size"]:
    """Named arrays [*lead, *shape] as one float32 tensor, concatenated in the order of `signals`."""
    return move(torch.cat([_flat(signal, to_tensor(values[signal.name])) for signal in signals], -1), device)


def split(signals: Sequence[Signal], values: Float[Tensor, "*lead size"]) -> dict[str, Tensor]:
    """The inverse of `join`: per signal [*lead, *shape], a view, or the chosen label if discrete."""
    parts = zip(signals, values.split([signal.size for signal in signals], -1), strict=True)
    return {s.name: part.argmax(-1) if s.kind is Kind.DISCRETE else part for s, part in parts}


def _flat(signal: Signal, values: Tensor) -> Tensor:
    """[..., size] float32; discrete values as one-hot."""
    if signal.kind is Kind.DISCRETE:
        return torch.nn.functional.one_hot(values.long(), signal.size).float()
    return values.float()


@torch.no_grad()
def fold(model: WorldModel, window: Window, *, generator: torch.Generator) -> Float[Tensor, "B H D"]:
    """The features of the belief after each observation of `window`, averaged over samples."""
    return _fold(model, window, None, generator)[0]


def _fold(
    model: WorldModel, window: Window, belief: Belief | None, generator: torch.Generator
) -> tuple[Float[Tensor, "B H D"], Belief]:
    """The features after each observation, and the last belief; with `belief` after the first, from the second on."""
    features = []
    if belief is None:
        belief = model.encode(window.first(1), generator=generator)
        features.append(belief.features().mean(1))
    for at in range(1, window.length):
        belief = model.update(belief, window.step(at), generator=generator)
        features.append(belief.features().mean(1))
    return torch.stack(features, 1).float(), belief


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One encoded episode.

    Args:
        features: after each observation.
        actions: concatenated, physical units.
        exogenous: concatenated; None if the schema has none.
        step_s: duration of each step, s.
        whole: whether all inputs of the model were observed.
    """

    features: Float[Tensor, "T1 D"]
    actions: Float[Tensor, "T A"]
    exogenous: Float[Tensor, "T E"] | None
    step_s: Float[Tensor, " T"]
    whole: Bool[Tensor, " T1"]


@dataclass(frozen=True, kw_only=True)
class PictureGoals:
    """Observations as goals that consist of images only.

    Args:
        latents: of the images alone.
        taken: whether all images were observed; otherwise the latent is meaningless.
    """

    latents: Float[Tensor, "M P"]
    taken: Bool[Tensor, " M"]


@torch.no_grad()
def goal_latents(model: WorldModel, window: Window) -> Float[Tensor, "B D"]:
    """The latents of goals, which are single observations without a past (H = 1). Draws use a fixed seed."""
    belief = model.encode(window, generator=torch.Generator("cpu").manual_seed(0))
    return belief.features().mean(1)[:, model.present]


@torch.no_grad()
def picture_goals(
    model: WorldModel, store: Store, episodes: Sequence[int], signals: Sequence[str]
) -> PictureGoals | None:
    """Each observation of each episode as an image-only goal; None unless the model takes images and other signals.

    Args:
        model: frozen; in evaluation mode.
        store: to read from.
        episodes: their numbers.
        signals: observation signals that the model takes.
    """
    pictures = [name for name in signals if store.schema[name].kind is Kind.IMAGE]
    if len(pictures) in (0, len(signals)):
        return None
    windows = Windows(store, 1, episodes, window_signals(store.schema, signals))
    starts, latents, taken, device = windows.all_starts(), [], [], device_of(model)
    for first in range(0, len(starts), GOALS_AT_ONCE):
        window = to_window(windows.read(starts[first : first + GOALS_AT_ONCE]), store.schema, device)
        shown = {n: flags if n in pictures else torch.zeros_like(flags) for n, flags in window.observed.items()}
        with autocast(device):
            latents.append(goal_latents(model, replace(window, observed=shown)).float())
        taken.append(torch.stack([window.observed[name][:, 0] for name in pictures]).all(0))
    return PictureGoals(latents=torch.cat(latents), taken=torch.cat(taken))


@torch.no_grad()
def trace(
    model: WorldModel, store: Store, episodes: Sequence[int], signals: Sequence[str], *, generator: torch.Generator
) -> list[Trace]:
    """Encodes every episode once, so that heads can be fitted without reading images again.

    Args:
        model: frozen; in evaluation mode.
        store: to read from.
        episodes: their numbers; one trace per episode, in this order.
        signals: observation signals that the model takes.
        generator: for the model's draws.
    """
    lengths = {episode: int(store.num_steps[episode]) for episode in episodes}
    traces: dict[int, Trace] = {}
    for batch in _batches(lengths):
        traces |= _trace_batch(model, store, batch, signals, generator)
    return [traces[episode] for episode in episodes]


def _batches(lengths: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Episodes with their lengths, longest first, in batches with as many steps as `EPISODES_AT_ONCE` of the longest.

    A batch needs as many updates as its longest episode has steps. A fixed number of episodes per batch would need more
    updates for different lengths than for equal ones.
    """
    batch: dict[int, int] = {}
    for episode in sorted(lengths, key=lambda number: lengths[number], reverse=True):
        steps = batch.values()
        if batch and (len(batch) == MAX_EPISODES_AT_ONCE or sum(steps) >= EPISODES_AT_ONCE * max(steps)):
            yield batch
            batch = {}
        batch[episode] = lengths[episode]
    if batch:
        yield batch


def _trace_batch(
    model: WorldModel, store: Store, lengths: Mapping[int, int], signals: Sequence[str], generator: torch.Generator
) -> dict[int, Trace]:
    """The traces of one batch, longest first, so that the episodes that have not ended are its first rows."""
    names = [*signals, *(signal.name for signal in (*store.schema.actions, *store.schema.exogenous))]
    parts: dict[int, list[Trace]] = {episode: [] for episode in lengths}
    belief, start, device = None, 0, device_of(model)
    for stop in sorted(set(lengths.values())):
        active = [episode for episode, length in lengths.items() if length >= stop]
        windows = Windows(store, stop - start + 1, active, names)
        window = to_window(windows.read(np.array([(episode, start) for episode in active])), store.schema, device)
        if belief is not None:
            belief = belief.select(torch.arange(len(active), device=device))
        with autocast(device):
            features, belief = _fold(model, window, belief, generator)
        whole = torch.stack([window.observed[name] for name in signals]).all(0)[:, -features.shape[1] :]
        known = window.past.exogenous
        for row, episode in enumerate(active):
            part = Trace(
                features=features[row],
                actions=window.past.actions[row, 0],
                exogenous=None if known is None else known[row],
                step_s=window.past.step_s[row],
                whole=whole[row],
            )
            parts[episode].append(part)
        start = stop
    return {episode: join_parts(pieces) for episode, pieces in parts.items()}
