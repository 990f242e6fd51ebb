"""Timelines from store to store by way of a dump, and dumps that are not what they should be."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cache.dump import Dump, _with_sum, first_line, last_line, lines_of, user_lines
from cache.errors import DumpError
from cache.open import open_cache
from cache.timeline import Event, Mark, Timeline
from service import mover
from service.errors import UsageError
from service.marmot import run
from service.mover import Moved
from tests.servers import ROOT, flush

#: As release 0.1 wrote it; stays readable for ever.
OF_RELEASE_0_1 = """\
{"sum":"aa05c079f9d8a9d7","is":{"marmot-dump":1,"keep":1200}}
{"sum":"6bd91697fb77f4bc","is":{"user":"42","trimmed":true,"items":["50","181","ä b"],"times":[893286638,893286639,893286700],"feedback":{"like":[[1,-1,0],[893286640,0,893286700]],"share":[[-1,-1,1],[0,0,893286999]]}}}
{"sum":"ef420b9d5fdef1b9","is":{"user":"ünder/1 ?","trimmed":false,"items":["7"],"times":[0],"feedback":{}}}
{"sum":"152e1d59bc5183dc","is":{"lines":2,"events":4}}
""".encode()  # noqa: E501


@pytest.fixture(params=[("lmdb", "redis"), ("redis", "cluster"), ("cluster", "lmdb")], ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The URLs of two empty stores."""

    def url(name: str) -> str:
        if name == "lmdb":
            return f"lmdb:{tmp_path}/store"
        server = request.getfixturevalue(f"redis_{'server' if name == 'redis' else 'cluster'}")
        if name == "redis":
            flush(server.url)
        else:
            server.flush()
        found: str = server.url
        return found

    here, there = request.param
    return url(here), url(there)


def ignore(_: int) -> None:
    return


def users() -> dict[str, list[Event]]:
    """Some with feedback said at several times, one of several lines, one over what is kept."""
    many = {
        f"user-{at}": [
            Event(f"item-{place}", 100 + place, {"like": Mark(place % 2, 200 + at)})
            for place in range(at + 1)
        ]
        for at in range(70)
    }
    long = [Event(f"item-{at}", at, {"share": Mark(1, at)} if at % 3 else {}) for at in range(2500)]
    return {**many, "ünder {braces}:": long, "42": [Event("50", 893286638)]}


async def write(url: str, timelines: dict[str, list[Event]], **options: Any) -> None:
    cache = await open_cache(url, timeout_s=30, **options)
    for user, events in timelines.items():
        snapshot = await cache.fetch(user, limit=1, around=events)
        await cache.append(snapshot.merge(events))
    await cache.close()


async def read(url: str) -> dict[str, tuple[list[Event], bool]]:
    """Every user's events, and whether there were older ones."""
    cache = await open_cache(url, timeout_s=30)
    found = {}
    async for user in cache.users():
        snapshot = await cache.fetch(user, limit=100_000)
        found[user] = (list(snapshot.timeline.events()), snapshot.trimmed)
    await cache.close()
    return found


async def test_from_store_to_store(pair: tuple[str, str]) -> None:
    """All users with all they did and that some of it was trimmed; twice changes nothing."""
    here, there = pair
    await write(here, users(), keep=2000)
    file = io.BytesIO()
    dumped = await mover.dump(here, file, ignore)
    assert dumped == Moved(72, sum(len(events) for events, _ in (await read(here)).values()))
    for _ in range(2):
        file.seek(0)
        assert await mover.restore(there, Dump(lines_of(file)), ignore) == dumped
    found = await read(there)
    assert found == await read(here)
    assert [user for user, (_, trimmed) in found.items() if trimmed] == ["ünder {braces}:"]
    with pytest.raises(UsageError, match="keeps 2000"):
        await mover.restore(there, Dump([first_line(2000), last_line(0, 0)]), ignore, keep=3000)


async def test_restored_users_have_their_own_events_too(tmp_path: Path) -> None:
    """A restore into a store in use merges: nobody loses what was there."""
    url = f"lmdb:{tmp_path}/store"
    await write(url, {"u": [Event("a", 1), Event("b", 2, {"like": Mark(1, 9)})]})
    timeline = Timeline.of([Event("b", 2, {"like": Mark(0, 5)}), Event("c", 3)])
    lines = [first_line(1000), *user_lines("u", timeline, trimmed=False), last_line(1, 2)]
    await mover.restore(url, Dump(lines), ignore)
    expected = [Event("a", 1), Event("b", 2, {"like": Mark(1, 9)}), Event("c", 3)]
    assert await read(url) == {"u": (expected, False)}


