"""A text model sits the exam: told the histories and the schema, and nothing of the logs.

Nothing is learned. Each question costs, so tests take the sizes that they have for that (`ExamTest.paid`), what is sent
is capped, and every answer stays in a transcript in the exam's folder, from which an exam can be held again without an
endpoint. Calibration asks more than all tests together and is not paid for: tests of bands, trust and surprise are
UNSUPPORTED. What could not be asked is NOT MEASURED; what was, and had no good answer in all tries, is an ERROR.

Some labs name what is in them after its settings, such as how much the logger leaned on a wind. Names are read here, so
those are told as "entity_1" and so on.
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
    Engine,
    EngineBelief,
    LanguageEngine,
    Noise,
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
from worldline_exam.subjects import ExamSubject, Sat, Terms

NAME: Final = "language"
TRANSCRIPT: Final = "transcript.jsonl"
CONTEXT: Final = 64
"""Observations that are told: all that any test shows."""
MAX_TOKENS: Final = 8192
"""Of an answer: models may think before they say a number."""
TIMEOUT_S: Final = 300.0
NO_ENDPOINT: Final = (
    "No endpoint was given, so nothing was asked. Give --endpoint and --endpoint-model, or --transcript with the "
    "answers of another exam."
)
NO_CALIBRATION: Final = (
    "It needs bands, trust or surprise, which only a calibration gives. To calibrate a text model asks more than all "
    "tests together, and is not paid for."
)
NO_PICTURES: Final = "A text model is shown no pictures. Leave out --pixels."
NO_LOGS: Final = "none: it was told no logs, and of each scene what every world is shown"
REPLAYED: Final = "http://localhost"
"""Stands for the address of an endpoint that is not asked."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageSubject(ExamSubject):
    """A text model behind a chat endpoint.

    Args:
        endpoint: that is asked; None to take every answer from the transcript.
        transcript: of another exam of the same model, or the folder of that exam; None to begin with none. It is
            copied.
        max_requests: that are sent in all; None for no limit.
        max_price: that they may cost, in the endpoint's currency; None for no limit.
        chat: that this exam asks; from `seated`.

    Raises:
        ConfigError: the endpoint's key is not there.
        InputError: the transcript is not there or empty, or holds answers of another model or of several.
    """

    endpoint: Endpoint | None = None
    transcript: Path | None = None
    max_requests: int | None = None
    max_price: float | None = None
    chat: Chat | None = None

    def __post_init__(self) -> None:
        if self.endpoint is not None and self.endpoint.api_key_env is not None:
            key_in(self.endpoint.api_key_env)
        if self.transcript is not None and self.chat is None:  # who is seated was checked
            _check(_file(self.transcript), self.endpoint)

    @property
    def title(self) -> str:
        """Such as "language, my-model"."""
        endpoint = self._endpoint
        return NAME if endpoint is None else f"{NAME}, {endpoint.model}"

    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> Sat:
        """Nothing is learned; see `ExamSubject`."""
        del store, seed, terms, folder
        return Sat(world=None, facts={})

    def open(self, folder: Path, store: Store) -> World:
        """The text model over this schema, with no calibration; see `ExamSubject`.

        Raises:
            InputError: the sitter is not seated.
        """
        del folder
        if self.chat is None:
            raise InputError("the sitter has no chat. Take the one that `seated` gives.")
        engine = LanguageEngine(schema=without_settings(store.schema), chat=self.chat, context=CONTEXT)
        return LocalWorld(_Renamed(schema=store.schema, engine=engine), None, Shooting(num_candidates=8))

    @property
    def pays(self) -> bool:
        """See `ExamSubject`."""
        return True

    def seated(self, folder: Path) -> LanguageSubject:
        """With a chat that keeps its transcript in `folder`; see `ExamSubject`."""
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
        """All tests where there is nothing to ask; else those that need a calibration, or pictures; see `ExamSubject`."""
        if self._endpoint is None:
            return SeedGrade(seed=0, verdict=Verdict.NOT_MEASURED, grade=None, reason=NO_ENDPOINT)
        if test.calibrated or test.pixels:
            reason = NO_CALIBRATION if test.calibrated else NO_PICTURES
            return SeedGrade(seed=0, verdict=Verdict.UNSUPPORTED, grade=None, reason=reason)
        return None

    @property
    def facts(self) -> Mapping[str, str]:
        """Model, prompt, and what was sent and charged; see `ExamSubject`."""
        if self.chat is None:
            return {"Model": "none was asked", "Trainings": NO_LOGS}
        endpoint, spent = self.chat.endpoint, self.chat.spent
        where = "replayed from a transcript" if self.chat.replay_only else f"at {endpoint.origin}"
        told = f"temperature {endpoint.temperature:g}, told {CONTEXT} observations at most"
        most = "" if self.max_requests is None else f", of at most {self.max_requests:,}"
        untold = f"; not known for {spent.num_untold:,} replies" if spent.num_untold else ""
        least = "at least " if spent.num_untold else ""
        cost = (
            f"{least}{spent.price:.4g} {endpoint.currency}"
            if endpoint.has_price
            else "not known, as no prices were given"
        )
        cap = "" if self.max_price is None else f", of at most {self.max_price:g} {endpoint.currency}"
        return {
            "Trainings": NO_LOGS,
            "Model": f"{endpoint.model} {where}, {told}",
            "Prompt": f"{PROMPT_HASH}, which is worldline.engines.language.prompt.PROMPT and in each line of {TRANSCRIPT}",
            "Names": "those of the labs; what is named after a setting, as gusty_90 is, is told as entity_1 and so on",
            "Requests": f"{spent.num_requests:,} sent{most}",
            "Tokens": f"{spent.input_tokens:,} in, {spent.output_tokens:,} out{untold}",
            "Cost": f"{cost}{cap}",
            **_told(self.chat.transcript.path),
        }

    @property
    def _endpoint(self) -> Endpoint | None:
        """What is asked, or what was, by the transcript's first line: all are alike."""
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
    """The schema, in the same order, with another name for each entity that is named after a setting: "gusty_90"."""
    named = dict.fromkeys(one.entity for one in schema.signals if re.search(r"_\d+$", one.entity or ""))
    told = {entity: f"entity_{number}" for number, entity in enumerate(named, start=1)}
    signals = (
        one
        if one.entity is None or one.entity not in told
        else replace(one, name=one.name.replace(one.entity, told[one.entity]), entity=told[one.entity])
        for one in schema.signals
    )
    return replace(schema, signals=tuple(signals))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Renamed(Engine):
    """An engine under other names.

    Args:
        schema: with the names that are asked for.
        engine: of a schema with the same signals in the same order.
    """

    schema: Schema
    engine: LanguageEngine

    def describe(self) -> Card:
        """See `Engine`."""
        card = self.engine.describe()
        names = {told: name for name, told in self._names.items()}
        inputs, predicts = (tuple(names[told] for told in some) for some in (card.inputs, card.predicts))
        return replace(card, schema=self.schema, inputs=inputs, predicts=predicts)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """See `Engine`."""
        groups = {name: self._renamed(arrays) for name, arrays in vars(steps).items()}
        return self.engine.observe(belief, History(**groups), seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """See `Engine`."""
        told = Future(actions=self._renamed(future.actions), exogenous=self._renamed(future.exogenous))
        found = self.engine.imagine(belief, told, num_samples=num_samples, noise=noise, seed=seed).signals
        return Samples(signals={name: found[told] for name, told in self._names.items() if told in found})

    @property
    def _names(self) -> dict[str, str]:
        return {
            ours.name: told.name for ours, told in zip(self.schema.signals, self.engine.schema.signals, strict=True)
        }

    def _renamed(self, arrays: Arrays) -> Arrays:
        return {self._names.get(name, name): value for name, value in arrays.items()}


def endpoint_of(url: str, model: str, *, api_key_env: str | None, prices: tuple[float, float, str] | None) -> Endpoint:
    """An endpoint as an exam asks it: for what is to be expected, in one request a step.

    Args:
        url: up to `/chat/completions`.
        model: the name that the server knows it by.
        api_key_env: the environment variable that holds the key; None where none is due.
        prices: of a million tokens in and out, and the currency; None where nothing is charged.
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
    """That of an exam, or the file itself."""
    return transcript / TRANSCRIPT if transcript.is_dir() else transcript


def _check(file: Path, endpoint: Endpoint | None) -> None:
    """Raises `InputError` where the answers are not of one model, asked in one way: that of the endpoint if given."""
    names = ("model", "temperature", "max_tokens")
    found = {tuple(one.request.get(name) for name in names) for one in exchanges(file)} if file.is_file() else set()
    if not found:
        raise InputError(f"{file} holds no answers of a text model. Give a transcript, or an exam's folder.")
    shown = [f"{model!r} (temperature {temperature}, max_tokens {tokens})" for model, temperature, tokens in found]
    if len(found) > 1:
        raise InputError(
            f"{file} holds answers of more than one model, or of one that was asked in several ways: "
            f"{', '.join(sorted(shown))}. Give a transcript of one."
        )
    if endpoint is not None and found != {(endpoint.model, endpoint.temperature, endpoint.max_tokens)}:
        raise InputError(
            f"{file} holds answers of {shown[0]}, not of {endpoint.model!r} (temperature {endpoint.temperature}, "
            f"max_tokens {endpoint.max_tokens}). Give the transcript of that one, or none."
        )


def _told(path: Path | None) -> dict[str, str]:
    """What the transcript holds, and what it took."""
    if path is None or not path.exists():
        return {"Transcript": "no answers"}
    num, tries, untold, tokens_in, tokens_out = 0, 0, 0, 0, 0
    for one in exchanges(path):
        num += 1
        tries += one.num_tries or 0
        untold += one.num_tries is None
        tokens_in += one.input_tokens or 0
        tokens_out += one.output_tokens or 0
    told = f"{tries:,} for {num - untold:,} answers (who has to try again is told what was wrong)"
    lost = f"not told for {untold:,} answers"
    return {
        "Tries": "; ".join([told] * (num > untold) + [lost] * (untold > 0)),
        "Transcript": f"{num:,} answers in {path.name}, which took {tokens_in:,} tokens in and {tokens_out:,} out",
    }
