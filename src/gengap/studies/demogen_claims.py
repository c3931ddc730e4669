"""What Jiang et al. 2019 claim of margins at hidden layers, on networks at hand."""

from collections.abc import Mapping, Sequence

import numpy as np
from pandas import DataFrame, Series

from gengap.errors import GengapError
from gengap.evaluation.regression import r2
from gengap.evaluation.tasks import gap_of, task_of
from gengap.measures.margin_signatures import OUTPUT
from gengap.studies.claims import Found, claim, claim_table, lead
from gengap.studies.demogen import HIDDEN, signature_table
from gengap.studies.linear_fit import regression

PLAIN, LINEAR, MEDIANS = "not normalized", "without logarithms", "medians"
FORMS: dict[str, dict] = {
    HIDDEN: {},
    PLAIN: {"normalized": False},
    LINEAR: {"log": False},
    OUTPUT: {"stages": [OUTPUT]},
}
PARTS, FITS = "Which part of it counts", "The regression"
STATED = "stated"  # in the abstract; no number of the paper could be read
# Text, where the chapter shows it, the forms that the default is compared with, and the bound.
CLAIMS = [
    ("Margins at hidden layers predict the gap: R2 out of fold above 0.5", FITS, [], 0.5),
    ("Several layers say more than any single one: difference of R2", PARTS, ["layers"], 0.0),
    ("Normalized margins say more: difference of R2", PARTS, [PLAIN], 0.0),
    ("Logarithms say more: difference of R2", PARTS, [LINEAR], 0.0),
    ("The distribution says more than its median: difference of R2", PARTS, [MEDIANS], 0.0),
    ("Hidden layers say more than the logits: difference of R2", PARTS, [OUTPUT], 0.0),
]


def claims(
    signatures: DataFrame, groups: Mapping[str, DataFrame], *, folds: int = 10, seed: int = 0
) -> DataFrame:
    """The table of `claim_table`, of R2 out of fold in each group of networks.

    signatures: of `gengap.measures.margin_signatures`. groups: name -> rows of the index, with the
    columns hp_*. Intervals are bootstraps over the networks' predictions, copies together and joint
    for forms that are compared. A number is NaN where a group has too few networks for a form.
    """
    predicted = {name: _predictions(signatures, rows, folds, seed) for name, rows in groups.items()}
    table = []
    for text, section, others, above in CLAIMS:
        numbers = {name: _lead(rows, predicted[name], others) for name, rows in groups.items()}
        table.append(claim(text, STATED, numbers, section, above=above))
    return claim_table(table)


def _predictions(signatures: DataFrame, rows: DataFrame, folds: int, seed: int) -> dict:
    """Of each form, and of each layer, the gap of each network out of fold; NaN without a fit."""
    own = signatures[signatures["model_id"].isin(rows["model_id"])]
    layers = [stage for stage in own["stage"].unique() if stage != OUTPUT]
    forms = FORMS | {stage: {"stages": [stage]} for stage in layers}
    tables = {name: signature_table(own, **form) for name, form in forms.items()}
    tables[MEDIANS] = tables[HIDDEN].xs("median", axis=1, level="statistic")
    gap = gap_of(rows).set_axis(rows["model_id"])
    fits = {name: _out_of_fold(table, gap, folds, seed) for name, table in tables.items()}
    return {**fits, "layers": [fits[stage] for stage in layers]}


def _out_of_fold(features: DataFrame, gap: Series, folds: int, seed: int) -> np.ndarray:
    try:
        fit = regression(features.reindex(gap.index), gap, folds=folds, seed=seed)
    except GengapError:
        return np.full(len(gap), np.nan)
    return fit.models["out_of_fold"].to_numpy()


def _lead(rows: DataFrame, predicted: dict, others: Sequence[str]) -> Found:
    """R2 of the default form, less that of the best of the others."""
    rivals = [fit for name in others for fit in np.atleast_2d(predicted[name])]
    fits = [predicted[HIDDEN], *rivals]
    return lead(r2, gap_of(rows), fits, clusters=task_of(rows).copies)
