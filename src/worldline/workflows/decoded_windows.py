"""Decoded predictions of held-out windows and their errors, for the report; no planner uses the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from worldline.audit.forecast_measurements import Decoded, DecodedWindow
from worldline.data.store import Store
from worldline.data.windows import WindowBatch, Windows, evenly_spaced
from worldline.device import autocast
from worldline.engines.learned import LearnedEngine
from worldline.plots.images import Frames
from worldline.schema import Role
from worldline.stats import Floats, draw_clusters, rmse_curve, skill_curve
from worldline.training.batches import fold, to_window
from worldline.training.heads.decoder import Decoder

NUM_MOMENTS: Final = 5
"""Decoded steps of the horizon."""
NUM_SHOWN: Final = 3
BATCH: Final = 16
"""Windows decoded at once; bounds memory and has no effect on results."""


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """W windows of one camera: the present and F moments after it.

    Args:
        real: [W, 1+F, *shape] uint8; the first is the last observed frame.
        known: [W, 1+F], whether the frame was observed.
        imagined: [W, F, *shape], decoded from predicted latents.
        redrawn: [W, 1+F, *shape], decoded from the latents of the real frames.
    """

    real: Frames
    known: NDArray[np.bool_]
    imagined: Frames
    redrawn: Frames


_Squares = Mapping[str, NDArray[Any]]
"""Squared errors [W, F] by source, each the mean over pixels and colours; 0 where the mask "known" is False."""


def decoded_frames(
    store: Store,
    engine: LearnedEngine,
    episodes: Sequence[int],
    *,
    context: int,
    horizon: int,
    per_episode: int,
    seed: int,
) -> tuple[Decoded, ...]:
    """Real and decoded windows with errors, one item per image signal of the model.

    The shown windows are the first ones of the first episodes with all frames observed. Empty without a decoder, or
    with fewer than two long episodes, because intervals need two.

    Args:
        store: the logs.
        engine: with a decoder.
        episodes: numbers of the held-out episodes.
        context: H, observations given, at least 1.
        horizon: T, predicted steps; below 1 the result is empty.
        per_episode: windows per episode, evenly spread; fewer in short ones.
        seed: of the bootstrap and of the model's draws.
    """
    long = [number for number in episodes if store.num_steps[number] >= context - 1 + horizon]
    decoder = engine.head(Decoder)
    if decoder is None or len(long) < 2 or horizon < 1:
        return ()
    nows = [evenly_spaced(int(store.num_steps[number]), context, horizon, per_episode) for number in long]
    episode = np.repeat(np.arange(len(long)), [len(now) for now in nows])
    starts = np.stack([np.array(long)[episode], np.concatenate(nows) - context + 1], 1)
    steps = moments(horizon)
    signals = [s.name for s in store.schema.signals if s.role in (Role.ACTION, Role.EXOGENOUS)]
    windows = Windows(store, context + horizon, long, [*engine.inputs, *signals])
    generator = torch.Generator("cpu").manual_seed(seed)
    squares: dict[str, list[_Squares]] = {signal.name: [] for signal in decoder.config.images}
    shown: dict[str, list[DecodedWindow]] = {name: [] for name in squares}
    for first in range(0, len(starts), BATCH):
        batch = windows.read(starts[first : first + BATCH])
        leads = np.diff(episode, prepend=-1)[first : first + BATCH] > 0
        for name, drawn in _draw(engine, batch, context, steps, generator).items():
            squares[name].append(_squares(drawn))
            shown[name] += _first(drawn, leads, NUM_SHOWN - len(shown[name]))
    return tuple(
        _measured(name, steps, store.schema.step_s, shown[name], parts, episode, seed)
        for name, parts in squares.items()
    )


def decoded_rmse(cameras: Sequence[Decoded]) -> dict[str, dict[str, dict[str, float]]]:
    """The errors in grey levels by image signal, step and source; "world" is the world's prediction."""
    figures = {}
    for camera in cameras:
        curves = {"world": camera.imagined, "persistence": camera.persistence, "decoder": camera.decoder}
        rows = zip(*(curve.value for curve in curves.values()), strict=True)
        steps = zip(map(str, camera.steps), rows, strict=True)
        figures[camera.camera] = {step: dict(zip(curves, row, strict=True)) for step, row in steps}
    return figures


