"""Margins over the k-variance of hidden activations, an optimal transport cost."""

import os
import warnings

import numpy as np
import torch
from torch import Tensor

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.margins import (
    EIGHTH,
    FIRST,
    class_sized_draw,
    hidden_margins,
    median,
    positive_variation,
    strided_place,
)
from gengap.measures.shared import once_per_model
from gengap.measures.stages import IMAGES_AT_ONCE
from gengap.model import Model

EPSILON = 1e-6  # of the released code: added to the gradient norm


@measure
@work(per_class=400, differentiates=True)
def k_variance_margin_first(model: Model) -> float:
    r"""Minus the median margin over the Lipschitz k-variance at the first hidden layer. No unit.

    .. math:: -\frac{\operatorname{median}_n (f_y - f_j)}{\sum_c w_c V_c L_c} , \qquad
       V_c = W_1(h(X_c), h(X'_c)) , \quad
       L_c = \max_{n: y_n = c} \lVert \nabla_h (f_y - f_j) \rVert_2 .

    The k-variance :math:`V_c` of class :math:`c` is the Wasserstein-1 distance (Euclidean) between
    the activations :math:`h` of one half of its images, :math:`X_c`, and of the other,
    :math:`X'_c`; :math:`w_c` is the class's share of the training sample. The layer :math:`h` is
    the input of the first among the layers 2, 3, 4, 5 (from 0) that has strides. Over at most 200
    images a class.

    Source:
        Chuang et al. 2021 (Measuring Generalization with Optimal Transport), kV-Margin 1st, and its
        released code.

    Differs:
        the code drops the last, incomplete batch of 200 margins.

    Raises:
        NotAvailable: without a training sample, a layer with strides, or any variance.
    """
    return _lipschitz_score(model, FIRST)


@measure
@work(per_class=400, differentiates=True)
def k_variance_margin_eighth(model: Model) -> float:
    """Minus the median margin over the Lipschitz k-variance at the eighth layer. No unit.

    The formula of `k_variance_margin_first`, at the first of the layers 8, 9, 6, 7, 5, 4, 3, 2 that
    has strides: in a small network both may be the same.

    Source:
        Chuang et al. 2021, kV-Margin 8th, and its released code.

    Differs:
        the code drops the last, incomplete batch of 200 margins.

    Raises:
        NotAvailable: without a training sample, a layer with strides, or any variance.
    """
    return _lipschitz_score(model, EIGHTH)


@measure
@work(per_class=400, differentiates=True)
def k_variance_gradient_margin_first(model: Model) -> float:
    r"""Minus the median hidden margin over the k-variance of the first hidden layer. No unit.

    .. math:: -\frac1{\sum_c w_c V_c} \operatorname{median}_n
       \frac{f_y - f_j}{\lVert \nabla_h (f_y - f_j) \rVert_2 + 10^{-6}} ,

    layer, images, :math:`w_c` and :math:`V_c` as in `k_variance_margin_first`.

    Source:
        Chuang et al. 2021, kV-GN-Margin 1st, and its released code.

    Differs:
        the code drops the last, incomplete batch of 200 margins.

    Raises:
        NotAvailable: without a training sample, a layer with strides, or any variance.
    """
    return _gradient_score(model, FIRST)


@measure
@work(per_class=400, differentiates=True)
def k_variance_gradient_margin_eighth(model: Model) -> float:
    """Minus the median hidden margin over the k-variance of the eighth layer. No unit.

    The formula of `k_variance_gradient_margin_first`, at the layer of `k_variance_margin_eighth`.

    Source:
        Chuang et al. 2021, kV-GN-Margin 8th, and its released code.

    Differs:
        the code drops the last, incomplete batch of 200 margins.

    Raises:
        NotAvailable: without a training sample, a layer with strides, or any variance.
    """
    return _gradient_score(model, EIGHTH)


def wasserstein_1(first: Tensor, second: Tensor) -> float:
    """Optimal transport cost between two sets of points, (n, d) and (m, d), of equal weights.

    Euclidean distances. Computed by POT's exact network simplex in float64.
    """
    # Distances by a matrix product would lose the digits of points that are close.
    costs = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    return float(_pot().emd2([], [], costs.cpu().double().numpy()))


@once_per_model
def k_variances(model: Model, places: tuple[int, ...]) -> dict[int, float]:
    """The k-variance of each class of the drawn images, by label; k is half the class.

    Classes with a single image are left out; of an odd number the last image is.

    Raises:
        NotAvailable: if the layer's activations are the same for all images.
    """
    positive_variation(model, places)
    below = model.network[: strided_place(model.network, places)]
    images, labels = class_sized_draw(model)
    variances = {}
    for label in labels.unique().tolist():
        members = images[labels == label]
        k = len(members) // 2
        if k:
            with torch.no_grad():
                batches = members[: 2 * k].split(IMAGES_AT_ONCE)
                features = torch.cat([below(batch).flatten(1) for batch in batches])
            variances[label] = wasserstein_1(features[:k], features[k:])
    return variances


def _lipschitz_score(model: Model, places: tuple[int, ...]) -> float:
    hidden = hidden_margins(model, places)
    variances = k_variances(model, places)
    steepest = {c: float(hidden.gradient_norms[hidden.labels == c].max()) for c in variances}
    scaled = {label: variances[label] * steepest[label] for label in variances}
    return -median(hidden.margins) / _weighted_sum(scaled, model)


def _gradient_score(model: Model, places: tuple[int, ...]) -> float:
    hidden = hidden_margins(model, places)
    distances = hidden.margins / (hidden.gradient_norms + EPSILON)
    return -median(distances) / _weighted_sum(k_variances(model, places), model)


def _weighted_sum(of_classes: dict[int, float], model: Model) -> float:
    counts = np.bincount(model.sample[1].cpu())
    total = sum(counts[label] * value for label, value in of_classes.items()) / counts.sum()
    if total == 0:
        raise NotAvailable("the layer's activations or gradients do not vary within any class")
    return float(total)


def _pot():
    """POT, imported only where it is needed: that takes seconds, with more frameworks even more."""
    for backend in ("JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{backend}", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own source, while Python compiles it
        import ot
    return ot
