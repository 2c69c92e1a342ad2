"""Bundles: folders that hold a world as safetensors, JSON, TOML and HTML, read as untrusted input.

Nothing in a bundle is executed, and no file can name code to import. Sizes and hashes are checked before a file is
parsed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from io import BufferedReader
from pathlib import Path

import torch
from pydantic_core import from_json as parse_json
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from worldline.config import from_json, to_json
from worldline.data.fsync import name_in_errors
from worldline.errors import BundleError, ConfigError, UnknownNameError

MANIFEST = "manifest.json"
ADDED_PAGES = ("audit.html", "exam.html")
"""Pages for people that may be added to a bundle later. They are not listed, not read and not published."""
BUNDLE_FORMAT = 2
"""The format that this version writes and reads."""
# As Python objects, JSON takes up to 40 times its size. These limits keep it and the tensors below 50 MB.
MAX_MANIFEST_BYTES = 2**19
MAX_HEADER_BYTES = 2**20
MAX_BYTES = 8 * 2**30

_NAME = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(?:safetensors|json|toml|html)"
)
_FETCH = "Fetch or write the bundle again, or use one from a trusted source"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """The entry of one file in the manifest.

    Args:
        sha256: of its content, 64 hexadecimal digits.
        size: bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The table of contents of a bundle.

    Args:
        format: version of the layout.
        worldline: version of the package that wrote it.
        created: time of writing, ISO 8601 with time zone.
        model: registered name of the model, or of the engine if it is not a learned one.
        files: every file except the manifest itself, by path relative to the bundle, with `/` between folders.
        notes: short facts as text.
    """

    format: int
    worldline: str
    created: str
    model: str
    files: Mapping[str, FileEntry]
    notes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files were all checked. Each access reads the file and checks its hash again.

    Args:
        folder: that holds the bundle.
        manifest: table of contents.
    """

    folder: Path
    manifest: Manifest

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files, sorted, without the manifest."""
        return tuple(sorted(self.manifest.files))

    def text(self, name: str) -> str:
        """The content of a text file.

        Raises:
            BundleError: the file does not exist, changed since it was checked, or is not UTF-8.
        """
        content = self._content(name)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise _refusal(self.folder / name, f"not UTF-8 text ({error.reason} at byte {error.start})") from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file, on the CPU.

        Raises:
            BundleError: the file does not exist, changed since it was checked, or is no valid safetensors file.
        """
        if not name.endswith(".safetensors"):
            raise BundleError(f"{self.folder / name}: not a safetensors file. Read it with text().")
        content = self._content(name)
        if (length := int.from_bytes(content[:8], "little")) > MAX_HEADER_BYTES:
            raise _refusal(self.folder / name, f"a header of {length} bytes, more than {MAX_HEADER_BYTES}")
        try:
            return load_tensors(content)
        except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch lacks
            raise _refusal(self.folder / name, f"not a valid safetensors file ({error})") from error

    def _content(self, name: str) -> bytes:
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: {UnknownNameError('file', name, self.files)}")
        entry, path = self.manifest.files[name], self.folder / name
        with _opened(self.folder, name) as file:
            content = file.read(entry.size + 1)
        if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(f"{path}: the file changed since it was checked. Open the bundle again.")
        return content


Content = str | bytes | Mapping[str, Tensor]
"""Content of a file."""


def write_bundle(
    folder: Path,
    contents: Mapping[str, Content],
    *,
    model: str,
    notes: Mapping[str, str],
) -> Bundle:
    """Writes a bundle to `folder` and returns it; replaces an earlier bundle atomically.

    The bundle is written and checked next to `folder` and then renamed. If the process is killed, the earlier bundle
    stays readable, under its own name or the one that `read_bundle` falls back to.

    Args:
        folder: absent, empty, or an earlier bundle with nothing else in it.
        contents: per relative name a text, bytes or named tensors; tensors only under names that end in `.safetensors`.
        model: as in `Manifest`.
        notes: short facts as text, kept in the manifest.

    Raises:
        BundleError: a name is not allowed, the content does not fit it, or `folder` holds other files.
    """
    folder = Path(folder).resolve()
    for name, content in contents.items():
        _check_name(folder, name)
        if name.endswith(".safetensors") != isinstance(content, Mapping):
            raise BundleError(
                f"{folder / name}: tensors need the suffix .safetensors, text .json, .toml or .html. Rename it."
            )
    previous = _previous(folder)
    if previous.is_dir() and not folder.exists():
        previous.rename(folder)
    _refuse_foreign(folder)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    fresh.mkdir(parents=True)
    try:
        files = dict[str, FileEntry]()
        for name, content in contents.items():
            files[name] = _write_file(fresh / name, content)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(
            format=BUNDLE_FORMAT, worldline=version("worldline"), created=created, model=model, files=files, notes=notes
        )
        _write_file(fresh / MANIFEST, to_json(manifest))
        read_bundle(fresh)
        _swap(fresh, folder, previous)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Bundle(folder=folder, manifest=manifest)


def holds_bundle(folder: Path) -> bool:
    """Whether `folder` holds a bundle, valid or not."""
    return ((folder if folder.exists() else _previous(folder)) / MANIFEST).is_file()


