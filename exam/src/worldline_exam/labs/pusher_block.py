"""Lab `pusher-block`: a velocity-controlled disc pushes a square block on a table with friction and walls.

Pushing is quasi-static: nothing slides without contact, so positions are the full state. In a step of 0.1 s the pusher
moves by `velocity` times 0.1 s, in four equal parts. Let d be its overlap with the block, n the direction of the push
and r the lever from the centre of the block to the contact. The block then moves by

    shift = s n,   turn = s (r x n) / c^2,   s = d / (1 + (r x n)^2 / c^2),

which resolves the overlap for a frictionless contact and an ellipsoidal limit surface of the friction with the table.
c is the ratio of largest torque and force under uniform pressure: the mean distance of the points of the block from its
centre, 0.765 of half its side. A wall pushes the corners of the block back by the same rule. A block that cannot move
stops the pusher. Positions in m, angles in rad. Nothing is hidden, and only the initial state is random.

The state is rounded to float32 at each step, so a simulation from an observation equals the lab bit for bit.

Source: Lynch, Maekawa and Tanie (1992), "Manipulation and active sensing by pushing using tactile feedback", for the
ellipsoid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, INK, RED, YELLOW, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, Options, action, observation

STEP_S: Final = 0.1
MAX_SPEED: Final = 0.5
"""Bound of the pusher velocity along each axis, m/s; larger values are clipped."""
ROOM: Final = 0.5
"""Half the side of the table between the walls, m."""
LEVER: Final = 0.765
"""c relative to half the side of the block: mean distance of the points of a square from its centre."""
START: Final = 0.25
"""Bound of the initial position of the block along each axis, m."""

STATE: Final = ("pusher_position", "block_position", "block_angle")

_PARTS: Final = 4
_PASSES: Final = 6
_MIN_OVERLAP: Final = 1e-7
"""Smaller overlaps are ignored, m, so that single and batched simulations agree."""
_SIDES: Final = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bodies:
    """Poses of M pushers and blocks: pusher [M, 2], block [M, 2], angle [M]; float64."""

    pusher: Floats
    block: Floats
    angle: Floats


def _bodies(state: Arrays) -> _Bodies:
    turn = state["block_angle"].astype(float)
    return _Bodies(
        pusher=state["pusher_position"].astype(float),
        block=state["block_position"].astype(float),
        angle=np.arctan2(turn[:, 1], turn[:, 0]),
    )


class PusherBlock(ExamLab):
    """Observations: `pusher_position`, `block_position` [m], `block_angle`. Action: `velocity` [m/s].

    Options of `reset`: values [2] by observation signal, with positions on the table.

    Args:
        block_half: half the side of the block, m, from 0.04 to 0.15.
        pusher_radius: m, from 0.03 to 0.08.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(self, *, block_half: float = 0.1, pusher_radius: float = 0.05, pictures: bool = False) -> None:
        self.block_half, self.pusher_radius = block_half, pusher_radius
        self._state: dict[str, Floats] = {}
        super().__init__(pictures=pictures)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Positions, angle of the block and velocity of the pusher."""
        room, speed = (-ROOM, ROOM), (-MAX_SPEED, MAX_SPEED)
        return (
            observation("pusher_position", 2, "m", entity="pusher", ends=room),
            observation("block_position", 2, "m", entity="block", ends=room),
            observation("block_angle", 2, entity="block", ends=(-1.0, 1.0), components=("cos", "sin")),
            action("velocity", 2, "m/s", entity="pusher", ends=speed),
        )

    def _start(self, options: Options) -> None:
        initial, draw = read_options(options, dict.fromkeys(STATE, (2,))), self.np_random.uniform
        block, angle = draw(-START, START, 2), draw(-np.pi, np.pi)
        reach, clear = ROOM - self.pusher_radius, np.sqrt(2) * self.block_half + self.pusher_radius
        pusher = draw(-reach, reach, 2)
        while np.linalg.norm(pusher - block) < clear:
            pusher = draw(-reach, reach, 2)
        drawn = {
            "pusher_position": pusher,
            "block_position": block,
            "block_angle": np.array([np.cos(angle), np.sin(angle)]),
        }
        self._state = {name: np.array(initial.get(name, value), np.float32)[None] for name, value in drawn.items()}

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        self._state = self._moved(self._state, action["velocity"][None])

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image: walls, a blue block with a yellow mark on its right side, and a red pusher."""
        return self._draw(shown) if shown.keys() >= set(STATE) else None

    def _draw(self, shown: Arrays) -> NDArray[np.uint8]:
        picture = Picture(-ROOM - 0.05, ROOM + 0.05)
        for side in (-1.0, 1.0):
            picture.box(side * (ROOM + 0.05), 0.0, 0.05, 1.0, INK)
            picture.box(0.0, side * (ROOM + 0.05), 1.0, 0.05, INK)
        (x, y), (cos, sin) = shown["block_position"], shown["block_angle"]
        angle, half = float(np.arctan2(sin, cos)), self.block_half
        picture.box(float(x), float(y), half, half, BLUE, angle)
        mark = (float(x + 0.65 * half * cos), float(y + 0.65 * half * sin))
        picture.box(*mark, 0.2 * half, 0.7 * half, YELLOW, angle)
        px, py = shown["pusher_position"]
        picture.disc(float(px), float(py), self.pusher_radius, RED)
        return picture.pixels()

    def explorer(self) -> Policy:
        """Approaches the block, pushes it and wanders."""
        return PusherBlockExplorer(behind=np.sqrt(2) * self.block_half + self.pusher_radius)

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel, bit for bit like `step`, without a change of this lab.

        Args:
            start: the three vector observation signals [M, 2].
            actions: `velocity` [M, T, 2].

        Returns:
            The three signals [M, T, 2] float32.
        """
        state: Arrays = {name: np.asarray(start[name], np.float32) for name in STATE}
        path = []
        for step in range(actions["velocity"].shape[1]):
            state = self._moved(state, actions["velocity"][:, step])
            path.append(state)
        return {name: np.stack([step_state[name] for step_state in path], 1) for name in state}

    def gap(self, state: Arrays) -> Floats:
        """Gap between pusher and block [...] m, for the signals [..., 2]; about 0 in contact."""
        shape = state["block_position"].shape[:-1]
        flat = {name: np.asarray(state[name], dtype=float).reshape(-1, 2) for name in state if name != "camera"}
        return -self._overlap(_bodies(flat))[0].reshape(shape)

    def _moved(self, state: Arrays, velocity: NDArray[np.generic]) -> dict[str, Floats]:
        """The signals [M, 2] after one step."""
        move = np.clip(velocity.astype(float), -MAX_SPEED, MAX_SPEED) * STEP_S
        now, reach = _bodies(state), ROOM - self.pusher_radius
        pusher, block, angle = np.clip(now.pusher + move, -reach, reach), now.block.copy(), now.angle.copy()
        far = np.linalg.norm(now.pusher - now.block, axis=-1) - np.linalg.norm(move, axis=-1)
        near = np.flatnonzero(far < np.sqrt(2) * self.block_half + self.pusher_radius)
        if len(near):
            some = _Bodies(pusher=now.pusher[near], block=block[near], angle=angle[near])
            for _ in range(_PARTS):
                along = np.clip(some.pusher + move[near] / _PARTS, -reach, reach)
                some = self._settled(_Bodies(pusher=along, block=some.block, angle=some.angle))
            pusher[near], block[near], angle[near] = some.pusher, some.block, some.angle
        turned = np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
        same = (angle == now.angle)[:, None]  # avoids rounding by the conversion from angle to cosine
        return {
            "pusher_position": pusher.astype(np.float32),
            "block_position": block.astype(np.float32),
            "block_angle": np.where(same, state["block_angle"], turned).astype(np.float32),
        }

    def _settled(self, bodies: _Bodies) -> _Bodies:
        """Resolves overlaps: pusher and walls push the block in turn, then the block stops the pusher."""
        now = bodies
        for _ in range(_PASSES):
            depth, normal, lever = self._overlap(now)
            sunk = np.where(depth > _MIN_OVERLAP, depth, 0.0)
            now = self._pushed(now, sunk[:, None], normal[:, None], lever[:, None])
            walls = self._behind_walls(now)
            if walls is not None:
                now = self._pushed(now, *walls)
            if not sunk.any() and (walls is None or not walls[0].any()):
                break
        walls = self._behind_walls(now)
        if walls is not None:
            back = walls[0][..., None] * walls[1]
            now = _Bodies(pusher=now.pusher, block=now.block + back.max(1) + back.min(1), angle=now.angle)
        depth, normal, _ = self._overlap(now)
        reach = ROOM - self.pusher_radius
        stopped = np.clip(now.pusher - np.where(depth > _MIN_OVERLAP, depth, 0.0)[:, None] * normal, -reach, reach)
        return _Bodies(pusher=stopped, block=now.block, angle=now.angle)

    def _pushed(self, bodies: _Bodies, depth: Floats, normal: Floats, lever: Floats) -> _Bodies:
        """The rule of the module for K simultaneous contacts: depth [M, K], normal and lever [M, K, 2]."""
        torque = lever[..., 0] * normal[..., 1] - lever[..., 1] * normal[..., 0]
        square = (LEVER * self.block_half) ** 2
        push = depth / (1 + torque**2 / square)
        shift, turn = (push[..., None] * normal).sum(1), (push * torque).sum(1) / square
        return _Bodies(pusher=bodies.pusher, block=bodies.block + shift, angle=bodies.angle + turn)

    def _overlap(self, bodies: _Bodies) -> tuple[Floats, Floats, Floats]:
        """Overlap of pusher and block [M] (negative: their distance), direction of the push [M, 2], lever [M, 2]."""
        cos, sin = np.cos(bodies.angle), np.sin(bodies.angle)
        away = bodies.pusher - bodies.block
        inside = np.stack([cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0]], -1)
        nearest = np.clip(inside, -self.block_half, self.block_half)
        lever = np.stack([cos * nearest[:, 0] - sin * nearest[:, 1], sin * nearest[:, 0] + cos * nearest[:, 1]], -1)
        towards = lever - away
        distance = np.sqrt((towards**2).sum(-1))
        # The centre of the pusher is inside the block only in given states: it then pushes at the centre.
        inside_block = distance < _MIN_OVERLAP
        towards = np.where(inside_block[:, None], -away + _MIN_OVERLAP, towards)
        normal = towards / np.sqrt((towards**2).sum(-1))[:, None]
        return self.pusher_radius - distance, normal, lever

    def _behind_walls(self, bodies: _Bodies) -> tuple[Floats, Floats, Floats] | None:
        """Overlap [M, 8], push and lever [M, 8, 2] of each of 4 corners with its 2 nearest walls.

        None if no block is near a wall.
        """
        if np.abs(bodies.block).max() < ROOM - np.sqrt(2) * self.block_half:
            return None
        cos, sin = np.cos(bodies.angle)[:, None], np.sin(bodies.angle)[:, None]
        corner = self.block_half * _SIDES
        lever = np.stack([cos * corner[:, 0] - sin * corner[:, 1], sin * corner[:, 0] + cos * corner[:, 1]], -1)
        place = bodies.block[:, None] + lever
        deep = np.abs(place) - ROOM
        deep = np.where(deep > _MIN_OVERLAP, deep, 0.0)
        inward = -np.sign(place)[..., None] * np.eye(2)
        count = len(place)
        return deep.reshape(count, 8), inward.reshape(count, 8, 2), np.repeat(lever, 2, axis=1)

    def _look(self) -> NDArray[np.uint8]:
        return self._draw({name: value[0] for name, value in self._state.items()})

    def _seen(self) -> dict[str, Any]:
        return {name: value[0].copy() for name, value in self._state.items()}


class PusherBlockExplorer(Policy):
    """Approaches the block, pushes it in a random direction, and wanders, in turn.

    Pushes towards the centre of the table are more frequent, so that blocks do not stay in corners. Speed and direction
    are noisy.

    Args:
        behind: distance of the centres at the start of a push, m.
    """

    def __init__(self, *, behind: float) -> None:
        self._behind = behind
        self._mode, self._left, self._heading, self._speed = "wander", 0, 0.0, 0.0
        self._aim: Floats = np.zeros(2)

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first mode."""
        self._begin(("approach", "wander")[int(generator.random() < 0.4)], np.zeros(2), generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A velocity of at most `MAX_SPEED` along each axis."""
        pusher, block = (np.asarray(observation[f"{n}_position"], dtype=float) for n in ("pusher", "block"))
        if self._left <= 0:
            follows = {"approach": "push", "push": "wander" if generator.random() < 0.4 else "approach"}
            self._begin(follows.get(self._mode, "approach"), block, generator)
        self._left -= 1
        if self._mode == "wander":
            self._heading += generator.normal(0, 0.4)
        else:
            way = self._way(pusher, block)
            self._heading = float(np.arctan2(way[1], way[0])) + generator.normal(0, 0.25)
        velocity = self._speed * np.array([np.cos(self._heading), np.sin(self._heading)])
        velocity += generator.normal(0, 0.03, 2)
        return {"velocity": np.clip(velocity, -MAX_SPEED, MAX_SPEED).astype(np.float32)}

    def _begin(self, mode: str, block: Floats, generator: np.random.Generator) -> None:
        self._mode = mode
        self._left = int(generator.integers(4, 13))
        self._speed = generator.uniform(0.2, 1.0) * MAX_SPEED
        if mode == "approach":
            to = generator.standard_normal(2) - block / 0.2
            self._aim = to / max(float(np.linalg.norm(to)), 1e-6)
        elif mode == "wander":
            self._heading = generator.uniform(-np.pi, np.pi)
        # An offset from the centre turns the block.
        self._offset = generator.normal(0, 0.4) * self._behind * np.array([-self._aim[1], self._aim[0]])

    def _way(self, pusher: Floats, block: Floats) -> Floats:
        """Direction of the motion of the pusher."""
        if self._mode == "push":
            return np.asarray(self._aim)
        way = block + self._offset - 1.05 * self._behind * self._aim - pusher
        if np.linalg.norm(way) < 0.5 * self._speed * STEP_S + 0.01:
            self._left = 0  # arrived; the push starts with the next action
        return np.asarray(way)
