"""The command ``peft-atlas``: names of the commands, and the module that each is loaded from when it is called."""

from __future__ import annotations

import atexit
import gc
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("cli.serve", "Serve the site and the HTTP API on this machine."),
    "mcp": ("cli.mcp", "Serve the recommender and the records to a language model (Model Context Protocol)."),
    "list": ("cli.browse", "List the methods, filtered as you like."),
    "show": ("cli.browse", "Show everything about one method."),
    "compare": ("cli.browse", "Compare two to six methods side by side."),
    "recommend": ("cli.advise", "Rank the methods that fit your card, model and task, with reasons."),
    "estimate": ("cli.advise", "Predict memory and time of one method."),
    "profile": (
        "cli.profile",
        "Fit memory and work of the methods in closed form, from dry runs; writes kb/profiles and kb/timelines.",
    ),
    "run": ("cli.run", "Train a method, show its accuracy before and after, and save the adapter."),
    "bench": ("cli.bench", "Measure memory and time of the methods on this machine's GPU, ours beside PEFT's."),
    "check": ("cli.upkeep", "Check every record of the knowledge base and say what to repair."),
    "export": ("cli.upkeep", "Write the taxonomy or the records in another format, or the whole site as files."),
}
"""Module and help of each command, so that ``--help`` is there at once; the functions bear the commands' names."""


class _LazyGroup(TyperGroup):
    """A group that imports a command's module when the command is called, not before."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from cli.terminal import near

            ctx.fail(f"there is no command {args[0]!r}{near(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]
        if self._listing:
            return TyperCommand(cmd_name, help=summary)
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(import_module(module), "list_" if cmd_name == "list" else cmd_name))
        return typer.main.get_command(single)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = typer.Typer(
    name="peft-atlas",
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"peft-atlas {version('peft-atlas')}")
        except PackageNotFoundError:
            typer.echo("peft-atlas, run from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Which fine-tuning method, on my card, for my model and task, and why?"""


def main() -> None:
    """Run the command; what goes wrong is said on the error stream in words, with exit code 1 or 2."""
    atexit.register(gc.freeze)  # the system takes back what is left: nothing need be looked through on leaving
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")
    try:
        app()
    except Exception as error:
        from cli.terminal import explained

        message = explained(error)
        if message is None:
            raise
        sys.stderr.write(f"Error: {message}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
