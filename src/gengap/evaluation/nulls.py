"""Measures that say nothing and yet may follow the settings: the null behind every p-value.

Who permutes the networks of a family freely asks whether a measure is noise. But most measures vary
with the hyper-parameters, and so does the gap: then a random function of the hyper-parameters is
often "beyond chance", by what it shares with the gap's design and not by what it says.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from pandas import DataFrame
from scipy import stats

from gengap.evaluation.baselines import features_of
from gengap.evaluation.tasks import hyperparameters, is_drawn

DIGITS = 9  # of standardized values: what differs by less is tied
NOTHING = 1e-9
LEFT = 0.2  # of the settings' dimensions must be left by functions of two hyper-parameters


@dataclass(frozen=True)
class Design:
    """What the settings of n networks explain of a measure, in matrices that multiply it."""

    effects: np.ndarray  # (T, n, n): the part of each hyper-parameter, and of each two
    rest: tuple[np.ndarray, np.ndarray]  # (n, n): what else differs between settings; in one

    @classmethod
    def of(cls, models: DataFrame) -> "Design":
        """That of a family's index rows."""
        varied, n = hyperparameters(models), len(models)
        parts = {name: _centered(features_of(name, varied[name]).to_numpy()) for name in varied}
        levels = [part for name, part in parts.items() if not is_drawn(varied[name])]
        effects = _effects([*parts.values()], n)
        of_each = np.eye(n) - 1 / n - effects.sum(axis=0)
        products = [
            of_each @ (one[:, :, None] * other[:, None]).reshape(n, -1)
            for one, other in combinations(levels, 2)
        ]
        alike = np.eye(n)
        if len(parts):
            same = varied.astype(str).groupby([*varied]).ngroup().to_numpy()
            alike = (same[:, None] == same) / np.bincount(same)[same]
        settings = np.trace(alike)
        both = np.concatenate([effects, _effects(products, n)])
        if settings - 1 - np.trace(both.sum(axis=0)) >= LEFT * settings:
            effects = both
        between = alike - 1 / n - effects.sum(axis=0)
        return cls(effects, (between, np.eye(n) - alike))


def null_measures(
    measure: np.ndarray, design: Design, signs: np.ndarray, orders: np.ndarray
) -> np.ndarray:
    """(count, n) measures that depend on the settings as much as the measure (n,) and say nothing.

    measure: finite values. signs: (count, T) 1 or -1; orders: (count, n) of `permutations`. By
    least squares the measure is a sum of a function of each hyper-parameter, a function of each two
    that are no numbers drawn at random (where a grid is full enough to tell them), and of a rest.
    In a null measure each function has a random sign: it may be as strong, but does not know which
    way the gap goes. The rest is permuted, projected onto the space that it comes from, and scaled
    to its length; where several networks share all settings, what differs between settings and what
    differs in one are moved each in its own space, so that copies stay as alike as they are.
    Without hyper-parameters that is a plain permutation. Standardized.

    The level of a test with it is exact for measures whose functions have any shape and a sign that
    is as likely the reverse, and whose rest is normal, on a complete grid; nearly so otherwise.

    Source:
        Langsrud 2005, 'Rotation tests'; Freedman and Lane 1983, permuted residuals; Winkler et al.
        2014, signs.

    Differs:
        there the effects of what is controlled for are kept; here their signs are drawn, so that a
        score that comes from effects in the wrong direction is never beyond chance.
    """
    whole = (measure - measure.mean()) / (measure.std() or 1)
    found = signs @ (design.effects @ whole)
    for project in design.rest:
        left = project @ whole
        moved = left[orders] @ project
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        found = found + moved * (np.linalg.norm(left) / np.maximum(length, NOTHING))
    return found.round(DIGITS)


def normal_scores(measure: np.ndarray) -> np.ndarray:
    """The quantiles of a normal distribution at a measure's ranks (n,); ties share their rank."""
    return stats.norm.ppf((stats.rankdata(measure) - 0.5) / len(measure))


def _effects(parts: list[np.ndarray], n: int) -> np.ndarray:
    """(T, n, n) of parts (n, k) of one design: the fit of each, in the fit of all."""
    if not parts:
        return np.empty((0, n, n))
    slopes = np.linalg.pinv(np.concatenate(parts, axis=1))
    ends = np.cumsum([part.shape[1] for part in parts])
    own = np.split(slopes, ends[:-1])
    return np.array([part @ of for part, of in zip(parts, own, strict=True)])


def _centered(part: np.ndarray) -> np.ndarray:
    return part - part.mean(axis=0)
