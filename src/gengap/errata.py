"""Defects of released code, computed as they are released, so that chapters can show them.

Nothing else uses these numbers.
"""

import numpy as np

from gengap.measures.low_rank import low_rank_values


def released_low_rank_frobenius_norm(matrix: np.ndarray) -> float:
    """The Frobenius norm of a low-rank part as GenProb's process.py computes it: wrong.

    matrix: (rows, columns), an unfolded weight. Of the singular vectors in the columns of V the
    released EVBMF takes the first H rows in place of the first H columns, so that its product is not
    the low-rank part. In that product each of the H shrunk singular values is multiplied with the
    length of a row of V, which is at most 1: the norm is never too large.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    _, values, right = np.linalg.svd(wide.astype(float), full_matrices=False)
    [shrunk] = low_rank_values(values[None], *np.array(wide.shape)[:, None])
    kept = shrunk[shrunk > 0]
    return float(np.linalg.norm(kept[:, None] * right.T[: len(kept)]))
