"""Forecasting methods that `learn` is compared with on random plants. Runs in a separate environment.

`python forecast_peers.py METHOD PROBLEM ANSWER CPU_S` reads the problem, an npz file of benchmarks/stranger_logs.py. It
writes the predictions as npz. The process ends if it uses more than CPU_S seconds of processor time after its imports.
The environment needs numpy, torch and lightgbm; nothing of worldline is imported.

All methods standardise with the training log. They choose their settings on the last fifth of its episodes by the error
that the benchmark reports. The linear methods are fitted to all episodes afterwards.
"""

from __future__ import annotations

import math
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
Episodes = list[tuple[Table, Table]]
"""Standardised observations [T+1, n] and inputs [T, m] of each episode."""
LIMIT = 12.0
"""Largest predicted magnitude in standard deviations; stops a diverging recursion before it overflows."""
RESERVE = 0.25
"""Share of the processor time that iterative methods leave for predictions and for the end of a round."""


@dataclass(frozen=True, kw_only=True)
class Pasts:
    """W windows up to the present with the inputs after it.

    Args:
        observed: [W, H, n], the last one at the present.
        inputs: [W, H - 1 + T, m]; input H - 1 is the first one after the present.
        truth: [W, T, n]; empty for the test.
    """

    observed: Table
    inputs: Table
    truth: Table

    @property
    def horizon(self) -> int:
        """T."""
        return int(self.inputs.shape[1] - self.observed.shape[1] + 1)


Predict = Callable[[Pasts], Table]
"""Returns predictions [W, T, n]."""
Step = Callable[[Table, Table], Table]
"""Returns the next observation [W, n] from the last L observations [W, L, n] and the last L inputs [W, L, m]."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Training data and settings.

    Args:
        episodes: of the training log.
        steps: scored steps.
        past: H, the number of observations that a prediction may use.
        seed: of all draws.
        cpu_s: processor time for fitting and predicting.
        begun_s: processor time of this process before that.
    """

    episodes: Episodes
    steps: tuple[int, ...]
    past: int
    seed: int
    cpu_s: float
    begun_s: float

    @property
    def fitted(self) -> Episodes:
        """Episodes for fitting while settings are chosen."""
        return self.episodes[: -self.num_validation]

    @property
    def validation(self) -> Episodes:
        """Episodes for choosing settings."""
        return self.episodes[-self.num_validation :]

    @property
    def num_validation(self) -> int:
        """A fifth of the episodes, at least 1."""
        return max(1, len(self.episodes) // 5)

    def time_left(self, share: float = 1.0) -> bool:
        """Whether less than this share of the time for fitting is used."""
        return time.process_time() < self.end_s(share)

    def end_s(self, share: float) -> float:
        """Processor time of this process when this share of the time for fitting is used."""
        return self.begun_s + share * (1 - RESERVE) * self.cpu_s

    def windows(self, episodes: Episodes, stride: int = 8) -> Pasts:
        """Windows of episodes, one every `stride` steps."""
        horizon, found = max(self.steps), list[tuple[Table, Table, Table]]()
        for observed, inputs in episodes:
            for now in range(self.past, len(inputs) - horizon + 1, stride):
                found.append(
                    (
                        observed[now - self.past + 1 : now + 1],
                        inputs[now - self.past + 1 : now + horizon],
                        observed[now + 1 : now + horizon + 1],
                    )
                )
        seen, given, truth = map(np.stack, zip(*found, strict=True))
        return Pasts(observed=seen, inputs=given, truth=truth)

    def error(self, predicted: Table, truth: Table) -> Table:
        """The benchmark's error at each scored step."""
        at = [step - 1 for step in self.steps]
        return np.asarray(np.sqrt(((predicted - truth)[:, at] ** 2).mean(0)).mean(-1))


def roll(step: Step, lags: int, windows: Pasts) -> Table:
    """Recursive predictions [W, T, n] of a one-step model."""
    seen, past = windows.observed, windows.observed.shape[1]
    for now in range(windows.horizon):
        end = past + now
        following = step(seen[:, end - lags : end], windows.inputs[:, end - lags : end])
        seen = np.concatenate([seen, np.clip(following, -LIMIT, LIMIT)[:, None]], 1)
    return seen[:, past:]


def rows(episodes: Episodes, lags: int) -> tuple[Table, Table, Table]:
    """The last L observations [N, L, n], the last L inputs [N, L, m] and the next observation [N, n] of every step."""
    view = np.lib.stride_tricks.sliding_window_view
    found = [
        (view(seen[:-1], lags, 0).swapaxes(1, 2), view(given, lags, 0).swapaxes(1, 2), seen[lags:])
        for seen, given in episodes
        if len(given) >= lags
    ]
    seen, given, following = (np.concatenate(group) for group in zip(*found, strict=True))
    return seen, given, following


def flat(*tables: Table) -> Table:
    """One row [N, columns] per window, with a constant."""
    count = len(tables[0])
    return np.concatenate([*(table.reshape(count, -1) for table in tables), np.ones((count, 1))], 1)


def best(candidates: Iterator[tuple[float, Any]]) -> Any:
    """The candidate with the smallest error; an error that is not finite never wins."""
    found = list(candidates)
    errors = [error if np.isfinite(error) else np.inf for error, _ in found]
    return found[int(np.argmin(errors))][1]


LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)
RIDGES = (1e-8, 1e-5, 1e-3, 1e-2, 1e-1)
"""Ridge penalties per training row."""


