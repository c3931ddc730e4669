r"""WeightWatcher's measures of layers: how heavy the tail of their spectrum is, and their size.

The spectrum of a dense layer is the squared singular values :math:`\lambda` of its weight; that of
a convolution those of its matrices (out, in), one for each place of the kernel, all in one. A
measure is the plain mean over the :math:`L` layers, as in the package's summary.

Source:
    Martin and Mahoney 2021 (JMLR 22), Martin et al. 2021 (Nature Communications 12), and the
    package weightwatcher.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import nn

from gengap.errors import NotAvailable
from gengap.measures import measure
from gengap.measures.folding import Linear
from gengap.measures.shared import once_per_model
from gengap.measures.spectra import Gram, gram, kind, singular_values
from gengap.model import Model

FEWEST = 10  # eigenvalues that a power law is fitted to, as in the released code
# What the package has by default: eigenvalues that a layer needs at least, up to where it drops
# them, and fewer than how many have a fit of their own, over tails of how many at least.
PACKAGE_FEWEST, PACKAGE_ZERO, FEW, SHORTEST_TAIL = 8, 1e-5, 20, 8


@measure
def power_law_alpha(model: Model) -> float:
    r"""Mean exponent of the power laws that the upper ends of layers' spectra follow. No unit.

    .. math:: \frac1L \sum_{l=1}^L \alpha_l , \qquad p_l(\lambda) \propto \lambda^{-\alpha_l}

    over the layers that have 10 eigenvalues or more; see `fitted_power_law`. The papers hold a
    small :math:`\alpha` (a heavy tail) for a sign of good training.

    Source:
        Martin et al. 2021, alpha; averaged as in weightwatcher's summary.

    Differs:
        the package fits smaller layers too, and fewer than 20 eigenvalues in its own way, as
        `weightwatcher_alpha` does.

    Raises:
        NotAvailable: if no layer has 10 eigenvalues, or a layer's weights are 0, infinite or NaN.
    """
    return _mean_over_layers(model, "alpha")


@measure
def weighted_power_law_alpha(model: Model) -> float:
    r"""Mean exponent of layers' power laws, weighted. Unit: alpha times decades of weight².

    .. math:: \frac1L \sum_{l=1}^L \alpha_l \log_{10} \max_i \lambda_{li}

    over the same layers as `power_law_alpha`.

    Source:
        Martin et al. 2021, alpha-hat; averaged as in weightwatcher's summary.

    Differs:
        As `power_law_alpha` does, and the package halves the eigenvalues of convolutions.

    Raises:
        NotAvailable: if no layer has 10 eigenvalues, or a layer's weights are 0, infinite or NaN.
    """
    return _mean_over_layers(model, "alpha_hat")


@measure
def weightwatcher_alpha(model: Model) -> float:
    r"""`power_law_alpha` as the package weightwatcher computes it by default. No unit.

    .. math:: \frac1L \sum_{l=1}^L \alpha_l

    of the layers with 8 eigenvalues or more, those of 2-dimensional convolutions halved, those of
    up to 1e-5 dropped. Where fewer than 20 remain, :math:`\alpha = 1 + (n - 1) / \sum_i \ln (x_i /
    x_\text{start})` over tails of 8 or more.

    Source:
        weightwatcher 0.7.7, `alpha` of its summary, of its default options.

    Differs:
        layers of which less than two eigenvalues remain are left out; there they count as -1.

    Raises:
        NotAvailable: if no layer has 8 eigenvalues, or weights are infinite or NaN.
    """
    return float(np.mean([alpha for alpha, _ in _package_laws(model)]))


@measure
def weightwatcher_weighted_alpha(model: Model) -> float:
    r"""`weightwatcher_alpha`, weighted. Unit: alpha times decades of weight².

    .. math:: \frac1L \sum_{l=1}^L \alpha_l \log_{10} \max_i \lambda_{li}

    Source:
        weightwatcher 0.7.7, `alpha_weighted` of its summary, of its default options.

    Raises:
        NotAvailable: if no layer has 8 eigenvalues, or weights are infinite or NaN.
    """
    return float(np.mean([alpha * math.log10(top) for alpha, top in _package_laws(model)]))


@measure
def mean_log10_squared_frobenius_norm(model: Model) -> float:
    r"""Mean over layers of the logarithm of the squared Frobenius norm. Unit: decades of weight².

    .. math:: \frac1L \sum_{l=1}^L \log_{10} \lVert W_l \rVert_F^2

    Batch norm is not folded in, unlike in `log_product_of_frobenius_norms`.

    Source:
        Martin et al. 2021, log norm; averaged as in weightwatcher's summary.

    Differs:
        the package halves the eigenvalues of convolutions and leaves out the smallest layers.

    Raises:
        NotAvailable: if a layer's weights are 0, infinite or NaN.
    """
    return _mean_over_layers(model, "log_norm")


@measure
def mean_stable_rank(model: Model) -> float:
    r"""Mean over layers of the sum of squared singular values over the largest. No unit.

    .. math:: \frac1L \sum_{l=1}^L \frac{\sum_i \lambda_{li}}{\max_i \lambda_{li}}

    of the pooled matrices of a kernel, and without batch norm: `frobenius_over_spectral_norms` is
    the sum of another stable rank, of one matrix a layer.

    Source:
        weightwatcher, stable_rank, averaged as in its summary.

    Differs:
        the package leaves out the smallest layers.

    Raises:
        NotAvailable: if a layer's weights are 0, infinite or NaN.
    """
    return _mean_over_layers(model, "stable_rank")


def _mean_over_layers(model: Model, column: str) -> float:
    laws = _power_laws(model)
    unknown = laws["layer"][laws["eigenvalues"] == 0]
    if len(unknown):
        raise NotAvailable(f"the weights of layer {unknown.iloc[0]!r} are all 0, infinite or NaN")
    if laws[column].isna().all():
        raise NotAvailable(f"no layer has {FEWEST} eigenvalues with a power law")
    return float(laws[column].mean())


@once_per_model
def _power_laws(model: Model) -> pd.DataFrame:
    return network_power_laws(model.network)


@once_per_model
def _package_laws(model: Model) -> list[tuple[float, float]]:
    """Alpha and the largest eigenvalue of each layer, as the package has them."""
    found = []
    for layer, values in _spectra(model.network):
        if not np.isfinite(values).all():
            raise NotAvailable("weights of a layer are infinite or NaN")
        kept = (0.5 if isinstance(layer, nn.Conv2d) else 1) * values
        kept = kept[kept > PACKAGE_ZERO]
        few = len(kept) < FEW
        law = fitted_power_law(
            kept, shortest=min(SHORTEST_TAIL, len(kept) or 1) if few else 2, lost=few
        )
        if len(values) >= PACKAGE_FEWEST and math.isfinite(law.alpha):
            found.append((law.alpha, float(kept.max())))
    if not found:
        raise NotAvailable(f"no layer has {PACKAGE_FEWEST} eigenvalues with a power law")
    return found


@dataclass(frozen=True)
class PowerLaw:
    """A density proportional to x^-alpha from `start` on."""

    alpha: float
    start: float
    distance: float  # Kolmogorov-Smirnov, between the law and the values from `start` on


def fitted_power_law(values: np.ndarray, *, shortest: int = 2, lost: int = 0) -> PowerLaw:
    r"""The power law of the upper tail of positive values (n,); all NaN if fewer than two differ.

    By maximum likelihood

    .. math:: \alpha = 1 + n \Big/ \sum_{i=1}^n \ln \frac{x_i}{x_\text{start}}

    over the :math:`n` values from :math:`x_\text{start}` on. Of all values but the largest, that is
    the one of least Kolmogorov-Smirnov distance, which is taken at each value, not counting it, as
    the packages powerlaw and weightwatcher do. No tail is shorter than `shortest`; `lost` is taken
    from :math:`n`.

    Source:
        Clauset, Shalizi and Newman 2009, eq. 3.1 and section 3.3.
    """
    values = np.sort(np.asarray(values, float))
    best = PowerLaw(math.nan, math.nan, math.inf)
    for first in range(len(values) - shortest + 1):
        tail = values[first:]
        logs = np.log(tail / tail[0])
        if not logs[-1] > 0:
            continue
        alpha = 1 + (len(tail) - lost) / logs.sum()
        law = -np.expm1((1 - alpha) * logs)
        distance = np.abs(law - np.arange(len(tail)) / len(tail)).max()
        if distance < best.distance:
            best = PowerLaw(float(alpha), float(tail[0]), float(distance))
    return best if math.isfinite(best.distance) else PowerLaw(math.nan, math.nan, math.nan)


def network_power_laws(network: nn.Module) -> pd.DataFrame:
    """The power law and the norms of each convolution and dense layer, a row each, in their order.

    Columns: layer (its name), kind (conv, dense), eigenvalues (how many are not 0), alpha,
    power_law_start and power_law_distance (see `fitted_power_law`), alpha_hat (alpha times log10
    of the largest eigenvalue), log_norm (log10 of their sum, the squared Frobenius norm) and
    stable_rank (their sum over the largest). alpha and alpha_hat are NaN of fewer than 10
    eigenvalues, all numbers if weights are infinite, NaN or all 0.

    Source:
        Martin et al. 2021; weightwatcher 0.7.7.

    Differs:
        the package drops eigenvalues of up to 1e-5, whatever the scale of the weights, and fits
        fewer than 20 in its own way.

    Raises:
        NotAvailable: if there is neither a convolution nor a dense layer.
    """
    names = [name for name, layer in network.named_modules() if isinstance(layer, Linear)]
    return pd.DataFrame(
        {"layer": name, "kind": kind(layer), **_of_spectrum(eigenvalues)}
        for name, (layer, eigenvalues) in zip(names, _spectra(network), strict=True)
    )


def _spectra(network: nn.Module) -> list[tuple[Linear, np.ndarray]]:
    """Each convolution and dense layer with its eigenvalues."""
    layers = [layer for layer in network.modules() if isinstance(layer, Linear)]
    if not layers:
        raise NotAvailable("this network has neither a convolution nor a dense layer")
    grams = [_grams_of_places(layer) for layer in layers]
    values = singular_values([found for of_layer in grams for found in of_layer])
    ends = np.cumsum([len(of_layer) for of_layer in grams])[:-1]
    spectra = [np.concatenate(singular) ** 2 for singular in _split(values, ends)]
    return list(zip(layers, spectra, strict=True))


def _split(values: list[np.ndarray], ends: np.ndarray) -> list[list[np.ndarray]]:
    starts = [0, *ends]
    return [values[start:end] for start, end in zip(starts, [*ends, len(values)], strict=True)]


def _grams_of_places(layer: Linear) -> list[Gram]:
    places = layer.weight.detach().flatten(2) if layer.weight.ndim > 2 else layer.weight[..., None]
    return [gram(matrix) for matrix in places.detach().unbind(2)]


def _of_spectrum(eigenvalues: np.ndarray) -> dict[str, float]:
    positive = eigenvalues[eigenvalues > 0]
    known = len(positive) > 0 and np.isfinite(eigenvalues).all()
    enough = known and len(positive) >= FEWEST
    law = fitted_power_law(positive if enough else positive[:0])
    total, largest = (positive.sum(), positive.max()) if known else (math.nan, math.nan)
    return {
        "eigenvalues": len(positive) if known else 0,
        "alpha": law.alpha,
        "power_law_start": law.start,
        "power_law_distance": law.distance,
        "alpha_hat": law.alpha * math.log10(largest),
        "log_norm": math.log10(total),
        "stable_rank": total / largest,
    }
