"""Details: tables with several rows a model, which chapters make features of.

A model's rows are one row of the store (see gengap.tables.store), computed once and kept as values
of measures are; `data/tables/<collection>.<detail>.parquet` has them all.
"""

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import pandas as pd
from pandas import DataFrame, Series
from tqdm import tqdm

from gengap import folders
from gengap.collection import Collection
from gengap.errors import GengapError
from gengap.model import Model
from gengap.tables.guard import FAILED, Guard
from gengap.tables.identity import VERSIONS, Versions, source_hash, versions_now
from gengap.tables.store import (
    PAYLOAD,
    computed_rows,
    default_store,
    keep,
    locked,
    one_each,
    rows_in,
    table_file,
    write_if_changed,
)

# Name -> function of a model that returns its rows; one of their columns is model_id.
DETAILS = {
    "margins": "gengap.measures.margin_signatures:margin_signatures",
    "spectra": "gengap.measures.spectra:spectra_rows",
}


def detail_table(
    collection: Collection,
    detail: str,
    *,
    workers: int | None = 1,
    scheduler: str | None = None,
    budget: float | None = None,
) -> DataFrame:
    """The rows of a collection's models; only what is missing is computed.

    detail: a name of DETAILS. A model that lacks what the detail needs, cannot be read, or on which
    its function fails, has no rows: a warning says why, and it is tried again the next time; how
    many failed is in the rows' `attrs["failed"]`. workers, scheduler, budget: as `measure_table`
    has them.

    Returns what the detail's function returns, in the order of the collection's index.

    Raises:
        GengapError: for an unknown detail; `OverBudget` where more is missing than the budget
            allows.
    """
    if detail not in DETAILS:
        raise GengapError(f"no detail {detail!r}; there are: {', '.join(DETAILS)}")
    function, store = resolve_name(DETAILS[detail]), default_store(collection)
    versions = versions_now(collection, {detail: source_hash(function)})
    wanted = collection.index()["model_id"]
    tables = _kept(collection, detail, versions, rows_in(store, collection.name))
    reasons = Counter()
    if missing := [model_id for model_id in wanted if model_id not in tables]:
        where = {"workers": workers, "scheduler": scheduler, "budget": budget}
        reasons = _compute(function, collection, detail, missing, versions, **where)
    if store.exists():
        tables = _export(collection, detail, versions, store)
    chosen = [tables[model_id] for model_id in wanted if model_id in tables]
    rows = pd.concat(chosen, ignore_index=True) if chosen else DataFrame(columns=["model_id"])
    rows = rows.drop(columns=VERSIONS, errors="ignore")
    rows.attrs["failed"] = sum(n for told, n in reasons.items() if told.startswith(FAILED))
    return rows


def _compute(
    function: Callable[[Model], DataFrame],
    collection: Collection,
    detail: str,
    missing: list[str],
    versions: Versions,
    **where: object,
) -> Counter:
    """Keep the rows of each missing model that has some; warn of the others, and count why."""
    rows = computed_rows(partial(_rows, function, detail), missing, collection, versions, **where)
    reasons = Counter()
    name = table_file(collection, detail).stem
    with tqdm(rows, total=len(missing), desc=name, unit="model") as found:
        for _ in keep(default_store(collection), _without_reasons(found, reasons)):
            pass
    for reason, count in reasons.items():
        warnings.warn(f"{name}: {count} models have no rows: {reason}", stacklevel=3)
    return reasons


def _rows(
    function: Callable[[Model], DataFrame], detail: str, collection: Collection, model_id: str
) -> Iterator[dict]:
    """The row that holds a model's rows as a parquet file; the note says why there are none."""
    row = {"model_id": model_id, "measure": detail, "value": None, "seconds": None}
    answer = Guard(collection, model_id).answer(function, _parquet, function.__code__.co_filename)
    kept = {} if answer.note else {PAYLOAD: answer.value}
    yield row | {"note": answer.reason} | kept


def _without_reasons(found: Iterable[dict], reasons: Counter) -> Iterator[dict]:
    """Those that have rows; counts the reasons of the others."""
    for row in found:
        if row["note"]:
            reasons[row["note"]] += 1
        else:
            yield row


def _kept(
    collection: Collection, detail: str, versions: Versions, stored: DataFrame
) -> dict[str, DataFrame]:
    """Model id -> its rows with their versions, of all that are not stale; the stored ones win."""
    file, tables = table_file(collection, detail), {}
    if file.exists():
        shipped = folders.read_table(file)
        if "model_id" not in shipped:
            raise GengapError(f"{file} has no column model_id; delete it or fetch it again")
        known = shipped.reindex(columns=["model_id", *VERSIONS]).assign(measure=detail)
        fresh = shipped[versions.are_current(known)]
        tables = dict(list(fresh.groupby("model_id", sort=False)))
    for row in one_each(_of_detail(stored, detail), versions).to_dict("records"):
        rows = folders.read_table(io.BytesIO(row[PAYLOAD]), f"of {detail} in the store")
        tables[row["model_id"]] = rows.assign(**{name: row[name] for name in VERSIONS})
    order = Series(range(len(versions.models)), index=versions.models.index)
    return dict(sorted(tables.items(), key=lambda item: order[item[0]]))


def _of_detail(stored: DataFrame, detail: str) -> DataFrame:
    chosen = (stored["measure"] == detail) & stored[PAYLOAD].notna()
    return stored[chosen].reset_index(drop=True)


def _export(
    collection: Collection, detail: str, versions: Versions, store: Path
) -> dict[str, DataFrame]:
    """Write the table if the store changes it, and return its rows by model id."""
    with locked(store, collection.name) as stored:
        tables = _kept(collection, detail, versions, stored)
        if len(_of_detail(stored, detail)) and tables:
            everything = pd.concat(tables.values(), ignore_index=True)
            write_if_changed(table_file(collection, detail), _parquet(everything))
    return tables


def _parquet(rows: DataFrame) -> bytes:
    return rows.to_parquet(index=False, compression="zstd")
