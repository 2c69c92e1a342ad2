from __future__ import annotations

import sys
from pathlib import Path

import pytest

from worldline.data.formats.importer import Importer
from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.registry import BUILTIN, load, name_of, names, register

BUILTINS = [(kind, name) for kind, entries in BUILTIN.items() for name in entries]


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third party's distribution that registers one planner, laid out as pip would."""
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[worldline.planners]\nguess = guest_of_worldline:Guess\n")
    (tmp_path / "guest_of_worldline.py").write_text("class Guess: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "guest_of_worldline", raising=False)
    return tmp_path


@pytest.mark.parametrize(("kind", "name"), BUILTINS)
def test_every_builtin_resolves(kind: str, name: str) -> None:
    part = load(kind, name)
    assert callable(part) or isinstance(part, Importer)


def test_names_are_sorted_and_cover_the_builtins() -> None:
    for kind, entries in BUILTIN.items():
        assert names(kind) == sorted(names(kind))
        assert set(entries) <= set(names(kind))


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no engine is called 'persistance'. Did you mean 'persistence'"):
        load("engine", "persistance")


def test_an_unknown_kind_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no kind of part is called 'planners'. Did you mean 'planner'"):
        names("planners")


def test_a_third_partys_name_is_listed_without_loading_it(guest: Path) -> None:
    assert "guess" in names("planner")
    assert "guess" not in names("model")
    assert "guest_of_worldline" not in sys.modules


def test_a_third_party_cannot_take_a_builtins_place(guest: Path) -> None:
    (guest / "guest-1.0.dist-info" / "entry_points.txt").write_text("[worldline.planners]\ncem = nowhere:Nothing\n")
    assert names("planner").count("cem") == 1
    assert load("planner", "cem").__module__ == "worldline.planning.planners.cem"


def test_a_part_is_registered_in_this_process_but_not_in_a_builtins_place(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldline.registry._REGISTERED", {})

    class Guess: ...

    register("planner", "mine", object)
    register("planner", "mine", Guess)
    assert "mine" in names("planner")
    assert load("planner", "mine") is Guess
    assert name_of("planner", Guess) == "mine"
    for taken in ("cem", "guess"):
        with pytest.raises(InputError, match=f"a planner '{taken}' exists already"):
            register("planner", taken, Guess)
    with pytest.raises(UnknownNameError, match="kind of part"):
        register("planers", "mine", Guess)


def test_a_class_is_found_by_its_name_and_its_name_by_the_class(guest: Path) -> None:
    for kind, name in (("planner", "cem"), ("engine", "linear"), ("lab", "two-rooms"), ("model", "jepa")):
        assert name_of(kind, load(kind, name)) == name
    assert name_of("planner", load("planner", "guess")) == "guess"
    with pytest.raises(UnsupportedError, match=r"Path is not registered as a planner.*worldline\.planners"):
        name_of("planner", Path)
