"""Folders that appear complete or not at all: they are written under a hidden name and then renamed."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from worldline.data.fsync import sync_folder
from worldline.errors import InputError


def draft_beside(path: Path) -> Path:
    """A new hidden name next to `path`, for a folder that is written there first and then put in place."""
    path = path.absolute()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def put_in_place(draft: Path, path: Path) -> None:
    """Renames a folder in one step, so that of two processes that create the same folder one fails.

    Raises:
        InputError: the folder exists and is not empty.
    """
    try:
        draft.rename(path)
    except OSError as error:
        raise InputError(f"{path} was created by another process meanwhile. Wait until it has ended.") from error


def replace_folder(draft: Path, path: Path) -> None:
    """Puts a folder in the place of an existing one, which is deleted."""
    old = draft.with_name(f"{draft.name}.old")
    path.rename(old)
    draft.rename(path)
    sync_folder(draft.parent)
    shutil.rmtree(old)
