"""The contract that each measure keeps, checked on the tiny collection and on one that is drawn."""

import inspect
import math
import re
from functools import partial

import pytest
import torch
from drawn import drawn

import gengap
from gengap.collection import COLLECTIONS, default_root, open_collection
from gengap.measures import MEASURES

TOLERANCE = 1e-4  # relative, between devices: what the docstring of gengap.measures promises

EMBEDDED = [name for name in COLLECTIONS if default_root(name).is_dir()]

every_measure = pytest.mark.parametrize("name", sorted(MEASURES))
every_measure_somewhere = pytest.mark.parametrize(
    ("name", "every_collection"),
    [
        (name, collection)
        for name in sorted(MEASURES)
        for collection in ["tiny", *drawn(name, EMBEDDED)]
    ],
    indirect=["every_collection"],
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The processes of a session share the cores: threads that wait for each other cost much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def value(name: str, model: gengap.Model) -> float | str:
    """The measure of a model, or why there is none."""
    try:
        return MEASURES[name](model)
    except gengap.NotAvailable as missing:
        return str(missing)


def untouched_value(name: str, model: gengap.Model) -> float | str:
    """The measure of a model that it leaves as it was: finite, or why there is none."""
    before = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
    found = value(name, model)
    assert isinstance(found, str) or (type(found) is float and math.isfinite(found))
    assert not any(module.training for module in model.network.modules())
    assert all(parameter.grad is None for parameter in model.network.parameters())
    for key, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, before[key])
    return found


def pairs(name: str, collection) -> list[tuple[str, str]]:
    """A good and a middling model of families drawn for a measure: at chance, margins may be 0."""
    ordered = collection.index().sort_values("train_accuracy").groupby("family")["model_id"]
    ids = dict(iter(ordered))
    families = [ids[family] for family in drawn(name, ids)]
    return [(family.iloc[-1], family.iloc[len(family) // 2]) for family in families]


def models(name: str, collection) -> list[str]:
    """The models of all pairs."""
    return [model_id for pair in pairs(name, collection) for model_id in pair]


@every_measure
def test_a_measure_is_documented_with_its_source_and_its_constants_have_defaults(name):
    assert re.search(r"^Source:\s", inspect.getdoc(MEASURES[name]), re.M)
    assert MEASURES[name].__name__ == name
    first, *constants = inspect.signature(MEASURES[name]).parameters.values()
    assert first.name == "model"
    assert all(constant.kind is constant.KEYWORD_ONLY for constant in constants)


@every_measure_somewhere
def test_a_measure_is_a_finite_float_or_not_available_deterministic_and_leaves_models_untouched(
    name, every_collection
):
    for pair in pairs(name, every_collection):
        for model_id in drawn(f"{name} twice", pair):
            first = untouched_value(name, every_collection.load(model_id))
            assert value(name, every_collection.load(model_id)) == first


@every_measure
def test_rounding_in_float32_moves_a_measure_by_less_than_devices_may_differ(name, tiny):
    for model_id in models(name, tiny.select("family == 'left'")):
        rounded = tiny.load(model_id)
        inputs, labels = rounded.sample
        double = tiny.load(model_id).network.double()
        sample = inputs.double(), labels
        exact = gengap.Model(
            double, rounded.record, rounded.initial_weights, partial(tuple, sample)
        )
        expected = value(name, exact)
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=TOLERANCE)
        assert value(name, rounded) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@every_measure_somewhere
def test_cpu_and_gpu_agree(name, every_collection):
    on_gpu = open_collection(every_collection.name, device="cuda")
    for model_id in models(name, every_collection):
        expected = value(name, every_collection.load(model_id))
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=TOLERANCE)
        assert value(name, on_gpu.load(model_id)) == expected
