"""The command line, `gengap`: the functions under `@app.command` are its commands.

Imports stand inside the commands: PyTorch takes seconds, and `gengap --help` must not wait for it.
"""

import ast
import inspect
import os
import textwrap
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from gengap.errors import GengapError

if TYPE_CHECKING:
    from pandas import DataFrame

    from gengap.collection import Collection

# The collections that can be trained anew, and the originals that can be downloaded.
RECIPES = {
    "cnnzoo": "gengap.replicas.cnnzoo:train_zoo",
    "pgdl": "gengap.replicas.pgdl:train_pgdl",
    "demogen": "gengap.replicas.demogen:train_demogen",
    "genprob": "gengap.replicas.genprob:train_genprob",
}
ORIGINALS = {
    "cnnzoo": "gengap.collections.fetch:fetch_cnnzoo",
    "pgdl": "gengap.collections.fetch:fetch_pgdl",
    "pgdl-participants": "gengap.collections.fetch:fetch_pgdl_participants",
    "demogen": "gengap.collections.fetch:fetch_demogen",
}
EVERY = "all"  # in place of a collection's name
LONGEST_LIST = 20  # reasons shown; a measure may fail in a new way on each model
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended, as shells give it


class OneLineErrors(TyperGroup):
    """Ends with one readable line on stderr where something is wrong or Ctrl-C is pressed."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except GengapError as error:
            typer.echo(f"gengap: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as stop:
            typer.echo(f"\ngengap: interrupted{f': {stop}' if str(stop) else ''}", err=True)
            raise typer.Exit(INTERRUPTED) from None


class PairedParameters(TyperCommand):
    """Takes `-p NAME VALUE`, as papermill does: typer knows no repeated option of two values."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, joined_pairs(args))


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help keeps the lines of the examples
    pretty_exceptions_enable=False,
    help="Reproduced results on predicting generalization: a book, its numbers, and your measures.",
)

Root = Annotated[
    Path | None,
    typer.Option(help="The collection's folder (the embedded replica).", readable=False),
]
Query = Annotated[
    str | None, typer.Option(help="Only the models for which this pandas query holds.")
]
Device = Annotated[str, typer.Option(help="Where to compute, as PyTorch names it: cpu, cuda.")]


@app.command("list")
def list_everything() -> None:
    """Collections, their families and counts, where the files are, and what is missing.

    Also the image data sets, the measures, and the chapters of the book.

    \b
    Example:
      gengap list
    """
    from gengap.book.chapters import chapter_names
    from gengap.collection import COLLECTIONS
    from gengap.measures import MEASURES

    for name in COLLECTIONS:
        typer.echo(_collection_text(name))
    typer.echo(_images_text())
    typer.echo(f"measures  {', '.join(MEASURES)}")
    typer.echo(f"chapters  {', '.join(chapter_names()) or 'none yet'}")


@app.command()
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
    query: Query = None,
    root: Root = None,
    device: Device = "cpu",
    retry: Annotated[
        bool, typer.Option("--retry", help="Compute again what was not available the last time.")
    ] = False,
) -> None:
    """Compute measures of a collection's models, and score them against the generalization gap.

    Only what is missing is computed; each value is kept as soon as it is there, so that the command
    may be stopped or killed and started again, and may run several times at once (then give each
    its own --query). The table goes to data/tables. Shown are, in each family, the measure's median
    and its Kendall tau with test accuracy and with the gap (train minus test accuracy).

    With all, one embedded collection comes after the other, each with all models of its index:
    where networks are kept at several epochs, those of early epochs too.

    \b
    Examples:
      gengap measure all
      gengap measure cnnzoo
      gengap measure cnnzoo -m parameter_norm -m inverse_margin --query "family == 'mnist'"
      gengap measure cnnzoo --module my_measures.py --device cuda
    """
    from gengap.collection import embedded_collections, open_collection
    from gengap.submission.measure_file import measures_in

    if collection == EVERY and (query or root):
        raise GengapError(
            "measure all takes all models of every embedded collection; leave out --query and"
            " --root, or name one collection"
        )
    wanted = names or (measures_in(module) if module else None)
    for name in embedded_collections() if collection == EVERY else [collection]:
        opened = open_collection(name, root, device)
        _measure(opened.select(query) if query else opened, wanted, retry)


