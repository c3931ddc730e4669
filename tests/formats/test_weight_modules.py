"""What a state dict tells of a network, against the networks that PyTorch makes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import gengap
from gengap import GengapError
from gengap.formats.weight_modules import left_out, weights_only_network
from gengap.formats.weight_parts import largest_singular_value
from gengap.measures.folding import folded, weight_matrices, weight_matrix
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
    "weight norm of old over another axis": lambda layer: nn.utils.weight_norm(layer, dim=1),
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "pruning of weight norm": lambda layer: pruned(parametrizations.weight_norm(layer)),
    "pruning of weight norm of old": lambda layer: pruned(nn.utils.weight_norm(layer), "weight_v"),
    "pruning of spectral norm": lambda layer: pruned(parametrizations.spectral_norm(layer)),
    "pruning of spectral norm of old": lambda layer: pruned(
        nn.utils.spectral_norm(layer), "weight_orig"
    ),
}


def pruned(layer, name=""):
    """A layer of which half of a part is pruned; by default the last that a parametrization has."""
    module = layer if name else layer.parametrizations.weight
    prune.random_unstructured(module, name or [*dict(module.named_parameters())][-1], 0.5)
    return layer


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", REPARAMETRIZED)
def test_a_weight_in_parts_is_the_one_that_the_network_computes_with(kind):
    layer = trained(REPARAMETRIZED[kind](nn.Conv1d(6, 4, 3)))
    layer(torch.randn(1, 6, 9))  # old forms set the weight when called
    [matrix] = matrices({f"c.{name}": tensor for name, tensor in layer.state_dict().items()})
    torch.testing.assert_close(matrix, layer.weight.detach().flatten(1), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("normed", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("layer", [nn.ConvTranspose1d(6, 6, 3), nn.ConvTranspose1d(6, 3, 3)])
def test_a_transposed_convolution_is_divided_by_the_norm_along_its_own_axis(normed, layer):
    layer = trained(normed(copy.deepcopy(layer)))
    layer(torch.randn(1, 6, 9))
    model = weights_only_network({f"c.{n}": t for n, t in layer.state_dict().items()}, "why")
    torch.testing.assert_close(model.c.weight, layer.weight, rtol=1e-4, atol=1e-6)


def test_the_spectral_norm_of_gans_counts_as_the_one_of_pytorch():
    weight, left, right = torch.randn(4, 3, 3, 3), torch.randn(4), torch.randn(27)
    state = {"c.weight_bar": weight, "c.weight_u": left, "c.weight_v": right}
    [found] = matrices(state)
    sigma = left @ weight.flatten(1) @ right
    assert largest_singular_value(weight, left, right) == pytest.approx(float(sigma), rel=1e-5)
    torch.testing.assert_close(found, (weight / sigma).flatten(1))


@pytest.mark.parametrize("kind", [nn.LSTM(5, 4), nn.MultiheadAttention(8, 2)])
@pytest.mark.parametrize("written", [torch.float32, torch.bool, torch.uint8])
def test_a_pruned_weight_of_several_matrices_is_split_after_its_mask(kind, written):
    layer = copy.deepcopy(kind)
    name = next(
        name for name, _ in layer.named_parameters() if name.endswith(("l0", "in_proj_weight"))
    )
    prune.random_unstructured(layer, name, 0.5)
    state = layer.state_dict()
    state[f"{name}_mask"] = state[f"{name}_mask"].to(written)
    whole = getattr(layer, name).detach()
    found = torch.cat([matrix for matrix in matrices(state) if matrix.shape[1] == whole.shape[1]])
    assert torch.equal(found[: len(whole)], whole)


class Mask(nn.Module):
    """A parametrization of somebody's own, with something in the state dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.eye(3))

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize(
    "kinds",
    [
        [parametrizations.orthogonal],
        [parametrizations.weight_norm, parametrizations.spectral_norm],
        [parametrizations.spectral_norm, parametrizations.spectral_norm],
        [parametrizations.weight_norm, lambda layer: parametrize_with(layer, Mask())],
        [parametrizations.spectral_norm, lambda layer: parametrize_with(layer, Mask())],
    ],
)
def test_parts_of_another_parametrization_or_of_several_are_named(kinds):
    layer = nn.Linear(3, 3)
    for kind in kinds:
        layer = kind(layer)
    with pytest.raises(GengapError, match="weight is written in the parts .*original"):
        weights_only_network(layer.state_dict(), "why")


