"""Two Rooms: a dot, a wall, a door. 64 by 64 pixels; x to the right, y down.

    place' = place + move, px

up to the first thing that it touches on the way, and from there on along that (swept collision), so a wall cannot be
jumped however long the step. A move is at most `MAX_MOVE` px along each axis; what is beyond is cut.

Nothing is hidden: `camera` shows, and `position` and `wall` tell, where dot, wall and door are. Where walls are random,
wall and door are drawn anew for each episode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs.abilities import Configured, Locates
from worldline.labs.base import Policy, SolvedLab, read_options
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]

SIZE: Final = 64
MAX_MOVE: Final = 6.0
DOT_RADIUS: Final = 2.5
WALL_HALF_WIDTH: Final = 1.5
DOOR_HALF_HEIGHT: Final = 5.5
FLOOR_COLOUR: Final = (244, 241, 234)
WALL_COLOUR: Final = (52, 58, 70)
DOT_COLOUR: Final = (214, 64, 56)
FIXED_WALL: Final = (32.0, 32.0)
DOOR_GUESS: Final = 4.0
"""How far the explorer takes the door to be from where it is, deviation, px."""

_NEAR: Final = DOT_RADIUS
_FAR: Final = SIZE - DOT_RADIUS
_REACH: Final = WALL_HALF_WIDTH + DOT_RADIUS
_GAP: Final = DOOR_HALF_HEIGHT - DOT_RADIUS
_SKIN: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class TwoRoomsSettings:
    """The arguments of `TwoRooms`."""

    walls: Literal["fixed", "random"]
    camera: bool


class TwoRooms(SolvedLab, Configured, Locates):
    """The lab. Observations: `camera`, `position` [px], `wall` [px] (wall x, door y). Action: `move` [px].

    Args:
        walls: "fixed" puts the wall and its door in the middle; "random" draws both at every reset, the wall in
            [20, 44] px and the door in [10, 54] px.
        camera: whether to draw the picture; without it steps are some ten times faster.
    """

    def __init__(self, walls: Literal["fixed", "random"] = "fixed", *, camera: bool = True) -> None:
        if walls not in ("fixed", "random"):
            raise InputError(f"walls is {walls!r}. Use 'fixed' or 'random'.")
        self.walls, self.camera = walls, camera
        box = gymnasium.spaces.Box
        spaces: dict[str, gymnasium.Space[Any]] = {
            "position": box(0, SIZE, (2,), np.float32),
            "wall": box(0, SIZE, (2,), np.float32),
        }
        if camera:
            spaces["camera"] = box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Dict({"move": box(-MAX_MOVE, MAX_MOVE, (2,), np.float32)})
        self._position: Floats = np.zeros(2)
        self._wall: Floats = np.array(FIXED_WALL)
        self._room = draw_walls(self._wall)

    @property
    def settings(self) -> Mapping[str, Any]:
        """`walls` and `camera`; see `Configured`."""
        return {"walls": self.walls, "camera": self.camera}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> TwoRooms:
        """See `Configured`."""
        found = from_json(TwoRoomsSettings, json.dumps(settings), where="two-rooms")
        return cls(found.walls, camera=found.camera)

    def locate(self, observation: Arrays) -> Mapping[str, Any]:
        """The dot and the wall where they are seen; see `Locates`."""
        return {name: observation[name] for name in ("position", "wall")}

    @property
    def schema(self) -> Schema:
        """The four signals; `camera` only where it is drawn."""
        observation, low, high = Role.OBSERVATION, (0.0, 0.0), (float(SIZE), float(SIZE))
        camera = Signal(name="camera", role=observation, kind=Kind.IMAGE, shape=(SIZE, SIZE, 3))
        move = (MAX_MOVE, MAX_MOVE)
        signals = (
            Signal(name="position", role=observation, kind=Kind.VECTOR, shape=(2,), unit="px",
                   low=low, high=high, components=("x", "y"), entity="dot"),
            Signal(name="wall", role=observation, kind=Kind.VECTOR, shape=(2,), unit="px",
                   low=low, high=high, components=("wall_x", "door_y"), entity="wall"),
            Signal(name="move", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="px",
                   low=(-MAX_MOVE, -MAX_MOVE), high=move, components=("x", "y"), entity="dot"),
        )  # fmt: skip
        return Schema(signals=(camera, *signals) if self.camera else signals)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The first observation.

        Args:
            seed: of the wall (where random) and the position.
            options: `wall` and `position`, each [2] px, put them there instead.

        Raises:
            InputError: the position is in the wall or outside, or the wall is.
        """
        super().reset(seed=seed)
        draw, given = self.np_random.uniform, read_options(options, {"position": (2,), "wall": (2,)})
        wall = np.array([draw(20, 44), draw(10, 54)] if self.walls == "random" else FIXED_WALL)
        self._wall = given.get("wall", wall)
        self._position = given.get("position", free_position(self._wall, self.np_random))
        if given and _is_blocked(self._position, self._wall):
            raise InputError(f"position {self._position} is in the wall at {self._wall} or outside. Move one of them.")
        self._room = draw_walls(self._wall)
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One move; no reward, no end."""
        self._position = slide(self._position, _cut(self._checked(action)["move"]), self._wall)
        return self._observe(), 0.0, False, False, {}

    def _look(self) -> NDArray[np.uint8]:
        return draw_dot(self._room, self._position)

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "position": self._position.astype(np.float32),
            "wall": self._wall.astype(np.float32),
        }
        return {"camera": self._look(), **seen} if self.camera else seen

    def explorer(self) -> Policy:
        """Random in every second episode on average, through the door and back in the others."""
        return TwoRoomsExplorer()

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """True positions; see `SolvedLab`."""
        position, wall = start["position"].astype(float), start["wall"].astype(float)
        path = []
        for step in range(actions["move"].shape[1]):
            position = slide(position, _cut(actions["move"][:, step]), wall)
            path.append(position)
        walls = np.broadcast_to(wall[:, None], (len(wall), len(path), 2))
        return {"position": np.stack(path, 1).astype(np.float32), "wall": walls.astype(np.float32)}

    def steps_to_goal(self, observations: Arrays, goal: Arrays) -> Floats:
        """Shortest path over the longest step along an axis; see `SolvedLab`."""
        places = observations["position"], goal["position"], observations["wall"]
        waypoints = shortest_path(*(place.astype(float) for place in places))
        legs = np.abs(np.diff(waypoints, axis=1)).max(-1)
        return np.asarray(legs.sum(-1) / MAX_MOVE)

    def expert(self, observations: Arrays, goal: Arrays, num_steps: int) -> Arrays:
        """Full moves along the shortest path; see `SolvedLab`."""
        wall, target = observations["wall"].astype(float), goal["position"].astype(float)
        position, moves = observations["position"].astype(float), []
        for _ in range(num_steps):
            towards = shortest_path(position, target, wall)
            legs = np.linalg.norm(towards - position[:, None], axis=-1)
            ahead = np.argmax(legs > 10 * _SKIN, axis=1)
            move = _limited(towards[np.arange(len(position)), ahead] - position)
            position = slide(position, move, wall)
            moves.append(move)
        return {"move": np.stack(moves, 1).astype(np.float32)}


class TwoRoomsExplorer(Policy):
    """Half of the episodes wander, half go to places in turn, through the door where it lies between.

    It only guesses where the door is, anew every few steps: who never bumps into the wall beside the door leaves a log
    that does not show that it is there.
    """

    def __init__(self) -> None:
        self._purposeful = False
        self._target: Floats = np.zeros(2)
        self._guess: Floats = np.zeros(2)
        self._heading = 0.0
        self._patience = 0

    def reset(self, generator: np.random.Generator) -> None:
        """Draws which kind of episode it will be, and where the door is taken to be at first."""
        self._purposeful = generator.random() < 0.5
        self._heading = generator.uniform(-np.pi, np.pi)
        self._patience = 0
        self._guess_anew(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A move of at most `MAX_MOVE` along each axis."""
        if self._purposeful:
            move = self._towards_target(observation["position"], observation["wall"], generator)
        else:
            self._heading += generator.normal(0, 0.6)
            length = generator.uniform(0, MAX_MOVE * 1.2)
            move = length * np.array([np.cos(self._heading), np.sin(self._heading)])
            if generator.random() < 0.1:
                self._heading = generator.uniform(-np.pi, np.pi)
        return {"move": np.clip(move, -MAX_MOVE, MAX_MOVE).astype(np.float32)}

    def _towards_target(self, position: Floats, wall: Floats, generator: np.random.Generator) -> Floats:
        if self._patience <= 0 or np.linalg.norm(position - self._target) < 2:
            self._target = free_position(wall, generator)
            if (self._target[0] - wall[0]) * (position[0] - wall[0]) > 0:
                self._target = free_position(wall, generator)  # a second draw: crossings are what is rare
            self._patience = 25
        self._patience -= 1
        if generator.random() < 0.2:
            self._guess_anew(generator)
        towards = shortest_path(position[None], self._target[None], (wall + self._guess)[None])[0] - position
        ahead = towards[int(np.argmax(np.linalg.norm(towards, axis=-1) > 10 * _SKIN))]
        move: Floats = _limited(ahead[None])[0] * generator.uniform(0.6, 1.0) + generator.normal(0, 0.8, 2)
        return move

    def _guess_anew(self, generator: np.random.Generator) -> None:
        self._guess = np.array([0.0, generator.normal(0, DOOR_GUESS)])


