"""Measures of how much the gradients of single images differ from their mean."""

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.tangents import gradient_moments
from gengap.model import Model


@measure
@work(images=500, differentiates=True)
def gradient_noise(model: Model) -> float:
    r"""Trace of the covariance of the gradients of single images. Unit: nats² / weight².

    .. math:: \frac1{n-1} \sum_{i=1}^n \lVert g_i - \bar g \rVert^2 , \qquad
       g_i = \nabla_\theta \ell(x_i, y_i)

    over at most 500 training images, :math:`\bar g` the mean of their gradients. Where there are
    more, another draw moves it by less than a fifth of its value in nine of ten networks.

    Source:
        Jiang et al. 2020 (Fantastic Generalization Measures), gradient noise at the end of
        training.

    Raises:
        NotAvailable: without a training sample of two images, or if a gradient is not finite.
    """
    return float(gradient_moments(model)[1].sum())


@measure
@work(images=500, differentiates=True)
def gradient_noise_scale(model: Model) -> float:
    r"""Trace of the gradients' covariance over the squared mean gradient. Unit: images.

    .. math:: \frac{\operatorname{tr} \Sigma}{\lVert \bar g \rVert^2}

    with `gradient_noise` above and the mean gradient of the same images below. Where there are more
    than 500, another draw moves it by a quarter of its value at the median, and can double it.

    Source:
        McCandlish et al. 2018 (An Empirical Model of Large-Batch Training), simple noise scale.

    Differs:
        the squared mean gradient is that of the images drawn, which exceeds the expected one by
        :math:`\operatorname{tr} \Sigma / n`: the value stays below about n, the number of images.

    Raises:
        NotAvailable: as `gradient_noise`, or where the mean gradient is 0.
    """
    mean, variance = gradient_moments(model)
    squared = mean.square().sum()
    if squared == 0:
        raise NotAvailable("the mean gradient is 0")
    return float(variance.sum() / squared)


@measure
@work(images=500, differentiates=True)
def gradient_signal_to_noise_ratio(model: Model) -> float:
    r"""Mean over weights of the squared mean of the gradient over its variance. No unit.

    .. math:: \operatorname{mean}_j \frac{\bar g_j^2}{\operatorname{var}_i(g_{ij})}

    over at most 500 training images i, and all weights j whose gradient varies. Larger predicts a
    *smaller* gap. Where there are more than 500, another draw moves it by a sixth of its value at
    the median, and can double it.

    Source:
        Liu et al. 2020 (Understanding Why Neural Networks Generalize Well Through GSNR of
        Parameters).

    Differs:
        the paper takes it along the whole training; here it is that of the trained network.

    Raises:
        NotAvailable: as `gradient_noise`, or where no gradient varies.
    """
    mean, variance = gradient_moments(model)
    varies = variance > 0
    if not varies.any():
        raise NotAvailable("no weight's gradient varies between images")
    return float((mean[varies].square() / variance[varies]).mean())
