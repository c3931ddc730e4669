"""The measure table: a row per (model, measure), computed once and kept.

A value found in the store or in the table (see gengap.tables.store) is not computed again, unless
the model's index row, its weights or the code of the measure have changed since.
"""

import io
import math
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas import DataFrame
from tqdm import tqdm

from gengap.collection import Collection
from gengap.errors import GengapError
from gengap.measures import MEASURES, Measure, chosen_measures
from gengap.tables.guard import Answer, Guard, number
from gengap.tables.identity import Versions, source_hash, versions_now
from gengap.tables.store import (
    COLUMNS,
    STORED,
    TYPES,
    computed_rows,
    default_store,
    keep,
    locked,
    one_each,
    rows_in,
    rows_of_table,
    stored_rows,
    write_if_changed,
)
from gengap.tables.work import OverBudget

SCHEMA = pa.schema([(n, pa.float64() if t is float else pa.string()) for n, t in TYPES.items()])


def measure_table(
    collection: Collection,
    measures: str | Iterable[str] | None = None,
    *,
    store: str | Path | None = None,
    retry: bool = False,
    workers: int | None = 1,
    scheduler: str | None = None,
    budget: float | None = None,
) -> DataFrame:
    """Measures of a collection's models; only what is missing is computed.

    measures: names of registered measures; without it, all.
    store: the sqlite file that values are kept in, with `<collection>.parquet` beside it; without
    it, `<data>/tables/<collection>.sqlite`. It must lie on a local disk. Several processes may
    write it at once; let them differ in `collection.select(...)`.
    retry: compute again what was not available the last time (no images, say).
    workers: processes; None is one a core. A script that takes more than one needs the guard
    `if __name__ == "__main__":`. scheduler: the address of a Dask cluster that takes their place.
    On a CPU values do not depend on either. budget: minutes of computation, by a pilot of three
    models, above which no more than these three are computed; None is without limit, but for a
    kernel of `gengap run`.

    Returns a row per (model, measure), sorted by family, model and measure, with columns
    collection, family, model_id, measure, value, seconds (spent; loading, and what the measures
    of a model share, is counted to the first) and note (why a value is NaN, else empty).

    A measure that raises something or changes the model, and a model that cannot be read, are rows
    whose note begins with `failed:`, and say what went wrong.

    Raises:
        GengapError: for an unknown measure or an empty selection; `OverBudget` where more is
            missing than the budget allows.
    """
    wanted = chosen_measures(measures)
    store = Path(store or default_store(collection)).expanduser()
    index = collection.index()
    if retry:
        collection.forget_samples()  # images may have come since
    if index.empty:
        raise GengapError(f"the selection of {collection.name} holds no model; widen its query")
    versions = versions_now(collection, {name: source_hash(MEASURES[name]) for name in MEASURES})
    rows = finished(collection, store, versions)
    if pending := pending_values(index, wanted, rows, retry):
        where = {"workers": workers, "scheduler": scheduler, "budget": budget}
        try:
            _compute(collection, pending, store, versions, **where)
        except OverBudget:
            _export(collection, store, versions)
            raise
    rows = _export(collection, store, versions) if store.exists() else rows
    asked = rows["model_id"].isin(index["model_id"]) & rows["measure"].isin(wanted)
    return rows.loc[asked, COLUMNS].reset_index(drop=True)


def table_of(collection: Collection, store: Path) -> Path:
    """The parquet file beside the store."""
    return store.with_name(f"{collection.table_name}.parquet")


def finished(collection: Collection, store: Path, versions: Versions) -> DataFrame:
    """The rows of table and store that are not stale, one for each model and measure."""
    return _merged(collection, store, versions, rows_in(store, collection.name))


def pending_values(
    index: DataFrame, wanted: Iterable[str], rows: DataFrame, retry: bool
) -> dict[str, list[str]]:
    """Model id -> names of measures still to be computed."""
    done = rows[rows["note"] == ""] if retry else rows
    models, names = pd.Index(index["model_id"]), pd.Index(list(wanted))
    at, which = models.get_indexer(done["model_id"]), names.get_indexer(done["measure"])
    asked = (at >= 0) & (which >= 0)
    known = np.zeros((len(models), len(names)), bool)
    known[at[asked], which[asked]] = True
    return {
        models[place]: names[~known[place]].tolist() for place in np.flatnonzero(~known.all(axis=1))
    }


def _compute(
    collection: Collection,
    pending: dict[str, list[str]],
    store: Path,
    versions: Versions,
    **where: Any,
) -> None:
    total, kept = sum(map(len, pending.values())), 0
    measures = {name: MEASURES[name] for name in set().union(*pending.values())}
    for function in measures.values():
        _send_code_of(function)
    rows = computed_rows(partial(_rows, measures), pending.items(), collection, versions, **where)
    with tqdm(total=total, desc=collection.name, unit="value") as progress:
        try:
            for _ in keep(store, rows):
                kept += 1
                progress.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{kept} of {total} values are computed and kept in {store}; the same command"
                " goes on from there"
            ) from None


def _rows(
    measures: dict[str, Measure], collection: Collection, pending: tuple[str, list[str]]
) -> Iterator[dict]:
    """model_id, measure, value, seconds and note of a model's pending values, one by one."""
    model_id, names = pending
    guard = Guard(collection, model_id)
    for name in names:
        start, function = time.perf_counter(), measures[name]
        answer = guard.answer(function, number, file_of(function))
        if not answer.note and math.isnan(answer.value):
            answer = Answer(None, "the measure returned NaN")
        value = math.nan if answer.note else answer.value
        row = {"model_id": model_id, "measure": name, "value": value, "note": answer.reason}
        yield row | {"seconds": time.perf_counter() - start}


def file_of(function: Measure) -> str:
    """The file of a function's code; empty where there is none."""
    return getattr(getattr(function, "__code__", None), "co_filename", "")


def _send_code_of(function: Measure) -> None:
    """Let workers have the code of a measure whose module they cannot import, a user's file."""
    module = sys.modules.get(function.__module__)
    if module is None or module.__name__ == "__main__":  # cloudpickle sends what is in main
        return
    # importlib.util.find_spec would say of what is imported already that it can be.
    if PathFinder.find_spec(module.__name__.partition(".")[0]) is None:
        cloudpickle.register_pickle_by_value(module)


def _merged(
    collection: Collection, store: Path, versions: Versions, stored: DataFrame
) -> DataFrame:
    # Rows of a table that lacks a column are not known, and thus stale.
    rows = pd.concat([rows_of_table(table_of(collection, store), STORED), stored[STORED]])
    return one_each(rows.reset_index(drop=True), versions).sort_values(
        ["family", "model_id", "measure"], ignore_index=True
    )


def _export(collection: Collection, store: Path, versions: Versions) -> DataFrame:
    """Write the parquet file of all finished rows if it changes, and return the rows."""
    with locked(store) as connection:
        stored = stored_rows(connection, collection.name)
        rows = _merged(collection, store, versions, stored)
        arrow = pa.Table.from_pandas(rows, SCHEMA, preserve_index=False)
        buffer = io.BytesIO()
        pq.write_table(arrow.replace_schema_metadata(), buffer, compression="zstd")
        write_if_changed(table_of(collection, store), buffer.getvalue())
    return rows
