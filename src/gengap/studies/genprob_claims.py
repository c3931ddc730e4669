"""What Jaegerman et al. 2021 claim of probes by singular values, on networks at hand."""

import numpy as np
from pandas import DataFrame

from gengap.evaluation.scores import plain_spearman
from gengap.studies.claims import Found, claim, claim_table, lead

PROBES = {"log_effective_rank": "Effective rank", "stable_quality": "Stable quality"}
NORMS = ["log_frobenius_norm", "log_spectral_norm"]
OUTCOMES = {"test_accuracy": "test accuracy", "gap": "the gap"}
LEAST = 0.5  # the correlation from which we say that a probe ranks networks
EARLY = 20  # epochs, of 70, after which a probe is to know the end
SAME, FUTURE = "As published", "What a probe is for"  # beginnings of headings


def claims(epochs: DataFrame, published: DataFrame, *, samples: int = 1000) -> DataFrame:
    """The table of `claim_table`, of Spearman's correlations over the networks of each family.

    epochs: of `epoch_table`. published: correlations after the last epoch, indexed by family and
    outcome, a column for each measure, positive for the gap where a larger measure goes with a
    larger training minus test accuracy. Intervals are of so many bootstraps over networks.
    """
    last = epochs.groupby("network").tail(1).droplevel("epoch")
    early = epochs.query("epoch <= @EARLY").groupby("network").tail(1).droplevel("epoch")
    early = early.reindex(last.index)
    rows = []
    for probe, name in PROBES.items():
        for outcome, told in OUTCOMES.items():
            stated = published.xs(outcome, level="outcome")
            rivals = stated[NORMS].abs().max(axis=1)
            for text, others, above in (
                (f"{name} ranks {told}: correlation above {LEAST}", [], LEAST),
                (f"{name} ranks {told} better than norms do: difference", NORMS, 0.0),
            ):
                numbers = _leads(last, last[[probe, *others]], outcome, samples)
                shown = stated[probe] - (rivals if others else 0)
                stretch = f"{shown.min():.2f} to {shown.max():.2f}"
                rows.append(claim(text, stretch, numbers, SAME, above=above))
        text = f"{name} after {EARLY} epochs ranks final test accuracy: correlation above {LEAST}"
        numbers = _leads(last, early[[probe]], "test_accuracy", samples)
        rows.append(claim(text, "stated", numbers, FUTURE, above=LEAST))
    return claim_table(rows)


def _leads(last: DataFrame, measures: DataFrame, outcome: str, samples: int) -> dict[str, Found]:
    """By family, how far the first measure's correlation lies above the largest of the others.

    Of the others, which rank as well in reverse, the size of the correlation counts.
    """
    found = {}
    for family, rows in last.groupby("family", sort=False):
        first, *others = measures.loc[rows.index].T.to_numpy()
        others = [column * np.sign(plain_spearman(rows[outcome], column)) for column in others]
        found[family] = lead(plain_spearman, rows[outcome], [first, *others], samples=samples)
    return found