async def test_fewer_are_kept_only_if_said(tmp_path: Path) -> None:
    """A store that keeps fewer events than the dumped one is refused, until --keep says so."""
    here, there = f"lmdb:{tmp_path}/here", f"lmdb:{tmp_path}/there"
    await write(here, {"u": [Event(str(at), at) for at in range(50)]}, keep=40)
    await write(there, {}, keep=20)
    file = io.BytesIO()
    await mover.dump(here, file, ignore)
    with pytest.raises(UsageError, match="--keep"):
        await mover.restore(there, Dump(lines_of(io.BytesIO(file.getvalue()))), ignore)
    await mover.restore(there, Dump(lines_of(io.BytesIO(file.getvalue()))), ignore, keep=20)
    events, trimmed = (await read(there))["u"]
    assert ([event.timestamp for event in events], trimmed) == ([*range(30, 50)], True)


async def test_who_is_written_meanwhile_is_written_again(tmp_path: Path) -> None:
    """Writers and a restore overtake each other; all of both is stored."""
    url = f"lmdb:{tmp_path}/store"
    events = [Event(f"item-{at}", at) for at in range(5000)]
    lines = [first_line(9000), *user_lines("u", Timeline.of(events), trimmed=False)]
    lines.append(last_line(len(lines) - 1, len(events)))
    cache = await mover._agreed(url, keep=9000)
    others = [Event(f"other-{at}", at) for at in range(50)]

    async def post() -> None:
        for event in others:
            await mover._restore(cache, [_part(event)])

    await asyncio.gather(post(), *(mover._restore(cache, [part]) for part in Dump(lines)))
    found = await cache.fetch("u", limit=9000)
    await cache.close()
    assert len(found.timeline) == 5050


def _part(event: Event) -> Any:
    (line,) = user_lines("u", Timeline.of([event]), trimmed=False)
    (part,) = Dump([first_line(9000), line, last_line(1, 1)])
    return part


def a_dump() -> list[bytes]:
    timeline = Timeline.of([Event("50", 7, {"like": Mark(1, 8)}), Event("51", 9)])
    lines = list(user_lines("42", timeline, trimmed=False))
    return [first_line(1000), *lines, last_line(1, 2)]


def resealed(line: bytes, old: bytes, new: bytes) -> bytes:
    """A line that says something else under a checksum that is right."""
    body = line.rstrip()[_body_at(line) : -1]
    assert old in body
    return _with_sum(body.replace(old, new)) + b"\n"


def _body_at(line: bytes) -> int:
    return line.index(b'"is":') + 5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda head, user, end: [], "line 1: not the first line"),
        (lambda head, user, end: [b"user_id,item_id\n", user], "line 1: damaged, or not of a dump"),
        (lambda head, user, end: [user, end], "line 1: not the first line"),
        (
            lambda head, user, end: [resealed(head, b'dump":1', b'dump":2'), user, end],
            "line 1: format 2, and this release reads up to 1",
        ),
        (lambda head, user, end: [head, user.replace(b'"51"', b'"52"'), end], "line 2: damaged"),
        (lambda head, user, end: [head, user], "line 2: the dump ends here"),
        (lambda head, user, end: [head, user[:-20]], "line 2: damaged"),
        (lambda head, user, end: [head, user, user, end], "line 4: lines are missing"),
        (lambda head, user, end: [head, end], "line 2: lines are missing"),
        (lambda head, user, end: [head, user, end, user], "line 4: something follows"),
        (lambda head, user, end: [head, resealed(user, b'"51"', b'""'), end], "an id or name"),
        (lambda head, user, end: [head, resealed(user, b"[7,9]", b"[7]"), end], "line 2: not a"),
        (lambda head, user, end: [head, resealed(user, b"[7,9]", b"[-7,9]"), end], "times that"),
        (lambda head, user, end: [head, resealed(user, b"[1,-1]", b"[1,2]"), end], "feedback that"),
        (lambda head, user, end: [head, resealed(user, b'"user"', b'"uses"'), end], "line 2"),
        (
            lambda head, user, end: [head, resealed(user, b'"like"', b'"a\\u0000"'), end],
            "a name|id",
        ),
    ],
)
def test_what_is_wrong_is_told_by_line(spoil: Callable[..., list[bytes]], said: str) -> None:
    """Damaged, cut short, joined wrongly or nonsense: one sentence with the line's number."""
    with pytest.raises(DumpError, match=said):
        list(Dump(spoil(*a_dump())))


