"""Judges all measures the same way on every family of every collection.

The target of every score is the generalization gap, train minus test accuracy. Scores see only how
a measure ranks the networks, so that its scale, or whether it is a logarithm, changes nothing.

Hyper-parameters are the columns `hp_*` that vary among the networks; `hp_copy` counts replicates,
networks trained alike, and is none. Two kinds of scores need them. `granulated_tau` and the sign
errors compare networks that differ in one hyper-parameter and in no other; where several were drawn
at random there are no such pairs, and these scores are not available: within bins of the values the
others would differ too. `cmi` conditions on two hyper-parameters and lets the others vary anyway,
so there a hyper-parameter of more than `DRAWN` numbers enters as above its median or not.

A bootstrap draws networks with replacement. A pair of networks then counts as often as both were
drawn together; a network drawn twice makes no pair with itself, and copies of one are in the same
fold. The competition's score, which by definition pairs each network with itself, does so once for
each copy.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from pandas import DataFrame, Series
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from statsmodels.stats.multitest import multipletests

from gengap.errors import GengapError
from gengap.evaluation.analysis import BASELINE
from gengap.evaluation.scores import gap_of, information

REPLICATE = "hp_copy"  # tells networks apart that were trained alike
NETWORKS = 20  # fewer networks with a value are not judged
PAIRS = 10  # fewer pairs of networks that differ in one hyper-parameter are not judged
DRAWN = 10  # a hyper-parameter of more different numbers was drawn at random: grids have fewer
FOLDS = 10
TREES = 100  # of the forest that predicts the gap from hyper-parameters alone
NORMAL_95 = 1.96  # standard deviations: the 95 % interval of a normal distribution
SAME = 1e-9  # scores nearer than this are equal: orders of summation differ by less

TRAIN_ACCURACY, TRAIN_LOSS = "train accuracy only", "train loss only"
BASELINES = (BASELINE, TRAIN_ACCURACY, TRAIN_LOSS)


@dataclass(frozen=True)
class Networks:
    """Networks of one family, prepared for scores; see `networks_of`."""

    settings: np.ndarray  # (n, H) int: which of its values each hyper-parameter has
    levels: np.ndarray  # (n, H) int: the same, where drawn at random whether above the median
    gap: np.ndarray  # (n,) train minus test accuracy, a fraction
    folds: np.ndarray  # (n, FOLDS) 0 or 1: in which fold a network is held out

    @cached_property
    def larger_gap(self) -> np.ndarray:
        """(n, n) bool: whether the gap of the row is larger than that of the column."""
        return self.gap[:, None] > self.gap

    @cached_property
    def gap_signs(self) -> np.ndarray:
        """(n, n) float32: sign of the row's gap minus the column's."""
        return signs(self.gap)

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """P pairs of networks that differ in one hyper-parameter alone: one, other, which (P,)."""
        one, other = np.triu_indices(len(self.gap), 1)
        differs = self.settings[one] != self.settings[other]
        alone = differs.sum(axis=1) == 1
        return one[alone], other[alone], np.nonzero(differs[alone])[1]

    @cached_property
    def by_hyperparameter(self) -> np.ndarray:
        """(P, hyper-parameters) 0 or 1: in which one the networks of each pair differ."""
        return _indicator(self.neighbours[2][:, None])

    @cached_property
    def environments(self) -> np.ndarray:
        """(P, E) 0 or 1: which pairs belong to each environment; see `sign_errors`."""
        one, other, which = self.neighbours
        values = self.settings[[one, other], which]
        member = _indicator(np.column_stack([which, values.min(axis=0), values.max(axis=0)]))
        member = member * (self.gap[one] != self.gap[other])[:, None]
        return member[:, member.sum(axis=0) >= PAIRS]

    @cached_property
    def conditions(self) -> tuple[np.ndarray, list[slice]]:
        """Which values of two hyper-parameters a network has: (n, groups) 0 or 1 float32.

        The groups of all conditions, each two hyper-parameters, side by side; and which columns
        are those of each.
        """
        columns = range(self.levels.shape[1])
        members = [_indicator(self.levels[:, pair]) for pair in combinations(columns, 2)]
        ends = np.cumsum([0] + [member.shape[1] for member in members])
        return np.concatenate(members, axis=1).astype(np.float32), [
            slice(*pair) for pair in pairwise(ends)
        ]

    @cached_property
    def itself(self) -> "Sample":
        """Each network drawn once."""
        return Sample(self, np.ones((1, len(self.gap))))


@dataclass(frozen=True)
class Sample:
    """Drawn networks, and what the scores of all measures on them share."""

    networks: Networks
    draws: np.ndarray  # (S, n) float: how often each of S bootstraps drew a network

    @cached_property
    def gap_ranks(self) -> np.ndarray:
        """(S, n) each network's rank by its gap in the sample, times 2 and centered."""
        return self.ranks(self.networks.gap_signs)

    @cached_property
    def gap_untied(self) -> np.ndarray:
        """(S,) ordered pairs of different gaps."""
        return self.pairs(np.abs(self.networks.gap_signs))

    @cached_property
    def neighbours(self) -> np.ndarray:
        """(S, P) how often both networks of each neighbouring pair were drawn."""
        one, other, _ = self.networks.neighbours
        return self.draws[:, one] * self.draws[:, other]

    def ranks(self, compared: np.ndarray) -> np.ndarray:
        """(S, n) ranks, times 2 and centered, by signs (n, n); copies of a network are tied."""
        return (self.draws.astype(np.float32) @ compared.T).astype(float)

    def pairs(self, compared: np.ndarray) -> np.ndarray:
        """(S,) sum of a matrix (n, n) over drawn pairs."""
        # Whole numbers below 2^24 are exact in float32.
        return ((self.draws.astype(np.float32) @ compared) * self.draws).sum(axis=1)

    @cached_property
    def members(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each bootstrap the networks drawn (m,), and how often in each group (m, groups)."""
        groups, _ = self.networks.conditions
        drawn = [np.flatnonzero(row) for row in self.draws]
        counts = self.draws.astype(np.float32)
        return [(who, groups[who] * row[who, None]) for who, row in zip(drawn, counts, strict=True)]

    def cells(self, pairs: np.ndarray) -> np.ndarray:
        """(cells, S) drawn pairs among `pairs` (n, n) bool in every cell of every condition.

        A cell of a condition is the groups of two networks, in their order.
        """
        pairs, (_, parts) = pairs.astype(np.float32), self.networks.conditions
        found = []
        for who, counts in self.members:
            # One product for all conditions: a wide matrix is much faster than many narrow ones.
            towards = (pairs if len(who) == len(pairs) else pairs[np.ix_(who, who)]) @ counts
            found.append(
                np.concatenate([(counts[:, of].T @ towards[:, of]).ravel() for of in parts])
            )
        return np.array(found, float).T

    @cached_property
    def cell_sizes(self) -> np.ndarray:
        """(cells, S) drawn pairs in each cell, with each copy of a network once with itself."""
        sizes = self.cells(~np.eye(len(self.networks.gap), dtype=bool))
        groups, parts = self.networks.conditions
        itself = [np.eye(of.stop - of.start).ravel() for of in parts]  # a group with itself
        drawn = self.draws @ groups
        sizes[np.concatenate(itself) > 0] += drawn.T
        return sizes

    @cached_property
    def cells_of_larger_gap(self) -> np.ndarray:
        """(cells, S) drawn pairs whose first network has the larger gap."""
        return self.cells(self.networks.larger_gap)


def networks_of(rows: DataFrame, *, seed: int = 0) -> Networks:
    """The networks of one family's index rows; `seed` shuffles the folds.

    Raises: GengapError if a gap is missing, or if the rows are of several epochs.
    """
    family = rows["family"].iloc[0]
    gap = gap_of(rows).to_numpy(float)
    if not np.isfinite(gap).all():
        missing = rows["model_id"][~np.isfinite(gap)].iloc[0]
        raise GengapError(f"{missing!r} has no gap: it, or one of its accuracies, is missing")
    if "epoch" in rows and (epochs := rows["epoch"].nunique(dropna=False)) > 1:
        raise GengapError(
            f"the rows of {family} are of {epochs} epochs; judge networks at one, as"
            " `last_epoch(index)` chooses them"
        )
    varied = hyperparameters(rows)
    settings = settings_of(varied)
    levels = settings.copy()
    for place, name in enumerate(varied):
        if is_drawn(varied[name]):
            levels[:, place] = varied[name] > varied[name].median()
    return Networks(settings, levels, gap, _held_out(settings, seed))


def last_epoch(index: DataFrame) -> DataFrame:
    """Of each family the rows of its last epoch; all where epochs are not recorded."""
    last = index.groupby("family")["epoch"].transform("max")
    return index[(index["epoch"] == last) | last.isna()].reset_index(drop=True)


def hyperparameters(rows: DataFrame) -> DataFrame:
    """The columns `hp_*` that vary among the rows, without the number of a replicate.

    Of columns of a grid that always change together, as the widths of layers that are all equal,
    the first stands for all: they are one hyper-parameter.
    """
    columns = rows.filter(regex="^hp_").drop(columns=REPLICATE, errors="ignore")
    columns = columns.loc[:, columns.nunique(dropna=False) > 1]
    repeated = DataFrame(settings_of(columns).T, index=columns.columns).duplicated()
    # Numbers drawn at random are all different, in each of their columns, and yet no repetition.
    return columns.drop(
        columns=[name for name in columns if repeated[name] and not is_drawn(columns[name])]
    )


def is_drawn(values: Series) -> bool:
    """Whether a hyper-parameter's values were drawn at random: it has more than a grid has."""
    return pd.api.types.is_numeric_dtype(values) and values.nunique() > DRAWN


def signs(values: np.ndarray) -> np.ndarray:
    """(n, n) float32: sign of the row's value minus the column's."""
    larger = (values[:, None] > values).astype(np.float32)
    return larger - larger.T


def ranks_of(values: np.ndarray) -> np.ndarray:
    """(n,) rank of each value over n, ties with their mean rank; infinities are values too."""
    return stats.rankdata(values) / len(values)


# Scores: each takes a Sample and a measure's ranks (n,), and returns (S,)


def kendall_tau(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of measure and gap; 0 for a constant measure.

    Source: Kendall 1945.
    """
    compared = signs(ranks)
    untied = sample.pairs(np.abs(compared)) * sample.gap_untied
    return _ratio(sample.pairs(compared * sample.networks.gap_signs), np.sqrt(untied))


def spearman(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of measure and gap; 0 for a constant measure.

    Ties have their mean rank. Source: Spearman 1904.
    """
    one, other = sample.ranks(signs(ranks)), sample.gap_ranks
    products = [(sample.draws * a * b).sum(axis=1) for a, b in ((one, other), (one, one))]
    return _ratio(products[0], np.sqrt(products[1] * (sample.draws * other * other).sum(axis=1)))


def granulated_tau(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """Agreement with the gap where one hyper-parameter changes.

    For each hyper-parameter Kendall's tau over the pairs of networks that differ in nothing else
    (tau-a: a tie counts 0 and stays in the denominator), then the mean over hyper-parameters.

    Source: Jiang et al. 2020, 'Fantastic generalization measures', the average of psi_i. Differs:
    replicates make pairs each with each.
    """
    one, other, _ = sample.networks.neighbours
    agreement = np.sign(ranks[one] - ranks[other]) * sample.networks.gap_signs[one, other]
    return _mean(_by_group(sample, agreement, sample.networks.by_hyperparameter))


def sign_errors(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """(S, E) share of pairs that the measure orders against the gap, in each environment.

    An environment is a hyper-parameter and two of its values; its pairs are the networks that have
    one and the other and are alike in all else, replicates each with each. A tie of the measure is
    half an error; pairs of equal gaps ask nothing and are left out. 0 is perfect, 1/2 is chance.
    Environments have at least `PAIRS` pairs; NaN where a sample drew none.

    Source: Dziugaite et al. 2020, 'In search of robust measures of generalization', the sign-error;
    nitarshan/robust-generalization-measures, create_environments.py and figure_cdf_all_measures.py.
    Differs: there an environment fixes the values of the other hyper-parameters too and averages
    over seeds, where one network for each setting would be one pair, and the worst 1 for every
    measure that is not perfect; a pair has the probability that its gaps differ on more test images
    as weight, and the weights of an environment must be worth 12 pairs.
    """
    one, other, _ = sample.networks.neighbours
    agreement = np.sign(ranks[one] - ranks[other]) * sample.networks.gap_signs[one, other]
    return _by_group(sample, (1 - agreement) / 2, sample.networks.environments)


def mean_sign_error(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """The mean of `sign_errors` over environments."""
    return _mean(sign_errors(sample, ranks))


def worst_sign_error(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """The largest of `sign_errors` over environments: how far a measure fails somewhere."""
    return np.fmax.reduce(sign_errors(sample, ranks), axis=1)


def r2(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """Share of the gap's variance that the measure predicts, each network from the other folds.

    The gap by least squares on the measure's rank among all networks of the family, in `FOLDS`
    folds that are pooled; at most 1, and about 0 or less for a measure that tells nothing. The
    direction is fitted, so that a measure is not blamed for the wrong sign.
    """
    gap, folds = sample.networks.gap - sample.networks.gap.mean(), sample.networks.folds
    x = ranks - ranks.mean()
    size, sum_x, sum_y, sum_xx, sum_xy = (
        (sample.draws * part) @ (1 - folds) for part in (1, x, gap, x * x, x * gap)
    )
    with np.errstate(invalid="ignore", divide="ignore"):  # a sample may lie in one fold
        spread = sum_xx - sum_x**2 / size
        slope = np.where(spread > SAME, (sum_xy - sum_x * sum_y / size) / spread, 0)
        intercept = (sum_y - slope * sum_x) / size
    predicted = intercept @ folds.T + (slope @ folds.T) * x
    mean = (sample.draws @ gap / sample.draws.sum(axis=1))[:, None]
    squares = [(sample.draws * (gap - part) ** 2).sum(axis=1) for part in (predicted, mean)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - squares[0] / squares[1]


def cmi(sample: Sample, ranks: np.ndarray) -> np.ndarray:
    """The competition's score; see `gengap.evaluation.scores.conditional_mutual_information`.

    Blind to the measure's sign, and positive by chance: compare with `null_mean`.

    Differs: hyper-parameters of one value are left out (the competition conditions on one other
    alone beside them); the grid may be incomplete and have replicates, and cells without a pair are
    left out of the mean; values that would be written alike are kept apart.
    """
    larger = ranks[:, None] > ranks
    gap_plus, plus = sample.cells_of_larger_gap, sample.cells(larger)
    both = sample.cells(larger & sample.networks.larger_gap)
    gap_minus = sample.cell_sizes - gap_plus
    tables = np.array([[gap_minus - plus + both, plus - both], [gap_plus - both, both]])
    cells = [(of.stop - of.start) ** 2 for of in sample.networks.conditions[1]]
    first = np.concatenate([[0], np.cumsum(cells)[:-1]])
    told, whole = (np.add.reduceat(part, first) for part in information(np.moveaxis(tables, 2, 0)))
    open_to_tell = whole > SAME  # the entropy of a cell of one pair is not exactly 0
    return np.divide(told, whole, out=np.full_like(told, np.nan), where=open_to_tell).min(axis=0)


def _needs_gaps(networks: Networks) -> str:
    return "" if np.ptp(networks.gap) > 0 else "all networks have the same gap"


def _needs_conditions(networks: Networks) -> str:
    varied = networks.levels.shape[1]
    if varied < 2:
        return f"{varied} hyper-parameters vary; 2 are needed"
    groups, parts = networks.conditions
    if min(groups[:, of].sum(axis=0).max() for of in parts) < 2:
        return "no two networks share the values of two hyper-parameters"
    return ""


def _needs_neighbours(networks: Networks) -> str:
    pairs = len(networks.neighbours[0])
    if pairs >= PAIRS:
        return ""
    return f"{pairs} pairs of networks differ in one hyper-parameter alone; {PAIRS} are needed"


def _needs_environments(networks: Networks) -> str:
    if networks.environments.shape[1]:
        return ""
    return (
        f"no two values of a hyper-parameter have {PAIRS} pairs of networks that differ in"
        " nothing else and have different gaps"
    )


@dataclass(frozen=True)
class Criterion:
    """A score, and how it is read."""

    score: Callable[[Sample, np.ndarray], np.ndarray]
    lowest: float
    highest: float
    better: int = 1  # -1 where a lower score is better
    lacks: Callable[[Networks], str] = lambda networks: ""  # why a family has no such score


CRITERIA = {
    "cmi": Criterion(cmi, 0, 1, lacks=_needs_conditions),
    "kendall_tau": Criterion(kendall_tau, -1, 1),
    "granulated_tau": Criterion(granulated_tau, -1, 1, lacks=_needs_neighbours),
    "spearman": Criterion(spearman, -1, 1),
    "r2": Criterion(r2, -np.inf, 1),
    "mean_sign_error": Criterion(mean_sign_error, 0, 1, -1, _needs_environments),
    "worst_sign_error": Criterion(worst_sign_error, 0, 1, -1, _needs_environments),
}


# Judgement


COLUMNS = [
    "family",
    "measure",
    "score",
    "value",
    "low",
    "high",
    "null_mean",
    "p_value",
    "p_adjusted",
    "gain",
    "gain_low",
    "gain_high",
    "models",
    "note",
]


def judged(
    values: DataFrame,
    index: DataFrame,
    *,
    scores: Iterable[str] = tuple(CRITERIA),
    samples: int = 200,
    permutations: int = 1000,
    seed: int = 0,
) -> DataFrame:
    """Every score of every measure, and of the `BASELINES`, on every family.

    values: by model_id, a column for each measure, NaN where it is not available. index: rows of
    the same models at one epoch (see `last_epoch`); families of several collections may follow each
    other. scores: names of `CRITERIA`.

    Returns a row for each family, measure and score with
    - value: over the networks that have one of the measure (their number is `models`);
    - low, high: value -+ 1.96 standard deviations of the score over `samples` bootstraps of the
      networks, cut to the score's range (see `gengap.evaluation.analysis.score_table` for why not
      percentiles);
    - null_mean, p_value: the mean score of `permutations` permutations of the measure among the
      networks, and the share of them, the measure itself one of them, that score as well. A measure
      claims that larger values mean larger gaps, so the p-value of a score with a sign is
      one-sided. A small one says more than chance, not more than the hyper-parameters: see gain;
    - p_adjusted: the p-value corrected for judging many measures, over those of the family and
      score (without baselines): the false discovery rate of Benjamini and Hochberg;
    - gain, gain_low, gain_high: how much better than the hyper-parameters alone on the same
      networks, with the paired bootstrap's interval; positive is better, for errors too;
    - note: why there is no value (fewer than `NETWORKS` networks have one, or the family has no
      pairs to compare), or that the measure is constant, which scores as knowing nothing.

    Source: Efron 1979, the bootstrap's normal interval; Phipson and Smyth 2010, the p-value;
    Benjamini and Hochberg 1995.
    Raises: GengapError if a score is unknown, a model has two rows, a gap is missing or a family
    is given at several epochs.
    """
    criteria = {name: _criterion(name) for name in scores}
    rows = []
    for family, models, measures in _families(values, index):
        known = baselines(models, seed=seed)
        judge = _judges(models, known[BASELINE].to_numpy(), samples, permutations, seed)
        for measure, column in pd.concat([known, measures], axis=1).items():
            labels = {"family": family, "measure": measure, "models": int(column.notna().sum())}
            found = _judged(column.to_numpy(float), criteria, judge)
            rows += [labels | row for row in found]
    return _corrected(DataFrame(rows, columns=COLUMNS))


def _judged(column, criteria, judge) -> list[dict]:
    known = ~np.isnan(column)
    if known.sum() < NETWORKS:
        note = f"{known.sum()} of {len(known)} networks have a value; {NETWORKS} are needed"
        return [{"score": name, "note": note} for name in criteria]
    of_these, ranks = judge(known.tobytes()), ranks_of(column[known])
    constant = "" if np.ptp(ranks) > 0 else "the measure is constant here"
    rows = []
    for name, criterion in criteria.items():
        lacking = of_these.lacks(criterion)
        found = {} if lacking else of_these.judged(ranks, criterion)
        rows.append({"score": name, "note": lacking or constant} | found)
    return rows


def _judges(models, baseline, samples, permutations, seed) -> Callable[[bytes], "_Judge"]:
    """Makes the judge of those networks that have a value, once for measures that share them."""

    @cache
    def judge(known: bytes) -> _Judge:
        chosen = np.frombuffer(known, bool)
        part = models[chosen]
        return _Judge(part, baseline[chosen], samples, permutations, seed)

    return judge


class _Judge:
    """Prepares the networks of a family once; keeps the nulls and the baseline's scores."""

    def __init__(self, models, baseline, samples, permutations, seed):
        self.networks = networks_of(models, seed=seed)
        self.baseline = ranks_of(baseline)
        n, generator = len(models), _generator(models, seed)
        draws = generator.multinomial(n, np.full(n, 1 / n), size=samples)
        self.sample = Sample(self.networks, draws.astype(float))
        order = np.tile(np.arange(n), (permutations, 1))
        self.orders = generator.permuted(order, axis=1)
        self._nulls, self._baselines = {}, {}

    def lacks(self, criterion: Criterion) -> str:
        """Why these networks have no such score; empty if they have."""
        return _needs_gaps(self.networks) or criterion.lacks(self.networks)

    def judged(self, ranks: np.ndarray, criterion: Criterion) -> dict[str, float]:
        better, null = criterion.better, self._null(ranks, criterion.score)
        value, drawn = self.scores(ranks, criterion.score)
        base, base_drawn = self._baseline(criterion.score)
        reached = np.sum(better * null >= better * value - SAME)
        margin, gain_margin = _margin(drawn), _margin(drawn - base_drawn)
        gain = better * (value - base) + 0.0  # no -0
        return {
            "value": value,
            "low": max(value - margin, criterion.lowest),
            "high": min(value + margin, criterion.highest),
            "null_mean": null.mean(),
            "p_value": (reached + 1) / (len(null) + 1),
            "gain": gain,
            "gain_low": gain - gain_margin,
            "gain_high": gain + gain_margin,
        }

    def scores(self, ranks, score) -> tuple[float, np.ndarray]:
        return score(self.networks.itself, ranks)[0], score(self.sample, ranks)

    def _null(self, ranks, score) -> np.ndarray:
        # It depends on the measure's ties alone: all measures without ties share one.
        ordered, itself = np.sort(ranks), self.networks.itself
        key = score, ordered.tobytes()
        if key not in self._nulls:
            self._nulls[key] = np.array([score(itself, ordered[order])[0] for order in self.orders])
        return self._nulls[key]

    def _baseline(self, score) -> tuple[float, np.ndarray]:
        if score not in self._baselines:
            found = self.scores(self.baseline, score)
            nothing = np.isnan(self.baseline).any()  # no hyper-parameter varies
            self._baselines[score] = (np.nan, found[1] * np.nan) if nothing else found
        return self._baselines[score]


def _corrected(rows: DataFrame) -> DataFrame:
    judged = rows["p_value"].notna() & ~rows["measure"].isin(BASELINES)
    for _, part in rows[judged].groupby(["family", "score"]):
        adjusted = multipletests(part["p_value"].astype(float), method="fdr_bh")[1]
        rows.loc[part.index, "p_adjusted"] = adjusted
    return rows.astype(dict.fromkeys(COLUMNS[3:-2], float))


def summary(scores: DataFrame, score: str = "kendall_tau") -> DataFrame:
    """How measures fare over families by one score that has a sign; the best worst case first.

    scores: of `judged`. Returns by measure: families (that have a score), right_sign (in how many
    it is above 0), beyond_chance (in how many the adjusted p-value is below 0.05),
    beyond_settings (in how many the interval of the gain over hyper-parameters alone lies above 0),
    mean and worst (over families).
    """
    rows = scores[(scores["score"] == score) & scores["value"].notna()]
    rows = rows[~rows["measure"].isin(BASELINES)]
    marks = DataFrame(
        {
            "measure": rows["measure"],
            "right_sign": rows["value"] > 0,
            "beyond_chance": rows["p_adjusted"] < 0.05,
            "beyond_settings": rows["gain_low"] > 0,
        }
    )
    values = rows.groupby("measure")["value"].agg(families="size", mean="mean", worst="min")
    found = values[["families"]].join(marks.groupby("measure").sum())
    return found.join(values[["mean", "worst"]]).sort_values("worst", ascending=False)


# Ranks of measures


def rank_table(
    values: DataFrame,
    index: DataFrame,
    *,
    score: str = "kendall_tau",
    samples: int = 200,
    seed: int = 0,
) -> DataFrame:
    """The rank of each measure among all in each family, 1 the best by `score`.

    Arguments as for `judged`. Returns a row per family and measure that has a score there: rank,
    low and high (2.5 and 97.5 percentiles over bootstraps of the family's networks), measures (how
    many are ranked). Equal scores share their mean rank.
    """
    rows = []
    for family, goodness in _goodness(values, index, score, samples, seed).items():
        ranks = stats.rankdata(-goodness.to_numpy(), axis=1)
        low, high = np.percentile(ranks[1:], [2.5, 97.5], axis=0)
        columns = {"family": family, "measure": goodness.columns, "rank": ranks[0]}
        ends = {"low": low, "high": high, "measures": goodness.shape[1]}
        rows.append(DataFrame(columns | ends))
    return pd.concat(rows, ignore_index=True)


def rank_stability(
    values: DataFrame,
    index: DataFrame,
    *,
    score: str = "kendall_tau",
    samples: int = 200,
    seed: int = 0,
) -> DataFrame:
    """How well the ranking of measures in one family tells that in another.

    Arguments as for `judged`. Returns a row per pair of families: family, other, measures (that
    have a score in both), spearman and kendall of their scores there, and of each `_low`, `_high`:
    -+ 1.96 standard deviations over bootstraps of the networks of both families, drawn
    independently. Bootstraps add noise to scores, which lowers the correlation of a sample, so
    that percentiles would lie too low. NaN for fewer than 3 common measures.
    """
    rows = []
    goodness = _goodness(values, index, score, samples, seed)
    for (family, one), (other, two) in combinations(goodness.items(), 2):
        common = one.columns.intersection(two.columns)
        row = {"family": family, "other": other, "measures": len(common)}
        enough = zip(one[common].to_numpy(), two[common].to_numpy(), strict=True)
        pairs = list(enough) if len(common) > 2 else []
        for name, correlation in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
            found = np.array([correlation(*pair).statistic for pair in pairs] or [np.nan] * 2)
            margin = _margin(found[1:])
            row |= {name: found[0]}
            row |= {f"{name}_low": max(found[0] - margin, -1)}
            row |= {f"{name}_high": min(found[0] + margin, 1)}
        rows.append(row)
    return DataFrame(rows)


def _goodness(values, index, score, samples, seed) -> dict[str, DataFrame]:
    """By family that has the score: a row for its networks, then for each bootstrap of them.

    A column for each measure, larger is better. Measures meet the same bootstraps, but those that
    lack the value of some networks meet bootstraps of the others.
    """
    criterion, found = _criterion(score), {}
    for family, models, measures in _families(values, index):
        judge, columns = _judges(models, np.full(len(models), np.nan), samples, 0, seed), {}
        for measure in measures:
            column = measures[measure].to_numpy(float)
            known = ~np.isnan(column)
            if known.sum() < NETWORKS or judge(known.tobytes()).lacks(criterion):
                continue
            value, drawn = judge(known.tobytes()).scores(ranks_of(column[known]), criterion.score)
            columns[measure] = criterion.better * np.append(value, drawn)
        if columns:
            found[family] = DataFrame(columns).dropna()
    return found


# Preparations


def baselines(models: DataFrame, *, seed: int = 0) -> DataFrame:
    """What one knows of a family's networks without a measure, as measures, by model_id.

    The gap as the hyper-parameters alone predict it, the training accuracy, and the training loss,
    with a minus since networks that fit closely have a low one.
    """
    columns = {
        BASELINE: hyperparameters_alone(models, seed=seed),
        TRAIN_ACCURACY: models["train_accuracy"].to_numpy(float),
        TRAIN_LOSS: -models["train_loss"].to_numpy(float),
    }
    return DataFrame(columns, index=pd.Index(models["model_id"]))


def hyperparameters_alone(models: DataFrame, *, seed: int = 0) -> np.ndarray:
    """(n,) the gap of each network as hyper-parameters predict it, fitted on the other folds.

    The best of least squares, without and with products of two features, and of a random forest, by
    squared error out of fold: the choice favours the baseline, which measures must beat. Features
    are an indicator of each value; of hyper-parameters drawn at random the rank and its square.
    Replicates are in the same fold, so that none is predicted from its twin. NaN if no
    hyper-parameter varies or there are fewer than `NETWORKS` networks.
    """
    varied, gap = hyperparameters(models), gap_of(models).to_numpy(float)
    if varied.empty or len(models) < NETWORKS:
        return np.full(len(models), np.nan)
    features = np.column_stack([_features(varied[name]) for name in varied])
    held_out = _held_out(settings_of(varied), seed).T.astype(bool)
    folds = [(np.flatnonzero(~test), np.flatnonzero(test)) for test in held_out if test.any()]
    regressors = (
        LinearRegression(),
        make_pipeline(PolynomialFeatures(2, interaction_only=True), LinearRegression()),
        RandomForestRegressor(TREES, random_state=seed),
    )
    predictions = [cross_val_predict(each, features, gap, cv=folds) for each in regressors]
    return min(predictions, key=lambda predicted: np.sum((predicted - gap) ** 2))


def _features(values: Series) -> np.ndarray:
    if not is_drawn(values):
        return _indicator(pd.factorize(values.astype(str))[0][:, None])
    ranks = stats.rankdata(values) / len(values) - 0.5
    return np.column_stack([ranks, ranks**2])


def settings_of(varied: DataFrame) -> np.ndarray:
    """(n, H) int: which of its values each hyper-parameter has."""
    codes = [pd.factorize(varied[name].astype(str))[0] for name in varied]
    return np.array(codes, int).reshape(-1, len(varied)).T


def _held_out(settings, seed) -> np.ndarray:
    """(n, FOLDS) 0 or 1: in which fold a network is held out, replicates in the same."""
    groups = np.arange(len(settings))
    if settings.shape[1]:
        groups = pd.factorize(pd.MultiIndex.from_arrays(settings.T))[0]
    member = np.zeros((len(settings), FOLDS))
    splitter = KFold(min(FOLDS, groups.max() + 1), shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(np.arange(groups.max() + 1))):
        member[np.isin(groups, test), fold] = 1
    return member


def _families(values, index) -> Iterator[tuple[str, DataFrame, DataFrame]]:
    """Each family with its models and their measures: a column each, rows as the models."""
    if (twice := values.index.duplicated()).any():
        raise GengapError(f"{values.index[twice][0]!r} has two rows of values; keep one")
    if len(taken := values.columns.intersection(BASELINES)):
        raise GengapError(f"{taken[0]!r} is the name of a baseline; name the measure otherwise")
    for family, models in index.groupby("family", sort=False):
        networks_of(models)  # says what is wrong with the family before anything is computed
        yield family, models, values.reindex(models["model_id"])


def _margin(drawn) -> float:
    """Half the width of the 95 % interval, from the bootstraps (S,) in which there is a score."""
    return NORMAL_95 * drawn[~np.isnan(drawn)].std() if np.isfinite(drawn).any() else np.nan


def _criterion(name: str) -> Criterion:
    if name not in CRITERIA:
        raise GengapError(f"no score {name!r}; there are: {', '.join(CRITERIA)}")
    return CRITERIA[name]


def _generator(models, seed) -> np.random.Generator:
    """Random numbers that one family always gets, whichever other families are judged."""
    return np.random.default_rng([seed, zlib.crc32(models["family"].iloc[0].encode())])


def _indicator(codes: np.ndarray) -> np.ndarray:
    """(n, G) 0 or 1: which of the G different rows of codes (n, k) each row is."""
    kinds, which = np.unique(codes, axis=0, return_inverse=True)
    return np.eye(len(kinds))[which.ravel()]


def _by_group(sample, values, member) -> np.ndarray:
    """(S, G) mean of values (P,) of neighbouring pairs in each group, NaN where none was drawn."""
    sums, sizes = (sample.neighbours * values) @ member, sample.neighbours @ member
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)


def _mean(groups) -> np.ndarray:
    """(S,) mean of (S, G) over the groups that are no NaN; NaN if all are."""
    defined = ~np.isnan(groups)
    sums, sizes = np.where(defined, groups, 0).sum(axis=1), defined.sum(axis=1)
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)


def _ratio(told, whole) -> np.ndarray:
    """told / whole, and 0 where the whole is 0: nothing can be told."""
    return np.divide(told, whole, out=np.zeros_like(whole, float), where=whole > 0)
