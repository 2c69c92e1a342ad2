from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.testing.exact_world import HORIZON, Drawing, Exact, residual_paths
from tests.testing.planted import altered, catches, instead, passes, with_card, world_case

from worldline.errors import InputError, UnsupportedError

CLAUSES = ["any_horizon", "bands_as_stated", "level_available", "samples_calibrated", "images_drawn", "one_observation"]


class Uncalibrated(Exact):
    calibrated = False


class FewEpisodes(Exact):
    """Bands up to the level 0.875 only."""

    default_level = 0.875
    says = "The highest available level is 0.875."
    error = UnsupportedError

    def check_level(self, level):
        if 0.875 < level < 1:
            raise self.error(f"level {level} is not calibrated. {self.says}")
        super().check_level(level)


test_a_correct_world_passes = passes([Exact, Drawing, Uncalibrated], CLAUSES, world_case)
test_few_episodes_pass = passes([FewEpisodes], ["level_available"], world_case)


class ShortOnly(Exact):
    def check(self, history, actions, exogenous, *, plans):
        if actions["push"].shape[-2] > 6:
            raise InputError("bands are calibrated up to 6 steps. Predict fewer.")
        super().check(history, actions, exogenous, plans=plans)


class NanAfterTheHorizon(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, np.where(np.isinf(half), np.nan, half), horizon)


class FiniteAgain(Exact):
    def forecast(self, mean, half, horizon):
        half = np.array(half)
        half[:, 12:] = 1.0
        return super().forecast(mean, half, horizon)


class OtherBandByDefault(Exact):
    def predict(self, *args, level=None, **rest):
        found = super().predict(*args, level=level, **rest)
        return replace(found, level=0.5) if level is None else found


InventsSamples = instead(Uncalibrated, check_options=lambda *_, **__: None)


class RefusesSamples(Exact):
    def check_options(self, num_samples, images):
        if num_samples:
            raise UnsupportedError("sampled paths need a calibration. Calibrate.")
        super().check_options(num_samples, images)


class FloatImages(Exact):
    def predict(self, *args, images=False, **rest):
        found = super().predict(*args, **rest)
        camera = self.schema["camera"]
        frames = {"camera": np.zeros((len(found.signals["position"].mean), *camera.shape))}
        return replace(found, images=frames) if images else found


class NeedsEmptyArrays(Exact):
    def check_present(self, history):
        super().check_present(history)
        if "push" not in history.actions:
            raise InputError("past action 'push' is missing. Add it.")


def independent(num_samples: int) -> np.ndarray:
    """Paths with the right spread at each step, but without memory."""
    paths = residual_paths(num_samples)
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(paths[:, step]) for step in range(paths.shape[1])], 1)


WORLD_FAULTS = [
    (ShortOnly, "any_horizon", "expected an answer, got InputError"),
    (NanAfterTheHorizon, "any_horizon", "neither finite nor -inf and inf"),
    (FiniteAgain, "any_horizon", "finite after infinite steps"),
    (altered(FewEpisodes, "Blames", error=InputError), "level_available", "expected UnsupportedError, got InputError"),
    (with_card(Exact, band_horizon=HORIZON + 1), "bands_as_stated", "bands of 7 steps .* is infinite at step 7"),
    (with_card(Exact, band_horizon=HORIZON - 1), "bands_as_stated", "bands of 5 steps .* is finite at step 6"),
    (with_card(Exact, band_level=0.99999), "bands_as_stated", "raised UnsupportedError: level 0.99999 needs"),
    (with_card(Exact, band_level=0.5), "bands_as_stated", "at level 0.75: expected UnsupportedError, got an answer"),
    (with_card(Exact, band_horizon=0, band_level=0.0), "bands_as_stated", "bands of 0 steps .* predictions have some"),
    (with_card(Uncalibrated, band_horizon=6, band_level=0.9), "bands_as_stated", "predictions have none"),
    (OtherBandByDefault, "level_available", "not that of the stated level 0.5"),
    (altered(Exact, "LevelOne", predict=lambda found: replace(found, level=1.0)), "level_available", "is 1.0"),
    (altered(FewEpisodes, "NamesNoLevel", says="Log more."), "level_available", "names no level that is available"),
    (altered(Exact, "Narrow", draws=lambda draws: 0.5 * draws), "samples_calibrated", "of the samples are inside"),
    (altered(Exact, "NoMemory", draws=lambda draws: independent(len(draws))), "samples_calibrated", "are inside"),
    (InventsSamples, "samples_calibrated", "returned, but predictions are not calibrated"),
    (RefusesSamples, "samples_calibrated", "refused, but predictions are calibrated"),
    (FloatImages, "images_drawn", "dtype float64, expected uint8"),
    (NeedsEmptyArrays, "one_observation", "expected an answer, got InputError"),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
