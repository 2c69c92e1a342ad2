"""Records episodes of a Gymnasium environment in the user's own loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.data.conversion import convert, to_episode
from worldline.data.store import Store, is_store, open_store
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.labs.base import Lab
from worldline.labs.playing import seen_in
from worldline.labs.spaces import AnyEnv, SpaceLayout, schema_of
from worldline.schema import Kind, Role, Schema, Signal

Array = NDArray[np.generic]

REWARD = Signal(
    name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,), unit="?", precision="float64"
)  # float64, as environments return it, so that no precision is lost


def recorded_schema(environment: AnyEnv) -> Schema:
    """The schema of a recording: a lab's own, else that of the spaces with the reward.

    Raises:
        UnsupportedError: a space cannot be converted without loss.
        ConfigError: two parts of the spaces have the same name, or one is called "reward".
    """
    schema = schema_of(environment)
    if isinstance(environment.unwrapped, Lab):
        return schema
    return replace(schema, signals=(*schema.signals, REWARD))


class EpisodeRecord:
    """The current episode as rows of signals; can be reused for later episodes.

    Args:
        environment: its spaces define observations and actions.
        schema: signals to store.
    """

    def __init__(self, environment: AnyEnv, schema: Schema) -> None:
        self._schema, self._lab = schema, environment.unwrapped
        self._observations = SpaceLayout(environment.observation_space, Role.OBSERVATION)
        self._actions = SpaceLayout(environment.action_space, Role.ACTION)
        dtypes = {signal.name: signal.dtype for signal in self._actions.signals}
        self._rounded = [signal for signal in schema.actions if dtypes.get(signal.name, signal.dtype) != signal.dtype]
        self._rows: dict[Role, list[dict[str, Array]]] = {}
        self._seed: int | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the episode so far."""
        return len(self._rows[Role.ACTION])

    @property
    def last_observation(self) -> Any:
        """A copy of the last observation in its stored precision."""
        return self._observations.write(self._rows[Role.OBSERVATION][-1])

    def begin(self, observation: Any, seed: int | None) -> None:
        """Starts an episode and drops the previous one.

        Args:
            observation: of the reset.
            seed: of the reset, if the episode can be replayed from it.

        Raises:
            InputError: the observation is not in the observation space.
        """
        first = self._observations.read(observation)
        self._rows = {Role.OBSERVATION: [first], Role.ACTION: [], Role.REWARD: []}
        self._seed = seed

    def read_action(self, action: Any) -> dict[str, Array]:
        """A copy of `action` in its stored precision: the row for `add`.

        Raises:
            InputError: the action is not in the action space.
        """
        row = self._actions.read(action)
        return row | {signal.name: convert(row[signal.name][None], signal)[0] for signal in self._rounded}

    def executed(self, row: dict[str, Array]) -> Any:
        """The stored action for the environment, so that the executed action is the logged one."""
        return self._actions.write(row)

    def add(self, row: dict[str, Array], reward: SupportsFloat, observation: Any) -> None:
        """Adds a step.

        Args:
            row: of the action, from `read_action`.
            reward: of the step.
            observation: after the step.

        Raises:
            InputError: the observation is not in the observation space; nothing was added.
        """
        seen = self._observations.read(observation)
        earned: dict[str, Array] = {REWARD.name: np.array([float(reward)])}
        for role, values in ((Role.OBSERVATION, seen), (Role.ACTION, row), (Role.REWARD, earned)):
            self._rows[role].append(values)

    def episode(self, *, terminated: bool, truncated: bool) -> Episode:
        """The episode; the store reports values that do not fit the schema.

        Args:
            terminated: the last observation is a terminal state.
            truncated: a limit ended it.
        """
        rows = {signal.name: self._rows.get(signal.role, []) for signal in self._schema.signals}
        held = {name: known for name, known in rows.items() if known and name in known[0]}
        return to_episode(
            {name: np.stack([row[name] for row in known]) for name, known in held.items()},
            self._schema,
            observed=seen_in(self._lab, self._rows[Role.OBSERVATION]),
            terminated=terminated,
            truncated=truncated or not terminated,
            seed=self._seed,
        )


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that stores every episode of the loop in which it is used.

        with Recorder(gymnasium.make("Pendulum-v1"), "logs") as env:
            observation, info = env.reset(seed=3)
            ...

    An episode is stored when it ends. An episode that is ended early by a reset or by `close` is stored as truncated;
    one without a step is not stored. Actions are rounded to the action space's dtype before execution, so that the
    logged action is the executed one. The seed of a reset is stored if it was called without options. Put
    `gymnasium.wrappers.Autoreset` around the recorder, not inside it.

    Args:
        env: the environment; closed with the recorder.
        destination: a new folder, made when the first episode ends, or a store with the same signals to continue.
            The units and bounds of this store may have been edited.
        schema: signals to store; default is that of the store, else the environment's.

    Raises:
        InputError: the destination is no store, or a store with other signals.
        UnsupportedError: a space of the environment cannot be converted to signals.
    """

    def __init__(self, env: AnyEnv, destination: Path | str, *, schema: Schema | None = None) -> None:
        super().__init__(env)
        self._path = Path(destination)
        self._store: Store | None = None
        wanted = schema or recorded_schema(env)
        if is_store(self._path):
            self._store = open_store(self._path)
            _compare(self._store, wanted, exactly=schema is not None)
            wanted = self._store.schema
        elif self._path.exists() and not (self._path.is_dir() and not any(self._path.iterdir())):
            raise InputError(f"{self._path} exists and is no store. Choose a new folder, or a store to continue.")
        self._schema = wanted
        self._transcript = EpisodeRecord(env, wanted)
        self._running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Stores the current episode, if there is one, and begins the next.

        Raises:
            DataError: a value does not fit the schema; the episode is not stored.
        """
        self._end_early()
        self._running = False
        observation, info = self.env.reset(seed=seed, options=options)
        self._transcript.begin(observation, int(seed) if seed is not None and not options else None)
        self._running = True
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step, and stores the episode if it ended.

        Raises:
            InputError: no episode has begun, or the action is not in the action space.
            DataError: a value does not fit the schema; the episode is not stored.
        """
        if not self._running:
            raise InputError("step() was called before an episode began. Call reset() first.")
        row = self._transcript.read_action(action)
        result = self.env.step(self._transcript.executed(row))
        observation, reward, terminated, truncated, _ = result
        self._transcript.add(row, reward, observation)
        if terminated or truncated:
            self._keep(bool(terminated), bool(truncated))
        return result

    def close(self) -> None:
        """Stores the current episode, if there is one, and closes the environment.

        Raises:
            DataError: a value does not fit the schema; the episode is not stored.
        """
        try:
            self._end_early()
        finally:
            super().close()

    def _end_early(self) -> None:
        if self._running and self._transcript.num_steps:
            self._keep(terminated=False, truncated=True)

    def _keep(self, terminated: bool, truncated: bool) -> None:
        self._running = False  # set first, so that an invalid episode raises once
        if self._store is None:
            # Another recorder may have made the store in the meantime, such as that of another lane.
            self._store = open_store(self._path) if is_store(self._path) else Store.create(self._path, self._schema)
            _compare(self._store, self._schema, exactly=True)
        episode = self._transcript.episode(terminated=terminated, truncated=truncated)
        self._store.append(episode, {"number": len(self._store)})


def _compare(store: Store, wanted: Schema, *, exactly: bool) -> None:
    """Raises InputError if the episodes do not fit into the store."""
    if store.schema == wanted:
        return
    both = [{(s.name, s.role, s.kind, s.shape, s.num_values) for s in x.signals} for x in (store.schema, wanted)]
    if different := sorted({signal[0] for signal in both[0] ^ both[1]}):
        raise InputError(
            f"the store {store.path} and the environment differ in the signals {', '.join(different)}. Record into a "
            "new folder."
        )
    if exactly:
        raise InputError(f"the store {store.path} has another schema. Leave out schema=, or record into a new folder.")