def read_bundle(folder: Path, *, max_bytes: int = MAX_BYTES) -> Bundle:
    """Validates and opens the bundle at `folder`: names, sizes and hashes. Only the manifest is parsed.

    A page that the manifest lists may be missing; the result does not list it.

    Args:
        folder: that holds the bundle. If a writer was killed between its two renames, the previous bundle is read.
        max_bytes: limit on the total size of the files.

    Raises:
        BundleError: a file differs from the manifest, or the manifest is invalid. Names the file.
    """
    folder = Path(folder)
    if not folder.exists() and _previous(folder).is_dir():
        folder = _previous(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder}: the folder does not exist. Give the folder that holds {MANIFEST}.")
    manifest = read_manifest(folder)
    total = sum(entry.size for entry in manifest.files.values())
    if total > max_bytes:
        problem = f"the files have {total} bytes, more than {max_bytes}"
        raise BundleError(f"{folder}: {problem}. Raise max_bytes if you trust the source.")
    present = _present(folder, manifest)
    extra = sorted(present - {MANIFEST, *manifest.files, *ADDED_PAGES})
    if extra:
        raise _refusal(folder / extra[0], f"not listed in {MANIFEST}")
    # Pages are for people; a world without them is complete.
    files = {n: entry for n, entry in manifest.files.items() if n in present or not n.endswith(".html")}
    manifest = replace(manifest, files=files)
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    return Bundle(folder=folder, manifest=manifest)


# Reading


def _refusal(path: Path, problem: str) -> BundleError:
    return BundleError(f"{path}: {problem}. {_FETCH}.")


def _check_name(folder: Path, name: str) -> None:
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(
            f"{folder}: the name {name[:200]!r} is not allowed. Use letters, digits, '_', '-' and '.', at most one "
            "folder, and the suffix .safetensors, .json, .toml or .html."
        )


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[BufferedReader]:
    """Opens the file; refuses links, also of its folder, and everything but regular files."""
    path = folder / name
    try:
        if path.parent != folder and not stat.S_ISDIR(path.parent.lstat().st_mode):
            raise _refusal(path.parent, "a link or not a folder")
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _refusal(path, "a link or a special file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from error


def read_manifest(folder: Path) -> Manifest:
    """The table of contents of the bundle at `folder`; does not check the files that it lists.

    Raises:
        BundleError: the manifest is missing or invalid.
    """
    path = folder / MANIFEST
    with _opened(folder, MANIFEST) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise _refusal(path, f"larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _refusal(path, f"not JSON ({error})") from error
    # Check the version first, because another version may have other keys.
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int or number != BUNDLE_FORMAT:
        advice = "Learn the world again" if number == 1 else "Upgrade worldline"
        raise BundleError(f"{path}: format {number!r}, but this version of worldline reads {BUNDLE_FORMAT}. {advice}.")
    try:
        manifest = from_json(Manifest, text, where=path)
    except ConfigError as error:
        raise BundleError(f"{error} {_FETCH}.") from error
    for name, entry in manifest.files.items():
        _check_name(folder, name)
        if entry.size < 0:
            raise _refusal(path, f"{name} has a size of {entry.size} bytes")
    return manifest


def _present(folder: Path, manifest: Manifest) -> set[str]:
    """Names in the folder. Lists only subfolders that the manifest names, so a deep tree costs nothing."""
    subfolders = {name.partition("/")[0] for name in manifest.files if "/" in name}
    names = set()
    try:
        for path in folder.iterdir():
            if path.name in subfolders and not path.is_symlink() and path.is_dir():
                names |= {f"{path.name}/{inner.name}" for inner in path.iterdir()}
            else:
                names.add(path.name)
    except OSError as error:
        raise _refusal(folder, f"cannot be listed ({error.strerror})") from error
    return names


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    """Raises if a file differs from its entry."""
    path = folder / name
    with _opened(folder, name) as file:
        size = path.stat().st_size
        if size != entry.size:
            raise _refusal(path, f"the file has {size} bytes, but {MANIFEST} says {entry.size}")
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise _refusal(path, f"the sha256 differs from the one in {MANIFEST}")


# Writing


def _previous(folder: Path) -> Path:
    """The path of the earlier bundle between the two renames."""
    return folder.with_name(f".{folder.name}.previous")


def _refuse_foreign(folder: Path) -> None:
    """Raises if the folder holds anything that `write_bundle` did not write."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        manifest = read_manifest(folder)
        foreign = _present(folder, manifest) - {MANIFEST, *manifest.files, *ADDED_PAGES}
    except BundleError as error:
        raise BundleError(
            f"{folder}: the folder holds something that is not a bundle. Choose another folder. ({error})"
        ) from error
    if foreign:
        raise BundleError(f"{folder / min(foreign)}: not part of the bundle. Move it, or choose another folder.")


def _write_file(path: Path, content: str | bytes | Mapping[str, Tensor]) -> FileEntry:
    """Writes one file and returns its entry for the manifest."""
    path.parent.mkdir(exist_ok=True)
    with name_in_errors(path):
        if isinstance(content, Mapping):
            path.touch()
            mode = path.stat().st_mode
            # Copies, because safetensors refuses tensors that share memory, such as tied weights.
            layout = torch.contiguous_format
            save_file({k: v.detach().cpu().clone(memory_format=layout) for k, v in content.items()}, path)
            path.chmod(mode)  # safetensors writes files that only the owner can read
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def _swap(fresh: Path, folder: Path, previous: Path) -> None:
    """Replaces `folder` by `fresh`. Takes two renames, because a rename cannot replace a folder that is not empty."""
    if previous.exists():
        shutil.rmtree(previous)
    if folder.exists():
        folder.rename(previous)
    fresh.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