def linear_step(episodes: Episodes, lags: int, ridges: Sequence[float]) -> list[Step]:
    """One ARX model per ridge penalty."""
    seen, given, following = rows(episodes, lags)
    features = flat(seen, given)
    gram, moments = features.T @ features, features.T @ following
    penalty = np.eye(len(gram)) * len(features)
    penalty[-1, -1] = 0
    solved = [np.linalg.lstsq(gram + ridge * penalty, moments, rcond=None)[0] for ridge in ridges]
    return [partial(lambda weights, seen, given: flat(seen, given) @ weights, weights) for weights in solved]


def arx(problem: Problem) -> Predict:
    """Linear autoregression with inputs. Lags and ridge penalty are chosen by validation."""
    windows = problem.windows(problem.validation)

    def tried() -> Iterator[tuple[float, tuple[int, float]]]:
        for lags in (one for one in LAGS if one <= problem.past and problem.time_left(0.8)):
            for ridge, step in zip(RIDGES, linear_step(problem.fitted, lags, RIDGES), strict=True):
                yield float(problem.error(roll(step, lags, windows), windows.truth).mean()), (lags, ridge)

    lags, ridge = best(tried())
    step = linear_step(problem.episodes, lags, (ridge,))[0]
    return partial(roll, step, lags)


ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
PASTS = (4, 8, 16, 24)
AHEAD = 15


def subspace_rows(episodes: Episodes, past: int, ahead: int) -> tuple[Table, Table, Table]:
    """Pasts [N, columns], next inputs [N, ahead, m] and next observations [N, ahead, n], within episodes."""
    found = []
    for seen, given in episodes:
        for now in range(past, len(given) - ahead + 1):
            before = np.concatenate([seen[now - past + 1 : now + 1].ravel(), given[now - past : now].ravel()])
            found.append((before, given[now : now + ahead], seen[now + 1 : now + ahead + 1]))
    before, given, following = map(np.stack, zip(*found, strict=True))
    return before, given, following


