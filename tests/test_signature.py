"""Signatures of bundles, with keys of the package cryptography."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from tests.world.tampering import tamper
from tests.world.tiny import CALM
from typer.testing import CliRunner

import worldline
from worldline.bundle import SIGNATURE, read_bundle
from worldline.catalog.versions import Catalog, open_named
from worldline.cli.main import app
from worldline.engines.baselines import Linear
from worldline.errors import BundleError, InputError
from worldline.planning.planners.cem import CrossEntropy
from worldline.signature import check_signature, create_key, sign_bundle
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld

ENGINE = Linear.fit(CALM.episodes(12, 12, seed=0), CALM.schema, context=1)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    save_world(tmp_path / "world", LocalWorld(ENGINE, None, CrossEntropy()))
    return tmp_path / "world"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "key")
    return tmp_path / "key"


def test_a_signed_world_opens_and_only_with_its_key(world: Path, key: Path, tmp_path: Path) -> None:
    public, other = key.with_name("key.pub"), create_key(tmp_path / "other")
    worldline.open(world)  # nobody needs a signature unless it is required
    with pytest.raises(BundleError, match=r"not signed, and a signature is required\. Sign it \(worldline sign"):
        worldline.open(world, require_signature=public)
    assert sign_bundle(world, key) == world / SIGNATURE
    worldline.open(world, require_signature=public)
    worldline.open(world)
    with pytest.raises(BundleError, match=r"does not fit manifest\.json and the key .*other\.pub"):
        worldline.open(world, require_signature=other)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_change_of_any_file_breaks_the_signature(world: Path, key: Path) -> None:
    """The attacker enters the changed file into manifest and card."""
    sign_bundle(world, key)
    tamper(world, "planner.json", lambda planner: {**planner, "num_iterations": 50})
    worldline.open(world)
    with pytest.raises(BundleError, match="the bundle was changed, or another key signed it"):
        worldline.open(world, require_signature=key.with_name("key.pub"))


def test_the_signature_of_another_bundle_does_not_fit(world: Path, key: Path, tmp_path: Path) -> None:
    engine = Linear.fit(CALM.episodes(12, 12, seed=1), CALM.schema, context=1)
    save_world(tmp_path / "other", LocalWorld(engine, None, CrossEntropy()))
    sign_bundle(tmp_path / "other", key)
    shutil.copy(tmp_path / "other" / SIGNATURE, world / SIGNATURE)
    with pytest.raises(BundleError, match="does not fit"):
        worldline.open(world, require_signature=key.with_name("key.pub"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "not a signature"),
        ("[" * 10_000, "larger than 4096 bytes"),
        ("[" * 4_000, "not a signature"),
        ('{"algorithm": "ed25519", "signature": "!"}', "not a signature"),
        ('{"algorithm": "none", "signature": ""}', "the algorithm is 'none'"),
        ('{"algorithm": "ed25519", "signature": ""}', "does not fit"),
    ],
)
def test_a_damaged_signature_is_refused(world: Path, key: Path, text: str, message: str) -> None:
    (world / SIGNATURE).write_text(text)
    with pytest.raises(BundleError, match=message):
        check_signature(read_bundle(world), key.with_name("key.pub"))


def test_a_link_in_place_of_a_signature_is_neither_opened_nor_published(world: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    (world / SIGNATURE).symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="a link or a special file"):
        Catalog(tmp_path / "catalog").publish(world, "toy")
    with pytest.raises(BundleError, match="a link or a special file"):
        worldline.open(world, require_signature=key.with_name("key.pub"))
    assert not list((tmp_path / "catalog").rglob(SIGNATURE))


def test_only_keys_are_keys(world: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        create_key(key)
    with pytest.raises(InputError, match="cannot be read"):
        sign_bundle(world, tmp_path / "missing")
    with pytest.raises(InputError, match="is no private key"):
        sign_bundle(world, key.with_name("key.pub"))
    with pytest.raises(InputError, match="is no public key"):
        worldline.open(world, require_signature=key)
    curve = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "curve").write_bytes(curve)
    with pytest.raises(InputError, match="a key of another kind"):
        sign_bundle(world, tmp_path / "curve")


def test_a_published_version_keeps_its_signature(
    world: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    public = key.with_name("key.pub")
    Catalog().publish(world, "toy", alias="unsigned")
    sign_bundle(world, key)
    Catalog().publish(world, "toy", alias="prod")
    open_named("toy@prod", require_signature=public)
    with pytest.raises(BundleError, match="not signed"):
        open_named("toy@unsigned", require_signature=public)


def test_a_world_that_is_saved_again_loses_its_signature(world: Path, key: Path) -> None:
    sign_bundle(world, key)
    save_world(world, LocalWorld(ENGINE, None, CrossEntropy()))
    assert not (world / SIGNATURE).exists()


def test_the_commands_sign_and_require(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    key, run = tmp_path / "mine", CliRunner().invoke
    refused = run(app, ["publish", str(world), "toy", "--require-signature", str(tmp_path / "none.pub")])
    assert refused.exit_code == 1
    assert not Catalog().names()
    signed = run(app, ["sign", str(world), "--key", str(key), "--new-key"])
    assert signed.exit_code == 0, signed.output
    assert f"Public key:  {key}.pub" in signed.output
    published = run(app, ["publish", str(world), "toy", "--require-signature", f"{key}.pub"])
    assert published.exit_code == 0, published.output
    assert json.loads((world / SIGNATURE).read_text())["algorithm"] == "ed25519"


def test_a_served_world_has_no_signature_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="require_signature cannot be given"):
        worldline.open("http://127.0.0.1:1", require_signature=create_key(tmp_path / "key"))
