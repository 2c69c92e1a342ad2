from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.world.hidden_causes import MAX_SIZE, MIN_EPISODES, fit_causes

SEEDS = st.integers(0, 2**31)
Table = tuple[np.ndarray, np.ndarray]


def episodes(
    seed: int, count: int, directions: np.ndarray, *, noise: float, rows: int = 30, mean: float = 0.0
) -> tuple[list[Table], np.ndarray]:
    """Tables in which `directions` [R, P, D] come in by sizes [count, R], and the sizes."""
    rng = np.random.default_rng(seed)
    num_causes, size, targets = directions.shape
    sizes = rng.standard_normal((count, num_causes))
    tables = []
    for own in sizes:
        features = np.concatenate([np.ones((rows, 1)), rng.standard_normal((rows, size - 1)) * 5], 1)
        weights = mean + np.tensordot(own, directions, 1)
        tables.append((features, features @ weights + noise * rng.standard_normal((rows, targets))))
    return tables, sizes


def direction(*places: tuple[int, int, float], size: int = 5, targets: int = 3) -> np.ndarray:
    found = np.zeros((size, targets))
    for feature, target, value in places:
        found[feature, target] = value
    return found


FRICTION = direction((1, 0, -0.5), (2, 1, -0.5), (1, 2, 0.1))
WIND = direction((0, 1, 2.0))


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([(FRICTION,), (WIND,), (FRICTION, WIND)]))
def test_the_causes_are_found(seed: int, causes: tuple[np.ndarray, ...]) -> None:
    truth = np.stack(causes)
    tables, _ = episodes(seed, 60, truth, noise=1.0)
    found = fit_causes(tables)
    assert found is not None
    assert len(causes) <= len(found.directions)
    spanned = np.linalg.svd(found.directions.reshape(len(found.directions), -1), full_matrices=False)
    main = spanned.Vh[: len(causes)]
    flat = truth.reshape(len(causes), -1)
    lost = flat - flat @ main.T @ main
    assert np.linalg.norm(lost) < 0.2 * np.linalg.norm(flat)
    np.testing.assert_allclose(np.sqrt(np.diag(found.noise)), 1.0, rtol=0.1)


def test_one_episode_tells_a_cause_better_with_the_others() -> None:
    tables, sizes = episodes(0, 200, FRICTION[None], noise=1.0)
    found = fit_causes(tables[:100])
    assert found is not None
    errors = []
    for (features, residuals), own in zip(tables[100:], sizes[100:], strict=True):
        truth = np.tensordot(own, FRICTION[None], 1)
        weights = found.infer(features, residuals)
        if weights is None:
            continue
        alone = np.linalg.lstsq(features, residuals, rcond=None)[0]
        errors.append([((features @ (w - truth)) ** 2).mean() for w in (weights, alone)])
    together, alone = np.mean(errors, 0)
    assert together < 0.1 * alone


def test_units_do_not_matter() -> None:
    tables, _ = episodes(0, 40, FRICTION[None], noise=1.0)
    units, targets = np.array([1.0, 1e3, 1e-3, 7.0, 1.0]), np.array([1e-2, 1e2, 1.0])
    first = fit_causes(tables)
    second = fit_causes([(features * units, residuals * targets) for features, residuals in tables])
    assert first is not None
    assert second is not None
    weights = first.infer(*tables[0])
    other = second.infer(tables[0][0] * units, tables[0][1] * targets)
    assert weights is not None
    assert other is not None
    np.testing.assert_allclose(other * units[:, None] / targets, weights, rtol=1e-3, atol=1e-5)


def test_what_all_have_in_common_is_no_cause() -> None:
    tables, _ = episodes(0, 60, FRICTION[None], noise=0.5, mean=0.7)
    found = fit_causes(tables)
    assert found is not None
    np.testing.assert_allclose(found.mean, 0.7, atol=0.25)
    nothing = found.infer(np.zeros((0, 5)), np.zeros((0, 3)))
    np.testing.assert_array_equal(nothing, found.mean)


def test_episodes_that_do_not_differ_have_no_cause() -> None:
    missed = [fit_causes(episodes(seed, 40, np.zeros((1, 5, 3)), noise=1.0)[0]) for seed in range(12)]
    assert sum(found is None for found in missed) >= 11


def test_an_episode_unlike_all_is_told() -> None:
    tables, _ = episodes(0, 60, FRICTION[None], noise=0.5)
    found = fit_causes(tables)
    assert found is not None
    features = tables[0][0]
    for size, like in ((0.5 * MAX_SIZE, True), (2 * MAX_SIZE, False)):
        assert (found.infer(features, features @ (size * FRICTION)) is not None) == like


def test_few_episodes_tell_nothing() -> None:
    tables, _ = episodes(0, MIN_EPISODES, FRICTION[None], noise=0.5)
    assert fit_causes(tables[:-1]) is None
    assert fit_causes(tables) is not None
