"""A language model behind a chat endpoint, as an engine: it predicts the next values from the history in a prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set, Sized
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from typing import Annotated, Any, final

import numpy as np
from numpy.typing import NDArray

from worldline.config import BoundedConfig, Bounds, from_json, to_json
from worldline.engines.base import CallCost, Card, EngineBelief, Noise, Parts, ReplayedHistory, Samples, Storable
from worldline.engines.language.chat import Chat, Request
from worldline.engines.language.endpoint import Endpoint
from worldline.engines.language.prompt import (
    PROMPT,
    PROMPT_HASH,
    PromptValue,
    answer_schema,
    describe_signals,
    read_answer,
    to_prompt_value,
)
from worldline.engines.numpy_engine import NumpyEngine
from worldline.engines.validation import check_future, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Future, History
from worldline.errors import ConfigError, DataError, InputError
from worldline.schema import Kind, Schema, Signal

Row = Mapping[str, Any]
"""A step as in the prompt: "observations" and, except in the last step, "inputs"."""

MAX_ABOUT = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptHistory:
    """The belief: the last steps of each of W worlds, as in the prompt.

    Args:
        worlds: W times at most `context` steps, the oldest first.
    """

    worlds: tuple[tuple[Row, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Settings(BoundedConfig):
    """The settings that a bundle stores as they are; see `LanguageEngine`."""

    inputs: tuple[str, ...] = ()
    context: Annotated[int, Bounds(at_least=1, at_most=10_000)] = 8
    about: str = ""
    digits: Annotated[int, Bounds(at_least=2, at_most=17)] = 6
    name: str = "language"
    call: CallCost | None = None


@dataclass(frozen=True, kw_only=True)
class _Stored(_Settings):
    """All that a bundle stores."""

    endpoint: Endpoint
    prompt: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageEngine(_Settings, NumpyEngine, Storable):
    """Predicts one step per request: the prompt holds the history and one input, and the answer extends the history.

    Later actions cannot leak into an earlier step, because its prompt does not hold them. T steps of S samples of N
    versions in W worlds need up to W * N * S * T requests. Versions with a common beginning share requests, and answers
    are cached. Use a planner with few candidates, such as `Shooting(num_candidates=8)`.

    The endpoint draws the samples: each sample and step has its own seed, which all versions share. An endpoint may
    ignore seeds; `Chat` caches answers, so equal requests get equal answers.

    Args:
        schema: of the world. Images are left out of the prompt and of the predictions.
        chat: the endpoint.
        inputs: vector and discrete observation signals in the prompt and in the predictions; empty for all.
        context: H, number of observations in the prompt.
        about: facts about the world that help to predict it, as text.
        digits: significant digits of the numbers in the prompt, 2 to 17.
        name: on the card.
        call: latency and price of one step of one sample, as from `measured`; None if not measured.

    Raises:
        ConfigError: there is no signal to predict, or an argument is out of range.
    """

    schema: Schema
    chat: Chat

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {signal.name: signal for signal in self.schema.observations}
        for name in self.inputs:
            if name not in known or known[name].kind is Kind.IMAGE:
                raise ConfigError(f"inputs names {name!r}. Name vector or discrete observations.")
        if not self.signals:
            raise ConfigError(
                "the schema has no vector and no discrete observation signal, and a language model takes no others. "
                "Use an engine that learns from images."
            )
        if len(self.about) > MAX_ABOUT:
            raise ConfigError(f"about has {len(self.about)} characters. Give at most {MAX_ABOUT}.")

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The observation signals in the prompt and in the predictions."""
        candidates = [signal for signal in self.schema.observations if signal.kind is not Kind.IMAGE]
        return tuple(signal for signal in candidates if not self.inputs or signal.name in self.inputs)

    @property
    def deterministic(self) -> bool:
        """Whether the temperature is 0, so that the most likely answer is requested instead of a draw."""
        return self.chat.endpoint.temperature == 0

    def describe(self) -> Card:
        """The signals and settings of this engine."""
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
        """Median latency and mean price of one step of one sample so far; None before the first request.

        Cached answers do not count. A prediction of T steps takes T times the latency and costs S * T times the price.
        Samples and versions are requested in parallel, `num_concurrent` at a time.

        Raises:
            UnsupportedError: tokens have prices, but the endpoint does not report token counts.
        """
        return self.chat.measured()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> PromptHistory:
        """The last `context` steps."""
        before = None if belief is None else own_belief(belief, PromptHistory)
        num_worlds, length = check_observations(steps, self.signals)
        check_inputs(steps, self.schema, length - 1 if before is None else length)
        rows: tuple[tuple[Row, ...], ...] = ((),) * num_worlds if before is None else before.worlds
        _same_number(rows, num_worlds)
        return PromptHistory(worlds=tuple(self._grown(rows[world], steps, world) for world in range(num_worlds)))

    def replay(self, steps: History, num_steps: int, *, num_samples: int, seed: int) -> ReplayedHistory:
        """As in `Engine`; the requests of all steps are sent together, not one after the other."""
        length = check_observations(steps, self.signals)[1]
        beliefs = [self.observe(None, steps.window(0, length - num_steps, axis=1), seed=seed)]
        for now in range(length - num_steps, length):
            beliefs.append(self.observe(beliefs[-1], steps.step(now), seed=seed))
        if not num_steps:
            return ReplayedHistory(belief=beliefs[-1], signals={})

        def by_step(values: NDArray[np.generic]) -> NDArray[np.generic]:
            """The last inputs [W, L, *shape] as [L * W, 1, *shape]."""
            return np.concatenate([values[:, [step]] for step in range(-num_steps, 0)])

        future = Future(
            actions={name: by_step(value)[:, None] for name, value in steps.actions.items()},
            exogenous={name: by_step(value) for name, value in steps.exogenous.items()},
        )
        together = PromptHistory(worlds=tuple(world for belief in beliefs[:-1] for world in belief.worlds))
        samples = self.imagine(together, future, num_samples=num_samples, seed=seed).signals
        signals = {n: np.stack(np.split(value[:, 0, :, 0], num_steps), axis=1) for n, value in samples.items()}
        return ReplayedHistory(belief=beliefs[-1], signals=signals)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The language model's answers, step by step.

        Raises:
            NoGoodAnswerError: no attempt gave a valid answer; see `Chat.answers`.
            UnavailableError: the endpoint did not answer, the transcript lacks the answer, or a limit is reached.
            BundleError: the endpoint comes from a bundle, and the user did not list it.
        """
        history, size = own_belief(belief, PromptHistory), check_future(future, self.schema)
        _same_number(history.worlds, size.num_worlds)
        shape = (size.num_worlds, size.num_versions, 1 if self.deterministic else num_samples)
        imagined: dict[str, NDArray[np.generic]] = {
            signal.name: np.zeros((*shape, size.horizon, *signal.shape), signal.dtype) for signal in self.signals
        }
        places = list(product(*map(range, shape)))
        paths = {place: history.worlds[place[0]] for place in places}
        read = partial(read_answer, signals=self.signals)
        for step in range(size.horizon):
            inputs: dict[tuple[int, ...], Row] = {}
            for place in places:
                world, version, _ = place
                actions = {name: value[world, version, step, ...] for name, value in future.actions.items()}
                exogenous = {name: value[world, step, ...] for name, value in future.exogenous.items()}
                inputs[place] = self._inputs({**actions, **exogenous})
            seeds = [0 if self.deterministic else _seed(seed, sample, step) for sample in range(shape[2])]
            requests = [self._request(paths[place], inputs[place], seeds[place[2]]) for place in places]
            for place, answer in zip(places, self.chat.answers(requests, read), strict=True):
                for name, value in answer.items():
                    imagined[name][(*place, step)] = value
                paths[place] = self._extended(paths[place], inputs[place], self._observations(answer))
        return Samples(signals=imagined)

    def to_parts(self) -> Parts:
        """All settings except the transcript and the limits on requests, which belong to the machine and the user."""
        settings = {item.name: getattr(self, item.name) for item in fields(_Settings)}
        stored = _Stored(endpoint=self.chat.endpoint, prompt=PROMPT_HASH, **settings)
        return Parts(config=json.loads(to_json(stored)))

    @classmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> LanguageEngine:
        """The engine, with a `Chat` that contacts listed endpoints only; see `engines/language/endpoint.py`.

        This sends no request. To set a transcript, or to skip the list, use
        `replace(engine, chat=Chat(engine.chat.endpoint, transcript=...))`.

        Raises:
            DataError: the parts belong to another engine or to another version of the prompt.
        """
        fix = "Restore the original bundle"
        try:
            stored = from_json(_Stored, json.dumps(dict(parts.config)), where="language engine")
            if parts.arrays:
                raise ConfigError(f"a language engine has no arrays, got {sorted(parts.arrays)}.")
            if stored.prompt != PROMPT_HASH:
                fix = "Calibrate the engine again and save it"
                raise ConfigError(f"the bundle has prompt hash {stored.prompt!r}, expected {PROMPT_HASH}.")
            settings = {item.name: getattr(stored, item.name) for item in fields(_Settings)}
            return cls(schema=schema, chat=Chat(stored.endpoint, listed_only=True), **settings)
        except (ConfigError, TypeError, ValueError) as error:
            raise DataError(str(error).rstrip("."), fix=f"{fix}.") from error

    def _grown(self, rows: tuple[Row, ...], steps: History, world: int) -> tuple[Row, ...]:
        """`rows` extended by the steps of one world."""
        inputs = {**steps.actions, **steps.exogenous}
        after = 1 if not rows else 0  # without a belief the first input comes after the first observation
        for step in range(steps.observations[self.signals[0].name].shape[1]):
            values = {signal.name: steps.observations[signal.name][world, step, ...] for signal in self.signals}
            hidden = {name for name, mask in steps.observed.items() if not mask[world, step]}
            observations = self._observations(values, hidden)
            if not rows:
                rows = ({"observations": observations},)
                continue
            applied = {signal.name: inputs[signal.name][world, step - after, ...] for signal in self._driving}
            rows = self._extended(rows, self._inputs(applied), observations)
        return rows

    @property
    def _driving(self) -> tuple[Signal, ...]:
        return (*self.schema.actions, *self.schema.exogenous)

    def _extended(self, rows: tuple[Row, ...], inputs: Row, observations: Row) -> tuple[Row, ...]:
        """`rows` with the inputs and the observations that followed; the last `context` rows."""
        complete = {**rows[-1], "inputs": inputs}
        return (*rows[:-1], complete, {"observations": observations})[-self.context :]

    def _observations(self, values: Arrays, hidden: Set[str] = frozenset()) -> Row:
        """The observations of one step, None if hidden."""
        return {signal.name: None if signal.name in hidden else self._value(signal, values) for signal in self.signals}

    def _inputs(self, values: Arrays) -> Row:
        """The actions and exogenous values of one step."""
        return {signal.name: self._value(signal, values) for signal in self._driving}

    def _value(self, signal: Signal, values: Arrays) -> PromptValue:
        return to_prompt_value(signal, values[signal.name], digits=self.digits)

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


def _same_number(worlds: Sized, num_worlds: int) -> None:
    if len(worlds) != num_worlds:
        raise InputError(f"the belief is of {len(worlds)} worlds, and the other arguments are of {num_worlds}.")


def _seed(seed: int, sample: int, step: int) -> int:
    """A 31-bit seed for one draw. With one seed for all steps, their noise would be equal."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sample} {step}".encode()).digest()[:4]) >> 1
