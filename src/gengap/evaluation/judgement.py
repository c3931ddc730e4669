"""Judges all measures the same way on every family of every collection.

Each score of `scores` is a measure's, of a task of `tasks`; here it gets an interval, what chance
would score, and what the hyper-parameters alone score.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property

import numpy as np
import pandas as pd
from pandas import DataFrame, Series
from scipy import stats
from statsmodels.stats.multitest import multipletests

from gengap.errors import GengapError
from gengap.evaluation.baselines import BASELINE, BASELINES, NETWORKS, baselines
from gengap.evaluation.nulls import Design, normal_scores, null_measures
from gengap.evaluation.reliability import RELIABLE, reliability_table
from gengap.evaluation.resampling import bootstraps, margin, permutations
from gengap.evaluation.samples import Sample
from gengap.evaluation.scores import CRITERIA, SAME, SCORES, Criterion, needs_gaps, plain_tau
from gengap.evaluation.tasks import Task, gap_of, task_of

NUMBERS = ["value", "low", "high", "null_mean", "null_05", "null_95"]
NUMBERS += ["p_value", "p_adjusted", "gain", "gain_low", "gain_high", "reliability"]
ENOUGH = 10  # null measures that score as well: p is known well enough, and no more are drawn
AT_ONCE = 25  # null measures that are scored before that is asked
MOST = 1_000  # networks: of a larger family so many at random, since scores compare each two
COLUMNS = ["family", "measure", "score", *NUMBERS, "models", "note"]
Nulls = Callable[[bool, int], np.ndarray]  # of ranks or values, from a place on: (AT_ONCE, n)


def judged(
    values: DataFrame,
    index: DataFrame,
    *,
    scores: Iterable[str] = tuple(CRITERIA),
    samples: int = 200,
    permutations: int = 1000,
    seed: int = 0,
    task: Callable[..., Task] = task_of,
) -> DataFrame:
    """Every score of every measure, and of the `BASELINES`, on every family.

    values: by model_id, a column for each measure, NaN where it is not available. index: rows of
    the same models at one epoch (see `last_epoch`); families of several collections may follow each
    other. scores: names of `SCORES`. task: `task_of`, or `official_task` for the rules of the
    competition.

    Of a family of more than `MOST` networks, these many are drawn at random, the same for all
    measures: scores compare each two networks. Kendall's tau of 1,000 networks has a standard error
    of 0.02 where measure and gap are independent.

    Returns a row for each family, measure and score with

    - value: over the networks that have one of the measure (their number is `models`);
    - low, high: value -+ 1.96 standard deviations of the score over `samples` bootstraps of the
      networks, copies together, cut to the score's range: where it would lie if the networks were
      trained anew. Not the percentiles: a sample has fewer distinct networks than the family, so
      that its CMI is too high (see `random_scores`) and a percentile interval may lie above the
      value. On a grid the interval is rather too wide, since bootstraps also vary which
      hyper-parameters are there;
    - null_mean, null_05, null_95: the mean and two quantiles of the scores of `permutations`
      permutations of the measure among all networks: what noise scores, a coin for each network;
    - p_value: the share of `permutations` null measures, the measure itself one of them, that score
      as well. They depend on each hyper-parameter as much as the measure, but in a random direction
      (`null_measures`), so that more is asked than of null_95: noise in each network, in each
      setting, and random functions of hyper-parameters are below 0.05 once in twenty times. A
      measure claims that larger values mean larger gaps, so the p-value of a score with a sign is
      one-sided. A small one says that the measure goes with the gap, through settings or beside
      them, not that it tells more than they do: see gain. At the `ENOUGH`-th that scores as well
      no more are drawn, and p is `ENOUGH` over how many there were;
    - p_adjusted: the p-value corrected for judging many measures, over those of the family and
      score (without baselines): the false discovery rate of Benjamini and Hochberg;
    - gain, gain_low, gain_high: how much better than the hyper-parameters alone on the same
      networks, with the paired bootstrap's interval; positive is better, for errors too;
    - reliability: of the family's gap, by `reliability_table`; NaN where it is not known;
    - note: why there is no value (fewer than `NETWORKS` networks have one, or the family has no
      pairs to compare), that the measure is constant, which scores as knowing nothing, or of how
      many networks those that are judged were drawn.

    Source:
        Efron 1979, the bootstrap's normal interval; Phipson and Smyth 2010, the p-value; Besag and
        Clifford 1991, where it ends; Benjamini and Hochberg 1995.

    Raises:
        GengapError: if a score is unknown, a model has two rows, a gap is missing or a family is
            given at several epochs.
    """
    criteria = {name: criterion_of(name) for name in scores}
    reliability = reliability_table(index)["reliability"]
    sizes, rows = index.groupby("family").size(), []
    for family, models, measures in families_of(values, index):
        drawn = f"drawn at random of {sizes[family]:,} networks" if sizes[family] > MOST else ""
        known = baselines(models, seed=seed)
        prepare = judges(models, known[BASELINE].to_numpy(), samples, permutations, seed, task)
        for measure, column in pd.concat([known, measures], axis=1).items():
            labels = {"family": family, "measure": measure, "models": int(column.notna().sum())}
            labels |= {"reliability": reliability[family], "note": drawn}
            found = _judged(column.to_numpy(float), criteria, prepare)
            rows += [labels | row for row in found]
    return _corrected(DataFrame(rows, columns=COLUMNS))


def _judged(column, criteria, prepare) -> list[dict]:
    known = ~np.isnan(column)
    if known.sum() < NETWORKS:
        note = f"{known.sum()} of {len(known)} networks have a value; {NETWORKS} are needed"
        return [{"score": name, "note": note} for name in criteria]
    of_these, measure = prepare(known), column[known]
    nulls = of_these.nulls(measure)
    constant = "the measure is constant here" if (measure == measure[0]).all() else ""
    rows = []
    for name, criterion in criteria.items():
        lacking = of_these.lacks(criterion)
        found = {} if lacking else of_these.judged(measure, criterion, nulls)
        said = {"note": lacking or constant} if lacking or constant else {}
        rows.append({"score": name} | said | found)
    return rows


def judges(
    models, baseline, samples, permutations, seed, task=task_of
) -> Callable[[np.ndarray], "Judge"]:
    """Makes the judge of those networks that have a value, once for measures that share them."""

    @cache
    def judge(known: bytes) -> Judge:
        chosen = np.frombuffer(known, bool)
        part = models[chosen]
        return Judge(part, task(part, seed=seed), baseline[chosen], samples, permutations, seed)

    return lambda known: judge(known.tobytes())


class Judge:
    """Prepares the networks of a family once; keeps the nulls and the baseline's scores."""

    def __init__(self, models, task, baseline, samples, permuted, seed):
        self.task, self.baseline, self.models = task, baseline, models
        self.whole = Sample.whole(task)
        n, generator = len(models), _generator(models, seed)
        draws = bootstraps(n, samples, generator, clusters=task.copies)
        self.sample = Sample(task, draws.astype(float))
        self.orders, self._generator = permutations(n, permuted, generator), generator
        self._nulls, self._baselines = {}, {}

    @cached_property
    def design(self) -> tuple[Design, np.ndarray]:
        """That of the null measures, and the signs of its effects in each of them."""
        design = Design.of(self.models)
        size = len(self.orders), len(design.effects)
        return design, self._generator.choice([-1.0, 1.0], size=size)

    def lacks(self, criterion: Criterion) -> str:
        """Why these networks have no such score; empty if they have."""
        return needs_gaps(self.task) or criterion.lacks(self.task)

    def nulls(self, measure: np.ndarray) -> Nulls:
        """Makes null measures of one measure from a place on, `AT_ONCE`, once for all scores."""

        @cache
        def drawn(ranks_alone: bool, start: int) -> np.ndarray:
            values = normal_scores(measure) if ranks_alone else measure
            (design, signs), part = self.design, slice(start, start + AT_ONCE)
            return null_measures(values, design, signs[part], self.orders[part])

        return drawn

    def judged(self, measure: np.ndarray, criterion: Criterion, nulls: Nulls) -> dict[str, float]:
        """One row's numbers, but for those that need other measures."""
        better, null = criterion.better, self._null(measure, criterion)
        value, drawn = self.scores(measure, criterion)
        if np.isnan(value):
            return {}
        base, base_drawn = self._baseline(criterion)
        half, gain_half = margin(drawn), margin(drawn - base_drawn)
        gain = better * (value - base) + 0.0  # no -0
        low, high = np.quantile(null, [0.05, 0.95])
        return {
            "value": value,
            "low": max(value - half, criterion.lowest),
            "high": min(value + half, criterion.highest),
            "null_mean": null.mean(),
            "null_05": low,
            "null_95": high,
            "p_value": self._p_value(nulls, value, criterion),
            "gain": gain,
            "gain_low": gain - gain_half,
            "gain_high": gain + gain_half,
        }

    def scores(self, measure: np.ndarray, criterion: Criterion) -> tuple[float, np.ndarray]:
        """The score of the networks as they are, and of each bootstrap (S,)."""
        of_each = (self.whole, self.sample)
        value, drawn = (self._known(criterion.score(measure, of), criterion) for of in of_each)
        return float(value[0]), drawn

    def _p_value(self, nulls, value, criterion) -> float:
        reached = np.empty(0, bool)
        for start in range(0, len(self.orders), AT_ONCE):
            drawn = nulls(criterion.ranks_alone, start)
            found = self._known(criterion.score(drawn, self.task), criterion)
            as_well = criterion.better * found >= criterion.better * value - SAME
            reached = np.concatenate([reached, as_well])
            if reached.sum() >= ENOUGH:
                return ENOUGH / (1 + np.flatnonzero(reached)[ENOUGH - 1])
        return (reached.sum() + 1) / (len(reached) + 1)

    def _null(self, measure, criterion) -> np.ndarray:
        # Of a score of ranks it depends on ties alone: all measures without ties share one.
        values = stats.rankdata(measure, method="dense") if criterion.ranks_alone else measure
        key = criterion.score, np.sort(values).tobytes()
        if key not in self._nulls:
            found = criterion.score(np.sort(values)[self.orders], self.task)
            self._nulls[key] = self._known(found, criterion)
        return self._nulls[key]

    @staticmethod
    def _known(scores, criterion) -> np.ndarray:
        return np.where(np.isnan(scores), criterion.of_constant, scores)

    def _baseline(self, criterion) -> tuple[float, np.ndarray]:
        if criterion.score not in self._baselines:
            found = self.scores(self.baseline, criterion)
            nothing = np.isnan(self.baseline).any()  # no hyper-parameter varies
            self._baselines[criterion.score] = (np.nan, found[1] * np.nan) if nothing else found
        return self._baselines[criterion.score]