def moments(horizon: int) -> tuple[int, ...]:
    """About five evenly spread steps from at least 1 to `horizon`."""
    return tuple(sorted({max(1, round(horizon * k / NUM_MOMENTS)) for k in range(1, NUM_MOMENTS + 1)}))


@torch.no_grad()
def _draw(
    engine: LearnedEngine, batch: WindowBatch, context: int, steps: Sequence[int], generator: torch.Generator
) -> Mapping[str, _Drawn]:
    """Decoded images by image signal, in windows of H + T observations."""
    window, now, decoder = to_window(batch, engine.schema, engine.device), context - 1, engine.required_head(Decoder)
    belief = engine.model.encode(window.first(context), generator=generator)
    future = window.past.steps(slice(now, None))
    path = engine.model.rollout(belief, future, generator=generator).features[:, 0].mean(1)
    with autocast(engine.device):
        seen = fold(engine.model, window, generator=generator)
    ahead = [step - 1 for step in steps]
    at = [now, *(now + step for step in steps)]
    imagined, redrawn = decoder(path[:, ahead].float()), decoder(seen[:, at])
    windows = {}
    for name in imagined:
        frames, known = batch.observations[name], batch.observed[name]
        back = known[:, now::-1].argmax(1)  # steps from the last observed frame to the present
        last = frames[np.arange(len(frames)), now - back]
        windows[name] = _Drawn(
            real=np.concatenate([last[:, None], frames[:, at[1:]]], 1).astype(np.uint8),
            known=np.concatenate([known[:, :context].any(1, keepdims=True), known[:, at[1:]]], 1),
            imagined=imagined[name].cpu().numpy(),
            redrawn=redrawn[name].cpu().numpy(),
        )
    return windows


def _squares(drawn: _Drawn) -> _Squares:
    """Squared errors at the predicted steps, where the frame and one before the prediction are known."""
    known, real = drawn.known[:, 1:] & drawn.known[:, :1], drawn.real[:, 1:].astype(np.float32)

    def square(frames: Frames) -> Floats:
        return np.where(known, np.square(frames - real).mean((2, 3, 4), dtype=np.float64), 0.0)

    guesses = {"imagined": drawn.imagined, "persistence": drawn.real[:, :1], "decoder": drawn.redrawn[:, 1:]}
    return {"known": known, **{name: square(frames) for name, frames in guesses.items()}}


def _first(drawn: _Drawn, leads: NDArray[np.bool_], max_windows: int) -> list[DecodedWindow]:
    """Up to `max_windows` fully observed windows that are the first of their episode."""
    chosen = np.flatnonzero(leads & drawn.known.all(1))[:max_windows]
    pictures = np.concatenate([drawn.redrawn[:, :1], drawn.imagined], 1)
    return [DecodedWindow(real=drawn.real[row], drawn=pictures[row]) for row in chosen]


def _measured(
    camera: str,
    steps: tuple[int, ...],
    step_s: float | None,
    shown: Sequence[DecodedWindow],
    parts: Sequence[_Squares],
    episode: NDArray[np.integer],
    seed: int,
) -> Decoded:
    errors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    known = errors.pop("known")
    weights, counted = draw_clusters(int(episode.max()) + 1, seed), known.any(1)
    curves = {name: rmse_curve(squared, known, episode, weights) for name, squared in errors.items()}
    return Decoded(
        camera=camera,
        step_s=step_s,
        steps=steps,
        windows=tuple(shown),
        num_windows=int(counted.sum()),
        num_episodes=len(np.unique(episode[counted])),
        saved=skill_curve(errors["imagined"], errors["persistence"], known, episode, weights),
        **curves,
    )
