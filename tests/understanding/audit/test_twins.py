from __future__ import annotations

import numpy as np
import pytest
from tests.understanding.audit.carts import SCHEMA, Cart, CartTwins, carts, world

from worldline.contracts.episode import Arrays, Episode
from worldline.contracts.evaluation import Verdict
from worldline.understanding.audit.twins import branches, pulses, twin_tests

EPISODES = carts(0, 20)


@pytest.mark.parametrize(
    ("engine", "verdicts"),
    [
        (Cart(), [Verdict.PASS, Verdict.PASS, Verdict.PASS]),
        (Cart(gain=0.0), [Verdict.FAIL, None, Verdict.FAIL]),
        (Cart(gain=-1.0), [Verdict.FAIL, Verdict.FAIL, Verdict.FAIL]),
        (Cart(gain=0.5), [Verdict.PARTIAL, None, Verdict.PARTIAL]),
    ],
)
def test_the_law_passes_and_what_is_wrong_does_not(engine: Cart, verdicts: list[Verdict | None]) -> None:
    found = twin_tests(world(engine), CartTwins(), EPISODES, context=3, horizon=6, lags=(1, 2, 5), seed=0)
    assert [one.name for one in found] == ["C1", "T1", "T3"]
    for one, due in zip(found, verdicts, strict=True):
        assert due is None or (one.verdict in (due, Verdict.PASS) if one.name == "T3" and due is Verdict.PARTIAL
                               else one.verdict is due), (one.name, one.verdict)  # fmt: skip


def test_a_step_late_in_the_actions_is_noticed() -> None:
    """The answers of a world that takes each action for the one after it."""

    class Late(CartTwins):
        def run(self, seed: int, actions: Arrays) -> Episode:
            episode = super().run(seed, actions)
            return type(episode)(
                observations=episode.observations,
                actions={k: np.roll(v, 1, axis=0) for k, v in episode.actions.items()},
            )

    found = twin_tests(world(Cart()), Late(), EPISODES, context=3, horizon=6, lags=(1, 2, 5), seed=0)
    assert found[0].verdict is not Verdict.PASS
    assert found[2].verdict is not Verdict.PASS


def test_twins_share_everything_up_to_the_branch() -> None:
    found = branches(CartTwins(), SCHEMA, EPISODES, context=3, horizon=6, seed=0)
    assert found.truth["place"].shape == (40, 4, 6, 1)
    gaps = np.diff(found.truth["place"][:, :, 0, 0].astype(float), axis=1)
    pushes = np.diff(found.actions["push"][:, :, 0, 0].astype(float), axis=1)
    np.testing.assert_allclose(gaps, pushes, atol=1e-5)  # the noise of the first step is the same
    pulsed = pulses(CartTwins(), SCHEMA, EPISODES, context=3, horizon=6, seed=0)
    changed = pulsed.actions["push"][:, 1] != pulsed.actions["push"][:, 0]
    assert changed[:, 0].all()
    assert not changed[:, 1:].any()
