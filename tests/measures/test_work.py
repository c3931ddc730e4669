"""What measures declare of their work, against what passes through a network that counts."""

from collections import Counter

import pytest
import torch
from counting import CLASSES, IMAGES, PATH, counting

import gengap
from gengap.measures import ALL, MEASURES, Work, work_of


def does_as_declared(function, declared: Work) -> bool:
    """Whether a measure passes as many images as it declares at most, or up to a sixteenth.

    A bisection may end at once.
    """
    counts = Counter()
    try:
        function(counting(counts))
    except gengap.NotAvailable:
        assert declared == Work()  # what weights at random or a record without epochs do not give
    sample = IMAGES + PATH if declared.images == ALL else declared.images
    most, passed = sample + CLASSES * declared.per_class, max(counts["first"], counts["last"])
    differentiates = counts["derivatives"] > 0
    return most / 16 <= passed <= most and differentiates == declared.differentiates


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_does_the_work_that_it_declares_and_not_much_less(name):
    assert does_as_declared(MEASURES[name], work_of(name))


def test_work_that_is_not_declared_is_seen():
    def reads_eleven(model):
        with torch.no_grad():
            return float(model.network(model.sample[0][:11]).sum())

    def differentiates(model):
        return float(torch.autograd.functional.jacobian(model.network, model.sample[0][:11]).sum())

    @torch.no_grad()
    def one_by_one(model):
        return float(torch.vmap(lambda x: model.network(x[None]))(model.sample[0][:11]).sum())

    for function in (reads_eleven, one_by_one):
        assert does_as_declared(function, Work(images=11))
        assert not does_as_declared(function, Work(images=10))
    assert not does_as_declared(differentiates, Work(images=11))
    assert does_as_declared(differentiates, Work(images=11, differentiates=True))


def test_work_in_words():
    told = [Work(), Work(images=ALL), Work(images=1200, per_class=600), Work(per_class=200)]
    assert [str(each) for each in told] == ["", "all", "1,200 + 600 a class", "200 a class"]