def free_position(wall: Floats, generator: np.random.Generator) -> Floats:
    """A position [2] px, uniform over both rooms, clear of the wall (the doorway counts as wall)."""
    while True:
        position = generator.uniform(_NEAR, _FAR, 2)
        if abs(position[0] - wall[0]) > _REACH:
            return position


def _is_blocked(position: Floats, wall: Floats) -> bool:
    """Whether the dot would overlap wall or border by more than float32 rounds."""
    across, along = np.abs(position - wall)
    in_wall = across < _REACH - _SKIN and along > _GAP + _SKIN
    return bool(in_wall or (position < _NEAR - _SKIN).any() or (position > _FAR + _SKIN).any())


def slide(position: Floats, move: Floats, wall: Floats) -> Floats:
    """Where a straight move from `position` ends; what is left of it after the first contact goes on along the wall.

    Args:
        position: [..., 2] px.
        move: [..., 2] px.
        wall: [..., 2] px: wall x, door y.
    """
    reached, left = _sweep(position, move, wall)
    if left.any():  # one axis at a time: the one that is blocked goes nowhere
        reached, _ = _sweep(reached, left * (1.0, 0.0), wall)
        reached, _ = _sweep(reached, left * (0.0, 1.0), wall)
    return reached


def _sweep(position: Floats, move: Floats, wall: Floats) -> tuple[Floats, Floats]:
    """Where `move` ends, at the latest at the first contact, and what is left of it then."""
    share = np.asarray(np.minimum(1.0, _free_share(position, move, wall)))[..., None]
    return np.asarray(np.clip(position + share * move, _NEAR, _FAR)), np.asarray((1 - share) * move)


