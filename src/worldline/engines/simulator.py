"""A Gymnasium environment that replays exactly from its seed, as an engine that returns the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Abducts, Card, EngineBelief, Noise, Samples
from worldline.engines.numpy_engine import NumpyEngine
from worldline.engines.validation import check_future, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import ConfigError, UnsupportedError
from worldline.labs.spaces import SpaceLayout
from worldline.schema import Kind, Role, Schema

Environment = gymnasium.Env[Any, Any]

TOLERANCE = 1e-4
"""Allowed difference between replayed and logged values, absolute and relative: machines round differently."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """How an environment is reset.

    Args:
        seed: reset seed, which determines every random draw of the episode.
        options: options for `reset`; None for none.
    """

    seed: int
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """The belief: the start of each of W worlds and the actions since then.

    Args:
        starts: one per world.
        actions: per world and action signal [t, *shape]; t may differ between worlds.
    """

    starts: tuple[Start, ...]
    actions: tuple[Arrays, ...]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatorEngine(NumpyEngine, Abducts):
    """Replays an environment from its reset seed, once for every world and version of the future.

    The seed does not follow from a history: begin with `start`, or give `locate`. After the environment terminates, its
    last observation is repeated.

    Args:
        make_environment: makes a new environment, deterministic given the reset seed.
        schema: observation and action signals with the names of `labs.spaces.schema_of`. Exogenous signals are not
            allowed, because the environment generates them.
        locate: maps a complete observation {signal: [*shape]} to the options with which `reset` starts in its state;
            None if the environment has no such options.
        name: on the card.
    """

    make_environment: Callable[[], Environment]
    schema: Schema
    locate: Callable[[Arrays], Mapping[str, Any]] | None = None
    name: str = "simulator"

    def __post_init__(self) -> None:
        if self.schema.exogenous:
            names = ", ".join(signal.name for signal in self.schema.exogenous)
            raise ConfigError(f"a simulator generates its exogenous signals. Leave {names} out of its schema.")

    def describe(self) -> Card:
        """The signals and abilities of this engine."""
        return Card(
            name=self.name,
            engine="simulator",
            schema=self.schema,
            inputs=tuple(signal.name for signal in self.schema.observations),
            predicts=tuple(signal.name for signal in self.schema.observations),
            context=1,
            deterministic=True,
            abilities=("abducts",),
        )

    def start(self, seeds: Sequence[int], actions: Arrays) -> Replay:
        """The belief of W episodes that began with these seeds and took these actions.

        Args:
            seeds: W reset seeds.
            actions: per action signal [W, t, *shape]; t may be 0.
        """
        taken = tuple(_world(actions, world) for world in range(len(seeds)))
        return Replay(starts=tuple(Start(seed=int(seed)) for seed in seeds), actions=taken)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Replay:
        """The belief after the actions of `steps`, or located by its observations.

        Raises:
            UnsupportedError: there is neither a belief nor `locate`, no observation is complete, or the replay differs
                from the observations in `steps`.
        """
        before = None if belief is None else own_belief(belief, Replay)
        if self.locate is not None:
            return self._located(self.locate, before, steps, seed)
        if before is None:
            raise UnsupportedError(
                "a simulator cannot infer its reset seed from observations. Begin with engine.start(seeds, actions), "
                "or give the engine `locate` if its environment can be reset into an observed state."
            )
        signals = [signal for signal in self.schema.observations if signal.name in steps.observations]
        num_worlds, length = check_observations(steps, signals)
        check_inputs(steps, self.schema, length)
        taken = tuple(_joined(before.actions[w], _world(steps.actions, w)) for w in range(num_worlds))
        grown = Replay(starts=before.starts, actions=taken)
        self._verify(grown, steps)
        return grown

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The environment's observations: one sample, S = 1."""
        replay = own_belief(belief, Replay)
        size = check_future(future, self.schema)
        paths = []
        with closing(self.make_environment()) as environment:
            for world, (start, before) in enumerate(zip(replay.starts, replay.actions, strict=True)):
                for version in range(size.num_versions):
                    actions = _joined(before, _world(_world(future.actions, world), version))
                    paths.append(self._run(environment, start, actions, size.horizon))
        shape, signals = (size.num_worlds, size.num_versions, 1, size.horizon), {}
        for signal in self.schema.observations:
            signals[signal.name] = np.stack([path[signal.name] for path in paths]).reshape(shape + signal.shape)
        return Samples(signals=signals)

    def abduct(self, episode: Episode, at: int) -> tuple[EngineBelief, Noise]:
        """The replay up to `at`, and no noise: the reset seed determines all draws.

        Raises:
            UnsupportedError: the episode has no seed, or the replay differs from it.
        """
        if episode.seed is None:
            raise UnsupportedError("the episode has no reset seed, so it cannot be replayed. Record it with its seed.")
        actions = {signal.name: episode.actions[signal.name][None, :at] for signal in self.schema.actions}
        belief = self.start([episode.seed], actions)
        self._verify(belief, replace(episode.history(at).map(lambda value: value[None]), actions=actions))
        return belief, None

    def _located(
        self, locate: Callable[[Arrays], Mapping[str, Any]], before: Replay | None, steps: History, seed: int
    ) -> Replay:
        """Each world reset into its last complete observation, if there is one, with the actions after it."""
        num_worlds, length = check_observations(steps, self.schema.observations)
        check_inputs(steps, self.schema, length - 1 if before is None else length)
        complete = np.ones((num_worlds, length), bool)
        for mask in steps.observed.values():
            complete &= mask.astype(bool)
        starts, actions = list[Start](), list[Arrays]()
        for world in range(num_worlds):
            inputs = _world(steps.actions, world)
            if complete[world].any():
                last = int(np.flatnonzero(complete[world])[-1])
                options = locate({name: value[world, last] for name, value in steps.observations.items()})
                starts.append(Start(seed=seed, options=options))
                num_after = length - 1 - last
                actions.append({name: value[len(value) - num_after :] for name, value in inputs.items()})
            elif before is not None:
                starts.append(before.starts[world])
                actions.append(_joined(before.actions[world], inputs))
            else:
                raise UnsupportedError(f"world {world}: no observation is complete, so its state is unknown. Add one.")
        return Replay(starts=tuple(starts), actions=tuple(actions))

    def _run(self, environment: Environment, start: Start, actions: Arrays, keep: int) -> Arrays:
        """The last `keep` observations of a replay, per signal [keep, *shape]."""
        options = None if start.options is None else dict(start.options)
        raw, _ = environment.reset(seed=start.seed, options=options)
        num_steps, terminated = len(next(iter(actions.values()))), False
        path = []
        for step in range(num_steps + 1):
            if step and not terminated:
                step_actions = {name: np.asarray(value[step - 1]) for name, value in actions.items()}
                action = SpaceLayout(environment.action_space, Role.ACTION).write(step_actions)
                raw, _, terminated, _, _ = environment.step(action)
            if step > num_steps - keep:
                path.append(SpaceLayout(environment.observation_space, Role.OBSERVATION).read(raw))
        return {
            signal.name: np.stack([observation[signal.name] for observation in path]).astype(signal.dtype, copy=False)
            for signal in self.schema.observations
        }

    def _verify(self, replay: Replay, steps: History) -> None:
        """Raises UnsupportedError if the replay differs from the observations in `steps`."""
        length = next(iter(steps.observations.values())).shape[1]
        with closing(self.make_environment()) as environment:
            for world, (start, actions) in enumerate(zip(replay.starts, replay.actions, strict=True)):
                path = self._run(environment, start, actions, length)
                for signal in [known for known in self.schema.observations if known.name in steps.observations]:
                    apart = differs(path[signal.name], steps.observations[signal.name][world], signal.kind)
                    if signal.name in steps.observed:
                        apart &= steps.observed[signal.name][world].astype(bool)
                    if apart.any():
                        step = int(np.flatnonzero(apart)[0])
                        raise UnsupportedError(
                            f"signal {signal.name!r}, step {step}: the simulator, replayed from seed {start.seed}, "
                            "shows another value. Check that environment, seed and actions are those of the log."
                        )


def _world(arrays: Arrays, world: int) -> Arrays:
    return {name: value[world] for name, value in arrays.items()}


def _joined(before: Arrays, after: Arrays) -> Arrays:
    """`after` appended to `before` along time."""
    return {name: np.concatenate([value, after[name]]) for name, value in before.items()}


def differs(replayed: NDArray[np.generic], logged: NDArray[np.generic], kind: Kind) -> NDArray[np.bool_]:
    """Per step, whether two paths [H, *shape] differ by more than rounding; images by one grey level on average."""
    expected = logged.astype(np.float64).reshape(len(logged), -1)
    gap = np.abs(replayed.astype(np.float64).reshape(expected.shape) - expected)
    if kind is Kind.IMAGE:
        return np.asarray(gap.mean(1) > 1.0)
    allowed = TOLERANCE * (1 + np.abs(expected))
    return np.asarray((~(gap <= allowed)).any(1))
