import pandas as pd
import pytest
import torch
from torch import nn
from torch.func import functional_call

import gengap
from gengap.measures import curvature
from gengap.measures.curvature import (
    gauss_newton_largest_eigenvalue,
    gauss_newton_trace,
    hessian_largest_eigenvalue,
    hessian_trace,
    relative_flatness,
)


def model_of(*stages: nn.Module, inputs: torch.Tensor, classes: int = 3) -> gengap.Model:
    """A network of random weights, with random labels."""
    network = nn.Sequential(*stages).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    labels = torch.randint(classes, (len(inputs),), generator=generator)
    return gengap.Model(network, pd.Series(), read_sample=lambda: (inputs, labels))


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(6))


def smooth() -> gengap.Model:
    return model_of(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), inputs=draw(20, 4))


def convolutional() -> gengap.Model:
    """Piecewise linear, with batch normalization, and logits that are means over places."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = draw(4), draw(4).square() + 0.5
    stages = [nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 3, 2)]
    return model_of(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), inputs=draw(20, 2, 6, 6))


def in_double(model: gengap.Model):
    """Names, one vector of weights, and the logits as a function of it, all float64."""
    names = {name: weight.shape for name, weight in model.network.named_parameters()}
    vector = torch.cat([w.detach().flatten() for w in model.network.parameters()]).double()
    buffers = {name: b.double() for name, b in model.network.named_buffers()}

    def logits(weights: torch.Tensor) -> torch.Tensor:
        parts = weights.split([shape.numel() for shape in names.values()])
        state = {name: p.view(shape) for (name, shape), p in zip(names.items(), parts)}
        return functional_call(model.network, {**buffers, **state}, (model.sample[0].double(),))

    return names, vector, logits


def dense_hessian(model: gengap.Model) -> torch.Tensor:
    _, vector, logits = in_double(model)
    return torch.autograd.functional.hessian(
        lambda weights: nn.functional.cross_entropy(logits(weights), model.sample[1]), vector
    )


def dense_gauss_newton(model: gengap.Model) -> torch.Tensor:
    _, vector, logits = in_double(model)
    jacobian = torch.autograd.functional.jacobian(logits, vector)
    chances = logits(vector).softmax(1)
    inner = torch.diag_embed(chances) - chances.unsqueeze(2) * chances.unsqueeze(1)
    return torch.einsum("nkp,nkl,nlq->pq", jacobian, inner, jacobian) / len(jacobian)


both = pytest.mark.parametrize("made", [smooth, convolutional])


@both
def test_the_gauss_newton_matrix_is_the_dense_one(made):
    dense = dense_gauss_newton(made())
    assert gauss_newton_trace(made()) == pytest.approx(float(dense.trace()), rel=1e-5)
    largest = float(torch.linalg.eigvalsh(dense)[-1])
    assert gauss_newton_largest_eigenvalue(made()) == pytest.approx(largest, rel=1e-5)


@both
def test_the_largest_eigenvalue_is_that_of_the_dense_hessian(made):
    largest = float(torch.linalg.eigvalsh(dense_hessian(made()))[-1])
    assert hessian_largest_eigenvalue(made()) == pytest.approx(largest, rel=1e-5)


def test_the_trace_of_a_piecewise_linear_network_is_that_of_the_dense_hessian():
    model = convolutional()
    assert hessian_trace(model) == pytest.approx(float(dense_hessian(model).trace()), rel=1e-5)


def test_many_directions_come_to_the_trace_of_a_smooth_network(monkeypatch):
    monkeypatch.setattr(curvature, "PROBES", (4000, 4000))
    dense = dense_hessian(smooth())
    rest = dense - dense_gauss_newton(smooth())
    error = float((rest - rest.diagonal().diag()).norm()) * (2 / 4000) ** 0.5
    found = hessian_trace(smooth())
    assert found == pytest.approx(float(dense.trace()), abs=3 * error)
    assert abs(found - gauss_newton_trace(smooth())) > 10 * error


def test_a_sample_that_is_fitted_well_keeps_its_digits():
    model = convolutional()
    with torch.no_grad():
        for parameter in model.network[3].parameters():
            parameter *= 12
    labels = model.network(model.sample[0]).argmax(1)
    fitted = gengap.Model(model.network, pd.Series(), read_sample=lambda: (model.sample[0], labels))
    keep = torch.nn.functional.cross_entropy(model.network(model.sample[0]), labels)
    assert keep < 0.1
    dense = float(dense_gauss_newton(fitted).trace())
    assert gauss_newton_trace(fitted) == pytest.approx(dense, rel=1e-4)
    assert hessian_trace(fitted) == pytest.approx(dense, rel=1e-4)


@both
def test_relative_flatness_is_the_sum_over_blocks_of_the_dense_hessian(made):
    model = made()
    names, vector, _ = in_double(model)
    kernel = list(model.network.parameters())[-2].detach().flatten(1).double()
    start = len(vector) - names[list(names)[-1]].numel() - kernel.numel()
    block = slice(start, start + kernel.numel())
    hessian = dense_hessian(model)[block, block].view(*kernel.shape, *kernel.shape)
    traces = torch.einsum("siti->st", hessian)
    expected = float((kernel @ kernel.T * traces).sum())
    assert relative_flatness(model) == pytest.approx(expected, rel=1e-5)


def test_relative_flatness_does_not_see_the_scale_of_a_layer():
    model = convolutional()
    expected = relative_flatness(model)
    with torch.no_grad():
        model.network[1].weight *= 8
        model.network[1].bias *= 8
        model.network[3].weight /= 8
    assert relative_flatness(model) == pytest.approx(expected, rel=1e-5)


def test_a_network_without_curvature_has_none():
    # One class more likely than float64 can tell.
    network = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.copy_(torch.tensor([1e4, -1e4]))
    sample = draw(5, 2), torch.zeros(5, dtype=torch.int64)
    model = gengap.Model(network, pd.Series(), read_sample=lambda: sample)
    assert (
        hessian_largest_eigenvalue(model) == hessian_trace(model) == relative_flatness(model) == 0
    )


def test_infinite_logits_are_not_available():
    model = smooth()
    with torch.no_grad():
        model.network[2].weight.fill_(torch.inf)
    for measure in (gauss_newton_trace, hessian_trace, hessian_largest_eigenvalue):
        with pytest.raises(gengap.NotAvailable, match="not finite"):
            measure(model)
    with pytest.raises(gengap.NotAvailable, match="not finite"):
        relative_flatness(model)
