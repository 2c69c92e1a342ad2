"""What the results of a world share: a short repr, a plot, a table and plain values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.engines.baselines import Persistence
from worldline.episode import Episode, History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.costs import AtMost
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.world.base import Forecast, Plan, PlanStatus, Prediction
from worldline.world.local import LocalWorld
from worldline.world.result import Result

GOAL = Goal(targets={"position": np.array([0.5, 0.0], np.float32)})
PUSH = {"push": np.full((3, 2), 0.5, np.float32)}
POWER = Signal(name="power", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="kW", low=(0.0,), high=(2.0,))
ROOM = Schema(
    signals=(
        Signal(name="temperature", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC"),
        Signal(name="tank", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m", components=("in", "out")),
        Signal(
            name="mode", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2, components=("off", "on")
        ),
        POWER,
    ),
    step_s=600.0,
)


def prediction(num_steps: int = 3, **changes: Any) -> Prediction:
    """20 degrees, and one more with each step; a band of half a degree at the first two steps."""
    mean = 20.0 + np.arange(num_steps, dtype=np.float32)[:, None]
    half = np.where(np.arange(num_steps) < 2, 0.5, np.inf)[:, None]
    warm = Forecast(mean=mean, low=mean - half, high=mean + half, horizon=2)
    tank = Forecast(mean=np.tile(np.array([1.0, 2.0]), (num_steps, 1)), low=None, high=None, horizon=0)
    mode = Forecast(mean=np.arange(num_steps) % 2, low=None, high=None, horizon=0)
    signals = {"temperature": warm, "tank": tank, "mode": mode}
    return Prediction(
        **{"signals": signals, "level": 0.9, "trust": 0.25, "calibrated": True, "schema": ROOM, **changes}
    )


def plan(num_pending: int = 1) -> Plan:
    actions = {"power": np.array([[1.0], [2.0]], np.float32)}
    return Plan(
        actions=actions, status=PlanStatus.SEARCHED, cost=1.5, violation=np.zeros(0), trust=0.25, reason="",
        elapsed_s=0.1, prediction=prediction(2 + num_pending), schema=ROOM,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(world: LocalWorld, fresh: list[Episode]) -> dict[str, Result]:
    """One result of each verb."""
    past = fresh[0].history(4)
    candidates = {"push": np.stack([PUSH["push"], 0 * PUSH["push"]])}
    return {
        "predict": world.predict(past, PUSH, num_samples=4),
        "score": world.score(past, candidates, GOAL, [AtMost(signal="position", bound=0.0)]),
        "plan": world.plan(past, GOAL, horizon=3),
        "what_if": world.what_if(fresh[0], 4, PUSH),
        "surprise": world.surprise(fresh[0]),
    }


VERBS = ["predict", "score", "plan", "what_if", "surprise"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_result_is_short_as_text_and_plain_as_json(results: dict[str, Result], verb: str) -> None:
    text = repr(results[verb])
    assert text.startswith(f"{type(results[verb]).__name__}: ")
    assert len(text.splitlines()) <= 5
    assert "array" not in text
    plain = results[verb].to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["units"] == {"position": "m", "push": "m"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_result_has_a_plot(results: dict[str, Result], verb: str) -> None:
    png = results[verb].plot()._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 5000


@pytest.mark.parametrize("verb", VERBS)
def test_every_result_has_a_table(results: dict[str, Result], verb: str) -> None:
    frame = results[verb].to_pandas()
    assert len(frame) >= 2
    assert frame.attrs["units"].keys() == set(frame.columns)


def test_a_prediction_as_text() -> None:
    lines = repr(prediction()).replace("\u00a0", " ").splitlines()
    assert lines == [
        "Prediction: 3 steps, 90 % bands, trust 0.25",
        "  temperature: 20 to 22 °C ± 0.500 (at step 2, without a band later)",
        "  tank: (1, 2) to (1, 2) m",
        "  mode: 0 to 0",
    ]


def test_a_table_has_the_rows_of_a_log() -> None:
    frame = plan().to_pandas()
    assert frame.index.tolist() == [1, 2, 3]  # the pending action of row 0 is not part of the plan
    assert (frame.index.name, frame["power"].tolist()[:2]) == ("step", [1.0, 2.0])
    assert np.isnan(frame["power"].iloc[2])
    assert frame["temperature"].tolist() == [20.0, 21.0, 22.0]
    assert frame["temperature.high"].tolist() == [20.5, 21.5, np.inf]
    assert frame["tank.out"].tolist() == [2.0] * 3
    units = {"power": "kW", "temperature": "degC", "temperature.high": "degC", "tank.in": "m", "mode": "1"}
    assert ({name: frame.attrs["units"][name] for name in units}, frame.attrs["step_s"]) == (units, 600.0)


def test_a_batch_has_a_row_per_world_and_step(world: LocalWorld, fresh: list[Episode]) -> None:
    past = History.stack([episode.history(4) for episode in fresh[:2]])
    found = world.predict(past, {"push": np.stack([PUSH["push"]] * 2)})
    assert repr(found).replace("\u00a0", " ").startswith("Prediction of 2 worlds; the first: 3 steps, 90 % bands")
    assert found.plot(world=1)._repr_png_() != found.plot(world=0)._repr_png_()
    with pytest.raises(InputError, match="there is no world 2"):
        found.plot(world=2)
    frame = found.to_pandas()
    assert frame.index.names == ["world", "step"]
    position = found.signals["position"].mean
    assert frame["position.1"].loc[1].tolist() == pytest.approx(position[1, :, 1].tolist())


def test_numbers_that_json_lacks_are_none() -> None:
    found = prediction(trust=float("nan")).to_dict()
    assert (found["trust"], found["signals"]["temperature"]["high"]) == (None, [[20.5], [21.5], [None]])
    assert plan().to_dict()["prediction"]["level"] == 0.9


def test_a_refused_plan_has_no_plot(world: LocalWorld) -> None:
    far = History(observations={"position": np.full((1, 2), 99.0)})
    refused = world.plan(far, GOAL, horizon=3, min_trust=0.5)
    assert "refused (the history is out of distribution" in repr(refused)
    with pytest.raises(UnsupportedError, match="there is nothing to plot: 0"):
        refused.plot()


def test_images_are_frames_of_the_plot() -> None:
    toy = Integrator(noise=0.1)
    world = LocalWorld(Persistence.fit(toy.episodes(3, 20, seed=0), toy.schema), None, CrossEntropy())
    episode = toy.episodes(1, 12, seed=5)[0]
    wind = {"wind": np.zeros((3, 2))}
    with_images = world.predict(episode.history(3), PUSH, exogenous=wind, images=True).plot()
    without = world.predict(episode.history(3), PUSH, exogenous=wind).plot()
    assert with_images.get_figheight() > without.get_figheight()
    assert len(with_images.axes) == len(without.axes) + 1


@pytest.mark.parametrize("name", ["world", "history", "episode"])
def test_other_objects_are_short_as_text(world: LocalWorld, fresh: list[Episode], name: str) -> None:
    shown = {"world": world, "history": fresh[0].history(3), "episode": fresh[0]}[name]
    expected = {
        "world": "LocalWorld(linear: push -> position; engine linear, bands up to 8 steps, highest level 99 %)",
        "history": "History(observations: position [4, 2]; actions: push [3, 2])",
        "episode": "Episode(12 steps, truncated; observations: position [13, 2]; actions: push [12, 2])",
    }
    assert repr(shown).replace("\u00a0", " ") == expected[name]


def test_notebooks_show_text_plot_and_tables(world: LocalWorld, tmp_path: Path) -> None:
    shown = prediction()._repr_html_()
    assert "<pre>Prediction" in shown
    assert 'src="data:image/png;base64,' in shown
    assert "<img" not in prediction(signals={}, schema=None)._repr_html_()  # nothing to plot
    assert "<td>predicts</td><td>position</td>" in world._repr_html_()
    signal = replace(ROOM["temperature"], name="a<b")
    store = stored(tmp_path / "logs", replace(ROOM, signals=(signal, POWER)), [])
    assert "<td>a&lt;b</td><td>observation</td>" in store._repr_html_()
    assert "0\xa0episodes, 0\xa0steps" in store._repr_html_()
