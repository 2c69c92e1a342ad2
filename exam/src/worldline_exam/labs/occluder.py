"""Lab `occluder`: a ball rolls on one of two rails past a screen, a pit and a barrier.

The rails lie one above the other, `LEVEL` apart. A wall in the middle of the stage, a pit, and the door in a barrier
across both rails are each on one rail. Whether they stop the ball therefore depends on its rail.

In one step of 0.1 s, position in m and velocity in m/s, semi-implicit Euler:

    rolling   vx' = vx + 0.1 * push, kept within `SPEEDS`;  x' = x + 0.1 * vx'
    falling   vx' = vx;  vy' = vy - 0.1 * 9.81;  x' = x + 0.1 * vx';  y' = y + 0.1 * vy'

The ball rolls while y is at the height of its rail. It falls from the step in which it passes the edge of a pit; the
push still acts in that step. Every obstacle stops the ball for good: the wall on its rail, the bottom of the pit, the
barrier and the end of the stage. The ball passes the barrier only through the door, which is twice as high as the ball.
The colour of the ball is constant. Its brightness changes: the right half of the stage is in the shade, which reduces
the brightness by the factor `shade`.

A screen hangs above the middle. It comes down when the ball reaches it and stays down. It hides the wall for the rest
of the episode, and the ball while its centre is behind the screen. Hidden signals are 0 and logged as not observed.

There is no noise. Hidden: only the wall and the ball behind the screen, both of which were visible before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import GREEN, GREY, INK, PAPER, YELLOW, Colour, Hides, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, OccasionalActions, Options, action, observation

STEP_S: Final = 0.1
GRAVITY: Final = 9.81
RADIUS: Final = 0.13
LEVEL: Final = 1.25
"""Height of the upper rail above the lower one, m; exact in float32."""
UPPER: Final = 1.0
LOWER: Final = -1.0
MAX_PUSH: Final = 0.5
"""Bound of the push, m/s²; larger values are clipped."""
SPEEDS: Final = (0.5, 2.0)
"""Range of the speed of a rolling ball, m/s."""
STARTS: Final = (0.8, 1.6)
"""Range of the initial speed, m/s."""
LEFT_START: Final = (-1.6, -0.45)
RIGHT_START: Final = (0.5, 1.9)
EDGE: Final = 1.1
"""Left edge of the pit, m."""
BARRIER: Final = 2.2
"""Position of the barrier and right edge of the pit, m."""
END: Final = 3.0
"""Right end of the stage, m."""
LEFT_END: Final = -1.8
"""Left end of the image, m."""
SHADE: Final[Colour] = (216, 214, 210)
DOOR_PLAY: Final = 0.1
"""Largest distance of the centre of the door from the centre of a ball on its rail, m."""
DOOR: Final = 2 * RADIUS
"""Half the height of the door, m."""
MAX_DEPTH: Final = 0.7
_TOP: Final = 1.9
"""Top of barrier and screen, m above a ball on the lower rail."""


class Occluder(ExamLab, Hides):
    """Vector observations, some of which the screen hides. Action: `push` [m/s²].

    `ball_position` [m], `ball_velocity` [m/s] and `ball_brightness` are hidden with the ball. `ball_seen` is 1 while
    the ball is visible, else 0. `wall` is 1 on the upper rail, -1 on the lower one, and hidden by the screen. `pit` has
    the same values and is never hidden. `door` [m] is the height of its centre above a ball on the lower rail.
    `screen` is 1 once it is down.

    Options of `reset`: `rail` (1 or -1), `x` [m], `speed` [m/s], `colour`, `wall`, `pit` and `door` [m]. The ball must
    not start over the pit.

    Args:
        half_screen: half the width of the screen, m, from 0.2 to 0.4.
        shade: brightness ratio in the shade, from 0.2 to 1.
        depth: depth of the pit, m, above 0 and at most `MAX_DEPTH`.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(
        self, *, half_screen: float = 0.3, shade: float = 0.45, depth: float = 0.6, pictures: bool = False
    ) -> None:
        self.half_screen, self.shade, self.depth = half_screen, shade, depth
        self._state: dict[str, Floats] = {}
        super().__init__(pictures=pictures)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Eight observations and the push."""
        return (
            observation("ball_position", 2, "m", entity="ball"),
            observation("ball_velocity", 2, "m/s", entity="ball"),
            observation("ball_brightness", 1, entity="ball"),
            observation("ball_seen", 1, entity="ball"),
            observation("wall", 1, entity="stage"),
            observation("pit", 1, entity="stage"),
            observation("door", 1, "m", entity="stage"),
            observation("screen", 1, entity="stage"),
            action("push", 1, "m/s^2", entity="ball", ends=(-MAX_PUSH, MAX_PUSH)),
        )

    def _start(self, options: Options) -> None:
        draw = self.np_random.uniform
        rail, wall, pit, way = (float(self.np_random.choice([LOWER, UPPER])) for _ in range(4))
        right = (RIGHT_START[0], EDGE - RADIUS) if pit == rail else RIGHT_START
        starts = {"left": draw(*LEFT_START), "right": draw(*right)}
        drawn = {
            "rail": rail,
            "x": starts["left" if self.np_random.random() < 0.6 else "right"],
            "speed": draw(*STARTS),
            "colour": draw(0.3, 1.0),
            "wall": wall,
            "pit": pit,
            "door": (LEVEL if way == UPPER else 0.0) + draw(-DOOR_PLAY, DOOR_PLAY),
        }
        chosen = read_options(options, dict.fromkeys(drawn, ()))
        initial: dict[str, float] = {**drawn, **{name: float(value) for name, value in chosen.items()}}
        self._state = self.start(**{name: np.array([[value]]) for name, value in initial.items()})

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        self._state = self.advance(self._state, action["push"][None])

    def start(
        self, *, rail: Floats, x: Floats, speed: Floats, colour: Floats, wall: Floats, pit: Floats, door: Floats
    ) -> dict[str, Floats]:
        """Initial states for `simulate` of M balls on their rails, from arrays [M, 1]."""
        zero = np.zeros_like(x)
        return self._show(
            {
                "ball_position": np.concatenate([x, np.where(rail > 0, LEVEL, 0.0)], 1),
                "ball_velocity": np.concatenate([speed, zero], 1),
                "wall": wall,
                "pit": pit,
                "door": door,
                "screen": zero,
            },
            colour,
        )

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates action sequences with nothing hidden, independent of the state of this environment.

        Args:
            start: vector observation signals [M, *shape], with true values of hidden signals.
            actions: action signals [M, T, *shape].

        Returns:
            Vector observation signals [M, T, *shape], float32.
        """
        state, path = {name: np.asarray(value, dtype=float) for name, value in start.items()}, []
        for step in range(actions["push"].shape[1]):
            state = self.advance(state, actions["push"][:, step].astype(float))
            path.append(state)
        return {name: np.stack([step_state[name] for step_state in path], 1).astype(np.float32) for name in path[0]}

    def hidden(self, states: Arrays) -> dict[str, NDArray[np.bool_]]:
        """Masks [...] of hidden values of states [..., *shape], by signal."""
        ball = states["ball_seen"][..., 0].astype(float) < 0.5
        screen = states["screen"][..., 0].astype(float) > 0.5
        return {"ball_position": ball, "ball_velocity": ball, "ball_brightness": ball, "wall": screen}

    def seen(self, observation: Mapping[str, Any]) -> Mapping[str, bool]:
        """Whether ball and wall are observed."""
        flags = {name: np.asarray(observation[name])[None] for name in ("ball_seen", "screen")}
        return {name: not bool(hidden[0]) for name, hidden in self.hidden(flags).items()}

    def advance(self, state: Mapping[str, Floats], push: Floats) -> dict[str, Floats]:
        """The next states [M, *shape].

        Args:
            state: vector observation signals [M, *shape] with nothing hidden.
            push: [M, 1] m/s².
        """
        (x, y), (vx, vy) = state["ball_position"].T, state["ball_velocity"].T
        at_rest = (vx == 0) & (vy == 0)
        level = np.where(y > LEVEL - MAX_DEPTH - RADIUS, LEVEL, 0.0)
        rail = np.where(level > 0, UPPER, LOWER)
        rolls = (y == level) & ~at_rest
        pushed = np.clip(vx + STEP_S * np.clip(push[:, 0], -MAX_PUSH, MAX_PUSH), *SPEEDS)
        vx = np.where(rolls, pushed, vx)
        ahead = x + STEP_S * vx
        falls = ~at_rest & ((y < level) | ((state["pit"][:, 0] == rail) & (ahead > EDGE) & (x <= EDGE)))
        vy = np.where(falls, vy - STEP_S * GRAVITY, 0.0)
        below = np.where(falls, y + STEP_S * vy, y)
        stop = np.full_like(x, END - RADIUS)
        barred = np.abs(state["door"][:, 0] - level) > DOOR - RADIUS
        for place, blocks in ((BARRIER, barred), (0.0, state["wall"][:, 0] == rail)):
            stop = np.where(blocks & (x <= place - RADIUS), place - RADIUS, stop)
        met = at_rest | (~falls & (ahead >= stop)) | (falls & (below <= level - self.depth))
        after = dict(state)
        after["ball_position"] = np.stack([np.where(falls, ahead, np.minimum(ahead, stop)), below], 1)
        after["ball_position"][:, 1] = np.maximum(below, level - self.depth)
        after["ball_velocity"] = np.where(met[:, None], 0.0, np.stack([vx, vy], 1))
        return self._show(after, self.colour(state))

    def colour(self, state: Arrays) -> Floats:
        """Brightness [M, 1] of the ball outside the shade."""
        return np.asarray(state["ball_brightness"].astype(float) / self._light(state["ball_position"].astype(float)))

    def draw(self, state: Arrays) -> UInt8[np.ndarray, "64 64 3"]:
        """The image of one state [*shape]."""
        x, y = (float(value) for value in state["ball_position"])
        wall, pit, door, screen, seen, brightness = (
            float(state[name][0]) for name in ("wall", "pit", "door", "screen", "ball_seen", "ball_brightness")
        )
        picture = Picture(LEFT_END, END)
        self._draw_stage(picture, pit, door)
        if wall != 0 and screen < 0.5:  # omitted behind the screen, whose smooth edge would reveal it
            picture.box(0.0, (LEVEL if wall == UPPER else 0.0) - RADIUS + 0.25, 0.06, 0.25, GREEN)
        half = (_TOP + RADIUS) / 2
        hangs = -RADIUS if screen > 0.5 else _TOP - RADIUS
        picture.line(0.0, hangs + half, 0.0, END, 0.05, INK)
        picture.box(0.0, hangs + half, self.half_screen, half, YELLOW)
        if seen > 0.5:
            bright: Colour = (int(255 * min(brightness, 1.0)), 30, 30)
            picture.disc(x, y, RADIUS, bright)
        return picture.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation. Objects behind the screen are not drawn."""
        needed = {"ball_seen", "pit", "door", "screen"}
        if not shown.keys() >= needed:
            return None
        if float(shown["ball_seen"][0]) > 0.5:
            needed |= {"ball_position", "ball_brightness"}
        if float(shown["screen"][0]) < 0.5:
            needed |= {"wall"}
        if not shown.keys() >= needed:
            return None
        return self.draw({s.name: shown.get(s.name, np.zeros(s.shape)) for s in self.schema.observations})

    def explorer(self) -> Policy:
        """Small pushes in half of the episodes on average."""
        return OccasionalActions(
            lambda generator: {"push": np.clip(0.3 * generator.standard_normal(1), -MAX_PUSH, MAX_PUSH)}
        )

    def _draw_stage(self, picture: Picture, pit: float, door: float) -> None:
        """Rails, pit, shade and barrier."""
        middle, thick = (EDGE + BARRIER) / 2, MAX_DEPTH / 2 + 0.03
        picture.box(END / 2, END / 2, END / 2, END / 2 + RADIUS, SHADE)
        for rail, level in ((UPPER, LEVEL), (LOWER, 0.0)):
            picture.box(0.0, level - RADIUS - thick, 4.0, thick, GREY)
            if pit == rail:
                picture.box(middle, level - RADIUS - self.depth / 2, middle - EDGE, self.depth / 2, PAPER)
        for low, high in ((-RADIUS, door - DOOR), (door + DOOR, _TOP)):
            if high > low:
                picture.box(BARRIER, (low + high) / 2, 0.06, (high - low) / 2, INK)

    def _light(self, position: Floats) -> Floats:
        """The brightness factor [M, 1] at positions [M, 2]."""
        return np.where(position[:, :1] > 0, self.shade, 1.0)

    def _show(self, state: Mapping[str, Floats], colour: Floats) -> dict[str, Floats]:
        """The state with derived signals: `ball_seen`, `screen` and `ball_brightness`."""
        position = state["ball_position"]
        behind = (np.abs(position[:, :1]) < self.half_screen).astype(float)
        return {
            **state,
            "ball_brightness": colour * self._light(position),
            "ball_seen": 1.0 - behind,
            "screen": np.maximum(state["screen"], behind),
        }

    def _look(self) -> NDArray[np.uint8]:
        return self.draw({name: value[0] for name, value in self._state.items()})

    def _seen(self) -> dict[str, Any]:
        hidden = self.hidden(self._state)
        return {
            name: np.where(name in hidden and bool(hidden[name][0]), 0.0, value[0]).astype(np.float32)
            for name, value in self._state.items()
        }
