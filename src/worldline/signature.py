"""Signatures of bundles: the owner of the private key vouches for every byte of a bundle.

A signature is an Ed25519 signature (RFC 8032) of the manifest, which holds the hash of each file. It is stored as
`signature.json` in the folder of the bundle. Keys are PEM files. The extra `sign` installs the package cryptography.
"""

from __future__ import annotations

import base64
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from worldline.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    Bundle,
    read_bundle,
    read_manifest,
    read_small,
)
from worldline.errors import BundleError, InputError, MissingExtraError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"


def create_key(path: Path | str) -> Path:
    """Writes a new private key to `path`, readable by its owner only, and the public key next to it.

    Returns the path of the public key, `path` with the ending `.pub`.

    Raises:
        InputError: one of the files exists.
        MissingExtraError: the package cryptography is not installed.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = Path(path)
    public = path.with_name(f"{path.name}.pub")
    for one in (path, public):
        if one.exists():
            raise InputError(f"{one} exists. Give another path; a key that is overwritten cannot be restored.")
    key, encoding = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    public.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def sign_bundle(folder: Path | str, key: Path | str) -> Path:
    """Signs the bundle in `folder`, and returns the path of the signature; an earlier signature is replaced.

    Args:
        folder: of the bundle. All its files are checked first.
        key: path of the private key.

    Raises:
        BundleError: the bundle is damaged.
        InputError: `key` is no Ed25519 private key.
        MissingExtraError: the package cryptography is not installed.
    """
    private = _private_key(Path(key))
    bundle = read_bundle(Path(folder))
    signature = private.sign(_manifest_bytes(bundle))
    text = json.dumps({"algorithm": ALGORITHM, "signature": base64.b64encode(signature).decode()}, indent=2)
    path = bundle.folder / SIGNATURE
    fresh = bundle.folder.with_name(f".{bundle.folder.name}.{SIGNATURE}")
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(path)
    return path


def check_signature(bundle: Bundle, public_key: Path | str) -> None:
    """Checks that the bundle was signed with the private key that belongs to `public_key`.

    Args:
        bundle: whose files were checked against its manifest by `read_bundle`.
        public_key: path of the public key.

    Raises:
        BundleError: there is no signature, or it is of another key or of another bundle.
        InputError: `public_key` is no Ed25519 public key.
        MissingExtraError: the package cryptography is not installed.
    """
    public = _public_key(Path(public_key))
    from cryptography.exceptions import InvalidSignature

    path = bundle.folder / SIGNATURE
    sign = f"Sign it (worldline sign {bundle.folder} --key KEY), or fetch it from its author again."
    if not path.exists():
        raise BundleError(f"{bundle.folder}: the bundle is not signed, and a signature is required. {sign}")
    try:
        found = json.loads(read_small(bundle.folder, SIGNATURE, MAX_SIGNATURE_BYTES))
        signature = base64.b64decode(found["signature"], validate=True)
        known = found["algorithm"] == ALGORITHM
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: not a signature ({error}). {sign}") from error
    if not known:
        raise BundleError(f"{path}: the algorithm is {found['algorithm']!r:.100}, and only {ALGORITHM!r} is known.")
    content = _manifest_bytes(bundle)
    try:
        public.verify(signature, content)
    except InvalidSignature as error:
        problem = f"the signature does not fit {MANIFEST} and the key {public_key}"
        raise BundleError(f"{path}: {problem}; the bundle was changed, or another key signed it. {sign}") from error


def _manifest_bytes(bundle: Bundle) -> bytes:
    """The content of the manifest that the bundle was read with."""
    content = read_small(bundle.folder, MANIFEST, MAX_MANIFEST_BYTES)
    if read_manifest(bundle.folder) != bundle.manifest:
        raise BundleError(f"{bundle.folder / MANIFEST}: the file changed while it was read. Open the bundle again.")
    return content


def _private_key(path: Path) -> Ed25519PrivateKey:
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_key_bytes(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is no private key without a password: {error}. Create one with --new-key.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is a key of another kind. Use an Ed25519 key; --new-key creates one.")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_key_bytes(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is no public key: {error}. Give the file that ends with .pub.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is a key of another kind. Use an Ed25519 key.")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give the path of a key.") from error


def _require_cryptography() -> None:
    if find_spec("cryptography") is None:
        raise MissingExtraError("cryptography", "sign")
