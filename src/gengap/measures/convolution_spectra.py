"""GenProb's measures: what the singular values of a network's convolutions say of it.

Each kernel counts as two matrices, unfolded along input and along output channels (`layer_spectra`),
biases, batch norm and dense layers not at all. Plain measures take the matrices as they are, those
called `low_rank_...` what empirical variational Bayes leaves of them as signal (`low_rank_values`).
Among the paper's networks, at the end of training, the larger go with a higher test accuracy and with
a larger gap.

Of n values, two for each convolution, those that are exactly 0 do not count. The released code leaves
out a network if all are 0; here that, weights that are infinite or NaN, and a network without a
convolution raise NotAvailable.
"""

from gengap.measures import measure
from gengap.measures.spectra import model_spectra
from gengap.measures.spectral_aggregation import variant
from gengap.model import Model


@measure
def stable_quality(model: Model) -> float:
    """Geometric mean of the stable quality arctan2(S, 1 - 1/C) of matrices. Unit: radian.

    S = sum_i s_i / s_1 over the number of singular values s_i, C = s_1 / s_n: both for large values
    alike, and little noise, it is near pi/2.

    Source: Jaegerman et al. 2021 (GenProb), Q_SQ^p.
    Raises: NotAvailable without convolutions, or if none of the values is known and not 0.
    """
    return variant(model_spectra(model), "stable_quality", low_rank=False)


@measure
def low_rank_stable_quality(model: Model) -> float:
    """`stable_quality` of the low-rank parts of matrices. Unit: radian.

    S is still divided by the full number of singular values, C takes the smallest that is left.

    Source: Jaegerman et al. 2021 (GenProb), Q_SQ^p after low-rank factorization.
    Raises: NotAvailable without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "stable_quality", low_rank=True)


@measure
def log_effective_rank(model: Model) -> float:
    """ln sqrt of the root mean square of the effective rank of matrices. No unit.

    The effective rank is the entropy -sum_i p_i ln p_i itself, p_i = s_i / sum_j s_j.

    Source: Jaegerman et al. 2021 (GenProb), Q_E^L2.
    Raises: NotAvailable without convolutions, or if all their effective ranks are 0.
    """
    return variant(model_spectra(model), "log_effective_rank", low_rank=False)


@measure
def low_rank_log_effective_rank(model: Model) -> float:
    """`log_effective_rank` of the low-rank parts of matrices. No unit.

    Source: Jaegerman et al. 2021 (GenProb), Q_E^L2 after low-rank factorization.
    Raises: NotAvailable without convolutions, or if no low-rank part has two singular values.
    """
    return variant(model_spectra(model), "log_effective_rank", low_rank=True)


@measure
def log_frobenius_norm(model: Model) -> float:
    """ln sqrt of n times the geometric mean of the Frobenius norm of matrices. No unit.

    Source: Jaegerman et al. 2021 (GenProb), Q_F^p.
    Raises: NotAvailable without convolutions, or if all their weights are 0.
    """
    return variant(model_spectra(model), "log_frobenius_norm", low_rank=False)


@measure
def low_rank_log_frobenius_norm(model: Model) -> float:
    """`log_frobenius_norm` of the low-rank parts of matrices. No unit.

    Source: Jaegerman et al. 2021 (GenProb), Q_F^p after low-rank factorization. Differs: the
    released Frobenius norms of low-rank parts are wrong, at times smaller than the spectral norm.
    Raises: NotAvailable without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "log_frobenius_norm", low_rank=True)


@measure
def log_spectral_norm(model: Model) -> float:
    """ln sqrt of n times the geometric mean of the spectral norm of matrices. No unit.

    Source: Jaegerman et al. 2021 (GenProb), Q_S^p.
    Raises: NotAvailable without convolutions, or if all their weights are 0.
    """
    return variant(model_spectra(model), "log_spectral_norm", low_rank=False)


@measure
def low_rank_log_spectral_norm(model: Model) -> float:
    """`log_spectral_norm` of the low-rank parts of matrices. No unit.

    Source: Jaegerman et al. 2021 (GenProb), Q_S^p after low-rank factorization.
    Raises: NotAvailable without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "log_spectral_norm", low_rank=True)


@measure
def log_condition_number(model: Model) -> float:
    """ln of the geometric mean of the condition number s_1 / s_n of matrices. No unit.

    Source: Jaegerman et al. 2021 (GenProb), whose released code has condition numbers by layer;
    how layers are averaged is our choice, for the paper has no variant of it.
    Raises: NotAvailable without convolutions, or if a matrix has a singular value of 0.
    """
    return variant(model_spectra(model), "log_condition_number", low_rank=False)


@measure
def low_rank_log_condition_number(model: Model) -> float:
    """`log_condition_number` of the low-rank parts, s_1 / s_r of rank r. No unit.

    Source: Jaegerman et al. 2021 (GenProb), its condition numbers after low-rank factorization;
    averaged as in `log_condition_number`.
    Raises: NotAvailable without convolutions, or if all their low-rank parts are empty.
    """
    return variant(model_spectra(model), "log_condition_number", low_rank=True)