@app.command()
def details(
    collection: Annotated[str, typer.Argument(help="A collection's name: see gengap list.")],
    detail: Annotated[
        str,
        typer.Argument(
            help="margins: signatures of margin distributions; spectra: of each layer's weights."
        ),
    ],
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write the rows there as well.")
    ] = None,
    query: Query = None,
    root: Root = None,
    device: Device = "cpu",
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
    from gengap.folders import write_atomically
    from gengap.tables.details import detail_table, table_file

    opened = open_collection(collection, root, device)
    rows = detail_table(opened.select(query) if query else opened, detail)
    typer.echo(f"{len(rows)} rows of {rows['model_id'].nunique()} models")
    if csv:
        write_atomically(csv, lambda path: rows.to_csv(path, index=False))
        typer.echo(f"csv: {csv}")
    typer.echo(f"table: {table_file(opened, detail)}")


@app.command()
def score(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="my_measure.py with one function, or values of one family as .predict (JSON).",
        ),
    ],
    collections: Annotated[
        list[str] | None,
        typer.Option(
            "-c", "--collections", metavar="NAME", help="Repeatable; without it, all embedded ones."
        ),
    ] = None,
    query: Query = None,
    root: Root = None,
    device: Device = "cpu",
    limit: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="For one model, with loading it.")
    ] = 60.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes (one a core; on a GPU one).")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try again the models that had no value the last time.")
    ] = False,
    by: Annotated[
        str, typer.Option("--by", metavar="SCORE", help="What the printed ranks are by.")
    ] = "kendall_tau",
    html: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", help="Write its place as a page as well.")
    ] = None,
) -> None:
    """Compute a measure of your own on collections, and score it beside all others.

    The file holds one function under @gengap.measure, or one named complexity(model, dataset) as
    the PGDL competition had it: given are the PyTorch network, in eval mode, and an iterable of
    batches (inputs, labels), in place of Keras and tf.data. It runs in processes of its own: where
    it crashes, takes too long, returns no finite number or changes the network, that is said and
    counted. Values are kept in _build/scores, so that a second run computes only what is missing;
    data/tables, where the others' values are read, is never written.

    Printed are, in each family, the score with its interval and p-value, the rank among all
    measures of the table, the best of the others and what the hyper-parameters alone score; the
    page has all scores, each with its whole ranking.

    \b
    Examples:
      gengap score my_measure.py
      gengap score my_measure.py -c pgdl -c demogen --html place.html
      gengap score my_measure.py -c folder --root my_networks --device cuda
      gengap score vgg_fashion_mnist.predict -c pgdl
    """
    from gengap.evaluation.judgement import CRITERIA
    from gengap.folders import write_atomically
    from gengap.submission.page import page, place_texts
    from gengap.submission.standing import reasons, scored_beside_all, standing
    from gengap.submission.values import values_of_file

    if by not in CRITERIA:
        raise GengapError(f"no score {by!r}; there are: {', '.join(CRITERIA)}")
    opened = _chosen(collections, root, device, query)
    rows = values_of_file(file, opened, limit=limit, workers=workers, retry=retry)
    why = reasons(rows)
    if len(why):
        typer.echo(f"{why['models'].sum()} of {len(rows)} models have no value:")
        typer.echo(why.head(LONGEST_LIST).to_string(index=False))
        if len(why) > LONGEST_LIST:
            typer.echo(f"and {len(why) - LONGEST_LIST} more reasons")
        typer.echo("--retry tries them again")
    if rows["value"].isna().all():
        raise GengapError(f"{file} gives no model a value; nothing is scored")
    name = rows["measure"].iloc[0]
    scores = scored_beside_all(rows, opened, scores=CRITERIA if html else [by])
    places = standing(scores, name)
    typer.echo(place_texts(places[places["score"] == by]).to_string(index=False))
    if html:
        write_atomically(html, lambda path: path.write_text(page(name, scores, places, why)))
        typer.echo(f"page: {html}")


