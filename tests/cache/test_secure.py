"""Encrypted connections and users of a server: who may not, or is not who they say, is away."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cache.errors import CacheUnavailable
from cache.redis_cache import RedisCache
from tests.cache.stores import some_events
from tests.ports import free_port
from tests.servers import RedisServer, running_redis

USER, PASSWORD = "marmot", "s3 cret/%"
QUOTED = "s3%20cret%2F%25"
#: What a store's user needs, and nothing else.
RULES = (
    "~marmot:*", "+@read", "+@write", "+@scripting", "+ping", "+info", "+wait", "+time",
    "-flushall", "-flushdb",
)  # fmt: skip


async def use(cache: RedisCache) -> int:
    """Writes and reads a user, and forgets them."""
    events = some_events(3)
    change = (await cache.fetch("u", limit=9, around=events)).merge(events)
    await cache.append(change)
    found = await cache.fetch("u", limit=9)
    assert await cache.fetch("u", limit=9, known=found) is found
    await cache.forget("u")
    return len(found.timeline)


async def test_a_user_with_rights_to_our_keys_is_enough(own_redis: RedisServer) -> None:
    """A user of the server that may touch `marmot:*` alone; a wrong password is away."""
    with redis.Redis.from_url(own_redis.url, protocol=2) as client:
        client.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RULES)
        client.execute_command("ACL", "SETUSER", "default", "off")
        cache = RedisCache(f"redis://{USER}:{QUOTED}@127.0.0.1:{own_redis.port}", timeout_s=20)
        assert await use(cache) == 3
        await cache.close()
    cache = RedisCache(f"redis://{USER}:wrong@127.0.0.1:{own_redis.port}", timeout_s=20)
    with pytest.raises(CacheUnavailable, match="invalid username-password"):
        await cache.ping()
    await cache.close()


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)  # noqa: S603, S607


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a certificate of its for 127.0.0.1."""
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificates, is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    name = ("-nodes", "-newkey", "rsa:2048", "-days", "2")
    openssl(
        folder, "req", "-x509", *name, "-subj", "/CN=drill", "-keyout", "ca.key", "-out", "ca.crt"
    )
    openssl(folder, "req", *name[:-2], "-subj", "/CN=store", "-keyout", "key", "-out", "request")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        folder, "x509", "-req", "-in", "request", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "crt",
    )  # fmt: skip
    return folder


@pytest.fixture
def secure_port(tmp_path: Path, certificates: Path) -> Iterator[int]:
    """Where a server listens for TLS."""
    port = free_port()
    options = (
        "--tls-port", str(port), "--tls-cert-file", str(certificates / "crt"),
        "--tls-key-file", str(certificates / "key"),
        "--tls-ca-cert-file", str(certificates / "ca.crt"), "--tls-auth-clients", "no",
    )  # fmt: skip
    try:
        with running_redis(tmp_path, *options):
            yield port
    except RuntimeError as error:
        pytest.skip(f"this server was built without TLS: {error}")


async def test_tls(secure_port: int, certificates: Path) -> None:
    """`rediss://` speaks to whom the authority vouches for, and to nobody else."""
    url = f"rediss://127.0.0.1:{secure_port}/0"
    cache = RedisCache(f"{url}?ssl_ca_certs={certificates / 'ca.crt'}", timeout_s=20)
    assert await use(cache) == 3
    await cache.close()
    stranger = RedisCache(url, timeout_s=20)
    with pytest.raises(CacheUnavailable, match="certificate"):
        await stranger.ping()
    await stranger.close()
