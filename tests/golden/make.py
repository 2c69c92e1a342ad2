"""Writes golden fixtures: `python -m tests.golden.make [NAME ...]`, from the root of the repository.

Fixtures hold what the toolkit answered when they were written. Renew one only if an answer changes on purpose, and
state the difference in the commit. Without names all are written; a name is a bundle, "store" or "exam".

`python -m tests.golden.make --question QUESTION NAME ...` keeps the bundles and their inputs, and stores new answers to
one question.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.data.stores import stored
from tests.golden.answers import (
    BUNDLES,
    CASES,
    EXAM,
    STORE,
    STORE_EXPECTED,
    VERDICTS,
    ask,
    float32,
    grades,
    pack,
    read_answers,
    store_content,
    write_answers,
)

from worldline.config import replace_at
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.models.layers.predictors import TransformerPredictorConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.families import with_family
from worldline.recipes.memory import memory
from worldline.recipes.pixels import film, pixels, pixels_and_vectors
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.workflows.learn_result import run_manifest
from worldline.workflows.training import learn_world
from worldline.world.bundle_io import open_world, save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline_exam.options import ExamOptions
from worldline_exam.run import exam, regrade
from worldline_exam.subjects import TrivialSubject

NUM_STEPS, AT, HORIZON = 20, 11, 4


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One bundle.

    Args:
        recipe: that it starts from.
        family: of models.
        camera: whether the logs hold pictures.
        wind: whether they hold an exogenous signal. There are then no goals.
        model: changes of the model's configuration.
        heads: changes of the heads' configuration.
        training: changes of the training's configuration.
    """

    recipe: Callable[[Store], Recipe]
    family: str
    camera: bool = False
    wind: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


JEPA: Mapping[str, Any] = {"latent_size": 8, "encoder.width": 16, "predictor.width": 16, "regularizer.num_slices": 8}
SMALL_IMAGES: Mapping[str, Any] = {"encoder.channels": 8}
HEADS: Mapping[str, Any] = {"width": 16, "unroll": 2, "batch_size": 32, "learning_rate": 1e-2}
SPECS: Mapping[str, Spec] = {
    "jepa": Spec(recipe=vectors, family="jepa", model=JEPA, heads={"goals": True}),
    "jepa-memory": Spec(recipe=memory, family="jepa", wind=True, model={**JEPA, "predictor.history": 3}),
    "jepa-pixels": Spec(
        recipe=pixels,
        family="jepa",
        camera=True,
        model={**JEPA, **SMALL_IMAGES, "constant_size": 2},
        heads={"decoder_updates": 4},
        training={"num_updates": 60},
    ),
    "jepa-both": Spec(
        recipe=pixels_and_vectors,
        family="jepa",
        camera=True,
        model={**JEPA, **SMALL_IMAGES, "constant_size": 2},
    ),
    "jepa-gru": Spec(
        recipe=film,
        family="jepa",
        camera=True,
        wind=True,
        model={**JEPA, **SMALL_IMAGES, "predictor.context": 3, "predictor.memory_size": 8},
    ),
    "jepa-transformer": Spec(
        recipe=vectors,
        family="jepa",
        wind=True,
        model={**JEPA, "predictor": TransformerPredictorConfig(width=16, depth=1, num_heads=2)},
        training={"window": 7},
    ),
    "ensemble": Spec(recipe=vectors, family="ensemble", wind=True, model={"num_members": 2, "width": 16}),
    "recurrent": Spec(
        recipe=vectors, family="recurrent", wind=True, model={"num_members": 2, "history": 3, "width": 16, "context": 4}
    ),
    "linear-model": Spec(
        recipe=vectors, family="linear", wind=True, training={"num_updates": 0}, heads={"goals": False}
    ),
    "token": Spec(
        recipe=vectors,
        family="token",
        heads={"goals": True},
        model={"num_bins": 24, "width": 16, "depth": 1, "num_heads": 2, "context_steps": 4, "num_samples": 2},
    ),
    "rssm": Spec(
        recipe=pixels,
        family="rssm",
        camera=True,
        model={
            "hidden_size": 16, "num_groups": 4, "num_classes": 4, "width": 16, "channels": 4, "image_width": 16,
            "context": 4, "continuation": True, "num_samples": 2,
        },
    ),
    "features": Spec(
        recipe=pixels,
        family="features",
        camera=True,
        model={
            "encoder": "dinov2", "width": 16, "num_heads": 2, "depth": 1, "grid": 2, "components": 6, "image_side": 32,
        },
    ),
    "lewm": Spec(
        recipe=pixels,
        family="lewm",
        camera=True,
        model={
            "latent_size": 16, "depth": 1, "num_heads": 2, "projector_width": 16, "predictor_depth": 1,
            "predictor_heads": 2, "head_size": 8, "predictor_width": 16, "num_slices": 8,
        },
        training={"learning_rate": 2e-3, "num_updates": 200, "batch_size": 32},
    ),
}  # fmt: skip