@app.command()
def score_predictions(
    predictions: Annotated[
        Path, typer.Argument(metavar="FILE.predict", help="A measure by model_<id>, as JSON.")
    ],
    model_configs: Annotated[
        Path, typer.Argument(metavar="model_configs.json", help="The task's reference data.")
    ],
) -> None:
    """Score a measure as the competition Predicting Generalization in Deep Learning did.

    Prints the conditional mutual information as a fraction, and times 100 as it was reported; then
    how high random measures score on this task.

    \b
    Example:
      gengap score-predictions task1_v4.predict reference_data/task1_v4/model_configs.json
    """
    from numpy import quantile

    from gengap.evaluation.scores import cmi, random_scores, read_task, values_of
    from gengap.formats.predictions import read_model_configs, read_predictions

    task = read_task(read_model_configs(model_configs))
    score = float(cmi(values_of(read_predictions(predictions), task), task))
    chance = random_scores(task)
    typer.echo(f"{score:.12f} (x 100: {100 * score:.10f})")
    above = quantile(chance, 0.95)
    typer.echo(f"random measures: {chance.mean():.4f} on average, one in 20 above {above:.4f}")


@app.command(cls=PairedParameters)
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
) -> None:
    """Execute chapters of the book, each in a process of its own.

    A parameter that a chapter lacks is an error, before anything runs. The book's own pages are
    written only for the profile replica without -p; other runs go to _build/runs.

    \b
    Examples:
      gengap run
      gengap run 01-small-cnn-zoo --profile published
      gengap run 01-small-cnn-zoo -p seed 7 -p curve_repeats 5
    """
    from gengap.book.chapters import run_chapters

    values = dict(_parameter(text) for text in parameters or [])
    for path in run_chapters(chapters, profile=profile, parameters=values, jobs=jobs):
        typer.echo(path)


@app.command()
def book() -> None:
    """Render the book as HTML from the executed chapters, with warnings as errors.

    \b
    Example:
      gengap run && gengap book
    """
    from gengap.book.chapters import build_book

    typer.echo(f"open {build_book().as_uri()}")


@app.command()
def train(
    collection: Annotated[str, typer.Argument(help=f"One of: {', '.join(RECIPES)}.")],
    dataset: Annotated[
        str,
        typer.Option(
            help="cnnzoo: mnist, fashion_mnist or cifar10 (as grey); pgdl: vgg_fashion_mnist or"
            " nin_fashion_mnist; demogen: NIN_FASHION_MNIST or RESNET_FASHION_MNIST; genprob:"
            " AdaM_FashionMNIST or SGD_FashionMNIST."
        ),
    ],
    networks: Annotated[
        int | None, typer.Option(min=1, help="How many (cnnzoo: 100; the others: the whole grid).")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each (cnnzoo: 86, as published; demogen: 30 or 40; genprob: 41), or at most"
            " (pgdl).",
        ),
    ] = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write (under trained/); a run begun there is resumed."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of hyper-parameters, weights and batches (42).")
    ] = None,
    stack: Annotated[
        int | None,
        typer.Option(min=1, help="cnnzoo: networks trained as one (1 on a CPU, 256 on a GPU)."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on a CPU (the number of cores).")
    ] = None,
    all_checkpoints: Annotated[
        int | None,
        typer.Option(min=0, help="cnnzoo: networks that keep every checkpoint (all)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images (GENGAP_IMAGES, or a download).")
    ] = None,
) -> None:
    """Train a collection's networks from scratch and write them in its published format.

    A network is written as soon as it is trained: the command may be stopped or killed, and started
    again with the same arguments.

    \b
    Examples:
      gengap train cnnzoo --dataset fashion_mnist --networks 600 --epochs 20
      gengap measure cnnzoo --root trained/cnnzoo
      gengap train pgdl --dataset vgg_fashion_mnist
    """
    recipe = _function_for(collection, RECIPES, "trained")
    from gengap.collection import usable_device

    usable_device(device)
    folder = out or Path("trained") / collection / dataset
    wanted = {
        "networks": networks,
        "epochs": epochs,
        "seed": seed,
        "stack": stack,
        "workers": workers,
        "all_checkpoints": all_checkpoints,
        "images": images,
    }
    options = {name: value for name, value in wanted.items() if value is not None}
    if foreign := options.keys() - inspect.signature(recipe).parameters:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(foreign))
        raise GengapError(f"{collection} is trained without {names}; leave it out")
    try:
        written = recipe(dataset, folder, device=device, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the networks finished so far are kept in {folder}; the same command goes on from"
            " there"
        ) from None
    typer.echo(f"trained: {written}")


