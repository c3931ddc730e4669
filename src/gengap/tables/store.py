"""Where computed rows are kept: a working store, and tables that are shipped.

The *store* (sqlite, on this machine only) takes each row as it is computed; a *table* (parquet,
which chapters read and the project ships) is exported from it when a run is done. Values of
measures, those of a user's own measure and the rows of details are rows of the same kind, with the
same identity: see gengap.tables.identity.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from pandas import DataFrame, Series

from gengap import folders
from gengap.collection import Collection
from gengap.errors import GengapError
from gengap.tables import engine
from gengap.tables.identity import VERSIONS, Versions
from gengap.tables.work import within_budget

COLUMNS = ["collection", "family", "model_id", "measure", "value", "seconds", "note"]
STORED = [*COLUMNS, *VERSIONS]
TYPES = {name: float if name in ("value", "seconds") else str for name in STORED}
PAYLOAD = "payload"  # of a detail: the model's rows, as the bytes of a parquet file

# The name says which columns there are: a store of other columns keeps them in another table.
CREATE = (
    f"CREATE TABLE IF NOT EXISTS computed ({', '.join(STORED)}, {PAYLOAD},"
    f" UNIQUE (collection, model_id, measure, {', '.join(VERSIONS)}))"
)
NAMES = [*STORED, PAYLOAD]
SAVE = f"INSERT OR REPLACE INTO computed VALUES ({', '.join(f':{name}' for name in NAMES)})"
# Rows in the order in which they were written. Payloads, gigabytes of them, are read one by one.
FOUND = [*STORED, "rowid"]
FIND = f"SELECT {', '.join(FOUND)} FROM computed WHERE collection = ? AND "
VALUES, OF_MEASURE = f"{PAYLOAD} IS NULL ", f"{PAYLOAD} IS NOT NULL AND measure = ? "
FIND_PAYLOAD = f"SELECT {PAYLOAD} FROM computed WHERE rowid = ?"

PATIENCE = 120  # seconds to wait while another process writes
# A commit is at once safe from a kill, of the process or of its terminal; this often the disk is
# waited for too, which makes the rows safe from a power cut. Waiting after each row
# (synchronous=FULL) costs milliseconds a row, more than many a measure.
SECONDS_TO_DISK = 5


@contextmanager
def opened(store: Path) -> Iterator[Connection]:
    """The store, made if it is not there; outside of transactions each statement is a commit."""
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(store, error) from error
    try:
        with closing(sqlite3.connect(store, timeout=PATIENCE, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # see SECONDS_TO_DISK
            connection.execute(CREATE)
            yield connection
    except (sqlite3.Error, UnicodeError) as error:
        raise _unwritable(store, error) from error


def _unwritable(store: Path, error: Exception) -> GengapError:
    return GengapError(
        f"the store {store} cannot be written ({error}); set GENGAP_DATA to a folder on a local"
        " disk that you may write, or move a damaged store away"
    )


def computed_rows(
    function: Callable[[Collection, Any], Iterable[dict]],
    items: Iterable,
    collection: Collection,
    versions: Versions,
    *,
    budget: float | None = None,
    **where: Any,
) -> Iterator[dict]:
    """Rows for the store: model_id, measure and what else `function` yields, of which version.

    items: one for each model. budget: minutes; see `work.within_budget`. where: workers and
    scheduler, as `engine.results` has them.
    """
    families = collection.index().set_index("model_id")["family"]
    compute = partial(
        engine.results,
        function,
        start=lambda: collection,
        device=collection.device,
        alone=engine.SECONDS_ALONE,
        **where,
    )
    for _, row in within_budget(compute, list(items), collection, budget):
        model_id, measure = row["model_id"], row["measure"]
        names = {"collection": collection.name, "family": families[model_id]}
        yield names | row | versions.of(model_id, measure)


def keep(store: Path, rows: Iterable[dict]) -> Iterator[dict]:
    """Each row, as soon as it is in the store; it has the columns STORED, and perhaps a payload."""
    with opened(store) as connection:
        on_disk_at = time.monotonic()
        for row in rows:
            connection.execute(SAVE, {PAYLOAD: None, **row})
            if time.monotonic() - on_disk_at > SECONDS_TO_DISK:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                on_disk_at = time.monotonic()
            yield row


@contextmanager
def locked(store: Path) -> Iterator[Connection]:
    """The store, while no other process writes.

    Of several processes that export what they find, the last one then sees all rows.
    """
    with opened(store) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


def rows_in(store: Path, collection: str, detail: str | None = None) -> DataFrame:
    """`stored_rows` of a store; none where there is no store."""
    if not store.exists():
        return empty(FOUND)
    with opened(store) as connection:
        return stored_rows(connection, collection, detail)


def stored_rows(connection: Connection, collection: str, detail: str | None = None) -> DataFrame:
    """All values under a collection's name, or what there is of a detail; columns FOUND."""
    chosen = VALUES if detail is None else OF_MEASURE
    names = (collection,) if detail is None else (collection, detail)
    found = connection.execute(FIND + chosen + "ORDER BY rowid", names).fetchall()
    try:
        return DataFrame(found, columns=FOUND).astype(TYPES)
    except (ValueError, TypeError) as error:
        raise sqlite3.DataError(str(error)) from error


def payload_of(connection: Connection, rowid: int) -> Any:
    """The payload of a row that was found: bytes or text, as it was kept."""
    return connection.execute(FIND_PAYLOAD, (rowid,)).fetchone()[0]


def empty(columns: Sequence[str]) -> DataFrame:
    """No rows, of these columns."""
    return DataFrame({name: Series(dtype=TYPES.get(name, object)) for name in columns})


def rows_of_table(file: Path, columns: Sequence[str]) -> DataFrame:
    """Columns of a table; no rows of one that lacks any, as an older one may, or is not there."""
    table = folders.read_table(file) if file.exists() else empty(())
    return table[[*columns]] if {*columns} <= {*table} else empty(columns)


def one_each(rows: DataFrame, versions: Versions) -> DataFrame:
    """One row per (model, measure): the last that is not stale; values before reasons."""
    rows = rows[versions.are_current(rows)]
    rows = rows.iloc[(rows["note"] == "").argsort(kind="stable")]
    return rows.drop_duplicates(["model_id", "measure"], keep="last", ignore_index=True)


def table_file(collection: Collection, detail: str | None = None) -> Path:
    """The table of a collection's measures, or of a detail; see `Collection.table_name`."""
    name = collection.table_name + (f".{detail}" if detail else "")
    return folders.data() / "tables" / f"{name}.parquet"


def default_store(collection: Collection) -> Path:
    """Where a collection's rows are kept, under the same name."""
    return folders.data() / "tables" / f"{collection.table_name}.sqlite"


def write_if_changed(file: Path, content: bytes) -> None:
    """Replace a file by another at once, unless it is the same."""
    if not (file.exists() and file.read_bytes() == content):
        replace(file, lambda path: path.write_bytes(content))


def replace(file: Path, write: Callable[[Path], object]) -> None:
    """Replace a table at once by what `write` makes of a path."""
    try:
        folders.write_atomically(file, write)
    except OSError as error:
        raise GengapError(
            f"the table {file} cannot be written ({error}); what was computed is kept in the store"
            " beside it: make room or set GENGAP_DATA, and run the same command again"
        ) from error
