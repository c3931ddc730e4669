"""Measures that say nothing and yet may follow the settings: the null behind every p-value.

Who permutes the networks of a family freely asks whether a measure is noise. But most measures vary
with the hyper-parameters, and so does the gap: then a random function of the hyper-parameters is
often "beyond chance", by what it shares with the gap's design and not by what it says.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from pandas import DataFrame
from scipy import stats
from scipy.sparse import csr_array

from gengap.evaluation.baselines import features_of
from gengap.evaluation.tasks import hyperparameters, is_drawn

DIGITS = 9  # of standardized values: what differs by less is tied
NOTHING = 1e-9
LEFT = 0.2  # of the settings' dimensions must be left by functions of two hyper-parameters


@dataclass(frozen=True)
class Design:
    """What the settings of n networks explain of a measure; its size grows as n, not as n squared.

    A part is features (n, k) of one or two hyper-parameters and (k, n) that make their slopes of a
    measure, by least squares in the fit of all parts.
    """

    effects: tuple[tuple[np.ndarray, np.ndarray], ...]
    setting: np.ndarray  # (n,) int: networks of the same settings have the same number

    @classmethod
    def of(cls, models: DataFrame) -> "Design":
        """That of a family's index rows."""
        varied, n = hyperparameters(models), len(models)
        parts = {name: _centered(features_of(name, varied[name]).to_numpy()) for name in varied}
        levels = [part for name, part in parts.items() if not is_drawn(varied[name])]
        setting = np.arange(n)
        if len(parts):
            setting = varied.astype(str).groupby([*varied]).ngroup().to_numpy()
        of_each = cls(_effects([*parts.values()], n), setting)
        products = [
            of_each.unexplained((one[:, :, None] * other[:, None]).reshape(n, -1).T).T
            for one, other in combinations(levels, 2)
        ]
        of_both = cls(of_each.effects + _effects(products, n), setting)
        settings = setting.max() + 1
        enough = settings - 1 - of_both.dimensions >= LEFT * settings
        return of_both if enough else of_each

    @property
    def dimensions(self) -> float:
        """Of the space of all functions that the effects are."""
        return sum(np.einsum("nk,kn", part, slopes) for part, slopes in self.effects)

    def explained(self, measure: np.ndarray) -> np.ndarray:
        """(T, n) the effects of a measure (n,)."""
        found = [part @ (slopes @ measure) for part, slopes in self.effects]
        return np.array(found).reshape(-1, len(measure))

    def unexplained(self, measures: np.ndarray) -> np.ndarray:
        """(..., n) what neither mean nor effects explain of measures (..., n)."""
        # The effects are no projections, but their sum is one and symmetric.
        explained = sum((measures @ slopes.T) @ part.T for part, slopes in self.effects)
        return _centered(measures, axis=-1) - explained

    def between(self, measures: np.ndarray) -> np.ndarray:
        """(..., n) what differs between settings, of what is unexplained."""
        return self.unexplained(measures - self.within(measures))

    def within(self, measures: np.ndarray) -> np.ndarray:
        """(..., n) what differs among networks of the same settings."""
        means = measures @ self._shares
        return measures - means[..., self.setting]

    @cached_property
    def _shares(self) -> csr_array:
        """(n, settings): what each network is of its setting's mean."""
        shares = 1 / np.bincount(self.setting)[self.setting]
        return csr_array((shares, (np.arange(len(shares)), self.setting)))


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
    found = signs @ design.explained(whole)
    for project in (design.between, design.within):
        left = project(whole)
        moved = project(left[orders])
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        found = found + moved * (np.linalg.norm(left) / np.maximum(length, NOTHING))
    return found.round(DIGITS)


def normal_scores(measure: np.ndarray) -> np.ndarray:
    """The quantiles of a normal distribution at a measure's ranks (n,); ties share their rank."""
    return stats.norm.ppf((stats.rankdata(measure) - 0.5) / len(measure))


def _effects(parts: list[np.ndarray], n: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The parts (n, k) of one design, each with what makes its slopes in the fit of all."""
    if not parts:
        return ()
    slopes = np.linalg.pinv(np.concatenate(parts, axis=1))
    ends = np.cumsum([part.shape[1] for part in parts])
    return tuple(zip(parts, np.split(slopes, ends[:-1]), strict=True))


def _centered(part: np.ndarray, axis: int = 0) -> np.ndarray:
    return part - part.mean(axis=axis, keepdims=True)