@app.command()
def fetch(
    collection: Annotated[str, typer.Argument(help=f"One of: {', '.join(ORIGINALS)}.")],
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Its data sets; without one, all.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to put them (the cache: GENGAP_CACHE).")
    ] = None,
) -> None:
    """Download a collection as its authors published it, for the profile published.

    What is there already is not downloaded again.

    \b
    Example:
      gengap fetch cnnzoo mnist --folder originals/cnnzoo
      gengap measure cnnzoo --root originals/cnnzoo
    """
    fetch_collection = _function_for(collection, ORIGINALS, "downloaded")
    arguments = {"datasets": datasets} if datasets else {}
    typer.echo(f"fetched: {fetch_collection(**arguments, folder=folder)}")


def main() -> None:
    """The entry point `gengap`."""
    warnings.formatwarning = lambda message, *_, **__: f"gengap: {message}\n"
    app(prog_name="gengap")


def joined_pairs(arguments: list[str]) -> list[str]:
    """Each `-p NAME VALUE` as `-p NAME=VALUE`, everything else as it is."""
    joined, rest = [], iter(arguments)
    for argument in rest:
        joined.append(argument)
        if argument in ("-p", "--parameter"):
            joined.append("=".join(islice(rest, 2)))
    return joined


def _function_for(collection: str, functions: dict[str, str], done: str) -> Callable:
    if collection not in functions:
        known = ", ".join(functions)
        raise GengapError(f"the collection {collection!r} cannot be {done}; those are: {known}")
    return resolve_name(functions[collection])


def _chosen(
    names: list[str] | None, root: Path | None, device: str, query: str | None
) -> list["Collection"]:
    """The collections of these names, or all that are embedded, as far as the query holds."""
    from gengap.collection import embedded_collections, open_collection

    if root and len(names or ()) != 1:
        raise GengapError("--root is the folder of one collection; name it with -c")
    names = names or embedded_collections()
    opened = [open_collection(name, root, device) for name in dict.fromkeys(names)]
    chosen = [collection.select(query) for collection in opened] if query else opened
    if found := [collection for collection in chosen if len(collection.index())]:
        return found
    raise GengapError(f"no model of {', '.join(names)} fits; widen the query")


def _measure(collection: "Collection", names: list[str] | None, retry: bool) -> None:
    """Compute what is missing of one collection, and show its correlations and its table."""
    from gengap.evaluation.analysis import rank_correlations
    from gengap.tables.values import default_store, measure_table, table_of

    rows = measure_table(collection, names, retry=retry)
    correlations = rank_correlations(rows, collection.index()).astype({"models": int}).reset_index()
    typer.echo(correlations.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    typer.echo(_reasons(rows), nl=False)
    typer.echo(f"table: {table_of(collection, default_store(collection))}")


def _parameter(text: str) -> tuple[str, object]:
    """NAME=VALUE with the value as Python reads it, or else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise GengapError(f"-p {name} lacks its value; write -p NAME VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _reasons(rows: "DataFrame") -> str:
    """A line per reason for which values are not there."""
    reasons = rows.loc[rows["note"] != "", "note"].value_counts()
    lines = [f"{count} values are missing: {reason}\n" for reason, count in reasons.items()]
    return "".join([*lines, "--retry tries them again\n"] if lines else [])


def _collection_text(name: str) -> str:
    from gengap.collection import open_collection
    from gengap.tables.values import default_store, table_of

    collection = open_collection(name)
    table = table_of(collection, default_store(collection))
    made = table if table.exists() else f"none yet (gengap measure {name})"
    try:
        families = collection.families()
    except GengapError as error:
        return f"collection {name}\n  {error}"
    families["missing"] = [_names(files, collection) for files in families["missing"]]
    text = families.to_string(index=False)
    return f"collection {name}\n  in {collection.root}\n{_indented(text)}\n  table: {made}"


def _names(files: list[Path], collection: "Collection") -> str:
    return ", ".join(os.path.relpath(file, collection.root) for file in files)


def _images_text() -> str:
    from gengap.formats.images import DATASETS

    lines = [f"{dataset}: {_images_at_hand(dataset)}" for dataset in DATASETS]
    return "images\n" + _indented("\n".join(lines))


def _images_at_hand(dataset: str) -> str:
    from gengap.formats.images import load_images

    try:
        load_images(dataset, "test", download=False)
    except GengapError as error:
        if os.environ.get("GENGAP_IMAGES"):
            return str(error)
        return "not here; downloaded when first needed, or set GENGAP_IMAGES to a folder with them"
    return "at hand"


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")
