"""The measure table: a row per (model, measure), computed once and kept.

Two files a table, side by side: the *store* (sqlite, on this machine only), where each value is
committed as it is computed, and the *table* (parquet, which chapters read and the project ships),
exported from the store when a run is done. A value found in either is not computed again.

A value belongs to one model and one version of a measure. It is stale, and computed again, when
the model's index row has changed (another root, a replica trained anew) or the measure's own code
has. A change in what a measure calls is not noticed: delete both files then.
"""

import ast
import hashlib
import inspect
import io
import math
import sqlite3
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cache, partial
from pathlib import Path
from sqlite3 import Connection

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas import DataFrame, Series
from tqdm import tqdm

from gengap import folders
from gengap.collection import Collection
from gengap.errors import GengapError, NotAvailable
from gengap.measures import MEASURES, Measure, chosen_measures
from gengap.model import Model

COLUMNS = ["collection", "family", "model_id", "measure", "value", "seconds", "note"]
# `record` and `source` say of which index row and of which code a value is (16 hex digits each).
STORED = [*COLUMNS, "record", "source"]
TYPES = {name: float if name in ("value", "seconds") else str for name in STORED}
SCHEMA = pa.schema([(n, pa.float64() if t is float else pa.string()) for n, t in TYPES.items()])

CREATE = (
    f"CREATE TABLE IF NOT EXISTS measured ({', '.join(STORED)},"
    " PRIMARY KEY (collection, model_id, measure, record)) WITHOUT ROWID"
)
SAVE = f"INSERT OR REPLACE INTO measured VALUES ({', '.join(f':{name}' for name in STORED)})"

PATIENCE = 120  # seconds to wait while another process writes
# A commit is at once safe from a kill, of the process or of its terminal; this often the disk is
# waited for too, which makes the rows safe from a power cut. Waiting after each row
# (synchronous=FULL) costs milliseconds a row, more than many a measure.
SECONDS_TO_DISK = 5


def measure_table(
    collection: Collection,
    measures: str | Iterable[str] | None = None,
    *,
    store: str | Path | None = None,
    retry: bool = False,
) -> DataFrame:
    """Measures of a collection's models; only what is missing is computed.

    measures: names of registered measures; without it, all.
    store: the sqlite file that values are kept in, with `<collection>.parquet` beside it; without
    it, `<data>/tables/<collection>.sqlite`. It must lie on a local disk. Several processes may
    write it at once; let them differ in `collection.select(...)`.
    retry: compute again what was not available the last time (no images, say).

    Returns a row per (model, measure), sorted by family, model and measure, with columns
    collection, family, model_id, measure, value, seconds (spent; loading, and what the measures
    of a model share, is counted to the first) and note (why a value is NaN, else empty).
    Raises: GengapError if a measure fails on a model, naming both; what is computed is kept.
    """
    wanted = chosen_measures(measures)
    store = Path(store or default_store(collection)).expanduser()
    index = collection.index()
    if index.empty:
        raise GengapError(f"the selection of {collection.name} holds no model; widen its query")
    pending = _pending(index, wanted, _finished(collection, store), retry)
    if pending:
        _compute(collection, pending, store)
    rows = _export(collection, store) if store.exists() else _finished(collection, store)
    asked = rows["model_id"].isin(index["model_id"]) & rows["measure"].isin(wanted)
    return rows.loc[asked, COLUMNS].reset_index(drop=True)


def default_store(collection: Collection) -> Path:
    """Where a collection's values are kept: one file for each root."""
    return folders.data() / "tables" / f"{collection.table_name}.sqlite"


def _pending(
    index: DataFrame, wanted: dict[str, Measure], rows: DataFrame, retry: bool
) -> dict[str, list[str]]:
    """Model id -> names of measures still to be computed."""
    done = rows[rows["note"] == ""] if retry else rows
    done = set(zip(done["model_id"], done["measure"], strict=True))
    names = {i: [name for name in wanted if (i, name) not in done] for i in index["model_id"]}
    return {model_id: missing for model_id, missing in names.items() if missing}


def _compute(collection: Collection, pending: dict[str, list[str]], store: Path) -> None:
    total = sum(map(len, pending.values()))
    with (
        _opened(store) as connection,
        tqdm(total=total, desc=collection.name, unit="value") as progress,
    ):
        on_disk_at = time.monotonic()
        try:
            for row in _measured(collection, pending):
                connection.execute(SAVE, row)
                progress.update()
                if time.monotonic() - on_disk_at > SECONDS_TO_DISK:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    on_disk_at = time.monotonic()
        except KeyboardInterrupt:
            kept = connection.total_changes
            raise KeyboardInterrupt(
                f"{kept} of {total} values are computed and kept in {store}; the same command"
                " goes on from there"
            ) from None


def _measured(collection: Collection, pending: dict[str, list[str]]) -> Iterator[dict]:
    """The rows of the pending values, one after the other."""
    index = collection.index()
    families, records = index.set_index("model_id")["family"], record_hashes(index)
    sources = {name: source_hash(MEASURES[name]) for name in set().union(*pending.values())}
    for model_id, names in pending.items():
        load = cache(partial(collection.load, model_id))
        for name in names:
            yield {
                "collection": collection.name,
                "family": families[model_id],
                "model_id": model_id,
                "measure": name,
                **_value(load, name, model_id),
                "record": records[model_id],
                "source": sources[name],
            }


