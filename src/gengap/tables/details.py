"""Details: tables with several rows a model, which chapters make features of.

A model's rows are one row of the store (see gengap.tables.store), computed once and kept as values
of measures are; `data/tables/<collection>.<detail>.parquet` has them all, epoch after epoch, each
in row groups of its own. What is missing is told from the columns that say whose rows they are; of
the others only those columns, and of all only those epochs, are read that are asked for.
"""

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name
from sqlite3 import Connection
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
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
    payload_of,
    replace,
    rows_in,
    stored_rows,
    table_file,
)

IDENTITY = ["model_id", *VERSIONS]  # whose rows they are
EPOCH = "of_epoch"  # a column by which row groups are told apart
AT_ONCE = 2**17  # rows of a table in memory, where it is read in parts

# Name -> function of a model that returns its rows; one of their columns is model_id.
DETAILS = {
    "margins": "gengap.measures.margin_signatures:margin_signatures",
    "spectra": "gengap.measures.spectra:spectra_rows",
}


def detail_table(
    collection: Collection,
    detail: str,
    *,
    columns: Sequence[str] | None = None,
    workers: int | None = 1,
    scheduler: str | None = None,
    budget: float | None = None,
) -> DataFrame:
    """The rows of a collection's models; only what is missing is computed.

    detail: a name of DETAILS. columns: those that are read beside model_id; None for all. workers,
    scheduler, budget: as `measure_table` has them.

    A model that lacks what the detail needs, cannot be read, or on which its function fails, has no
    rows: a warning says why, and it is tried again the next time; how many failed is in the rows'
    `attrs["failed"]`.

    Returns what the detail's function returns, in the order of the collection's index.

    Raises:
        GengapError: for an unknown detail; `OverBudget` where more is missing than the budget
            allows.
    """
    where = {"workers": workers, "scheduler": scheduler, "budget": budget}
    index, reasons = _completed(collection, detail, **where)
    rows = _rows_of(table_file(collection, detail), index, columns)
    if columns is None:
        rows = rows.drop(columns=[*VERSIONS, EPOCH], errors="ignore")
    rows.attrs["failed"] = sum(n for told, n in reasons.items() if told.startswith(FAILED))
    return rows


def detail_parts(
    collection: Collection, detail: str, columns: Sequence[str]
) -> Iterator[DataFrame]:
    """model_id and columns of `detail_table`, of some models after the other, for want of memory.

    A part has all rows of its models; both are in the order of the table.
    """
    index, _ = _completed(collection, detail)
    begun = DataFrame()
    for batch in _batches(table_file(collection, detail), ["model_id", *columns], index):
        rows = pd.concat([begun, batch.to_pandas()], ignore_index=True)
        last = rows["model_id"] == rows["model_id"].iloc[-1]  # the next batch may go on with it
        begun = rows[last]
        yield rows[~last]
    if len(begun):
        yield begun


def _completed(collection: Collection, detail: str, **where: Any) -> tuple[DataFrame, Counter]:
    """The index of models that then have rows in the table, and why others have none."""
    if detail not in DETAILS:
        raise GengapError(f"no detail {detail!r}; there are: {', '.join(DETAILS)}")
    function, store = resolve_name(DETAILS[detail]), default_store(collection)
    versions = versions_now(collection, {detail: source_hash(function)})
    index = collection.index()
    wanted = index["model_id"]
    known = _current(collection, detail, versions, index)["model_id"]
    stored = one_each(rows_in(store, collection.name, detail), versions)["model_id"]
    missing = wanted[~(wanted.isin(known) | wanted.isin(stored))].tolist()
    reasons: Counter[str] = Counter()
    if missing:
        reasons = _compute(function, collection, detail, missing, versions, **where)
    if store.exists():
        known = _export(collection, detail, versions, store)
    return index[wanted.isin(known)], reasons


def _compute(
    function: Callable[[Model], DataFrame],
    collection: Collection,
    detail: str,
    missing: list[str],
    versions: Versions,
    **where: Any,
) -> Counter:
    """Keep the rows of each missing model that has some; warn of the others, and count why."""
    rows = computed_rows(partial(_rows, function, detail), missing, collection, versions, **where)
    reasons: Counter[str] = Counter()
    name = table_file(collection, detail).stem
    with tqdm(rows, total=len(missing), desc=name, unit="model") as found:
        for _ in keep(default_store(collection), _without_reasons(found, reasons)):
            pass
    for reason, count in reasons.items():
        warnings.warn(f"{name}: {count} models have no rows: {reason}", stacklevel=4)
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


