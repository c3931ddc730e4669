"""The judgement of many measures on many families: computed once and kept, family by family."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame

from gengap.evaluation.judgement import judged
from gengap.tables.fits import kept_rows
from gengap.tables.identity import digest, record_hashes, source_hash

# Of chapter 5, whose rows are shipped; p-values to 0.005.
DRAWN: dict[str, Any] = {"samples": 100, "permutations": 199}


def kept_judgement(
    values: DataFrame,
    index: DataFrame,
    *,
    table: str,
    judge: Callable[..., DataFrame] = judged,
    workers: int | None = None,
    store: Path | None = None,
    **options,
) -> DataFrame:
    """The rows of `judge(values, index, **options)`, those of each family kept in a table.

    values, index, options: as for `judged`. table: of data/tables. judge: `judged`, or a function
    like it whose rows of a family depend on no other. workers, store: as for `kept_results`. A
    family is judged again when its networks, their values, the options or the code change.
    """
    families = [
        (values.reindex(models["model_id"]), models)
        for _, models in index.groupby("family", sort=False)
    ]
    tasks = (
        (_key(*family, options), partial(_rows, judge, *family, options)) for family in families
    )
    made = judge.__name__, source_hash(judge)
    bar: dict[str, Any] = {"total": len(families), "unit": "family"}
    return DataFrame(kept_rows(table, *made, tasks, workers=workers, store=store, **bar))


def _rows(judge, values, models, options) -> list[dict]:
    return judge(values, models, **options).to_dict("records")


def _key(values, models, options) -> str:
    """All that a family's rows depend on but code."""
    parts = [*values.columns, *pd.util.hash_pandas_object(values), *record_hashes(models)]
    return digest("\n".join(map(str, [*parts, sorted(options.items())])))
