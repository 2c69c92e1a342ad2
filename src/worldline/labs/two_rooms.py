"""Two Rooms: a dot moves in two rooms that a wall with a door separates. 64 by 64 px; x to the right, y down.

    position' = position + move, px

Collisions are swept: the dot moves to its first contact, and the rest of the move slides along the obstacle. So no
move can jump over a wall. Moves are clipped to `MAX_MOVE` px along each axis.

The state is fully observed: `position` and `wall` hold it, and `camera` shows it. With random walls, wall and door
are drawn for each episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs.base import Policy, SolvedLab, read_options
from worldline.labs.drawing import CAMERA
from worldline.labs.spaces import boxes
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
"""Standard deviation of the explorer's error about the door's position, px."""

_NEAR: Final = DOT_RADIUS
_FAR: Final = SIZE - DOT_RADIUS
_REACH: Final = WALL_HALF_WIDTH + DOT_RADIUS
_GAP: Final = DOOR_HALF_HEIGHT - DOT_RADIUS
_SKIN: Final = 1e-3


class TwoRooms(SolvedLab):
    """The lab. Observations: `camera`, `position` [px], `wall` [px] (wall x, door y). Action: `move` [px].

    Args:
        walls: "fixed" puts wall and door in the middle. "random" draws both at every reset: wall x in [20, 44] px,
            door y in [10, 54] px.
        camera: whether to draw the camera image; without it steps are about ten times faster.
    """

    def __init__(self, walls: Literal["fixed", "random"] = "fixed", *, camera: bool = True) -> None:
        if walls not in ("fixed", "random"):
            raise InputError(f"walls is {walls!r}. Use 'fixed' or 'random'.")
        self.walls, self.camera = walls, camera
        self.observation_space = boxes(self.schema, Role.OBSERVATION)
        self.action_space = boxes(self.schema, Role.ACTION)

    def locate(self, observation: Arrays) -> Mapping[str, Any]:
        """Returns the options with which `reset` starts in the observed state."""
        return {name: observation[name] for name in ("position", "wall")}

    @property
    def schema(self) -> Schema:
        """The four signals; three without the camera."""
        observation, low, high = Role.OBSERVATION, (0.0, 0.0), (float(SIZE), float(SIZE))
        signals = (
            Signal(name="position", role=observation, kind=Kind.VECTOR, shape=(2,), unit="px",
                   low=low, high=high, components=("x", "y"), entity="dot"),
            Signal(name="wall", role=observation, kind=Kind.VECTOR, shape=(2,), unit="px",
                   low=low, high=high, components=("wall_x", "door_y"), entity="wall"),
            Signal(name="move", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="px",
                   low=(-MAX_MOVE, -MAX_MOVE), high=(MAX_MOVE, MAX_MOVE), components=("x", "y"), entity="dot"),
        )  # fmt: skip
        return Schema(signals=(CAMERA, *signals) if self.camera else signals)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the first observation.

        Args:
            seed: of the position, and of the wall if walls are random.
            options: `wall` and `position`, each [2] px, replace the drawn ones.

        Raises:
            InputError: the position is in the wall, or position or wall are outside the rooms.
        """
        super().reset(seed=seed)
        draw, fixed = self.np_random.uniform, read_options(options, {"position": (2,), "wall": (2,)})
        wall = np.array([draw(20, 44), draw(10, 54)] if self.walls == "random" else FIXED_WALL)
        self._wall = fixed.get("wall", wall)
        self._position = fixed.get("position", free_position(self._wall, self.np_random))
        if fixed and _is_blocked(self._position, self._wall):
            raise InputError(
                f"position {self._position} is in the wall at {self._wall} or outside the rooms. Move one of them."
            )
        self._room = draw_walls(self._wall)
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves the dot; there is no reward and no end."""
        move = self._checked(action)["move"]
        self._position = slide(self._position, _cut(move), self._wall)
        return self._observe(), 0.0, False, False, {}

    def _look(self) -> NDArray[np.uint8]:
        return draw_dot(self._room, self._position)

    def _observe(self) -> dict[str, Any]:
        vectors: dict[str, Any] = {"position": self._position.astype(np.float32), "wall": self._wall.astype(np.float32)}
        return {"camera": self._look(), **vectors} if self.camera else vectors

    def explorer(self) -> Policy:
        """Returns a policy that walks randomly in half of the episodes and crosses the door in the others."""
        return TwoRoomsExplorer()

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Returns ground-truth positions."""
        position, wall = start["position"].astype(float), start["wall"].astype(float)
        path = []
        for step in range(actions["move"].shape[1]):
            position = slide(position, _cut(actions["move"][:, step]), wall)
            path.append(position)
        walls = np.broadcast_to(wall[:, None], (len(wall), len(path), 2))
        return {"position": np.stack(path, 1).astype(np.float32), "wall": walls.astype(np.float32)}

    def steps_to_goal(self, observations: Arrays, goal: Arrays) -> Floats:
        """Returns the steps of the shortest path; each leg is limited by its longer axis."""
        places = observations["position"], goal["position"], observations["wall"]
        legs = np.abs(np.diff(shortest_path(*(place.astype(float) for place in places)), axis=1)).max(-1)
        return np.asarray(legs.sum(-1) / MAX_MOVE)

    def expert(self, observations: Arrays, goal: Arrays, num_steps: int) -> Arrays:
        """Returns full moves along the shortest path."""
        wall, target = observations["wall"].astype(float), goal["position"].astype(float)
        position, moves = observations["position"].astype(float), []
        for _ in range(num_steps):
            towards = shortest_path(position, target, wall)
            ahead = np.argmax(np.linalg.norm(towards - position[:, None], axis=-1) > 10 * _SKIN, axis=1)
            move = _limited(towards[np.arange(len(position)), ahead] - position)
            position = slide(position, move, wall)
            moves.append(move)
        return {"move": np.stack(moves, 1).astype(np.float32)}


