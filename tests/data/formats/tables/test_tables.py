from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from worldline.config import to_json
from worldline.data.base import ReadOptions
from worldline.data.checks import Severity, check_episode
from worldline.data.formats.tables.tables import TableLogs
from worldline.data.importing import import_logs
from worldline.data.open_logs import open_logs
from worldline.data.schema_edits import apply_edits
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

VECTOR, DISCRETE = Kind.VECTOR, Kind.DISCRETE
OBSERVATION, ACTION = Role.OBSERVATION, Role.ACTION
ROWS = 12


def rows_of(num=ROWS, **columns):
    """Columns of a plain log; None as a value leaves a column out."""
    draw = np.random.default_rng(num)
    plain = {"time": (np.arange(num) / 10).tolist(), "x": draw.normal(size=num).tolist()}
    plain |= {"action": draw.normal(size=num).tolist()}
    return {name: values for name, values in (plain | columns).items() if values is not None}


def write_csv(path, columns):
    cells = [["" if v is None else v if isinstance(v, str) else repr(v) for v in values] for values in columns.values()]
    path.write_text("\n".join([",".join(columns), *(",".join(row) for row in zip(*cells, strict=True))]) + "\n")
    return path


def read_with(kind, path, schema=None, **reading):
    logs = kind.open(path, schema, ReadOptions(**reading))
    found = list(logs.read())
    assert [logged.number for logged in found] == list(range(len(logs)))
    for logged in found:
        errors = [finding for finding in logged.findings if finding.severity is Severity.ERROR]
        assert logged.findings if logged.episode is None else not errors
        if logged.episode is not None:
            assert check_episode(logged.episode, logs.schema) == ()
    return logs, found


read = partial(read_with, TableLogs)


def test_a_row_holds_an_observation_and_the_action_that_leads_to_the_next(tmp_path):
    columns = rows_of(reward=[float(i) for i in range(ROWS)])
    logs, (logged,) = read(write_csv(tmp_path / "a.csv", columns))
    episode = logged.episode
    assert logged.source == {"file": "a.csv", "episode": 0, "start_s": 0.0}
    assert (logs.schema.step_s, episode.step_s, episode.num_steps) == (0.1, None, ROWS - 1)
    assert episode.observations["x"][:, 0].tolist() == columns["x"]
    assert episode.actions["action"][:, 0].tolist() == columns["action"][:-1]
    assert episode.rewards["reward"][:, 0].tolist() == columns["reward"][:-1]
    assert (episode.terminated, episode.truncated, episode.seed, logged.findings) == (False, True, None, ())
    said = "\n".join(logs.unclear)
    assert "time: read as seconds" in said
    assert "last row" in said
    assert "The logs have no units for x, action" in said


def test_tables_are_recognised_by_name(tmp_path):
    write_csv(tmp_path / "a.csv", rows_of())
    assert TableLogs.recognises(tmp_path)
    assert TableLogs.recognises(tmp_path / "a.csv")
    assert isinstance(open_logs(tmp_path), TableLogs)
    (tmp_path / "run.mp4").touch()
    assert not TableLogs.recognises(tmp_path)
    (tmp_path / "run.mp4").unlink()
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").touch()
    assert not TableLogs.recognises(tmp_path)
    assert not TableLogs.recognises(tmp_path / "meta")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_episodes_come_back_bit_for_bit(tmp_path_factory, suffix, data):
    folder = tmp_path_factory.mktemp("tables")
    number = st.floats(-1e300, 1e300)
    lengths = data.draw(st.lists(st.integers(2, 8), min_size=1, max_size=4))
    labels = [f"run-{i}" for i, length in enumerate(lengths) for _ in range(length)]

    def column(values):
        return data.draw(st.lists(values, min_size=sum(lengths), max_size=sum(lengths)))

    columns = {
        "episode": labels, "time": [i / 8 for length in lengths for i in range(length)],
        "position.x": column(number | st.none()), "y": column(number), "gear": column(st.integers(0, 3)),
        "push": column(number),
    }  # fmt: skip
    if suffix == "csv":
        write_csv(folder / "log.csv", columns)
    else:
        parquet.write_table(pa.table(columns), folder / "log.parquet")
    signals = (
        Signal(name="position", role=OBSERVATION, kind=VECTOR, shape=(2,), components=("x", "y"), precision="float64"),
        Signal(name="gear", role=OBSERVATION, kind=DISCRETE, shape=(), num_values=4),
        Signal(name="push", role=ACTION, kind=VECTOR, shape=(1,), precision="float64"),
    )
    (folder / "schema.json").write_text(to_json(Schema(signals=signals, step_s=0.125)))
    logs, found = read(folder)
    assert logs.schema.signals == signals
    assert [logged.source["label"] for logged in found] == list(dict.fromkeys(labels))
    first = 0
    for length, logged in zip(lengths, found, strict=True):
        rows = slice(first, first + length)
        first += length
        episode = logged.episode
        known = np.array([x is not None for x in columns["position.x"][rows]])
        observed = episode.observed.get("position", np.ones(length, np.bool_))
        np.testing.assert_array_equal(observed, known)
        whole = np.stack([np.array(columns["position.x"][rows], float), columns["y"][rows]], 1)
        np.testing.assert_array_equal(episode.observations["position"][known], whole[known], strict=True)
        np.testing.assert_array_equal(episode.observations["gear"], columns["gear"][rows])
        np.testing.assert_array_equal(episode.actions["push"][:, 0], columns["push"][rows][:-1])
        assert episode.step_s is None


