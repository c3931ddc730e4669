"""The commands `gengap run` and `gengap book`."""

import ast
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from gengap.cli.options import Scheduler
from gengap.errors import GengapError


class PairedParameters(TyperCommand):
    """Takes `-p NAME VALUE`, as papermill does: typer knows no repeated option of two values."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, joined_pairs(args))


def run(
    chapters: Annotated[
        list[str] | None, typer.Argument(help="Chapters by name; without one, all.")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(help="replica: the embedded collections; published: the original archives."),
    ] = "replica",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--parameter",
            metavar="NAME VALUE",
            help="A parameter of the notebook and its value; repeatable.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, help="Chapters at once (the cores).")
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="MINUTES",
            help="Of computing missing values inside a chapter; for longer work it says which"
            " command to run first.",
        ),
    ] = 60,
    scheduler: Scheduler = None,
) -> None:
    """Execute chapters of the book, each in a process of its own.

    A parameter that a chapter lacks is an error, before anything runs. The book's own pages are
    written only for the profile replica without -p; other runs, and pages of them, go to
    _build/runs. With --scheduler, chapters run here, and what they lack is computed on that
    cluster: values of measures and details, and the fits of chapters 1 and 7.

    \b
    Examples:
      gengap run
      gengap run 01-small-cnn-zoo --profile published --scheduler tcp://127.0.0.1:8786
      gengap run 01-small-cnn-zoo -p seed 7 -p curve_repeats 5
    """
    from gengap.book.chapters import book_folder, run_chapters
    from gengap.book.run_pages import render_runs
    from gengap.tables.engine import on_scheduler

    values = dict(_parameter(text) for text in parameters or [])
    with on_scheduler(scheduler):
        runs = run_chapters(chapters, profile=profile, parameters=values, jobs=jobs, budget=budget)
    for path in runs:
        typer.echo(path)
    if runs and runs[0].parent != book_folder():
        try:
            pages = render_runs(runs)
        except GengapError as error:  # the runs themselves are done
            typer.echo(f"gengap: {error}", err=True)
            return
        for page in pages:
            typer.echo(f"open {page.as_uri()}")


def book() -> None:
    """Render the book as HTML from the executed chapters, with warnings as errors.

    \b
    Example:
      gengap run && gengap book
    """
    from gengap.book.chapters import build_book

    typer.echo(f"open {build_book().as_uri()}")


def compare(
    one: Annotated[Path, typer.Argument(metavar="RUN", help="An executed chapter, .ipynb.")],
    other: Annotated[Path, typer.Argument(metavar="RUN", help="Another run of that chapter.")],
) -> None:
    """List the tables in which two runs of a chapter differ.

    \b
    Example:
      gengap run 05-everywhere -p seed 1
      gengap compare book/chapters/05-everywhere.ipynb _build/runs/replica/05-everywhere.ipynb
    """
    from gengap.book.comparison import compared

    found = compared(one, other)
    typer.echo("no table differs" if found.empty else found.to_string(index=False))


def joined_pairs(arguments: list[str]) -> list[str]:
    """Each `-p NAME VALUE` as `-p NAME=VALUE`, everything else as it is."""
    joined, rest = [], iter(arguments)
    for argument in rest:
        joined.append(argument)
        if argument in ("-p", "--parameter"):
            joined.append("=".join(islice(rest, 2)))
    return joined


def _parameter(text: str) -> tuple[str, object]:
    """NAME=VALUE with the value as Python reads it, or else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise GengapError(f"-p {name} lacks its value; write -p NAME VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
