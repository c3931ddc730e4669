from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.measures import MEASURES
from gengap.measures import margins as module
from gengap.measures.margins import (
    gradient_normalized_margin_eighth,
    gradient_normalized_margin_first,
    hidden_margins,
    inverse_margin,
    low_margin,
    margin,
    margin_distribution,
    spectrally_normalized_margin,
    strided_place,
    total_variation,
    total_variation_margin_first,
)

# The measures that need a layer with strides, which the network of all measures' tests lacks.
PREFIXES = "gradient_normalized", "total_variation", "k_variance", "augmented"
STRIDED = sorted(name for name in MEASURES if name.startswith(PREFIXES))


def model_with_logits(logits, labels) -> gengap.Model:
    sample = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    network = nn.Sequential(OrderedDict(logits=nn.Identity()))
    return gengap.Model(network, pd.Series(), read_sample=lambda: sample)


def margins(values) -> gengap.Model:
    return model_with_logits([[value, 0.0, -9.0] for value in values], [0] * len(values))


def stages(**modules: nn.Module) -> nn.Sequential:
    """A network with random weights in float64."""
    torch.manual_seed(0)
    made = nn.Sequential(OrderedDict(modules)).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def convolutions() -> nn.Sequential:
    return stages(
        h1=nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()),
        h2=nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        h3=nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU()),
        flat=nn.Flatten(),
        logits=nn.Linear(20, 3),
    )


def drawn(*shape: int, count: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, *shape, generator=generator).double()
    return inputs, torch.randint(3, (count,), generator=generator)


def model(network: nn.Sequential, sample) -> gengap.Model:
    return gengap.Model(network, pd.Series(), read_sample=lambda: sample)


@pytest.mark.parametrize("norm", [1, 2, float("inf")])
def test_a_linear_classifier_has_the_logit_gap_over_the_norm_of_the_weight_difference(norm):
    network = stages(logits=nn.Linear(6, 3))
    inputs, labels = drawn(6)
    logits, weights = network(inputs).detach().numpy(), network.logits.weight.detach().numpy()
    expected = []
    for row, label in zip(logits, labels.numpy()):
        best = max((k for k in range(3) if k != label), key=lambda k: row[k])
        expected.append(
            (row[label] - row[best]) / np.linalg.norm(weights[label] - weights[best], norm)
        )
    found = margin_distribution(network, inputs, labels, norm=norm, epsilon=0)
    assert list(found) == ["inputs"]
    assert found["inputs"].numpy() == pytest.approx(expected, rel=1e-12)
    assert 0 < sum(value < 0 for value in expected) < len(expected)  # the signed ones are there


def test_a_step_of_the_margin_against_its_gradient_ends_on_the_boundary_of_a_linear_classifier():
    network = stages(logits=nn.Linear(6, 2))
    inputs, labels = drawn(6, count=20)
    labels = labels % 2
    distance = margin_distribution(network, inputs, labels, epsilon=0)["inputs"]
    difference = network.logits.weight[labels] - network.logits.weight[1 - labels]
    moved = inputs - distance[:, None] * difference / difference.norm(dim=1, keepdim=True)
    assert network(moved).diff(dim=1).abs().max() < 1e-12


def test_an_orthogonal_layer_leaves_margins_as_they_are():
    network = stages(h1=nn.Linear(6, 6), logits=nn.Linear(6, 3))
    nn.init.orthogonal_(network.h1.weight)
    found = margin_distribution(network, *drawn(6))
    assert torch.allclose(found["inputs"], found["h1"], rtol=1e-10)


def test_gradients_equal_finite_differences():
    network = stages(h1=nn.Sequential(nn.Linear(4, 5), nn.Tanh()), logits=nn.Linear(5, 3))
    inputs, labels = drawn(4, count=12)

    def values(at):
        return module.true_class_margins(network(at), labels).detach()

    steps = 1e-6 * torch.eye(4, dtype=torch.float64)
    columns = [(values(inputs + step) - values(inputs - step)) / 2e-6 for step in steps]
    expected = values(inputs) / torch.stack(columns, dim=1).norm(dim=1)
    found = margin_distribution(network, inputs, labels, epsilon=0)["inputs"]
    assert torch.allclose(found, expected, rtol=1e-6)


