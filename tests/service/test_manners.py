"""How every command behaves: its help, its failures, its colours, and what a shell completes."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from service.marmot import build
from tests.servers import ROOT

Cli = Callable[..., tuple[int, str, str]]

#: Commands whose answers are no report: it serves, it prints lines of JSON, it prints Markdown.
NO_JSON = {("serve",), ("score",), ("table",)}


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command by its words, and those of groups."""

    def below(words: tuple[str, ...], group: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from below((*words, name), command)
            else:
                yield (*words, name), command

    yield from below((), typer.main.get_command(build()))


COMMANDS = dict(commands())
IDS = [" ".join(words) for words in COMMANDS]

#: What is missing where each command is shown nothing but its absence. {free} is a port that nobody
#: listens on; `key` and `data ml-100k` need nothing that could be missing.
MISSING: list[tuple[str, int, str]] = [
    ("serve --bundle nowhere --port 0", 1, "`marmot train --out nowhere` makes one"),
    ("serve --bundle {bundle} --keys nowhere --port 0", 2, "`marmot key"),
    ("serve --bundle {bundle} --bundle-key nowhere --port 0", 1, "`openssl pkey"),
    ("backfill --bundle nowhere --events {events}", 1, "`marmot train --out nowhere` makes one"),
    ("backfill --bundle {bundle} --events nowhere --cache lmdb:c", 1, "`marmot data ml-100k"),
    (
        "backfill --bundle {bundle} --events {events} --cache redis://127.0.0.1:{free}",
        1,
        "`marmot doctor --cache redis://127.0.0.1:{free}`",
    ),
    (
        "consume --bundle nowhere --stream redis://127.0.0.1:{free}?stream=s",
        1,
        "`marmot train --out nowhere` makes one",
    ),
    (
        "consume --bundle {bundle} --cache lmdb:c --stream redis://127.0.0.1:{free}?stream=s",
        1,
        "`marmot doctor --cache redis://127.0.0.1:{free}`",
    ),
    ("consume --bundle {bundle} --cache lmdb:c --stream redis://localhost", 2, "?stream=NAME"),
    ("train --events nowhere --out out", 1, "`marmot data ml-100k"),
    ("train --events {events} --items nowhere --out out", 1, "leave --items out"),
    ("score --bundle nowhere --events {events} --requests r", 1, "`marmot train --out nowhere`"),
    ("score --bundle {bundle} --events nowhere --requests r", 1, "`marmot data ml-100k"),
    ("score --bundle {bundle} --events {events} --requests nowhere", 1, '"candidates"'),
    ("evaluate --bundle nowhere --events {events}", 1, "`marmot train --out nowhere` makes one"),
    ("evaluate --bundle {bundle} --events nowhere", 1, "`marmot data ml-100k"),
    ("evaluate --replay nowhere --key nowhere --events {events}", 1, "`openssl rand"),
    (
        "evaluate --bundle {bundle} --events {events} --via http --url http://127.0.0.1:{free}",
        1,
        "`marmot serve` starts one",
    ),
    ("compare --events nowhere", 1, "`marmot data ml-100k"),
    ("inspect nowhere", 1, "`marmot train --out nowhere` makes one"),
    ("sign nowhere --key k", 1, "`marmot train --out nowhere` makes one"),
    ("sign {bundle} --key nowhere", 1, "`openssl genpkey"),
    ("plan --bundle nowhere", 1, "`marmot train --out nowhere` makes one"),
    ("plan --bench nowhere", 2, "`marmot bench --json > nowhere` makes one"),
    ("bench --bundle nowhere", 1, "`marmot train --out nowhere` makes one"),
    ("table nowhere", 1, "`marmot bench --out nowhere` makes one"),
    ("load --url http://127.0.0.1:{free}", 1, "`make serve` starts one"),
    ("load --events nowhere", 1, "without --events users and items are made up"),
    ("scaling --events nowhere --out o", 1, "`marmot data ml-100k"),
    ("precision --bundle nowhere --events {events}", 1, "`marmot train --out nowhere` makes one"),
    ("dump --cache lmdb:nowhere --out f", 2, "no store at nowhere"),
    ("restore --cache lmdb:c --in nowhere", 2, "nowhere"),
    ("export-state --bundle nowhere --cache lmdb:c --out o", 1, "`marmot train --out nowhere`"),
    ("items add --bundle nowhere --items i --out o", 1, "`marmot train --out nowhere` makes one"),
    ("data order --out {events}", 1, "{events}"),
    ("key --scopes rank --keys nowhere/keys", 2, "nowhere/keys"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_help_has_an_example_that_can_be_typed(words: tuple[str, ...]) -> None:
    """Every command says what it does and shows an example, and the example is one it takes."""
    command = COMMANDS[words]
    assert command.help
    example = re.fullmatch(r"Example: (.*)", command.epilog or "")
    assert example, command.epilog
    typed = [shlex.split(line) for line in re.split(r"; | > [^;]*", example[1]) if line.strip()]
    assert ["marmot", *words] in [line[: 1 + len(words)] for line in typed]
    for line in typed:
        parse(line)


def parse(line: list[str]) -> None:
    """Raises what the command line would, and runs nothing."""
    assert line.pop(0) == "marmot"
    words = next(words for words in COMMANDS if tuple(line[: len(words)]) == words)
    COMMANDS[words].make_context(" ".join(words), line[len(words) :])


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_programs_can_read_the_answers(words: tuple[str, ...]) -> None:
    """Every command that tells something takes --json."""
    takes = any("--json" in parameter.opts for parameter in COMMANDS[words].params)
    assert takes == (words not in NO_JSON)


def test_every_command_was_shown_something_missing() -> None:
    """The list of failures below knows every command."""
    tried = {line.split()[0] for line, _, _ in MISSING} | {"doctor"}
    assert tried == {words[0] for words in COMMANDS}


@pytest.mark.parametrize(("line", "code", "way_out"), MISSING)
def test_what_is_missing_is_one_sentence_with_a_way_out(
    cli: Cli,
    tiny_bundle: Path,
    tmp_path: Path,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    code: int,
    way_out: str,
) -> None:
    """A missing file or server: nothing on stdout, one sentence on stderr that says what to do."""
    monkeypatch.chdir(tmp_path)
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id,timestamp,like,share\n" + "u,1,10,1,0\n" * 9)
    names = {"bundle": tiny_bundle, "events": events, "free": free_port}
    found, out, err = cli(*line.format(**names).split())
    assert (found, out) == (code, ""), err
    *before, sentence = err.splitlines()
    assert sentence.startswith("marmot: ")
    assert way_out.format(**names) in sentence
    # A service says where it starts before it looks further; a bar and a log line are none either.
    assert not [line for line in before if line.startswith("marmot: ") and "starting" not in line]
    assert "Traceback" not in err
    assert "Errno" not in sentence or "refused" in sentence


@pytest.mark.parametrize("words", COMMANDS, ids=IDS)
def test_bad_usage(cli: Cli, words: tuple[str, ...]) -> None:
    """An option that does not exist is exit code 2 and one sentence that names the help."""
    code, out, err = cli(*words, "--no-such-option")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert f"see `marmot {' '.join(words)} --help`" in err


@pytest.mark.parametrize("arguments", [["--no-such"], ["no-such"], ["data", "no-such"]])
def test_what_is_no_command(cli: Cli, arguments: list[str]) -> None:
    """The way out of a word that is no command is the list of those that are."""
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"marmot: .*; see `marmot( data)? --help`\n", err)


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_bare(cli: Cli, arguments: list[str]) -> None:
    """Called bare, the commands are listed; that is bad usage all the same."""
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert "Commands:" in err
    assert "marmot: " not in err


@pytest.mark.parametrize(("shell", "env"), [
    ("bash", {"COMP_WORDS": "marmot tr", "COMP_CWORD": "1"}),
    ("zsh", {"_TYPER_COMPLETE_ARGS": "marmot tr"}),
])  # fmt: skip
def test_completion(shell: str, env: dict[str, str]) -> None:
    """What `marmot --install-completion` installs asks the command, which knows its own words."""
    asked = {**os.environ, **env, "_MARMOT_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(  # noqa: S603
        MARMOT, cwd=ROOT, env=asked, capture_output=True, text=True, check=True
    )
    assert "train" in done.stdout
    assert "serve" not in done.stdout


MARMOT = [sys.executable, "-c", "from service.marmot import main; main()"]
WITH_A_BAR = ["data", "order", "--out", ".", "--users", "10"]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def test_pipes_get_no_colours(tmp_path: Path) -> None:
    """Where nobody looks, neither stdout nor stderr has an escape sequence."""
    done = subprocess.run(  # noqa: S603
        [*MARMOT, *WITH_A_BAR], cwd=tmp_path, env=_env(), capture_output=True, text=True, check=True
    )
    assert "100%" in done.stderr  # a bar, drawn once
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("wanted", [True, False])
def test_screens_get_colours_unless_told_otherwise(tmp_path: Path, wanted: bool) -> None:
    """On a terminal a bar has colours, and with NO_COLOR it has none."""
    ours, theirs = pty.openpty()
    env = _env() | {"TERM": "xterm-256color"} | ({} if wanted else {"NO_COLOR": "1"})
    done = subprocess.Popen(  # noqa: S603
        [*MARMOT, *WITH_A_BAR], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while chunk := _read(ours):
        seen += chunk
    os.close(ours)
    assert done.wait(120) == 0, seen
    codes = {code for found in COLOUR.findall(seen.decode()) for code in re.findall(r"\d+", found)}
    assert bool(codes & {str(code) for code in range(30, 50)}) == wanted


def _env() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def _read(ours: int) -> bytes:
    try:
        return os.read(ours, 65_536)
    except OSError:  # the other side is closed
        return b""
