"""The size of a call before it begins, and the computation of calls in batches and in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, History
from worldline.planning.base import PlanRequest
from worldline.schema import Kind
from worldline.serve.limits import Limits
from worldline.serve.problems import TooLargeError
from worldline.serve.scheduler import CallerLeftError
from worldline.world.base import Forecast, Prediction, Scores, World
from worldline.world.wire import Call

_COPIES: Final = 4
"""Arrays of the size of a rollout that exist at the same time."""
_BYTES_PER_NUMBER: Final = 128
"""Memory of a number of an answer: arrays, and in JSON a Python object and its text."""
_PLANNED: Final = 1024
"""Candidates of a search that are assumed to exist at the same time. Engines roll out larger populations in parts."""


@final
@dataclass(frozen=True, kw_only=True)
class CallSize:
    """The size of a call before it begins.

    Args:
        num_bytes: estimated memory.
        steps: predicted steps, over all worlds and candidates; of a plan, those of one candidate.
    """

    num_bytes: int
    steps: int


def size_of(call: Call, card: Card, limits: Limits) -> CallSize:
    """The size of a call.

    Raises:
        TooLargeError: the call exceeds a limit: steps, candidates, pixels or memory.
    """
    worlds, candidates, samples, steps, observed = _counts(call, card)
    predicted = worlds * steps * (1 if call.verb == "plan" else candidates)  # a plan has a time limit instead
    if max(steps, observed) > limits.horizon:
        raise TooLargeError(
            f"the call has {observed} observations and {steps} steps. This service accepts {limits.horizon} of "
            "each: send fewer."
        )
    if worlds * candidates > limits.candidates:
        raise TooLargeError(
            f"the call has {worlds} worlds and {candidates} candidates. This service accepts {limits.candidates} "
            "candidates over all worlds: send fewer."
        )
    if predicted * max(1, samples) > limits.steps:
        raise TooLargeError(
            f"the call predicts {steps} steps for {worlds} worlds, {candidates} candidates and {samples} samples: "
            f"{predicted * max(1, samples)} steps. This service accepts {limits.steps} over all: send fewer of each."
        )
    observed_arrays = [value for value in _observations(call).values() if isinstance(value, np.ndarray)]
    pixels = sum(value.size for value in observed_arrays if value.dtype == np.uint8)
    if pixels > limits.pixels:
        raise TooLargeError(f"the images have {pixels} values. This service accepts {limits.pixels}: send fewer.")
    values = sum(_values(card, name) for name in card.predicts)
    answered = 0 if call.verb in ("score", "plan") else steps * (3 + samples)  # mean, low, high
    num_bytes = worlds * (steps * candidates + observed) * values * 8 * _COPIES
    num_bytes += worlds * answered * values * _BYTES_PER_NUMBER
    num_bytes += worlds * candidates * _num_constraints(call) * 8 * _COPIES
    if call.arguments.get("images"):
        shown = sum(math.prod(signal.shape) for signal in card.schema.observations if signal.kind is Kind.IMAGE)
        num_bytes += worlds * steps * shown * _COPIES
    # The measured memory is that of a rollout of `band_horizon` steps. An observation takes as much as a step.
    num_bytes += worlds * (candidates * steps + observed) * card.bytes_per_candidate // max(card.band_horizon, 1)
    if num_bytes > limits.call_bytes:
        raise TooLargeError(
            f"the call may need {num_bytes / 2**20:.0f} MiB for {worlds} worlds, {candidates} candidates, {samples} "
            f"samples and {steps} steps. This service accepts {limits.call_bytes / 2**20:.0f} MiB: send less at once."
        )
    return CallSize(num_bytes=num_bytes, steps=predicted)


def with_budget(call: Call, limits: Limits, deadline_s: float | None = None) -> Call:
    """The call. The time limit of a plan leaves a fifth of the deadline for queue and answer.

    Args:
        call: any call.
        limits: `plan_s` and `deadline_s` apply.
        deadline_s: seconds until the caller gives up; None for the limit of the service.
    """
    request = call.arguments.get("request")
    if not isinstance(request, PlanRequest):
        return call
    limit_s = 0.8 * min(limits.deadline_s, deadline_s or limits.deadline_s)
    budget_s = min(limits.plan_s if request.budget_s is None else request.budget_s, limit_s)
    return Call(call.verb, {**call.arguments, "request": replace(request, budget_s=budget_s)})


def group_of(call: Call, card: Card) -> Hashable | None:
    """What calls must have in common to be computed as one; None for a call that is computed alone.

    Only predictions of one world without random draws are grouped, so a caller gets the same answer in every batch.
    """
    arguments = call.arguments
    if call.verb != "predict" or arguments.get("num_samples") or not card.deterministic or card.max_batch < 2:
        return None
    history: History = arguments["history"]
    if _num_worlds(history, card) is not None:
        return None
    options = (arguments.get("level"), arguments.get("images", False))
    groups = (*vars(history).values(), arguments["actions"], arguments.get("exogenous") or {})
    return options, tuple(_shapes(group) for group in groups)


def answer_calls(world: World, calls: Sequence[Call]) -> list[object]:
    """The answer to each call of one group, or its error; several as one batch."""
    if len(calls) > 1:
        try:
            return [*_predict_together(world, calls)]
        except Exception:  # noqa: BLE001  # one call is invalid: each gets its own answer or error
            pass
    return [_answer(world, call) for call in calls]


def answer_in_pieces(
    world: World, call: Call, card: Card, pieces: int, wanted: Callable[[], bool] = lambda: True
) -> object:
    """The answer to a call, computed in parts of its worlds or candidates.

    Args:
        world: answers.
        call: a prediction of a batch is split by worlds, a score by candidates. Others are not split.
        card: of the world.
        pieces: number of parts, at least 1.
        wanted: whether somebody still waits for the answer; checked before each part.

    Raises:
        CallerLeftError: nobody does.
    """
    if pieces > 1 and call.verb in ("predict", "score"):
        worlds = _num_worlds(call.arguments["history"], card)
        axis = 0 if call.verb == "predict" or worlds is None else 1
        groups = (*vars(call.arguments["history"]).values(), call.arguments.get("exogenous") or {})
        several = [*call.arguments["actions"].values()]
        if call.verb == "predict":
            several += [value for group in groups for value in group.values()]
        sizes = {value.shape[axis] if value.ndim > axis else 0 for value in several}
        # Sizes that differ are an error, which the world explains.
        if len(sizes) == 1 and (count := sizes.pop()) > 1 and (call.verb == "score" or worlds is not None):
            parts = _while_wanted(np.array_split(np.arange(count), min(pieces, count)), wanted)
            return (_predicted if call.verb == "predict" else _scored)(world, call, parts, axis)
    return call.ask(world)


def _while_wanted(parts: Iterable[NDArray[np.integer]], wanted: Callable[[], bool]) -> Iterator[NDArray[np.integer]]:
    for part in parts:
        if not wanted():
            raise CallerLeftError("the caller left before the answer.")
        yield part


def _answer(world: World, call: Call) -> object:
    try:
        return call.ask(world)
    except Exception as error:  # noqa: BLE001  # the caller gets it
        return error


def _counts(call: Call, card: Card) -> tuple[int, int, int, int, int]:
    """Worlds, candidates, samples, steps and observations of a call; as large as its arrays claim, valid or not."""
    arguments, observed = call.arguments, _num_observed(call, card)
    if "episode" in arguments:
        return 1, 1, 2, observed, observed
    worlds = _num_worlds(arguments["history"], card) or 1
    axes = {signal.name: len(signal.shape) for signal in card.schema.actions}
    if (request := arguments.get("request")) is not None:
        proposed, _ = _plans(request.proposals or {}, axes, several=True)
        _, sent = _plans(request.pending or {}, axes, several=False)
        return worlds, max(_PLANNED, proposed), 0, request.horizon + sent, observed
    candidates, steps = _plans(arguments["actions"], axes, several=call.verb == "score")
    return worlds, candidates, max(0, arguments.get("num_samples", 0)), max(1, steps), observed


def _plans(actions: Arrays, axes: Mapping[str, int], *, several: bool) -> tuple[int, int]:
    """Candidates and steps of action arrays, whose signals have this number of axes."""
    shapes = [(np.shape(value), axes.get(name, 1)) for name, value in actions.items()]
    steps = max([shape[-1 - own] for shape, own in shapes if len(shape) > own], default=0)
    return max([shape[-2 - own] for shape, own in shapes if several and len(shape) > own + 1], default=1), steps


def _num_observed(call: Call, card: Card) -> int:
    """H, the largest number of observations of a signal."""
    axes = {signal.name: len(signal.shape) for signal in card.schema.observations}
    shapes = [(np.shape(value), axes.get(name, 1)) for name, value in _observations(call).items()]
    return max([shape[-1 - own] for shape, own in shapes if len(shape) > own], default=1)


def _num_constraints(call: Call) -> int:
    request = call.arguments.get("request")
    goal = call.arguments.get("goal") if request is None else request.goal
    constraints = call.arguments.get("constraints", ()) if request is None else request.constraints
    return len(constraints) + len(getattr(goal, "costs", ()))


def _num_worlds(history: History, card: Card) -> int | None:
    """W; None without an axis of worlds, or if the history is not valid."""
    shapes = {signal.name: len(signal.shape) for signal in card.schema.observations}
    for name, value in history.observations.items():
        if name in shapes:
            return len(value) if np.ndim(value) == shapes[name] + 2 else None
    return None


def _values(card: Card, name: str) -> int:
    return math.prod(card.schema[name].shape) or 1


def _observations(call: Call) -> Mapping[str, Any]:
    past = call.arguments.get("history") or call.arguments.get("episode")
    observations: Mapping[str, Any] = getattr(past, "observations", {})
    return observations


def _shapes(group: Arrays) -> tuple[object, ...]:
    return tuple((name, value.shape, value.dtype.char) for name, value in sorted(group.items()))


def _predict_together(world: World, calls: Sequence[Call]) -> list[Prediction]:
    first = calls[0].arguments
    together = {
        **first,
        "history": History.stack([call.arguments["history"] for call in calls]),
        "actions": _stacked([call.arguments["actions"] for call in calls]),
    }
    if first.get("exogenous"):
        together["exogenous"] = _stacked([call.arguments["exogenous"] for call in calls])
    batch = world.predict(**together)
    return [_one_world(batch, number) for number in range(len(calls))]


def _stacked(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _one_world(batch: Prediction, number: int) -> Prediction:
    """The prediction of one world of a batch."""
    signals = {
        name: Forecast(
            mean=forecast.mean[number],
            low=None if forecast.low is None else forecast.low[number],
            high=None if forecast.high is None else forecast.high[number],
            horizon=int(np.asarray(forecast.horizon)[number]),
        )
        for name, forecast in batch.signals.items()
    }
    images = {name: value[number] for name, value in batch.images.items()}
    return replace(batch, signals=signals, trust=float(np.asarray(batch.trust)[number]), images=images)


def _predicted(world: World, call: Call, parts: Iterable[NDArray[np.integer]], axis: int) -> Prediction:
    predictions = list[Prediction]()
    for part in parts:
        arguments = {**call.arguments, "history": call.arguments["history"].worlds(part)}
        for name in ("actions", "exogenous"):
            if arguments.get(name):
                arguments[name] = {signal: np.take(value, part, axis) for signal, value in arguments[name].items()}
        predictions.append(world.predict(**arguments))
    return _joined(predictions)


def _joined(parts: Sequence[Prediction]) -> Prediction:
    """The prediction of a batch from those of its parts."""
    first = parts[0]
    signals = {
        name: Forecast(
            **{field: _concatenated([vars(part.signals[name])[field] for part in parts]) for field in vars(forecast)}
        )
        for name, forecast in first.signals.items()
    }
    images = {name: np.concatenate([part.images[name] for part in parts]) for name in first.images}
    return replace(first, signals=signals, images=images, trust=_concatenated([part.trust for part in parts]))


def _concatenated(values: Sequence[Any]) -> Any:
    return None if values[0] is None else np.concatenate(values)


def _scored(world: World, call: Call, parts: Iterable[NDArray[np.integer]], axis: int) -> Scores:
    scores = list[Scores]()
    for part in parts:
        actions = {name: np.take(value, part, axis) for name, value in call.arguments["actions"].items()}
        scores.append(world.score(**{**call.arguments, "actions": actions}))
    cost = np.concatenate([part.cost for part in scores], axis)
    violation = np.concatenate([part.violation for part in scores], axis)
    trust = np.array([part.trust for part in scores]).min(0)
    return replace(scores[0], cost=cost, violation=violation, trust=trust)
