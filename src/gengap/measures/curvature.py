"""Measures of the second derivatives of the training loss by the weights.

Batch normalization keeps its moving statistics, which are constants here.
"""

from collections.abc import Callable
from itertools import compress

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.func import functional_call

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.shared import drawn_images, once_per_model
from gengap.measures.stages import seeded
from gengap.measures.tangents import (
    AT_ONCE,
    TANGENT_IMAGES,
    cross_entropies,
    detached,
    in_double,
    lead_gradients,
    odds,
    tangent_kernel,
)
from gengap.model import Model

PROBES = 6, 60  # random directions at least and at most; between, as many as
PROBED = 300_000  # weights in all
PRECISION = 1e-3  # of the residual of an eigenvector: the value is right to about its square
BASIS = 8  # vectors that the Lanczos method keeps


@measure
@work(images=100, differentiates=True)
def gauss_newton_trace(model: Model) -> float:
    r"""Trace of the Gauss-Newton matrix of the training loss. Unit: nats / weight².

    .. math:: \operatorname{tr} G , \qquad G = \frac1n \sum_{i=1}^n J_i^\top
       \big( \operatorname{diag}(p_i) - p_i p_i^\top \big) J_i ,

    with :math:`J_i` the derivative of the logits of an image by all weights and :math:`p_i` its
    probabilities; exact for 50 training images. It is also the Fisher information matrix. Few
    images have most of it where the training images are fitted: another draw of 50 moves it by a
    fifth at the median of 46 embedded networks, and by less than 0.6 of its value in nine of ten.

    Source:
        Schraudolph 2002; Martens 2020 (New Insights and Perspectives on the Natural Gradient
        Method); as a part of predictors Thomas et al. 2020 (On the Interplay between Noise and
        Curvature).

    Raises:
        NotAvailable: without a training sample, or where a derivative is not finite.
    """
    return float(_gauss_newton(model).trace())


@measure
@work(images=100, differentiates=True)
def gauss_newton_largest_eigenvalue(model: Model) -> float:
    r"""Largest eigenvalue of the Gauss-Newton matrix (see `gauss_newton_trace`), exact.

    .. math:: \lambda_{\max}(G)

    Unit: nats / weight². Another draw of images moves it by 0.3 of its value at the median of 46
    embedded networks, and by less than 0.7 in nine of ten.

    Source:
        as of `gauss_newton_trace`.

    Raises:
        NotAvailable: without a training sample, or where a derivative is not finite.
    """
    return float(torch.linalg.eigvalsh(_gauss_newton(model))[-1])


@measure
@work(images=150, differentiates=True)
def hessian_trace(model: Model) -> float:
    r"""Trace of the Hessian of the training loss by all weights. Unit: nats / weight².

    .. math:: \operatorname{tr} \nabla^2_\theta L = \operatorname{tr} G + \frac1n \sum_{i=1}^n
       \sum_{k=1}^K (p_{ik} - [y_i = k]) \, \Delta_\theta f_k(x_i)

    on 50 training images. The first term is `gauss_newton_trace`. The second is 0, and so the two
    measures are equal, where the logits are piecewise linear in the image, as with ReLU and
    pooling: then they are so in each tensor of weights too. Elsewhere, as with tanh and group
    normalization, it is Hutchinson's estimate from six to sixty random directions in float64 (the
    fewer the larger the network), whose standard deviation is around a tenth of the trace. It may
    be negative. Another draw of images and directions moves it by a quarter of its value at the
    median of 46 embedded networks.

    Source:
        Yao et al. 2020 (PyHessian); among the predictors of Petzka et al. 2021.

    Differs:
        PyHessian probes the whole Hessian, not only what the Gauss-Newton matrix leaves.

    Raises:
        NotAvailable: without a training sample, or where a derivative is not finite.
    """
    return gauss_newton_trace(model) + _curved_trace(model)


@measure
@work(images=150, differentiates=True)
def hessian_largest_eigenvalue(model: Model) -> float:
    r"""Largest eigenvalue of the Hessian of the training loss. Unit: nats / weight².

    .. math:: \lambda_{\max}(\nabla^2_\theta L)

    on 50 training images, by the Lanczos method on products with vectors, which starts from the
    largest eigenvector of the Gauss-Newton matrix. Another draw of images moves it as much as
    `gauss_newton_largest_eigenvalue`.

    Source:
        Yao et al. 2020 (PyHessian).

    Differs:
        PyHessian takes power iterations, which find the largest absolute value.

    Raises:
        NotAvailable: without a training sample, or where a derivative is not finite.
    """
    product, start = _hessian(model)
    if not product(start).any():
        return 0.0
    shape = len(start), len(start)
    operator = LinearOperator(shape, product, dtype=np.float64)
    basis = min(BASIS, len(start))
    found = eigsh(operator, k=1, which="LA", v0=start, ncv=basis, tol=PRECISION)
    return float(found[0][0])