def test_missing_observations_are_masked_and_hold_the_last_value(tmp_path):
    columns = rows_of(6, x=[None, 1.5, None, None, 2.5, float("nan")], y=[None] * 5 + [1.0])
    _, (logged,) = read(write_csv(tmp_path / "a.csv", columns))
    assert logged.episode.observed["x"].tolist() == [False, True, False, False, True, False]
    assert logged.episode.observations["x"][:, 0].tolist() == [1.5, 1.5, 1.5, 1.5, 2.5, 2.5]
    assert logged.episode.observations["y"][:, 0].tolist() == [1.0] * 6


def test_a_sensor_that_was_off_in_one_episode_is_masked_and_said(tmp_path):
    write_csv(tmp_path / "a.csv", rows_of(y=[1.0, 2.0] * (ROWS // 2)))
    write_csv(tmp_path / "b.csv", rows_of(y=[None] * ROWS))
    _, (_, logged) = read(tmp_path)
    assert not logged.episode.observed["y"].any()
    (finding,) = logged.findings
    assert (finding.severity, finding.signal) == (Severity.WARNING, "y")


@pytest.mark.parametrize("name", ["action", "outdoor_air", "reward"])
def test_missing_inputs_are_an_error_that_names_the_row(tmp_path, name):
    cells = [0.5] * 5 + [None] + [0.25] * (ROWS - 6)
    _, (logged,) = read(write_csv(tmp_path / "a.csv", rows_of(**{name: cells})))
    (finding,) = logged.findings
    assert (finding.file, finding.signal, finding.step, logged.episode) == ("a.csv", name, 5, None)
    assert "row 5" in finding.problem
    last = [0.5] * (ROWS - 1) + [None]  # leads nowhere, so it may be missing
    _, (logged,) = read(write_csv(tmp_path / "a.csv", rows_of(**{name: last})))
    assert logged.episode is not None


def test_gaps_end_episodes(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 1.3, 1.4, 1.5, 4.0, 4.1, 4.2, 4.3, 9.0]
    path = write_csv(tmp_path / "a.csv", rows_of(time=times))
    logs, found = read(path)
    assert [logged.episode and logged.episode.num_steps for logged in found] == [6, 3, None]
    assert "single row (row 11)" in found[2].findings[0].problem
    assert [logged.source["start_s"] for logged in found] == [0.0, 4.0, 9.0]
    np.testing.assert_allclose(found[0].episode.step_s, [0.1, 0.1, 0.1, 1.0, 0.1, 0.1], rtol=1e-6)
    assert found[1].episode.step_s is None
    assert any("ten usual steps" in sentence for sentence in logs.unclear)
    _, found = read(path, gap_s=0.5)
    assert [len(logged.episode.observations["x"]) if logged.episode else 1 for logged in found] == [4, 3, 4, 1]


def test_rows_that_were_written_twice_are_left_out(tmp_path):
    columns = {name: [*values[:5], values[4], *values[5:]] for name, values in rows_of(10).items()}
    columns["x"][2] = None
    _, (logged,) = read(write_csv(tmp_path / "a.csv", columns))
    assert logged.episode.num_steps == 9
    assert [finding.problem for finding in logged.findings] == [
        "1 rows repeat the row before, with its time, and are left out"
    ]


def test_decimal_commas_are_read_between_semicolons(tmp_path):
    (tmp_path / "a.csv").write_text("time;x;action\n0;1,5;2\n1;2,25;3\n2;-3,5;4\n")
    _, (logged,) = read(tmp_path / "a.csv")
    assert logged.episode.observations["x"][:, 0].tolist() == [1.5, 2.25, -3.5]


def test_derived_constant_and_counting_columns_are_left_out_unless_named(tmp_path):
    columns = rows_of(60, Mass=[7] * 60, row=list(range(60)), count=list(range(5, 65)), goal_state=[0.5, 1.5] * 30)
    path = write_csv(tmp_path / "a.csv", columns)
    logs, (logged,) = read(path)
    assert [signal.name for signal in logs.schema.signals] == ["x", "action"]
    assert logged.findings == ()
    for line in ("Mass: left out, because it never changes (always 7).", "count: left out, because it counts"):
        assert line in "\n".join(logs.unclear)
    named = open_logs(path, edits={name: {"role": "observation"} for name in ("count", "goal_state")})
    assert {signal.name for signal in named.schema.observations} == {"x", "count", "goal_state"}


def test_a_long_recording_can_be_cut_without_loss_of_a_step(tmp_path):
    columns = rows_of(12)
    _, found = read(write_csv(tmp_path / "a.csv", columns), max_steps=5)
    assert [logged.episode.num_steps for logged in found] == [5, 5, 1]
    assert [x for logged in found for x in logged.episode.actions["action"][:, 0].tolist()] == columns["action"][:-1]
    assert found[1].episode.observations["x"][0, 0] == columns["x"][5]
    assert [logged.source["piece"] for logged in found] == [0, 1, 2]
    assert "piece" not in read(write_csv(tmp_path / "a.csv", columns), max_steps=11)[1][0].source


def test_a_column_tells_episodes_apart_even_where_they_are_mixed(tmp_path):
    columns = rows_of(6, run=["b", "a", "b", "a", "b", None], time=[0.0, 0.0, 0.1, 0.1, 0.2, 0.2])
    _, found = read(write_csv(tmp_path / "a.csv", columns))
    assert [logged.source.get("label") for logged in found] == ["b", "a", None]
    assert found[0].episode.observations["x"][:, 0].tolist() == columns["x"][0:5:2]
    assert "row 5" in found[2].findings[0].problem


def test_a_user_names_the_columns(tmp_path):
    columns = rows_of(4, time=None, when=[0.0, 1.0, 0.0, 1.0], part=[1, 1, 2, 2])
    path = write_csv(tmp_path / "a.csv", columns)
    logs, found = read(path, time="when", episode="part")
    assert (len(found), logs.schema.step_s) == (2, 1.0)
    assert [signal.name for signal in logs.schema.signals] == ["x", "action"]
    for asked in ({"time": "nope"}, {"episode": "nope"}):
        with pytest.raises(DataError, match=r"no column of (times|episodes) 'nope'"):
            TableLogs.open(path, None, ReadOptions(**asked))


@pytest.mark.parametrize(("times", "row", "said"), [
    ([0.0, 0.1, 0.1, 0.2], 2, "repeats"),
    ([0.0, 0.2, 0.1, 0.3], 2, "goes back"),
    ([0.0, 0.1, None, 0.3], 2, "no readable time"),
])  # fmt: skip
def test_times_that_do_not_rise_are_an_error_that_names_the_row(tmp_path, times, row, said):
    columns = rows_of(8, time=[*times, 0.0, 0.1, 0.2, 0.3], run=[1] * 4 + [2] * 4)
    _, (first, second) = read(write_csv(tmp_path / "a.csv", columns))
    (finding,) = first.findings
    assert (finding.file, finding.step, f"row {row} of the file" in finding.problem) == ("a.csv", row, True)
    assert said in finding.problem
    assert second.episode is not None


def test_texts_become_choices_facts_or_are_left_out_with_a_word(tmp_path):
    texts = {
        "valve": ["on", "off"] * 6,
        "mode": ["a", "b"] * 6,
        "task": ["sweep"] * 12,
        "note": [f"n{i}" for i in range(12)] * 1,
    }
    for name in "abc":
        write_csv(tmp_path / f"{name}.csv", rows_of(**{**texts, "note": [f"{name}{i}" for i in range(12)]}))
    logs, found = read(tmp_path)
    assert found[0].episode.actions["valve"].tolist() == [1, 0] * 5 + [1]
    assert logs.schema["valve"].num_values == 2
    assert "valve: its texts were encoded: off = 0, on = 1." in logs.unclear
    left_out = "it holds 2 different texts, such as 'a'; give it a role to use it as a discrete signal"
    assert f"mode: left out, because {left_out}." in logs.unclear
    mode = apply_edits(logs.schema, {"mode": {"role": "exogenous"}}, logs.columns)["mode"]
    assert (mode.kind, mode.role, mode.components) == (DISCRETE, Role.EXOGENOUS, ("a", "b"))
    assert found[0].source["task"] == "sweep"
    assert "note: left out, because it holds 36 different texts, such as 'a0'." in logs.unclear
    assert found[0].findings == ()


def test_texts_keep_their_numbers_under_the_schema_of_an_earlier_import(tmp_path):
    first = write_csv(tmp_path / "a.csv", rows_of(valve=["off", "on", "wait"] * 4))
    later = write_csv(tmp_path / "b.csv", rows_of(valve=["wait", "on"] * 6))
    ood_scores = write_csv(tmp_path / "c.csv", rows_of(valve=["wait", "fly"] * 6))
    schema = TableLogs.open(first, None, ReadOptions()).schema
    (found,) = TableLogs.open(later, schema, ReadOptions()).read()
    assert found.episode.actions["valve"].tolist() == [2, 1] * 5 + [2]
    (refused,) = TableLogs.open(ood_scores, schema, ReadOptions()).read()
    assert any("'fly'" in finding.problem and finding.step == 1 for finding in refused.findings)


def test_a_cell_that_is_no_number_costs_its_episode_only(tmp_path):
    cells = [0.5] * 29 + ["0.5x"] + [0.25] * 30
    columns = rows_of(60, y=cells, run=[i // 20 for i in range(60)], time=[i % 20 / 10 for i in range(60)])
    logs, found = read(write_csv(tmp_path / "a.csv", columns))
    assert logs.schema["y"].kind is VECTOR
    assert [logged.episode is None for logged in found] == [False, True, False]
    (finding,) = found[1].findings
    assert (finding.signal, finding.step, "'0.5x'" in finding.problem) == ("y", 9, True)


def test_what_is_infinite_is_left_for_the_checks(tmp_path):
    cells = [float("inf"), float("inf"), -1e308, 1e308, *[float(i) for i in range(ROWS - 4)]]
    path = write_csv(tmp_path / "a.csv", rows_of(y=[*cells[1:], 0.5], action=cells, reward=cells))
    for reading in (ReadOptions(), ReadOptions(rate_hz=20.0)):
        logs = TableLogs.open(path, None, reading)
        (logged,) = logs.read()
        wrong = check_episode(logged.episode, logs.schema)
        assert {finding.signal for finding in wrong} == {"y", "action", "reward"}
    _, (logged,) = read(write_csv(path, rows_of(time=[*[i / 10 for i in range(ROWS - 1)], float("inf")])))
    assert "row 11 of the file has no readable time" in logged.findings[0].problem


def test_units_come_from_headers_and_are_compared(tmp_path):
    columns = rows_of()
    columns = {"air [g/m3]" if name == "x" else name: values for name, values in columns.items()}
    path = write_csv(tmp_path / "a.csv", columns)
    assert read(path)[0].schema["air"].unit == "g/m3"
    signals = (
        Signal(name="air", role=OBSERVATION, kind=VECTOR, shape=(1,), unit="K"),
        Signal(name="action", role=ACTION, kind=VECTOR, shape=(1,)),
    )
    logs, (logged,) = read(path, Schema(signals=signals))
    assert any("its header has the unit g/m3, the schema K" in sentence for sentence in logs.unclear)
    assert logged.episode.step_s is not None


def test_vectors_gather_columns_by_component_or_number(tmp_path):
    columns = rows_of(3, x=[1.0, 2.0, 3.0], y=[4.0, 5.0, 6.0], velocity_x=[7.0] * 3, velocity_y=[8.0] * 3)
    columns |= {"joint.0": [0.5] * 3, "joint.1": [0.25] * 3}
    signals = (
        Signal(name="position", role=OBSERVATION, kind=VECTOR, shape=(2,), components=("x", "y")),
        Signal(name="velocity", role=OBSERVATION, kind=VECTOR, shape=(2,), components=("x", "y")),
        Signal(name="joint", role=OBSERVATION, kind=VECTOR, shape=(2,)),
        Signal(name="action", role=ACTION, kind=VECTOR, shape=(1,)),
    )
    _, (logged,) = read(write_csv(tmp_path / "a.csv", columns), Schema(signals=signals, step_s=0.1))
    assert logged.episode.observations["position"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert logged.episode.observations["velocity"].tolist() == [[7, 8]] * 3
    assert (logged.episode.observations["joint"].tolist(), logged.findings) == ([[0.5, 0.25]] * 3, ())


def test_a_column_that_the_schema_lacks_is_left_out_with_a_warning(tmp_path):
    signals = (
        Signal(name="x", role=OBSERVATION, kind=VECTOR, shape=(1,)),
        Signal(name="action", role=ACTION, kind=VECTOR, shape=(1,)),
    )
    _, (logged,) = read(write_csv(tmp_path / "a.csv", rows_of(more=[1] * ROWS)), Schema(signals=signals))
    assert [(f.signal, f.severity) for f in logged.findings] == [("more", Severity.WARNING)]


def test_flags_and_seeds(tmp_path):
    ends = [False] * (ROWS - 1) + [True]
    path = write_csv(tmp_path / "a.csv", rows_of(terminated=ends, seed=[7] * ROWS))
    _, (logged,) = read(path)
    assert (logged.episode.terminated, logged.episode.truncated, logged.episode.seed) == (True, False, 7)
    _, (logged,) = read(write_csv(path, rows_of(terminated=[True, *ends[1:]])))
    assert "terminated is set in row 0" in logged.findings[0].problem
    _, (logged,) = read(write_csv(path, rows_of(truncated=["no"] * ROWS, seed=[1, 2] * (ROWS // 2))))
    assert [(f.signal, f.severity) for f in logged.findings] == [(n, Severity.WARNING) for n in ("truncated", "seed")]
    logs, (logged,) = read(write_csv(path, rows_of(done=ends)))
    assert "done" not in {signal.name for signal in logs.schema.signals}
    assert any("done: left out, because it looks like an end flag" in sentence for sentence in logs.unclear)


def slow_table(num=60):
    slow = np.repeat(np.random.default_rng(1).normal(size=num // 10), 10)
    return rows_of(num, slow_temperature=slow.tolist(), flat=[1.5] * num)


def test_repeats_of_a_slow_sensor_are_not_observed(tmp_path):
    columns = slow_table(100)
    logs, (logged,) = read(write_csv(tmp_path / "a.csv", columns))
    name = "slow_temperature"
    assert np.flatnonzero(logged.episode.observed[name]).tolist() == list(range(0, 100, 10))
    assert logged.episode.observations[name][:, 0].tolist() == columns[name]
    assert logged.episode.observed.keys() == {name}
    assert any(f"{name}: it changes only every 10 rows" in sentence for sentence in logs.unclear)


def test_repeats_of_what_may_be_an_actuator_are_observed(tmp_path):
    columns = slow_table(100)
    columns["slow"] = columns.pop("slow_temperature")
    _, (logged,) = read(write_csv(tmp_path / "a.csv", columns))
    assert logged.episode.observed == {}


def test_a_sensor_is_not_slow_where_nothing_is_faster(tmp_path):
    columns = slow_table(100)
    columns["x_temperature"] = [2 * value for value in columns["slow_temperature"]]
    columns["action"] = [3 * value for value in columns["slow_temperature"]]
    del columns["x"]
    _, (logged,) = read(write_csv(tmp_path / "a.csv", columns))
    assert logged.episode.observed == {}


def test_mixed_rates_are_brought_to_one(tmp_path):
    times = [i / 8 for i in range(17)]
    action = [float(i) if i % 4 == 0 else None for i in range(17)]  # at 2 Hz
    x = [i / 4 if i % 2 == 0 else None for i in range(17)]  # at 4 Hz
    path = write_csv(tmp_path / "a.csv", rows_of(17, time=times, action=action, x=x, reward=[1.0] * 17))
    (finding,) = read(path)[1][0].findings
    assert "give a rate" in finding.fix
    logs, (logged,) = read(path, rate_hz=8.0)
    assert (logs.schema.step_s, logged.episode.step_s) == (0.125, None)
    assert logged.episode.actions["action"][:, 0].tolist() == [i // 4 * 4 for i in range(16)]
    assert logged.episode.observed["x"].tolist() == [i % 2 == 0 for i in range(17)]
    assert logged.episode.rewards["reward"][:, 0].tolist() == [1.0] * 16
    assert any("resampled to 8" in sentence for sentence in logs.unclear)


def test_a_grid_starts_where_all_inputs_are_known_and_says_what_it_leaves_out(tmp_path):
    action = [None, None, None, *[float(i) for i in range(3, 9)], None, None, None]
    path = write_csv(tmp_path / "a.csv", rows_of(action=action))
    _, (logged,) = read(path, rate_hz=10.0)
    assert logged.episode.actions["action"][:, 0].tolist() == [
        3,
        4,
        5,
        6,
        7,
        8,
    ]  # the last one is in force for one more
    (finding,) = logged.findings
    assert (finding.severity, finding.problem[:35]) == (Severity.WARNING, "3 rows at the start and 2 at the en")
    _, (logged,) = read(path, rate_hz=1.0)
    assert "times of this rate" in logged.findings[0].problem
    _, (logged,) = read(path, rate_hz=1e7)
    assert "12 rows in 1.1 s cannot be resampled" in logged.findings[0].problem
    _, (logged,) = read(write_csv(path, rows_of(time=None)), rate_hz=1.0)
    assert "rows without times" in logged.findings[0].problem


def test_an_unreadable_file_costs_its_episodes_only(tmp_path):
    write_csv(tmp_path / "a.csv", rows_of())
    (tmp_path / "b.csv").write_text("time,x,action\n0,1,2\n1,2,3,4\n")
    parquet.write_table(pa.table(rows_of(50)), tmp_path / "c.parquet")
    whole = (tmp_path / "c.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("aside")
    logs, found = read(tmp_path)
    assert {one.file: one.episode is None for one in found} == {"a.csv": False, "b.csv": True, "c.parquet": True}
    assert "Expected 3 fields in line 3, saw 4" in found[1].findings[0].problem
    assert any("notes.txt" in sentence for sentence in logs.unclear)
    files = import_logs(tmp_path, tmp_path / "store", keep_going=True).files
    assert {f.file: (f.kept, f.left_out) for f in files} == {"a.csv": (1, 0), "b.csv": (0, 1), "c.parquet": (0, 1)}


def test_where_nothing_can_be_read_the_first_reason_is_given(tmp_path):
    with pytest.raises(DataError, match="no table"):
        TableLogs.open(tmp_path, None, ReadOptions())
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(DataError, match=r"b\.csv.*no header"):
        TableLogs.open(tmp_path, None, ReadOptions())
    write_csv(tmp_path / "b.csv", rows_of(x=None))
    with pytest.raises(DataError, match=r"no column is known to be an observation.*--observation action"):
        import_logs(tmp_path, tmp_path / "store")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_never_passed_over(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("fuzz")
    columns = rows_of(gear=[0, 1, 2] * 4, mode=["ab", "c"] * 6)
    if name == "a.csv":
        write_csv(folder / name, columns)
    else:
        parquet.write_table(pa.table(columns), folder / name, write_page_checksum=True)
    whole = (folder / name).read_bytes()
    (before,) = read(folder)[1]
    damaged = bytearray(whole)
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(whole) - 1))]
        is_seen = name == "a.parquet" or damaged[-1:] != b"\n"
    else:
        place = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged[place // 8] ^= 1 << place % 8
        is_seen = False  # a flipped digit is a digit
    (folder / name).write_bytes(damaged)
    try:
        _, found = read(folder)
    except DataError:
        return
    assert not is_seen or any(logged.findings for logged in found)
    for logged in found:
        assert logged.episode is not None or logged.findings
    assert before.episode is not None