def _free_share(position: Floats, move: Floats, wall: Floats) -> Floats:
    """The share of `move` until contact, at least 0; above 1 where there is none."""
    still = np.abs(move) < 1e-12
    safe = np.where(still, 1e-12, move)
    room = np.where(safe > 0, _FAR - position, _NEAR - position)
    # An edge that the dot touches does not stop what runs along it.
    share: Floats = np.asarray(np.where(still, np.inf, np.maximum(room / safe, 0)).min(-1))
    wall_x, door_y = wall[..., 0], wall[..., 1]
    for low, high in ((-np.inf, door_y - _GAP), (door_y + _GAP, np.inf)):
        entry_x, exit_x = _slab(position[..., 0], safe[..., 0], wall_x - _REACH, wall_x + _REACH)
        entry_y, exit_y = _slab(position[..., 1], safe[..., 1], low, high)
        entry, leave = np.maximum(entry_x, entry_y), np.minimum(exit_x, exit_y)
        length = np.linalg.norm(safe, axis=-1)
        hit = (entry < leave - 1e-9) & (leave > 1e-9) & (entry < 1) & (entry > -_SKIN / length - 1e-9)
        share = np.where(hit, np.minimum(share, np.maximum(entry - _SKIN / length, 0)), share)
    return share


def _slab(start: Floats, velocity: Floats, low: Floats | float, high: Floats | float) -> tuple[Floats, Floats]:
    """When a point enters and leaves the open interval (low, high)."""
    first, second = (low - start) / velocity, (high - start) / velocity
    return np.asarray(np.minimum(first, second)), np.asarray(np.maximum(first, second))


