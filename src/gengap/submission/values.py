"""A measure of one's own: found in its file, computed on a collection, kept.

Accepted are a Python file with one function under `@gengap.measure`, or with one named
`complexity(model, dataset)` as the competition Predicting Generalization in Deep Learning had it,
and a `.predict` file with the values themselves. Nothing is ever written to data/tables.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from pandas import DataFrame, Series
from tqdm import tqdm

from gengap import folders
from gengap.collection import COLLECTIONS, Collection, last_epoch
from gengap.errors import GengapError
from gengap.formats.predictions import read_predictions
from gengap.submission.measure_file import finite, name_of_file
from gengap.submission.process import Job, computed
from gengap.tables.engine import cores
from gengap.tables.identity import Versions, versions_now
from gengap.tables.store import COLUMNS, keep, rows_in


def values_of_file(file: Path, collections: Sequence[Collection], **options) -> DataFrame:
    """The rows of `own_values`, or of `own_predictions` if the file's name ends in .predict.

    options: of `own_values`.

    Raises: GengapError as they do, and if predictions fit no family or several collections.
    """
    if Path(file).suffix != ".predict":
        return own_values(file, collections, **options)
    found = [own_predictions(file, collection) for collection in collections]
    fitting = [rows for rows in found if rows is not None]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(collection.name for collection in collections)
    raise GengapError(
        f"the models in {file} are those of {len(fitting)} families of {names}; give a value for"
        " each model of one family, by the last part of model_id, and name the collection with -c"
    )


def own_values(
    file: Path,
    collections: Sequence[Collection],
    *,
    limit: float = 60.0,
    workers: int | None = None,
    retry: bool = False,
) -> DataFrame:
    """The measure in a file on models of collections, in processes where it can harm no other.

    Of each family the models of its last epoch.

    limit: seconds for one model, with loading it. workers: processes; without it, one a core, and
    one on a GPU. retry: compute again what has no value from an earlier run.

    Values are kept as those of a measure table are, as soon as they are there, by the content of
    the file (not of what it imports), of the model's index row and of its weights: a second run
    computes only what is missing. Before each model the random generators of Python, NumPy and
    PyTorch are seeded with 0.

    Returns the columns of a measure table (collection, family, model_id, measure, value, seconds,
    note), a row per model; the note says why there is no value: the measure raised something,
    returned what is not a finite number, changed network or sample, took too long or died.
    Raises: GengapError if the file cannot be imported or holds no measure.
    """
    source = source_of_file(file)
    versions = [versions_now(collection, {}) for collection in collections]
    done = {
        (place, row["model_id"]): row
        for place, collection in enumerate(collections)
        for row in _kept(collection, source, versions[place], retry)
    }
    models = [(at, i) for at, chosen in enumerate(collections) for i in _models(chosen)]
    missing = [task for task in models if task not in done]
    device = collections[0].device
    count = workers or (cores() if device.type == "cpu" else 1)
    homes = tuple((COLLECTIONS[each.name], str(each.root.resolve())) for each in collections)
    job = Job(str(Path(file).resolve()), homes, str(device), max(1, cores() // count))
    with tqdm(total=len(missing), desc=Path(file).stem, unit="model", disable=not missing) as bar:
        failed = 0
        try:
            for (place, model_id), row in computed(job, missing, limit=limit, workers=count):
                row = {**row, "model_id": model_id, "source": source}
                done[place, model_id] = _keep(collections[place], versions[place], row)
                failed += row["value"] is None
                bar.set_postfix(failed=failed, refresh=False)
                bar.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{bar.n} of {len(missing)} models are done and kept in {results_folder()};"
                " the same command goes on from there"
            ) from None
    rows = ([done[at, i] for i in _models(each)] for at, each in enumerate(collections))
    return pd.concat(map(_table, collections, rows), ignore_index=True)


def own_predictions(file: Path, collection: Collection) -> DataFrame | None:
    """The values of a `.predict` file as rows of one family, in the columns of `own_values`.

    The family is the one whose models are those of the file, by the last part of their ids; None
    where the collection has no such family.

    Raises: GengapError if the file cannot be read, or several families fit.
    """
    predictions = read_predictions(file)
    index = last_epoch(collection.index())
    models = index["model_id"].str.rpartition("/")[2]
    families = models.groupby(index["family"])
    fitting = [family for family, names in families if {*names} == predictions.keys()]
    if len(fitting) > 1:
        raise GengapError(
            f"{file} fits several families of {collection.name} ({', '.join(fitting)}); choose one"
            f" with --query \"family == '{fitting[0]}'\""
        )
    if not fitting:
        return None
    rows = []
    for model_id in index.loc[index["family"] == fitting[0], "model_id"]:
        value, note = finite(predictions[model_id.rpartition("/")[2]])
        row = {"model_id": model_id, "value": value, "seconds": 0.0, "note": note}
        rows.append({**row, "measure": name_of_file(file)})
    return _table(collection, rows)


def source_of_file(file: Path) -> str:
    """16 hex digits of a file's content and name, which may be the measure's."""
    content = Path(file).stem.encode() + b"\0" + Path(file).read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def results_store(collection: Collection) -> Path:
    """Where the values of all files on one collection are kept."""
    return results_folder() / f"{collection.table_name}.sqlite"


def results_folder() -> Path:
    """The folder of all values that `gengap score` has computed; it may be deleted at any time."""
    return folders.repository() / "_build" / "scores"


def _models(collection: Collection) -> Series:
    return last_epoch(collection.index())["model_id"]


def _kept(collection: Collection, source: str, versions: Versions, retry: bool) -> Iterator[dict]:
    """The rows of a file's content in the store whose models are still the same."""
    rows = rows_in(results_store(collection), collection.name)
    rows = rows[(rows["source"] == source) & versions.are_current(rows)]
    yield from rows[rows["value"].notna() | (not retry)].to_dict("records")


def _keep(collection: Collection, versions: Versions, row: dict[str, object]) -> dict[str, object]:
    """The row, when it is in the store."""
    # The family is not kept: it is in the index, which the row is of.
    version = versions.models.loc[row["model_id"]]
    row = {"collection": collection.name, "family": "", **version, **row}
    [kept] = keep(results_store(collection), [row])
    return kept


def _table(collection: Collection, rows: list[dict]) -> DataFrame:
    families = collection.index().set_index("model_id")["family"]
    table = DataFrame(rows).assign(collection=collection.name)
    table["family"] = table["model_id"].map(families)
    table["value"] = table["value"].astype(float)
    return table[COLUMNS]
