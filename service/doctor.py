"""Doctor: what a service needs before it can start, looked at part by part; nothing is changed.

A finding is `ok`, `warn` (it runs, and will hurt) or `broken` (it does not run), and says what
to do.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from cache.keys import KEEP
from cache.open import FORMS
from cache.url import without_password
from models.bundle import Bundle, BundleError, load_bundle
from service.engine import PROVIDERS, Engine
from service.errors import StartError
from service.footprint import Footprint
from service.plan import GIB
from service.settings import Settings
from service.wanted import kept_events, kept_records

State = Literal["ok", "warn", "broken"]

LEAST_PYTHON = (3, 11)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
LEAST_FREE_BYTES = GIB
STORE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one part, and what to do about it."""

    part: str
    state: State
    found: str
    todo: str = ""


def examine(settings: Settings, users: int | None = None) -> Iterator[Finding]:
    """Every finding, in the order in which a start would stumble."""
    yield _python(sys.version_info[:2])
    yield _packages()
    yield _provider(settings.provider)
    bundle, finding = _bundle(settings.bundle)
    yield finding
    if bundle is not None:
        yield _engine(bundle, settings.provider)
    store = _ask(settings.cache)
    yield from _store(settings, store, bundle)
    yield _port(settings.host, settings.port)
    if bundle is not None and users is not None:
        yield _memory(settings, bundle, store, users)


def is_broken(findings: Sequence[Finding]) -> bool:
    """Whether something must be repaired before a service can start."""
    return any(finding.state == "broken" for finding in findings)


def _python(found: tuple[int, ...]) -> Finding:
    said = ".".join(map(str, found))
    if found < LEAST_PYTHON:
        return Finding("python", "broken", said, "install Python 3.11 or newer")
    return Finding("python", "ok", said)


def _packages() -> Finding:
    try:
        wanted = [Requirement(line) for line in requires("marmot") or ()]
    except PackageNotFoundError:
        return Finding("packages", "broken", "marmot is not installed", "pip install '.[cpu]'")
    odd = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            odd.append(f"{requirement} (found {found or 'none'})")
    if odd:
        todo = "pip install -r requirements/serve.txt"
        return Finding("packages", "broken", "does not fit: " + ", ".join(odd), todo)
    return Finding("packages", "ok", "all there, in the versions that were tested")


def _provider(name: str) -> Finding:
    found = [runtime for runtime in RUNTIMES if _version(runtime)]
    if not found:
        todo = "pip install '.[cpu]' or '.[gpu]'"
        return Finding("provider", "broken", "no ONNX Runtime is installed", todo)
    if len(found) > 1:
        todo = "pip uninstall both, then install one: they own the same module"
        return Finding("provider", "broken", " and ".join(found) + " are installed", todo)
    import onnxruntime  # noqa: PLC0415

    available = onnxruntime.get_available_providers()
    wanted = PROVIDERS.get(name)
    if wanted is None:
        known = ", ".join(PROVIDERS)
        return Finding("provider", "broken", f"{name!r} is not known", f"--provider: {known}")
    if wanted not in available:
        todo = "install the runtime that has it, or --provider cpu"
        said = f"{found[0]} {_version(found[0])} has no {wanted}"
        return Finding("provider", "broken", said, todo)
    return Finding("provider", "ok", f"{wanted} of {found[0]} {_version(found[0])}")


def _bundle(path: Path) -> tuple[Bundle | None, Finding]:
    try:
        bundle = load_bundle(path)
    except BundleError as error:
        todo = "train one, or copy it again: `marmot train --help`"
        return None, Finding("bundle", "broken", str(error), todo)
    said = f"{bundle.name} {bundle.version} at {path}: every file has its checksum"
    return bundle, Finding("bundle", "ok", said)


def _engine(bundle: Bundle, provider: str) -> Finding:
    """A runtime may list a provider that this host has no device for: only opening tells."""
    try:
        engine = Engine(bundle, provider=provider)
        for name, graph in bundle.graphs.items():
            if graph.outputs:
                engine.open(name)
        engine.close()
    except StartError as error:
        todo = "--provider cpu, or repair the driver"
        return Finding("engine", "broken", str(error), todo)
    return Finding("engine", "ok", f"every graph opens on {provider}")


@dataclass(frozen=True, slots=True)
class Told:
    """What a Redis said of itself, or why it said nothing."""

    policy: str = ""
    most_bytes: int = 0  # 0: no limit
    used_bytes: int = 0
    version: str = ""
    keep: bytes = b""
    failure: str = ""


