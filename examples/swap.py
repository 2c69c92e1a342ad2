"""One application over a linear world, an ensemble, a forecaster and others: `python examples/swap.py --plot swap.png`.

The application forecasts the water of the same 40 episodes with each world, and nothing in it depends on the model.
Options add a Chronos-2 model and a language model, which needs some thousand requests for its calibration.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from heated_tank import log
from matplotlib.figure import Figure

import worldline
from worldline.engines import Chat, Endpoint, LanguageEngine
from worldline.planning import Shooting
from worldline.world import LocalWorld, calibrate, save_world

STEP_H, STEPS, PAST, SIGNAL = 1 / 6, 24, 60, "water_temperature"
ROLES = {"heater": {"role": "action"}, "outdoor_temperature": {"role": "exogenous"}}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the application got from a world.

    Args:
        error: [T], root mean square error per step, degC.
        inside: share of the measured courses that lie in their bands; None without bands.
        trust: median p-value of the histories.
        call_s: seconds of one forecast.
        course: of the first case: mean, lower and upper end [T], degC.
    """

    error: Array
    inside: float | None
    trust: float
    call_s: float
    course: tuple[Array, Array | None, Array | None]


def application(world: worldline.World, episodes: Sequence[worldline.Episode]) -> Answers:
    """Forecasts the water at the end of each episode. It knows signals and units, and no model."""
    errors, inside, trusts, seconds, courses = list[Array](), list[bool](), list[float](), list[float](), list[Any]()
    for episode in episodes:
        actions, weather = (
            {name: table[-STEPS:] for name, table in group.items()} for group in (episode.actions, episode.exogenous)
        )
        started = time.perf_counter()
        prediction = world.predict(episode.history(at=PAST), actions, exogenous=weather)
        seconds.append(time.perf_counter() - started)
        forecast, truth = prediction.signals[SIGNAL], np.asarray(episode.observations[SIGNAL][-STEPS:, 0], float)
        mean = forecast.mean[:, 0]
        low, high = (None if end is None else end[:, 0] for end in (forecast.low, forecast.high))
        errors.append(mean - truth)
        if low is not None and high is not None:
            inside.append(bool(((low <= truth) & (truth <= high)).all()))
        trusts.append(float(prediction.trust))
        courses.append((mean, low, high))
    return Answers(
        error=np.sqrt(np.mean(np.square(errors), 0)),
        inside=float(np.mean(inside)) if inside else None,
        trust=float(np.median(trusts)),
        call_s=float(np.median(seconds)),
        course=courses[0],
    )


def language_world(store: worldline.Store, endpoint: Endpoint, folder: Path) -> None:
    """Saves the world of a language model, calibrated on a few episodes."""
    chat = Chat(endpoint, transcript=str(folder) + ".jsonl")
    about = "Water in a tank with a heater of 0 to 100 %, in a step of ten minutes."
    engine = LanguageEngine(schema=store.schema, chat=chat, context=6, about=about)
    logged = [store.episode(number) for number in range(min(20, len(store)))]
    calibration = calibrate(engine, logged, horizon=STEPS, num_windows=1, seed=0, trust_steps=0, with_causes=False)
    save_world(folder, LocalWorld(engine, calibration, Shooting(num_candidates=8)))


def later_episodes(count: int = 40) -> list[worldline.Episode]:
    """Episodes of the same tank in another winter, which no world has seen."""
    table = log(count * (PAST + STEPS + 1), seed=1).to_numpy(np.float32)
    return [
        worldline.Episode(
            observations={SIGNAL: part[:, 1:2]},
            actions={"heater": part[:-1, 2:3]},
            exogenous={"outdoor_temperature": part[:-1, 3:4]},
        )
        for part in np.split(table, count)
    ]


def compared(folder: Path, options: argparse.Namespace) -> dict[str, Answers]:
    """What the application got, by name of the world."""
    linear = worldline.learn(log(options.steps), folder / "linear", recipe="linear", horizon=STEPS, edits=ROLES)
    store = worldline.open_store(folder / "linear.store")
    makers: dict[str, Callable[[Path], object]] = {
        "linear": lambda _: linear,
        "ensemble": lambda out: worldline.learn(
            store, out, recipe="ensemble", horizon=STEPS, set={"training.num_updates": options.updates}
        ),
        "fracast": lambda out: worldline.adopt("fracast", store, out, horizon=STEPS),
    }
    if options.chronos is not None:
        makers["chronos"] = lambda out: worldline.adopt(options.chronos, store, out, horizon=STEPS)
    if options.endpoint is not None:
        endpoint = Endpoint(base_url=options.endpoint, model=options.model, temperature=0.0)
        makers["language"] = lambda out: language_world(store, endpoint, out)

    answers = dict[str, Answers]()
    for name, make in makers.items():
        make(folder / name)
        answers[name] = application(worldline.open(folder / name), later_episodes())
    return answers


def figure(answers: dict[str, Answers]) -> Figure:
    """Error by hour, and the first forecast of each world."""
    hours = STEP_H * np.arange(1, STEPS + 1)
    picture = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = picture.subplots(1, 2)
    truth = later_episodes()[0].observations[SIGNAL][-STEPS:, 0]
    for number, (name, answer) in enumerate(answers.items()):
        left.plot(hours, answer.error, color=f"C{number}", label=name)
        mean, low, high = answer.course
        right.plot(hours, mean, color=f"C{number}", label=name)
        if low is not None and high is not None:
            right.fill_between(hours, low, high, color=f"C{number}", alpha=0.12)
    left.set(title="Error of the forecasts", xlabel="hours ahead", ylabel="root mean square error, degC", yscale="log")
    right.set(title="One forecast with its 90 % band", xlabel="hours ahead", ylabel="water, degC")
    right.plot(hours, truth, "k.", markersize=3, label="measured")
    for axes in (left, right):
        axes.legend(frameon=False)
    return picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Swaps the worlds, and prints a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="file of the picture")
    parser.add_argument("--steps", type=int, default=6000, help="rows of the log")
    parser.add_argument("--updates", type=int, default=3000, help="of the training of the ensemble")
    parser.add_argument("--endpoint", help="URL of an OpenAI-compatible endpoint")
    parser.add_argument("--model", default="", help="name of its model")
    parser.add_argument("--chronos", type=Path, help="local folder of Chronos-2")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        answers = compared(Path(folder), options)
    print(f"{'world':10} {'error, 1 h':>12} {'error, 4 h':>12} {'inside 90 %':>12} {'trust':>7} {'one call':>10}")
    for name, answer in answers.items():
        inside = "no bands" if answer.inside is None else f"{answer.inside:.0%}"
        errors = (f"{answer.error[step]:.2f} degC" for step in (5, 23))
        row = (*errors, inside, f"{answer.trust:.2f}", f"{1e3 * answer.call_s:.0f} ms")
        print(f"{name:10} {row[0]:>12} {row[1]:>12} {row[2]:>12} {row[3]:>7} {row[4]:>10}")
    if options.plot is not None:
        figure(answers).savefig(options.plot, dpi=150)


if __name__ == "__main__":
    main()