def logs(spec: Spec, num_episodes: int, *, seed: int) -> tuple[Schema, list[Episode]]:
    """Episodes of the toy with a reward, and a terminal state at the end of every third."""
    toy = Integrator(noise=0.1, wind=spec.wind, camera=spec.camera)
    reward = Signal(name="closeness", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,), unit="m")
    signals = (*(_coloured(signal) for signal in toy.schema.signals), reward)
    schema = replace(toy.schema, signals=signals)
    made = []
    for number, episode in enumerate(toy.episodes(num_episodes, NUM_STEPS, seed=seed)):
        closeness = -np.linalg.norm(episode.observations["position"][1:], axis=-1, keepdims=True)
        observations = dict(episode.observations)
        if "camera" in observations:
            observations["camera"] = observations["camera"].repeat(4, 1).repeat(4, 2).repeat(3, 3)
        done = number % 3 == 0
        made.append(
            replace(
                episode, observations=observations, rewards={"closeness": closeness.astype(np.float32)},
                terminated=done, truncated=not done,
            )
        )  # fmt: skip
    return schema, made


def _coloured(signal: Signal) -> Signal:
    """A camera of 32 by 32 pixels and three colours."""
    return replace(signal, shape=(32, 32, 3)) if signal.kind is Kind.IMAGE else signal


def small(spec: Spec, weights: Path | None) -> Callable[[Store], Recipe]:
    """The recipe at a size that trains in seconds."""

    def make(store: Store) -> Recipe:
        whole = with_family(spec.recipe(store), store, spec.family, weights=weights)
        updates = {name: min(30, count) for name, count in vars(whole.heads).items() if name.endswith("_updates")}
        updates["decoder_updates"] = 0  # a decoder takes 450 kB
        training = {"num_updates": 30, "num_checks": 2, "batch_size": 16, "num_validation": 16, **spec.training}
        window = {"window": min(7, whole.training.window)}
        return replace(
            whole,
            model_config=replace_at(whole.model_config, spec.model),
            training=replace(
                whole.training, **{**window, **training}, min_rank=1.0, min_deviation=0.0, precision="float32"
            ),
            heads=replace(whole.heads, **{**updates, **HEADS, **spec.heads}),
            horizon=HORIZON + 1,
            num_windows=2,
            planner=CrossEntropy(num_candidates=16, num_iterations=3),
            num_proposals=1,
            split=_split,
        )

    return make


def _split(store: Store) -> Split:
    """More episodes for calibration than usual, so that few episodes support a level of 0.8 and small p-values."""
    ends = (0, 34, 38, 54, len(store))
    train, validation, calibration, held_out = (tuple(range(*pair)) for pair in pairwise(ends))
    return Split(train=train, validation=validation, calibration=calibration, held_out=held_out, rule="in order")


def write_bundle(name: str) -> None:
    """Learns a small world and saves it."""
    spec = SPECS[name]
    with tempfile.TemporaryDirectory() as folder:
        place, weights = Path(folder), None
        if spec.family == "features":
            weights = place / "encoder"
            _encoder().save_pretrained(weights)
        schema, episodes = logs(spec, 60, seed=0)
        store = stored(place / "logs", schema, episodes)
        learned = learn_world(store, small(spec, weights)(store), folder=place / "partial")
        run = run_manifest(store, learned, times_s={}, findings=(), unclear=())
        shutil.rmtree(BUNDLES / name, ignore_errors=True)
        # What a call costs is measured on this machine, and is no part of an answer.
        save_world(BUNDLES / name, replace(learned.world, call=None), run=run)
    write_case(name, spec)


def write_linear() -> None:
    """A bundle without a model: a stored engine."""
    spec = SPECS["ensemble"]
    schema, episodes = logs(spec, 60, seed=0)
    engine = Linear.fit(episodes[:34], schema)
    calibration = calibrate(engine, episodes[38:54], horizon=HORIZON + 1, num_windows=2, seed=0)
    planner = CrossEntropy(num_candidates=16, num_iterations=3)
    save_world(BUNDLES / "linear", LocalWorld(engine, calibration, planner))
    write_case("linear", spec)


def write_case(name: str, spec: Spec) -> None:
    """Asks the world of a bundle, and keeps questions and answers."""
    world = open_world(BUNDLES / name)
    _, (episode,) = logs(spec, 1, seed=7)
    rng = np.random.default_rng(3)
    others = {"push": rng.uniform(-1, 1, (HORIZON, 2)).astype(np.float32)}
    candidates = {"push": rng.uniform(-1, 1, (5, HORIZON, 2)).astype(np.float32)}
    _, (goal,) = logs(spec, 1, seed=9)
    inputs = pack(
        episode, at=AT, length=world.describe().context + 2, horizon=HORIZON, others=others, candidates=candidates,
        targets={signal.name: goal.observations[signal.name][5] for signal in world.describe().schema.observations},
    )  # fmt: skip
    CASES.mkdir(exist_ok=True)
    np.savez_compressed(CASES / f"{name}.inputs.npz", allow_pickle=False, **inputs)
    write_answers(CASES / f"{name}.answers.npz", ask(world, inputs))