def subspace_models(episodes: Episodes, past: int, orders: Sequence[int]) -> dict[int, Predict]:
    """State-space models of several orders.

    Canonical variate analysis on all episodes. The state is a linear function of the last `past` observations and
    inputs. Packages such as nfoursid take a single recording and cannot join episodes.

    Source: Larimore 1990, "Canonical variate analysis in identification, filtering and adaptive control".
    """
    before, given, following = subspace_rows(episodes, past, AHEAD)
    count, size = len(before), before.shape[1]
    future, inputs = following.reshape(count, -1), given.reshape(count, -1)
    both = np.concatenate([before, inputs], 1)
    gram = both.T @ both / count + 1e-8 * np.eye(both.shape[1])
    effects = np.linalg.solve(gram, both.T @ future / count)
    noise = np.cov((future - both @ effects).T) + 1e-6 * np.eye(future.shape[1])
    root = np.linalg.cholesky(np.linalg.inv(noise))
    spread, axes = np.linalg.eigh(before.T @ before / count)
    white = axes * np.sqrt(np.maximum(spread, 0))
    _, _, right = np.linalg.svd((white.T @ effects[:size] @ root).T, full_matrices=False)
    unwhite = axes / np.sqrt(np.maximum(spread, 1e-9 * spread.max()))
    models = {}
    for order in (one for one in orders if one <= len(right)):
        to_state = unwhite @ right[:order].T
        models[order] = state_space(episodes, past, to_state)
    return models


def state_space(episodes: Episodes, past: int, to_state: Table) -> Predict:
    """Fits the transition and the readout of states by least squares."""
    states, nexts, inputs, seen = [], [], [], []
    for observed, given in episodes:
        path = past_rows(observed, given, past) @ to_state
        states.append(path[:-1])
        nexts.append(path[1:])
        inputs.append(given[past:])
        seen.append(observed[past:-1])
    before = flat(np.concatenate(states), np.concatenate(inputs))
    transition = np.linalg.lstsq(before, np.concatenate(nexts), rcond=None)[0]
    readout = np.linalg.lstsq(flat(np.concatenate(states)), np.concatenate(seen), rcond=None)[0]

    def predict(windows: Pasts) -> Table:
        length = windows.observed.shape[1]
        before = [windows.observed[:, length - past :], windows.inputs[:, length - 1 - past : length - 1]]
        state = np.concatenate([one.reshape(len(one), -1) for one in before], 1) @ to_state
        found = []
        for now in range(windows.horizon):
            state = np.clip(flat(state, windows.inputs[:, length - 1 + now]) @ transition, -1e6, 1e6)
            found.append(flat(state) @ readout)
        return np.asarray(np.clip(np.stack(found, 1), -LIMIT, LIMIT))

    return predict


def past_rows(observed: Table, given: Table, past: int) -> Table:
    """The pasts [T + 1 - past, columns] of the observations from number `past` on."""
    view = np.lib.stride_tricks.sliding_window_view
    seen = view(observed[1:], past, 0).swapaxes(1, 2)
    used = view(given, past, 0).swapaxes(1, 2)
    return np.concatenate([seen.reshape(len(seen), -1), used.reshape(len(used), -1)], 1)


def subspace(problem: Problem) -> Predict:
    """Subspace identification. The order and the length of the past are chosen by validation."""
    windows = problem.windows(problem.validation)

    def tried() -> Iterator[tuple[float, tuple[int, int]]]:
        for past in (one for one in PASTS if one < problem.past and problem.time_left(0.7)):
            for order, predict in subspace_models(problem.fitted, past, ORDERS).items():
                yield float(problem.error(predict(windows), windows.truth).mean()), (past, order)

    past, order = best(tried())
    return subspace_models(problem.episodes, past, (order,))[order]


BOOSTING = {"num_leaves": 31, "learning_rate": 0.08, "min_data_in_leaf": 20, "num_threads": 1, "verbosity": -1}
MOST_TREES = 600
BOOSTED_LAGS = 12


