from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from worldline.data.checks import Finding, Severity, check_actions, check_episode, raise_errors
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal


@pytest.fixture
def good(make_episode):
    return make_episode(0, 6, ("position",))


def changed(episode: Episode, group: str, name: str, values: object) -> Episode:
    arrays = dict(getattr(episode, group))
    arrays[name] = values
    return dataclasses.replace(episode, **{group: arrays})


def only(findings: tuple[Finding, ...]) -> Finding:
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]


@pytest.mark.parametrize(("group", "name", "cut", "fix"), [
    ("observations", "gear", slice(0, 6), "Add or drop the row"),
    ("observations", "gear", slice(0, 3), "find where the recording"),
    ("exogenous", "wind", slice(0, 4), "find where the recording"),
])  # fmt: skip
def test_lengths_off_by_one_say_the_convention(good, schema, group, name, cut, fix):
    finding = only(check_episode(changed(good, group, name, getattr(good, group)[name][cut]), schema))
    assert finding.signal == name
    assert "action t leads from observation t to t+1" in finding.problem
    assert fix in finding.fix


def test_an_action_too_many_is_found(good, schema):
    push = np.concatenate([good.actions["push"], good.actions["push"][:1]])
    finding = only(check_episode(changed(good, "actions", "push", push), schema))
    assert finding.signal == "push"
    assert "expected 6 rows, got 7" in finding.problem
    assert "drop the row" in finding.fix


def test_a_missing_value_under_a_mask_is_no_finding(good, schema):
    values, mask = good.observations["position"].copy(), np.ones(7, bool)
    values[3] = np.nan
    mask[3] = False
    masked = changed(changed(good, "observations", "position", values), "observed", "position", mask)
    assert check_episode(masked, schema) == ()


@pytest.mark.parametrize(("group", "name", "values", "problem"), [
    ("observations", "camera", np.zeros((7, 4, 5, 3), np.float32), "got float32"),
    ("observations", "camera", np.zeros((7, 3, 4, 5), np.uint8), "got (3, 4, 5)"),
    ("observations", "gear", np.full(7, 4), "outside"),
    ("observations", "gear", np.full(7, -1), "outside"),
    ("actions", "push", np.full((6, 1), 1.3, np.float32), "outside [[-1.2"),
    ("actions", "push", np.array(1, np.float32), "got 0"),
    ("actions", "pull", np.zeros((6, 1), np.float32), "no action of this name"),
    ("observed", "push", np.ones(7, bool), "no observation signal"),
    ("observed", "gear", np.ones(7, np.uint8), "mask is uint8"),
    ("observed", "gear", np.ones(6, bool), "shape (6,)"),
])  # fmt: skip
def test_other_faults_are_found(good, schema, group, name, values, problem):
    finding = only(check_episode(changed(good, group, name, values), schema))
    assert finding.signal == name
    assert problem.replace("[[", "[") in finding.problem.replace("[[", "[")
    assert finding.fix.endswith(".")


def test_a_value_on_the_bound_is_inside_after_rounding(good, schema):
    """1.2 is a little more in float32 than in float64."""
    assert float(np.float32(1.2)) > 1.2
    assert check_episode(changed(good, "actions", "push", np.full((6, 1), 1.2, np.float32)), schema) == ()


def test_episodes_without_steps_are_refused(schema):
    empty = Episode(observations={"gear": np.zeros(1, np.int64)}, actions={"push": np.zeros((0, 1), np.float32)})
    assert "no step" in only(check_episode(empty, schema)).problem
    assert "no array" in only(check_episode(Episode(observations={}, actions={}), schema)).problem


def test_actions_that_never_change_are_an_error_of_the_log():
    schema = Schema(
        signals=(
            Signal(name="move", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,)),
            Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3),
        )
    )

    def log(move: list[list[float]], gear: list[int]) -> list[dict[str, np.ndarray]]:
        return [{"move": np.array([m], np.float32), "gear": np.array([g])} for m, g in zip(move, gear, strict=True)]

    finding = only(check_actions(schema, log([[1, 2], [1, 2]], [2, 2])))
    assert finding.severity is Severity.ERROR
    assert "move is always [1.0, 2.0], gear is always 2" in finding.problem
    with pytest.raises(DataError, match="vary"):
        raise_errors([finding])
    partly = check_actions(schema, log([[1, 2], [1, 3]], [2, 2]))
    assert [finding.severity for finding in partly] == [Severity.WARNING] * 2
    assert "component 0 of the action" in partly[0].problem
    raise_errors(partly)
    assert check_actions(schema, log([[1, 2], [0, 3]], [2, 1])) == ()


def test_logs_without_any_action_are_an_error_of_the_log():
    schema = Schema(signals=(Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),))
    finding = only(check_actions(schema, [{}, {}]))
    assert finding.severity is Severity.ERROR
    assert "no action" in finding.problem
