"""What a state dict tells of a network, against the networks that PyTorch makes."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import gengap
from gengap import GengapError
from gengap.formats.weight_modules import left_out, weights_only_network
from gengap.measures.folding import folded, weight_matrices
from gengap.measures.norms import raw_parameter_norm


def matrices(state, *, fold=False):
    network = weights_only_network(state, "why")
    return weight_matrices(folded(network) if fold else network)


def trained(network):
    """The network after a forward pass in training mode, which moves estimates and statistics."""
    torch.manual_seed(0)
    network.train()(torch.randn(8, 6, 9))
    return network.eval()


REPARAMETRIZED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of old": nn.utils.weight_norm,
    "weight norm over another axis": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight norm over all": lambda layer: nn.utils.weight_norm(layer, dim=None),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm of old": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", REPARAMETRIZED)
def test_a_weight_in_parts_is_the_one_that_the_network_computes_with(kind):
    layer = trained(REPARAMETRIZED[kind](nn.Conv1d(6, 4, 3)))
    layer(torch.randn(1, 6, 9))  # old forms set the weight when called
    [matrix] = matrices({f"c.{name}": tensor for name, tensor in layer.state_dict().items()})
    torch.testing.assert_close(matrix, layer.weight.detach().flatten(1), rtol=1e-4, atol=1e-6)


def test_parts_of_another_parametrization_are_named():
    state = parametrizations.orthogonal(nn.Linear(3, 3)).state_dict()
    with pytest.raises(GengapError, match="weight is written in the parts .*original"):
        weights_only_network(state, "why")


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv1d(4, 6, 3), (6, 12)),
        (nn.Conv3d(4, 6, 2), (6, 32)),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 9)),
        (nn.ConvTranspose2d(4, 6, 3), (6, 36)),
        (nn.Embedding(7, 5), (7, 5)),
    ],
)
def test_layers_of_every_kind_are_matrices(layer, shape):
    found = matrices({f"a.{name}": tensor for name, tensor in layer.state_dict().items()})
    assert [tuple(matrix.shape) for matrix in found] == [shape]


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_folds_into_a_transposed_convolution_along_its_outputs(groups):
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=groups), nn.BatchNorm1d(6))
    with torch.no_grad():
        network[1].running_var.uniform_(0.5, 2)
        network[1].running_mean.normal_()
    network.eval()
    inputs = torch.randn(2, 4, 5)
    torch.testing.assert_close(folded(network)(inputs), network(inputs), rtol=1e-4, atol=1e-5)
    matrix = weight_matrices(folded(network))[0]
    assert matrix.shape == (6, 3 * 4 // groups)


def test_queries_keys_values_and_gates_are_layers_of_their_own():
    network = nn.ModuleDict({"att": nn.MultiheadAttention(8, 2), "gru": nn.GRU(5, 4)})
    found = [tuple(matrix.shape) for matrix in matrices(network.state_dict())]
    assert sorted(found) == sorted([(8, 8)] * 4 + [(4, 5)] * 3 + [(4, 4)] * 3)


def test_a_weight_under_two_names_counts_once():
    network = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    network["head"].weight = network["embed"].weight
    copied = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    total = float(network["embed"].weight.detach().square().sum())
    for state in (network.state_dict(), copied):
        model = gengap.Model(weights_only_network(state, "why"), None)
        assert raw_parameter_norm(model) == pytest.approx(total, rel=1e-6)
        assert left_out(state) == ["head.weight (stored twice, counted once)"]


def test_equal_constant_matrices_are_two():
    assert len(matrices({"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)})) == 2


def test_batch_norm_folds_into_the_layer_of_its_number_whatever_the_order():
    torch.manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(3, 4, 3),
        "bn1": nn.BatchNorm2d(4),
        "conv2": nn.Conv2d(4, 4, 3),
        "bn2": nn.BatchNorm2d(4),
    }
    network = nn.ModuleDict(layers)
    with torch.no_grad():
        layers["bn1"].running_var.fill_(4)
        layers["bn2"].running_var.fill_(9)
    state = network.state_dict()
    for names in (list(state), sorted(state), sorted(state, reverse=True)):
        found = matrices({name: state[name] for name in names}, fold=True)
        sizes = {round(float(m.norm()), 4) for m in found}
        expected = {
            round(float(layers["conv1"].weight.norm()) / (4 + 1e-5) ** 0.5, 4),
            round(float(layers["conv2"].weight.norm()) / (9 + 1e-5) ** 0.5, 4),
        }
        assert sizes == expected