def boosted(train: tuple[Table, Table], check: tuple[Table, Table], seed: int, cpu_s: float) -> Any:
    """Gradient boosting of one target with early stopping, for at most this processor time."""
    lightgbm = import_module("lightgbm")
    stop_at = time.process_time() + cpu_s

    def over(environment: Any) -> None:
        if time.process_time() > stop_at:
            raise lightgbm.callback.EarlyStopException(environment.iteration, environment.evaluation_result_list)

    data = lightgbm.Dataset(*train)
    return lightgbm.train(
        {**BOOSTING, "objective": "l2", "seed": seed},
        data,
        MOST_TREES,
        valid_sets=[lightgbm.Dataset(*check, reference=data)],
        callbacks=[lightgbm.early_stopping(30, verbose=False), over],
    )


def direct_rows(problem: Problem, windows: Pasts, step: int) -> Table:
    """Features of a direct prediction: the last observations, and all inputs up to the predicted step."""
    last = problem.past - 1
    return flat(windows.observed[:, -BOOSTED_LAGS:], windows.inputs[:, last - BOOSTED_LAGS + 1 : last + step])


def lightgbm(problem: Problem) -> Predict:
    """Gradient boosting of the change, recursive or direct: validation chooses for each scored step."""
    num_signals = problem.episodes[0][0].shape[1]
    each_s = (1 - RESERVE) * problem.cpu_s / num_signals / (1 + len(problem.steps))
    checks = problem.windows(problem.validation)

    def one_step(episodes: Episodes) -> tuple[Table, Table]:
        seen, given, following = rows(episodes, BOOSTED_LAGS)
        return flat(seen, given), following - seen[:, -1]

    train, check = one_step(problem.fitted), one_step(problem.validation)
    trees = [
        boosted((train[0], train[1][:, one]), (check[0], check[1][:, one]), problem.seed, each_s)
        for one in range(num_signals)
    ]

    def step(seen: Table, given: Table) -> Table:
        features = flat(seen, given)
        change = np.stack([tree.predict(features, num_threads=1) for tree in trees], -1)
        return np.asarray(seen[:, -1] + change)

    recursive = partial(roll, step, BOOSTED_LAGS)
    errors = problem.error(recursive(checks), checks.truth)
    direct = dict[int, list[Any]]()
    windows = problem.windows(problem.fitted, stride=1)
    for place, ahead in enumerate(problem.steps):
        features, wanted = direct_rows(problem, windows, ahead), windows.truth[:, ahead - 1] - windows.observed[:, -1]
        others, truth = direct_rows(problem, checks, ahead), checks.truth[:, ahead - 1] - checks.observed[:, -1]
        found = [
            boosted((features, wanted[:, one]), (others, truth[:, one]), problem.seed, each_s)
            for one in range(num_signals)
        ]
        predicted = np.stack([tree.predict(others, num_threads=1) for tree in found], -1)
        if np.sqrt(((predicted - truth) ** 2).mean(0)).mean() < errors[place]:
            direct[ahead] = found

    def predict(windows: Pasts) -> Table:
        path = recursive(windows)
        for ahead, found in direct.items():
            features = direct_rows(problem, windows, ahead)
            change = np.stack([tree.predict(features, num_threads=1) for tree in found], -1)
            path[:, ahead - 1] = windows.observed[:, -1] + change
        return path

    return predict


NUM_MEMBERS, MLP_WIDTH, MLP_BATCH, MLP_LAGS = 5, 96, 256, (2, 6, 24)


def mlp_ensemble(problem: Problem) -> Predict:
    """Five networks that predict the change of one step, rolled out separately and averaged.

    The number of lags is chosen by validation: each candidate gets a third of the time.
    """
    checks = problem.windows(problem.validation)

    def tried() -> Iterator[tuple[float, Predict]]:
        for number, lags in enumerate(MLP_LAGS, 1):
            yield mlp_members(problem, checks, lags, number / len(MLP_LAGS))

    predict: Predict = best(tried())
    return predict


