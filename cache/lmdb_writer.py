"""The one thread that writes to an LMDB environment: what waits together is committed together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import lmdb

from cache.errors import CacheError, CacheUnavailable

T = TypeVar("T")

GROUP = 256
"""Jobs in one transaction at most; a durable commit costs the same for one and for many."""


class _Job(NamedTuple):
    work: Callable[[Any], Any]  # takes the transaction; raises a CacheError before it writes
    done: Future[Any]


class LmdbWriter:
    """Runs jobs in order; each is durable when its future says so."""

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env
        self._waiting: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="lmdb-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Any], T]) -> Future[T]:
        done: Future[T] = Future()
        self._waiting.put(_Job(work, done))
        return done

    def close(self) -> None:
        """Finishes what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            jobs = [self._waiting.get()]
            try:
                while len(jobs) < GROUP:
                    jobs.append(self._waiting.get_nowait())
            except Empty:
                pass
            is_open = None not in jobs
            self._commit([job for job in jobs if job and job.done.set_running_or_notify_cancel()])

    def _commit(self, jobs: list[_Job]) -> None:
        """A job that fails in an unknown way is taken out and the others start again."""
        while jobs:
            outcomes: list[tuple[_Job, Any, CacheError | None]] = []
            job = jobs[0]
            try:
                with self._env.begin(write=True) as txn:
                    for job in jobs:
                        try:
                            outcomes.append((job, job.work(txn), None))
                        except CacheError as refusal:
                            outcomes.append((job, None, refusal))
            except lmdb.Error as failed:
                if len(jobs) == 1:
                    _refuse(job, failed)
                    return
                for alone in jobs:  # one that deletes needs less room than all together
                    self._commit([alone])
                return
            except Exception as bug:
                job.done.set_exception(bug)
                jobs = [other for other in jobs if other is not job]
                continue
            for job, result, refused in outcomes:
                if refused:
                    job.done.set_exception(refused)
                else:
                    job.done.set_result(result)
            return


def _refuse(job: _Job, failed: lmdb.Error) -> None:
    problem = CacheUnavailable(f"LMDB did not take a write: {failed}")
    problem.__cause__ = failed
    job.done.set_exception(problem)
