"""How well a measure orders networks by their gap: each score once.

A score takes measures (..., n) in the order of a task's networks, and the task or a `Sample` of it.
It returns (...) for a task and (..., S) for a sample of S bootstraps, so that thousands of
permutations, or of bootstraps, are a few matrix products.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps

import numpy as np
from scipy import stats

from gengap.evaluation.resampling import permutations
from gengap.evaluation.samples import Sample, larger_than
from gengap.evaluation.tasks import PAIRS, Task, indicator, read_task, values_of

SAME = 1e-9  # scores nearer than this are equal: orders of summation differ by less
BATCH = 2**22  # numbers that a score holds at once, of each of its few matrices


Score = Callable[[np.ndarray, Task | Sample], np.ndarray]


def _of_many(score: Callable[[np.ndarray, Sample], np.ndarray]) -> Score:
    """Makes a function of measures (M, n) and a Sample a score of any number, in batches."""

    @wraps(score)
    def scored(measures: np.ndarray, of: Task | Sample) -> np.ndarray:
        sample = Sample.whole(of) if isinstance(of, Task) else of
        measures, n = np.asarray(measures, float), len(sample.task.gap)
        if measures.shape[-1:] != (n,):
            raise ValueError(f"a measure of shape {measures.shape} for {n} networks")
        batch = max(1, BATCH // (n * (n + len(sample.draws))))
        parts = [score(rows, sample) for rows in _batches(measures.reshape(-1, n), batch)]
        found = np.concatenate(parts)
        found = found[:, 0] if isinstance(of, Task) else found
        return found.reshape(measures.shape[:-1] + found.shape[1:])[()]

    return scored


def _batches(rows: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    return (rows[start : start + batch] for start in range(0, len(rows), batch))


@_of_many
def kendall_tau(measures, sample):
    """Kendall's tau-b of measure and gap, which corrects for ties; NaN if one is constant.

    Source:
        Kendall 1945.
    """
    larger = larger_than(measures)
    untied = sample.pairs(larger) * sample.gap_untied
    return _ratio(sample.pairs(larger * sample.task.gap_signs), np.sqrt(untied))


@_of_many
def spearman(measures, sample):
    """Spearman's rank correlation of measure and gap; NaN if one is constant.

    Ties have their mean rank. Source: Spearman 1904.
    """
    one, other, draws = sample.ranks(larger_than(measures)), sample.gap_ranks, sample.draws
    products = [(draws * a * b).sum(axis=-1) for a, b in ((one, other), (one, one))]
    return _ratio(products[0], np.sqrt(products[1] * (draws * other * other).sum(axis=-1)))


@_of_many
def pearson(measures, sample):
    """Pearson's correlation of measure and gap; NaN if one is constant or not finite."""
    weights = sample.draws / sample.draws.sum(axis=-1, keepdims=True)
    sides = [measures[:, None], sample.task.gap[None, None]]
    # Times a power of two, which changes no digit: a square of 1e200 is infinite.
    sides = [np.ldexp(side, -np.frexp(abs(side).max(axis=-1, keepdims=True))[1]) for side in sides]
    varies = [_varies(side, sample.draws) for side in sides]
    with np.errstate(invalid="ignore", divide="ignore"):
        one, other = (side - (weights * side).sum(axis=-1, keepdims=True) for side in sides)
        variances = [(weights * side**2).sum(axis=-1) for side in (one, other)]
        found = (weights * one * other).sum(axis=-1) / np.sqrt(variances[0] * variances[1])
    return np.where(varies[0] & varies[1], found, np.nan)


@_of_many
def granulated_tau(measures, sample):
    """Agreement with the gap where one hyper-parameter changes.

    For each hyper-parameter Kendall's tau over the pairs of networks that differ in nothing else
    (tau-a: a tie counts 0 and stays in the denominator), then the mean over hyper-parameters. Those
    without such pairs, as of one value, are left out.

    Source:
        Jiang et al. 2020, 'Fantastic generalization measures', the average of psi_i.

    Differs:
        copies make pairs each with each.
    """
    return _mean(
        _by_group(_agreement(measures, sample.task), sample, sample.task.by_hyperparameter)
    )


