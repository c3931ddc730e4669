"""How much of a family's differences in the gap could be told at all.

A gap is the difference of two accuracies, each a share of some number N of images. On other images
of the same kind it would come out otherwise, and no measure can foretell that part of it.
"""

import numpy as np
from pandas import DataFrame

from gengap.errors import GengapError
from gengap.evaluation.tasks import COPY, gap_of, task_of

RELIABLE = 0.5  # families whose gap has a lower reliability take no part in verdicts
IMAGES = {"train_images": "train_accuracy", "test_images": "test_accuracy"}


def reliability_table(index: DataFrame) -> DataFrame:
    """By family: networks, reliability, of_copies, note (why the reliability is not known).

    reliability: 1 minus the mean binomial variance of a gap over the variance of the gaps. The
    binomial variance is a(1 - a) / N of the training accuracy plus the same of the test accuracy,
    where a column of the index gives N: `train_images` and `test_images`, how many images **the
    accuracy was taken over**, which for the training accuracy need not be all that a network was
    trained on. It takes the images of either accuracy as drawn anew, for each network other ones.
    All networks of a family meet the same test images, whose difficulty they share, so that this
    variance is an upper bound and the reliability a lower one; it may be negative.

    of_copies: the one-way intraclass correlation of the gaps of networks trained alike but for
    their seed, where there is a column `hp_copy`: the share of the variance that lies between
    settings. What a seed does to a network counts as noise there, though a measure may see it; what
    is in the test images, which copies share, does not.

    Source:
        Shrout and Fleiss 1979, ICC(1, 1), with the mean size of unequal groups of Searle 1971.

    Raises:
        GengapError: if a number of images is not positive, or as `task_of`.
    """
    rows = []
    for family, models in index.groupby("family", sort=False):
        found, note = _reliability(models)
        copies = _of_copies(models)
        labels = {"family": family, "networks": len(models)}
        rows.append(labels | {"reliability": found, "of_copies": copies, "note": note})
    return DataFrame(rows).set_index("family")


def _reliability(models: DataFrame) -> tuple[float, str]:
    missing = [name for name in IMAGES if name not in models or models[name].isna().any()]
    if missing:
        return np.nan, f"the index does not say {' and '.join(missing)}"
    if len(models) == 1:
        return np.nan, "there is one network"
    spread = np.var(gap_of(models), ddof=1)
    if np.isnan(spread):
        return np.nan, "an accuracy is not known"
    if not spread > 0:
        return np.nan, "all networks have the same gap"
    noise = sum(_binomial(models, images, accuracy) for images, accuracy in IMAGES.items())
    if np.isnan(noise):
        return np.nan, "an accuracy is not known"
    return float(1 - noise / spread), ""


def _binomial(models: DataFrame, images: str, accuracy: str) -> float:
    """Mean variance of an accuracy over so many images."""
    if not (models[images] > 0).all():
        wrong = models["model_id"][~(models[images] > 0)].iloc[0]
        raise GengapError(f"{wrong!r} has {images} that are not positive; give how many there were")
    shares = models[accuracy].to_numpy(float)
    return float(np.mean(shares * (1 - shares) / models[images].to_numpy(float)))


def _of_copies(models: DataFrame) -> float:
    """Intraclass correlation; NaN without copies, or where all gaps are the same."""
    if COPY not in models:
        return np.nan
    task = task_of(models)
    groups, sizes = np.unique(task.copies, return_counts=True)
    if len(groups) in (1, len(task.gap)):
        return np.nan
    means = np.array([task.gap[task.copies == group].mean() for group in groups])
    between = np.sum(sizes * (means - task.gap.mean()) ** 2) / (len(groups) - 1)
    codes = np.searchsorted(groups, task.copies)
    within = np.sum((task.gap - means[codes]) ** 2) / (len(task.gap) - len(groups))
    size = (len(task.gap) - np.sum(sizes**2) / len(task.gap)) / (len(groups) - 1)
    whole = between + (size - 1) * within
    return float((between - within) / whole) if whole > 0 else np.nan
