from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.world.hidden_causes import fit_causes

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


def test_episodes_that_do_not_differ_have_no_cause() -> None:
    missed = [fit_causes(episodes(seed, 40, np.zeros((1, 5, 3)), noise=1.0)[0]) for seed in range(12)]
    assert sum(found is None for found in missed) >= 11
