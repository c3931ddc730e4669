"""Networks drawn from a task, and the counts of pairs that scores are made of.

A bootstrap draws networks with replacement. A pair of networks then counts as often as both were
drawn together; a network drawn twice makes no pair with itself, and is in one fold. The
competition's score, which by definition pairs each network with itself, does so once for each time
that it was drawn.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gengap.evaluation.tasks import Conditions, Task

COUNTED = 2**20  # numbers that are held at once while pairs are counted


@dataclass(frozen=True)
class Sample:
    """Drawn networks of a task, and what the scores of all measures on them share."""

    task: Task
    draws: np.ndarray  # (S, n) float: how often each of S bootstraps drew a network

    @classmethod
    def whole(cls, task: Task) -> "Sample":
        """Each network drawn once."""
        return cls(task, np.ones((1, len(task.gap))))

    @cached_property
    def gap_ranks(self) -> np.ndarray:
        """(S, n) each network's rank by its gap in the sample, times 2 and centered."""
        return self.ranks(self.task.larger_gap)

    @cached_property
    def gap_untied(self) -> np.ndarray:
        """(S,) pairs of different gaps."""
        return self.pairs(self.task.larger_gap)

    @cached_property
    def neighbours(self) -> np.ndarray:
        """(S, P) how often both networks of each neighbouring pair were drawn."""
        one, other, _ = self.task.neighbours
        return self.draws[:, one] * self.draws[:, other]

    def ranks(self, larger: np.ndarray) -> np.ndarray:
        """(..., S, n) ranks, times 2 and centered, by what is `larger` (..., n, n); copies tie."""
        larger, draws = larger.astype(np.float32), self.draws.astype(np.float32)
        return (draws @ larger.swapaxes(-1, -2) - draws @ larger).astype(float)

    def pairs(self, compared: np.ndarray) -> np.ndarray:
        """(..., S) sum of matrices (..., n, n) over drawn pairs."""
        # Whole numbers below 2^24 are exact in float32.
        compared, draws = compared.astype(np.float32, copy=False), self.draws.astype(np.float32)
        return ((draws @ compared) * self.draws).sum(axis=-1)

    def cells(self, pairs: np.ndarray) -> np.ndarray:
        """(cells, M, S) how many of the pairs (M, n, n) bool were drawn, in each cell."""
        drawn, groups = self.draws.T.astype(np.float32), self.task.conditions.groups
        # Of one sample all groups at once are one product; of many, each has work enough.
        count = _in_all_groups if drawn.shape[1] == 1 else _group_by_group
        at_once = max(1, COUNTED // (drawn.size * groups.shape[1]))
        parts = [pairs[start : start + at_once] for start in range(0, len(pairs), at_once)]
        found = [count(part.astype(np.float32), drawn, self.task.conditions) for part in parts]
        return np.concatenate(found).swapaxes(0, 1).astype(float)

    @cached_property
    def cell_sizes(self) -> np.ndarray:
        """(cells, 1, S) drawn pairs in each cell, with each copy of a network once with itself."""
        conditions = self.task.conditions
        others = ~np.eye(len(self.task.gap), dtype=bool)
        sizes = self.cells(others[None])
        sizes[conditions.equals, 0] += (self.draws @ conditions.groups).T
        return sizes

    @cached_property
    def cells_of_larger_gap(self) -> np.ndarray:
        """(cells, 1, S) drawn pairs whose first network has the larger gap."""
        return self.cells(self.task.larger_gap[None])


def larger_than(values: np.ndarray) -> np.ndarray:
    """(..., n, n) bool: whether the row's value is larger than the column's."""
    return values[..., :, None] > values[..., None, :]


def _in_all_groups(pairs: np.ndarray, drawn: np.ndarray, conditions: Conditions) -> np.ndarray:
    """(M, cells, 1) drawn pairs in each cell, of one sample (n, 1)."""
    counts = conditions.groups * drawn
    towards = pairs @ counts
    found = [counts[:, of].T @ towards[..., of] for of in conditions.columns]
    return np.concatenate([part.reshape(len(pairs), -1, 1) for part in found], axis=1)


def _group_by_group(pairs: np.ndarray, drawn: np.ndarray, conditions: Conditions) -> np.ndarray:
    """(M, cells, S) drawn pairs in each cell, of S samples (n, S)."""
    found = []
    for of in conditions.columns:
        groups = conditions.groups[:, of]
        members = map(np.flatnonzero, groups.T)
        towards = np.stack([pairs[..., who] @ drawn[who] for who in members], axis=2)
        towards *= drawn[:, None]
        cells = groups.T @ towards.reshape(*pairs.shape[:2], -1)
        found.append(cells.reshape(len(pairs), -1, drawn.shape[1]))
    return np.concatenate(found, axis=1)
