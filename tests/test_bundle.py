from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from worldline.bundle import BUNDLE_FORMAT, MAX_MANIFEST_BYTES, read_bundle, write_bundle
from worldline.errors import BundleError

CONTENTS: Mapping[str, str | bytes | Mapping[str, Tensor]] = {
    "schema.json": '{"signals": []}',
    "model.safetensors": {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)},
    "heads/readout.safetensors": {"bias": torch.ones(4, dtype=torch.bfloat16)},
    "report.html": b"<!doctype html><p>\xc2\xb1 1 px</p>",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle, to be damaged."""
    write_bundle(tmp_path / "world", CONTENTS, model="jepa", notes={"data": "abc"})
    return tmp_path / "world"


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Applies `change` to the parsed manifest and writes it back."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def plant(bundle: Path, name: str, content: bytes) -> None:
    """Puts `content` into the bundle with a manifest entry that is true of it."""
    (bundle / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edit_manifest(bundle, lambda manifest: manifest["files"].update({name: entry}))


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, and any claim of the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    """One entry of a safetensors header, by default a sound one of 4 bytes."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# Round trip


def test_what_is_written_is_read(bundle: Path) -> None:
    found = read_bundle(bundle)
    assert found.files == tuple(sorted(CONTENTS))
    assert (found.manifest.model, found.manifest.notes, found.manifest.format) == (
        "jepa",
        {"data": "abc"},
        BUNDLE_FORMAT,
    )
    assert found.text("schema.json") == CONTENTS["schema.json"]
    assert found.text("report.html") == "<!doctype html><p>± 1 px</p>"
    assert torch.equal(found.tensors("model.safetensors")["weight"], torch.arange(6.0).reshape(2, 3))
    assert found.tensors("heads/readout.safetensors")["bias"].dtype is torch.bfloat16


def test_all_files_have_the_mode_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bundle(tmp_path / "w", CONTENTS, model="m", notes={})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "w").rglob("*.*")} == {0o640}


def test_a_bundle_opens_without_its_page(bundle: Path) -> None:
    (bundle / "report.html").unlink()
    assert read_bundle(bundle).files == tuple(sorted(CONTENTS.keys() - {"report.html"}))
    (bundle / "report.html").symlink_to("absent")
    with pytest.raises(BundleError, match="a link or a special file"):
        read_bundle(bundle)


def test_tied_and_transposed_tensors_are_kept(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    written = write_bundle(
        tmp_path / "w", {"model.safetensors": {"a": weight, "b": weight, "c": weight.T}}, model="m", notes={}
    )
    read = written.tensors("model.safetensors")
    assert torch.equal(read["a"], read["b"])
    assert torch.equal(read["c"], weight.T)


# Replacing


def test_a_new_bundle_replaces_the_old_one_whole(bundle: Path) -> None:
    write_bundle(bundle, {"schema.json": "2"}, model="other", notes={})
    assert read_bundle(bundle).files == ("schema.json",)
    assert [path.name for path in bundle.parent.iterdir()] == ["world"]


def test_a_failed_write_leaves_the_old_bundle(bundle: Path) -> None:
    with pytest.raises(BundleError, match="not allowed"):
        write_bundle(bundle, {"new.json": "1", "../evil.json": "2"}, model="m", notes={})
    assert read_bundle(bundle).manifest.model == "jepa"
    assert [path.name for path in bundle.parent.iterdir()] == ["world"]


@pytest.mark.parametrize("renames_done", [0, 1])
def test_a_kill_while_replacing_leaves_a_readable_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, renames_done: int
) -> None:
    rename, calls = Path.rename, []

    def dying_rename(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) > renames_done:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying_rename)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(bundle, {"schema.json": "2"}, model="other", notes={})
    monkeypatch.undo()
    assert read_bundle(bundle).text("schema.json") == CONTENTS["schema.json"]
    write_bundle(bundle, {"schema.json": "3"}, model="other", notes={})
    assert read_bundle(bundle).text("schema.json") == "3"
    assert [path.name for path in bundle.parent.iterdir()] == ["world"]


