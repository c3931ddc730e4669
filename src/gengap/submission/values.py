"""A measure of one's own: found in its file, computed on a collection, kept.

Accepted are a Python file with one function under `@gengap.measure`, or with one named
`complexity(model, dataset)` as the competition Predicting Generalization in Deep Learning had it,
and a `.predict` file with the values themselves. Nothing is ever written to data/tables.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pandas import DataFrame, Series
from tqdm import tqdm

from gengap import folders
from gengap.collection import COLLECTIONS, Collection
from gengap.errors import GengapError
from gengap.evaluation.judgement import last_epoch
from gengap.formats.predictions import read_predictions
from gengap.submission.measure_file import finite, name_of_file
from gengap.submission.process import Job, computed
from gengap.tables.values import COLUMNS, record_hashes


def values_of_file(
    file: Path,
    collections: Sequence[Collection],
    *,
    limit: float,
    workers: int | None,
    retry: bool,
) -> DataFrame:
    """The rows of `own_values`, or of `own_predictions` if the file's name ends in .predict.

    Raises: GengapError as they do, and if predictions fit no family or several collections.
    """
    if Path(file).suffix != ".predict":
        return own_values(file, collections, limit=limit, workers=workers, retry=retry)
    found = [own_predictions(file, collection) for collection in collections]
    fitting = [rows for rows in found if rows is not None]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(collection.name for collection in collections)
    raise GengapError(
        f"the models in {file} are those of {len(fitting)} families of {names}; give a value for each"
        " model of one family, by the last part of its model_id, and name the collection with -c"
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

    Values are kept by the content of the file (not of what it imports) and of the model's index
    row, as soon as they are there: a second run computes only what is missing. Before each model
    the random generators of Python, NumPy and PyTorch are seeded with 0.

    Returns the columns of a measure table (collection, family, model_id, measure, value, seconds,
    note), a row per model; the note says why there is no value: the measure raised something,
    returned what is not a finite number, changed network or sample, took too long or died.
    Raises: GengapError if the file cannot be imported or holds no measure.
    """
    stores = [results_file(file, collection) for collection in collections]
    records = [record_hashes(collection.whole.index()) for collection in collections]
    done = {}
    for place, store in enumerate(stores):
        kept = _kept(store, records[place], retry)
        done |= {(place, model_id): row for model_id, row in kept.items()}
    models = [(at, i) for at, chosen in enumerate(collections) for i in _models(chosen)]
    missing = [task for task in models if task not in done]
    device = collections[0].device
    count = workers or (_cores() if device.type == "cpu" else 1)
    homes = tuple((COLLECTIONS[each.name], str(each.root.resolve())) for each in collections)
    job = Job(str(Path(file).resolve()), homes, str(device), max(1, _cores() // count))
    with tqdm(
        total=len(missing), desc=Path(file).stem, unit="model", disable=not missing
    ) as progress:
        failed = 0
        try:
            for (place, model_id), row in computed(job, missing, limit=limit, workers=count):
                row |= {"model_id": model_id, "record": records[place][model_id]}
                done[place, model_id] = row
                _keep(stores[place], row)
                failed += row["value"] is None
                progress.set_postfix(failed=failed, refresh=False)
                progress.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{progress.n} of {len(missing)} models are done and kept in {stores[0].parent}; the"
                " same command goes on from there"
            ) from None
    return pd.concat(
        [
            _table(collection, [done[place, i] for i in _models(collection)])
            for place, collection in enumerate(collections)
        ],
        ignore_index=True,
    )


def own_predictions(file: Path, collection: Collection) -> DataFrame | None:
    """The values of a `.predict` file as rows of one family, in the columns of `own_values`.

    The family is the one whose models are those of the file, by the last part of their ids; None
    where the collection has no such family.

    Raises: GengapError if the file cannot be read, or several families fit.
    """
    predictions = read_predictions(file)
    index = last_epoch(collection.index())
    models = index["model_id"].str.rpartition("/")[2]
    fitting = [
        family
        for family, names in models.groupby(index["family"])
        if set(names) == set(predictions)
    ]
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


def results_file(file: Path, collection: Collection) -> Path:
    """Where the values of one file's content on one collection are kept, a JSON row a line."""
    content = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    return results_folder() / f"{Path(file).stem}-{content}" / f"{collection.table_name}.jsonl"


def results_folder() -> Path:
    """The folder of all values that `gengap score` has computed; it may be deleted at any time."""
    return folders.repository() / "_build" / "scores"


def _models(collection: Collection) -> Series:
    return last_epoch(collection.index())["model_id"]


def _kept(store: Path, records: Series, retry: bool) -> dict[str, dict]:
    """Model id -> its last row in the store, if the model is still the same."""
    rows = {}
    for line in store.read_text().splitlines() if store.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # a line that a kill cut short
            continue
        if records.get(row["model_id"]) == row["record"]:
            rows[row["model_id"]] = row
    return {i: row for i, row in rows.items() if not (retry and row["value"] is None)}


def _keep(store: Path, row: dict[str, object]) -> None:
    # A line begins with its end: after a kill the rest of a cut line stands alone.
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.open("a") as file:
        file.write("\n" + json.dumps(row))


def _table(collection: Collection, rows: list[dict]) -> DataFrame:
    families = collection.index().set_index("model_id")["family"]
    table = DataFrame(rows).assign(collection=collection.name)
    table["family"] = table["model_id"].map(families)
    table["value"] = table["value"].astype(float)
    return table[COLUMNS]


def _cores() -> int:
    # Those that this process may use: a container or a batch system may have lent fewer than are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
