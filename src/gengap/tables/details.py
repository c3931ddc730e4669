"""Details: tables with several rows a model, which chapters make features of.

As with measures a row is computed once and kept: `data/tables/<collection>.<detail>.parquet`, and
until all models are done a file for each of them beside it, so that a killed run loses nothing.
Rows are stale, and computed again, when the model's index row or the detail's own code has changed.
"""

import hashlib
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from pkgutil import resolve_name

import pandas as pd
from pandas import DataFrame, Series
from tqdm import tqdm

from gengap import folders
from gengap.collection import Collection
from gengap.errors import GengapError, NotAvailable
from gengap.model import Model
from gengap.tables.values import record_hashes, source_hash

# Name -> function of a model that returns its rows; one of their columns is model_id.
DETAILS = {
    "margins": "gengap.studies.demogen:margin_signatures",
    "spectra": "gengap.measures.spectra:spectra_rows",
}
KEYS = ["record", "source"]  # of which index row and of which code rows are


def detail_table(collection: Collection, detail: str) -> DataFrame:
    """The rows of a collection's models; only what is missing is computed.

    detail: a name of DETAILS. A model that lacks what the detail needs has no rows: a warning says
    why, and it is tried again the next time.

    Returns what the detail's function returns, in the order of the collection's index.
    Raises: GengapError for an unknown detail, and if it fails on a model; what is computed is kept.
    """
    if detail not in DETAILS:
        raise GengapError(f"no detail {detail!r}; there are: {', '.join(DETAILS)}")
    function = resolve_name(DETAILS[detail])
    file = table_file(collection, detail)
    versions = DataFrame({"record": record_hashes(collection.whole.index())})
    versions["source"] = source_hash(function)
    wanted = collection.index()["model_id"]
    rows = _kept(file, versions)
    missing = wanted[~wanted.isin(rows["model_id"])]
    if len(missing):
        _compute(function, collection, missing, file, versions)
        rows = _kept(file, versions)
        if len(rows):
            _write(rows, file)
        shutil.rmtree(_parts(file), ignore_errors=True)
    places = Series(range(len(wanted)), index=wanted)
    rows = rows[rows["model_id"].isin(wanted)].drop(columns=KEYS)
    return rows.sort_values("model_id", key=places.get, kind="stable", ignore_index=True)


def table_file(collection: Collection, detail: str) -> Path:
    """Where a detail of a collection is kept: one file for each root."""
    return folders.data() / "tables" / f"{collection.table_name}.{detail}.parquet"


def _compute(
    function: Callable[[Model], DataFrame],
    collection: Collection,
    missing: Iterable[str],
    file: Path,
    versions: DataFrame,
) -> None:
    """Write a part for each missing model that has what the function needs."""
    reasons = Counter()
    for model_id in tqdm(missing, desc=file.stem, unit="model"):
        try:
            rows = function(collection.load(model_id))
        except NotAvailable as lacking:
            reasons[str(lacking)] += 1
            continue
        name = hashlib.sha256(model_id.encode()).hexdigest()[:16]
        _write(rows.assign(**versions.loc[model_id]), _parts(file) / f"{name}.parquet")
    for reason, count in reasons.items():
        warnings.warn(f"{file.stem}: {count} models have no rows: {reason}", stacklevel=3)


def _kept(file: Path, versions: DataFrame) -> DataFrame:
    """The rows of table and parts that are not stale, each model's once."""
    files = [file, *sorted(_parts(file).glob("*.parquet"))]
    tables = [folders.read_table(path) for path in files if path.exists()]
    fresh = {}
    for table in tables:
        table = table[(table[KEYS] == versions.reindex(table["model_id"]).to_numpy()).all(axis=1)]
        fresh |= dict(list(table.groupby("model_id", sort=False)))
    nothing = DataFrame(columns=["model_id", *KEYS])
    return pd.concat(fresh.values(), ignore_index=True) if fresh else nothing


def _parts(file: Path) -> Path:
    return file.with_suffix(".parts")


def _write(rows: DataFrame, file: Path) -> None:
    options = {"index": False, "compression": "zstd"}
    folders.write_atomically(file, lambda path: rows.to_parquet(path, **options))