def parametrize_with(layer, parametrization):
    return parametrize.register_parametrization(layer, "weight", parametrization)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv1d(4, 6, 3), (6, 12)),
        (nn.Conv3d(4, 6, 2), (6, 32)),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 9)),
        (nn.ConvTranspose2d(4, 6, 3), (6, 36)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (6, 18)),
        (nn.ConvTranspose1d(8, 4, 3, groups=2), (4, 12)),
        (nn.ConvTranspose1d(4, 8, 3, groups=4), (8, 3)),
        (nn.ConvTranspose2d(8, 8, 3, groups=8), (8, 9)),
        (nn.Embedding(7, 5), (7, 5)),
    ],
)
def test_layers_of_every_kind_are_matrices(layer, shape):
    [found] = matrices({f"a.{name}": tensor for name, tensor in layer.state_dict().items()})
    assert tuple(found.shape) == shape
    if not isinstance(layer, nn.Embedding):
        assert torch.equal(found, weight_matrix(layer))


def test_a_matrix_of_gpt2_is_turned_where_its_bias_tells_so():
    torch.manual_seed(0)
    kernel = torch.randn(4, 12)  # (in, out), as Conv1D of transformers keeps it
    [found] = matrices({"h.c_attn.weight": kernel, "h.c_attn.bias": torch.randn(12)})
    assert torch.equal(found, kernel.T)


def test_a_convolution_before_a_batch_norm_is_transposed_where_it_fits_no_other_way():
    torch.manual_seed(0)
    layers = [
        nn.ConvTranspose2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 3, 3),
    ]
    generator = nn.Sequential(*layers)
    generator[1].running_var.uniform_(0.5, 2)
    found = matrices(generator.state_dict(), fold=True)
    for one, other in zip(found, weight_matrices(folded(generator.eval())), strict=True):
        torch.testing.assert_close(one, other)


def test_a_number_that_a_sequence_leaves_out_stands_between_layer_and_batch_norm():
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)]
    found = matrices(nn.Sequential(*layers).state_dict(), fold=True)
    assert [tuple(matrix.shape) for matrix in found] == [(4, 27), (4, 4)]


def test_normalizations_of_one_input_keep_their_statistics():
    state = {}
    for name in ("a.norm1", "b.norm1"):
        norm = nn.BatchNorm2d(4)
        norm.running_mean.copy_(torch.arange(4.0))
        state |= {f"{name}.{key}": tensor for key, tensor in norm.state_dict().items()}
    network = weights_only_network(state | {"fc.weight": torch.ones(2, 2)}, "why")
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.running_mean.tolist() for norm in norms] == [[0, 1, 2, 3]] * 2


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


