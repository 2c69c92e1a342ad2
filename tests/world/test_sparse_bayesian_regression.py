from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.world.hidden_causes import MAX_TOGETHER, sparse_bayesian_regression

SEEDS = st.integers(0, 2**31)


def table(seed: int, num_rows: int, num_features: int) -> np.ndarray:
    """A constant, and features of very different size."""
    rng = np.random.default_rng(seed)
    rest = rng.standard_normal((num_rows, num_features - 1)) * 10.0 ** rng.integers(-3, 4, num_features - 1)
    return np.concatenate([np.ones((num_rows, 1)), rest], 1)


@given(SEEDS, st.integers(0, MAX_TOGETHER))
def test_what_is_there_is_found(seed: int, count: int) -> None:
    features = table(seed, 60, 8)
    rng = np.random.default_rng(seed + 1)
    truth = np.zeros((8, 2))
    for target in range(2):
        which = rng.choice(8, count, replace=False)
        truth[which, target] = rng.choice([-2, 2], count) / features[:, which].std(0).clip(1e-3)
        truth[0, target] = np.sign(truth[0, target])  # the constant has no spread
    explained = features @ truth
    found = sparse_bayesian_regression(features, explained + 0.01 * rng.standard_normal((60, 2)))
    np.testing.assert_allclose(features @ found, explained, atol=0.15)


def test_noise_is_hardly_explained() -> None:
    """Averaged over many episodes what is explained of pure noise is far less than a regression would explain."""
    shares, regression = [], []
    for seed in range(100):
        features, noise = table(seed, 40, 7), np.random.default_rng((1, seed)).standard_normal((40, 1))
        shares.append(((features @ sparse_bayesian_regression(features, noise)) ** 2).mean())
        least = np.linalg.lstsq(features, noise, rcond=None)[0]
        regression.append(((features @ least) ** 2).mean())
    assert np.mean(shares) < 0.02
    assert np.mean(regression) > 0.15


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(1e-4, 1e4), st.floats(1e-4, 1e4))
def test_units_do_not_matter(seed: int, unit: float, of_target: float) -> None:
    features, rng = table(seed, 30, 5), np.random.default_rng(seed)
    residuals = features[:, 1:2] / features[:, 1].std() + rng.standard_normal((30, 1))
    units = np.array([1.0, unit, 1.0, 1.0, 1.0])
    first, second = (
        sparse_bayesian_regression(features, residuals),
        sparse_bayesian_regression(features * units, residuals * of_target),
    )
    np.testing.assert_allclose(second * units[:, None], first * of_target, rtol=1e-4, atol=1e-7 * of_target)