def test_epsilon_is_added_inside_the_root_of_the_squared_norm_and_to_the_others():
    network = stages(logits=nn.Linear(2, 2, bias=False))
    network.logits.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double()
    sample = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0])
    found = [
        margin_distribution(network, *sample, norm=norm, epsilon=0.5)["inputs"].item()
        for norm in (2, 1, float("inf"))
    ]
    assert found == pytest.approx([3 / 25.5**0.5, 3 / 7.5, 3 / 4.5])


def test_batches_do_not_change_margins_nor_total_variation():
    network = convolutions()
    inputs, labels = drawn(1, 8, 8)
    whole = margin_distribution(network, inputs, labels)
    assert list(whole) == ["inputs", "h1", "h2", "h3", "flat"]
    alone = [margin_distribution(network, inputs[i : i + 1], labels[i : i + 1]) for i in (0, 99)]
    for stage in whole:
        expected = torch.cat([part[stage] for part in alone])
        assert torch.allclose(whole[stage][[0, 99]], expected, rtol=1e-10)


def test_the_order_of_hidden_channels_does_not_matter():
    network, other = convolutions(), convolutions()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        other.h2[0].weight.copy_(network.h2[0].weight[order])
        other.h2[0].bias.copy_(network.h2[0].bias[order])
        other.h3[0].weight.copy_(network.h3[0].weight[:, order])
    sample = drawn(1, 8, 8)
    found, expected = (margin_distribution(n, *sample) for n in (network, other))
    for stage in expected:
        assert torch.allclose(found[stage], expected[stage], rtol=1e-9)


def test_total_variation_is_the_root_of_the_summed_variances():
    network = convolutions()
    inputs, _ = drawn(1, 8, 8)
    found = total_variation(network, inputs)
    hidden = network.h1(inputs).detach().flatten(1).numpy()
    assert found["h1"] == pytest.approx(np.sqrt(hidden.var(axis=0).sum()), rel=1e-12)
    assert list(found) == ["inputs", "h1", "h2", "h3", "flat"]


def test_total_variation_is_exact_far_from_zero():
    network = stages(logits=nn.Linear(4, 2)).float()
    inputs = drawn(4)[0].float() + 1e4
    expected = np.sqrt(inputs.double().numpy().var(axis=0).sum())
    assert total_variation(network, inputs)["inputs"] == pytest.approx(expected, rel=1e-12)


def test_the_first_layer_is_the_input_of_the_first_from_two_on_that_has_strides():
    network = convolutions()
    sample = drawn(1, 8, 8)
    expected = -margin_distribution(network, *sample)["h2"].quantile(0.5)
    found = gradient_normalized_margin_first(model(network, sample))
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_a_network_without_an_eighth_layer_falls_back_as_the_released_code_does():
    pools = {f"pool{i}": nn.MaxPool2d(1) for i in range(6)}
    network = stages(h1=nn.Conv2d(1, 3, 3), **pools, activation=nn.ReLU(), flat=nn.Flatten())
    assert strided_place(network, module.EIGHTH) == 6
    assert strided_place(convolutions(), module.EIGHTH) == 2
    sample = drawn(1, 8, 8)
    first, eighth = gradient_normalized_margin_first, gradient_normalized_margin_eighth
    assert first(model(convolutions(), sample)) == eighth(model(convolutions(), sample))


def test_without_a_layer_with_strides_there_is_no_hidden_layer_to_look_at():
    network = stages(h1=nn.Linear(6, 5), h2=nn.Linear(5, 5), logits=nn.Linear(5, 3))
    with pytest.raises(gengap.NotAvailable, match="no convolution or pooling among the stages"):
        gradient_normalized_margin_first(model(network, drawn(6)))