def test_a_folder_with_anything_else_in_it_is_never_replaced(bundle: Path, tmp_path: Path) -> None:
    (bundle / "thesis.txt").write_text("years of work")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.json").write_text("{}")
    for folder in (bundle, tmp_path / "home"):
        with pytest.raises(BundleError, match=r"hoose another folder"):
            write_bundle(folder, {"schema.json": "2"}, model="m", notes={})
    assert (bundle / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "home" / "letter.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/tmp/evil.json",
        "a/b/c.json",
        ".hidden.json",
        "a\\b.json",
        "C:evil.json",
        "nul\0.json",
        "x.json\n",
        "model.pkl",
        "code.py",
        "manifest.json",
        "",
        "x" * 200 + ".json",
    ],
)
def test_unsafe_names_are_neither_written_nor_read(bundle: Path, name: str) -> None:
    before = sorted(bundle.parent.rglob("*"))
    with pytest.raises(BundleError, match="not allowed"):
        write_bundle(bundle.parent / "other", {name: "{}"}, model="m", notes={})
    edit_manifest(bundle, lambda manifest: manifest["files"].update({name: {"sha256": "0" * 64, "size": 2}}))
    with pytest.raises(BundleError, match="not allowed"):
        read_bundle(bundle)
    assert sorted(bundle.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content"), [("model.json", {"w": torch.zeros(1)}), ("model.safetensors", "text"), ("a.safetensors", b"")]
)
def test_content_must_fit_the_suffix(tmp_path: Path, name: str, content: str | bytes | dict[str, Tensor]) -> None:
    with pytest.raises(BundleError, match="tensors need"):
        write_bundle(tmp_path / "w", {name: content}, model="m", notes={})
    assert list(tmp_path.iterdir()) == []


# Hostile folders


