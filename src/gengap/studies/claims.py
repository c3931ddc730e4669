"""What a paper claims, and whether networks bear it out: a row for each claim.

A claim says that a number lies above a bound. It *holds* where the 95 % intervals of all families
lie above it, *fails* where all lie below it, and *depends* on the networks otherwise. Without any
family it is *not tested*.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gengap.evaluation.resampling import bootstrap_interval

UNTESTED = "not tested"


@dataclass(frozen=True)
class Found:
    """A number of one family with its interval."""

    value: float
    low: float
    high: float


def lead(
    statistic: Callable[[np.ndarray, np.ndarray], Any],
    target: np.ndarray,
    columns: Sequence[np.ndarray],
    **options: Any,
) -> Found:
    """How far `statistic(target, column)` of the first lies above the best of the others, or 0.

    The ends are the least ones of the differences from each of the others, whose intervals hold
    together with 95 % (Bonferroni): the best of several on the same networks looks better than it
    is. Bootstraps, which take the options of `bootstrap_interval`, draw rows of all jointly.
    """

    def ahead_of(target: np.ndarray, *pair: np.ndarray) -> float:
        return ahead([statistic(target, column) for column in pair])

    first, *others = columns
    pairs: list[tuple] = [(first, other) for other in others] or [(first,)]
    options |= {"confidence": 1 - 0.05 / len(pairs)}
    ends = [bootstrap_interval(ahead_of, target, *pair, **options) for pair in pairs]
    low, high = np.min(ends, axis=0)
    return Found(ahead_of(np.asarray(target), *map(np.asarray, columns)), low, high)


def ahead(scores: Sequence[float]) -> float:
    """How far the first lies above the best of the others, or above 0."""
    return scores[0] - max(scores[1:], default=0.0)


def claim(
    text: str,
    published: str,
    numbers: dict[str, Found],
    section: str,
    *,
    above: float = 0.0,
) -> dict[str, str]:
    """A row: claim, published, a column for each family, verdict, section.

    numbers: by family, of which the claim says that they lie above a bound. section: where the
    chapter shows them.
    """
    shown = {name: told(number) for name, number in numbers.items()}
    row = {"claim": text, "published": published, **shown}
    return row | {"verdict": verdict(numbers.values(), above), "shown in": section}


def verdict(numbers: Iterable[Found], above: float) -> str:
    sides = [(number.low > above, number.high < above) for number in numbers]
    if not sides:
        return UNTESTED
    holds, fails = map(all, zip(*sides))
    return "holds" if holds else "fails" if fails else "depends"


def told(number: Found) -> str:
    text = f"{number.value:z.2f} [{number.low:z.2f}, {number.high:z.2f}]"
    return "none" if np.isnan(number.value) else text


def claim_table(rows: Iterable[dict[str, str]]) -> pd.DataFrame:
    """Rows of `claim`, indexed by claim."""
    return pd.DataFrame(rows).set_index("claim")


def tally(verdicts: pd.Series) -> str:
    """How many claims hold, depend and fail, in words: `2 hold and 1 depends on the networks`."""
    words = {"holds": "hold{}", "depends": "depend{} on the networks", "fails": "fail{}"}
    counts = {text: (verdicts == verdict).sum() for verdict, text in words.items()}
    told = [f"{n} {text.format('s' if n == 1 else '')}" for text, n in counts.items() if n]
    return " and ".join(filter(None, [", ".join(told[:-1]), *told[-1:]])) or "none"