def _ask(url: str) -> Told | None:
    """None for a store that is no single Redis. Reads only."""
    if url.partition(":")[0] not in {"redis", "rediss", "unix"}:
        return None
    from redis import Redis  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        with Redis.from_url(
            url, socket_timeout=STORE_TIMEOUT_S, socket_connect_timeout=STORE_TIMEOUT_S
        ) as client:
            told: Mapping[str, Any] = client.info()
            keep: Any = client.get(KEEP)
    except (RedisError, OSError, ValueError) as error:
        return Told(failure=str(error) or type(error).__name__)
    return Told(
        policy=str(told.get("maxmemory_policy", "")),
        most_bytes=int(told.get("maxmemory", 0)),
        used_bytes=int(told.get("used_memory", 0)),
        version=str(told.get("valkey_version") or told.get("redis_version", "")),
        keep=keep or b"",
    )


def _store(settings: Settings, told: Told | None, bundle: Bundle | None) -> Iterator[Finding]:
    url = without_password(settings.cache)
    scheme, _, path = settings.cache.partition(":")
    if scheme == "lmdb" and path:
        yield _folder(Path(path))
    elif scheme in {"redis+cluster", "redis+sentinel"}:
        todo = "ask each node yourself: maxmemory-policy should be volatile-lru"
        yield Finding("store", "warn", f"{url} was not looked at: several servers", todo)
    elif told is None:
        yield Finding("store", "broken", f"{url!r} is no cache URL", f"--cache: {FORMS}")
    elif told.failure:
        todo = "start it, or correct --cache; ranking goes on without it, degraded"
        yield Finding("store", "broken", f"{url} does not answer: {told.failure}", todo)
    else:
        yield Finding("store", "ok", f"{url} answers, version {told.version}")
        yield _policy(told)
        yield from _keep(told, settings, bundle)


def _nearest(path: Path) -> Path:
    """The folder itself, or the one in which it would be made."""
    return next(there for there in (path, *path.absolute().parents) if there.exists())


def _folder(path: Path) -> Finding:
    there = _nearest(path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        said = f"lmdb:{path} cannot be written: {there} is no folder of ours"
        return Finding("store", "broken", said, "give the folder to this user, or choose another")
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE_BYTES:
        said = f"lmdb:{path} has {free / GIB:.1f} GiB left on its disk"
        return Finding("store", "warn", said, "make room, or choose another disk")
    return Finding("store", "ok", f"lmdb:{path} can be written, {free / GIB:.0f} GiB free")


def _policy(told: Told) -> Finding:
    todo = "CONFIG SET maxmemory-policy volatile-lru: only records expire, timelines must stay"
    if told.policy.startswith("allkeys"):
        said = f"{told.policy} lets the store drop timelines, which are nowhere else"
        return Finding("eviction", "warn", said, todo)
    if not told.most_bytes:
        said = f"{told.policy}, and no maxmemory: the store grows until the host kills it"
        return Finding("eviction", "warn", said, "CONFIG SET maxmemory, and " + todo[11:])
    if told.policy == "noeviction":
        said = "noeviction: a full store refuses events, where it could drop records"
        return Finding("eviction", "warn", said, todo)
    said = f"{told.policy} at {told.most_bytes / GIB:.1f} GiB"
    return Finding("eviction", "ok", said)


def _keep(told: Told, settings: Settings, bundle: Bundle | None) -> Iterator[Finding]:
    """What the store remembers to keep, if it was ever used."""
    if not told.keep.isdigit():
        return
    kept = int(told.keep)
    least = bundle.spec.least_keep if bundle else 0
    if settings.keep is not None and settings.keep != kept:
        said = f"the store keeps {kept:,} events per user, --keep says {settings.keep:,}"
        yield Finding("keep", "broken", said, f"--keep {kept}, or another store")
    elif kept < least:
        said = f"the store keeps {kept:,} events per user, the bundle needs {least:,}"
        yield Finding("keep", "broken", said, "another store, backfilled for this bundle")
    else:
        yield Finding("keep", "ok", f"{kept:,} events per user")


def _port(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            said = f"{host} port {port}: {error.strerror or error}"
            return Finding("port", "broken", said, "stop what listens there, or choose --port")
    return Finding("port", "ok", f"{host} port {port} is free")


def _memory(settings: Settings, bundle: Bundle, told: Told | None, users: int) -> Finding:
    """What the users of a plan take, against what there is."""
    spec = bundle.spec
    footprint = Footprint(spec)
    events = kept_events(spec, settings.keep)
    records = kept_records(spec, events)
    need = users * float(footprint.user_bytes(records, events))
    if told is not None and not told.failure:
        need = users * float(footprint.allocated_bytes(records, events))
        room, where = told.most_bytes or _host_bytes(), "maxmemory" if told.most_bytes else "memory"
    elif settings.cache.startswith("lmdb:"):
        free = shutil.disk_usage(_nearest(Path(settings.cache.partition(":")[2]))).free
        room, where = free, "free on the disk"
    else:
        room, where = _host_bytes(), "memory of this host"
    said = f"{users:,} full users take {need / GIB:.1f} GiB of {room / GIB:.1f} GiB {where}"
    if need > room:
        todo = "more memory or shards, int8 records, or fewer users: `marmot plan --simulate`"
        return Finding("memory", "warn", said, todo)
    return Finding("memory", "ok", said)


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