@measure
@work(images=500, differentiates=True)
def relative_flatness(model: Model, *, images: int = 250) -> float:
    r"""Relative flatness of the last kernel, which maps features to logits. Unit: nats.

    .. math:: \sum_{s,t=1}^d \langle w_s, w_t \rangle \operatorname{tr} H_{st}

    with :math:`w_s` the rows of the kernel as a matrix of outputs by inputs, and :math:`H_{st}` the
    second derivatives of the mean loss of `images` training images by the rows s and t. Exact where
    logits are linear in the kernel or piecewise so; else H is the Gauss-Newton matrix. Another draw
    of images moves it by less than a tenth of its value in nine of ten of 46 embedded networks.

    Source:
        Petzka et al. 2021 (Relative Flatness and Generalization).

    Differs:
        their released script takes the squared norm of the whole kernel times the mean of its
        Hessian's diagonal.

    Raises:
        NotAvailable: without a training sample or a kernel, or where a derivative is not finite.
    """
    kernels = {name: w for name, w in detached(model.network).items() if w.ndim > 1}
    if not kernels:
        raise NotAvailable("this network has neither convolutions nor dense layers")
    name, kernel = kernels.popitem()
    rows = kernel.flatten(1).double()
    inner, total = rows @ rows.T, 0.0
    inputs = drawn_images(model, images)[0]
    for part in inputs.split(AT_ONCE):
        with torch.no_grad():
            factors, top = odds(model.network(part))
        slopes = lead_gradients(model.network, {name: kernel}, part, top)[name]
        scaled = torch.einsum("nka,nasm->nksm", factors, slopes.flatten(3).double())
        total += float((scaled * torch.einsum("st,nktm->nksm", inner, scaled)).sum())
    return finite(total / len(inputs))


def finite(value: float) -> float:
    """The value; NotAvailable if it is not finite."""
    if not np.isfinite(value):
        raise NotAvailable("derivatives of this network's loss are not finite")
    return value


@once_per_model
def _gauss_newton(model: Model) -> Tensor:
    """A matrix (NK, NK) with the eigenvalues of the Gauss-Newton matrix that are not 0."""
    kernel, factors, _ = tangent_kernel(model)
    inner = torch.einsum("nka,namb,mlb->nkml", factors, kernel, factors) / len(kernel)
    return inner.flatten(2).flatten(0, 1)


def _hessian(model: Model) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """The product of the loss's Hessian with a vector, and a vector to start from."""
    images, labels = drawn_images(model, TANGENT_IMAGES)
    weights = detached(model.network)
    with torch.enable_grad():
        chosen = [weight.requires_grad_() for weight in weights.values()]
        logits = functional_call(model.network, weights, (images,))
        loss = cross_entropies(logits, labels).mean()
        slopes = torch.autograd.grad(loss, chosen, create_graph=True)
        slope = torch.cat([each.flatten() for each in slopes])

    def product(vector: np.ndarray) -> np.ndarray:
        along = torch.from_numpy(vector.ravel()).to(slope)
        parts = torch.autograd.grad(slope, chosen, along, retain_graph=True, allow_unused=True)
        flat = [(w.new_zeros(w.shape) if p is None else p).flatten() for p, w in zip(parts, chosen)]
        return torch.cat(flat).double().cpu().numpy()

    _, factors, top = tangent_kernel(model)
    outputs = torch.linalg.eigh(_gauss_newton(model))[1][:, -1].view(factors.shape[:2])
    cotangents = torch.einsum("nka,nk->na", factors, outputs)
    cotangents -= torch.nn.functional.one_hot(top, factors.shape[2]) * cotangents.sum(1, True)
    start = torch.autograd.grad(logits, chosen, cotangents.to(logits), retain_graph=True)
    return product, torch.cat([each.flatten() for each in start]).double().cpu().numpy()


def _curved_trace(model: Model) -> float:
    """What the curvature of the logits themselves adds to the trace of the Hessian."""
    images, labels = drawn_images(model, TANGENT_IMAGES)
    network = in_double(model.network)
    points = [images.double(), *network.parameters()]
    with torch.enable_grad():
        logits = network(points[0].requires_grad_())
        loss = cross_entropies(logits, labels).mean()
        (residuals,) = torch.autograd.grad(loss, logits, retain_graph=True)
        slopes = torch.autograd.grad((residuals * logits).sum(), points, create_graph=True)
    generator = seeded()

    def bend(places: slice) -> float:
        """The second derivative along random signs of the images, or of all weights."""
        at, curved = points[places], [slope.requires_grad for slope in slopes[places]]
        signs = [torch.randint(2, w.shape, generator=generator).to(w.detach()) * 2 - 1 for w in at]
        if not any(curved):
            return 0.0
        found = torch.autograd.grad(
            list(compress(slopes[places], curved)), at, list(compress(signs, curved)),
            retain_graph=True, allow_unused=True,
        )  # fmt: skip
        pairs = [(each, along) for each, along in zip(found, signs) if each is not None]
        return sum(float((each * along).sum()) for each, along in pairs)

    if bend(slice(1)) == 0:
        return 0.0
    probes = min(max(PROBED // sum(w.numel() for w in points[1:]), PROBES[0]), PROBES[1])
    return finite(sum(bend(slice(1, None)) for _ in range(probes)) / probes)
