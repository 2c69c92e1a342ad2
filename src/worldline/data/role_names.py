"""Roles that follow from the name and the unit of a column, in English, German, French and Spanish."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Final

from worldline.schema import Role


def _folded(text: str) -> str:
    """The text in lower case without accents; ae, oe and ue are read as umlauts."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.sub("([aou])e", r"\1", "".join(c for c in plain if not unicodedata.combining(c)))


def _sections() -> Iterator[tuple[str, list[str]]]:
    """The groups of words in role_words.txt."""
    text = resources.files("worldline.data").joinpath("role_words.txt").read_text(encoding="utf-8")
    for section in re.split(r"^\[", text, flags=re.MULTILINE)[1:]:
        name, _, words = section.partition("]")
        yield name, words.split()


_GROUPS: Final = dict(_sections())
_UNITS: Final = {name: frozenset(words) for name, words in _GROUPS.items() if name.endswith("units")}
_WORDS: Final = {
    name: re.compile("|".join(_folded(word).replace("*", r"\w*") for word in words))
    for name, words in _GROUPS.items()
    if name not in _UNITS
}
"""Patterns of words in English, German, French and Spanish, by group."""

_TAG: Final = re.compile(
    r"(?:(?:^|[\W_])([A-Z]{2,5})[\W_]?\d+[A-Z]?|(?:^|[\W_])\d+[\W_]?([A-Z]{2,5}))(?:[._]([A-Z]+))?$"
)
"""A tag of ISA 5.1, such as FIC101.OP, TI_204, 101-TT or FCV-12, without and with the parameter of a controller."""
_SET: Final = ("SP", "OP", "CO", "OUT", "MV", "CMD")
_READ: Final = ("PV", "MEAS", "FB")
"""Parameters of a controller, after the tag."""
_TAG_LETTERS: Final = re.compile(r"[AEFHJLPQSTWXZ][DFKQ]?(?:(?P<set>C?V|[IR]?C)|(?P<read>IT|IR|TT|[IRT]))")

ASSUMED_EXOGENOUS: Final = "assumed to be exogenous (known but not chosen) because of its name."
_PARTS: Final = ("episode", "frame", "ep")
_SHORT: Final = 5
"""Words up to this length may be cut."""
_FINAL: Final = (
    ("logger", None, "a value of the logger"),
    ("texts", None, "a text for people"),
    ("goals", None, "the task, not the state"),
    ("rewards", Role.REWARD, "a reward"),
    ("feedback", Role.OBSERVATION, "a measurement"),
    ("commands", Role.ACTION, "a command"),
)
"""Groups of words that no values contradict, in their order, each with the role and what its words name."""
_ALONE: Final = {"return": "rewards", "returns": "rewards", "mv": "commands"}
"""Words that belong to a group only if they are the whole name."""
_LETTERS: Final = {
    "letters": ("input", "an input"),
    "output_letters": ("motion", "an output"),
    "disturbance_letters": ("disturbance", "a disturbance"),
    "temperature": ("measured", "a temperature"),
}
_KINDS: Final = {
    "measured": (Role.OBSERVATION, True, (Role.OBSERVATION, False), (Role.OBSERVATION, True)),
    "supply": (Role.EXOGENOUS, False, (Role.EXOGENOUS, True), (Role.OBSERVATION, False)),
    "surroundings": (Role.EXOGENOUS, True, (Role.EXOGENOUS, True), (Role.EXOGENOUS, False)),
    "actuator": (Role.ACTION, True, (Role.ACTION, True), (Role.ACTION, True)),
    "quantity of an actuator": (Role.ACTION, False, (Role.ACTION, True), (Role.ACTION, False)),
    "quantity of a machine": (Role.ACTION, False, (Role.ACTION, True), (Role.OBSERVATION, False)),
    "motion": (Role.OBSERVATION, False, (Role.OBSERVATION, False), (Role.OBSERVATION, True)),
    "quantity": (Role.OBSERVATION, False, (Role.ACTION, False), (Role.OBSERVATION, False)),
    "load": (Role.EXOGENOUS, False, (Role.EXOGENOUS, False), (Role.OBSERVATION, False)),
    "input": (Role.ACTION, False, (Role.ACTION, True), (Role.ACTION, False)),
    "disturbance": (Role.EXOGENOUS, False, (Role.EXOGENOUS, False), (Role.EXOGENOUS, False)),
}
"""By kind of a name: the guess, and the guesses if no other column changes it, and if others do."""


