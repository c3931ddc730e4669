"""The command line, `gengap`: a file for each group of commands, registered here in their order.

Imports stand inside the commands: PyTorch takes seconds, and `gengap --help` must not wait for it.
"""

import errno
import warnings
from importlib import metadata
from typing import Annotated

import typer
from typer.core import TyperGroup

from gengap.cli.chapters import PairedParameters, book, compare, run
from gengap.cli.collections import fetch, train
from gengap.cli.listing import list_everything
from gengap.cli.scoring import score, score_predictions
from gengap.cli.tables import details, measure
from gengap.errors import GengapError

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended, as shells give it


class OneLineErrors(TyperGroup):
    """Ends with one readable line on stderr where something is wrong or Ctrl-C is pressed."""

    def invoke(self, ctx):
        status = 1
        try:
            return super().invoke(ctx)
        except GengapError as error:
            told = f"gengap: {error}"
        except OSError as error:  # a full disk, a folder that may not be written
            if error.errno == errno.EPIPE:
                raise
            told = f"gengap: {error}; make room, or give a place that may be used"
        except KeyboardInterrupt as stop:
            told = f"\ngengap: interrupted{f': {stop}' if str(stop) else ''}"
            status = INTERRUPTED
        typer.echo(told, err=True)
        raise typer.Exit(status)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help keeps the lines of the examples
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


@app.callback()
def program(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Reproduced results on predicting generalization: a book, its numbers, and your measures."""
    if version:
        typer.echo(f"gengap {metadata.version('gengap')}")
        raise typer.Exit()


app.command("list")(list_everything)
app.command()(measure)
app.command()(details)
app.command()(score)
app.command()(score_predictions)
app.command(cls=PairedParameters)(run)
app.command()(compare)
app.command()(book)
app.command()(train)
app.command()(fetch)


def main() -> None:
    """The entry point `gengap`."""
    warnings.formatwarning = lambda message, *_, **__: f"gengap: {message}\n"
    app(prog_name="gengap")
