"""Signatures of margin distributions: the margins of one stage of a network in five numbers.

Those of all stages of all networks are one long table (`signatures`), which is small and is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame
from torch import Tensor

from gengap.errors import GengapError
from gengap.measures.margins import margin_pass, spectral_complexity
from gengap.model import Model

# The five statistics of each kind of signature.
STATISTICS = {
    "quartile": ("lower_fence", "q1", "median", "q3", "upper_fence"),
    "moment": ("moment_1", "moment_2", "moment_3", "moment_4", "moment_5"),
}
FEWEST = 5  # positive margins: five statistics of fewer numbers are not a distribution's
OUTPUT = "logits"  # the stage whose margins are no distances, but differences of logits
WHISKER = 1.5  # interquartile ranges, Tukey's


@dataclass(frozen=True)
class Signature:
    """Five numbers that stand for one distribution of margins."""

    values: dict[str, float]  # by statistic, in the margins' unit, positive; all NaN with a note
    images: int  # margins that were given
    dropped: int  # of them not positive: misclassified, or on the boundary
    note: str  # why the values are NaN, else empty


def signature(margins: Tensor | np.ndarray, *, kind: str = "quartile") -> Signature:
    """The signature of the positive ones among margins (N,).

    kind "quartile": lower fence, first quartile, median, third quartile, upper fence. Quartiles
    interpolate linearly. A fence is the most extreme margin within 1.5 interquartile ranges of its
    quartile (and never between the quartiles), as box plots draw it. The other rule in use, Q1 -
    1.5 IQR itself, is below 0 for most skewed distributions, so has no logarithm; this one is
    a margin that occurs, hence positive. Its price: below a skewed distribution it is the smallest
    margin, which depends on single images and on how many there are.

    kind "moment": (mean of margin^k)^(1/k) for k = 1 to 5. Raw moments, not central ones: of
    positive margins they are positive, where the third central moment of a distribution that leans
    left is negative and of a symmetric one 0, without a logarithm.

    Both kinds scale with the margins, so division of the margins by the total variation divides the
    signature, and is a shift after the logarithm.

    The values are NaN, with a note, if a margin is not finite or fewer than 5 are positive.

    Source: Jiang et al. 2019 (Predicting the Generalization Gap with Margin Distributions); what we
    could read of it says that positive distances alone count. The statistics and their rules are
    our choice. The other rule for fences: generalization-gap-features-tensorflow
    (mostafaelaraby), which takes the logarithm of their absolute value.
    Raises: GengapError if the kind is unknown or the margins are not a vector.
    """
    check_kind(kind)
    margins = torch.as_tensor(margins).detach().cpu().double().numpy()
    if margins.ndim != 1:
        raise GengapError(f"margins have the shape {margins.shape}; give one stage's, (N,)")
    positive = margins[margins > 0]
    note = _why_none(margins, len(positive))
    summary = _quartiles if kind == "quartile" else _moments
    values = [float("nan")] * len(STATISTICS[kind]) if note else map(float, summary(positive))
    named = dict(zip(STATISTICS[kind], values, strict=True))
    return Signature(named, len(margins), len(margins) - len(positive), note)


def check_kind(kind: str) -> None:
    """Raises: GengapError if there is no signature of that kind."""
    if kind not in STATISTICS:
        raise GengapError(f"no signature {kind!r}; there are: {', '.join(STATISTICS)}")


def _why_none(margins: np.ndarray, positive: int) -> str:
    if infinite := np.count_nonzero(~np.isfinite(margins)):
        return f"{infinite} of {len(margins)} margins are not finite"
    if positive < FEWEST:
        return f"{positive} of {len(margins)} margins are positive; {FEWEST} are needed"
    return ""


def _quartiles(margins: np.ndarray) -> Sequence[float]:
    q1, median, q3 = np.quantile(margins, [0.25, 0.5, 0.75])
    reach = WHISKER * (q3 - q1)
    lowest = margins[margins >= q1 - reach].min()
    highest = margins[margins <= q3 + reach].max()
    # Interpolated quartiles of few margins may lie outside of these.
    return min(lowest, q1), q1, median, q3, max(highest, q3)


def _moments(margins: np.ndarray) -> Sequence[float]:
    largest = margins.max()  # divided out, so that no power over- or underflows
    return [largest * np.mean((margins / largest) ** k) ** (1 / k) for k in range(1, 6)]


def margin_signatures(model: Model) -> DataFrame:
    """Signatures of one model on its training sample, as `signatures` returns them.

    Of the inputs and hidden stages, normalized by their total variation; and of the logits, whose
    normalizer is the spectral complexity (Bartlett et al. 2017, eq. 1.2), as a baseline.

    Source: Jiang et al. 2019.
    Raises: NotAvailable without a training sample, or if all weights of a layer are 0.
    """
    found = margin_pass(model.network, *model.sample)
    margins = found.margins | {OUTPUT: found.logits}
    normalizers = found.total_variation | {OUTPUT: spectral_complexity(model)}
    name = model.record["model_id"]
    return signatures({name: margins}, {name: normalizers})


def normalized_margins(model: Model) -> DataFrame:
    """Margins over total variation: model_id, stage, margin; a row per hidden stage and image.

    Source: Jiang et al. 2019.
    Raises: NotAvailable without a training sample.
    """
    found = margin_pass(model.network, *model.sample)
    parts = [
        DataFrame({"stage": stage, "margin": (margins / found.total_variation[stage]).cpu()})
        for stage, margins in found.margins.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(model_id=model.record["model_id"])


def signatures(
    margins: Mapping[str, Mapping[str, Tensor]], normalizers: Mapping[str, Mapping[str, float]]
) -> DataFrame:
    """Signatures of networks, of each kind at each stage, as one long table.

    By model_id, margins are {stage: (N,)} and normalizers {stage: what margins are divided by},
    the total variation as a rule. Tables of single networks may be concatenated.

    Returns a row per model_id, stage, kind and statistic: value (not normalized, no logarithm),
    normalizer, images, dropped and note (see `Signature`). Where activations do not vary the
    value is there, and the note says that it cannot be normalized.

    Raises: GengapError if a stage has margins and no normalizer.
    """
    rows = []
    for (model, stages), kind in product(margins.items(), STATISTICS):
        for stage, values in stages.items():
            normalizer = _normalizer(normalizers, model, stage)
            found = signature(values, kind=kind)
            common = {
                "normalizer": normalizer,
                "images": found.images,
                "dropped": found.dropped,
                "note": found.note or _why_not_normalized(normalizer),
            }
            names = {"model_id": model, "stage": stage, "kind": kind}
            for statistic, value in found.values.items():
                rows.append(names | {"statistic": statistic, "value": value} | common)
    return DataFrame(rows, columns=SIGNATURE_COLUMNS)


SIGNATURE_COLUMNS = ["model_id", "stage", "kind", "statistic"]
SIGNATURE_COLUMNS += ["value", "normalizer", "images", "dropped", "note"]


def _normalizer(normalizers, model: str, stage: str) -> float:
    try:
        return float(normalizers[model][stage])
    except KeyError:
        raise GengapError(
            f"{model!r} has margins and nothing to normalize them by at {stage!r}; give both"
        ) from None


def _why_not_normalized(normalizer: float) -> str:
    usable = np.isfinite(normalizer) and normalizer > 0
    return "" if usable else f"nothing to normalize by: {normalizer:g}"
