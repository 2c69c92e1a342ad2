"""A text model behind a chat endpoint as an engine: told the past and the next input, it tells the next values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json, to_json
from worldline.engines.base import CallCost, Card, Engine, EngineBelief, Noise, Parts, Samples, Storable
from worldline.engines.language.chat import Chat, Request
from worldline.engines.language.endpoint import Endpoint
from worldline.engines.language.prompt import (
    PROMPT,
    PROMPT_HASH,
    answer_schema,
    describe_signals,
    read_answer,
    tell,
)
from worldline.engines.validation import check_future, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Future, History
from worldline.errors import ConfigError, DataError, InputError
from worldline.schema import Kind, Schema, Signal

Row = Mapping[str, Any]
"""A step as the prompt tells it: "observations" and, but for the last one, "inputs"."""

MAX_CONTEXT = 10_000
MAX_ABOUT = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """The belief: the last steps of each of W worlds, as they are told.

    Args:
        worlds: W times at most `context` steps, the oldest first.
    """

    worlds: tuple[tuple[Row, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What a bundle holds of the engine."""

    endpoint: Endpoint
    inputs: tuple[str, ...]
    context: int
    about: str
    digits: int
    name: str
    call: CallCost | None
    prompt: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageEngine(Engine, Storable):
    """Asks a text model for each step: one request tells the past and one input, and the answer joins the past.

    No later action can leak into an earlier step, since it is not told. T steps of S samples of N versions in W worlds
    are up to W * N * S * T requests; versions that begin alike share those, and what was asked before is not asked
    again. So a world over it wants a planner that looks at few plans, such as `Shooting(num_candidates=8)`.

    Draws are those of the endpoint: each sample and step carries a seed of its own, the same for all versions. How far
    an endpoint heeds seeds is its own affair; that equal questions get equal answers is what `Chat` sees to.

    Args:
        schema: of the world. Images are neither shown nor predicted.
        chat: the endpoint.
        inputs: observation signals that are shown and predicted, vectors and discrete ones; empty for all of those.
        context: H, observations that are shown.
        about: facts on the world that help to predict it, in words.
        digits: significant digits that numbers are told with, 2 to 17.
        name: on the card.
        call: what a step of a sample costs, such as `measured` gives; None where it was not measured.

    Raises:
        ConfigError: there is no signal to predict, or an argument is out of range.
    """

    schema: Schema
    chat: Chat
    inputs: tuple[str, ...] = ()
    context: int = 8
    about: str = ""
    digits: int = 6
    name: str = "language"
    call: CallCost | None = None

    def __post_init__(self) -> None:
        known = {signal.name: signal for signal in self.schema.observations}
        for name in self.inputs:
            if name not in known or known[name].kind is Kind.IMAGE:
                what = "an image" if name in known else "no observation signal"
                raise ConfigError(f"inputs names {name!r}, {what}. A text model takes vectors and discrete signals.")
        if not self.signals:
            raise ConfigError(
                "the schema has no vector and no discrete observation signal, and a text model is shown nothing else. "
                "Take an engine that learns from images."
            )
        if not (1 <= self.context <= MAX_CONTEXT and 2 <= self.digits <= 17 and len(self.about) <= MAX_ABOUT):
            raise ConfigError(
                f"context {self.context} must be in 1 to {MAX_CONTEXT}, digits {self.digits} in 2 to 17, and about "
                f"hold at most {MAX_ABOUT} characters; it has {len(self.about)}."
            )

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The signals that are shown and predicted."""
        told = [signal for signal in self.schema.observations if signal.kind is not Kind.IMAGE]
        return tuple(signal for signal in told if not self.inputs or signal.name in self.inputs)

    @property
    def deterministic(self) -> bool:
        """Whether the likeliest answer is asked for, with no draw."""
        return self.chat.endpoint.temperature == 0

    def describe(self) -> Card:
        """What this engine is."""
        names = tuple(signal.name for signal in self.signals)
        endpoint = self.chat.endpoint
        return Card(
            name=self.name,
            engine="language",
            schema=self.schema,
            inputs=names,
            predicts=names,
            context=self.context,
            deterministic=self.deterministic,
            call=self.call,
            notes={"model": endpoint.model, "endpoint": endpoint.origin, "prompt": PROMPT_HASH},
        )

    def measured(self) -> CallCost | None:
        """What a step of a sample took and cost so far, the median and the mean; None where nothing was asked.

        Only what the endpoint answered counts, not what was known. A prediction of T steps takes T times the latency
        (samples and versions are asked side by side, `num_concurrent` at a time) and S * T times the price.

        Raises:
            UnsupportedError: there are prices, and the endpoint does not tell its tokens.
        """
        return self.chat.measured()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Told:
        """The last `context` steps; see `Engine`."""
        del seed  # nothing is drawn
        before = None if belief is None else own_belief(belief, Told)
        num_worlds, length = check_observations(steps, self.signals)
        check_inputs(steps, self.schema, length - 1 if before is None else length)
        if before is not None and len(before.worlds) != num_worlds:
            raise InputError(f"the belief is of {len(before.worlds)} worlds, and the steps are of {num_worlds}.")
        return Told(
            worlds=tuple(
                self._grown(() if before is None else before.worlds[world], steps, world) for world in range(num_worlds)
            )
        )

    def imagine(
        self,
        belief: EngineBelief,
        future: Future,
        *,
        num_samples: int,
        noise: Noise | None = None,
        seed: int,
    ) -> Samples:
        """What the text model tells, step by step; see `Engine`.

        Raises:
            NoGoodAnswerError: an answer was no good in any try; see `Chat.answers`.
            UnavailableError: an answer did not come, is not in the transcript, or is beyond the limit.
            BundleError: the endpoint comes from a bundle, and the user did not list it.
        """
        del noise  # the endpoint draws
        told, size = own_belief(belief, Told), check_future(future, self.schema)
        if len(told.worlds) != size.num_worlds:
            raise InputError(f"the belief is of {len(told.worlds)} worlds, and the future is of {size.num_worlds}.")
        shape = (size.num_worlds, size.num_versions, 1 if self.deterministic else num_samples)
        imagined: dict[str, NDArray[np.generic]] = {
            signal.name: np.zeros((*shape, size.horizon, *signal.shape), signal.dtype) for signal in self.signals
        }
        places = list(product(*map(range, shape)))
        paths = {place: told.worlds[place[0]] for place in places}
        read = partial(read_answer, signals=self.signals)
        for step in range(size.horizon):
            inputs = {place: self._applied(future, place[0], place[1], step) for place in places}
            seeds = [0 if self.deterministic else _seed(seed, sample, step) for sample in range(shape[2])]
            asked = [self._request(paths[place], inputs[place], seeds[place[2]]) for place in places]
            for place, answer in zip(places, self.chat.answers(asked, read), strict=True):
                for name, value in answer.items():
                    imagined[name][(*place, step)] = value
                paths[place] = self._longer(paths[place], inputs[place], self._observations(answer))
        return Samples(signals=imagined)

    def to_parts(self) -> Parts:
        """All settings but the transcript and the limits on requests, which are those of a machine and of a user."""
        stored = _Stored(
            endpoint=self.chat.endpoint,
            inputs=self.inputs,
            context=self.context,
            about=self.about,
            digits=self.digits,
            name=self.name,
            call=self.call,
            prompt=PROMPT_HASH,
        )
        return Parts(config=json.loads(to_json(stored)))

    @classmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> LanguageEngine:
        """The engine, with a `Chat` that asks only an endpoint which the user listed; see `engines/language/endpoint.py`.

        Building it sends nothing. To give it a transcript, or to let it ask without the list,
        `replace(engine, chat=Chat(engine.chat.endpoint, transcript=...))`.

        Raises:
            DataError: the parts are not those of this engine, or were written with other instructions for the model.
        """
        fix = "Take the bundle as it was written"
        try:
            stored = from_json(_Stored, json.dumps(dict(parts.config)), where="language engine")
            if parts.arrays:
                raise ConfigError(f"a language engine has no arrays, and there are {sorted(parts.arrays)}.")
            if stored.prompt != PROMPT_HASH:
                fix = "Calibrate the engine again, and write it anew"
                raise ConfigError(f"the instructions for the model were {stored.prompt!r}, and are now {PROMPT_HASH}.")
            return cls(
                schema=schema,
                chat=Chat(stored.endpoint, listed_only=True),
                inputs=stored.inputs,
                context=stored.context,
                about=stored.about,
                digits=stored.digits,
                name=stored.name,
                call=stored.call,
            )
        except (ConfigError, TypeError, ValueError) as error:
            raise DataError(str(error).rstrip("."), fix=f"{fix}.") from error

    def _grown(self, rows: tuple[Row, ...], steps: History, world: int) -> tuple[Row, ...]:
        """`rows` and the steps of one world after them."""
        inputs = {**steps.actions, **steps.exogenous}
        after = 1 if not rows else 0  # from a fresh start the first input comes after the first observation
        for step in range(steps.observations[self.signals[0].name].shape[1]):
            values = {signal.name: steps.observations[signal.name][world, step, ...] for signal in self.signals}
            hidden = {name for name, mask in steps.observed.items() if not mask[world, step]}
            shown = self._observations(values, hidden)
            if not rows:
                rows = ({"observations": shown},)
                continue
            taken = {signal.name: inputs[signal.name][world, step - after, ...] for signal in self._driving}
            rows = self._longer(rows, self._inputs(taken), shown)
        return rows

    @property
    def _driving(self) -> tuple[Signal, ...]:
        return (*self.schema.actions, *self.schema.exogenous)

    def _longer(self, rows: tuple[Row, ...], inputs: Row, observations: Row) -> tuple[Row, ...]:
        """`rows`, what was done then, and what came of it; the last `context` of them."""
        done = {**rows[-1], "inputs": inputs}
        return (*rows[:-1], done, {"observations": observations})[-self.context :]

    def _observations(self, values: Arrays, hidden: Set[str] = frozenset()) -> Row:
        """One step's observations, null where hidden."""
        return {
            signal.name: None if signal.name in hidden else tell(signal, values[signal.name], digits=self.digits)
            for signal in self.signals
        }

    def _inputs(self, values: Arrays) -> Row:
        """One step's actions and exogenous values."""
        return {signal.name: tell(signal, values[signal.name], digits=self.digits) for signal in self._driving}

    def _applied(self, future: Future, world: int, version: int, step: int) -> Row:
        actions = {name: value[world, version, step, ...] for name, value in future.actions.items()}
        return self._inputs({**actions, **{name: value[world, step, ...] for name, value in future.exogenous.items()}})

    def _request(self, rows: tuple[Row, ...], inputs: Row, seed: int) -> Request:
        question = {
            "about": self.about,
            "step_s": self.schema.step_s,
            "signals": describe_signals((*self.signals, *self._driving)),
            "history": rows,
            "apply": inputs,
            "predict": [signal.name for signal in self.signals],
            "answer": "expectation" if self.deterministic else "draw",
        }
        messages = [("system", PROMPT), ("user", json.dumps(question, ensure_ascii=False))]
        return self.chat.request(messages, schema=answer_schema(self.signals), seed=seed)


def _seed(seed: int, sample: int, step: int) -> int:
    """31 bits for one draw. A seed that all steps shared would make their noise the same."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sample} {step}".encode()).digest()[:4]) >> 1