class TwoRoomsExplorer(Policy):
    """A random walk in half of the episodes; in the others it goes to random targets, through the door if needed.

    The door's position that it uses has a random error, redrawn every few steps. So the logs contain collisions with
    the wall next to the door.
    """

    _target: Floats  # set by the first purposeful action

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the kind of the episode and the first error about the door's position."""
        self._purposeful = generator.random() < 0.5
        self._heading = generator.uniform(-np.pi, np.pi)
        self._patience = 0
        self._guess_anew(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """Returns a move of at most `MAX_MOVE` along each axis."""
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
                self._target = free_position(wall, generator)  # drawn again in favour of crossings, which are rare
            self._patience = 25
        self._patience -= 1
        if generator.random() < 0.2:
            self._guess_anew(generator)
        towards = shortest_path(position[None], self._target[None], (wall + self._guess)[None])[0] - position
        ahead = towards[int(np.argmax(np.linalg.norm(towards, axis=-1) > 10 * _SKIN))]
        return np.asarray(_limited(ahead[None])[0] * generator.uniform(0.6, 1.0) + generator.normal(0, 0.8, 2))

    def _guess_anew(self, generator: np.random.Generator) -> None:
        self._guess = np.array([0.0, generator.normal(0, DOOR_GUESS)])


def free_position(wall: Floats, generator: np.random.Generator) -> Floats:
    """Returns a position [2] px, uniform over both rooms without the wall's columns (the door included)."""
    while True:
        position = generator.uniform(_NEAR, _FAR, 2)
        if abs(position[0] - wall[0]) > _REACH:
            return position


def _is_blocked(position: Floats, wall: Floats) -> bool:
    """Whether the dot overlaps wall or border by more than the rounding of float32."""
    across, along = np.abs(position - wall)
    in_wall = across < _REACH - _SKIN and along > _GAP + _SKIN
    return bool(in_wall or (position < _NEAR - _SKIN).any() or (position > _FAR + _SKIN).any())


def slide(position: Floats, move: Floats, wall: Floats) -> Floats:
    """Returns the end of a move from `position`; after the first contact the rest slides along the wall.

    Args:
        position: [..., 2] px.
        move: [..., 2] px.
        wall: [..., 2] px: wall x, door y.
    """
    reached, left = _sweep(position, move, wall)
    if left.any():  # one axis at a time: the blocked axis stops, the other one slides
        reached, _ = _sweep(reached, left * (1.0, 0.0), wall)
        reached, _ = _sweep(reached, left * (0.0, 1.0), wall)
    return reached


def _sweep(position: Floats, move: Floats, wall: Floats) -> tuple[Floats, Floats]:
    """Returns the end of `move` or its first contact, and the rest of the move."""
    share = np.asarray(np.minimum(1.0, _free_share(position, move, wall)))[..., None]
    return np.asarray(np.clip(position + share * move, _NEAR, _FAR)), np.asarray((1 - share) * move)


def _free_share(position: Floats, move: Floats, wall: Floats) -> Floats:
    """Returns the share of `move` until contact, at least 0; above 1 if there is no contact."""
    still = np.abs(move) < 1e-12
    safe = np.where(still, 1e-12, move)
    room = np.where(safe > 0, _FAR - position, _NEAR - position)
    # Contact with a border does not stop a move along it, so axes without motion have no limit.
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
    """Returns when a point enters and leaves the open interval (low, high), as shares of the move."""
    first, second = (low - start) / velocity, (high - start) / velocity
    return np.asarray(np.minimum(first, second)), np.asarray(np.maximum(first, second))


def shortest_path(position: Floats, goal: Floats, wall: Floats) -> Floats:
    """Returns waypoints [M, 4, 2] px from `position` to `goal` (each [M, 2]), around the corners of the door.

    Unused waypoints repeat the one before, so their legs have length 0.
    """
    position, goal, wall = (np.asarray(a, dtype=float) for a in (position, goal, wall))
    reach, gap = _REACH + 5 * _SKIN, _GAP - 5 * _SKIN
    corners = [wall + np.array([x * reach, y * gap]) for x in (-1, 1) for y in (-1, 1)]
    routes = [(position, position)] + [(corner, corner) for corner in corners]
    routes += [(corners[i], corners[j]) for i in range(4) for j in range(4) if (i < 2) != (j < 2)]
    paths = np.stack([np.stack([position, first, second, goal], 1) for first, second in routes])
    legs = np.diff(paths, axis=2)
    lengths = np.linalg.norm(legs, axis=-1)
    blocked = (_free_share(paths[:, :, :-1], legs, wall[:, None]) < 1 - 1e-6) & (lengths > 0)
    best = (lengths.sum(-1) + 1e6 * blocked.sum(-1)).argmin(0)
    return np.asarray(paths[best, np.arange(len(position))])


def _cut(move: NDArray[np.generic]) -> Floats:
    """Clips each axis of `move` [..., 2] px to `MAX_MOVE`; the direction may change."""
    return np.asarray(np.clip(np.asarray(move, dtype=float), -MAX_MOVE, MAX_MOVE))


def _limited(move: Floats) -> Floats:
    """Shortens `move` [M, 2] to at most `MAX_MOVE` along each axis; keeps the direction."""
    longest = np.abs(move).max(-1, keepdims=True)
    return np.asarray(move * np.minimum(1, MAX_MOVE / np.maximum(longest, 1e-9)))


def draw_walls(wall: Floats) -> NDArray[np.float32]:
    """Returns the image [64, 64, 3] of the rooms with this wall [2] px and no dot."""
    middles = np.arange(SIZE, dtype=np.float32) + 0.5
    across = np.clip(WALL_HALF_WIDTH + 0.5 - np.abs(middles - wall[0]), 0, 1)
    along = np.clip(np.abs(middles - wall[1]) - DOOR_HALF_HEIGHT + 0.5, 0, 1)
    floor = np.full((SIZE, SIZE, 3), FLOOR_COLOUR, np.float32)
    return _blend(floor, np.outer(along, across), WALL_COLOUR)


def draw_dot(room: NDArray[np.float32], position: Floats) -> NDArray[np.uint8]:
    """Returns a copy of the image `room` with an antialiased dot at `position` [2] px."""
    picture = np.rint(room).astype(np.uint8)
    reach = int(DOT_RADIUS) + 2
    x, y = (max(int(p) - reach, 0) for p in position)
    rows, columns = slice(y, int(position[1]) + reach + 1), slice(x, int(position[0]) + reach + 1)
    patch = room[rows, columns]
    across = np.arange(x, x + patch.shape[1]) + 0.5 - position[0]
    down = np.arange(y, y + patch.shape[0]) + 0.5 - position[1]
    distance = np.hypot(across[None], down[:, None])
    covered = np.clip(DOT_RADIUS + 0.5 - distance, 0, 1)
    picture[rows, columns] = np.rint(_blend(patch, covered, DOT_COLOUR))
    return picture


def _blend(picture: NDArray[np.float32], share: Floats, colour: tuple[int, int, int]) -> NDArray[np.float32]:
    return picture + share[..., None].astype(np.float32) * (np.asarray(colour, np.float32) - picture)
