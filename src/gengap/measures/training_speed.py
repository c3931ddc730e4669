"""Measures of how slowly the training loss fell, from the epochs that a collection records."""

import numpy as np

from gengap.errors import NotAvailable
from gengap.measures import measure
from gengap.model import Model, trajectory


@measure
def sum_of_training_losses(model: Model) -> float:
    r"""Sum of the training losses of the recorded epochs, up to the network's own. Unit: nats.

    .. math:: \sum_t L_t

    Comparable between networks of the same recorded epochs: nine in the Small CNN Zoo, every epoch
    in GenProb.

    Source:
        Lyle et al. 2020 (A Bayesian Perspective on Training Speed and Model Selection); Ru et al.
        2021 (Speedy Performance Estimation for Neural Architecture Search).

    Differs:
        they sum the losses of the batches of an epoch while the weights move; here each epoch
        counts once, with the loss that the collection records.

    Raises:
        NotAvailable: where the losses of earlier epochs are not recorded.
    """
    return float(trajectory(model)["train_loss"].sum())


@measure
def area_under_training_loss(model: Model) -> float:
    r"""Area under the training loss over epochs, up to the network's own. Unit: nats x epochs.

    .. math:: \sum_t (e_{t+1} - e_t) \frac{L_t + L_{t+1}}2

    over the recorded epochs :math:`e_t`, so that an epoch counts as long as it lasted.

    Source:
        Lyle et al. 2020 (A Bayesian Perspective on Training Speed and Model Selection); Ru et al.
        2021 (Speedy Performance Estimation for Neural Architecture Search).

    Differs:
        as `sum_of_training_losses`, and the loss between two recorded epochs is interpolated.

    Raises:
        NotAvailable: where the losses of earlier epochs are not recorded, or at the first epoch.
    """
    found = trajectory(model)
    if len(found) < 2:
        raise NotAvailable("no epoch before this one is recorded")
    return float(np.trapezoid(found["train_loss"], found["epoch"]))
