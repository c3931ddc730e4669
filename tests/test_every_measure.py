"""The contract that each measure keeps, checked on each collection that is embedded."""

import inspect
import math

import pytest
import torch

import gengap
from gengap.collection import open_collection
from gengap.measures import MEASURES

TOLERANCE = 1e-4  # relative, between devices: what the docstring of gengap.measures promises

every_measure = pytest.mark.parametrize("name", sorted(MEASURES))


def value(name: str, model: gengap.Model) -> float | str:
    """The measure of a model, or why there is none."""
    try:
        return MEASURES[name](model)
    except gengap.NotAvailable as missing:
        return str(missing)


def models(collection) -> list[str]:
    """A good and a middling model of each family: at chance, margins may be 0."""
    ordered = collection.index().sort_values("train_accuracy").groupby("family")["model_id"]
    return [ids.iloc[place] for _, ids in ordered for place in (-1, len(ids) // 2)]


@every_measure
def test_a_measure_is_documented_with_its_source_and_its_constants_have_defaults(name):
    assert "Source: " in inspect.getdoc(MEASURES[name])
    assert MEASURES[name].__name__ == name
    first, *constants = inspect.signature(MEASURES[name]).parameters.values()
    assert first.name == "model"
    assert all(constant.kind is constant.KEYWORD_ONLY for constant in constants)


@every_measure
def test_a_measure_is_a_finite_float_or_not_available_and_deterministic(name, every_collection):
    for model_id in models(every_collection):
        first = value(name, every_collection.load(model_id))
        assert isinstance(first, str) or (type(first) is float and math.isfinite(first))
        assert value(name, every_collection.load(model_id)) == first


@every_measure
def test_a_measure_leaves_the_model_untouched(name, every_collection):
    model = every_collection.load(models(every_collection)[0])
    before = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
    value(name, model)
    assert not any(module.training for module in model.network.modules())
    assert all(parameter.grad is None for parameter in model.network.parameters())
    for key, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, before[key])


@every_measure
def test_rounding_in_float32_moves_a_measure_by_less_than_devices_may_differ(name, tiny):
    for model_id in models(tiny.select("family == 'left'")):
        rounded = tiny.load(model_id)
        inputs, labels = rounded.sample
        double = tiny.load(model_id).network.double()
        sample = inputs.double(), labels
        exact = gengap.Model(double, rounded.record, rounded.initial_weights, lambda: sample)
        expected = value(name, exact)
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=TOLERANCE)
        assert value(name, rounded) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@every_measure
def test_cpu_and_gpu_agree(name, every_collection):
    on_gpu = open_collection(every_collection.name, device="cuda")
    for model_id in models(every_collection):
        expected = value(name, every_collection.load(model_id))
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=TOLERANCE)
        assert value(name, on_gpu.load(model_id)) == expected