def _encoder() -> Any:
    """A random encoder whose features differ between images."""
    from tests.models.encoder_folders import dinov2

    torch.manual_seed(0)
    network = dinov2()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def write_store() -> None:
    """Episodes of different lengths with pictures, vectors of both precisions, choices, gaps and uneven steps."""
    observation, action = Role.OBSERVATION, Role.ACTION
    schema = Schema(
        signals=(
            Signal(name="front.camera", role=observation, kind=Kind.IMAGE, shape=(16, 16, 3), entity="robot"),
            Signal(name="depth", role=observation, kind=Kind.IMAGE, shape=(16, 16, 1)),
            Signal(
                name="pose", role=observation, kind=Kind.VECTOR, shape=(2,), unit="m", components=("x", "y"),
                low=(-4.0, -4.0), high=(4.0, 4.0), entity="robot",
            ),
            Signal(name="heading", role=observation, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0),
            Signal(name="clock", role=observation, kind=Kind.VECTOR, shape=(1,), unit="s", precision="float64"),
            Signal(
                name="gear", role=observation, kind=Kind.DISCRETE, shape=(), num_values=3,
                components=("low", "middle", "high"),
            ),
            Signal(name="push", role=action, kind=Kind.VECTOR, shape=(2,), unit="N", low=(-1.0, -1.0), high=(1.0, 1.0)),
            Signal(name="button", role=action, kind=Kind.DISCRETE, shape=(), num_values=2),
            Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,), unit="m/s"),
            Signal(name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,)),
        ),
        step_s=0.1,
    )  # fmt: skip
    shutil.rmtree(STORE, ignore_errors=True)
    store = Store.create(STORE, schema, max_error={"front.camera": 2}, notes={"origin": "drawn at random"})
    rng = np.random.default_rng(5)
    for number, num_steps in enumerate((6, 9, 1, 7)):
        store.append(_drawn(schema, num_steps, number, rng), {"file": f"log-{number}.csv", "day": number})
    _write_json(STORE_EXPECTED, store_content(store))


def _drawn(schema: Schema, num_steps: int, number: int, rng: np.random.Generator) -> Episode:
    """One episode; those of odd number have gaps, the last one has steps of different length."""
    parts: dict[Role, dict[str, Any]] = {role: {} for role in Role}
    for signal in schema.signals:
        count = num_steps + (signal.role is Role.OBSERVATION)
        if signal.kind is Kind.DISCRETE:
            values = rng.integers(signal.num_values or 0, size=count)
        elif signal.kind is Kind.IMAGE:
            values = np.full((count, *signal.shape), 40) + rng.integers(9, size=(count, *signal.shape))
            values[:, 4:9, number : number + 5] += 100
        else:
            values = rng.uniform(-1, 1, (count, *signal.shape))
        parts[signal.role][signal.name] = values.astype(signal.dtype)
    seen = {name: rng.random(num_steps + 1) < 0.7 for name in ("front.camera", "pose", "gear")}
    return Episode(
        observations=parts[Role.OBSERVATION],
        actions=parts[Role.ACTION],
        exogenous=parts[Role.EXOGENOUS],
        rewards=parts[Role.REWARD],
        observed=seen if number % 2 else {},
        terminated=number == 1,
        truncated=number != 1,
        seed=number if number == 2 else None,
        step_s=rng.uniform(0.05, 0.2, num_steps).astype(np.float32) if number == 3 else None,
    )


def write_exam() -> None:
    """An exam of the linear model, without its logs and worlds: regrading needs the answers only."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "exam"
        options = ExamOptions(tests=("C2", "C5"), seed=1, sizes={"num_scenes": 60})
        exam(TrivialSubject(name="linear"), place, options, command="worldline exam linear")
        shutil.rmtree(EXAM, ignore_errors=True)
        ignored = shutil.ignore_patterns("logs", "worlds", "report.html")
        shutil.copytree(place, EXAM, ignore=ignored)
    _write_json(VERDICTS, grades(regrade(EXAM)))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def renew(question: str, name: str) -> None:
    """Stores the present answer of a bundle to one question; the other answers stay."""
    path = CASES / f"{name}.answers.npz"
    with np.load(CASES / f"{name}.inputs.npz", allow_pickle=False) as inputs:
        answers = ask(open_world(BUNDLES / name), dict(inputs))
    write_answers(path, {**read_answers(path), question: answers[question]})


def main(asked: list[str]) -> None:
    """Writes the fixtures of these names; all for none."""
    torch.set_num_threads(1)
    with float32():
        if asked[:1] == ["--question"]:
            for name in asked[2:]:
                renew(asked[1], name)
            return
        for name in asked or [*SPECS, "linear", "store", "exam"]:
            print(name, flush=True)
            if name in SPECS:
                write_bundle(name)
            else:
                {"linear": write_linear, "store": write_store, "exam": write_exam}[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