async def test_a_damaged_timeline_is_counted(tmp_path: Path) -> None:
    """It is left out and told of; everybody else is in the dump."""
    url = f"lmdb:{tmp_path}/store"
    await write(url, {"u": [Event("a", 1)], "v": [Event("b", 2)]})
    with lmdb.open(str(tmp_path / "store")) as env, env.begin(write=True) as txn:
        (key,) = [key for key, _ in txn.cursor() if key.startswith(b"tu\0")]
        txn.put(key, b"nonsense")
    file = io.BytesIO()
    assert (await mover.dump(url, file, ignore)).damaged == 1
    file.seek(0)
    assert [part.user_id for part in Dump(lines_of(file))] == ["v"]


async def test_the_release_before_is_read(tmp_path: Path) -> None:
    """A dump of every earlier format restores."""
    url = f"lmdb:{tmp_path}/store"
    await mover.restore(url, Dump(lines_of(io.BytesIO(OF_RELEASE_0_1))), ignore)
    first = [
        Event("50", 893286638, {"like": Mark(1, 893286640)}),
        Event("181", 893286639),
        Event("ä b", 893286700, {"like": Mark(0, 893286700), "share": Mark(1, 893286999)}),
    ]
    assert await read(url) == {"42": (first, True), "ünder/1 ?": ([Event("7", 0)], False)}


def test_commands_in_a_pipe(tmp_path: Path) -> None:
    """dump | restore: the dump alone is on stdout, whatever is told beside it."""
    here, there = f"lmdb:{tmp_path}/here", f"lmdb:{tmp_path}/there"
    asyncio.run(mover.restore(here, Dump(OF_RELEASE_0_1.splitlines(keepends=True)), ignore))
    command = [sys.executable, "-c", "from service.marmot import main; main()"]
    with subprocess.Popen(  # noqa: S603
        [*command, "dump", "--cache", here, "--out", "-"], stdout=subprocess.PIPE, cwd=ROOT
    ) as source:
        done = subprocess.run(  # noqa: S603
            [*command, "restore", "--cache", there, "--in", "-", "--json"],
            stdin=source.stdout, capture_output=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert (source.returncode, done.returncode) == (0, 0), done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"users": 2, "events": 4, "damaged": 0}
    assert asyncio.run(read(there)) == asyncio.run(read(here))


def test_a_file_is_there_when_it_is_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A dump takes its name at the end, and says what it holds."""
    store, file = f"lmdb:{tmp_path}/store", tmp_path / "timelines.dump"
    source = tmp_path / "given.dump"
    source.write_bytes(OF_RELEASE_0_1)
    assert run(["restore", "--cache", store, "--in", str(source)]) == 0
    assert run(["dump", "--cache", store, "--out", str(file)]) == 0
    told = "restored 2 users, 4 events\ndumped 2 users, 4 events\n"
    assert capfd.readouterr().out == told
    assert file.read_bytes() == OF_RELEASE_0_1
    assert not file.with_name("timelines.dump.part").exists()


def test_commands_refuse_plainly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 2 for what was asked wrongly and 1 for what failed on the way."""
    file = tmp_path / "bad.dump"
    file.write_bytes(OF_RELEASE_0_1[:-20])
    store = f"lmdb:{tmp_path}/store"
    cases = [
        (2, "there is no store at", ("dump", "--cache", f"lmdb:{tmp_path}/none", "--out", "-")),
        (2, "cache URL is not one of", ("dump", "--cache", "mysql://x", "--out", "-")),
        (1, "Redis did not answer", ("dump", "--cache", "redis://127.0.0.1:1", "--out", "-")),
        (2, "No such file", ("restore", "--cache", store, "--in", f"{tmp_path}/none")),
        (1, "bad.dump, line 4: damaged", ("restore", "--cache", store, "--in", str(file))),
    ]
    for code, said, arguments in cases:
        assert run([*arguments]) == code
        told = capfd.readouterr().err
        assert said in told
        assert "Traceback" not in told
    assert not (tmp_path / "none").exists()
