"""Judgements of controllers that never ran, against the truth of random plants.

Run: .venv/bin/python benchmarks/judge.py [--plants 7000:7034] [--poor 17] [--plans 10] [--greenhouses 1] [--peers 7]
     [--budget 20] [--workers 2] [--cache FOLDER] [--fit]
Writes benchmarks/results/judge.json. `--poor` plants are also judged from poor logs. On `--plans` plants, plans on a
linear world are judged, in 10 episodes of 60 steps. benchmarks/judge_greenhouse.py
is a case of another kind. On `--peers` plants fitted Q evaluation (benchmarks/judge_peer.py) predicts costs, too, in
60 s for each controller. With `--fit` it fits the width factor that the toolkit ships, from other plants, and writes
src/worldline/control/width_factor.json.

benchmarks/judge_cases.py draws a plant, 60 logged episodes of 200 steps under the best of 20 random PID controllers
with exploration, and six controllers that never ran. Poor logs have 20 episodes and 30 % of the exploration. A world
learns from the log without the references in `--budget` s. The truth is the mean over the logged situations with other
noise (references given), and over 20 other episodes (unknown).
"""

from __future__ import annotations

import json
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import numpy as np
from common import (
    ROOT,
    Row,
    arguments,
    kept_or_temporary,
    one_thread,
    quantiles,
    read,
    share,
    use_processor_time,
    write,
)
from judge_cases import JudgeCase, draw_judge_case, planned_case, truth_of
from judge_greenhouse import GreenhouseCase, draw_greenhouse, greenhouse_truth
from judge_peer import fitted_q
from scipy.optimize import linprog
from scipy.stats import spearmanr

from worldline.control.controllers import ControllerCard
from worldline.control.imagination import ImaginedEpisodes
from worldline.control.judgement import (
    LEVEL,
    OWN,
    SHAKES,
    JudgedFigure,
    RunVerdict,
    WidthFactor,
    judged_difference,
    judged_figure,
    paired,
    shaking,
    shipped_factor,
)
from worldline.control.judging import Evidence, Judge, Scale, figure, too_far
from worldline.data.store import Store
from worldline.stats import Estimate
from worldline.workers import run_tasks

POOR: Final[Row] = {"num_episodes": 20, "exploration": 0.3}
PLAN: Final[dict[str, int]] = {"horizon": 10, "episodes": 10, "steps": 60}
FITTED: Final = (*range(1000, 1040), *range(5000, 5034))
"""Plants that the width factor is fitted on."""
FACTOR: Final = ROOT / "src" / "worldline" / "control" / "width_factor.json"
TIMED: Final = 200
"""Imagined runs whose time is measured."""
PEER_S: Final = 60.0
KINDS: Final = ("cost", "violations", "settling", "use")
CLEAR: Final = 0.02
"""Share of the logged cost by which a controller is clearly better."""
ZERO: Final = 0.001
"""Added to errors before their logarithm."""
PENALTY: Final = 0.01
"""Of the quantile regression."""


def learned(case: JudgeCase | GreenhouseCase, budget_s: float, recipe: str = "auto") -> Any:
    """The world that `worldline learn` makes of the log without the references."""
    from worldline.workflows.learn import learn

    use_processor_time()
    names = [signal.name for signal in case.known.signals]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", case.known)
        for episode in case.episodes:
            store.append(episode.select(names))
        return learn(store.path, Path(folder) / "world", recipe=recipe, budget=budget_s)


