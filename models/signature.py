"""An Ed25519 signature beside a bundle's manifest, which holds the checksum of everything else.

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
    marmot sign var/bundle --key private.pem

`cryptography` (the extra `signing`) is imported only where a signature is made or asked for.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE = "manifest.sig"


class SignatureError(ValueError):
    """A signature that is missing or not by that key, or a key that cannot be read."""


def sign(manifest: Path, key: Path) -> Path:
    """Writes the signature of a manifest beside it, by the private key in a PEM file."""
    signature = manifest.with_name(SIGNATURE)
    signed = _private(key).sign(manifest.read_bytes()).hex()
    signature.write_text(signed + "\n")
    signature.chmod(0o644)
    return signature


def verify(manifest: bytes, signature: Path, key: Path) -> None:
    """Raises `SignatureError` unless these bytes were signed by the owner of a public key."""
    public = _public(key)
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    if not signature.is_file():
        raise SignatureError(f"{signature} is missing; `marmot sign` makes it")
    try:
        public.verify(bytes.fromhex(signature.read_text()), manifest)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"{signature} is not by the key {key}, or not of this bundle"
        ) from error


def _private(key: Path) -> Ed25519PrivateKey:
    _check_installed()
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    try:
        found = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(key, "private") from error
    if not isinstance(found, ed25519.Ed25519PrivateKey):
        raise _unreadable(key, "private")
    return found


def _public(key: Path) -> Ed25519PublicKey:
    _check_installed()
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_public_key,
    )

    try:
        found = load_pem_public_key(key.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(key, "public") from error
    if not isinstance(found, ed25519.Ed25519PublicKey):
        raise _unreadable(key, "public")
    return found


def _check_installed() -> None:
    if find_spec("cryptography") is None:
        raise SignatureError("signatures need cryptography: pip install 'marmot[signing]'")


def _unreadable(key: Path, kind: str) -> SignatureError:
    made = "genpkey -algorithm ed25519" if kind == "private" else "pkey -in PRIVATE.pem -pubout"
    return SignatureError(
        f"{key} is no {kind} Ed25519 key in a PEM file without a password; "
        f"`openssl {made} -out {key}` makes one"
    )
