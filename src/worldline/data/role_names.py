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
_FINAL: Final = {"logger": "a value of the logger", "texts": "a text for people"}
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
    for group, meaning in _FINAL.items():
        if word := _word_in(words, group):
            return RoleGuess(role=None, reason=f"the word '{word}' names {meaning}")
    known = set(words)
    if (
        words
        and _WORDS["counters"].fullmatch(words[-1])
        and all(_WORDS["counters"].fullmatch(w) or w in _PARTS for w in words)
    ):
        return RoleGuess(role=None, reason=f"the word '{words[-1]}' names a counter")
    if word := _word_in(words, "goals"):
        return RoleGuess(role=None, reason=f"the word '{word}' names the task, not the state")
    if (word := _word_in(words, "differences")) and any(map(_WORDS["targets"].fullmatch, known)):
        return RoleGuess(role=None, reason=f"the word '{word}' names a value derived from a target")
    if (word := _word_in(words, "rewards")) or words in (("return",), ("returns",)):
        return RoleGuess(role=Role.REWARD, reason=f"the word '{word or words[0]}' names a reward")
    if word := _word_in(words, "feedback"):
        return RoleGuess(role=Role.OBSERVATION, reason=f"the word '{word}' names a measurement")
    if (word := _word_in(words, "commands")) or words == ("mv",):
        return RoleGuess(role=Role.ACTION, reason=f"the word '{word or words[0]}' names a command")
    return None


def _kind(kind: str, reason: str) -> NamedRole:
    role, sure, free, driven = _KINDS[kind]
    return NamedRole(guess=RoleGuess(role=role, reason=reason, sure=sure), free=free, driven=driven)


def _by_words(words: tuple[str, ...], unit: str | None) -> NamedRole | None:
    """The guess from words and the unit, which values may change."""
    short = (unit or "").strip().lower()
    measured, supply, device = (_word_in(words, group) for group in ("measured", "supply", "devices"))
    quantity, machine = _word_in(words, "quantities"), _word_in(words, "machines")
    if word := _word_in(words, "surroundings"):
        return _kind("surroundings", f"the word '{word}' names the surroundings")
    if word := _word_in(words, "loads"):
        return _kind("load", f"the word '{word}' may name a command, a disturbance or a measurement")
    if device and device == words[-1] and measured and device != measured:
        return _kind("quantity of an actuator", f"the word '{device}' names an actuator")
    if measured or (short in _UNITS["measured_units"] and not (device and quantity)):
        reason = f"the word '{measured}' names a measured quantity" if measured else ""
        reason = reason or f"the unit {unit} is of a measured quantity"
        return _kind("supply" if supply else "measured", reason)
    if device:
        is_quantity = bool(quantity) or short in _UNITS["quantity_units"]
        return _kind("quantity of an actuator" if is_quantity else "actuator", f"the word '{device}' names an actuator")
    if len(words) > 1 and (word := _word_in(words, "kinematic")):
        return _kind("motion", f"the word '{word}' names a motion")
    if machine and (quantity or short in _UNITS["quantity_units"]):
        return _kind("quantity of a machine", f"the word '{machine}' names a machine")
    if (word := _word_in(words, "outlet")) and quantity:
        return _kind("measured", f"the word '{word}' names an outlet")
    if len(words) == 2 and words[0] == "t":
        return _kind("supply" if supply else "measured", "'T' is a usual name of a temperature")
    if word := quantity or supply:
        return _kind("quantity", f"the word '{word}' may name a command or a measurement")
    for group, (kind, meaning) in _LETTERS.items() if len(words) == 1 else ():
        if word := _word_in(words, group):
            return _kind(kind, f"'{word}' is a usual name of {meaning}")
    return None


def _tagged(name: str) -> NamedRole | None:
    """The guess from a tag of ISA 5.1; None if the name is none."""
    if (tag := _TAG.search(name)) is None or re.search(r"(?:^|\W|_)[AD][IO][\W_]?\d{1,2}$", name):
        return None
    label, code, parameter = tag[0].strip("_. -"), tag[1] or tag[2], tag[3] or ""
    letters = _TAG_LETTERS.fullmatch(code)
    is_valve = letters is not None and (letters["set"] or "").endswith("V") and parameter in ("", "CV") and code != "PV"
    if parameter in _SET or is_valve:
        guess = RoleGuess(role=Role.ACTION, reason=f"the tag {label} is of a command")
        return NamedRole(guess=guess, is_final=True)
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