def _current(
    collection: Collection, detail: str, versions: Versions, index: DataFrame
) -> DataFrame:
    """Whose rows the table has, of an index, that are not stale: IDENTITY, a row a model."""
    batches = _batches(table_file(collection, detail), IDENTITY, index)
    parts = [batch.to_pandas().drop_duplicates() for batch in batches]
    known = pd.concat([DataFrame(columns=IDENTITY), *parts]).drop_duplicates(ignore_index=True)
    return known[versions.are_current(known.assign(measure=detail))]


def _rows_of(file: Path, index: DataFrame, columns: Sequence[str] | None = None) -> DataFrame:
    """What the table has of the models of an index, in its order."""
    if index.empty:
        return DataFrame(columns=["model_id"])
    chosen = None if columns is None else ["model_id", *columns]
    batches = _batches(file, chosen, index)
    return _in_order(pa.Table.from_batches(batches).to_pandas(), index["model_id"])


def _batches(file: Path, columns: list[str] | None, index: DataFrame) -> Iterator[pa.RecordBatch]:
    """What the table has of the models of an index, some rows at once; no other epoch is read."""
    if not file.exists():
        return
    with folders.reading(file), pq.ParquetFile(file) as table:
        names, groups = table.schema_arrow.names, [*range(table.num_row_groups)]
        if "model_id" not in names:
            raise GengapError(f"{file} has no column model_id; delete it or fetch it again")
        if EPOCH in names:  # not so in tables of earlier versions
            place, wanted = names.index(EPOCH), set(index["epoch"].astype(float).map(str))
            known = [table.metadata.row_group(group).column(place) for group in groups]
            groups = [group for group in groups if known[group].statistics.min in wanted]
        models = pa.array(index["model_id"], table.schema_arrow.field("model_id").type)
        for batch in table.iter_batches(AT_ONCE, row_groups=groups, columns=columns):
            if (found := batch.filter(pc.is_in(batch["model_id"], models))).num_rows:
                yield found


def _export(collection: Collection, detail: str, versions: Versions, store: Path) -> Series:
    """Write the table anew if the store has rows that it has not; whose rows it then has."""
    with locked(store) as connection:
        stored = one_each(stored_rows(connection, collection.name, detail), versions)
        known = _current(collection, detail, versions, collection.whole.index())
        if len(stored.merge(known, on=IDENTITY)) == len(stored):
            return known["model_id"]
        others = known.loc[~known["model_id"].isin(stored["model_id"]), "model_id"]
        parts = _by_epoch(connection, collection, table_file(collection, detail), stored, others)
        replace(table_file(collection, detail), partial(_write, parts))
    return pd.concat([others, stored["model_id"]])


def _by_epoch(
    connection: Connection, collection: Collection, file: Path, stored: DataFrame, others: Series
) -> Iterator[DataFrame]:
    """What the store has, and the table of other models, one epoch in memory at a time."""
    for epoch, index in collection.whole.index().groupby("epoch", dropna=False):
        kept = index[index["model_id"].isin(others)]
        found = [] if kept.empty else [_rows_of(file, kept)]
        for row in stored[stored["model_id"].isin(index["model_id"])].to_dict("records"):
            payload = io.BytesIO(payload_of(connection, row["rowid"]))
            rows = folders.read_table(payload, f"of {row['measure']} in the store")
            found.append(rows.assign(**{name: row[name] for name in VERSIONS}))
        if found:
            rows = pd.concat(found, ignore_index=True).assign(**{EPOCH: str(float(epoch))})
            yield _in_order(rows, index["model_id"])


def _write(parts: Iterable[DataFrame], file: Path) -> None:
    tables = (pa.Table.from_pandas(rows, preserve_index=False) for rows in parts)
    first = next(tables)  # there is one: a table is written for the sake of its rows
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(writer.schema))


def _in_order(rows: DataFrame, models: Series) -> DataFrame:
    order = pd.Index(models).get_indexer(rows["model_id"]).argsort(kind="stable")
    return rows.iloc[order].reset_index(drop=True)


def _parquet(rows: DataFrame) -> bytes:
    return rows.to_parquet(index=False, compression="zstd")
