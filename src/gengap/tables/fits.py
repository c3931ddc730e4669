"""Results of long tasks that are of no single model, such as a fit on many: computed once and kept.

A task is known by a key, in which its caller puts all that its result depends on but code. Its rows
are one row of a store (see gengap.tables.store), as those of a detail are, exported to
`data/tables/<table>.parquet`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from sqlite3 import Connection

import pandas as pd
from pandas import DataFrame
from tqdm import tqdm

from gengap import folders
from gengap.tables import engine
from gengap.tables.store import (
    PAYLOAD,
    STORED,
    keep,
    locked,
    opened,
    payload_of,
    rows_of_table,
    stored_rows,
    write_if_changed,
)

KEPT = ["measure", "model_id", "source", PAYLOAD]  # what made it, key, code, rows as JSON
Task = Callable[[], list[dict]]


def kept_rows(*arguments, total: int, unit: str, **options) -> list[dict]:
    """The rows of all tasks of `kept_results`, which takes the other arguments, in their order.

    total, unit: how many tasks there are, and of what, for the bar.
    """
    rows = dict(tqdm(kept_results(*arguments, **options), total=total, unit=unit))
    return [row for place in sorted(rows) for row in rows[place]]


def kept_results(
    table: str | None,
    made_by: str,
    source: str,
    tasks: Iterable[tuple[str, Task]],
    *,
    workers: int | None = None,
    store: Path | None = None,
) -> Iterator[tuple[int, list[dict]]]:
    """Each task's place with its rows, of those that are kept and of those that are computed now.

    table: of data/tables; without it nothing is looked up or kept. made_by, source: the name of the
    function whose tasks they are, and the hash of its code: results of other code are computed
    again. tasks: key and task, asked for one after the other, since one may be large. workers: as
    for `engine.results`. store: where results are kept that the table lacks, which is then left as
    it is; by default they are added to the table.
    """
    kept_in = store or _store(str(table))
    known = _known(table, kept_in, made_by, source) if table else {}
    kept: list[tuple[int, str]] = []
    asked: list[tuple[int, str]] = []

    def missing() -> Iterator[Task]:
        for place, (key, task) in enumerate(tasks):
            if key in known:
                kept.append((place, known[key]))
            else:
                asked.append((place, key))
                yield task

    alone = engine.SECONDS_ALONE
    computed = engine.results(_called, missing(), workers=workers, alone=alone)
    first = next(computed, None)
    if first is not None:
        names = {"collection": table, "measure": made_by, "source": source}
        rows: Iterator[dict] = (
            names | {"model_id": asked[number][1], PAYLOAD: text, "place": asked[number][0]}
            for number, text in chain([first], computed)
        )
        for row in keep(kept_in, map(_whole, rows)) if table else rows:
            yield row["place"], json.loads(row[PAYLOAD])
    yield from ((place, json.loads(text)) for place, text in kept)
    if table and not store and kept_in.exists():
        _export(table, made_by, source)


def _called(_: None, task: Task) -> tuple[str]:
    return (json.dumps(task(), default=lambda number: number.item()),)


def _whole(row: dict) -> dict:
    """With the columns of the store that are of models alone."""
    return dict.fromkeys(STORED, "") | {"value": None, "seconds": None} | row


def _file(table: str) -> Path:
    return folders.data() / "tables" / f"{table}.parquet"


def _store(table: str) -> Path:
    return _file(table).with_suffix(".sqlite")


def _known(table: str, store: Path, made_by: str, source: str) -> dict[str, str]:
    """Key -> rows as JSON, of results of this code."""
    parts = [rows_of_table(_file(table), KEPT)]
    if store.exists():
        with opened(store) as connection:
            parts.append(_stored(connection, table, made_by, source))
    rows = pd.concat(parts)
    rows = rows[(rows["measure"] == made_by) & (rows["source"] == source)]
    return dict(zip(rows["model_id"], rows[PAYLOAD], strict=True))


def _stored(connection: Connection, table: str, made_by: str, source: str) -> DataFrame:
    rows = stored_rows(connection, table, made_by)
    rows = rows[rows["source"] == source].copy()
    rows[PAYLOAD] = [payload_of(connection, rowid) for rowid in rows["rowid"]]
    return rows[KEPT]


def _export(table: str, made_by: str, source: str) -> None:
    """Add a function's results in the store to the table, in place of those of its other code."""
    with locked(_store(table)) as connection:
        rows = _stored(connection, table, made_by, source)
        shipped = rows_of_table(_file(table), KEPT)
        others = (shipped["measure"] != made_by) | (shipped["source"] == source)
        rows = pd.concat([shipped[others], rows]).drop_duplicates(KEPT[:2], keep="last")
        rows = rows.sort_values(KEPT[:2], ignore_index=True)
        write_if_changed(_file(table), rows.to_parquet(index=False, compression="zstd"))