@dataclass(frozen=True, kw_only=True)
class RoleGuess:
    """A guess of a role.

    Args:
        role: None if the column should be left out.
        reason: a clause without a subject, such as "the word 'heater' names an actuator".
        sure: whether a user need not confirm it.
    """

    role: Role | None
    reason: str
    sure: bool = True


def words_of(name: str) -> tuple[str, ...]:
    """Returns the words of a name in lower case, split at signs, digits and changes to upper case."""
    plain = name.replace("CO2", "co2").replace("pH", "ph")
    parted = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-ZÄÖÜ])|(?<=[A-Z])(?=[A-Z][a-z]{2})", " ", plain)
    parted = re.sub(r"(?i)set[ _.-]?points?", "setpoint", parted)
    return tuple(word for word in re.split(r"(?<!co)[\W\d_]+", parted.lower()) if word)


def role_of_name(name: str, unit: str | None = None) -> RoleGuess | None:
    """Returns the role that follows from the words of a name and its unit; None if none follows.

    Words for feedback come before words for commands, and these before quantities, because `valve_command_feedback` is
    measured, and `temperature_setpoint` is chosen.

    Args:
        name: of the column.
        unit: None if unknown.
    """
    named = named_role(name, unit)
    return None if named is None else named.guess


@dataclass(frozen=True, kw_only=True)
class NamedRole:
    """A guess from a name.

    Args:
        guess: without values.
        free: role and whether it is sure, if no other column changes it.
        driven: the same if other columns change it.
        is_final: whether values do not matter.
    """

    guess: RoleGuess
    free: tuple[Role, bool] = (Role.OBSERVATION, False)
    driven: tuple[Role, bool] = (Role.OBSERVATION, False)
    is_final: bool = False


def named_role(name: str, unit: str | None) -> NamedRole | None:
    """What follows from a name and its unit."""
    name, unit = _split_unit(name, unit)
    words = words_of(name)
    if (tagged := _tagged(name)) is not None:
        return tagged
    if (final := _final(words)) is not None:
        return NamedRole(guess=final, is_final=True)
    if (known := _by_words(words, unit)) is not None or len(words) < 2 or max(map(len, words)) > _SHORT:
        return known
    whole = tuple(_completed(word) for word in words)
    known = _by_words(whole, unit) if whole != words else None
    final = _final(whole) if known is None else known.guess
    if final is None:
        return None
    guess = replace(final, reason=f"if words are completed, {final.reason}", sure=False)
    guesses = (guess.role or Role.OBSERVATION, False)
    return NamedRole(guess=guess, free=guesses, driven=guesses)


def _word_in(words: Sequence[str], group: str) -> str:
    """The first word in a group, with its accents."""
    return next((word for word in words if _WORDS[group].fullmatch(_folded(word))), "")


def _completed(word: str) -> str:
    """The word that a short one is the beginning of, else the short one."""
    groups = ("feedback", "commands", "surroundings", "supply", "measured", "devices", "machines", "quantities")
    stems = (_folded(stem.strip("*")) for group in groups for stem in _GROUPS[group])
    short = _folded(word)
    return next((stem for stem in stems if len(short) > 3 and stem.startswith(short)), word)


def _split_unit(name: str, unit: str | None) -> tuple[str, str | None]:
    """The name without a unit at its end, such as `tank_level_m`, and the unit."""
    head, _, tail = name.rpartition("_")
    short = tail.lower().replace(".", "/")
    is_unit = short == "%" or short in _UNITS["measured_units"] or short in _UNITS["quantity_units"]
    is_tail = unit is None and is_unit and max(map(len, words_of(head)), default=0) > 3
    return (head, short) if is_tail else (name, unit)


