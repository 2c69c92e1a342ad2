"""Writes down the episodes of a Gymnasium environment while they happen, in the user's own loop."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
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
)  # float64, since that is what an environment returns: it is stored as it was


def recorded_schema(environment: AnyEnv) -> Schema:
    """What is stored of an environment: a lab's own schema, else what its spaces say and the reward.

    Raises:
        UnsupportedError: a space cannot be laid out without loss.
        ConfigError: two parts of the spaces have the same name, or one is called "reward".
    """
    schema = schema_of(environment)
    if isinstance(environment.unwrapped, Lab):
        return schema
    return replace(schema, signals=(*schema.signals, REWARD))


class EpisodeRecord:
    """An episode while it happens, as rows of signals; serves one episode after another.

    Args:
        environment: whose spaces say what an observation and an action look like.
        schema: signals that it does not name are left out.
    """

    def __init__(self, environment: AnyEnv, schema: Schema) -> None:
        self._schema, self._lab = schema, environment.unwrapped
        self._observations = SpaceLayout(environment.observation_space, Role.OBSERVATION)
        self._actions = SpaceLayout(environment.action_space, Role.ACTION)
        self._rounded = {
            signal.name: given
            for signal in self._actions.signals
            for given in schema.actions
            if given.name == signal.name and given.dtype != signal.dtype
        }
        self._rows: dict[Role, list[dict[str, Array]]] = {}
        self._seed: int | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the episode so far."""
        return len(self._rows[Role.ACTION])

    @property
    def shown(self) -> Any:
        """The last observation as it is stored, a copy that is nobody else's."""
        return self._observations.write(self._rows[Role.OBSERVATION][-1])

    def begin(self, observation: Any, seed: int | None) -> None:
        """Starts an episode, forgetting the one before.

        Args:
            observation: what the reset showed.
            seed: of the reset, where the episode can be replayed from it.

        Raises:
            InputError: it is no element of the observation space.
        """
        first = self._observations.read(observation)
        self._rows = {Role.OBSERVATION: [first], Role.ACTION: [], Role.REWARD: []}
        self._seed = seed

    def read_action(self, action: Any) -> dict[str, Array]:
        """A copy of `action` as it is stored: the row for `add`.

        Raises:
            InputError: it is no element of the action space.
        """
        row = self._actions.read(action)
        return row | {name: convert(row[name][None], signal)[0] for name, signal in self._rounded.items()}

    def executed(self, row: dict[str, Array]) -> Any:
        """The action that `row` describes, for the environment: what is executed is what is logged."""
        return self._actions.write(row)

    def add(self, row: dict[str, Array], reward: SupportsFloat, observation: Any) -> None:
        """Adds a step.

        Args:
            row: of the action, from `read_action`.
            reward: of the step.
            observation: what the step led to.

        Raises:
            InputError: it is no element of the observation space; nothing was added.
        """
        seen = self._observations.read(observation)
        earned: dict[str, Array] = {REWARD.name: np.array([float(reward)])}
        for role, values in ((Role.OBSERVATION, seen), (Role.ACTION, row), (Role.REWARD, earned)):
            self._rows[role].append(values)

    def episode(self, *, terminated: bool, truncated: bool) -> Episode:
        """The whole episode; what does not fit the schema is left for the store to name.

        Args:
            terminated: the last observation is a terminal state.
            truncated: a limit ended it.
        """
        rows = {signal.name: self._rows.get(signal.role, []) for signal in self._schema.signals}
        return to_episode(
            {
                name: np.stack([row[name] for row in known])
                for name, known in rows.items()
                if known and name in known[0]
            },
            self._schema,
            observed=seen_in(self._lab, self._rows[Role.OBSERVATION]),
            terminated=terminated,
            truncated=truncated or not terminated,
            seed=self._seed,
        )


