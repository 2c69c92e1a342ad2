"""Settings for every test: as many threads as there are free cores, and repeatable hypothesis runs under CI."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import jaxtyping
import pytest
import torch

if TYPE_CHECKING:
    from worldline.data.store import Store
    from worldline.recipes.recipe import Recipe


def _free_cores() -> int:
    """Cores that nobody else is using just now, at least 1."""
    return max(1, (os.cpu_count() or 1) - round(os.getloadavg()[0]))


# Of several test processes each takes its share: two threads of each on two cores are far slower than one.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, min(torch.get_num_threads(), _free_cores()) // _PROCESSES))
if _PROCESSES > 1:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for what tests start
# Time limits for an example say more about the neighbours on the machine than about the code.
_REPEATABLE = {"derandomize": True, "print_blob": True} if "CI" in os.environ else {}
hypothesis.settings.register_profile("short", deadline=None, max_examples=30, **_REPEATABLE)
hypothesis.settings.register_profile("soak", deadline=None, **_REPEATABLE)
hypothesis.settings.load_profile("short")

_TESTS = Path(__file__).parent / "tests"
_SHAPES_CHECKED = [_TESTS / part for part in ("engines", "models", "planning", "training")]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Checks shapes in the tests of the packages that annotate them; `make soak` checks them in every test.

    A learned world takes twice as long with the checks.
    """
    is_checked = item.config.getoption("--hypothesis-profile") == "soak"
    is_checked |= any(item.path.is_relative_to(folder) for folder in _SHAPES_CHECKED)
    jaxtyping.config.update("jaxtyping_disable", not is_checked)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spares modules and collected tests, which live to the end, from every later garbage collection."""
    del session
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="module")
def brief_recalibration() -> Iterator[None]:
    """Recomputes the statistics of batch norms from few batches: exact ones take longer than a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldline.training.loop.RECALIBRATION_BATCHES", 4)
        yield


@pytest.fixture(scope="module")
def tiny(brief_recalibration: None) -> Callable[[Store], Recipe]:
    """A recipe for Two Rooms that takes seconds, and learns next to nothing."""
    del brief_recalibration  # it acts by itself
    from worldline.config import replace_at
    from worldline.models.jepa import JepaConfig
    from worldline.recipes.two_rooms import two_rooms

    def recipe(store: Store) -> Recipe:
        known = two_rooms(store)
        return replace(
            known,
            model_config=replace_at(
                JepaConfig(inputs=("camera",), latent_size=16),
                {"encoder.channels": 8, "encoder.width": 32, "predictor.width": 32},
            ),
            training=replace(
                known.training, num_updates=12, batch_size=16, num_checks=2, min_deviation=0.0, min_rank=1.0
            ),
            heads=replace(
                known.heads, readout_updates=20, distance_updates=8, inverse_updates=8, decoder_updates=4, width=32
            ),
        )

    return recipe


@pytest.fixture(scope="session")
def learned_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world of the toy without wind and camera, written as `worldline learn` does; it was not trained."""
    from worldline.config import replace_at
    from worldline.engines.learned import LearnedEngine
    from worldline.models.jepa import Jepa, JepaConfig
    from worldline.planning.planners.cem import CrossEntropy
    from worldline.testing.toys import Integrator
    from worldline.training.heads.base import by_name
    from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
    from worldline.training.heads.readout import Readout, ReadoutConfig
    from worldline.world.bundle_io import save_world
    from worldline.world.fit_calibration import calibrate
    from worldline.world.local import LocalWorld

    toy = Integrator(noise=0.1, camera=False, wind=False)
    config = replace_at(JepaConfig(inputs=("position",), latent_size=8), {"encoder.width": 16, "predictor.width": 16})
    engine = LearnedEngine(
        model=Jepa(schema=toy.schema, config=config).eval().requires_grad_(False),
        schema=toy.schema,
        inputs=("position",),
        heads=by_name(
            Readout(ReadoutConfig(latent_size=8, signals=toy.schema.observations, width=16)).eval(),
            MahalanobisScore(MahalanobisConfig(latent_size=8)).eval(),
        ),
    )
    calibration = calibrate(engine, toy.episodes(30, 12, seed=1), horizon=6, num_windows=1, seed=0)
    folder = tmp_path_factory.mktemp("learned") / "world"
    planner = CrossEntropy(num_candidates=8, num_iterations=2)
    save_world(folder, LocalWorld(engine, calibration, planner, num_proposals=0), run={})
    return folder


# A shell starts its background jobs with interrupts ignored; the tests of Ctrl-C need them.
signal.signal(signal.SIGINT, signal.default_int_handler)
