"""Every command, request and example of README and docs does what its page says.

All of them run, but for `docker` and `kubectl`, which take a daemon and a cluster: what these are
given is looked at here and in tests/deploy. They are made short (tests/docs/short.py) and run on
little data (tests/docs/conftest.py): what holds is that they work, not what they measure. `make`
says what it would do; `.ci/run` does it. `marmot bench` starts up to ten processes each time, so
its lines are run by tests/loadtest, where their figures are looked at. What takes Ray runs where
that is installed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main

from service.marmot import build
from tests.docs.blocks import (
    BLOCKS,
    COMMAND,
    PAGES,
    RUN,
    SHOWN,
    Block,
    blocks_of,
    indented,
    name_of,
)
from tests.docs.shape import check
from tests.docs.stage import Stage
from tests.servers import ROOT

#: Programs that nobody here can run.
ELSEWHERE = {"docker", "kubectl"}
MARMOT = re.compile(r"(?:^|; |\| |&& )(marmot (?:[^|>;#\n\\]|\\\n)*)", re.MULTILINE)
_COMMANDS = typer.main.get_command(build())

TO_RUN = sorted(
    {
        block.page
        for block in BLOCKS
        if block.language in RUN and not (block.not_run or block.run_by)
    }
)
#: An answer that a page shows because it is an error.
_ERROR = re.compile(r"HTTP/1.1 [45]|\{\"(?:type|error)\"")


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


def test_what_is_not_run() -> None:
    """Only what takes a daemon or a cluster; the folders that it is given are there."""
    for block in BLOCKS:
        for typed, _ in block.commands() if block.not_run else ():
            words = shlex.split(typed, comments=True)
            assert words[0] in ELSEWHERE, f"{block.where}: {typed}"
            for word in words:
                assert "/" not in word or (ROOT / word / "kustomization.yaml").is_file(), typed


def test_what_others_run() -> None:
    """A test that runs the commands of a block takes them from the pages."""
    for block in BLOCKS:
        if block.run_by:
            assert "from tests.docs.short import typed" in (ROOT / block.run_by).read_text()
            assert {typed.split()[1] for typed, _ in block.commands()} == {"bench"}, block.where


def test_what_make_makes() -> None:
    """Every `make` of a sentence is a target, too."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for name in re.findall(r"`(?:\w+=\S+ )*make (\w+)", page.read_text()):
            assert name in targets, f"{name_of(page)}: make {name}"


def test_every_command_is_told() -> None:
    """docs/commands.md knows every `marmot` command."""
    told = (ROOT / "docs" / "commands.md").read_text()
    assert [name for name in _COMMANDS.commands if f"`marmot {name}" not in told] == []


def test_what_pip_adds() -> None:
    """Every extra that a page names is one."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for page in PAGES:
        for names in re.findall(r"'\.\[([\w,]+)\]'", page.read_text()):
            assert set(names.split(",")) <= extras.keys(), f"{name_of(page)}: {names}"


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
    missing = set()
    for block in blocks_of(page):
        above = block.after.line if block.after else 0
        try:
            if block.not_run or block.run_by:
                continue
            if block.takes and find_spec(block.takes) is None:
                missing.add(block.takes)
                continue
            if block.language == "python":
                printed[block.line] = _python(stage.put(block.text), block, stage, names), ""
            elif block.language in {"bash", "console"}:
                for typed, shown in block.commands():
                    printed[block.line] = _type(typed, shown, stage)
            elif above in printed:
                check(block.text, *printed[above])
            stage.end_block()
        except Exception as error:
            raise AssertionError(f"{block.where}: {error}") from error
    if missing:
        pytest.skip(f"all but what takes {', '.join(missing)}, which is not installed")


def _type(typed: str, shown: str, stage: Stage) -> tuple[str, str]:
    code, out, err = stage.type(typed)
    assert (code != 0) == _fails(shown), f"{typed}: exit code {code}\n{out}{err}"
    if shown:
        check(shown, out, err)
    return out, err


def _fails(shown: str) -> bool:
    """What ends with a sentence of ours, or is an error, is shown because it fails."""
    last = (shown.strip().splitlines() or [""])[-1]
    return last.startswith("marmot: ") or _ERROR.match(shown) is not None


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
