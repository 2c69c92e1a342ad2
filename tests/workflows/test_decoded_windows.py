"""Frames of one grey, which an action changes by so much: whatever is drawn, its error is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from tests.models.partial_model import PartialModel
from torch import Tensor

from worldline.audit.forecast_measurements import Decoded
from worldline.data.store import Store
from worldline.engines.learned import LearnedEngine
from worldline.episode import Episode
from worldline.models.base import Belief, Inputs, LatentRollout, Window
from worldline.models.jepa import Latent
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.heads.base import by_name
from worldline.training.heads.decoder import Decoder, DecoderConfig
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.workflows.decoded_windows import decoded_frames, moments

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(6, 4, 1))
CHANGE = Signal(name="change", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-9.0,), high=(9.0,))
SCHEMA = Schema(signals=(CAMERA, CHANGE), step_s=3600.0)
CONTEXT, HORIZON, PER_EPISODE = 2, 5, 3


class Grey(PartialModel):
    """The latent is the grey; each imagined step is wrong by `drift`."""

    def __init__(self, drift: float = 0.0) -> None:
        super().__init__()
        self.drift = drift

    def encode(self, window: Window, *, generator: torch.Generator) -> Belief:
        return self.seen(window.observations["camera"][:, -1])

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Belief:
        return self.seen(step.observations["camera"][:, 0])

    def seen(self, frames: Tensor) -> Belief:
        return Latent(latent=frames[:, 0, 0].float())

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        start = belief.features()[:, :, None, None]
        path = start + (inputs.actions + self.drift).cumsum(2)[:, :, None]
        return LatentRollout(features=path, final=belief)


class Painter(Decoder):
    """Paints the latent's grey, of the window that `order` says."""

    def __init__(self, order: Callable[[Tensor], Tensor] = lambda latents: latents) -> None:
        super().__init__(DecoderConfig(latent_size=1, images=(CAMERA,), channels=1, width=1))
        self.order = order

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        grey = self.order(latents).round().clamp(0, 255).to(torch.uint8)
        return {"camera": grey[..., None, None].expand(*latents.shape[:-1], *CAMERA.shape)}


def engine(decoder: Decoder | None, drift: float = 0.0) -> LearnedEngine:
    return LearnedEngine(
        model=Grey(drift),
        schema=SCHEMA,
        inputs=("camera",),
        heads=by_name(
            Readout(ReadoutConfig(latent_size=1, signals=())),
            MahalanobisScore(MahalanobisConfig(latent_size=1)),
            decoder,
        ),
    )


def greys(number: int) -> np.ndarray:
    """[T+1], whole numbers from 40 to 210."""
    return np.cumsum([90 + 8 * number, *np.random.default_rng(number).integers(-4, 9, size=9)])


def log(path: object, observed: Callable[[int], Sequence[bool]] | None = None, num_episodes: int = 4) -> Store:
    store = Store.create(str(path), SCHEMA)
    for number in range(num_episodes):
        grey = greys(number)
        known = np.ones(10, bool) if observed is None else np.array(observed(number))
        shown = np.where(known, grey, 255)[:, None, None, None] * np.ones(CAMERA.shape)
        store.append(
            Episode(
                observations={"camera": shown.astype(np.uint8)},
                actions={"change": np.diff(grey)[:, None].astype(np.float32)},
                observed={"camera": known},
            )
        )
    return store


def decoded(
    store: Store, drawn_by: LearnedEngine, *, horizon: int = HORIZON, episodes: Sequence[int] = (0, 1, 2, 3)
) -> tuple[Decoded, ...]:
    return decoded_frames(store, drawn_by, episodes, context=CONTEXT, horizon=horizon, per_episode=PER_EPISODE, seed=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return log(tmp_path_factory.mktemp("greys") / "store")


NOWS = (1, 2, 4)
"""Where three windows of two observations and five steps lie in nine."""


def test_a_perfect_decoder_of_a_perfect_world_errs_nowhere_and_persistence_by_what_changes(store: Store) -> None:
    (found,) = decoded(store, engine(Painter()))
    assert (found.camera, found.steps, found.step_s) == ("camera", (1, 2, 3, 4, 5), 3600.0)
    assert (found.num_windows, found.num_episodes) == (12, 4)
    assert found.imagined.value == found.decoder.value == (0.0,) * 5
    for step, error in zip(found.steps, found.persistence.value, strict=True):
        changes = [greys(number)[now + step] - greys(number)[now] for number in range(4) for now in NOWS]
        assert error == pytest.approx(np.sqrt(np.mean(np.square(changes))))
    assert found.saved.value == (1.0,) * 5


def test_what_the_world_gets_wrong_is_not_the_decoder_s(store: Store) -> None:
    """Each step drifts by two, so the end is off by twice the steps; the decoder itself stays perfect."""
    (found,) = decoded(store, engine(Painter(), drift=2.0))
    assert found.imagined.value == (2.0, 4.0, 6.0, 8.0, 10.0)
    assert found.imagined.low == found.imagined.value
    assert found.decoder.value == (0.0,) * 5


def test_the_first_windows_of_the_first_episodes_are_shown(store: Store) -> None:
    (found,) = decoded(store, engine(Painter(), drift=1.0))
    assert len(found.windows) == 3
    for number, window in enumerate(found.windows):
        np.testing.assert_array_equal(window.real[:, 0, 0, 0], greys(number)[1:7])
        np.testing.assert_array_equal(window.drawn[:, 0, 0, 0], greys(number)[1:7] + np.arange(6))
        assert window.real.shape == (6, *CAMERA.shape)


def test_a_frame_that_was_not_seen_counts_for_nothing(tmp_path: object) -> None:
    """Step 1 is missing, so that persistence is step 0 in the first window; step 6 is missing at its end."""
    store = log(f"{tmp_path}/store", lambda number: [step not in (1, 6) for step in range(10)])
    (found,) = decoded_frames(
        store, engine(Painter()), range(4), context=CONTEXT, horizon=HORIZON, per_episode=1, seed=0
    )
    assert found.windows == ()
    assert found.decoder.value[:4] == (0.0,) * 4
    assert np.isnan([curve.value[4] for curve in (found.imagined, found.persistence, found.decoder)]).all()
    changes = [greys(number)[2] - greys(number)[0] for number in range(4)]
    assert found.persistence.value[0] == pytest.approx(np.sqrt(np.mean(np.square(changes))))


def test_nothing_to_draw(store: Store) -> None:
    assert decoded(store, engine(None)) == ()
    assert decoded(store, engine(Painter()), horizon=0) == ()
    assert decoded(store, engine(Painter()), horizon=9) == ()
    assert decoded(store, engine(Painter()), episodes=(0,)) == ()


@pytest.mark.parametrize(
    ("horizon", "steps"), [(1, (1,)), (3, (1, 2, 3)), (20, (4, 8, 12, 16, 20)), (24, (5, 10, 14, 19, 24))]
)
def test_moments_are_spread_and_end_with_the_horizon(horizon: int, steps: tuple[int, ...]) -> None:
    assert moments(horizon) == steps