def measure(case: JudgeCase | GreenhouseCase, world: Any) -> Row:
    """What a world imagines and what is true of each controller."""
    goals = [case.goal.logged_targets(episode, case.known) for episode in case.episodes]
    imagination = ImaginedEpisodes(world, case.episodes, goals)
    judge = Judge(imagination, case.goal)
    pairs = list[Row]()
    for name, controller in case.candidates.items():
        begun = time.perf_counter()
        imagined = judge.imagine(controller)
        judge_s = time.perf_counter() - begun
        if isinstance(case, GreenhouseCase):
            truth = greenhouse_truth(case, controller, imagination.at)
        else:
            truth = truth_of(case, controller, imagination.at)
        pairs.append(
            {
                "controller": name,
                "shakes": imagined.shakes,
                "true_shakes": truth.shakes,
                "near_shakes": truth.near,
                "outside": {"share": imagined.outside.share, "far": imagined.outside.far},
                "judge_s": judge_s,
                "figures": {
                    key: {
                        "scale": [scale.kind, scale.unit],
                        "evidence": {
                            k: v.tolist() if isinstance(v, np.ndarray) else v
                            for k, v in vars(imagined.evidence[key]).items()
                        },
                        "same": float(figure(truth.same, key).mean()),
                        "fresh": float(figure(truth.fresh, key).mean()),
                    }
                    for key, scale in judge.scales.items()
                },
            }
        )
    return {
        "model": world.describe().name,
        "context": world.describe().context,
        "still": judge.still,
        "unexplained": [imagination.unexplained, judge.loops.unexplained],
        "pairs": pairs,
    }


def timed(case: JudgeCase, world: Any) -> Row:
    """The seconds of 200 imagined runs of the first controller."""
    many = [episode for episode in case.episodes for _ in range(4)][:TIMED]
    imagination = ImaginedEpisodes(world, many, [case.goal.logged_targets(episode, case.known) for episode in many])
    begun = time.perf_counter()
    imagination.run(next(iter(case.candidates.values())))
    return {"runs": len(many), "runs_s": time.perf_counter() - begun}