@pytest.mark.parametrize(
    "layer, matrices_in",
    [
        (nn.LSTMCell(5, 4), [(4, 4)] * 4 + [(4, 5)] * 4),
        (nn.GRUCell(5, 4), [(4, 4)] * 3 + [(4, 5)] * 3),
        (nn.RNNCell(5, 4), [(4, 4), (4, 5)]),
        (nn.LSTM(5, 4, num_layers=2, bidirectional=True, proj_size=2), None),
        (nn.LSTM(5, 9, proj_size=8), None),
        (nn.GRU(5, 4, num_layers=2, bidirectional=True), None),
        (nn.MultiheadAttention(8, 2, kdim=5, vdim=6), [(8, 5), (8, 6), (8, 8), (8, 8)]),
        (nn.MultiheadAttention(8, 2, add_bias_kv=True), [(8, 8)] * 4),
    ],
)
def test_gates_and_projections_are_all_there_and_no_parameter_is_lost(layer, matrices_in):
    model = gengap.Model(weights_only_network(layer.state_dict(), "why"), None)
    found = sorted(tuple(matrix.shape) for matrix in weight_matrices(model.network))
    if matrices_in is None:
        gates = 4 if isinstance(layer, nn.LSTM) else 3
        weights = {name: p for name, p in layer.named_parameters() if name.startswith("weight")}
        split = {name: 1 if "_hr_" in name else gates for name in weights}
        shapes = {name: (len(p) // split[name], p.shape[1]) for name, p in weights.items()}
        matrices_in = sorted(shapes[name] for name in weights for _ in range(split[name]))
    assert found == matrices_in
    total = sum(float(p.detach().square().sum()) for p in layer.parameters())
    assert raw_parameter_norm(model) == pytest.approx(total, rel=1e-6)


BUFFERS = {
    "b.attn.bias": torch.tril(torch.ones(4, 4))[None, None],  # masks of GPT-2 and of lectures
    "b.tril": torch.tril(torch.ones(4, 4)),
    "pos_encoder.pe": torch.randn(5, 1, 4),
    "rotary.cos_cached": torch.randn(4, 4),
    "freqs_cis": torch.randn(4, 4, dtype=torch.complex64),
    "pixel_mean": torch.randn(3, 1, 1),
    "sqrt_alphas_cumprod": torch.rand(4),
    "loss.pos_weight": torch.rand(4),
    "fake_quant.activation_post_process.min_val": torch.tensor(-3.0),
}
PARAMETERS = ("pos_bias_u", "pos_bias_v", "alpha_v", "mask_token", "pos_embed", "bias_k", "v_bias")


@pytest.mark.parametrize("name", BUFFERS)
def test_what_is_no_weight_counts_in_no_norm_and_is_named(name):
    state = {"a.weight": torch.eye(3), name: BUFFERS[name]}
    model = gengap.Model(weights_only_network(state, "why"), None)
    assert raw_parameter_norm(model) == 3
    assert left_out(state) == [f"{name} (no weights)"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_in_no_layer_counts_among_all_parameters_and_is_named(name):
    state = {"a.weight": torch.eye(3), f"b.{name}": torch.ones(1, 2, 2)}
    model = gengap.Model(weights_only_network(state, "why"), None)
    assert raw_parameter_norm(model) == 7
    assert left_out(state) == [f"b.{name} (in no layer, among all parameters alone)"]


def test_of_many_names_the_first_are_told():
    state = {f"{place}.tril": torch.ones(2, 2) for place in range(6)} | {"a.weight": torch.eye(2)}
    assert left_out(state) == ["0.tril, 1.tril, 2.tril, 3.tril and 2 more (no weights)"]


def test_modules_may_be_called_as_the_methods_of_ours():
    names = ("append.weight", "insert.weight", "weight", "network.weight")
    state = {name: torch.eye(2) * (place + 1) for place, name in enumerate(names)}
    model = gengap.Model(weights_only_network(state, "why"), None)
    assert raw_parameter_norm(model) == 2 * (1 + 4 + 9 + 16)


def test_a_weight_under_two_names_counts_once():
    network = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    network["head"].weight = network["embed"].weight
    network["out"] = nn.ParameterDict({"bias": network["head"].bias})
    copied = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    total = sum(float(parameter.detach().square().sum()) for parameter in network.parameters())
    for state in (network.state_dict(), copied):
        model = gengap.Model(weights_only_network(state, "why"), None)
        assert raw_parameter_norm(model) == pytest.approx(total, rel=1e-6)
        assert left_out(state) == ["head.weight, out.bias (stored twice, counted once)"]


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