def mlp_members(problem: Problem, checks: Pasts, lags: int, share: float) -> tuple[float, Predict]:
    """The ensemble with this number of lags at its best check, and its error; trains until the share is used."""
    torch = import_module("torch")
    torch.manual_seed(problem.seed)
    seen, given, following = rows(problem.fitted, lags)
    features = torch.tensor(flat(seen, given), dtype=torch.float32)
    change = following - seen[:, -1]
    scale = change.std(0) + 1e-9
    targets = torch.tensor(change / scale, dtype=torch.float32)
    size, outputs = features.shape[1], targets.shape[1]
    shapes = ((size, MLP_WIDTH), (MLP_WIDTH + 1, MLP_WIDTH), (MLP_WIDTH + 1, outputs))
    weights = [(torch.randn(NUM_MEMBERS, before, after) / before**0.5).requires_grad_(True) for before, after in shapes]

    def forward(values: Any) -> Any:
        for place, weight in enumerate(weights):
            values = values @ weight
            if place < 2:
                values = torch.cat([torch.nn.functional.silu(values), torch.ones(*values.shape[:2], 1)], -1)
        return values

    def path(windows: Pasts) -> Table:
        members = []
        for member in range(NUM_MEMBERS):

            def step(seen: Table, given: Table, member: int = member) -> Table:
                values = torch.tensor(flat(seen, given), dtype=torch.float32)
                for place, weight in enumerate(weights):
                    values = values @ weight[member]
                    if place < 2:
                        values = torch.cat([torch.nn.functional.silu(values), torch.ones(len(values), 1)], -1)
                return np.asarray(seen[:, -1] + values.numpy() * scale)

            members.append(roll(step, lags, windows))
        return np.asarray(np.mean(members, 0))

    error = train(problem, share, weights, partial(mlp_loss, torch, forward, features, targets), path, checks)
    return error, path


def mlp_loss(torch: Any, forward: Callable[[Any], Any], features: Any, targets: Any) -> Any:
    """Squared error of random rows, other ones for each member."""
    index = torch.randint(len(features), (NUM_MEMBERS, MLP_BATCH))
    return (forward(features[index]) - targets[index]).pow(2).mean((1, 2)).sum()


CHECKS = 8
LEARNING_RATE = 3e-3


def train(
    problem: Problem, share: float, weights: list[Any], loss: Callable[[], Any], predict: Predict, checks: Pasts
) -> float:
    """Trains until this share of the time is used, keeps the weights of the best check, and returns its error."""
    torch, begin = import_module("torch"), time.process_time()
    end = problem.end_s(share)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-4)
    lowest, kept, checked = np.inf, [weight.detach().clone() for weight in weights], 0
    while (done := (time.process_time() - begin) / max(end - begin, 1e-3)) < 1 or checked == 0:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 20 * done + 0.05) * (0.51 + 0.49 * np.cos(np.pi * min(done, 1.0)))
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        done = (time.process_time() - begin) / max(end - begin, 1e-3)
        if done >= (checked + 1) / CHECKS:
            checked += 1
            with torch.no_grad():
                error = float(problem.error(predict(checks), checks.truth).mean())
            if error < lowest:
                lowest, kept = error, [weight.detach().clone() for weight in weights]
    for weight, value in zip(weights, kept, strict=True):
        weight.requires_grad_(False)
        weight.copy_(value)
    return lowest


GRU_WIDTH, GRU_BATCH = 64, 64


