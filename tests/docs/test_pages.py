"""Every command, request and example of README and docs does what its page says."""

from __future__ import annotations

import re
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer.main

from service.marmot import build
from tests.docs.blocks import COMMAND, PAGES, RUN, SHOWN, Block, blocks_of, indented, name_of
from tests.docs.shape import check
from tests.docs.stage import Stage

MARMOT = re.compile(r"(?:^|; |\| |&& )(marmot (?:[^|>;#\n\\]|\\\n)*)", re.MULTILINE)
_COMMANDS = typer.main.get_command(build())

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
TO_RUN = sorted({block.page for block in BLOCKS if block.language in RUN and not block.not_run})


def test_every_block_says_what_it_is() -> None:
    """A block has a language; what shows a command runs, or says why not; no code is indented."""
    wrong = []
    for block in BLOCKS:
        if block.language not in RUN | SHOWN:
            wrong.append(f"{block.where}: name a language: {', '.join(sorted(RUN | SHOWN))}")
        elif block.language in SHOWN and COMMAND.search(block.text):
            wrong.append(
                f"{block.where}: a command is bash or console, perhaps <!-- not run: … -->"
            )
    for page in PAGES:
        wrong += [f"{name_of(page)}:{line}: put it between ```" for line in indented(page)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in {"bash", "console"}],
    ids=lambda block: block.where,
)
def test_what_is_typed_is_understood(block: Block) -> None:
    """Every `marmot` command on a page, run or not, is one that the command line takes."""
    for typed, shown in block.commands():
        if not _fails(shown):
            for line in MARMOT.findall(typed):
                _parse(shlex.split(line, comments=True)[1:])


def _parse(line: list[str]) -> None:
    """Raises what the command line would, and runs nothing."""
    command, words = _COMMANDS, ["marmot"]
    while hasattr(command, "commands") and line and line[0] in command.commands:
        words.append(line.pop(0))
        command = command.commands[words[-1]]
    if "--help" not in line and not (len(words) == 1 and line[0].startswith("--")):
        command.make_context(" ".join(words), line)


@pytest.mark.parametrize("page", TO_RUN, ids=name_of)
def test_the_page_runs(page: Path, stage: Stage) -> None:
    """From top to bottom, each block sees what those before it have left."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: dict[int, tuple[str, str]] = {}
    for block in blocks_of(page):
        above = block.after.line if block.after else 0
        try:
            if block.not_run:
                continue
            if block.language == "python":
                printed[block.line] = _python(stage.put(block.text), block, stage, names), ""
            elif block.language in {"bash", "console"}:
                for typed, shown in block.commands():
                    printed[block.line] = _type(typed, shown, stage)
            elif above in printed:
                check(block.text, *printed[above])
        except Exception as error:
            raise AssertionError(f"{block.where}: {error}") from error


def _type(typed: str, shown: str, stage: Stage) -> tuple[str, str]:
    code, out, err = stage.type(typed)
    assert (code != 0) == _fails(shown), f"{typed}: exit code {code}\n{out}{err}"
    if shown:
        check(shown, out, err)
    return out, err


def _fails(shown: str) -> bool:
    """What ends with a sentence of ours is shown because it fails."""
    return (shown.strip().splitlines() or [""])[-1].startswith("marmot: ")


def _python(text: str, block: Block, stage: Stage, names: dict[str, Any]) -> str:
    stage.screen.readouterr()
    with warnings.catch_warnings(action="default"):
        exec(compile(text, block.where, "exec"), names)  # noqa: S102
    return stage.screen.readouterr().out


@pytest.mark.skipif(shutil.which("go") is None, reason="no go on PATH")
@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "go"], ids=lambda block: block.where
)
def test_go(block: Block, stage: Stage) -> None:
    """Each Go example is a program, and ranks."""
    (stage.folder / "main.go").write_text(stage.put(block.text))
    out, _ = _type("go run main.go", "", stage)
    assert out.startswith("200 OK [")