def shortest_path(position: Floats, goal: Floats, wall: Floats) -> Floats:
    """Waypoints [M, 4, 2] px from `position` to `goal` (each [M, 2]), round the corners of the door.

    Unused waypoints repeat the one before, so the legs that they begin have length 0.
    """
    position, goal, wall = (np.asarray(a, dtype=float) for a in (position, goal, wall))
    reach, gap = _REACH + 5 * _SKIN, _GAP - 5 * _SKIN
    corners = [wall + np.array([x * reach, y * gap]) for x in (-1, 1) for y in (-1, 1)]
    routes = [(position, position)] + [(corner, corner) for corner in corners]
    routes += [(corners[i], corners[j]) for i in range(4) for j in range(4) if (i < 2) != (j < 2)]
    paths = np.stack([np.stack([position, first, second, goal], 1) for first, second in routes])
    legs = np.diff(paths, axis=2)
    blocked = (_free_share(paths[:, :, :-1], legs, wall[:, None]) < 1 - 1e-6) & (np.linalg.norm(legs, axis=-1) > 0)
    lengths = np.linalg.norm(legs, axis=-1).sum(-1) + 1e6 * blocked.sum(-1)
    best = lengths.argmin(0)
    return np.asarray(paths[best, np.arange(len(position))])


def _cut(move: NDArray[np.generic]) -> Floats:
    """`move` [..., 2] px, each axis by itself at most `MAX_MOVE`."""
    return np.asarray(np.clip(np.asarray(move, dtype=float), -MAX_MOVE, MAX_MOVE))


def _limited(move: Floats) -> Floats:
    """`move` [M, 2] shortened, direction kept, to at most `MAX_MOVE` along each axis."""
    longest = np.abs(move).max(-1, keepdims=True)
    return np.asarray(move * np.minimum(1, MAX_MOVE / np.maximum(longest, 1e-9)))


def draw_walls(wall: Floats) -> NDArray[np.float32]:
    """The picture [64, 64, 3] of an empty room with this wall [2] px."""
    middles = np.arange(SIZE, dtype=np.float32) + 0.5
    across = np.clip(WALL_HALF_WIDTH + 0.5 - np.abs(middles - wall[0]), 0, 1)
    along = np.clip(np.abs(middles - wall[1]) - DOOR_HALF_HEIGHT + 0.5, 0, 1)
    floor = np.full((SIZE, SIZE, 3), FLOOR_COLOUR, np.float32)
    return _blend(floor, np.outer(along, across), WALL_COLOUR)


def draw_dot(room: NDArray[np.float32], position: Floats) -> NDArray[np.uint8]:
    """The picture of a dot at `position` [2] px, with soft edges, in `room` (left as it is)."""
    picture = np.rint(room).astype(np.uint8)
    reach = int(DOT_RADIUS) + 2
    x, y = (max(int(p) - reach, 0) for p in position)
    rows, columns = slice(y, int(position[1]) + reach + 1), slice(x, int(position[0]) + reach + 1)
    patch = room[rows, columns]
    across = np.arange(x, x + patch.shape[1]) + 0.5 - position[0]
    down = np.arange(y, y + patch.shape[0]) + 0.5 - position[1]
    inside = np.clip(DOT_RADIUS + 0.5 - np.hypot(across[None], down[:, None]), 0, 1)
    picture[rows, columns] = np.rint(_blend(patch, inside, DOT_COLOUR))
    return picture


def _blend(picture: NDArray[np.float32], share: Floats, colour: tuple[int, int, int]) -> NDArray[np.float32]:
    return picture + share[..., None].astype(np.float32) * (np.asarray(colour, np.float32) - picture)