def damage_hash(bundle: Path) -> None:
    content = bytearray((bundle / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(content)


def link(name: str) -> Callable[[Path], None]:
    def replace(bundle: Path) -> None:
        (bundle / name).symlink_to((bundle / name).rename(bundle.parent / "elsewhere"))

    return replace


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).write_bytes(content)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Replaces the schema by something else."""

    def replace(bundle: Path) -> None:
        (bundle / "schema.json").unlink()
        make(bundle / "schema.json")

    return replace


def set_key(key: str, value: object) -> Callable[[Path], None]:
    return lambda bundle: edit_manifest(bundle, lambda manifest: manifest.update({key: value}))


def set_size(value: object) -> Callable[[Path], None]:
    return lambda bundle: edit_manifest(
        bundle, lambda manifest: manifest["files"]["schema.json"].update({"size": value})
    )


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "hash mismatch": (damage_hash, r"model\.safetensors: the sha256 differs"),
    "truncated": (
        lambda bundle: os.truncate(bundle / "model.safetensors", 20),
        r"model\.safetensors: the file has 20 bytes, but manifest\.json says",
    ),
    "linked file": (link("schema.json"), r"schema\.json: a link or a special file"),
    "linked folder": (link("heads"), r"heads: not listed"),
    "linked manifest": (link("manifest.json"), r"manifest\.json: a link or a special file"),
    "pipe": (instead(os.mkfifo), r"schema\.json: a link or a special file"),
    "folder for a file": (instead(Path.mkdir), r"schema\.json: a link or a special file"),
    "extra file": (write("code.py", b"raise SystemExit"), r"code\.py: not listed"),
    "extra folder": (lambda bundle: (bundle / "deep").mkdir(), r"deep: not listed"),
    "missing file": (instead(Path.exists), r"schema\.json: cannot be read"),
    "missing subfolder": (lambda bundle: shutil.rmtree(bundle / "heads"), r"readout\.safetensors: cannot be read"),
    "missing manifest": (lambda bundle: (bundle / "manifest.json").unlink(), r"manifest\.json: cannot be read"),
    "huge manifest": (set_key("notes", {"x": "x" * MAX_MANIFEST_BYTES}), r"manifest\.json: larger than"),
    "broken manifest": (write("manifest.json", b'{"format": 1,'), r"manifest\.json: not JSON"),
    "nested manifest": (write("manifest.json", b"[" * 100_000), r"manifest\.json: not JSON"),
    "a list for a manifest": (write("manifest.json", b"[1]"), r"manifest\.json: format None"),
    "future format": (
        set_key("format", BUNDLE_FORMAT + 1),
        rf"format {BUNDLE_FORMAT + 1}, but .* reads {BUNDLE_FORMAT}\. Upgrade",
    ),
    "earlier format": (set_key("format", 1), rf"format 1, but .* reads {BUNDLE_FORMAT}\. Learn the world again"),
    "boolean format": (set_key("format", False), r"format False"),
    "unknown key": (set_key("run", "os.system"), r"'run'"),
    "model of the wrong type": (set_key("model", ["jepa"]), r"model: .*string"),
    "files of the wrong type": (set_key("files", []), r"files: "),
    "size of the wrong type": (set_size("15"), r"files\.schema\.json\.size: "),
    "negative size": (set_size(-1), r"schema\.json has a size of -1 bytes"),
    "enormous size": (set_size(2**50), r"more than 8589934592\. Raise max_bytes"),
    "missing key": (
        lambda bundle: edit_manifest(bundle, lambda manifest: manifest.pop("model")),
        r"model: Field required",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_folders_are_refused(bundle: Path, attack: str) -> None:
    do, message = HOSTILE[attack]
    do(bundle)
    before = sorted(bundle.parent.rglob("*"))
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(bundle)
    assert str(bundle) in str(caught.value)
    assert re.search(r"Fetch|Upgrade|Raise|Learn", str(caught.value)), "says what to do"
    assert sorted(bundle.parent.rglob("*")) == before


def test_the_total_size_is_limited(bundle: Path) -> None:
    with pytest.raises(BundleError, match="more than 100"):
        read_bundle(bundle, max_bytes=100)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: the folder does not exist"):
        read_bundle(tmp_path / "nowhere")


# Hostile tensors

HOSTILE_TENSORS: dict[str, bytes] = {
    "empty": b"",
    "pickle": pickle.dumps({"weight": [0.0]}, protocol=4),
    "huge header length": safetensors({}, length=2**63),
    "header longer than the file": safetensors({}, length=3),
    "header over the limit": safetensors(b"{}" + b" " * (4 * 2**20)),
    "nested header": safetensors(b"[" * 100_000),
    "shape overflow": safetensors({"a": tensor(shape=[2**32, 2**32])}, bytes(4)),
    "far more data than the file has": safetensors({"a": tensor(shape=[2**40], offsets=[0, 2**42])}, bytes(64)),
}


@pytest.mark.parametrize("attack", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused(bundle: Path, attack: str) -> None:
    plant(bundle, "model.safetensors", HOSTILE_TENSORS[attack])
    with pytest.raises(BundleError, match=r"model\.safetensors: (a header of|not a valid safetensors file)"):
        read_bundle(bundle).tensors("model.safetensors")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_to_a_file_of_tensors_is_refused_or_harmless(bundle: Path, data: st.DataObject) -> None:
    """Even with a manifest that vouches for it: the outcome is tensors or a BundleError, nothing else."""
    content = bytearray(save({"a": torch.arange(4.0), "b": torch.zeros(2, 2, dtype=torch.int64)}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    plant(bundle, "model.safetensors", bytes(content))
    try:
        found = read_bundle(bundle).tensors("model.safetensors")
    except BundleError:
        return
    assert sum(value.nbytes for value in found.values()) == 48


# Access


def test_a_file_that_changes_after_the_checks_is_refused(bundle: Path) -> None:
    found = read_bundle(bundle)
    damage_hash(bundle)
    with pytest.raises(BundleError, match="changed since it was checked"):
        found.tensors("model.safetensors")


def test_a_missing_name_suggests_the_nearest(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"'schema\.jsn'. Did you mean 'schema\.json'"):
        read_bundle(bundle).text("schema.jsn")


def test_text_is_not_tensors_and_the_reverse(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"Read it with text"):
        read_bundle(bundle).tensors("schema.json")
    plant(bundle, "schema.json", b"\xff\xfe")
    with pytest.raises(BundleError, match="not UTF-8"):
        read_bundle(bundle).text("schema.json")
