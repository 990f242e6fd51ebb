"""The answer log of a real service: a sample, by a keyed hash, bounded, and purged by DELETE."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.answer_log import FILES, UserHash, read_answers
from service.answer_files import AnswerFiles, Entry
from service.answer_log import open_answer_log
from service.errors import StartError, UsageError
from service.marmot import run
from service.settings import read_settings
from tests.servers import RedisServer, flush, wait_until

KEY = b"thirty-two bytes that are secret"
HASHED = UserHash(KEY)
CANDIDATES = list(range(20))
DAY_S = 86_400.0


def written(running: Any) -> float:
    """Answers that are in the log, as the service counts them."""
    told = running.client.get("/metrics").text
    counts = re.findall(r'marmot_logged_answers_total\{result="written"\} (\S+)', told)
    return sum(map(float, counts))


@pytest.fixture
def logging_to(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "key").write_bytes(KEY)
    return {
        "answer_log": tmp_path / "log",
        "answer_log_key": tmp_path / "key",
        "answer_log_share": 1.0,
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob(FILES))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def test_what_is_logged_is_what_was_answered(
    serve: Callable[..., Any], logging_to: dict[str, Any]
) -> None:
    """Candidates, scores, model and state of each answer; no id and no history of its user."""
    running, folder = serve(**logging_to), logging_to["answer_log"]
    running.post({"user_id": "somebody", "item_id": 3, "timestamp": 50, "feedback": {"like": 1}})
    answer = running.rank("somebody", CANDIDATES, timestamp=99)
    other = {"user_id": 4, "candidates": ["a", "7"], "timestamp": 98}
    running.client.post("/v1/rank:batch", json={"requests": [other]})
    wait_until(lambda: written(running) == 2)
    first, second = lines(folder)
    assert first["user"] == HASHED("somebody")
    assert first["candidates"] == [str(item) for item in CANDIDATES]
    assert first["scores"] == answer["scores"]
    assert first["model"] == answer["model"]
    assert (first["timestamp"], first["state"], first["degraded"]) == (99, "hit", [])
    assert (second["user"], second["candidates"], second["state"]) == (
        HASHED("4"), ["a", "7"], "cold",
    )  # fmt: skip
    held = b"".join(file.read_bytes() for file in folder.iterdir())
    assert b"somebody" not in held
    assert KEY not in held
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_delete_purges(serve: Callable[..., Any], logging_to: dict[str, Any]) -> None:
    """After DELETE no file names the user's hash as an answer's, also not those on their way."""
    running, folder = serve(**logging_to), logging_to["answer_log"]
    for user in ("a", "b", "a"):
        running.rank(user, CANDIDATES)
    wait_until(lambda: written(running) == 3)
    running.rank("a", CANDIDATES)  # waits for company
    assert running.client.delete("/v1/users/a").status_code == 204
    assert [line["user"] for line in lines(folder)] == [HASHED("b")]
    running.rank("a", [1, 2])
    running.stop()  # writes what waits
    assert [(each["user"], len(each["candidates"])) for each in lines(folder)] == [
        (HASHED("b"), 20),
        (HASHED("a"), 2),
    ]


def test_a_log_that_cannot_be_purged_is_told(
    serve: Callable[..., Any], logging_to: dict[str, Any]
) -> None:
    """503, to be asked again; ranking goes on."""
    running, folder = serve(**logging_to), logging_to["answer_log"]
    lock = folder / "lock"
    lock.unlink()
    lock.mkdir()
    answer = running.client.delete("/v1/users/a")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/log-away")
    assert "retry-after" in answer.headers
    running.rank("a", CANDIDATES)
    lock.rmdir()
    assert running.client.delete("/v1/users/a").status_code == 204


def test_services_share_a_log(
    serve: Callable[..., Any], redis_server: RedisServer, logging_to: dict[str, Any]
) -> None:
    """Two write whole lines into one folder; DELETE at one purges what both have written."""
    flush(redis_server.url)
    one, other = (serve(cache=redis_server.url, **logging_to) for _ in "ab")
    for number in range(40):
        (one, other)[number % 2].rank(number // 2 % 4, CANDIDATES)
    assert other.client.delete("/v1/users/1").status_code == 204
    one.stop()
    other.stop()
    found = read_answers(logging_to["answer_log"])
    assert sorted(found.users) == sorted(10 * [HASHED(user) for user in "023"])
    assert found.unreadable == 0


class Clock:
    """A clock the test holds."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