def gru(problem: Problem) -> Predict:
    """A recurrent network that reads the past and predicts the changes after it in open loop, trained on all steps."""
    torch = import_module("torch")
    torch.manual_seed(problem.seed)
    windows, checks = problem.windows(problem.fitted, stride=1), problem.windows(problem.validation)
    outputs, size = windows.observed.shape[2], windows.observed.shape[2] + windows.inputs.shape[2]
    cell, head = torch.nn.GRUCell(size, GRU_WIDTH), torch.nn.Linear(GRU_WIDTH, outputs)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
    past = problem.past

    def forward(observed: Any, inputs: Any, horizon: int) -> Any:
        state, last, found = torch.zeros(len(observed), GRU_WIDTH), observed[:, 0], list[Any]()
        for now in range(past + horizon - 1):
            last = observed[:, now] if now < past else found[-1]
            state = cell(torch.cat([last, inputs[:, now]], -1), state)
            if now >= past - 1:
                found.append(torch.clamp(last + head(state), -LIMIT, LIMIT))
        return torch.stack(found, 1)

    tensors = [torch.tensor(one, dtype=torch.float32) for one in (windows.observed, windows.inputs, windows.truth)]

    def loss() -> Any:
        index = torch.randint(len(tensors[0]), (GRU_BATCH,))
        observed, inputs, truth = (one[index] for one in tensors)
        squared = (forward(observed, inputs, truth.shape[1]) - truth).pow(2).mean((0, 2))
        return (squared + 1e-6).sqrt().mean()  # early steps have small errors, and count as much as late ones

    def predict(given: Pasts) -> Table:
        with torch.no_grad():
            observed, inputs = (torch.tensor(one, dtype=torch.float32) for one in (given.observed, given.inputs))
            return np.asarray(forward(observed, inputs, given.horizon).numpy(), np.float64)

    train(problem, 1.0, [*cell.parameters(), *head.parameters()], loss, predict, checks)
    return predict


METHODS: dict[str, Callable[[Problem], Predict]] = {
    "arx": arx,
    "subspace": subspace,
    "lightgbm": lightgbm,
    "mlp-ensemble": mlp_ensemble,
    "gru": gru,
}
"""The methods by name. The first two are linear."""
IMPORTS: dict[str, Callable[[], object]] = {
    "lightgbm": lambda: import_module("lightgbm"),
    "mlp-ensemble": lambda: import_module("torch._dynamo"),  # its optimisers import it
    "gru": lambda: import_module("torch._dynamo"),
}
"""Imports of a method, which do not count as its processor time."""


def answer(method: str, stored: dict[str, Any], cpu_s: float) -> dict[str, Any]:
    """Fits a method and predicts the test windows at the scored steps."""
    begun_s = time.process_time()
    inputs = stored["inputs"]
    ends = np.cumsum(stored["lengths"])
    seen = np.split(stored["observations"].astype(float), (ends + np.arange(1, len(ends) + 1))[:-1])
    middle, spread = stored["observations"].mean(0), stored["observations"].std(0)
    centre, width = inputs.mean(0), np.where(inputs.std(0) > 0, inputs.std(0), 1.0)
    episodes = [
        ((one - middle) / spread, (given - centre) / width)
        for one, given in zip(seen, np.split(inputs.astype(float), ends[:-1]), strict=True)
    ]
    steps = tuple(int(step) for step in stored["steps"])
    problem = Problem(episodes=episodes, steps=steps, past=int(stored["past"]), seed=0, cpu_s=cpu_s, begun_s=begun_s)
    predict = METHODS[method](problem)
    fitted_s = time.process_time() - begun_s
    test = Pasts(
        observed=(stored["test_observations"] - middle) / spread,
        inputs=(stored["test_inputs"] - centre) / width,
        truth=np.zeros((0, 0, 0)),
    )
    predicted = predict(test)[:, [step - 1 for step in steps]] * spread + middle
    return {"predicted": predicted, "fit_cpu_s": fitted_s, "cpu_s": time.process_time() - begun_s}


def main() -> None:
    """Answers one problem."""
    method, problem, path, cpu_s = sys.argv[1:]
    warnings.simplefilter("ignore")
    IMPORTS.get(method, lambda: None)()
    limit = math.ceil(time.process_time() + float(cpu_s))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    with np.load(problem) as file:
        stored = {name: file[name] for name in file.files}
    np.savez(Path(path), **answer(method, stored, float(cpu_s)))


if __name__ == "__main__":
    main()
