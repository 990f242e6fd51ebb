"""Who may do what: API keys, hashed at rest, each with its scopes and perhaps a rate of its own.

A keys file has a line for each key, as `marmot key` writes it; `#` begins a comment:

    shop  rank,events  sha256:9f86d0…  rps=50

Several lines may be valid for one caller, so that keys can be changed without a gap. A file that
was changed is read again within a second; one that cannot be read changes nothing.
"""

from __future__ import annotations

import hmac
import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

from starlette.types import Scope as Connection

from service.errors import Forbidden, Problem, RateLimited, Unauthorized, UsageError
from service.logging import log

PREFIX = "marmot_"
SECRET_BYTES = 32
LOOK_AGAIN_S = 1.0

_LINE = re.compile(r"(\S+)\s+([a-z,]+)\s+sha256:([0-9a-f]{64})(?:\s+rps=([0-9.]+))?")


#: What takes the scope `rank`, besides everything below /v2.
RANKING = frozenset(
    {"/v1/rank", "/v1/rank:batch", "/v1/retrieve", "/v1/prerank", "/v1/recommend", "/v2"}
)


class Scope(StrEnum):
    """What a key may be good for; none contains another."""

    RANK = "rank"
    EVENTS = "events"
    READ = "read"
    ADMIN = "admin"


class Allowance:
    """At most `rps` requests a second, and a second's worth of them at once."""

    def __init__(self, rps: float) -> None:
        self._interval_s = 1.0 / rps
        self._burst_s = max(1.0, self._interval_s)
        self._paid_until_s = -math.inf

    def take(self, now_s: float) -> float:
        """Takes one request, or says in how many seconds there will be one to take."""
        paid_until_s = max(self._paid_until_s, now_s) + self._interval_s
        wait_s = paid_until_s - now_s - self._burst_s
        if wait_s > 1e-9:
            return wait_s
        self._paid_until_s = paid_until_s
        return 0.0


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the file. The secret itself is written nowhere."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes
    rps: float | None = None

    def __str__(self) -> str:
        rate = "" if self.rps is None else f" rps={self.rps:.12g}"
        scopes = ",".join(scope for scope in Scope if scope in self.scopes)
        return f"{self.name} {scopes} sha256:{self.digest.hex()}{rate}"


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret.

    Secrets are 256 random bits, which nobody guesses however fast they can hash: one SHA-256 is
    enough. Slow hashes are for passwords, and would be paid for by every request.
    """
    return sha256(secret).digest()


def make_key(name: str, scopes: str, rps: float | None = None) -> tuple[str, Key]:
    """A new secret, and the key that knows it by its hash; `UsageError` names what does not fit."""
    if not re.fullmatch(r"[^\s#]+", name):
        raise UsageError(f"--name {name!r} must be one word without #")
    if rps is not None and not 0 < rps < math.inf:
        raise UsageError(f"--rps must be more than 0, not {rps:g}")
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return secret, Key(name, _scopes(scopes, "--scopes"), digest_of(secret.encode()), rps)


def append_key(file: Path, key: Key) -> None:
    """Adds a line to a keys file, which is made if there is none, for its owner's eyes alone."""
    try:
        file.touch(mode=0o600)
        before = file.read_bytes()
        gap = "\n" if before and not before.endswith(b"\n") else ""
        with file.open("a") as lines:
            lines.write(f"{gap}{key}\n")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}") from error


def read_keys(file: Path) -> list[Key]:
    """Every key of a file; `UsageError` names the file, and the line that is not one."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"the keys file {file} cannot be read: {reason}; "
            f"`marmot key --scopes rank --keys {file}` makes one"
        ) from error
    keys = list(_keys(file, lines))
    if not keys:
        raise UsageError(f"the keys file {file} has no key; `marmot key --scopes rank` makes one")
    return keys


def _keys(file: Path, lines: list[str]) -> Iterator[Key]:
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where = f"{file}, line {number}"
        found = _LINE.fullmatch(text)
        if found is None:
            # The line is not shown: somebody may have put the secret itself there.
            raise UsageError(f"{where}: not `name scope,scope sha256:<64 hex digits> [rps=N]`")
        name, scopes, digest, rps = found.groups()
        yield Key(name, _scopes(scopes, where), bytes.fromhex(digest), _rps(rps, where))


def _scopes(text: str, where: str) -> frozenset[Scope]:
    try:
        return frozenset(Scope(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"{where}: scopes are {', '.join(Scope)}; found {text!r}") from error


def _rps(text: str | None, where: str) -> float | None:
    if text is None:
        return None
    try:
        if (rps := float(text)) > 0:
            return rps
    except ValueError:
        pass
    raise UsageError(f"{where}: rps must be a number above 0, not {text!r}")


class Guard:
    """Lets in who has a key for what they ask. A key's rate is shared out evenly among workers."""

    def __init__(self, file: Path, *, workers: int = 1, open_metrics: bool = False) -> None:
        self._file = file
        self._workers = workers
        self._open_metrics = open_metrics
        self._seen = _stamp(file)
        self._looked_s = monotonic()
        self._use(read_keys(file))

    def __repr__(self) -> str:
        return f"<Guard of {len(self._keys)} keys>"

    def refusal(self, connection: Connection) -> Problem | None:
        """Why this request is not let in, if it is not."""
        wanted = self._wanted(connection["method"], connection["path"])
        if wanted is None:
            return None
        now_s = monotonic()
        if now_s - self._looked_s > LOOK_AGAIN_S:
            self._look_again(now_s)
        key = self._find(connection)
        if isinstance(key, Problem):
            return key
        if wanted not in key.scopes:
            return Forbidden(f"The key {key.name} lacks the scope {wanted}")
        wait_s = self._allowances[key].take(now_s) if key.rps is not None else 0.0
        if wait_s > 0:
            return RateLimited(f"The key {key.name} may ask {key.rps:g} times a second", wait_s)
        return None

    def _wanted(self, method: str, path: str) -> Scope | None:
        """What a request needs; None is open to all. What is not named here needs `read`."""
        if path.startswith(("/health/", "/v2/health/")):
            return None
        if method == "GET" and (path in {"/", "/status"} or path.startswith("/playground/")):
            return None
        if path == "/metrics":
            return None if self._open_metrics else Scope.READ
        if method == "DELETE" or (method == "POST" and path.startswith("/v1/models")):
            return Scope.ADMIN
        if path in RANKING or path.startswith("/v2/"):
            return Scope.RANK
        return Scope.EVENTS if path == "/v1/events" else Scope.READ

    def _find(self, connection: Connection) -> Key | Problem:
        given = b""
        for name, value in connection["headers"]:
            if name == b"authorization":
                given = value
                break
        scheme, _, secret = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return Unauthorized()
        digest = digest_of(secret.strip())
        found = None
        for key in self._keys:  # all of them: where one fits must not show in the time it takes
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found or Unauthorized("The key is not known", 'Bearer error="invalid_token"')

    def _look_again(self, now_s: float) -> None:
        self._looked_s = now_s
        stamp = _stamp(self._file)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._use(read_keys(self._file))
            log.info("keys read again", keys=len(self._keys))
        except UsageError as error:
            log.error("the keys stay as they were", reason=str(error))

    def _use(self, keys: list[Key]) -> None:
        self._keys = keys
        self._allowances = {
            key: Allowance(key.rps / self._workers) for key in keys if key.rps is not None
        }


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes with the content of a file; a missing one has none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
