from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

import gengap
from gengap.measures.margins import inverse_margin, training_loss


def model_with_logits(logits, labels) -> gengap.Model:
    sample = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    network = nn.Sequential(OrderedDict(logits=nn.Identity()))
    return gengap.Model(network, pd.Series(), read_sample=lambda: sample)


def margins(values) -> gengap.Model:
    return model_with_logits([[value, 0.0, -9.0] for value in values], [0] * len(values))


def test_equal_margins_give_one_over_their_square():
    assert inverse_margin(margins([4.0] * 30)) == pytest.approx(1 / 16)


def test_the_quantile_is_taken_over_signed_margins():
    values = np.linspace(-3, 8, 111)
    expected = 1 / np.quantile(values, 0.1) ** 2
    assert inverse_margin(margins(values)) == pytest.approx(expected, rel=1e-5)


def test_a_margin_of_zero_gives_infinity():
    assert inverse_margin(margins([0.0] * 5)) == np.inf


def test_margins_grow_with_the_scale_of_the_logits():
    values = np.linspace(1, 8, 50)
    ratio = inverse_margin(margins(values)) / inverse_margin(margins(10 * values))
    assert ratio == pytest.approx(100, rel=1e-5)


def test_equal_logits_lose_the_logarithm_of_the_number_of_classes():
    model = model_with_logits([[2.0] * 10] * 4, [1, 2, 3, 9])
    assert training_loss(model) == pytest.approx(np.log(10))


def test_the_loss_equals_scipy_even_for_huge_logits():
    generator = np.random.default_rng(0)
    logits = 1000 * generator.standard_normal((40, 10)).astype("float32")
    labels = generator.integers(10, size=40)
    expected = np.mean(logsumexp(logits.astype("float64"), axis=1) - logits[range(40), labels])
    assert training_loss(model_with_logits(logits, labels)) == pytest.approx(expected, rel=1e-12)