@_of_many
def sign_errors(measures, sample):
    """(..., E) share of pairs that the measure orders against the gap, in each environment.

    An environment is a hyper-parameter and two of its values; its pairs are the networks that have
    one and the other and are alike in all else, copies each with each. A tie of the measure is
    half an error; pairs of equal gaps ask nothing and are left out. 0 is perfect, 1/2 is chance.
    Environments have at least `PAIRS` pairs; NaN where a sample drew none.

    Source:
        Dziugaite et al. 2020, 'In search of robust measures of generalization', the sign-error;
        nitarshan/robust-generalization-measures, create_environments.py and
        figure_cdf_all_measures.py.

    Differs:
        there an environment fixes the values of the other hyper-parameters too and averages over
        seeds, where one network for each setting would be one pair, and the worst 1 for every
        measure that is not perfect; a pair has the probability that its gaps differ on more test
        images as weight, and the weights of an environment must be worth 12 pairs.
    """
    agreement = _agreement(measures, sample.task)
    return _by_group((1 - agreement) / 2, sample, sample.task.environments)


@_of_many
def mean_sign_error(measures, sample):
    """The mean of `sign_errors` over environments."""
    return _mean(sign_errors(measures, sample))


@_of_many
def worst_sign_error(measures, sample):
    """The largest of `sign_errors` over environments: how far a measure fails somewhere."""
    return np.fmax.reduce(sign_errors(measures, sample), axis=-1, initial=np.nan)


@_of_many
def r2_of_ranks(measures, sample):
    """Share of the gap's variance that the measure predicts, each network from the other folds.

    The gap by least squares on the measure's rank among all networks of the family, in `FOLDS`
    folds that are pooled; at most 1, and about 0 or less for a measure that tells nothing. The
    direction is fitted, so that a measure is not blamed for the wrong sign.
    """
    task, draws = sample.task, sample.draws
    gap, folds = task.gap - task.gap.mean(), indicator(task.in_fold[:, None])
    ranks = stats.rankdata(measures, axis=-1) / len(gap)
    x = (ranks - ranks.mean(axis=-1, keepdims=True))[:, None]
    size, sum_x, sum_y, sum_xx, sum_xy = (
        (draws * part) @ (1 - folds) for part in (1, x, gap, x * x, x * gap)
    )
    with np.errstate(invalid="ignore", divide="ignore"):  # a sample may lie in one fold
        spread = sum_xx - sum_x**2 / size
        slope = np.where(spread > SAME, (sum_xy - sum_x * sum_y / size) / spread, 0)
        intercept = (sum_y - slope * sum_x) / size
        predicted = intercept @ folds.T + (slope @ folds.T) * x
        mean = (draws @ gap / draws.sum(axis=-1))[:, None]
        squares = [(draws * (gap - part) ** 2).sum(axis=-1) for part in (predicted, mean)]
        return 1 - squares[0] / squares[1]


