"""The commands `gengap score` and `gengap score-predictions`: a measure of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gengap.cli.options import Device, Query, Root
from gengap.cli.tables import show_left_out
from gengap.errors import GengapError

if TYPE_CHECKING:
    from gengap.collection import Collection

LONGEST_LIST = 20  # reasons shown; a measure may fail in a new way on each model


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
      gengap score mine.predict -c pgdl --query "family == 'task8_fashion_mnist'"
    """
    from gengap.evaluation.scores import CRITERIA
    from gengap.folders import write_atomically
    from gengap.submission.page import page, place_texts
    from gengap.submission.standing import reasons, scored_beside_all, standing
    from gengap.submission.values import values_of_file

    if by not in CRITERIA:
        raise GengapError(f"no score {by!r}; there are: {', '.join(CRITERIA)}")
    opened = _chosen(collections, root, device, query)
    rows = values_of_file(file, opened, limit=limit, workers=workers, retry=retry)
    for collection in opened:
        show_left_out(collection)
        _show_earlier(collection)
    why = reasons(rows)
    if len(why):
        typer.echo(f"{why['models'].sum()} of {len(rows)} models have no value:")
        typer.echo(why.head(LONGEST_LIST).to_string(index=False))
        if len(why) > LONGEST_LIST:
            typer.echo(f"and {len(why) - LONGEST_LIST} more reasons")
        if file.suffix == ".py":
            typer.echo("--retry tries them again")
    if rows["value"].isna().all():
        raise GengapError(f"{file} gives no model a value; nothing is scored")
    name = rows["measure"].iloc[0]
    scores = scored_beside_all(rows, opened, scores=CRITERIA if html else [by])
    places = standing(scores, name)
    typer.echo(place_texts(places[places["score"] == by]).to_string(index=False))
    if html:
        text = page(name, scores, places, why)
        write_atomically(html, lambda path: path.write_text(text, encoding="utf-8"))
        typer.echo(f"page: {html}")


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

    from gengap.evaluation.scores import cmi, random_scores
    from gengap.evaluation.tasks import read_task, values_of
    from gengap.formats.predictions import read_model_configs, read_predictions

    task = read_task(read_model_configs(model_configs))
    score = float(cmi(values_of(read_predictions(predictions), task), task))
    chance = random_scores(task)
    typer.echo(f"{score:.12f} (x 100: {100 * score:.10f})")
    above = quantile(chance, 0.95)
    typer.echo(f"random measures: {chance.mean():.4f} on average, one in 20 above {above:.4f}")


def _show_earlier(collection: "Collection") -> None:
    """How many rows of its index are no network's last, and are not scored."""
    from gengap.collection import last_epoch

    index = collection.index()
    if earlier := len(index) - len(last_epoch(index)):
        typer.echo(
            f"{earlier} of the {len(index)} models of {collection.name} are earlier epochs, and not"
            " scored"
        )


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
        return [_with_gaps(collection) for collection in found]
    raise GengapError(f"no model of {', '.join(names)} fits; widen the query")


def _with_gaps(collection: "Collection") -> "Collection":
    """The collection without models that have no gap, of which it is told how many there are."""
    from gengap.evaluation.tasks import gap_of

    lacking = gap_of(collection.index()).isna()
    if lacking.all():
        raise GengapError(
            f"no model of {collection.name} has both accuracies, and thus a gap: nothing is scored"
        )
    if lacking.any():
        typer.echo(
            f"{lacking.sum()} of the {len(lacking)} models of {collection.name} lack an accuracy,"
            " and are not scored"
        )
        known = "train_accuracy == train_accuracy and test_accuracy == test_accuracy"  # not NaN
        collection = collection.select(known)
    return collection
