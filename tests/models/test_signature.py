"""A bundle's signature: whose it is, and that nothing was changed since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from models.bundle import MANIFEST, BundleError, load_bundle
from models.signature import SIGNATURE, SignatureError, sign


def write_keys(folder: Path, name: str, private: Any = None) -> tuple[Path, Path]:
    """A private and a public key, as PEM files."""
    private = private or ed25519.Ed25519PrivateKey.generate()
    files = folder / f"{name}.pem", folder / f"{name}.pub"
    files[0].write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    files[1].write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return files


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_a_signed_bundle_is_loaded(bundle: Path, tmp_path: Path) -> None:
    """With the public half of the key that signed it, and still without any."""
    private, public = write_keys(tmp_path, "ours")
    assert sign(bundle / MANIFEST, private) == bundle / SIGNATURE
    assert load_bundle(bundle).fingerprint == load_bundle(bundle, key=public).fingerprint


def test_what_is_not_signed_by_that_key_is_refused(bundle: Path, tmp_path: Path) -> None:
    """No signature, another's, a damaged one, or a manifest that changed since."""
    private, public = write_keys(tmp_path, "ours")
    with pytest.raises(BundleError, match="is missing"):
        load_bundle(bundle, key=public)
    sign(bundle / MANIFEST, write_keys(tmp_path, "theirs")[0])
    with pytest.raises(BundleError, match="is not by the key"):
        load_bundle(bundle, key=public)
    sign(bundle / MANIFEST, private)
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "name": "another"}))
    with pytest.raises(BundleError, match="not of this bundle"):
        load_bundle(bundle, key=public)
    (bundle / SIGNATURE).write_text("no hex")
    with pytest.raises(BundleError, match="is not by the key"):
        load_bundle(bundle, key=public)


def test_keys_that_are_none(bundle: Path, tmp_path: Path) -> None:
    """A key of another kind, a file that is no key, and no file are one sentence each."""
    private, public = write_keys(tmp_path, "curve", ec.generate_private_key(ec.SECP256R1()))
    for file in (private, tmp_path / "none"):
        with pytest.raises(SignatureError, match="no private Ed25519 key"):
            sign(bundle / MANIFEST, file)
    for file in (public, bundle / MANIFEST, tmp_path / "none"):
        with pytest.raises(BundleError, match="no public Ed25519 key"):
            load_bundle(bundle, key=file)


def test_the_commands(cli: Callable[..., Any], bundle: Path, tmp_path: Path) -> None:
    """`marmot sign` signs, and `marmot serve --bundle-key` refuses what is not signed: exit 1."""
    private, public = write_keys(tmp_path, "ours")
    serve = ["serve", "--bundle", bundle, "--bundle-key", public, "--port", "0"]
    code, out, err = cli(*serve, "--cache", f"lmdb:{tmp_path}/cache")
    assert (code, out) == (1, "")
    assert "manifest.sig is missing" in err.splitlines()[-1]
    code, out, err = cli("sign", bundle, "--key", private, "--json")
    assert code == 0, err
    assert json.loads(out)["signature"] == str(bundle / SIGNATURE)
    assert load_bundle(bundle, key=public)
