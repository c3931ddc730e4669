"""Networks drawn from a task, and the counts of pairs that scores are made of.

A bootstrap draws networks with replacement. A pair of networks then counts as often as both were
drawn together; a network drawn twice makes no pair with itself, and is in one fold. The
competition's score, which by definition pairs each network with itself, does so once for each time
that it was drawn.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gengap.evaluation.tasks import Task


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
        return self.ranks(self.task.gap_signs)

    @cached_property
    def gap_untied(self) -> np.ndarray:
        """(S,) ordered pairs of different gaps."""
        return self.pairs(np.abs(self.task.gap_signs))

    @cached_property
    def neighbours(self) -> np.ndarray:
        """(S, P) how often both networks of each neighbouring pair were drawn."""
        one, other, _ = self.task.neighbours
        return self.draws[:, one] * self.draws[:, other]

    def ranks(self, compared: np.ndarray) -> np.ndarray:
        """(..., S, n) ranks, times 2 and centered, by signs (..., n, n); copies are tied."""
        return (self.draws.astype(np.float32) @ compared.swapaxes(-1, -2)).astype(float)

    def pairs(self, compared: np.ndarray) -> np.ndarray:
        """(..., S) sum of matrices (..., n, n) over drawn pairs."""
        # Whole numbers below 2^24 are exact in float32.
        return ((self.draws.astype(np.float32) @ compared) * self.draws).sum(axis=-1)

    @cached_property
    def members(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each bootstrap the networks drawn (m,), and how often in each group (m, groups)."""
        groups = self.task.conditions.groups
        drawn = [np.flatnonzero(row) for row in self.draws]
        counts = self.draws.astype(np.float32)
        return [(who, groups[who] * row[who, None]) for who, row in zip(drawn, counts, strict=True)]

    def cells(self, pairs: np.ndarray) -> np.ndarray:
        """(cells, M, S) how many of the pairs (M, n, n) bool were drawn, in each cell."""
        found = [self._cells_of(pairs, who, counts) for who, counts in self.members]
        return np.stack(found, axis=-1).astype(float)

    def _cells_of(self, pairs, who, counts) -> np.ndarray:
        """(cells, M) of one bootstrap."""
        if len(who) < pairs.shape[-1]:
            pairs = pairs[:, who[:, None], who]
        # One product for all conditions: a wide matrix is much faster than many narrow ones.
        towards = pairs.astype(np.float32) @ counts
        found = [counts[:, of].T @ towards[..., of] for of in self.task.conditions.columns]
        return np.concatenate([part.reshape(len(part), -1) for part in found], axis=1).T

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


def signs(values: np.ndarray) -> np.ndarray:
    """(..., n, n) float32: sign of the row's value minus the column's."""
    larger = (values[..., :, None] > values[..., None, :]).astype(np.float32)
    return larger - larger.swapaxes(-1, -2)
