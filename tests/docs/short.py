"""How a command of a page is made as short as a test can wait for; all else of it runs as typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from tests.docs.blocks import BLOCKS

_BENCH = "--seconds 0.05 --records 8 --candidates 5"
#: Words that a `marmot` command has, and what is put behind it: the last of an option counts. The
#: first that fits does.
_SHORT = {
    "train --stage": "--steps 2 --window 8",
    "train": "--epochs 1 --window 8 --width 16 --heads 2",
    "compare": "--quick --seeds 1",
    "scaling": "--windows 2,4,8 --depths 2 --widths 16 --heads 2 --epochs 1 --holdout 0.4",
    "data order": "--users 60",
    "data long-range": "--users 4 --distance 40 --topics-per-user 4",
    "bench --window": f"{_BENCH} --window 12 --records 12",
    "bench --memory-requests": f"{_BENCH} --memory-requests 60",
    "bench --workers": f"{_BENCH} --store lmdb",
    "bench --backfill": f"{_BENCH} --backfill 1600",
    "bench": _BENCH,
    "serve --answer-log": "--answer-log-share 1 --workers 1 --drain-s 0",
    "serve": "--workers 1 --drain-s 0",
    "load": "--duration-s 0.5 --rate 20",
    "consume": "--metrics-port 0",
}
_MARMOT = re.compile(r"^(?:\$ )?marmot (.*?)(?: > \S+)?$", re.MULTILINE)


def shortened(words: Sequence[str]) -> list[str]:
    """The words of a command without its `marmot`."""
    for those, more in _SHORT.items():
        if set(those.split()) <= set(words):
            return [*words, *more.split()]
    return [*words]


def typed(command: str) -> list[list[str]]:
    """Each line of the pages that is this `marmot` command, shortened.

    Of two that differ in what they are kept in, there is the one that keeps it.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for line in (line for block in BLOCKS for line in _MARMOT.findall(block.text)):
        words = shlex.split(line, comments=True)
        if words[0] != command:
            continue
        short = shortened(words)
        at = short.index("--out") if "--out" in short else len(short)
        key = (*short[:at], *short[at + 2 :])
        found[key] = max(found.get(key, []), short, key=len)
    return [*found.values()]