def _corrected(rows: DataFrame) -> DataFrame:
    judged = rows["p_value"].notna() & ~rows["measure"].isin(BASELINES)
    for _, part in rows[judged].groupby(["family", "score"]):
        adjusted = multipletests(part["p_value"].astype(float), method="fdr_bh")[1]
        rows.loc[part.index, "p_adjusted"] = adjusted
    return rows.astype(dict.fromkeys(NUMBERS, float))


def summary(scores: DataFrame, score: str = "kendall_tau") -> DataFrame:
    """How measures fare over families by one score that has a sign; the best worst case first.

    scores: of `judged`. Families whose gap has a reliability below `RELIABLE` take no part: most of
    what differs there is chance. Those of unknown reliability do.

    Returns by measure: families (that have a score), right_sign (in how many it is above 0),
    beyond_chance (in how many the adjusted p-value is below 0.05: better than measures that follow
    the settings as much, in random directions), beyond_settings (in how many the interval of the
    gain over hyper-parameters alone lies above 0), of_unknown_reliability (how many of the
    families), mean and worst (over families).
    """
    rows = scores[(scores["score"] == score) & scores["value"].notna()]
    rows = rows[~rows["measure"].isin(BASELINES) & ~(rows["reliability"] < RELIABLE)]
    marks = DataFrame(
        {
            "measure": rows["measure"],
            "right_sign": rows["value"] > 0,
            "beyond_chance": rows["p_adjusted"] < 0.05,
            "beyond_settings": rows["gain_low"] > 0,
            "of_unknown_reliability": rows["reliability"].isna(),
        }
    )
    values = rows.groupby("measure")["value"].agg(families="size", mean="mean", worst="min")
    found = values[["families"]].join(marks.groupby("measure").sum())
    return found.join(values[["mean", "worst"]]).sort_values("worst", ascending=False)


