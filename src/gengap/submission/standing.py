"""Where a measure stands: its scores beside those of all others, on the same models.

The others' values are those that data/tables holds; none is computed for it. So are their scores;
those that are missing there are kept where values of one's own measures are.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from gengap.collection import Collection, last_epoch
from gengap.errors import GengapError
from gengap.evaluation.baselines import BASELINE, BASELINES
from gengap.evaluation.judgement import judged
from gengap.evaluation.scores import CRITERIA
from gengap.studies.judgement import DRAWN, kept_judgement
from gengap.submission.values import results_store
from gengap.tables.identity import versions_now
from gengap.tables.store import default_store
from gengap.tables.values import finished

KEYS = ["collection", "family", "score"]


def scored_beside_all(
    rows: DataFrame, collections: Iterable[Collection], *, scores: Iterable[str] = tuple(CRITERIA)
) -> DataFrame:
    """Scores of a new measure, of all that the tables hold and of the baselines.

    rows: of one new measure, in the columns of a measure table. scores: by name. Returns the
    columns of `judged`, before them collection, and after them family_models: how many the family
    has. Each measure is judged on those of the last epoch that have a value of it.

    Raises: GengapError if the tables hold a measure of that name, or no row has a value.
    """
    [name] = rows["measure"].unique()
    if rows["value"].isna().all():
        raise GengapError(
            f"{name!r} has no value on any model; the column note of its rows says why"
        )
    parts = []
    for collection in collections:
        own = rows[rows["collection"] == collection.name].dropna(subset="value")
        index = last_epoch(collection.index())
        index = index[index["family"].isin(own["family"])]
        if index.empty:
            continue
        others = kept_values(collection)
        if name in others:
            raise GengapError(
                f"the table of {collection.name} holds a measure {name!r} already; rename yours"
            )
        values = own.set_index("model_id")[["value"]].set_axis([name], axis=1)
        found = _judged(collection, index, others, values, [*scores])
        sizes = index["family"].value_counts()
        found.insert(0, "collection", collection.name)
        parts.append(found.assign(family_models=found["family"].map(sizes)))
    return pd.concat(parts, ignore_index=True)


def _judged(collection, index, others, own, scores) -> DataFrame:
    """The rows of all others and of the baselines, which are kept, then those of one's own."""
    # All scores at once, whichever are asked for: their rows are then at hand for the next measure.
    of_all: dict[str, Any] = {} if set(scores) <= CRITERIA.keys() else {"scores": scores}
    table = f"{collection.table_name}.judgement"
    kept: dict[str, Any] = {"table": table, "store": results_store(collection)}
    theirs = kept_judgement(others, index, **kept, **DRAWN, **of_all)
    mine = judged(own, index, scores=scores, **DRAWN)
    found = pd.concat([theirs, mine[~mine["measure"].isin(BASELINES)]], ignore_index=True)
    return found[found["score"].isin(scores)]


def kept_values(collection: Collection) -> DataFrame:
    """What is known of the collection: by its model ids, a column per measure.

    That is what came with it, or what table and store hold; values of an index row or of weights
    that have changed since are left out.
    """
    if (given := collection.given_values()) is not None:
        return given
    rows = finished(collection, default_store(collection), versions_now(collection, {}))
    wide = rows.pivot(index="model_id", columns="measure", values="value")
    return wide.reindex(collection.index()["model_id"])


def standing(scores: DataFrame, name: str) -> DataFrame:
    """Where the measure `name` stands among those of `scored_beside_all`.

    A row per collection, family and score: value, low, high, p_value, reliability (of the family's
    gap, NaN where it is not known), models, family_models, note (why there is no value), rank (1 is
    best; ties share the better) among measures (how many are ranked, with this one), best and
    best_value (of the others), baseline (of the hyper-parameters alone).
    """
    shown = ["value", "low", "high", "p_value", "reliability", "models", "family_models", "note"]
    rows = []
    for keys, group in scores.groupby(KEYS, sort=False):
        named = group.set_index("measure")
        own, better = named.loc[name], CRITERIA[keys[-1]].better
        others = better * named["value"].drop([name, *BASELINES], errors="ignore").dropna()
        best = others.idxmax() if len(others) else ""
        place = {
            "rank": np.nan
            if np.isnan(own["value"])
            else 1 + (others > better * own["value"]).sum(),
            "measures": 1 + len(others),
            "best": best,
            "best_value": named["value"].get(best, np.nan),
            "baseline": named["value"].get(BASELINE, np.nan),
        }
        rows.append(dict(zip(KEYS, keys, strict=True)) | own[shown].to_dict() | place)
    return DataFrame(rows)


def reasons(rows: DataFrame) -> DataFrame:
    """Why models have no value: collection, family, reason, models (how many), the first's id."""
    missing = rows[rows["note"] != ""].rename(columns={"note": "reason"})
    groups = missing.groupby(["collection", "family", "reason"], sort=False)["model_id"]
    found = groups.agg(models="size", first="first").reset_index()
    return found.sort_values("models", ascending=False, kind="stable", ignore_index=True)
