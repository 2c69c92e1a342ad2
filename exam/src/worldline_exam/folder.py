"""Files in the folder of an exam, for resuming, regrading and comparison."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import worldline
from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import ConfigError, DataError, InputError
from worldline.formatting import listing
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
    """Content of `exam.json`.

    Args:
        options: options of the exam.
        result: result of the exam.
    """

    options: ExamOptions
    result: ExamResult


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Content of `begun.json`: what must be equal for an exam to be resumed.

    Args:
        subject: title of the subject.
        options: options of the exam. Those that do not change a world or an answer have their defaults.
        versions: versions of the packages that the result depends on.
        code: sha256 of the sources of the toolkit, the exam and the subject.
    """

    subject: str
    options: ExamOptions
    versions: Mapping[str, str]
    code: str


@dataclass(frozen=True, kw_only=True)
class LearnRecord:
    """Outcome of the training of one world.

    Args:
        facts: facts about the world for the report.
        lost: why the world cannot be queried; None if it can.
    """

    facts: Mapping[str, str]
    lost: SeedGrade | None = None


def begun_with(subject: ExamSubject, options: ExamOptions) -> Begun:
    """The record that a later `--resume` of this exam is checked against."""
    code = hashlib.sha256()
    packages = (Path(worldline.__file__).parent, Path(__file__).parent)
    for path in (*(source for package in packages for source in sorted(package.rglob("*.py"))), *subject.sources):
        code.update(path.read_bytes())
    return Begun(
        subject=subject.title,
        options=replace(options, tests=(), num_seeds=1, num_processes=1, sizes=options.sizes or None),
        versions=versions(),
        code=code.hexdigest(),
    )


def check_folder(folder: Path, begun: Begun, subject: ExamSubject, resume: bool) -> bool:
    """Whether an exam in the folder is resumed; raises `InputError` if none can be resumed or started there."""
    path = folder / BEGUN
    if resume and subject.pays:
        raise InputError(f"--resume does not apply to {subject.title}. Give --transcript {folder} and a new folder.")
    if resume and path.exists():
        before = read(Begun, path)
        other = [name for name, value in vars(begun).items() if value != getattr(before, name)]
        if other:
            raise InputError(
                f"{folder} holds an exam that was begun with another {listing(other)}. Restore what it was begun with, "
                "or choose a new folder."
            )
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = ", or resume it with --resume" if path.exists() and not subject.pays else ""
        raise InputError(f"{folder} is not an empty folder. Choose a new folder for the exam{hint}.")
    return False


def read_exam(folder: Path) -> Stored:
    """Options and result of the exam in a folder.

    Raises:
        InputError: the folder holds no exam.
        ConfigError: the file cannot be read.
    """
    path = folder / RESULT
    if not path.exists():
        raise InputError(
            f"{folder} holds no exam: there is no {RESULT}. Run one: worldline exam RECIPE --out {folder}."
        )
    return read(Stored, path)


def keep_examined(place: Path, examined: Examined) -> None:
    """Saves the scenes and references of a test."""
    references = examined.references
    parts = {"floor": references.floor, "ceiling": references.ceiling, "oracle": references.oracle}
    parts |= {f"must_fail/{name}": arrays for name, arrays in references.must_fail.items()}
    keep(place / SCENES, examined.scenes)
    named = {f"{part}/{name}": value for part, arrays in parts.items() for name, value in arrays.items()}
    keep(place / "references.npz", {**named, "floor_name": np.array(references.floor_name)})


def kept_examined(test: ExamTest, place: Path) -> Examined:
    """Loads what `keep_examined` saved and grades the references again."""
    scenes, arrays = kept(place / SCENES), kept(place / "references.npz")
    floor_name = str(arrays.pop("floor_name"))
    parts: dict[str, dict[str, Any]] = {"floor": {}, "ceiling": {}, "oracle": {}}
    for key, value in arrays.items():
        part, _, name = key.rpartition("/")
        parts.setdefault(part, {})[name] = value
    named = {part.removeprefix("must_fail/"): values for part, values in parts.items() if part.startswith("must_fail/")}
    references = References(
        floor=parts["floor"],
        ceiling=parts["ceiling"],
        oracle=parts["oracle"],
        must_fail=named,
        floor_name=floor_name,
    )
    return graded(test, scenes, references)


def keep(path: Path, arrays: Arrays) -> None:
    """Saves arrays atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".partial.npz")
    np.savez_compressed(part, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    part.replace(path)


def write(path: Path, text: str) -> None:
    """Writes text atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.partial")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def _current(content: bytes) -> bytes:
    """Renames the keys of earlier versions to those of this version."""
    for before, now in (("sitter", "subject"), ("exhibit", "figure"), ("codes", "tests")):
        content = content.replace(f'"{before}": '.encode(), f'"{now}": '.encode())
    return content


def read(cls: type[Value], path: Path) -> Value:
    """Reads a `cls` from a JSON file; raises `ConfigError` if that fails."""
    fix = "Restore it, or run the exam again."
    try:
        return from_json(cls, _current(path.read_bytes()), where=path)
    except ConfigError as error:
        raise ConfigError(f"{error} {fix}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. {fix}") from error


def kept(path: Path) -> dict[str, Any]:
    """Loads saved arrays; raises `DataError` if the file is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"the answers cannot be read ({error})", fix="Run the exam again.", file=path) from error


def logs_of(folder: Path, dataset: str) -> Path:
    """Folder of the logs of a dataset."""
    return folder / "logs" / dataset


def world_of(folder: Path, dataset: str, seed: int) -> Path:
    """Folder of the world of one training."""
    return folder / "worlds" / f"{dataset}-{seed}"


def answers_of(folder: Path, code: str) -> Path:
    """Folder of the answers, scenes and references of a test."""
    return folder / "answers" / code
