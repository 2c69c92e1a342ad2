"""What an exam keeps in its folder, so that it can go on, be graded again and be compared."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import worldline
from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import ConfigError, DataError, InputError
from worldline.workflows import versions
from worldline_exam.base import ExamTest, References
from worldline_exam.options import ExamOptions
from worldline_exam.results import ExamResult, SeedGrade
from worldline_exam.self_check import Examined, graded
from worldline_exam.subjects import ExamSubject

RESULT, REPORT, BEGUN, SCENES = "exam.json", "report.html", "begun.json", "scenes.npz"

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What it takes to grade the answers in a folder again.

    Args:
        options: of the exam.
        result: that was found.
    """

    options: ExamOptions
    result: ExamResult


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What an exam that goes on has to have in common with what is in its folder.

    Args:
        subject: its title.
        options: of the exam, those that do not change a world or an answer as they are by default.
        versions: of what the result depends on.
        code: hash of this package's sources, and of the sitter's own, sha256.
    """

    subject: str
    options: ExamOptions
    versions: Mapping[str, str]
    code: str


@dataclass(frozen=True, kw_only=True)
class LearnRecord:
    """What came of learning one world.

    Args:
        facts: what is to be known of it.
        lost: why it cannot be asked; None where it can.
    """

    facts: Mapping[str, str]
    lost: SeedGrade | None = None


def begun_with(subject: ExamSubject, options: ExamOptions) -> Begun:
    """What an exam that goes on with this one has to have in common with it."""
    code = hashlib.sha256()
    packages = (Path(worldline.__file__).parent, Path(__file__).parent)
    for path in (*(one for package in packages for one in sorted(package.rglob("*.py"))), *subject.sources):
        code.update(path.read_bytes())
    return Begun(
        subject=subject.title,
        options=replace(options, codes=(), num_seeds=1, num_processes=1, sizes=options.sizes or None),
        versions=versions(),
        code=code.hexdigest(),
    )


def goes_on(folder: Path, begun: Begun, subject: ExamSubject, options: ExamOptions, resume: bool) -> bool:
    """Whether an exam goes on with what is in the folder; raises where it can neither go on nor begin there."""
    path = folder / BEGUN
    if resume and subject.pays:
        raise InputError("An exam that is paid for goes on from its transcript: give it, and a new folder.")
    if resume and path.exists():
        before = read(Begun, path)
        other = [name for name, value in vars(begun).items() if value != getattr(before, name)]
        if other == ["code"]:
            raise InputError(
                f"{folder} holds an exam that was begun with other code of the toolkit or of the recipe. Go on with "
                "that, or choose a new folder."
            )
        if other:
            raise InputError(
                f"{folder} holds an exam with another {other[0]}: {getattr(before, other[0])}, not "
                f"{getattr(begun, other[0])}. Go on with that, or choose a new folder."
            )
        with suppress(ConfigError):  # a result that is damaged is made anew from the answers
            if (folder / RESULT).exists():
                _check_no_fewer(folder, read_exam(folder), options)
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = ", or go on with it: --resume" if path.exists() and not subject.pays else ""
        raise InputError(f"{folder} holds something already. Choose a new folder for the exam{hint}.")
    return False


def _check_no_fewer(folder: Path, before: Stored, now: ExamOptions) -> None:
    """Refuses to leave out what was graded already, which would look as if it had never been."""
    codes = [test.code for test in now.tests()]
    left = [one.code for one in before.result.tests if one.code not in codes]
    if left or now.num_seeds < before.options.num_seeds:
        lacks = f"tests {', '.join(left)}" if left else f"{before.options.num_seeds} trainings, not {now.num_seeds}"
        raise InputError(f"{folder} holds an exam with {lacks}. Go on with these too, or choose a new folder.")


def read_exam(folder: Path) -> Stored:
    """What an exam left in its folder.

    Raises:
        InputError: there is no exam.
        ConfigError: it cannot be read.
    """
    path = folder / RESULT
    if not path.exists():
        raise InputError(
            f"{folder} holds no exam: there is no {RESULT}. Run one: worldline exam RECIPE --out {folder}."
        )
    return read(Stored, path)


def keep_examined(place: Path, examined: Examined) -> None:
    """The scenes, and what answers are graded against."""
    references = examined.references
    parts = {"floor": references.floor, "ceiling": references.ceiling, "oracle": references.oracle}
    parts |= {f"must_fail/{name}": one for name, one in references.must_fail.items()}
    keep(place / SCENES, examined.scenes)
    named = {f"{part}/{name}": value for part, one in parts.items() for name, value in one.items()}
    keep(place / "references.npz", {**named, "floor_name": np.array(references.floor_name)})


def kept_examined(test: ExamTest, place: Path) -> Examined:
    """What `keep_examined` wrote, graded again."""
    scenes, arrays = kept(place / SCENES), kept(place / "references.npz")
    floor_name = str(arrays.pop("floor_name"))
    parts: dict[str, dict[str, Any]] = {"floor": {}, "ceiling": {}, "oracle": {}}
    for key, value in arrays.items():
        part, _, name = key.rpartition("/")
        parts.setdefault(part, {})[name] = value
    named = {part.removeprefix("must_fail/"): one for part, one in parts.items() if part.startswith("must_fail/")}
    references = References(
        floor=parts["floor"],
        ceiling=parts["ceiling"],
        oracle=parts["oracle"],
        must_fail=named,
        floor_name=floor_name,
    )
    return graded(test, scenes, references)


def keep(path: Path, arrays: Arrays) -> None:
    """All of them or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".partial.npz")
    np.savez_compressed(part, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    part.replace(path)


def write(path: Path, text: str) -> None:
    """The whole text or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.partial")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def _current(content: bytes) -> bytes:
    """JSON of an exam of worldline 0.1 with the keys that this version reads."""
    for before, now in ((b'"sitter": ', b'"subject": '), (b'"exhibit": ', b'"figure": ')):
        content = content.replace(before, now)
    return content


def read(cls: type[Value], path: Path) -> Value:
    """The `cls` that was written to the file; raises `ConfigError` where it cannot be read."""
    fix = "Restore it, or run the exam again."
    try:
        return from_json(cls, _current(path.read_bytes()), where=path)
    except ConfigError as error:
        raise ConfigError(f"{error} {fix}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. {fix}") from error


def kept(path: Path) -> dict[str, Any]:
    """Raises `DataError` where the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"the answers cannot be read ({error})", fix="Run the exam again.", file=path) from error


def logs_of(folder: Path, dataset: str) -> Path:
    """Where they lie."""
    return folder / "logs" / dataset


def world_of(folder: Path, dataset: str, seed: int) -> Path:
    """Where that of a training lies."""
    return folder / "worlds" / f"{dataset}-{seed}"


def answers_of(folder: Path, code: str) -> Path:
    """Where those to a test lie, with its scenes and references."""
    return folder / "answers" / code
