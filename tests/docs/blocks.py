"""The code blocks of README and docs: which there are, and what their page says of them.

bash, python, go           run as they stand
console                    `$ ` begins a command; what follows is what it answers
text, json, …              shown: a picture, or what the block right above it prints
<!-- not run: why -->      above a block that nobody here can run
<!-- run by: tests/… -->   above one whose commands those tests run
<!-- takes: ray -->        above one that runs where this package is installed
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ROOT

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "examples").glob("**/README.md")),
]
RUN = {"bash", "console", "python", "go"}
SHOWN = {"text", "json", "yaml", "toml"}

_FENCE = re.compile(r"^```(\w*)$")
_SAID = {
    name: re.compile(rf"<!-- {name.replace('_', ' ')}: (.+?) -->", re.DOTALL)
    for name in ("not_run", "run_by", "takes")
}
#: What only somebody at a prompt types.
COMMAND = re.compile(r"^\s*(?:\$ )?(?:marmot|curl|make|kubectl|docker|pip|openssl|sed) ")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `after` is the block right above it, with nothing but empty lines between."""

    page: Path
    line: int
    language: str
    text: str
    after: Block | None
    not_run: str | None = None
    run_by: str | None = None
    takes: str | None = None

    @property
    def where(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command and what it is said to print; commands of a script share no variables."""
        prompt = "$ " if self.language == "console" else ""
        typed, told = "", ""
        for line in self.text.splitlines():
            if not _is_whole(typed):
                typed += "\n" + line
            elif line.startswith(prompt):
                if typed:
                    yield typed, told
                typed, told = line.removeprefix(prompt), ""
            else:
                told += line + "\n"
        if typed:
            yield typed, told


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found: list[Block] = []
    inside: list[str] | None = None
    said, language, start = "", "", 0
    last: Block | None = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is None and fence:
            inside, language, start = [], fence[1], number
        elif inside is not None and line == "```":
            marks = {name: mark[1] for name, each in _SAID.items() if (mark := each.search(said))}
            text = "\n".join(inside) + "\n"
            last = Block(page, start, language, text, last, **marks)
            found.append(last)
            inside, said = None, ""
        elif inside is not None:
            inside.append(line)
        elif line.strip():
            last = None
            is_said = line.startswith("<!--") or ("<!--" in said and "-->" not in said)
            said = f"{said}\n{line}" if is_said and "-->" not in said else line * is_said
    assert inside is None, f"{name_of(page)}:{start}: the block has no end"
    return found


def indented(page: Path) -> Iterator[int]:
    """Lines of code that no fence holds."""
    fenced = is_after_gap = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and line.startswith("    ") and is_after_gap:
            yield number
        is_after_gap = not line.strip()


def _is_whole(typed: str) -> bool:
    """Whether a shell would run it, rather than ask for another line."""
    try:
        shlex.split(typed, comments=True)
    except ValueError:
        return False
    return not typed.endswith("\\")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
