"""Whether an answer has the shape that a page shows: keys, words and columns, not digits."""

from __future__ import annotations

import json
import re
from typing import Any

#: What differs each time: keys, fingerprints, numbers.
_VARYING = re.compile(
    r"marmot_[\w-]{30,}|\b(?=\w*\d)(?=\w*[a-f])[0-9a-f]{7,}\b"
    r"|(?<![A-Za-z_])-?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[-+]?\d+)?"
)
MORE = "…"


def check(shown: str, stdout: str, stderr: str) -> None:
    """Raises AssertionError where what was printed is not what is shown."""
    try:
        wanted = json.loads(shown)
    except ValueError:
        _check_text(shown, stdout + stderr)
        return
    try:
        found = json.loads(stdout)
    except ValueError:
        found = json.loads(stdout.strip().rpartition("\n")[2])
    _check_json(wanted, found, "answer")


def _check_json(wanted: Any, found: Any, where: str) -> None:
    if wanted == MORE:
        return
    if isinstance(wanted, dict):
        assert isinstance(found, dict), f"{where} is {found!r}"
        keys = wanted.keys() - {MORE}
        differ = keys - found.keys() if MORE in wanted else keys ^ found.keys()
        assert not differ, f"{where}: {sorted(differ)} on one side only: {found!r}"
        for key in keys:
            _check_json(wanted[key], found[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list), f"{where} is {found!r}"
        shown = [each for each in wanted if each != MORE]
        fits = len(found) >= len(shown) if MORE in wanted else len(found) == len(shown)
        assert fits, f"{where} has {len(found)} entries: {found!r}"
        for place, (one, other) in enumerate(zip(shown, found, strict=False)):
            _check_json(one, other, f"{where}[{place}]")
    elif isinstance(wanted, str):
        assert isinstance(found, str), f"{where} is {found!r}"
        assert _masked(wanted) == _masked(found), f"{where} is {found!r}, not {wanted!r}"
    elif isinstance(wanted, bool) or wanted is None:
        assert found == wanted, f"{where} is {found!r}"
    else:
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        assert is_number, f"{where} is {found!r}"


def _check_text(shown: str, found: str) -> None:
    """Every line shown is there, in this order, others perhaps between; `…` is any words."""
    lines = iter(_masked(found).splitlines())
    for line in filter(None, _masked(shown).splitlines()):
        words = ".*".join(re.escape(part.strip()) for part in line.split(MORE))
        assert any(re.search(words, other) for other in lines), f"no line {line!r} in\n{found}"


def _masked(text: str) -> str:
    lines = (" ".join(line.split()) for line in _VARYING.sub("#", text).splitlines())
    return "\n".join(lines)
