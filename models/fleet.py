"""Work in parts: one after the other in this process, or spread over a Ray cluster.

A part that is lost with its worker is done again, so doing one twice must change nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal, TypeVar

import xxhash

from models.progress import Advance
from models.whole_file import written_whole

S = TypeVar("S")
P = TypeVar("P")
R = TypeVar("R")

On = Literal["here", "ray"]

RETRIES = 5
"""How often a part may lose its worker: to the kernel, to a machine that goes, to a hand."""
AHEAD = 2  # parts per CPU that are handed out, so that no worker waits for us


class FleetError(Exception):
    """Work that could not be spread, or was lost too often."""

    exit_code = 1


class Journal:
    """Results of finished parts in a folder: the same work goes on where it ended."""

    def __init__(self, folder: Path, work: dict[str, Any]) -> None:
        """`work` says what this is; a folder with results of other work is refused."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        title = folder / "work.json"
        told = json.dumps(work, indent=2, sort_keys=True) + "\n"
        if not title.exists():
            with written_whole(title) as half:
                half.write_text(told)
        elif title.read_text() != told:
            raise FleetError(
                f"{folder} has results of other work, which {title} names: give another folder"
            )

    def __repr__(self) -> str:
        return f"<Journal in {self._folder}>"

    def find(self, part: int) -> Any:
        """A part's result; None if it is not done yet."""
        file = self._file(part)
        return json.loads(file.read_text()) if file.exists() else None

    def keep(self, part: int, result: Any) -> None:
        """Keeps what JSON can say of a part's result."""
        with written_whole(self._file(part)) as half:
            half.write_text(json.dumps(result) + "\n")

    def _file(self, part: int) -> Path:
        return self._folder / f"part-{part:05}.json"


def digest(path: Path) -> str:
    """What a file holds, as 16 hex digits."""
    state = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def spread(
    work: Callable[[S, P], R],
    shared: S,
    parts: Iterable[P],
    of: int,
    *,
    on: On = "here",
    journal: Journal | None = None,
    advance: Advance = lambda done, of: None,
) -> list[R]:
    """What `work(shared, part)` makes of each of the `of` parts, in their order.

    Parts are taken as they are needed, and with a journal only those that it does not know. On Ray
    `work` is imported by its name on the cluster's machines. Raises what `work` raises, and
    `FleetError`.
    """
    found: dict[int, R] = {}
    missing: list[int] = []
    for number in range(of):
        known = None if journal is None else journal.find(number)
        if known is None:
            missing.append(number)
        else:
            found[number] = known
    wanted = set(missing)
    todo = ((number, part) for number, part in enumerate(parts) if number in wanted)
    done = _on_ray(work, shared, todo) if on == "ray" else _here(work, shared, todo)
    if missing:
        for number, result in done:
            if journal is not None:
                journal.keep(number, result)
            found[number] = result
            advance(len(found), of)
    return [found[number] for number in range(of)]


def _here(
    work: Callable[[S, P], R], shared: S, todo: Iterable[tuple[int, P]]
) -> Iterator[tuple[int, R]]:
    for number, part in todo:
        yield number, work(shared, part)


def _on_ray(
    work: Callable[[S, P], R], shared: S, todo: Iterable[tuple[int, P]]
) -> Iterator[tuple[int, R]]:
    """Results as they come, in any order."""
    with _cluster() as ray:
        remote = ray.remote(max_retries=RETRIES, num_cpus=1)(work)
        common = ray.put(shared)
        most = max(1, int(ray.cluster_resources().get("CPU", 1))) * AHEAD
        waiting, running, is_more = iter(todo), dict[Any, int](), True
        while running or is_more:
            while is_more and len(running) < most:
                if (following := next(waiting, None)) is None:
                    is_more = False
                else:
                    running[remote.remote(common, following[1])] = following[0]
            if not running:
                return
            (ready, *_), _ = ray.wait(list(running))
            number = running.pop(ready)
            yield number, _answer(ray, ready, number)


def _answer(ray: Any, ready: Any, number: int) -> Any:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as failed:  # what the work raised, in Ray's words
        raise (failed.cause or FleetError(str(failed))) from None
    except ray.exceptions.RayError as lost:
        raise FleetError(
            f"part {number} was lost with its worker {RETRIES + 1} times; Ray says: "
            f"{str(lost).partition(chr(10))[0]}"
        ) from lost


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected: to RAY_ADDRESS, to a cluster that runs here, or to one of our own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of ours calls home
    try:
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise FleetError("--on ray takes Ray: pip install 'marmot[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    with redirect_stdout(sys.stderr):  # answers alone go there, and Ray tells of lost workers
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        except Exception as error:  # of every kind, bare ones too
            raise FleetError(f"no Ray cluster: {str(error).partition(chr(10))[0]}") from error
        try:
            yield ray
        finally:
            ray.shutdown()