def families_of(values: DataFrame, index: DataFrame) -> Iterator[tuple[str, DataFrame, DataFrame]]:
    """Each family with its models and their measures: a column each, rows as the models.

    Of a family of more than `MOST` networks, that many, in the order of the index.

    Raises:
        GengapError: if something is wrong with the values or a family; see `judged`.
    """
    if (twice := values.index.duplicated()).any():
        raise GengapError(f"{values.index[twice][0]!r} has two rows of values; keep one")
    if len(taken := values.columns.intersection(BASELINES)):
        raise GengapError(f"{taken[0]!r} is the name of a baseline; name the measure otherwise")
    for family, models in index.groupby("family", sort=False):
        task_of(models)  # says what is wrong with the family before anything is computed
        if len(models) > MOST:
            models = models.sample(MOST, random_state=0).sort_index()
        yield family, models, values.reindex(models["model_id"])


def criterion_of(name: str) -> Criterion:
    """A score by its name.

    Raises:
        GengapError: if there is none.
    """
    if name not in SCORES:
        raise GengapError(f"no score {name!r}; there are: {', '.join(SCORES)}")
    return SCORES[name]


def _generator(models, seed) -> np.random.Generator:
    """Random numbers that one family always gets, whichever other families are judged."""
    return np.random.default_rng([seed, zlib.crc32(models["family"].iloc[0].encode())])


def rank_correlations(values: DataFrame, index: DataFrame) -> DataFrame:
    """Kendall's tau of each measure with test accuracy and with the generalization gap, by family.

    `values` is a measure table (columns family, model_id, measure, value), `index` the index of its
    models. Indexed by family and measure; columns models (that have a value), median (of the
    values), test accuracy and gap (train minus test accuracy), both tau.
    """
    accuracies = index[["model_id", "test_accuracy"]].assign(gap=gap_of(index))
    groups = values.merge(accuracies, on="model_id").groupby(["family", "measure"])
    return groups.apply(_rank_correlation).astype({"models": int})


def _rank_correlation(models: DataFrame) -> Series:
    models = models.dropna(subset=["value", "test_accuracy", "gap"])
    found = {"models": len(models), "median": models["value"].median()}
    for label, column in (("test accuracy", "test_accuracy"), ("gap", "gap")):
        enough = len(models) > 1
        found[label] = plain_tau(models["value"], models[column]) if enough else float("nan")
    return Series(found)
