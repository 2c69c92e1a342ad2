"""A world in a file: one page with the weights of a world, their arithmetic, and a few example episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from worldline.episode import Episode
from worldline.errors import UnsupportedError
from worldline.schema import Kind
from worldline.studio.pages import saved_page
from worldline.studio.play_program import Weights, to_program
from worldline.world.local import SEED, LocalWorld
from worldline.world.onnx_export import band_table
from worldline.world.prediction_errors import num_samples
from worldline.world.step_networks import StepNetworks, step_networks
from worldline.world.wire import encode_json_answer

MAX_EPISODES: Final = 3
MAX_STEPS: Final = 500
"""Steps of an example episode; later ones are left out."""
MIN_DRAWN: Final = 200
"""Steps with different draws in a stochastic world; later steps repeat the draws."""
MAX_BYTES: Final = 3_000_000


def export_page(
    world: LocalWorld, destination: Path | str, *, episodes: Sequence[Episode] = (), log: str = "examples"
) -> None:
    """Writes one HTML file that predicts, answers what-if and plans by double click, without a network.

    Args:
        world: learned and deterministic, without images.
        destination: the file.
        episodes: examples, of which the first `MAX_EPISODES` are in the page. Without any, the page has the held-out
            windows of the bundle.
        log: name of the examples.

    Raises:
        UnsupportedError: the world cannot be computed in a page, or needs more than 3 MB. The message has the reason.
    """
    data = play_data(world, list(episodes[:MAX_EPISODES]) or _windows(world), log)
    page = saved_page(data["name"], {"title": data["name"], "place": "#/imagine", "world": data})
    if (size := len(page.encode())) > MAX_BYTES:
        raise UnsupportedError(
            f"the page has {size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g} MB. Learn a smaller model with `--set`, "
            "or export the world with --as onnx."
        )
    Path(destination).write_text(page, encoding="utf-8")


def play_data(world: LocalWorld, episodes: Sequence[Episode], log: str) -> dict[str, Any]:
    """What `static/play.js` needs, as plain values for JSON.

    Raises:
        UnsupportedError: as in `export_page`.
    """
    card, calibration, networks, weights = world.describe(), world.calibration, _networks(world), Weights()
    programs = {name: to_program(getattr(networks, name), weights) for name in ("start", "update", "step")}
    absent = {"abducts", "decodes", "reaches"}
    content = {
        "name": card.name,
        "card": replace(card, abilities=tuple(name for name in card.abilities if name not in absent)),
        "programs": programs,
        "noise": _noise(networks, max(MIN_DRAWN, card.band_horizon), weights),
        "weights": weights.packed(),
        "bands": None,
        "ranges": {},
        "tolerance": {},
        "smallest_trust": 0.0,
        "log": {"name": log, "episodes": [_example(world, e, number) for number, e in enumerate(episodes)]},
    }
    if calibration is not None:
        bands = band_table(calibration) if calibration.has_error_scores else None
        tolerance = {name: calibration.tolerance(name) for name in calibration.spread}
        known = {"bands": bands, "tolerance": tolerance, "smallest_trust": calibration.smallest_trust}
        content |= known | {"ranges": {name: ends.tolist() for name, ends in calibration.logged_range.items()}}
    plain: dict[str, Any] = json.loads(encode_json_answer(content))
    return plain


def _networks(world: LocalWorld) -> StepNetworks:
    """The networks of a world that a page can compute, with as many rows and samples as in a prediction."""
    card = world.describe()
    pictures = [name for name in (*card.inputs, *card.predicts) if card.schema[name].kind is Kind.IMAGE]
    refusal = "{} cannot be computed in a page: {}. Export it with --as onnx."
    if pictures:
        raise UnsupportedError(refusal.format(card.name, f"it takes or predicts the image {pictures[0]!r}"))
    single = step_networks(world.engine)
    if any(name.startswith("noise") for name in (*single.start.arguments, *single.update.arguments)):
        raise UnsupportedError(refusal.format(card.name, "its beliefs are random draws"))
    count = single.num_members if card.deterministic else num_samples(card)
    return step_networks(world.engine, -(-count // single.num_members), num_samples=count)


def _noise(networks: StepNetworks, num_steps: int, weights: Weights) -> dict[str, list[int]]:
    """The draws of predictions: per argument of `step` its place in the weights, for so many steps."""
    generator = torch.Generator().manual_seed(SEED)
    medians = {name: value for name, value in networks.step.arguments.items() if name.startswith("noise")}
    drawn = [
        [(torch.rand if m.any() else torch.randn)(m.shape, generator=generator) for m in medians.values()]
        for _ in range(num_steps)
    ]
    return {name: weights.place(torch.stack([row[n] for row in drawn])) for n, name in enumerate(medians)}


def _windows(world: LocalWorld) -> list[Episode]:
    """The first held-out windows of the bundle."""
    if (windows := world.windows) is None:
        raise UnsupportedError(f"{world.describe().name} has no held-out windows to start from. Give logs: --logs.")
    groups: list[dict[str, Any]] = [
        {part: {name: value[row] for name, value in arrays.items()} for part, arrays in vars(windows).items()}
        for row in range(min(MAX_EPISODES, windows.num_worlds))
    ]
    return [Episode(**group) for group in groups]


def _example(world: LocalWorld, episode: Episode, number: int) -> dict[str, Any]:
    """An episode with the trust in each of its observations as the present."""
    names = [signal.name for signal in world.describe().schema.signals if signal.kind is not Kind.IMAGE]
    episode = episode.window(0, min(episode.num_steps, MAX_STEPS) + 1).select(names)
    beliefs = [world.encode(episode.history(0))]
    for at in range(1, episode.num_steps + 1):
        recent = episode.history(at, 2)
        beliefs.append(world.test(beliefs[-1], world.update(beliefs[-1], recent), recent))
    observations = {
        name: np.where(episode.mask(name).reshape(-1, *[1] * (value.ndim - 1)), _short(value), np.nan)
        for name, value in episode.observations.items()
    }
    return {
        "number": number,
        "num_steps": episode.num_steps,
        "ending": "terminated" if episode.terminated else "truncated" if episode.truncated else "",
        "source": "",
        "observations": observations,
        "actions": {name: _short(value) for name, value in episode.actions.items()},
        "exogenous": {name: _short(value) for name, value in episode.exogenous.items()},
        "trust": [belief.shown_trust for belief in beliefs],
    }


def _short(values: NDArray[Any]) -> NDArray[Any]:
    """The values with 7 significant digits, as many as float32 has."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    return np.array([float(f"{value:.7g}") for value in values.ravel()]).reshape(values.shape)
