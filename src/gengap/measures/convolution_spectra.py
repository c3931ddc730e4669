r"""GenProb's measures: what the singular values of a network's convolutions say of it.

Each kernel counts as two matrices :math:`W_i`, unfolded along input and along output channels
(`layer_spectra`), biases, batch norm and dense layers not at all; :math:`s_1 \ge \dots \ge s_n` are
the singular values of a matrix. Plain measures take the matrices as they are, those called
`low_rank_...` what empirical variational Bayes leaves of them as signal (`low_rank_values`), here
:math:`\hat W_i` of rank :math:`r` with :math:`\hat s_1 \ge \dots \ge \hat s_r`.
Among the paper's networks, at the end of training, the larger go with a higher test accuracy and
with a larger gap.

:math:`\operatorname{gm}_i` is the geometric and :math:`\operatorname{rms}_i` the quadratic mean
over the :math:`m` matrices, two for each convolution; values that are exactly 0 are left out of a
mean, but counted in :math:`m`. The released code leaves out a network if all are 0; here that,
weights that are infinite or NaN, and a network without a convolution raise NotAvailable.
"""

from gengap.measures import measure
from gengap.measures.spectra import model_spectra
from gengap.measures.spectral_aggregation import variant
from gengap.model import Model


@measure
def stable_quality(model: Model) -> float:
    r"""Geometric mean of the stable quality of matrices. Unit: radian.

    .. math:: \operatorname{gm}_i \operatorname{arctan2}(S_i, \, 1 - 1 / C_i) , \qquad
       S = \frac1n \sum_{j=1}^n \frac{s_j}{s_1} , \quad C = \frac{s_1}{s_n} :

    both for large values alike, and little noise, it is near :math:`\pi / 2`.

    Source:
        Jaegerman et al. 2021 (GenProb), Q_SQ^p.

    Raises:
        NotAvailable: without convolutions, or if none of the values is known and not 0.
    """
    return variant(model_spectra(model), "stable_quality", low_rank=False)


@measure
def low_rank_stable_quality(model: Model) -> float:
    r"""The stable quality of the low-rank parts of matrices. Unit: radian.

    .. math:: \operatorname{gm}_i \operatorname{arctan2}(\hat S_i, \, 1 - 1 / \hat C_i) , \qquad
       \hat S = \frac1n \sum_{j=1}^r \frac{\hat s_j}{\hat s_1} , \quad
       \hat C = \frac{\hat s_1}{\hat s_r} :

    as `stable_quality`, still over the full number :math:`n` of singular values.

    Source:
        Jaegerman et al. 2021 (GenProb), Q_SQ^p after low-rank factorization.

    Raises:
        NotAvailable: without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "stable_quality", low_rank=True)


@measure
def log_effective_rank(model: Model) -> float:
    r"""Logarithm of the root of the quadratic mean of the effective rank of matrices. No unit.

    .. math:: \ln \sqrt{\operatorname{rms}_i H_i} , \qquad
       H = -\sum_{j=1}^n p_j \ln p_j , \quad p_j = \frac{s_j}{\sum_k s_k} :

    the effective rank is the entropy itself.

    Source:
        Jaegerman et al. 2021 (GenProb), Q_E^L2.

    Raises:
        NotAvailable: without convolutions, or if all their effective ranks are 0.
    """
    return variant(model_spectra(model), "log_effective_rank", low_rank=False)


@measure
def low_rank_log_effective_rank(model: Model) -> float:
    r"""The effective rank of the low-rank parts of matrices. No unit.

    .. math:: \ln \sqrt{\operatorname{rms}_i \hat H_i} , \qquad
       \hat H = -\sum_{j=1}^r \hat p_j \ln \hat p_j , \quad
       \hat p_j = \frac{\hat s_j}{\sum_k \hat s_k} .

    Source:
        Jaegerman et al. 2021 (GenProb), Q_E^L2 after low-rank factorization.

    Raises:
        NotAvailable: without convolutions, or if no low-rank part has two singular values.
    """
    return variant(model_spectra(model), "log_effective_rank", low_rank=True)


@measure
def log_frobenius_norm(model: Model) -> float:
    r"""Logarithm of the root of m times the geometric mean Frobenius norm of matrices. No unit.

    .. math:: \ln \sqrt{m \operatorname{gm}_i \lVert W_i \rVert_F}

    Source:
        Jaegerman et al. 2021 (GenProb), Q_F^p.

    Raises:
        NotAvailable: without convolutions, or if all their weights are 0.
    """
    return variant(model_spectra(model), "log_frobenius_norm", low_rank=False)


@measure
def low_rank_log_frobenius_norm(model: Model) -> float:
    r"""`log_frobenius_norm` of the low-rank parts of matrices. No unit.

    .. math:: \ln \sqrt{m \operatorname{gm}_i \lVert \hat W_i \rVert_F}

    Source:
        Jaegerman et al. 2021 (GenProb), Q_F^p after low-rank factorization.

    Differs:
        the released Frobenius norms of low-rank parts are wrong, at times smaller than the spectral
        norm.

    Raises:
        NotAvailable: without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "log_frobenius_norm", low_rank=True)


@measure
def log_spectral_norm(model: Model) -> float:
    r"""Logarithm of the root of m times the geometric mean spectral norm of matrices. No unit.

    .. math:: \ln \sqrt{m \operatorname{gm}_i \lVert W_i \rVert_2}

    Source:
        Jaegerman et al. 2021 (GenProb), Q_S^p.

    Raises:
        NotAvailable: without convolutions, or if all their weights are 0.
    """
    return variant(model_spectra(model), "log_spectral_norm", low_rank=False)


@measure
def low_rank_log_spectral_norm(model: Model) -> float:
    r"""`log_spectral_norm` of the low-rank parts of matrices. No unit.

    .. math:: \ln \sqrt{m \operatorname{gm}_i \lVert \hat W_i \rVert_2}

    Source:
        Jaegerman et al. 2021 (GenProb), Q_S^p after low-rank factorization.

    Raises:
        NotAvailable: without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "log_spectral_norm", low_rank=True)


@measure
def log_condition_number(model: Model) -> float:
    r"""Logarithm of the geometric mean of the condition number of matrices. No unit.

    .. math:: \ln \operatorname{gm}_i \frac{s_1(W_i)}{s_n(W_i)}

    Source:
        Jaegerman et al. 2021 (GenProb), whose released code has condition numbers by layer; how
        layers are averaged is our choice, for the paper has no variant of it.

    Raises:
        NotAvailable: without convolutions, or if a matrix has a singular value of 0.
    """
    return variant(model_spectra(model), "log_condition_number", low_rank=False)


@measure
def low_rank_log_condition_number(model: Model) -> float:
    r"""`log_condition_number` of the low-rank parts of matrices, of rank r. No unit.

    .. math:: \ln \operatorname{gm}_i \frac{s_1(\hat W_i)}{s_r(\hat W_i)}

    Source:
        Jaegerman et al. 2021 (GenProb), its condition numbers after low-rank factorization;
        averaged as in `log_condition_number`.

    Raises:
        NotAvailable: without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "log_condition_number", low_rank=True)