def test_the_margin_over_total_variation_does_not_see_the_scale_of_the_layer(monkeypatch):
    monkeypatch.setattr(module, "EPSILON", 0.0)
    network, scaled = convolutions(), convolutions()
    with torch.no_grad():
        for parameter in scaled.h2.parameters():
            parameter.mul_(10.0)
        scaled.h3[0].weight.div_(10.0)
    sample = drawn(1, 8, 8)
    expected = total_variation_margin_first(model(network, sample))
    assert total_variation_margin_first(model(scaled, sample)) == pytest.approx(expected, rel=1e-9)
    assert gradient_normalized_margin_first(model(scaled, sample)) == pytest.approx(
        10 * gradient_normalized_margin_first(model(network, sample)), rel=1e-9
    )


def test_a_layer_that_is_the_same_for_all_images_has_no_variation_to_divide_by():
    network = convolutions()
    nn.init.zeros_(network.h2[0].weight)
    with pytest.raises(gengap.NotAvailable, match="the same for all images"):
        total_variation_margin_first(model(network, drawn(1, 8, 8)))


def test_what_the_measures_of_a_layer_share_is_computed_once():
    one = model(convolutions(), drawn(1, 8, 8))
    assert hidden_margins(one, module.FIRST) is hidden_margins(one, module.FIRST)
    assert hidden_margins(one, module.FIRST) is not hidden_margins(one, module.EIGHTH)


@pytest.mark.parametrize("name", STRIDED)
def test_rounding_in_float32_does_not_show(name):
    sample = drawn(1, 8, 8)
    exact = MEASURES[name](model(convolutions(), sample))
    rounded = MEASURES[name](model(convolutions().float(), (sample[0].float(), sample[1])))
    assert rounded == pytest.approx(exact, rel=1e-5)


def test_orthogonal_layers_have_the_spectral_complexity_of_their_width_and_depth():
    layers = {name: nn.Linear(5, 5, bias=False) for name in ("h1", "h2", "h3", "logits")}
    network = stages(**layers)
    for stage in network:
        nn.init.orthogonal_(stage.weight)
    inputs, labels = drawn(5)
    one = model(network, (inputs, labels))
    expected = margin(one) / (4**1.5 * 5)  # rows have norm 1, so ||W^T||_{2,1} is the width
    assert spectrally_normalized_margin(one) == pytest.approx(expected, rel=1e-10)


def test_the_spectrally_normalized_margin_does_not_see_the_scale_of_a_layer():
    layers = {"h1": nn.Linear(6, 5, bias=False), "activation": nn.ReLU()}
    sample = drawn(6)
    values = []
    for scale in (1.0, 30.0):
        network = stages(**layers, logits=nn.Linear(5, 3, bias=False))
        network.h1.weight.data *= scale
        values.append(spectrally_normalized_margin(model(network, sample)))
    assert values[0] == pytest.approx(values[1], rel=1e-10)


def test_the_margin_is_minus_the_median():
    assert margin(margins([1.0, 2.0, 4.0, 9.0])) == pytest.approx(-3.0)


def test_equal_margins_give_one_over_their_size_and_the_root_of_the_sample_size():
    assert inverse_margin(margins([4.0] * 30)) == pytest.approx(1 / (4 * 30**0.5))


@pytest.mark.parametrize("count, position", [(111, 10), (29, 1), (5, 0)])
def test_the_margin_is_the_last_of_the_lowest_tenth_without_its_sign(count, position):
    values = np.linspace(-3, 8, count)
    shuffled = np.random.default_rng(0).permutation(values)
    assert low_margin(margins(shuffled)) == pytest.approx(abs(values[position]), rel=1e-6)


def test_a_margin_of_zero_has_no_inverse():
    with pytest.raises(gengap.NotAvailable, match="margin at the lowest tenth of the sample is 0"):
        inverse_margin(margins([0.0] * 5))


def test_margins_grow_with_the_scale_of_the_logits():
    values = np.linspace(1, 8, 50)
    ratio = inverse_margin(margins(values)) / inverse_margin(margins(10 * values))
    assert ratio == pytest.approx(10, rel=1e-5)