@_of_many
def cmi(measures, sample):
    """The score of the competition Predicting Generalization in Deep Learning, a fraction.

    How much the sign of a measure's difference between two networks tells of the sign of the gap's,
    given two hyper-parameters of both: mutual information over entropy of the gap's sign, each the
    plain mean over cells; the least over all pairs of hyper-parameters. 1 is perfect, 0 tells
    nothing. Blind to the measure's sign, and positive by chance: compare with `null_mean`.

    Source:
        Jiang et al. 2020, arXiv 2012.07976; by the competition's rules (see
        `conditional_mutual_information`) on its tasks.

    Differs:
        where all measures are judged, hyper-parameters of one value are left out (the competition
        conditions on one other alone beside them); the grid may be incomplete and have copies, and
        cells without a pair are left out of the mean; values that would be written alike are kept
        apart; a hyper-parameter of more than `DRAWN` numbers was drawn at random and enters as
        above its median or not.

    Raises:
        GengapError: if a task of the competition is no complete grid of two or more
            hyper-parameters.
    """
    conditions = sample.task.conditions
    larger, gap_plus = larger_than(measures), sample.cells_of_larger_gap
    plus, both = sample.cells(larger), sample.cells(larger & sample.task.larger_gap)
    gap_minus = sample.cell_sizes - gap_plus
    told, whole = information([[gap_minus - plus + both, plus - both], [gap_plus - both, both]])
    told, whole = (np.add.reduceat(part, conditions.first) for part in (told, whole))
    # The entropy of a cell whose pairs all have one sign is not exactly 0.
    scores = np.divide(told, whole, out=np.zeros_like(told), where=whole > SAME)
    scores[conditions.undefined] = np.nan
    least = np.full(scores.shape[1:], np.inf)
    for score in scores:  # as min(score, least) of Python: a NaN replaces, and is replaced
        least = np.where(least < score, least, score)
    return least


def information(tables: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Of tables of 2 by 2 arrays: information of the two signs and entropy of the first, in bits.

    A table counts pairs of networks by the signs of gap and measure. Both as large as the arrays,
    and 0 where a table is empty.
    """
    (a, b), (c, d) = tables
    size = a + b + c + d
    share = 1 / np.where(size > 0, size, 1)
    gaps, signs = [(a + b) * share, (c + d) * share], [(a + c) * share, (b + d) * share]
    told = np.zeros_like(share)
    for row, gap in zip(tables, gaps, strict=True):
        for count, sign in zip(row, signs, strict=True):
            seen = count > 0
            ratio = np.divide(count * share, gap * sign, out=np.ones_like(count), where=seen)
            told = told + count * share * np.log2(ratio)
    return told, -sum(gap * np.log2(gap + 1e-12) for gap in gaps)


def conditional_mutual_information(predictions: Mapping[str, float], specs: Mapping) -> float:
    """The competition's score of a measure on one task, a fraction (it was reported times 100).

    predictions: the measure by `model_<id>`. specs: the content of the task's `model_configs.json`,
    whose `metrics` may hold `gen_gap` in place of `train_acc` and `test_acc`.

    The score `cmi` as officially taken: all ordered pairs of networks count, each with itself too;
    a sign is plus only if strictly larger, so that ties and NaN are minus; cells are keyed by the
    values written one after the other, so that of cells written alike the last holds all and the
    others are empty, which makes that pair of hyper-parameters NaN, and NaN the score unless
    another pair follows.

    Source:
        Jiang et al. 2020, arXiv 2012.07976; scoring_program/mutual_information.py of
        google-research/pgdl.

    Differs:
        what the official program punishes with a task score of -0.999999 (a missing or unknown
        prediction, a grid with holes or repetitions) is an error.

    Raises:
        GengapError: for those, and for a prediction that is no number.
    """
    task = read_task(specs)
    return float(cmi(values_of(predictions, task), task))


def random_scores(task: Task, *, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """The competition's score of `draws` random measures on a task, (draws,).

    Any measure without ties, its networks shuffled: how high chance alone scores there.
    """
    return cmi(permutations(len(task.gap), draws, np.random.default_rng(seed)), task)


def plain_tau(x: np.ndarray, y: np.ndarray) -> float:
    """`kendall_tau` of two vectors (N,), by sorting: N may be too large to compare all pairs.

    Source:
        Kendall 1945; scipy.stats.kendalltau.
    """
    return float(stats.kendalltau(x, y, variant="b").statistic)


def plain_spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's correlation (...) of each row (..., N) with the same row of the other.

    NaN where a row is constant. Source: Spearman 1904.
    """
    ranks = [stats.rankdata(side, axis=-1) for side in (one, other)]
    x, y = (side - side.mean(axis=-1, keepdims=True) for side in ranks)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=-1) / np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))