def entry(clock: Clock, user: str, size: int = 1_000) -> Entry:
    head = b'{"user":"%s","filler":"' % user.encode()
    return Entry(user, clock(), head + b"x" * (size - len(head) - 3) + b'"}\n')


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(FILES))


def test_the_log_is_bounded(tmp_path: Path) -> None:
    """By size, whatever comes at once, and by age; the newest stay."""
    clock = Clock()
    files = AnswerFiles(tmp_path, most_bytes=160_000, most_age_s=DAY_S, clock=clock)
    for round_ in range(20):
        clock.now += 1
        files.append([entry(clock, f"{round_}-{number}") for number in range(40)])
        assert size_of(tmp_path) <= 160_000
    assert size_of(tmp_path) >= 130_000
    assert "19-39" in lines(tmp_path)[-1]["user"]
    assert lines(tmp_path)[0]["user"] > "1"
    clock.now += DAY_S / 2 + 2
    files.append([entry(clock, "noon")])
    clock.now += DAY_S / 2 - 1
    files.append([])
    assert [each["user"] for each in lines(tmp_path)] == ["noon"]


def test_a_crash_leaves_half_a_line(tmp_path: Path) -> None:
    """What comes after it is whole again; a reader counts it, and a draft of a purge goes."""
    clock = Clock()
    files = AnswerFiles(tmp_path, most_bytes=1 << 20, most_age_s=DAY_S, clock=clock)
    files.append([entry(clock, "a")])
    (file,) = tmp_path.glob(FILES)
    os.truncate(file, 900)
    file.with_suffix(".draft").write_bytes(b"half a purge")
    files.append([entry(clock, "b")])
    torn, whole, end = file.read_bytes().split(b"\n")
    assert (len(torn), json.loads(whole)["user"], end) == (900, "b", b"")
    assert not list(tmp_path.glob("*.draft"))


def test_who_was_forgotten_stays_forgotten(tmp_path: Path) -> None:
    """What another process still holds of requests before is not written; what is later is."""
    clock = Clock()
    mine, theirs = (
        AnswerFiles(tmp_path, most_bytes=1 << 20, most_age_s=DAY_S, clock=clock) for _ in "ab"
    )
    waiting = [entry(clock, "a"), entry(clock, "b")]
    clock.now += 1
    mine.forget("a")
    clock.now += 1
    assert theirs.append([*waiting, entry(clock, "a")]) == 2
    assert [each["user"] for each in lines(tmp_path)] == ["b", "a"]
    clock.now += 601
    assert theirs.append(waiting) == 0  # nobody knows any more who was forgotten since
    mine.forget("c")
    assert json.loads((tmp_path / "forgotten.json").read_bytes()).keys() == {"c"}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"answer_log": "log"}, UsageError, "--answer-log takes --answer-log-key"),
        ({"answer_log": "log", "answer_log_key": "nowhere"}, UsageError, "`openssl rand"),
        ({"answer_log": "/dev/null/log", "answer_log_key": "key"}, StartError, "be written"),
    ],
    ids=str,
)
async def test_a_log_that_cannot_be_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    """The service does not start, and says why in a sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_bytes(KEY)
    with pytest.raises(error, match=said):
        open_answer_log(read_settings(**options), lambda *_: None)


def test_online_is_what_offline_would_say(
    serve: Callable[..., Any],
    logging_to: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A service's own answers, what users made of them, and the figures of both together."""
    running = serve(**logging_to)
    rows, scores = ["user_id,item_id,timestamp,like"], []
    for user in range(8):
        found = running.rank(user, CANDIDATES, timestamp=1_000)["scores"]["like"]
        scores += found
        rows.append(f"{user},{CANDIDATES[user]},999,1")  # before the answer: no outcome of it
        for item, score in zip(CANDIDATES, found, strict=True):
            rows.append(f"{user},{item},{1_001 + item},{int(score > 0.5)}")
    running.stop()
    assert min(scores) < 0.5 < max(scores)
    (tmp_path / "events.csv").write_text("\n".join(rows) + "\n")
    code = run(
        ["evaluate", "--replay", str(logging_to["answer_log"]), "--key", str(tmp_path / "key"),
         "--events", str(tmp_path / "events.csv"), "--json"]
    )  # fmt: skip
    assert code == 0
    (model,) = json.loads(capsys.readouterr().out.splitlines()[-1])["models"].values()
    figures = model["tasks"]["like"]
    assert (figures["auc"], figures["gauc"], figures["with_feedback"]) == (1.0, 1.0, 160)
    expected = sum(abs(score - (score > 0.5)) for score in scores) / len(scores)
    assert figures["ece"] == pytest.approx(expected, abs=1e-4)
