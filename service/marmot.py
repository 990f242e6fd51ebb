"""The `marmot` command: every room's own commands, and one sentence for every failure."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import entry_points

import typer
from typer.exceptions import TyperException

GROUP = "marmot.commands"


def build() -> typer.Typer:
    """One command out of those that the installed rooms bring."""
    app = typer.Typer(
        name="marmot",
        help="Rank candidates with attention that is cached layer by layer.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        room = entry.load()
        app.registered_commands += room.registered_commands
        app.registered_groups += room.registered_groups
    return app


def main() -> None:
    """Runs the command line; exit code 0, 1 (failed) or 2 (bad usage)."""
    signal.signal(signal.SIGTERM, _unwind)
    sys.exit(run(sys.argv[1:]))


def _unwind(number: int, _frame: object) -> None:
    """Ends as an exception does, so that nothing half-written or running is left behind."""
    sys.exit(128 + number)


def run(arguments: list[str]) -> int:
    """Runs one command; a failure is one sentence on stderr."""
    command = typer.main.get_command(build())
    try:
        result = command.main(arguments, prog_name="marmot", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        return _fail(_sentence(error), getattr(error, "exit_code", 1))
    return result if isinstance(result, int) else 0


def _fail(sentence: str, code: int) -> int:
    if sentence.startswith("Usage:"):  # a group that was called bare shows its help
        sys.stderr.write(f"{sentence}\n")
    elif sentence:
        sys.stderr.write(f"marmot: {sentence}\n")
    return code


def _sentence(error: Exception) -> str:
    """What a failure says of itself; a bare one at least says its kind."""
    if isinstance(error, ExceptionGroup):
        return _sentence(error.exceptions[0])
    if isinstance(error, TyperException):
        # Nothing to say is said by a command that was called bare: its help is on the screen.
        told: str = error.format_message() if hasattr(error, "format_message") else str(error)
        command = getattr(getattr(error, "ctx", None), "command_path", "")
        if not told or not command or told.startswith("Usage:"):
            return told
        return f"{told.rstrip('.')}; see `{command} --help`"
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return f"{said}; see the extras in the README's install section"
    return said or type(error).__name__
