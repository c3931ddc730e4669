"""Numbers that papers report, and how they are shown beside ours."""

import pandas as pd

from gengap import folders
from gengap.errors import GengapError


def reported(name: str) -> pd.DataFrame:
    """The reported numbers of `data/published/<name>.csv`; the README there names each source.

    Raises: GengapError for an unknown name, with the names that exist.
    """
    folder = folders.data() / "published"
    path = folder / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.csv"))) or "none"
        raise GengapError(f"no reported numbers are called '{name}'; {folder} has: {known}")
    return pd.read_csv(path)


def beside(
    reported_values: pd.Series | pd.DataFrame, ours: pd.Series | pd.DataFrame, *, digits: int
) -> pd.DataFrame:
    """Reported values and ours for the rows of `ours`, in columns `published` and `ours`.

    Both are matched by index and rounded to `digits` decimals, those of the paper. Two frames with
    the same columns give two groups of columns. A row that nobody reported has NaN as `published`.

    Raises: GengapError if there are rows of ours and none was reported (they have another index).
    """
    if len(ours) and not ours.index.isin(reported_values.index).any():
        raise GengapError(
            f"no row of ours ({ours.index[0]!r}, ...) is among the reported ones "
            f"({reported_values.index[0]!r}, ...); give both the same index"
        )
    matched = reported_values.reindex(ours.index)
    return pd.concat({"published": matched, "ours": ours}, axis=1).round(digits)
