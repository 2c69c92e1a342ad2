"""Language models as subjects of an exam: the prompt holds histories and the schema, but no logs.

Nothing is trained. Each query costs money, so tests use their reduced sizes (`ExamTest.paid`) and requests are limited.
All answers are stored in a transcript in the folder of the exam. An exam can be repeated from a transcript without an
endpoint. Calibration would need more queries than all tests together and is skipped. Tests of bands, trust and surprise
are therefore UNSUPPORTED. A test without answers is NOT MEASURED; without a valid answer in all tries it is an ERROR.

Some labs name entities after their settings, such as the amount of confounding. A language model could use these names,
so the prompt replaces them by "entity_1" and so on.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from worldline.audit import Verdict
from worldline.data import Store
from worldline.engines import (
    PROMPT_HASH,
    Card,
    Chat,
    Endpoint,
    EngineBelief,
    LanguageEngine,
    Noise,
    NumpyEngine,
    Samples,
    exchanges,
    key_in,
)
from worldline.episode import Arrays, Future, History
from worldline.errors import InputError
from worldline.planning import Shooting
from worldline.schema import Schema
from worldline.world import LocalWorld, World
from worldline_exam.base import ExamTest
from worldline_exam.results import SeedGrade
from worldline_exam.subjects import ExamSubject, LearnedWorld, Terms

NAME: Final = "language"
TRANSCRIPT: Final = "transcript.jsonl"
CONTEXT: Final = 64
"""Observations in the prompt; no test has a longer history."""
MAX_TOKENS: Final = 8192
"""Limit on an answer, large enough for models that reason before they answer."""
TIMEOUT_S: Final = 300.0
NO_ENDPOINT: Final = (
    "No endpoint was given, so no query was sent. Give --endpoint and --endpoint-model, or --transcript with the "
    "answers of another exam."
)
NO_CALIBRATION: Final = (
    "The test needs bands, trust or surprise from a calibrated world. Calibration of a language model would need more "
    "queries than all tests together, and is skipped."
)
NO_PICTURES: Final = "Language models receive no images. Omit --pixels."
NO_LOGS: Final = "none: it received no logs, only the history of each scene like every world"
REPLAYED: Final = "http://localhost"
"""Placeholder URL for a replay, which sends no requests."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageSubject(ExamSubject):
    """A language model behind a chat endpoint.

    Args:
        endpoint: endpoint for the queries; None to take every answer from the transcript.
        transcript: transcript of another exam of the same model, or the folder of that exam. It is copied. None to
            start without one.
        max_requests: limit on requests in total; None for no limit.
        max_price: limit on the total price, in the currency of the endpoint; None for no limit.
        chat: chat of this exam, set by `for_exam`.

    Raises:
        ConfigError: the environment variable with the API key is not set.
        InputError: the transcript is missing, empty, or from another model or from several.
    """

    endpoint: Endpoint | None = None
    transcript: Path | None = None
    max_requests: int | None = None
    max_price: float | None = None
    chat: Chat | None = None

    def __post_init__(self) -> None:
        if self.endpoint is not None and self.endpoint.api_key_env is not None:
            key_in(self.endpoint.api_key_env)
        if self.transcript is not None and self.chat is None:  # with a chat it was checked before
            _check(_file(self.transcript), self.endpoint)

    @property
    def title(self) -> str:
        """Such as "language, my-model"."""
        endpoint = self._endpoint
        return NAME if endpoint is None else f"{NAME}, {endpoint.model}"

    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> LearnedWorld:
        """Trains nothing."""
        del store, seed, terms, folder
        return LearnedWorld(world=None, facts={})

    def open(self, folder: Path, store: Store) -> World:
        """A world of the language model with this schema and without calibration.

        Raises:
            InputError: the subject has no chat.
        """
        del folder
        if self.chat is None:
            raise InputError("the subject has no chat. Use the subject that `for_exam` returns.")
        engine = LanguageEngine(schema=without_settings(store.schema), chat=self.chat, context=CONTEXT)
        return LocalWorld(_Renamed(schema=store.schema, engine=engine), None, Shooting(num_candidates=8))

    @property
    def pays(self) -> bool:
        """True: each query is a request."""
        return True

    def for_exam(self, folder: Path) -> LanguageSubject:
        """The subject with a chat that writes its transcript to `folder`."""
        endpoint = self._endpoint
        if endpoint is None:
            return self
        kept = folder / TRANSCRIPT
        if self.transcript is not None:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_file(self.transcript), kept)
        chat = Chat(
            endpoint,
            transcript=kept,
            replay_only=self.endpoint is None,
            max_requests=self.max_requests,
            max_price=self.max_price,
        )
        return replace(self, chat=chat)

    def declines(self, test: ExamTest) -> SeedGrade | None:
        """Skips tests that need a calibration or images; without endpoint and transcript, all tests."""
        if self._endpoint is None:
            return SeedGrade(seed=0, verdict=Verdict.NOT_MEASURED, grade=None, reason=NO_ENDPOINT)
        if test.calibrated or test.pixels:
            reason = NO_CALIBRATION if test.calibrated else NO_PICTURES
            return SeedGrade(seed=0, verdict=Verdict.UNSUPPORTED, grade=None, reason=reason)
        return None

    @property
    def facts(self) -> Mapping[str, str]:
        """Model, prompt, requests, tokens and cost."""
        if self.chat is None:
            return {"Model": "none was queried", "Trainings": NO_LOGS}
        endpoint, spent = self.chat.endpoint, self.chat.spent
        where = "replayed from a transcript" if self.chat.replay_only else f"at {endpoint.origin}"
        settings = f"temperature {endpoint.temperature:g}, at most {CONTEXT} observations in the prompt"
        max_requests = "" if self.max_requests is None else f", of at most {self.max_requests:,}"
        unreported = f"; not reported for {spent.num_uncounted:,} replies" if spent.num_uncounted else ""
        prefix = "at least " if spent.num_uncounted else ""
        cost = (
            f"{prefix}{spent.price:.4g} {endpoint.currency}" if endpoint.has_price else "unknown, no prices were given"
        )
        cap = "" if self.max_price is None else f", of at most {self.max_price:g} {endpoint.currency}"
        return {
            "Trainings": NO_LOGS,
            "Model": f"{endpoint.model} {where}, {settings}",
            "Prompt": f"{PROMPT_HASH}, hash of worldline.engines.language.prompt.PROMPT; in each line of {TRANSCRIPT}",
            "Names": "those of the labs; names with a setting, such as gusty_90, are replaced by entity_1 and so on",
            "Requests": f"{spent.num_requests:,} sent{max_requests}",
            "Tokens": f"{spent.input_tokens:,} input, {spent.output_tokens:,} output{unreported}",
            "Cost": f"{cost}{cap}",
            **_transcript_facts(self.chat.transcript.path),
        }

    @property
    def _endpoint(self) -> Endpoint | None:
        """The endpoint, or that of the first line of the transcript; all lines have the same."""
        if self.endpoint is not None or self.transcript is None:
            return self.endpoint
        request = next(exchanges(_file(self.transcript))).request
        return Endpoint(
            base_url=REPLAYED,
            model=str(request["model"]),
            temperature=float(request["temperature"]),
            max_tokens=request.get("max_tokens"),
        )


