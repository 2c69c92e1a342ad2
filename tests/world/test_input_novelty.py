from __future__ import annotations

import numpy as np

from worldline.episode import History
from worldline.testing.toys import Integrator, picture
from worldline.world.ood import InputNovelty, features

SCHEMA = Integrator().schema


def presents(num_worlds: int, seed: int, shift: float = 0.0) -> History:
    """Positions whose two components go together."""
    rng = np.random.default_rng(seed)
    position = rng.normal(size=(num_worlds, 1, 1)) + 0.1 * rng.normal(size=(num_worlds, 1, 2)) + [shift, -shift]
    return History(observations={"position": position.astype(np.float32), "camera": picture(position)}, actions={})


def test_it_knows_what_goes_together() -> None:
    measure = InputNovelty.fit(Integrator(camera=False).schema, presents(400, 0))
    home, along, across = (
        measure.measure(
            Integrator(camera=False).schema, History(observations={"position": np.array([[p]])}, actions={})
        )
        for p in ([0.0, 0.0], [1.0, 1.0], [1.0, -1.0])
    )
    assert home < along < 0.5 * across


def test_pictures_count() -> None:
    measure = InputNovelty.fit(SCHEMA, presents(400, 0))
    usual = presents(50, 1)
    dark = History(observations={**usual.observations, "camera": 255 - usual.observations["camera"]}, actions={})
    assert measure.measure(SCHEMA, dark).min() > measure.measure(SCHEMA, usual).max()


def test_what_is_missing_counts_as_typical() -> None:
    measure = InputNovelty.fit(SCHEMA, presents(400, 0))
    far = presents(5, 1, shift=50.0)
    blind = {name: np.zeros((5, 1), bool) for name in far.observations}
    unseen = History(observations=far.observations, actions={}, observed=blind)
    assert (measure.measure(SCHEMA, unseen) == 0).all()
    without = History(observations={"camera": far.observations["camera"]}, actions={})
    assert np.isnan(features(SCHEMA, without)[:, :2]).all()
    assert np.isfinite(measure.measure(SCHEMA, without)).all()
