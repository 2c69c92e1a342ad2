"""Files and folders that appear complete or not at all: they are written under a hidden name and then renamed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Final

from worldline.data.fsync import sync
from worldline.errors import InputError

_OLD: Final = ".old"
"""End of the name of a folder that is being replaced."""
_TOKEN: Final = "[0-9a-f]" * 8
"""Pattern of the random part of a draft's name."""


def draft_beside(path: Path) -> Path:
    """A new hidden name next to `path`, for a folder that is written there first and then put in place."""
    path = path.absolute()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yields a hidden name next to `path`: what is written there becomes `path` at the end, or is deleted on an error.

    Of two processes that create the same folder, one fails.

    Raises:
        InputError: the path exists and is not an empty folder.
    """
    refusal = f"{path} exists and is not empty. Choose another path, or delete it first."
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise InputError(refusal)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be created ({error}). Choose another path.") from error
    draft = draft_beside(path)
    try:
        yield draft
        try:
            draft.rename(path)
        except OSError as error:  # another process created it meanwhile
            raise InputError(refusal) from error
        sync(path.absolute().parent)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)


def replace_folder(draft: Path, path: Path) -> None:
    """Puts a folder in the place of an existing one, which is deleted. After a kill, see `finish_replace`."""
    old = draft.with_name(f"{draft.name}{_OLD}")
    path.rename(old)
    _finish(draft, old, path)


def finish_replace(path: Path) -> None:
    """Completes a `replace_folder` that was killed when `path` was missing; does nothing if it exists."""
    path = path.absolute()
    if path.exists():
        return
    for old in sorted(path.parent.glob(f".{escape(path.name)}.{_TOKEN}{_OLD}"))[-1:]:
        _finish(old.with_name(old.name.removesuffix(_OLD)), old, path)


def _finish(draft: Path, old: Path, path: Path) -> None:
    """Renames the draft, which may have been done by another process, and deletes the old folder."""
    if draft.exists():
        with suppress(FileNotFoundError):
            draft.rename(path)
    elif not path.exists():
        old.rename(path)  # somebody deleted the draft
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
