"""What Unterthiner et al. 2020 claim of weights and accuracies, on networks at hand."""

import pandas as pd

from gengap.evaluation.regression import r2
from gengap.measures.weight_features import ALL_LAYER_STATISTICS
from gengap.studies.claims import Found, ahead, claim, claim_table, lead

STATISTICS, LINEAR = ("lgbm", ALL_LAYER_STATISTICS), ("linear", ALL_LAYER_STATISTICS)
WEIGHTS, HYPER = ("lgbm", "weights"), ("lgbm", "hyper")
LAST, *OTHERS = (("lgbm", f"weights.{layer}") for layer in (3, 0, 1, 2))
SURE, LAYERS = "How sure is it?", "Weights predict accuracy"
# Text, where the chapter shows it, the fit, those it is compared with, and the bound.
CLAIMS = [
    ("Statistics of the weights predict almost perfectly: R2 above 0.9", SURE, STATISTICS, [], 0.9),
    ("Statistics say more than the weights: difference of R2", LAYERS, STATISTICS, [WEIGHTS], 0.0),
    ("The last layer says more than any other: difference of R2", LAYERS, LAST, OTHERS, 0.0),
    ("Boosting says more than a linear model: difference of R2", LAYERS, STATISTICS, [LINEAR], 0.0),
    ("Weights say more than hyper-parameters: difference of R2", LAYERS, WEIGHTS, [HYPER], 0.0),
    ("Hyper-parameters alone predict well: R2 above 0.8", LAYERS, HYPER, [], 0.8),
]


def claims(
    predictions: pd.DataFrame, transfers: pd.DataFrame, published: pd.Series
) -> pd.DataFrame:
    """The table of `claim_table`, of leak-free fits.

    predictions, transfers: of `Fits`, with all inputs and predictors. published: R2 by family,
    predictor and inputs. Intervals are bootstraps over the networks of the test half, joint for
    fits that are compared.
    """
    by = dict(list(predictions.groupby(["family", "predictor", "inputs"], sort=False)))
    families = predictions["family"].unique()
    rows = []
    for text, section, fit, others, above in CLAIMS:
        fits = fit, *others
        stated = [ahead([published[family, *one] for one in fits]) for family in families]
        shown = f"{min(stated):.2f} to {max(stated):.2f}"
        numbers = {}
        for family in families:
            predicted = [by[family, *one]["leak_free"] for one in fits]
            numbers[family] = lead(r2, by[family, *fit]["target"], predicted)
        rows.append(claim(text, shown, numbers, section, above=above))
    text = "The order carries over: Kendall's tau on the harder of the other data sets"
    off = transfers.query("reading == 'leak_free' and trained_on != tested_on")
    worst = off.sort_values("tau").drop_duplicates("trained_on").set_index("trained_on")
    numbers = {f: Found(*worst.loc[f, ["tau", "low", "high"]]) for f in families if len(worst)}
    return claim_table([*rows, claim(text, "a figure", numbers, "From one data set to another")])
