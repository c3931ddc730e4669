"""Defects of released code, computed as they are released, so that chapters can show them.

Nothing else uses these numbers.
"""

import numpy as np
from pandas import DataFrame

from gengap.measures.low_rank import low_rank_values
from gengap.model import Model


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


def released_low_rank_frobenius_norms(model: Model) -> DataFrame:
    """`released_low_rank_frobenius_norm` of each convolution, a row per layer and unfolding.

    Columns model_id, layer, kind, unfolding, low_rank and size as the detail `spectra` has them, and
    released.
    """
    rows = []
    for name, weight in model.network.state_dict().items():
        if weight.ndim == 4:
            kernel = weight.cpu().numpy()
            for unfolding, first in (("in", np.moveaxis(kernel, 1, 0)), ("out", kernel)):
                matrix = first.reshape(len(first), -1)
                rows.append(
                    {
                        "model_id": model.record["model_id"],
                        "layer": name.removesuffix(".weight"),
                        "kind": "conv",
                        "unfolding": unfolding,
                        "low_rank": True,
                        "size": min(matrix.shape),
                        "released": released_low_rank_frobenius_norm(matrix),
                    }
                )
    return DataFrame(rows)
