"""How well the kernel of the network's tangent space fits the labels."""

import torch

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.shared import drawn_images
from gengap.measures.tangents import TANGENT_IMAGES, tangent_kernel
from gengap.model import Model

CONSTANT = 1e-6  # of the kernel's norm, what centring leaves where features do not vary


@measure
@work(images=100, differentiates=True)
def tangent_kernel_alignment(model: Model) -> float:
    r"""Centred alignment of the tangent kernel with the labels, between 0 and 1. No unit.

    .. math:: \frac{y^\top K y}{\lVert K \rVert_F \, \lVert y \rVert^2} , \qquad
       K_{ik,jl} = \big\langle \nabla_\theta f_k(x_i) - \overline{\nabla_\theta f_k} ,
       \nabla_\theta f_l(x_j) - \overline{\nabla_\theta f_l} \big\rangle ,

    :math:`y_{ik} = [y_i = k]` minus its mean over images, for all logits k of 50 training images i.
    Larger predicts a *smaller* gap. Another draw of images moves it by 0.14 of its value at the
    median of 46 embedded networks, and by less than 0.4 in nine of ten.

    Source:
        Baratin et al. 2021 (Implicit Regularization via Neural Feature Alignment), as in the
        released code; after Cristianini et al. 2001, who do not centre, and Cortes et al. 2012.

    Raises:
        NotAvailable: without a training sample, where its images have one class, or the same
            gradients of the logits.
    """
    kernel, _, top = tangent_kernel(model)
    labels = drawn_images(model, TANGENT_IMAGES)[1]
    images, classes = kernel.shape[:2]
    ones = torch.eye(classes, dtype=torch.float64, device=kernel.device)
    # From leads to logits: every other logit is its lead plus the largest.
    change = ones + (1 - ones[top].unsqueeze(2)) * ones[top].unsqueeze(1)
    whole = torch.einsum("ika,iajb,jlb->ikjl", change, kernel, change)
    centred = whole - whole.mean(0, keepdim=True)
    centred = centred - centred.mean(2, keepdim=True)
    targets = ones[labels] - ones[labels].mean(0)
    if not targets.any() or centred.norm() <= CONSTANT * whole.norm():
        raise NotAvailable("the images drawn have one class, or one gradient of the logits")
    matched = torch.einsum("ik,ikjl,jl->", targets, centred, targets)
    return float(matched / centred.norm() / targets.square().sum())
