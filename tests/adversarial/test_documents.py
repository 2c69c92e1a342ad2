"""Files of controllers, goals and options that are damaged or hostile: a message, in little time and memory."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldline.control.controllers import load_controller
from worldline.control.run_goal import load_goal
from worldline.documents import MAX_BYTES, MAX_DEPTH, parse_document, read_document
from worldline.errors import ConfigError, WorldlineError
from worldline.testing.toys import Integrator
from worldline.workflows.learn_options import read_config
from worldline.workflows.promotion import promote_controller

SCHEMA = Integrator(camera=False, wind=False).schema
LIMIT_S, LIMIT_KB = 5.0, 200 * 1024
"""Wide: files take milliseconds."""
PID = """kind = "pid"
[[loops]]
reads = "position.0"
acts = "push.0"
set_point = 23.0
gain = 0.4
integral_s = 30.0
"""
RULES = """kind = "rules"
rules = [{ when = { "position.0" = { below = 20.0, above = -3 } }, set = { "push.0" = 1.0 } }]
first = { "push.1" = 0.5 }
"""
SCHEDULE = 'kind = "schedule"\nperiod_s = 60\n[[steps]]\nat_s = 20\nset = { "push.0" = 1.0 }\n'
PLAN = 'kind = "plan"\nworld = "nowhere/"\nhorizon = 12\ngoal = "goal.toml"\n'
LOGGED = 'kind = "logged"\nlogs = "nowhere/"\nreads = ["position"]\n'
GOAL = """targets = { position = 1.5 }
tolerance = { position = 0.1 }
constraints = [{ rule = "AtMost", signal = "position", bound = 30 }]
[[costs]]
rule = "Within"
signal = "position"
low = 0.0
high = 1.0
tolerance = 0.1
"""
OPTIONS = '[learn]\nrecipe = "vectors"\nseed = 3\n[training]\nnum_updates = 3000\n'
JUDGEMENT = """{"goal": "{}", "num_fresh": 20, "first_step": 1,
 "controllers": [{"name": "pid", "source": "a", "verdict": "judged", "figures": {}}]}
"""
READERS = {
    PID: lambda path: load_controller(path, SCHEMA),
    RULES: lambda path: load_controller(path, SCHEMA),
    SCHEDULE: lambda path: load_controller(path, SCHEMA),
    PLAN: lambda path: load_controller(path, SCHEMA),
    LOGGED: lambda path: load_controller(path, SCHEMA),
    GOAL: load_goal,
    OPTIONS: read_config,
    JUDGEMENT: lambda path: promote_controller("pid", str(path), path, folder=path.parent / "catalog"),
}
VALUES = ["nan", "inf", "-inf", "9" * 5000, "1e999", "true", "[]", "{}", "1979-05-27", '""', '"/dev/zero"', '["pid"]']
VALUES += ["[[[1]]]", "-1", '"' + "x" * 300 + '"', "a." * 40 + "b", "[" * 5000, "{ a.b.c = 1 }", '"\\u0000"', "0"]


def mutated(text: str, draw: np.random.Generator) -> bytes:
    """The text with one to four changes: of a value, a piece, a byte, or a whole line."""
    for _ in range(int(draw.integers(1, 5))):
        values = list(re.finditer(r'(?<=[=:,\[] )("[^"]*"|[\w.+-]+|\[[^\]]*\]|\{[^}]*\})', text))
        lines = text.splitlines(keepends=True)
        match int(draw.integers(5)):
            case 0 | 1 if values:
                place = values[int(draw.integers(len(values)))]
                text = text[: place.start()] + VALUES[int(draw.integers(len(VALUES)))] + text[place.end() :]
            case 2 if len(lines) > 1:
                line = int(draw.integers(len(lines)))
                lines[line : line + 1] = [lines[line]] * int(draw.choice([0, 2, 300]))
                text = "".join(lines)
            case 3:
                start = int(draw.integers(len(text) + 1))
                text = text[:start] + text[start + int(draw.integers(1, 20)) :]
            case _:
                start = int(draw.integers(len(text) + 1))
                text = text[:start] + chr(int(draw.integers(1, 300))) + text[start + 1 :]
    content = bytearray(text.encode())
    if draw.random() < 0.1 and content:
        content[int(draw.integers(len(content)))] = 0xFF
    return bytes(content)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_files_get_a_message(count: int, tmp_path: Path) -> None:
    draw, refused = np.random.default_rng(count), 0
    (tmp_path / "goal.toml").write_text(GOAL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        text, read = [*READERS.items()][number % len(READERS)]
        path = tmp_path / "mutated.toml"
        path.write_bytes(mutated(text, draw))
        began_s = time.process_time()
        try:
            read(path)
        except (WorldlineError, OSError):  # commands print both on one line
            refused += 1
        assert time.process_time() - began_s < LIMIT_S, path.read_bytes()[:500]
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LIMIT_KB
    assert refused > count / 2


@pytest.mark.parametrize("text", [PID, RULES, SCHEDULE, GOAL, OPTIONS])
def test_unchanged_files_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(f"\ufeff{text}", encoding="utf-8")
    assert READERS[text](tmp_path / "one.toml")


HOSTILE = {
    "kind = " + "[" * 10_000: "more than 32 tables or lists",
    "a" + ".a" * 20_000 + " = 1": "more than 32 tables or lists",
    "".join(f"k{number}." + "a." * 20 + "b = 1\n" for number in range(15_000)): "points in keys",
    'kind = ["pid"]': r"kind is \['pid'\]: Expected `str`",
    f"kind = {'9' * 5000}": "is no TOML file",
    f"kind = {'9' * 4000}": "more than 64 bits",
    'kind = "pid"\nloops = [{ reads = "a", acts = "b", gain = nan }]': r"loops\[0\].gain is nan",
    'kind = "rules"\nrules = [{ when = { x = { below = "y" } }, set = {} }]': r"rules\[0\].when.x.below is 'y'",
    'kind = "rules"\nrules = [{ when = { x = { below = nan } }, set = {} }]': r"rules\[0\].when.x.below is nan",
    '{"kind": ' + "[" * 10_000 + "]" * 10_000 + "}": "is no JSON file: maximum recursion depth",
    '{"kind": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}": "more than 32 tables or lists",
    "#" * (MAX_BYTES + 1): "has more than 1048576 bytes",
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_hostile_files_are_refused_with_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "hostile.toml").write_text(text)
    began_s = time.process_time()
    with pytest.raises(ConfigError, match=rf"hostile\.toml.*{message}"):
        load_controller(tmp_path / "hostile.toml", SCHEMA)
    assert time.process_time() - began_s < LIMIT_S


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    (tmp_path / "plan.toml").write_text(PLAN.replace("goal.toml", "/dev/zero"))
    for name in ("pipe.toml", "zero.toml", ".", "missing\0.toml"):
        with pytest.raises(ConfigError, match="Name a"):
            read_document(tmp_path / name, dict[str, Any], "Correct it.")
    with pytest.raises(WorldlineError):
        load_controller(tmp_path / "plan.toml", SCHEMA)
    with pytest.raises(ConfigError, match="/dev/zero is no regular file"):
        load_goal("/dev/zero")


def test_texts_and_comments_are_not_counted() -> None:
    inside = "[" * 100 + "." * 100
    text = f"a = \"{inside}\" # {inside}\nb = '{inside}'\nc = \"\"\"\n{inside}\n\"\"\"\nd = '''{inside}'''\n"
    assert parse_document(text, "here")["b"] == inside
