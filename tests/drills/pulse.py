"""When the machine itself stood still: a process that only ever wakes up, and was late to do so.

A drill that holds a service to a time counts the time that the machine had.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import IO

from tests.servers import wait_until

BEAT_S, LATE_S = 0.01, 0.1
#: In a process of its own: nothing that the service or its callers do holds it up.
BEATS = f"""
import time
while True:
    print(time.monotonic(), flush=True)
    time.sleep({BEAT_S})
"""


class Pulse:
    """Moments (`time.monotonic`, which all processes share), a hundred of them in a second."""

    def __init__(self) -> None:
        self._beats: list[float] = []

    def __repr__(self) -> str:
        return f"<Pulse of {len(self._beats)} beats>"

    def listen(self, lines: IO[str]) -> None:
        """Until the process ends."""
        self._beats.extend(map(float, lines))

    def stood_s(self, since_s: float, until_s: float, *, late_s: float = LATE_S) -> float:
        """Seconds between two moments in which nothing ran here, in pauses longer than `late_s`."""
        wait_until(lambda: self._beats and self._beats[-1] >= until_s)
        gaps = [
            min(late, until_s) - max(beat + BEAT_S, since_s)
            for beat, late in pairwise(self._beats.copy())
            if late - beat > late_s
        ]
        return sum(gap for gap in gaps if gap > 0)


@contextmanager
def running_pulse() -> Iterator[Pulse]:
    pulse = Pulse()
    command = [sys.executable, "-S", "-E", "-c", BEATS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout
        listener = threading.Thread(target=pulse.listen, args=(process.stdout,))
        listener.start()
        try:
            now_s = time.monotonic()
            pulse.stood_s(now_s, now_s)  # it beats
            yield pulse
        finally:
            process.kill()
            listener.join()
