"""Measures of the size of the weights.

Sums run in float64 on the CPU, so that a value does not depend on the device.
"""

from collections.abc import Iterable

from torch import Tensor

from gengap.errors import NotAvailable
from gengap.measures import measure
from gengap.model import Model


@measure
def parameter_norm(model: Model) -> float:
    """Squared Frobenius norm of all parameters: sum_i ||w_i||_F^2. Unit: weight^2.

    Source: Jiang et al. 2020 (Fantastic Generalization Measures), eq. 42. Differs: the paper
    sums over weight tensors of layers; biases are counted here as well.
    """
    return squared_norm(model.network.parameters())


@measure
def distance_from_initialization(model: Model) -> float:
    """Squared Euclidean distance of the weights from their start: sum_i ||w_i - w0_i||_F^2.

    Of all that training moves: the moving statistics of batch normalization count where their
    start is known. Unit: weight^2.

    Source: Jiang et al. 2020 (PGDL competition), baseline `distance_from_init` of its kit, where
    it is squared too.
    Raises: NotAvailable if the model comes without initial weights.
    """
    if model.initial_weights is None:
        raise NotAvailable("this model comes without initial weights")
    weights = model.network.state_dict()
    return squared_norm(weights[name] - start for name, start in model.initial_weights.items())


def squared_norm(tensors: Iterable[Tensor]) -> float:
    """Sum of squares over several tensors."""
    return float(sum(tensor.detach().cpu().double().square().sum() for tensor in tensors))
