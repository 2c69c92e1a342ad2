"""Roles that are inferred from logs of random plants, with invented column names of six industries in three languages.

Run: .venv/bin/python benchmarks/roles.py [--plants 0:200] [--population report]
Writes benchmarks/results/roles.json. `--plants A:B` counts from the first seed of the population.

benchmarks/stranger_plants.py draws plants and logs. Each log gets names three times, once per language, from
benchmarks/role_names: one industry and one style per log. Some logs have a feedback of an action, and columns that are
no signals: counters, notes, alarms and products. Development used the population `development` only; the population
`report` has other names, other styles and other seeds.

A role is unmarked if `worldline import` prints it without `?`.

Targets: 99 % of the unmarked roles of signals are right, and at most 25 % of the signals are marked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from common import Row, arguments, share, share_text, show, write
from numpy.random import Generator
from stranger_plants import Case, Table, draw_case

from worldline.data.open_logs import open_logs

HERE: Final = Path(__file__).parent
SEEDS: Final = {"development": 5_000_000, "report": 6_000_000}
"""First seed of each population."""
LANGUAGES: Final = ("en", "de", "es")
INDUSTRIES: Final = ("chemical", "water", "building", "automotive", "food", "robotics")
STYLES: Final = {
    "development": ("snake", "snake with unit", "brackets", "camel", "title", "tags", "letters", "cut to 4", "none"),
    "report": ("upper", "parentheses", "prefixed", "dotted", "pascal with unit", "tags", "letters", "cut to 5", "none"),
}
SHARES: Final = (0.18, 0.14, 0.18, 0.12, 0.12, 0.1, 0.05, 0.05, 0.06)
"""Probability of each style."""
FEEDBACK: Final = {
    "development": {"en": "feedback", "de": "Rückmeldung", "es": "realimentación"},
    "report": {"en": "measured", "de": "Istwert", "es": "medido"},
}
TIMES: Final = {
    "development": {"en": "time", "de": "Zeit", "es": "tiempo"},
    "report": {"en": "Timestamp", "de": "Zeitstempel", "es": "fecha"},
}
TEXTS: Final = {
    "development": {
        "en": "operator note,alarm text,product",
        "de": "Bemerkung,Alarm,Sorte",
        "es": "nota,alarma,producto",
    },
    "report": {"en": "remarks,event,grade", "de": "Kommentar,Störmeldung,Rezept", "es": "comentario,evento,receta"},
}
LOOPS: Final = {
    **dict.fromkeys(("degC", "°C"), "T"),
    **dict.fromkeys(("bar", "Pa", "kPa", "mbar"), "P"),
    **dict.fromkeys(("l/min", "l/h", "m3/h", "kg/h", "mg/l"), "F"),
    **dict.fromkeys(("m", "mm"), "L"),
    **dict.fromkeys(("rpm", "1/min", "Hz", "rad/s", "m/min", "km/h"), "S"),
}
"""First letter of a tag of ISA 5.1, by unit."""
LEFT_OUT: Final = "left out"


class NamedLog(NamedTuple):
    """A log with names.

    Args:
        frame: of pandas.
        roles: the true role of each column, by name without unit.
        language: of the names.
        industry: of the names.
        style: of the names.
    """

    frame: Any
    roles: dict[str, str]
    language: str
    industry: str
    style: str


def names_of(population: str) -> dict[tuple[str, str, str], list[tuple[str, str]]]:
    """Names with their units, by industry, language and role."""
    names = {}
    for line in (HERE / "role_names" / f"{population}.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            head, _, entries = line.partition(": ")
            industry, language, role = head.split()
            pairs = [entry.strip().rpartition(":") for entry in entries.split(";")]
            names[industry, language, role] = [(name, unit) for name, _, unit in pairs]
    return names


def tag(role: str, unit: str, population: str, draw: Generator) -> str:
    """A tag of ISA 5.1 in the notation of a control system."""
    loop, number = LOOPS.get(unit, "H" if role == "action" else "A"), int(draw.integers(100, 999))
    is_set_point = unit in ("degC", "°C", "bar", "mg/l")
    if population == "development":
        valve = f"{draw.choice(['FV', 'XV', 'HV'])}{number}"
        command = f"{loop}IC{number}.{'SP' if is_set_point else 'OP'}"
        measured = [f"{loop}I_{number}", f"{loop}I{number}", f"{loop}IC{number}.PV"]
    else:
        valve = f"{draw.choice(['FCV', 'TCV', 'PV'])}-{number}"
        command = f"{number}-{loop}IC.{'SP' if is_set_point else draw.choice(['CO', 'OUT', 'MV'])}"
        measured = [f"{number}-{loop}T", f"{loop}T-{number}", f"{loop}IT_{number}.MEAS"]
    return (valve if unit == "%" else command) if role == "action" else str(draw.choice(measured))


def letters(role: str, unit: str, number: int, population: str) -> str:
    """A name as in a textbook."""
    loop = LOOPS.get(unit, "")
    if population == "development":
        named = {"action": f"u{number}", "observation": f"{loop or 'y'}{number}", "disturbance": f"{loop or 'd'}_amb"}
    else:
        named = {"action": f"U_{number}", "observation": f"{loop.lower() or 'y'}_{number}", "disturbance": f"w{number}"}
    return named[role]


def styled(text: str, unit: str, style: str, draw: Generator) -> str:
    """A header in a style."""
    words = text.split()
    capital = [word[:1].upper() + word[1:] for word in words]
    match style:
        case "snake" | "upper":
            return "_".join(words).lower() if style == "snake" else "_".join(words).upper()
        case "snake with unit":
            return "_".join([*words, *([unit] if unit else [])]).lower()
        case "brackets" | "parentheses":
            mark = "[]" if style == "brackets" else "()"
            return " ".join([capital[0], *words[1:]]) + (f" {mark[0]}{unit}{mark[1]}" if unit else "")
        case "camel":
            return words[0].lower() + "".join(capital[1:])
        case "title":
            return "_".join(capital)
        case "prefixed":
            return f"R{draw.integers(1, 9)}01_{'_'.join(words).lower()}"
        case "dotted":
            return f"plant.unit{draw.integers(1, 4)}.{'_'.join(words)}"
        case "pascal with unit":
            return "".join(capital) + (f"_{unit}" if unit else "")
    raise ValueError(style)


def name_of(text: str, role: str, unit: str, number: int, style: str, population: str, draw: Generator) -> str:
    """A header in any style."""
    match style:
        case "tags":
            return tag(role, unit, population, draw)
        case "letters":
            return letters(role, unit, number, population)
        case "cut to 4" | "cut to 5":
            return "_".join(word[: int(style[-1])] for word in text.split())
        case "none" if population == "development":
            return str(draw.choice([f"AI_{draw.integers(1, 99):02}", f"X{draw.integers(1, 99)}"]))
        case "none":
            return str(draw.choice([f"CH{draw.integers(1, 99):02}", f"DB{draw.integers(1, 9)}.DBD{draw.integers(99)}"]))
    return styled(text, unit, style, draw)


def named_log(case: Case, language: str, population: str) -> NamedLog:
    """The log of a case with drawn names."""
    import pandas as pd

    draw = np.random.default_rng([case.seed, LANGUAGES.index(language), 46])
    names, industry = names_of(population), str(draw.choice(INDUSTRIES))
    style = str(draw.choice(STYLES[population], p=SHARES))
    columns, roles = dict[str, Table](), dict[str, str]()

    def add(text: str, role: str, unit: str, values: Table, word: str = "") -> None:
        name = header = ""
        while not header or name in roles:
            text = f"{text} 2" if header else text
            header = name_of(f"{text} {word}".strip(), role, unit, len(columns) + 1, style, population, draw)
            name = header.partition(" [")[0].partition(" (")[0].replace("/", ".")  # as the table's reader names it
        roles[name] = "exogenous" if role == "disturbance" else role
        columns[header] = values

    tables = {"observation": 0, "action": 1, "disturbance": 2}
    groups = [
        (role, [np.append(e[at], e[at][-1:], 0) if at else e[0] for e in case.episodes]) for role, at in tables.items()
    ]
    for number in draw.permutation(3):
        role, parts = groups[number]
        table = np.concatenate(parts)
        entries = names[industry, language, role]
        for column, pick in enumerate(draw.permutation(len(entries))[: table.shape[1]]):
            text, unit = entries[pick]
            add(text, role, unit, table[:, column])
            if role == "action" and draw.random() < 0.25:
                late = np.concatenate([np.append(part[:1, column], part[:-1, column]) for part in parts])
                noise = 0.02 * np.std(late) * draw.standard_normal(len(late))
                add(text, "observation", unit, late + noise, FEEDBACK[population][language])
    return NamedLog(
        frame=pd.DataFrame(_others(case, language, population, roles, draw) | columns),
        roles=roles,
        language=language,
        industry=industry,
        style=style,
    )


def _others(case: Case, language: str, population: str, roles: dict[str, str], draw: Generator) -> Row:
    """Columns that are no signals; their names are added to the roles."""
    import pandas as pd

    lengths = [len(episode[0]) for episode in case.episodes]
    steps = [np.append(episode[3], 100 * case.step_s) for episode in case.episodes]
    times, count = np.cumsum(np.concatenate(steps)), sum(lengths)
    columns: dict[str, Any] = {TIMES[population][language]: times}
    if draw.random() < 0.3:
        columns[TIMES[population][language]] = pd.to_datetime(1.7e18 + 1e9 * times).strftime("%Y-%m-%dT%H:%M:%S.%f")
    if case.layout == "episodes":
        columns["episode"] = np.repeat(np.arange(len(lengths)), lengths)
    note, alarm, product = TEXTS[population][language].split(",")
    texts = {
        note: [f"{word}{draw.integers(1000)}" for word in draw.choice(["ok ", "", "valve checked "], count)],
        alarm: draw.choice(["", "HIGH", "LOW"], count, p=[0.9, 0.05, 0.05]),
        product: np.repeat(draw.choice(["A12", "B7", "C"], len(lengths)), lengths),
    }
    columns |= {name: values for name, values in texts.items() if draw.random() < 0.2}
    if draw.random() < 0.2:
        columns["No"] = np.arange(count)
    roles.update(dict.fromkeys(columns, LEFT_OUT))
    return columns


def graded(log: NamedLog) -> Iterator[Row]:
    """Each column: its true and its inferred role, and whether it is marked."""
    for column in open_logs(log.frame).columns:
        role = LEFT_OUT if column.guess.role is None or not column.is_signal else str(column.guess.role)
        yield {
            "name": column.name,
            "truth": log.roles[column.name],
            "role": role,
            "marked": not column.guess.sure,
            "reason": column.guess.reason,
            "language": log.language,
            "industry": log.industry,
            "style": log.style,
        }


def shares(columns: Sequence[Row]) -> Row:
    """Right roles among unmarked ones, and marked ones, with 95 % intervals."""
    unmarked = [column for column in columns if not column["marked"]]
    right = sum(column["role"] == column["truth"] for column in unmarked)
    return {"right": share(right, len(unmarked)), "marked": share(len(columns) - len(unmarked), len(columns))}


def summary(columns: Sequence[Row]) -> Row:
    """The shares of all signals, and by language, industry, style and role."""
    signals = [column for column in columns if column["truth"] != LEFT_OUT]
    groups = {"all signals": shares(signals)}
    for key in ("language", "industry", "style", "truth"):
        for value in sorted({column[key] for column in signals}):
            groups[f"{key}: {value}"] = shares([column for column in signals if column[key] == value])
    groups["no signals"] = shares([column for column in columns if column["truth"] == LEFT_OUT])
    marked = [column for column in signals if column["marked"]]
    groups["proposals that are right"] = shares([column | {"marked": False} for column in marked])
    return groups


def main() -> None:
    """Grades each log; writes and prints the results."""
    options = arguments(__doc__, plants=range(200), population="report")
    columns, num_logs, begun = list[Row](), 0, time.process_time()
    for number in options.plants:
        case = draw_case(SEEDS[options.population] + number, num_windows=1)
        for language in LANGUAGES:
            columns += graded(named_log(case, language, options.population))
            num_logs += 1
    groups = summary(columns)
    show(
        ("columns", "unmarked roles right", "marked"),
        [(name, share_text(group["right"]), share_text(group["marked"])) for name, group in groups.items()],
    )
    for column in columns:
        if not column["marked"] and column["role"] != column["truth"]:
            print(f"{column['style']}: {column['name']}: {column['role']}, but {column['truth']}")
    result = {
        "targets": {"right": "99 %", "marked": "at most 25 %"},
        "population": options.population,
        "plants": len(options.plants),
        "logs": num_logs,
        "summary": groups,
        "seconds": time.process_time() - begun,
    }
    write(options.out, result)


if __name__ == "__main__":
    main()
