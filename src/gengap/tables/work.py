"""How long work will take, told by a pilot before it begins."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gengap.collection import Collection
from gengap.errors import GengapError

PILOT = 3  # models that are computed first, spread over those that are missing
BUDGET = "GENGAP_BUDGET"  # minutes, where none are given: what chapters set for their kernels


class OverBudget(GengapError):
    """What is missing would take longer than it may; the pilot's values are kept."""

    def __init__(self, collection: Collection, models: int, seconds: float, budget: float):
        self.models, self.seconds = models, seconds
        unit = "core" if collection.device.type == "cpu" else "GPU"
        self.hours = f"{max(seconds / 3600, 0.01):,.2f} {unit}-hours"
        super().__init__(
            f"{models:,} models of {collection.name} lack values, which would take about"
            f" {self.hours} by a pilot of {PILOT} models: more than the budget of {budget:g}"
            " minutes. Compute them first: `gengap measure` (or `gengap details`) with --yes does"
            " so, in as many processes as you like, and goes on where it was stopped"
        )


def within_budget(
    compute: Callable[..., Iterator[tuple[int, Any]]],
    items: Sequence,
    collection: Collection,
    budget: float | None = None,
) -> Iterator[tuple[int, Any]]:
    """What `compute` gives for the items, if it takes no longer than the budget.

    budget: minutes of one process; None is what the environment variable GENGAP_BUDGET says, and
    without it all the time that is needed. `PILOT` items are computed and timed before the others.

    Raises:
        GengapError: `OverBudget` after the pilot, if the others would take longer.
    """
    budget = float(os.environ.get(BUDGET, "inf")) if budget is None else budget
    if math.isinf(budget) or len(items) <= PILOT:
        yield from compute(items)
        return
    first = {(2 * at + 1) * len(items) // (2 * PILOT) for at in range(PILOT)}
    started = time.monotonic()
    # By one process, which is quick to start; a cluster takes the pilot as it takes the rest.
    yield from compute([items[at] for at in sorted(first)], workers=1)
    seconds = (time.monotonic() - started) / PILOT * (len(items) - PILOT)
    if seconds > 60 * budget:
        raise OverBudget(collection, len(items) - PILOT, seconds, budget)
    yield from compute([item for at, item in enumerate(items) if at not in first])
