"""Two worlds compared on carts whose law is known."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic_core import to_json
from tests.audit.carts import HORIZON, Cart, carts, world, write
from tests.data.stores import stored
from tests.workflows.test_held_out import bundle, learned_from

from worldline.audit.baselines import as_world
from worldline.audit.world_comparison import WorldComparison
from worldline.data.store import Store, open_store
from worldline.engines.base import EngineBelief, Samples
from worldline.engines.baselines import Persistence
from worldline.episode import Future
from worldline.errors import BundleError, DataError, InputError, UnreadableError, UnsupportedError
from worldline.schema import Schema
from worldline.testing.toys import Integrator
from worldline.workflows.compare_worlds import WorldSource, compare_worlds

SPLIT = {"split": {"train": list(range(6)), "calibration": [6], "held_out": [7, 8, 9]}}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(write(tmp_path_factory.mktemp("carts") / "logs"))


def verdict(compared: WorldComparison) -> str:
    return compared.signals[0].verdict


def test_the_law_is_better_than_a_wrong_gain_at_every_step(logs: Store) -> None:
    compared = compare_worlds(world(Cart()), world(Cart(gain=0.5), narrow=0.5), logs)
    (place,) = compared.signals
    assert (place.signal, place.unit, place.verdict, compared.horizon) == ("place", "m", "better", HORIZON)
    assert [each.step for each in place.errors] == [None, 1, HORIZON]
    for each in place.errors:
        assert each.errors[0] / each.errors[1] == pytest.approx(each.ratio.value)
        assert each.ratio.high < 1
        assert each.skills[0] > each.skills[1]
    assert place.bands[0].coverage.value > 0.8 > place.bands[1].coverage.value
    assert all(0 < each.trust <= 1 and each.latency_s > 0 and each.held_out for each in compared.worlds)
    assert json.loads(to_json(compared)) == json.loads(json.dumps(asdict(compared)))


def test_the_other_order_has_the_inverse_ratio_and_the_other_verdict(logs: Store) -> None:
    first, second = as_world(Cart()), as_world(Cart(gain=0.5))
    there, back = (compare_worlds(*pair, logs, seed=3) for pair in ((first, second), (second, first)))
    assert (verdict(there), verdict(back)) == ("better", "worse")
    ratios = [each.signals[0].errors[0].ratio for each in (there, back)]
    assert ratios[0].low == pytest.approx(1 / ratios[1].high)


def test_nearly_equal_worlds_are_not_distinguishable(logs: Store) -> None:
    assert verdict(compare_worlds(as_world(Cart()), as_world(Cart(gain=0.98)), logs)) == "not distinguishable"
    exact = compare_worlds(as_world(Cart()), as_world(Cart()), logs).signals[0].errors[0].ratio
    assert (exact.value, exact.low, exact.high) == (1, 1, 1)


def test_a_world_on_its_training_logs_is_not_held_out_unless_its_split_is_known(tmp_path: Path) -> None:
    logs = open_store(write(tmp_path / "logs", count=10))
    learned, other = as_world(learned_from(logs.path)), as_world(Cart(gain=0.5))
    unknown = compare_worlds(learned, other, logs)
    assert [each.held_out for each in unknown.worlds] == [False, True]
    assert unknown.num_episodes == 10
    source = WorldSource(learned, "learned", bundle(tmp_path / "world", SPLIT))
    known = compare_worlds(source, other, logs)
    assert [each.held_out for each in known.worlds] == [True, True]
    assert known.num_episodes == 3


def test_worlds_with_different_signals_get_their_own_ones(tmp_path: Path) -> None:
    toy, calm = Integrator(), Integrator(camera=False, wind=False)
    store = stored(tmp_path / "logs", toy.schema, toy.episodes(6, 12, seed=0))
    seeing = as_world(Persistence.fit(toy.episodes(2, 5, seed=1), toy.schema))
    compared = compare_worlds(seeing, as_world(Persistence.fit(calm.episodes(2, 5, seed=1), calm.schema)), store)
    assert [each.signal for each in compared.signals] == ["position"]
    assert compared.signals[0].errors[0].ratio.value == 1
    assert [each.only for each in compared.worlds] == [("camera",), ()]
    assert compared.signals[0].bands == (None, None)
    assert compared.worlds[0].trust is None


class Refusing(Cart):
    """Returns NaN for histories that end at a negative place."""

    def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
        samples = super().imagine(belief, future, **options)
        samples.signals["place"][belief < 0] = np.nan
        return samples


def test_windows_that_a_world_refuses_are_counted_and_left_out_for_both(logs: Store) -> None:
    compared = compare_worlds(as_world(Refusing()), as_world(Cart()), logs)
    assert 0 < compared.worlds[0].num_refused < compared.num_windows
    assert compared.worlds[1].num_refused == 0
    assert compared.signals[0].errors[0].ratio.value == 1
    with pytest.raises(UnsupportedError, match="no window has finite predictions"):
        compare_worlds(as_world(Cart()), as_world(Cart(decay=float("nan"))), logs)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"b": "nowhere", "a": "nowhere"}, InputError, "both worlds are nowhere"),
        ({"b": "nowhere"}, BundleError, "'nowhere' does not exist"),
        ({"horizon": 0}, InputError, "horizon is 0"),
        ({"max_episodes": 1}, InputError, "max_episodes 1"),
        ({"horizon": 40}, DataError, "0 of 45 episodes have the required 40 steps"),
        ({"b": as_world(Persistence.fit(Integrator().episodes(1, 3, seed=0), Integrator().schema))},
         UnsupportedError, "no vector of the logs is predicted by both"),
    ],
)  # fmt: skip
def test_errors(logs: Store, changes: dict[str, object], error: type[Exception], message: str) -> None:
    given = {"a": as_world(Cart()), "b": as_world(Cart(gain=0.5)), "logs": logs, **changes}
    with pytest.raises(error, match=message):
        compare_worlds(**given)


def test_logs_in_another_unit_are_refused(tmp_path: Path) -> None:
    place, push = Cart().describe().schema.signals
    other = stored(tmp_path / "logs", Schema(signals=(replace(place, unit="cm"), push)), carts(0, 3))
    with pytest.raises(UnreadableError, match="in cm in the logs"):
        compare_worlds(as_world(Cart()), as_world(Cart(gain=0.5)), other)
