import gc
import weakref

import pandas as pd
import torch
from torch import nn

import gengap
from gengap.measures.shared import drawn_images, once_per_model


def model(count: int) -> gengap.Model:
    sample = torch.arange(count)[:, None].float(), torch.arange(count)
    return gengap.Model(nn.Sequential(), pd.Series(), read_sample=lambda: sample)


def test_images_are_drawn_once_each_with_their_labels_and_the_same_every_time():
    inputs, labels = drawn_images(model(100), 30)
    assert len(labels) == len(set(labels.tolist())) == 30
    assert torch.equal(inputs[:, 0], labels.float())
    assert torch.equal(labels, drawn_images(model(100), 30)[1])
    assert labels.tolist() != sorted(labels.tolist())


def test_of_a_small_sample_all_images_are_drawn():
    assert sorted(drawn_images(model(7), 30)[1].tolist()) == list(range(7))


def test_a_result_is_kept_for_each_model_and_argument_and_dies_with_the_model():
    calls = []

    @once_per_model
    def made(model, argument):
        calls.append(argument)
        return object()

    first, second = model(1), model(1)
    assert made(first, 1) is made(first, 1)
    assert made(first, 1) is not made(first, 2)
    assert made(first, 1) is not made(second, 1)
    assert calls == [1, 2, 1]
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
