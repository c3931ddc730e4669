"""What a paper claims, and whether networks bear it out: a row for each claim.

A claim says that a number lies above a bound. It *holds* where the 95 % intervals of all families
lie above it, *fails* where all lie below it, and *depends* on the networks otherwise.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gengap.evaluation.resampling import bootstrap_interval


@dataclass(frozen=True)
class Found:
    """A number of one family with its interval."""

    value: float
    low: float
    high: float


def found(statistic: Callable[..., float], *arrays: np.ndarray, **options: object) -> Found:
    """`statistic(*arrays)` with the ends of `bootstrap_interval`, which takes the options."""
    arrays = [np.asarray(array) for array in arrays]
    return Found(statistic(*arrays), *bootstrap_interval(statistic, *arrays, **options))


def claim(
    text: str,
    published: str,
    numbers: dict[str, Found],
    section: str,
    *,
    above: float = 0.0,
    digits: int = 2,
) -> dict[str, str]:
    """A row: claim, published, a column for each family, verdict, section.

    numbers: by family, of which the claim says that they lie above a bound. section: where the
    chapter shows them.
    """
    shown = {name: told(number, digits) for name, number in numbers.items()}
    row = {"claim": text, "published": published, **shown}
    return row | {"verdict": verdict(numbers.values(), above), "shown in": section}


def verdict(numbers: Iterable[Found], above: float) -> str:
    numbers = list(numbers)
    if numbers and all(number.low > above for number in numbers):
        return "holds"
    if numbers and all(number.high < above for number in numbers):
        return "fails"
    return "depends"


def told(number: Found, digits: int) -> str:
    return f"{number.value:.{digits}f} [{number.low:.{digits}f}, {number.high:.{digits}f}]"


def claim_table(rows: Iterable[dict[str, str]]) -> pd.DataFrame:
    """Rows of `claim`, indexed by claim."""
    return pd.DataFrame(rows).set_index("claim")