def _final(words: tuple[str, ...]) -> RoleGuess | None:
    """The guess from words that no values contradict."""
    is_counter = [bool(_word_in([word], "counters")) for word in words]
    if any(is_counter[-1:]) and all(word in _PARTS or known for word, known in zip(words, is_counter, strict=True)):
        return RoleGuess(role=None, reason=f"the word '{words[-1]}' names a counter")
    if (word := _word_in(words, "differences")) and _word_in(words, "targets"):
        return RoleGuess(role=None, reason=f"the word '{word}' names a value derived from a target")
    for group, role, meaning in _FINAL:
        is_alone = len(words) == 1 and _ALONE.get(words[0]) == group
        if word := words[0] if is_alone else _word_in(words, group):
            return RoleGuess(role=role, reason=f"the word '{word}' names {meaning}")
    return None


def _kind(kind: str, reason: str) -> NamedRole:
    role, sure, free, driven = _KINDS[kind]
    return NamedRole(guess=RoleGuess(role=role, reason=reason, sure=sure), free=free, driven=driven)


def _by_words(words: tuple[str, ...], unit: str | None) -> NamedRole | None:
    """The guess from words and the unit, which values may change: that of the first rule that holds."""
    word = {group: _word_in(words, group) for group in _WORDS}
    measured, device, quantity = word["measured"], word["devices"], word["quantities"]
    short, is_single = (unit or "").strip().lower(), len(words) == 1
    has_unit = short in _UNITS["measured_units"] and not (device and quantity)
    is_sized = bool(quantity) or short in _UNITS["quantity_units"]
    measurement, flow = "supply" if word["supply"] else "measured", quantity or word["supply"]
    actuator, sized = f"the word '{device}' names an actuator", "quantity of an actuator"
    rules = [
        (word["surroundings"], "surroundings", f"the word '{word['surroundings']}' names the surroundings"),
        (word["loads"], "load", f"the word '{word['loads']}' may name a command, a disturbance or a measurement"),
        (device and measured and measured != device == words[-1], sized, actuator),
        (measured, measurement, f"the word '{measured}' names a measured quantity"),
        (has_unit, measurement, f"the unit {unit} is of a measured quantity"),
        (device, sized if is_sized else "actuator", actuator),
        (word["kinematic"] and not is_single, "motion", f"the word '{word['kinematic']}' names a motion"),
        (word["machines"] and is_sized, "quantity of a machine", f"the word '{word['machines']}' names a machine"),
        (word["outlet"] and quantity, "measured", f"the word '{word['outlet']}' names an outlet"),
        (len(words) == 2 and words[0] == "t", measurement, "'T' is a usual name of a temperature"),
        (flow, "quantity", f"the word '{flow}' may name a command or a measurement"),
    ]
    letters = _LETTERS.items() if is_single else ()
    rules += [(word[group], kind, f"'{word[group]}' is a usual name of {what}") for group, (kind, what) in letters]
    return next((_kind(kind, reason) for holds, kind, reason in rules if holds), None)


def _tagged(name: str) -> NamedRole | None:
    """The guess from a tag of ISA 5.1; None if the name is none."""
    if (tag := _TAG.search(name)) is None or re.search(r"(?:^|\W|_)[AD][IO][\W_]?\d{1,2}$", name):
        return None
    label, code, parameter = tag[0].strip("_. -"), tag[1] or tag[2], tag[3] or ""
    letters = _TAG_LETTERS.fullmatch(code)
    is_valve = letters is not None and (letters["set"] or "").endswith("V") and parameter in ("", "CV") and code != "PV"
    if parameter in _SET or is_valve:
        return NamedRole(guess=RoleGuess(role=Role.ACTION, reason=f"the tag {label} is of a command"), is_final=True)
    if letters is None:
        return None
    if letters["read"] or parameter in _READ:
        return _kind("measured", f"the tag {label} is of a measurement")
    return _kind("input", f"the tag {label} is of a controller or a valve")


def may_be_actuator(name: str, unit: str | None = None) -> bool:
    """Whether neither the name nor the unit tells a measurement."""
    named = role_of_name(name, unit)
    return named is None or named.role is Role.ACTION or not named.sure


def role_of_input(name: str) -> tuple[Role, str]:
    """The role of an array of T rows, and a sentence that states the assumption, or ""."""
    named = role_of_name(name)
    if named is not None and named.role is Role.EXOGENOUS and named.sure:
        return Role.EXOGENOUS, ASSUMED_EXOGENOUS
    if named is not None and named.role in (Role.REWARD, Role.ACTION):
        return named.role, ""
    return Role.ACTION, "assumed to be an action; if it is not chosen, give it the role exogenous."