def _value(load: Callable[[], Model], name: str, model_id: str) -> dict:
    start = time.perf_counter()
    try:
        value = float(MEASURES[name](load()))
        note = "the measure returned NaN" if math.isnan(value) else ""
    except NotAvailable as missing:
        value, note = math.nan, str(missing)
    except GengapError:
        raise
    except Exception as error:  # a measure is anybody's code: say which, and on what
        raise GengapError(
            f"measure {name!r} failed on model {model_id!r}"
            f" ({type(error).__name__}: {error}); values finished before are kept"
        ) from error
    return {"value": value, "seconds": time.perf_counter() - start, "note": note}


def record_hashes(index: DataFrame) -> Series:
    """16 hex digits of each index row, by model id: what a model is and how it performed.

    Columns that a family leaves empty do not count, so that another family beside it changes
    nothing.
    """
    # In float32: machines may differ in the last bit of a float64 read from decimal digits.
    rounded = index.astype(dict.fromkeys(index.select_dtypes("float64"), "float32"))
    parts = [rows.dropna(axis=1, how="all") for _, rows in rounded.groupby("family", sort=False)]
    hashes = pd.concat([pd.util.hash_pandas_object(rows, index=False) for rows in parts])
    return Series([f"{value:016x}" for value in hashes.sort_index()], index=index["model_id"])


def source_hash(function: Measure) -> str:
    """16 hex digits of a measure's code; comments, layout, docstring and decorators do not count.

    Empty where Python does not know the source (typed at a prompt): such a value is never stale.
    """
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return ""
    definition.decorator_list = []
    if ast.get_docstring(definition) is not None:
        definition.body = definition.body[1:]
    return hashlib.sha256(ast.unparse(definition).encode()).hexdigest()[:16]


@contextmanager
def _opened(store: Path) -> Iterator[Connection]:
    """The store, made if it is not there; outside of transactions each statement is a commit."""
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(store, timeout=PATIENCE, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # see SECONDS_TO_DISK
            connection.execute(CREATE)
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise GengapError(
            f"the store {store} cannot be written ({error}); set GENGAP_DATA to a folder on a"
            " local disk that you may write, or move a damaged store away"
        ) from error


def _finished(collection: Collection, store: Path) -> DataFrame:
    if not store.exists():
        return _merged(collection, _read_parquet(table_of(collection, store)))
    with _opened(store) as connection:
        return _all_rows(collection, store, connection)


def table_of(collection: Collection, store: Path) -> Path:
    """The parquet file beside the store."""
    return store.with_name(f"{collection.table_name}.parquet")


def _all_rows(collection: Collection, store: Path, connection: Connection) -> DataFrame:
    found = connection.execute("SELECT * FROM measured WHERE collection = ?", (collection.name,))
    stored = DataFrame(found.fetchall(), columns=STORED).astype(TYPES)
    return _merged(collection, pd.concat([_read_parquet(table_of(collection, store)), stored]))


def _read_parquet(path: Path) -> DataFrame:
    if not path.exists():
        return DataFrame({name: Series(dtype=TYPES[name]) for name in STORED})
    # Rows of a table that lacks a column, as an older one may, are not known, and thus stale.
    return folders.read_table(path).reindex(columns=STORED)


def _merged(collection: Collection, rows: DataFrame) -> DataFrame:
    """One sorted row per (model, measure): the last that is not stale; values before reasons."""
    rows = rows[~_is_stale(rows, collection)]
    rows = rows.iloc[(rows["note"] == "").argsort(kind="stable")]
    rows = rows.drop_duplicates(["model_id", "measure"], keep="last")
    return rows.sort_values(["family", "model_id", "measure"], ignore_index=True)


def _is_stale(rows: DataFrame, collection: Collection) -> Series:
    records = record_hashes(collection.whole.index())
    sources = rows["measure"].map({name: source_hash(MEASURES[name]) for name in MEASURES})
    # The code of a measure that is not registered now is not known: its values stay.
    changed = sources.notna() & (sources != "") & (rows["source"] != sources)
    return changed | (rows["record"] != rows["model_id"].map(records))


def _export(collection: Collection, store: Path) -> DataFrame:
    """Write the parquet file of all finished rows if it changes, and return the rows."""
    table = table_of(collection, store)
    with _opened(store) as connection:
        # With the store locked, of several processes that export the last one sees all rows.
        connection.execute("BEGIN IMMEDIATE")
        rows = _all_rows(collection, store, connection)
        arrow = pa.Table.from_pandas(rows, SCHEMA, preserve_index=False)
        buffer = io.BytesIO()
        pq.write_table(arrow.replace_schema_metadata(), buffer, compression="zstd")
        if not table.exists() or table.read_bytes() != buffer.getvalue():
            folders.write_atomically(table, lambda path: path.write_bytes(buffer.getvalue()))
        connection.execute("COMMIT")
    return rows