def without_settings(schema: Schema) -> Schema:
    """The schema with neutral names for entities that are named after a setting, such as "gusty_90"."""
    entities = dict.fromkeys(signal.entity for signal in schema.signals if re.search(r"_\d+$", signal.entity or ""))
    neutral = {entity: f"entity_{number}" for number, entity in enumerate(entities, start=1)}
    signals = (
        old
        if old.entity is None or old.entity not in neutral
        else replace(old, name=old.name.replace(old.entity, neutral[old.entity]), entity=neutral[old.entity])
        for old in schema.signals
    )
    return replace(schema, signals=tuple(signals))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Renamed(NumpyEngine):
    """An engine with renamed signals.

    Args:
        schema: schema with the outer names.
        engine: engine with the same signals in the same order under other names.
    """

    schema: Schema
    engine: LanguageEngine

    def describe(self) -> Card:
        """The card with the outer names."""
        card = self.engine.describe()
        outer = {inner: name for name, inner in self._names.items()}
        inputs, predicts = (tuple(outer[inner] for inner in names) for names in (card.inputs, card.predicts))
        return replace(card, schema=self.schema, inputs=inputs, predicts=predicts)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """Delegates with the inner names."""
        groups = {name: self._renamed(arrays) for name, arrays in vars(steps).items()}
        return self.engine.observe(belief, History(**groups), seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """Delegates with the inner names."""
        renamed = Future(actions=self._renamed(future.actions), exogenous=self._renamed(future.exogenous))
        samples = self.engine.imagine(belief, renamed, num_samples=num_samples, noise=noise, seed=seed).signals
        return Samples(signals={name: samples[inner] for name, inner in self._names.items() if inner in samples})

    @property
    def _names(self) -> dict[str, str]:
        return {
            outer.name: inner.name for outer, inner in zip(self.schema.signals, self.engine.schema.signals, strict=True)
        }

    def _renamed(self, arrays: Arrays) -> Arrays:
        return {self._names.get(name, name): value for name, value in arrays.items()}


def endpoint_of(url: str, model: str, *, api_key_env: str | None, prices: tuple[float, float, str] | None) -> Endpoint:
    """The endpoint with the settings of an exam: temperature 0, so that one request per step gives the prediction.

    Args:
        url: base URL without `/chat/completions`.
        model: model name at the server.
        api_key_env: environment variable with the API key; None if no key is needed.
        prices: prices per million input and output tokens, and their currency; None if unknown or free.
    """
    price_in, price_out, currency = prices or (0.0, 0.0, "")
    return Endpoint(
        base_url=url,
        model=model,
        api_key_env=api_key_env,
        temperature=0.0,
        max_tokens=MAX_TOKENS,
        timeout_s=TIMEOUT_S,
        price_per_million_input_tokens=price_in,
        price_per_million_output_tokens=price_out,
        currency=currency,
    )


def _file(transcript: Path) -> Path:
    return transcript / TRANSCRIPT if transcript.is_dir() else transcript


def _check(file: Path, endpoint: Endpoint | None) -> None:
    """Raises `InputError` unless all answers have the same model and settings, and those of the endpoint if given."""
    names = ("model", "temperature", "max_tokens")
    used = {tuple(call.request.get(name) for name in names) for call in exchanges(file)} if file.is_file() else set()
    if not used:
        raise InputError(f"{file} holds no answers of a language model. Give a transcript or the folder of an exam.")
    shown = [f"{model!r} (temperature {temperature}, max_tokens {tokens})" for model, temperature, tokens in used]
    if len(used) > 1:
        raise InputError(
            f"{file} holds answers of more than one model or setting: {', '.join(sorted(shown))}. "
            "Give a transcript of one."
        )
    if endpoint is not None and used != {(endpoint.model, endpoint.temperature, endpoint.max_tokens)}:
        raise InputError(
            f"{file} holds answers of {shown[0]}, not of {endpoint.model!r} (temperature {endpoint.temperature}, "
            f"max_tokens {endpoint.max_tokens}). Give a transcript of the latter, or omit --transcript."
        )


def _transcript_facts(path: Path | None) -> dict[str, str]:
    """Number of answers in the transcript, and their tries and tokens."""
    if path is None or not path.exists():
        return {"Transcript": "no answers"}
    num, tries, unknown, tokens_in, tokens_out = 0, 0, 0, 0, 0
    for exchange in exchanges(path):
        num += 1
        tries += exchange.num_tries or 0
        unknown += exchange.num_tries is None
        tokens_in += exchange.input_tokens or 0
        tokens_out += exchange.output_tokens or 0
    known = f"{tries:,} for {num - unknown:,} answers (a retry includes the error message)"
    rest = f"not recorded for {unknown:,} answers"
    return {
        "Tries": "; ".join([known] * (num > unknown) + [rest] * (unknown > 0)),
        "Transcript": f"{num:,} answers in {path.name}, with {tokens_in:,} input and {tokens_out:,} output tokens",
    }
