"""The `penstock` command: a group that imports a command's module only when that command is asked for.

It turns a `PenstockError` into one message on stderr and exit code 1, wrong usage into exit code 2, and Ctrl-C into exit code 130 without a
traceback. Output that cannot be written is one message and exit code 1 too, whatever wrote it (`--help` and `--version` as well), and is said while
the process lives: nothing good stays in a buffer whose failure nobody hears. A reader that has seen enough is exit code 1 without a message, and
closed output is none. Any other `OSError` is told as what it is, with its file.

It must never import pyarrow, torch or a command by itself: `penstock --version` costs what typer costs. Refused: registering the commands with
decorators, which would import all of them for each.

A command `name` lives in `cli/<module>.py` as a typer-annotated function called `name` whose docstring is its help.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ..errors import PenstockError, StorageError
from .output import OutputLost, drop_output, hear_output

COMMANDS: dict[str, str] = {
    "bench": "bench",
    "convert": "convert",
    "index": "index",
    "inspect": "inspect",
    "plan": "plan",
    "show": "show",
    "verify": "verify",
}
"""Each command and the module of this package that holds the function of that name."""

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def command_function(name: str) -> Callable[..., Any]:
    """Return the function of a command, importing its module."""
    module = importlib.import_module(f".{COMMANDS[name]}", __package__)
    function: Callable[..., Any] = getattr(module, name)
    return function


def _told(error: OSError) -> str:
    """Return what happened and what to do, in the words of `shards.storage`, which is imported for it only now: it brings numpy."""
    translate: Callable[..., StorageError] = importlib.import_module("..shards.storage", __package__).translate
    told = translate(error, error.filename or "", "run the command")
    return str(told) if error.filename else told.message


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is typer's
        """Return the names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the signature is typer's
        """Return the command, or None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(name=cmd_name)(command_function(cmd_name))
            self.commands[cmd_name] = get_command(single)
        return self.commands[cmd_name]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors made on purpose become one message, unless `--debug` asks for the traceback."""
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"penstock: {error}", err=True)
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                raise
            typer.echo("penstock: interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"penstock: {_told(error)}", err=True)
            raise typer.Exit(EXIT_FAILED) from None


app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"penstock {version('penstock')}")
        raise typer.Exit


@app.callback()
def penstock(
    _version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn raw data into sharded Arrow or tar datasets, and look at them."""
    _ = debug  # read by LazyGroup.invoke from the context


def main() -> None:
    """Run the command line; leaves the process with 0, 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
    hear_output()
    try:
        try:
            app(prog_name="penstock")
        finally:
            sys.stdout.flush()  # what cannot be written is to be heard of now, and not when the interpreter ends
    except KeyboardInterrupt:  # before the command ran, while its module was imported
        typer.echo("penstock: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except OutputLost as lost:
        drop_output()
        if "--debug" in sys.argv:
            raise
        if not isinstance(lost.error, BrokenPipeError):  # else whoever read has seen enough
            typer.echo(f"penstock: cannot write the output: {lost.error.strerror}; send it somewhere else", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