def _agreement(measures, task) -> np.ndarray:
    """(M, P) of neighbouring pairs: 1 if ordered as by the gap, -1 if against it, 0 if tied."""
    one, other, _ = task.neighbours
    first, second = measures[:, one], measures[:, other]
    return ((first > second) * 1.0 - (first < second)) * task.gap_signs[one, other]


def _by_group(values, sample, member) -> np.ndarray:
    """(M, S, G) mean of neighbouring pairs' values (M, P) in each group, NaN if none was drawn."""
    sums = (sample.neighbours * values[:, None]) @ member
    sizes = np.broadcast_to(sample.neighbours @ member, sums.shape)
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)


def _mean(groups) -> np.ndarray:
    """Mean over the last axis of what is no NaN; NaN if all are."""
    defined = ~np.isnan(groups)
    sums, sizes = np.where(defined, groups, 0).sum(axis=-1), defined.sum(axis=-1)
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)


def _ratio(told, whole) -> np.ndarray:
    """told / whole, and NaN where the whole is 0: nothing can be told."""
    return np.divide(told, whole, out=np.full_like(whole, np.nan, dtype=float), where=whole > 0)


def _varies(values, draws) -> np.ndarray:
    """(..., S) whether drawn values (..., n) are finite and not all the same."""
    drawn = draws > 0
    low = np.where(drawn, values, np.inf).min(axis=-1)
    return np.where(drawn, values, -np.inf).max(axis=-1) > low


def needs_gaps(task: Task) -> str:
    """Why a task has no score at all; empty if it has."""
    return "" if np.ptp(task.gap) > 0 else "all networks have the same gap"


def _needs_conditions(task: Task) -> str:
    varied = task.levels.shape[1]
    if varied < 2:
        return f"{varied} hyper-parameters vary; 2 are needed"
    if task.official:
        return task.no_grid
    groups, columns = task.conditions.groups, task.conditions.columns
    if min(groups[:, of].sum(axis=0).max() for of in columns) < 2:
        return "no two networks share the values of two hyper-parameters"
    return ""


def _needs_neighbours(task: Task) -> str:
    pairs = len(task.neighbours[0])
    if pairs >= PAIRS:
        return ""
    return f"{pairs} pairs of networks differ in one hyper-parameter alone; {PAIRS} are needed"


def _needs_environments(task: Task) -> str:
    if task.environments.shape[1]:
        return ""
    return (
        f"no two values of a hyper-parameter have {PAIRS} pairs of networks that differ in"
        " nothing else and have different gaps"
    )


@dataclass(frozen=True)
class Criterion:
    """A score, and how it is read."""

    score: Score
    lowest: float
    highest: float
    better: int = 1  # -1 where a lower score is better
    of_constant: float = float("nan")  # what a constant measure, which knows nothing, is given
    lacks: Callable[[Task], str] = lambda task: ""  # why a family has no such score
    ranks_alone: bool = True  # whether it depends on a measure's order and ties alone


# Those that judge all measures see order alone: a measure's scale, or a logarithm, changes nothing.
CRITERIA = {
    "cmi": Criterion(cmi, 0, 1, lacks=_needs_conditions),
    "kendall_tau": Criterion(kendall_tau, -1, 1, of_constant=0),
    "granulated_tau": Criterion(granulated_tau, -1, 1, lacks=_needs_neighbours),
    "spearman": Criterion(spearman, -1, 1, of_constant=0),
    "r2": Criterion(r2_of_ranks, -np.inf, 1),
    "mean_sign_error": Criterion(mean_sign_error, 0, 1, -1, lacks=_needs_environments),
    "worst_sign_error": Criterion(worst_sign_error, 0, 1, -1, lacks=_needs_environments),
}
SCORES = CRITERIA | {"pearson": Criterion(pearson, -1, 1, ranks_alone=False)}
