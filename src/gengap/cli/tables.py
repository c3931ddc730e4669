"""The commands `gengap measure` and `gengap details`: what is computed of networks, into kept
tables.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gengap.cli.options import Csv, Device, Plan, Query, Root, Scheduler, Workers, Yes
from gengap.errors import GengapError

if TYPE_CHECKING:
    from pandas import DataFrame

    from gengap.collection import Collection

EVERY = "all"  # in place of a collection's name
MINUTES = 60  # of computation that begin without --yes
BYTES = 350  # of disk that a value takes, nearly all of them in the store


def measure(
    collection: Annotated[
        str, typer.Argument(help="A collection's name: see gengap list; all: each embedded one.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Option("-m", "--measure", metavar="NAME", help="Repeatable; without it, all."),
    ] = None,
    module: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.py",
            exists=True,
            dir_okay=False,
            help="Your own measures, functions under @gengap.measure; without -m, only these.",
        ),
    ] = None,
    csv: Csv = None,
    query: Query = None,
    root: Root = None,
    device: Device = "cpu",
    retry: Annotated[
        bool, typer.Option("--retry", help="Compute again what was not available the last time.")
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    plan: Plan = False,
    yes: Yes = False,
) -> None:
    """Compute measures of a collection's models, and score them against the generalization gap.

    Only what is missing is computed. Each value is kept as soon as it is there, or why there is
    none (a file that cannot be read, a measure that raises something): the command goes on with
    the next, and ends with exit status 1. It may be stopped or killed and started again, and may
    run several times at once (then give each its own --query). What would take more than an hour,
    by a pilot of three models, asks for --yes; --plan only tells. The table goes to data/tables.
    Shown are, in each family, the measure's median and its Kendall tau with test accuracy and with
    the gap (train minus test accuracy).

    With all, one embedded collection comes after the other, each with all models of its index:
    where networks are kept at several epochs, those of early epochs too.

    \b
    Examples:
      gengap measure all
      gengap measure cnnzoo
      gengap measure cnnzoo -m raw_parameter_norm -m inverse_margin --query "family == 'mnist'"
      gengap measure cnnzoo --module my_measures.py --device cuda
      gengap measure pgdl -m path_norm --csv values.csv
      gengap measure cnnzoo --root originals/cnnzoo --plan
      gengap measure all --scheduler tcp://127.0.0.1:8786
    """
    from gengap.collection import embedded_collections, open_collection
    from gengap.submission.measure_file import measures_in
    from gengap.tables.guard import FAILED
    from gengap.tables.values import MEASURES, measure_table

    if collection == EVERY and (query or root or csv):
        raise GengapError(
            "measure all takes all models of every embedded collection; leave out --query, --root"
            " and --csv, or name one collection"
        )
    own, failed = measures_in(module) if module else None, []
    budget = _budget(plan, yes)
    where: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "budget": budget}
    for name in embedded_collections() if collection == EVERY else [collection]:
        opened = open_collection(name, root, device)
        chosen = opened.select(query) if query else opened
        compute = partial(measure_table, chosen, names or own, retry=retry, **where)
        rows = _computed(compute, plan, chosen, names or own or [*MEASURES])
        if rows is None:
            continue
        _show(rows, chosen)
        show_left_out(chosen)
        _write(rows, csv)
        failed.append(rows[rows["note"].str.startswith(FAILED)])
    if values := sum(map(len, failed)):
        models = sum(rows["model_id"].nunique() for rows in failed)
        _end_with(f"{values} values of {models} models")


def details(
    collection: Annotated[str, typer.Argument(help="A collection's name: see gengap list.")],
    detail: Annotated[
        str,
        typer.Argument(
            help="margins: signatures of margin distributions; spectra: of each layer's weights."
        ),
    ],
    csv: Csv = None,
    query: Query = None,
    root: Root = None,
    device: Device = "cpu",
    workers: Workers = None,
    scheduler: Scheduler = None,
    plan: Plan = False,
    yes: Yes = False,
) -> None:
    """Compute what has several rows a model, such as numbers of each layer, into a kept table.

    Only what is missing is computed; the rows of each model are kept as soon as they are there, so
    that the command may be stopped or killed and started again.

    \b
    Examples:
      gengap details demogen margins
      gengap details pgdl spectra --csv layers.csv
      gengap details demogen margins --csv signatures.csv --root originals/demogen --device cuda
    """
    from gengap.collection import open_collection
    from gengap.tables.details import detail_table
    from gengap.tables.store import table_file

    opened = open_collection(collection, root, device)
    chosen = opened.select(query) if query else opened
    budget = _budget(plan, yes)
    where: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "budget": budget}
    rows = _computed(partial(detail_table, chosen, detail, **where), plan, chosen)
    if rows is None:
        return
    typer.echo(f"{len(rows)} rows of {rows['model_id'].nunique()} models")
    show_left_out(chosen)
    _write(rows, csv)
    if table_file(opened, detail).exists():
        typer.echo(f"table: {table_file(opened, detail)}")
    if failed := rows.attrs["failed"]:
        _end_with(f"{failed} models")


def _budget(plan: bool, yes: bool) -> float:
    """Minutes of computation that may begin; of a plan none after its pilot."""
    return 0.0 if plan else math.inf if yes else MINUTES


def _computed(
    compute: Callable[[], "DataFrame"],
    plan: bool,
    collection: "Collection",
    measures: Sequence[str] = (),
) -> "DataFrame | None":
    """The rows, or None where only a plan is asked for, which is shown."""
    from gengap.tables.work import OverBudget

    try:
        rows = compute()
    except OverBudget as work:
        if not plan:
            raise
        typer.echo(f"{collection.name}: {work.models:,} models lack values")
        typer.echo(f"  time  about {work.hours}, by three models that were computed now")
        if measures:
            size = work.models * len(measures) * BYTES
            typer.echo(f"  disk  {size / 1e6:,.1f} MB at most, for {len(measures)} measures")
            typer.echo(f"  work  {_work(measures)}")
        return None
    if plan:
        typer.echo(f"{collection.name}: nothing is missing")
        return None
    return rows


def _work(measures: Sequence[str]) -> str:
    """What measures declare together."""
    from gengap.measures import ALL, Work, work_of

    each = [work_of(name) for name in measures]
    images = sum(work.images for work in each if work.images < ALL)
    drawn = Work(images, sum(work.per_class for work in each))
    whole = "the whole sample" if any(work.images == ALL for work in each) else ""
    passed = " + ".join(filter(None, [str(drawn), whole])) or "no"
    differentiate = sum(work.differentiates for work in each)
    return f"{passed} images a network at most; {differentiate} measures differentiate"


def _write(rows: "DataFrame", csv: Path | None) -> None:
    from gengap.folders import write_atomically

    if csv:
        write_atomically(csv, lambda path: rows.to_csv(path, index=False))
        typer.echo(f"csv: {csv}")


def _show(rows: "DataFrame", collection: "Collection") -> None:
    """Correlations of one collection's values, and where its table is."""
    from gengap.evaluation.judgement import rank_correlations
    from gengap.tables.store import table_file

    correlations = rank_correlations(rows, collection.index()).astype({"models": int}).reset_index()
    typer.echo(correlations.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    typer.echo(_reasons(rows), nl=False)
    typer.echo(f"table: {table_file(collection)}")


def show_left_out(collection: "Collection") -> None:
    """A line for each kind of thing in networks' files that no measure sees."""
    for remark, models in collection.left_out().items():
        typer.echo(f"left out: {remark} of {', '.join(models)}")


def _end_with(failed: str) -> NoReturn:
    """Exit status 1 and a last line on what failed."""
    typer.echo(f"{failed} failed, as told above; the others are kept", err=True)
    raise typer.Exit(1)


def _reasons(rows: "DataFrame") -> str:
    """A line per reason for which values are not there."""
    reasons = rows.loc[rows["note"] != "", "note"].value_counts()
    lines = [f"{count} values are missing: {reason}\n" for reason, count in reasons.items()]
    return "".join([*lines, "--retry tries them again\n"] if lines else [])
