import dataclasses
from collections import OrderedDict

import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.model import BATCH


def linear_model(images: int) -> gengap.Model:
    """Logits equal inputs: margins are known in closed form."""
    stage = nn.Linear(3, 3, bias=False)
    nn.init.eye_(stage.weight)
    inputs = torch.randn(images, 3, generator=torch.Generator().manual_seed(0))
    sample = inputs, torch.arange(images) % 3
    network = nn.Sequential(OrderedDict(logits=stage))
    return gengap.Model(network, pd.Series({"model_id": "m"}), read_sample=lambda: sample)


def test_logits_in_batches_equal_logits_at_once():
    model = linear_model(2 * BATCH + 7)
    assert torch.equal(model.logits, model.sample[0])
    assert not model.logits.requires_grad


def test_the_margin_is_the_true_logit_minus_the_best_other():
    model = linear_model(50)
    for logits, label, margin in zip(model.logits, model.sample[1], model.margins, strict=True):
        others = [value for k, value in enumerate(logits) if k != label]
        assert margin == logits[label] - max(others)


def test_what_measures_share_is_computed_once():
    model = linear_model(10)
    assert model.logits is model.logits and model.sample is model.sample


def test_a_model_is_frozen_and_without_a_sample_says_so():
    model = gengap.Model(nn.Sequential(), pd.Series())
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.network = None
    with pytest.raises(gengap.NotAvailable, match="without a training sample"):
        _ = model.logits