class _RecorderStage(Enum):
    """Where the user's loop is."""

    UNBEGUN = "unbegun"
    RUNNING = "running"
    ENDED = "ended"


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that stores every episode of the loop that it is used in.

        with Recorder(gymnasium.make("Pendulum-v1"), "logs") as env:
            observation, info = env.reset(seed=3)
            ...

    An episode is stored when it ends. One that is left early, by a reset or by `close`, is stored as truncated; one
    without a step is not stored. Actions are rounded to the action space's dtype before they are executed, so that
    what is executed is what is logged. The seed of a reset is kept where no options were given with it.

    Args:
        env: what to record; closed with this.
        destination: a new folder, made when the first episode ends, or a store to go on with. That one may have
            other units and bounds, corrected by hand, but must have the same signals.
        schema: default is that of the store, else the environment's; signals that it does not name are not stored.

    Raises:
        InputError: something else is at the destination, or a store of other signals.
        UnsupportedError: a space of the environment cannot be made into signals.
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
            raise InputError(f"{self._path} exists and is no store. Choose a new folder, or a store to go on with.")
        self._schema = wanted
        self._transcript = EpisodeRecord(env, wanted)
        self._stage = _RecorderStage.UNBEGUN

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Stores the episode that is under way, if there is one, and begins the next.

        Raises:
            DataError: what the environment showed does not fit the schema; that episode is not stored.
        """
        self._leave()
        self._stage = _RecorderStage.UNBEGUN
        observation, info = self.env.reset(seed=seed, options=options)
        self._transcript.begin(observation, int(seed) if seed is not None and not options else None)
        self._stage = _RecorderStage.RUNNING
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step, and stores the episode if that ended it.

        Raises:
            InputError: no episode is under way, or the action is no element of the action space.
            DataError: what the environment showed does not fit the schema; that episode is not stored.
        """
        if self._stage is _RecorderStage.ENDED and _resets_itself(self.env):
            result = self.env.step(action)  # it ignored the action and reset: no transition
            self._transcript.begin(result[0], None)
            self._stage = _RecorderStage.RUNNING
            return result
        if self._stage is not _RecorderStage.RUNNING:
            raise InputError("step() was called while no episode is under way. Call reset() first.")
        row = self._transcript.read_action(action)
        result = self.env.step(self._transcript.executed(row))
        observation, reward, terminated, truncated, _ = result
        self._transcript.add(row, reward, observation)
        if terminated or truncated:
            self._keep(bool(terminated), bool(truncated))
        return result

    def close(self) -> None:
        """Stores the episode that is under way, if there is one, and closes the environment.

        Raises:
            DataError: what the environment showed does not fit the schema; that episode is not stored.
        """
        try:
            self._leave()
        finally:
            super().close()

    def _leave(self) -> None:
        if self._stage is _RecorderStage.RUNNING and self._transcript.num_steps:
            self._keep(terminated=False, truncated=True)

    def _keep(self, terminated: bool, truncated: bool) -> None:
        self._stage = _RecorderStage.ENDED  # first, so that an episode that is refused is refused once
        if self._store is None:
            # Another recorder may have made it in the meantime, such as that of the next lane of a vector environment.
            self._store = open_store(self._path) if is_store(self._path) else Store.create(self._path, self._schema)
            _compare(self._store, self._schema, exactly=True)
        episode = self._transcript.episode(terminated=terminated, truncated=truncated)
        self._store.append(episode, {"number": len(self._store)})


def _compare(store: Store, wanted: Schema, *, exactly: bool) -> None:
    """Raises where the episodes would not fit into the store."""
    if store.schema == wanted:
        return
    there, here = ({s.name: (s.role, s.kind, s.shape, s.num_values) for s in x.signals} for x in (store.schema, wanted))
    different = {name for name, _ in there.items() ^ here.items()}
    if different:
        name = min(different)
        what = f"has no signal {name!r}" if name not in there else f"has signal {name!r} as {_words(there[name])}"
        this = "has none of this name" if name not in here else f"has it as {_words(here[name])}"
        raise InputError(f"the store {store.path} {what}, the environment {this}. Record into a new folder.")
    if exactly:
        raise InputError(f"the store {store.path} has another schema. Leave out schema=, or record into a new folder.")


def _words(layout: tuple[Role, Kind, tuple[int, ...], int | None]) -> str:
    role, kind, shape, num_values = layout
    return f"{role}, {kind} " + (f"of shape {shape}" if num_values is None else f"with {num_values} values")


def _resets_itself(env: AnyEnv) -> bool:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.Autoreset):
            return True
        env = env.env
    return False
