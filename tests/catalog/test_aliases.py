from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from worldline.catalog import aliases
from worldline.catalog.aliases import Alias, Reference, Turn, WorldDirectory, check_name
from worldline.errors import ConfigError, InputError, UnknownNameError

NOW = Turn(version=2, since="2026-01-01T00:00:00+00:00", reason="pointed")


@pytest.fixture
def shelf(tmp_path: Path) -> WorldDirectory:
    for number in ("1", "2", "10"):
        (tmp_path / "greenhouse" / number).mkdir(parents=True)
    (tmp_path / "greenhouse" / "shadow").mkdir()
    return WorldDirectory(folder=tmp_path / "greenhouse")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a@b", "a b", "-a", "a" * 101, "a\n", "é"])
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    with pytest.raises(InputError, match="is not allowed as world name"):
        check_name("world", name)


def test_an_alias_is_no_number() -> None:
    assert check_name("world", "42") == "42"
    with pytest.raises(InputError, match="An alias must not be a number"):
        check_name("alias", "42")


@pytest.mark.parametrize("text", ["greenhouse", "greenhouse@", "@prod", "a/b@prod", "a@../b", "a@0", "a@b@c"])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InputError):
        Reference.parse(text)


def test_versions_are_folders_that_are_numbers(shelf: WorldDirectory) -> None:
    assert (shelf.numbers(), shelf.check_version(10)) == ((1, 2, 10), 10)
    with pytest.raises(UnknownNameError, match="no version of 'greenhouse' is called '3'"):
        shelf.check_version(3)


def test_a_change_always_shows_in_the_stamp(shelf: WorldDirectory) -> None:
    stamps = set()
    for _ in range(10):  # within one tick of the file system's clock
        shelf.write({"prod": Alias(now=NOW)})
        stamp = shelf.stamp()
        assert stamp is not None
        stamps.add(stamp[0])
    assert len(stamps) == 10
    os.utime(shelf.folder / aliases.ALIASES, ns=(2**62, 2**62))  # a clock that was set back
    shelf.write({"prod": Alias(now=NOW)})
    assert shelf.stamp() != stamp
    assert (shelf.stamp() or (0,))[0] == 2**62 + 1


def test_without_a_file_there_is_no_stamp(shelf: WorldDirectory) -> None:
    assert shelf.stamp() is None


@pytest.mark.parametrize(("content", "message"), [
    ("{", "aliases.json"),
    (json.dumps({"format": 2, "aliases": {}}), "expected format 1, got 2"),
    (json.dumps({"format": 1, "aliases": {"../x": {"now": vars(NOW), "earlier": [], "shadow": None}}}), "'../x'"),
    (json.dumps({"format": 1, "aliases": {"p": {"now": {**vars(NOW), "version": "2"}}}}), "version"),
    (json.dumps({"format": 1, "aliases": {"p": {"now": vars(NOW), "shaddow": 1}}}), "shaddow"),
])  # fmt: skip
def test_a_damaged_file_is_refused(shelf: WorldDirectory, content: str, message: str) -> None:
    (shelf.folder / aliases.ALIASES).write_text(content)
    with pytest.raises(ConfigError, match=message):
        shelf.aliases()