def measured(cache: Path, budget_s: float, seed: int, logs: str) -> Row:
    """The kept figures of a plant, or new ones."""
    path = cache / f"{seed}-{logs}.json"
    if path.exists():
        return read(path)
    row: Row = {"seed": seed, "logs": logs, "kind": logs}
    try:
        if logs == "greenhouse":
            greenhouse = draw_greenhouse(seed)
            row |= measure(greenhouse, learned(greenhouse, budget_s))
        else:
            case = draw_judge_case(seed, **(POOR if logs == "poor" else {}))
            row["kind"], world = case.plant.kind, learned(case, budget_s)
            if logs == "plan":
                case = planned_case(case, learned(case, budget_s, "linear"), **PLAN)
            row |= measure(case, world) | (timed(case, world) if logs == "rich" else {})
    except Exception:  # noqa: BLE001 (the result lists each plant that crashed)
        row["error"] = traceback.format_exc()[-1500:]
    path.write_text(json.dumps(row))
    return row


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A controller and its truth.

    Args:
        row: of the plant.
        pair: of the controller.
    """

    row: Row
    pair: Row

    @property
    def switches(self) -> bool:
        """Whether it oscillates by design, as rules and schedules with an interlock do."""
        return bool(self.pair["controller"].startswith(("rules", "schedule")))

    @property
    def verdict(self) -> RunVerdict:
        """As the toolkit gives it."""
        card = ControllerCard(name=self.pair["controller"], reads=None, switches=self.switches)
        shakes: Any = SimpleNamespace(shakes=self.pair["shakes"])
        if shaking(shakes, self.row["still"], card):
            return RunVerdict.UNSTABLE
        return RunVerdict.REFUSED if too_far(**self.pair["outside"]) else RunVerdict.JUDGED

    @property
    def is_unstable(self) -> bool:
        """Whether the true loop keeps oscillating, beyond the plant alone. Rules oscillate by design."""
        shakes, still = self.pair["true_shakes"]
        return not self.switches and bool(shakes > max(SHAKES, OWN * still))

    @property
    def is_near(self) -> bool:
        """Whether it settles, but not with a larger gain of the plant."""
        near = self.pair.get("near_shakes", 0.0) > max(SHAKES, OWN * self.pair["true_shakes"][1])
        return bool(near and not self.is_unstable and not self.switches)

    def evidence(self, name: str) -> tuple[Evidence, Scale]:
        """Of a figure."""
        stored = self.pair["figures"][name]
        facts = {**stored["evidence"], "folds": np.array(stored["evidence"]["folds"])}
        return Evidence(**facts), Scale(kind=stored["scale"][0], unit=stored["scale"][1])

    def figure(self, name: str, factor: WidthFactor) -> tuple[JudgedFigure, float, float]:
        """A figure, and its truth in these situations and in other episodes."""
        stored = self.pair["figures"][name]
        return judged_figure(name, *self.evidence(name), factor), stored["same"], stored["fresh"]


def with_peer(cache: Path, row: Row) -> Row:
    """The row with the costs that fitted Q evaluation predicts, if it has none."""
    if all("fitted_q" in pair for pair in row["pairs"]):
        return row
    case = draw_judge_case(row["seed"])
    for pair in row["pairs"]:
        pair["fitted_q"] = fitted_q(case, case.candidates[pair["controller"]], row["context"] - 1, PEER_S)
    (cache / f"{row['seed']}-{row['logs']}.json").write_text(json.dumps(row))
    return row


def against_peer(rows: Sequence[Row]) -> Row:
    """How often the error of the cost is smaller than that of fitted Q evaluation, on the scale of costs."""
    smaller, ratios = list[bool](), list[float]()
    for each in pairs_of(rows):
        evidence, scale = each.evidence("cost")
        truth = float(scale(each.pair["figures"]["cost"]["same"]))
        ours, theirs = (abs(value - truth) for value in (evidence.centre, float(scale(each.pair["fitted_q"]))))
        smaller.append(ours < theirs)
        ratios.append(ours / max(theirs, 1e-9))
    return {"smaller error": share(sum(smaller), len(smaller)), "ratio of errors": quantiles(ratios, 0.25, 0.5, 0.75)}


def pairs_of(rows: Sequence[Row]) -> list[Pair]:
    """All controllers of all plants."""
    return [Pair(row=row, pair=pair) for row in rows for pair in row.get("pairs", ())]


Errors = list[tuple[Evidence, float, int]]
"""Evidence, error of its centre on the scale, and plant."""


def errors_of(pairs: Sequence[Pair], kind: str) -> Errors:
    """Of a kind of figure; of "difference", those of the costs of two controllers of a plant."""
    if kind == "difference":
        return [
            (paired(one, two), (one.centre - two.centre) - (true_one - true_two), plant)
            for (one, error_one, plant), (two, error_two, other) in combinations(errors_of(pairs, "cost"), 2)
            if plant == other
            for true_one, true_two in [(one.centre - error_one, two.centre - error_two)]
        ]
    errors: Errors = []
    for each in pairs:
        for name in each.pair["figures"]:
            if name.partition(".")[0] == kind:
                evidence, scale = each.evidence(name)
                truth = float(scale(each.pair["figures"][name]["same"]))
                errors.append((evidence, evidence.centre - truth, 2 * each.row["seed"] + (each.row["logs"] == "poor")))
    return errors


def fitted(errors: Errors) -> dict[str, float]:
    """Weights of a sparse quantile regression, whose level is corrected by cross-validation over plants."""
    names = list(errors[0][0].features())
    rows = np.array([list(evidence.features().values()) for evidence, *_ in errors])
    wanted = np.log(np.abs([error for _, error, _ in errors]) + ZERO)
    plants = np.array([plant // 2 for *_, plant in errors])
    mean, spread = rows.mean(0), rows.std(0)
    mean[0], spread[0] = 0.0, 1.0
    scaled = (rows - mean) / np.where(spread > 1e-9, spread, 1.0)
    order = np.random.default_rng(0).permutation(np.unique(plants))
    part = np.array([int(np.flatnonzero(order == plant)[0]) % 10 for plant in plants])
    held_out = np.empty(len(wanted))
    for number in range(10):
        inside = part == number
        if inside.any():
            held_out[inside] = scaled[inside] @ quantile_regression(scaled[~inside], wanted[~inside])
    weights = quantile_regression(scaled, wanted) / np.where(spread > 1e-9, spread, 1.0)
    weights[0] += np.quantile(wanted - held_out, LEVEL) - weights[1:] @ mean[1:]
    return {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True) if weight}


def quantile_regression(rows: Any, wanted: Any) -> Any:
    """Weights whose predictions are exceeded by 10 % of the values, with a penalty on all but the first."""
    count, size = rows.shape
    price = PENALTY * np.ones(2 * size)
    price[[0, size]] = 0
    costs = np.concatenate([price, LEVEL * np.ones(count) / count, (1 - LEVEL) * np.ones(count) / count])
    equal = np.hstack([rows, -rows, np.eye(count), -np.eye(count)])
    solved = linprog(costs, A_eq=equal, b_eq=wanted, bounds=(0, None), method="highs").x
    return solved[:size] - solved[size : 2 * size]


def fit(rows: Sequence[Row]) -> WidthFactor:
    """The factor from all judged pairs."""
    judged = [each for each in pairs_of(rows) if each.verdict is RunVerdict.JUDGED]
    plants = len({row["seed"] for row in rows})
    origin = (
        f"fitted on {len(judged)} controllers of {plants} random plants that are not yours, with 20 and 60 logged "
        "episodes of 200 steps (benchmarks/judge.py --fit)"
    )
    weights = {kind: fitted(errors_of(judged, kind)) for kind in (*KINDS, "difference")}
    without = WidthFactor(weights=weights, sampling=dict.fromkeys(KINDS, 0.0), origin=origin)
    sampling = {kind: sampling_factor(judged, kind, without) for kind in KINDS}
    return WidthFactor(weights=weights, sampling=sampling, origin=origin)


def sampling_factor(pairs: Sequence[Pair], kind: str, factor: WidthFactor) -> float:
    """The factor with which 90 % of the intervals of other episodes hold the truth."""
    needed = list[float]()
    for each in pairs:
        for name, stored in each.pair["figures"].items():
            if name.partition(".")[0] == kind:
                evidence, scale = each.evidence(name)
                error, half = evidence.centre - float(scale(stored["fresh"])), factor.half_width(name, evidence)
                needed.append(np.sqrt(max(0.0, error**2 - half**2)) / max(evidence.fresh, 1e-6))
    return round(float(np.quantile(needed, LEVEL)), 3)


def covered(estimate: Estimate, truth: float) -> bool:
    """Whether an interval holds the truth."""
    return estimate.low <= truth <= estimate.high


def coverage(pairs: Sequence[Pair], kind: str, factor: WidthFactor, *, fresh: bool = False) -> Row:
    """The share of intervals that hold the truth."""
    hits = list[bool]()
    for each in pairs:
        for name in each.pair["figures"]:
            if name.partition(".")[0] == kind:
                judged, same, other = each.figure(name, factor)
                hits.append(covered(judged.fresh, other) if fresh else covered(judged.expected, same))
    return share(sum(hits), len(hits))


def widths(pairs: Sequence[Pair], factor: WidthFactor, *, fresh: bool) -> list[float]:
    """Widths of the cost intervals against the range of the true costs of a plant, on the scale of costs."""
    found = list[float]()
    for row in {id(each.row): each.row for each in pairs}.values():
        mine = [each for each in pairs if each.row is row]
        scale = mine[0].evidence("cost")[1]
        key = "fresh" if fresh else "same"
        true = [float(scale(pair["figures"]["cost"][key])) for pair in row["pairs"]]
        for each in mine:
            judged = each.figure("cost", factor)[0]
            ends = judged.fresh if fresh else judged.expected
            found.append(float(scale(ends.high) - scale(ends.low)) / max(np.ptp(true), 1e-9))
    return found


def rank(pairs: Sequence[Pair]) -> float:
    """The rank correlation of imagined and true costs of one plant."""
    costs = [each.pair["figures"]["cost"] for each in pairs]
    return float(spearmanr([cost["evidence"]["centre"] for cost in costs], [cost["same"] for cost in costs])[0])


def summary(rows: Sequence[Row], factor: WidthFactor) -> Row:
    """The figures of the bars."""
    pairs = pairs_of(rows)
    judged = [each for each in pairs if each.verdict is RunVerdict.JUDGED]
    plants = [[each for each in judged if each.row is row] for row in rows]
    kinds = Counter(each.row["kind"] for each in judged)
    by_kind = {
        kind: coverage([each for each in judged if each.row["kind"] == kind], "cost", factor) for kind in sorted(kinds)
    }
    claims = [each.figure("cost", factor)[:2] for each in judged]
    worse = [claim for claim, _ in wrong(judged, factor)]
    better = [claim for claim, truth in claims if truth < claim.logged]
    clearly = [claim for claim, truth in claims if truth < (1 - CLEAR) * claim.logged]
    unstable, stable = ([each for each in pairs if each.is_unstable is wanted] for wanted in (True, False))
    accepted = [each for each in unstable if each.verdict is RunVerdict.JUDGED]
    near = [each for each in pairs if each.is_near]
    wild = [each for each in pairs if each.pair["controller"] == "unstable"]
    differences, right = list[bool](), list[bool]()
    for mine in plants:
        for first, second in combinations(mine, 2):
            (one, scale), (two, _) = first.evidence("cost"), second.evidence("cost")
            made = judged_difference(("", ""), (one, two), scale, factor)
            truth = first.pair["figures"]["cost"]["same"] - second.pair["figures"]["cost"]["same"]
            differences.append(covered(made.cost, truth))
            if made.verdict == "better":
                right.append(truth < 0)
    return {
        "pairs": len(pairs),
        "plants": len(rows),
        "models": dict(Counter(row["model"] for row in rows)),
        "verdicts": dict(Counter(each.verdict.value for each in pairs)),
        "coverage": {kind: coverage(judged, kind, factor) for kind in KINDS},
        "coverage fresh": {kind: coverage(judged, kind, factor, fresh=True) for kind in KINDS},
        "coverage by kind": by_kind,
        "coverage of differences": share(sum(differences), len(differences)),
        "better of two that is true": share(sum(right), len(right)),
        "width": quantiles(widths(judged, factor, fresh=False), 0.25, 0.5, 0.75),
        "width fresh": quantiles(widths(judged, factor, fresh=True), 0.25, 0.5, 0.75),
        "rank of judged": float(np.mean([rank(mine) for mine in plants if len(mine) > 2])),
        "rank of all": float(np.mean([rank(pairs_of([row])) for row in rows])),
        "false better": share(sum(claim.better == "better" for claim in worse), len(worse)),
        "recall of better": share(sum(claim.better == "better" for claim in better), len(better)),
        "recall of clearly better": share(sum(claim.better == "better" for claim in clearly), len(clearly)),
        "oscillating accepted": share(len(accepted), len(unstable)),
        "accepted ones, coverage": coverage(accepted, "cost", factor) if accepted else None,
        "accepted ones, false better": sum(claim.better == "better" for claim, _ in wrong(accepted, factor)),
        "deliberately unstable accepted": share(sum(each.verdict is RunVerdict.JUDGED for each in wild), len(wild)),
        "stable not judged": share(sum(each.verdict is not RunVerdict.JUDGED for each in stable), len(stable)),
        "near the limit, not judged": share(sum(each.verdict is not RunVerdict.JUDGED for each in near), len(near)),
        "seconds of 200 runs": quantiles([row["runs_s"] for row in rows if row.get("runs") == TIMED], 0.5, 1.0),
        "seconds per controller": quantiles([each.pair["judge_s"] for each in pairs], 0.5, 1.0),
    }


def wrong(pairs: Sequence[Pair], factor: WidthFactor) -> list[tuple[JudgedFigure, float]]:
    """Costs and truths of those that are not better than the log."""
    claims = [each.figure("cost", factor)[:2] for each in pairs]
    return [(claim, truth) for claim, truth in claims if truth >= claim.logged]


def short_summary(rows: Sequence[Row], factor: WidthFactor) -> Row:
    """Coverage and time of cases of another kind."""
    pairs = pairs_of(rows)
    judged = [each for each in pairs if each.verdict is RunVerdict.JUDGED]
    several = [pairs_of([row]) for row in rows if len(row["pairs"]) > 2]
    return {
        "pairs": len(pairs),
        "models": dict(Counter(row["model"] for row in rows)),
        "verdicts": dict(Counter(each.verdict.value for each in pairs)),
        "coverage": {kind: coverage(judged, kind, factor) for kind in ("cost", "violations")},
        "coverage fresh": {kind: coverage(judged, kind, factor, fresh=True) for kind in ("cost", "violations")},
        "rank of all": [rank(each) for each in several],
        "seconds per controller": quantiles([each.pair["judge_s"] for each in pairs], 0.5, 1.0),
    }


def unseen_kinds(rows: Sequence[Row]) -> Row:
    """Coverage of cost where each kind of plant is judged with a factor from the other kinds."""
    hits = [0, 0]
    for kind in sorted({row["kind"] for row in rows}):
        others = [row for row in rows if row["kind"] != kind]
        if not others:
            continue
        factor = fit(others)
        mine = [each for each in pairs_of(rows) if each.row["kind"] == kind and each.verdict is RunVerdict.JUDGED]
        found = coverage(mine, "cost", factor)
        hits = [hits[0] + found["count"], hits[1] + (found["of"] if mine else 0)]
    return share(*hits)


def main() -> None:
    """Measures plant by plant, writes and prints the results."""
    counts: Row = {"poor": 17, "plans": 10, "greenhouses": 1, "peers": 7}
    options = arguments(__doc__, plants=range(7000, 7034), **counts, budget=20.0, workers="2", cache=Path, fit=False)
    plants = FITTED if options.fit else options.plants
    keys = [(seed, "rich") for seed in plants]
    keys += [(seed, "poor") for seed in plants[: options.poor]]
    if not options.fit:
        keys += [(seed, "plan") for seed in plants[: options.plans]]
        keys += [(seed, "greenhouse") for seed in plants[: options.greenhouses]]
    ended = dict[str, Row]()
    one_thread()
    with kept_or_temporary(options.cache) as cache:
        tasks = {f"{seed} {logs}": (cache, options.budget, seed, logs) for seed, logs in keys}
        for name, row in run_tasks(measured, tasks, options.workers, "plant"):
            print(row["seed"], row["kind"], row["logs"], row.get("model"), row.get("error", "")[-200:], flush=True)
            ended[name] = row
        first = [] if options.fit else [*tasks][: options.peers]
        peers = {name: (cache, ended[name]) for name in first if "pairs" in ended[name]}
        errors = dict(run_tasks(with_peer, peers, options.workers, "fitted Q evaluation"))
    compared = [errors[name] for name in peers]
    rows = [ended[name] for name in tasks]
    good = [row for row in rows if "pairs" in row]
    factor = fit(good) if options.fit else shipped_factor()
    if options.fit:
        FACTOR.write_bytes(msgspec.json.format(msgspec.json.encode(factor), indent=1) + b"\n")
    parts = {logs: [row for row in good if row["logs"] == logs] for logs in ("rich", "poor", "plan", "greenhouse")}
    result: Row = {logs: summary(parts[logs], factor) for logs in ("rich", "poor")}
    result |= {logs: short_summary(parts[logs], factor) for logs in ("plan", "greenhouse") if parts[logs]}
    result["failed"] = [row for row in rows if "error" in row]
    result["unseen kinds"] = unseen_kinds([*parts["rich"], *parts["poor"]])
    if not options.fit:
        result |= {"fitted Q evaluation": against_peer(compared)} if compared else {}
        write(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
