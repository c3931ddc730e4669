from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gengap
from gengap.measures.capacity import parameter_count
from gengap.measures.norm_products import (
    frobenius_over_spectral_norms,
    log_product_of_frobenius_norms,
    log_product_of_spectral_norms,
    log_sum_of_frobenius_norms,
    log_sum_of_spectral_norms,
)
from gengap.measures.norms import (
    distance_from_initialization,
    fft_spectral_norms,
    folded_distance_from_initialization,
    folded_parameter_norm,
    path_norm,
    raw_parameter_norm,
    root_path_norm,
    spectral_distance_from_initialization,
    spectral_norm,
)

IMAGES = pd.Series({"train_images": 50})  # m of the networks here


def orthogonal_model(scale: float = 1.0) -> gengap.Model:
    """One square layer: an orthogonal matrix times `scale`, and a bias of ones."""
    stage = nn.Linear(7, 7)
    with torch.no_grad():
        nn.init.orthogonal_(stage.weight, gain=scale)
        stage.bias.fill_(1.0)
    start = {name: weight.detach().clone() for name, weight in stage.named_parameters("logits")}
    return gengap.Model(nn.Sequential(OrderedDict(logits=stage)), pd.Series(), start)


def test_the_distance_from_initialization_is_the_kits(kit):
    for model, expected in kit:
        found = distance_from_initialization(model)
        assert found == pytest.approx(expected["distance_from_init"], rel=1e-6)


def test_the_norm_of_an_orthogonal_layer_is_its_width_plus_its_bias():
    assert raw_parameter_norm(orthogonal_model()) == pytest.approx(7 + 7, rel=1e-6)


def test_scaling_the_weights_scales_the_norm_by_the_square():
    assert raw_parameter_norm(orthogonal_model(3.0)) == pytest.approx(9 * 7 + 7, rel=1e-6)


def test_the_distance_is_the_sum_of_squared_changes():
    model = orthogonal_model()
    assert distance_from_initialization(model) == 0
    with torch.no_grad():
        model.network.logits.weight += 0.5
    assert distance_from_initialization(model) == pytest.approx(49 * 0.25, rel=1e-6)


def test_without_initial_weights_there_is_no_distance():
    model = gengap.Model(orthogonal_model().network, pd.Series())
    with pytest.raises(gengap.NotAvailable, match="without initial weights"):
        distance_from_initialization(model)


def test_a_million_equal_weights_are_summed_without_loss():
    stage = nn.Linear(1000, 1000, bias=False)
    nn.init.constant_(stage.weight, 0.1)
    model = gengap.Model(nn.Sequential(stage), pd.Series())
    exact = 1_000_000 * float(torch.tensor(0.1)) ** 2
    assert raw_parameter_norm(model) == pytest.approx(exact, rel=1e-12)


def deep_model(*scales: float, width: int = 6) -> gengap.Model:
    """Orthogonal layers times these scales, without biases."""
    torch.manual_seed(0)
    stages = OrderedDict((f"h{i}", nn.Linear(width, width, bias=False)) for i in range(len(scales)))
    for stage, scale in zip(stages.values(), scales):
        nn.init.orthogonal_(stage.weight, gain=scale)
    return gengap.Model(nn.Sequential(stages), IMAGES)


def relu_network() -> nn.Sequential:
    torch.manual_seed(1)
    stages = OrderedDict(h1=nn.Linear(4, 5), relu=nn.ReLU(), logits=nn.Linear(5, 3))
    return nn.Sequential(stages).double()


def with_inputs(network: nn.Sequential, *shape: int) -> gengap.Model:
    sample = torch.randn(2, *shape, dtype=torch.float64), torch.tensor([0, 1])
    return gengap.Model(network, pd.Series({"train_images": 1}), read_sample=lambda: sample)


def test_orthogonal_layers_have_norms_of_their_scale_and_width():
    model = deep_model(1.0, 3.0, 0.5)
    spectral, frobenius = 2 * np.log(1.5), 2 * np.log(1.5) + 3 * np.log(6)
    expected = {
        log_product_of_spectral_norms: (spectral - np.log(50)) / 2,
        log_product_of_frobenius_norms: (frobenius - np.log(50)) / 2,
        log_sum_of_spectral_norms: (np.log(3) + spectral / 3 - np.log(50)) / 2,
        log_sum_of_frobenius_norms: (np.log(3) + frobenius / 3 - np.log(50)) / 2,
        frobenius_over_spectral_norms: (3 * 6 / 50) ** 0.5,
        folded_parameter_norm: (6 * (1 + 9 + 0.25) / 50) ** 0.5,
        parameter_count: (3 * 36 / 50) ** 0.5,
    }
    for measure, value in expected.items():
        assert measure(model) == pytest.approx(value, rel=1e-5), measure.__name__


@pytest.mark.parametrize("shape", [(3, 200), (200, 3), (40, 40)])
def test_the_spectral_norm_equals_the_largest_singular_value(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    assert float(spectral_norm(torch.tensor(matrix))) == pytest.approx(expected, rel=1e-12)


def test_a_kernel_counts_as_a_matrix_of_its_outputs_with_the_batch_norm_after_it():
    convolution, norm = nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, 1, 5)
    network = nn.Sequential(OrderedDict(conv2d=convolution, batch_normalization=norm)).eval()
    scale = norm.weight.detach() / (1 + norm.eps) ** 0.5
    matrix = (convolution.weight.detach().flatten(1) * scale[:, None]).double().numpy()
    model = gengap.Model(network, IMAGES)
    expected = np.log(np.linalg.norm(matrix, 2)) - np.log(50) / 2
    assert log_product_of_spectral_norms(model) == pytest.approx(expected, rel=1e-5)
    expected = np.linalg.norm(matrix) / 50**0.5
    assert folded_parameter_norm(model) == pytest.approx(expected, rel=1e-5)
    assert parameter_count(model) == pytest.approx((4 * 12 / 50) ** 0.5)


def test_a_layer_of_zeros_has_no_logarithm():
    model = deep_model(1.0, 0.0)
    with pytest.raises(gengap.NotAvailable, match="all weights of a layer are 0"):
        log_product_of_spectral_norms(model)


def test_the_spectral_distance_of_a_rank_one_change_is_the_product_of_its_factors():
    network = relu_network()
    start = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    left, right = torch.randn(5).double(), torch.randn(4).double()
    network.h1.weight.data += torch.outer(left, right)
    model = gengap.Model(network, pd.Series(), start)
    expected = float(left.norm() * right.norm()) / 50**0.5
    model = gengap.Model(network, IMAGES, start)
    assert spectral_distance_from_initialization(model) == pytest.approx(expected, rel=1e-10)
    assert folded_distance_from_initialization(model) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "distance", [spectral_distance_from_initialization, folded_distance_from_initialization]
)
def test_distances_take_batch_norm_from_its_start(distance):
    stages = OrderedDict(conv2d=nn.Conv2d(1, 2, 1, bias=False), norm=nn.BatchNorm2d(2, eps=0.0))
    network = nn.Sequential(stages).eval()
    start = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network.norm.running_var.fill_(1 / 9)
    model = gengap.Model(network, IMAGES, start)
    kernel = float(start["conv2d.weight"].norm()) / 50**0.5
    assert distance(model) == pytest.approx(2 * kernel, rel=1e-5)  # three times, less once
    start |= {name: tensor.clone() for name, tensor in network.norm.named_buffers("norm")}
    assert distance(gengap.Model(network, IMAGES, start)) == 0
    start["norm.running_var"].fill_(1 / 4)  # moving statistics whose start is known
    model = gengap.Model(network, IMAGES, start)
    assert distance(model) == pytest.approx(kernel, rel=1e-5)  # three times, less twice


def test_without_initial_weights_there_is_no_spectral_distance():
    with pytest.raises(gengap.NotAvailable, match="without initial weights"):
        spectral_distance_from_initialization(deep_model(1.0))


def test_the_path_norm_sums_the_squared_weights_over_all_paths():
    network = relu_network().requires_grad_(False)
    first, second = network.h1, network.logits
    expected = float(second.bias.square().sum())
    for k in range(3):
        for j in range(5):
            into = float(first.bias[j]) ** 2 + sum(float(first.weight[j, i]) ** 2 for i in range(4))
            expected += float(second.weight[k, j]) ** 2 * into
    assert path_norm(with_inputs(network, 4)) == pytest.approx(expected**0.5, rel=1e-12)


def test_the_path_norm_does_not_see_scale_moved_from_one_layer_to_the_next():
    network, moved = relu_network(), relu_network()
    with torch.no_grad():
        for parameter in moved.h1.parameters():
            parameter.mul_(100)
        moved.logits.weight.div_(100)
    expected = path_norm(with_inputs(network, 4))
    assert path_norm(with_inputs(moved, 4)) == pytest.approx(expected, rel=1e-12)


def test_the_path_norm_of_a_network_with_batch_norm_is_that_of_the_network_it_computes():
    torch.manual_seed(2)
    convolution, norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 1, 2)
    scale = (norm.running_var + norm.eps) ** -0.5
    plain = nn.Conv2d(2, 3, 3)
    plain.weight.data = convolution.weight.detach() * scale[:, None, None, None]
    plain.bias.data = (convolution.bias.detach() - norm.running_mean) * scale
    tail = [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)]
    values = [
        path_norm(with_inputs(nn.Sequential(*head, *tail).double().eval(), 2, 6, 6))
        for head in ([convolution, norm], [plain])
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_without_batch_norm_the_root_path_norm_is_the_path_norm_of_one_image():
    model = with_inputs(relu_network(), 4)
    assert root_path_norm(model) == pytest.approx(path_norm(model), rel=1e-12)


def batch_normalized(mean: float) -> gengap.Model:
    """A dense layer of one weight 3, batch norm (scale 2, shift 1), a dense layer of weight 5."""
    stages = OrderedDict(h1=nn.Linear(1, 1), norm=nn.BatchNorm1d(1, eps=0), logits=nn.Linear(1, 1))
    network = nn.Sequential(stages).double().eval()
    values = {"h1.weight": 3, "h1.bias": 0, "norm.weight": 2, "norm.bias": 1, "logits.weight": 5}
    for name, value in (values | {"logits.bias": 0}).items():
        nn.init.constant_(network.get_parameter(name), value)
    network.norm.running_mean.fill_(mean)
    network.norm.running_var.fill_(16)
    return with_inputs(network, 1)


def test_the_root_path_norm_squares_batch_norms_scale_and_shift_but_not_its_statistics():
    expected = 5 * ((9 - 6) / 4 * 4 + 1) ** 0.5
    assert root_path_norm(batch_normalized(6)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mean", [20, np.nan, -np.inf])
def test_a_sum_of_logits_without_a_root_has_no_root_path_norm(mean):
    with pytest.raises(gengap.NotAvailable, match="the logits sum to .*: no root"):
        root_path_norm(batch_normalized(mean))


def test_without_a_sample_there_is_no_root_path_norm():
    with pytest.raises(gengap.NotAvailable, match="without a training sample"):
        root_path_norm(deep_model(1.0))


def circulant(kernel: np.ndarray, side: int) -> np.ndarray:
    """The matrix of a convolution (out, in, k, k) with circular padding of images side x side."""
    outputs, inputs, height, width = kernel.shape
    matrix = np.zeros((outputs, side, side, inputs, side, side))
    for y, x, i, j in np.ndindex(side, side, height, width):
        matrix[:, y, x, :, (y + i) % side, (x + j) % side] += kernel[:, :, i, j]
    return matrix.reshape(outputs * side**2, -1)


@pytest.mark.parametrize("side", [6, 5, 3])  # an even, an odd one, and one below the kernel's
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_norm_of_a_convolution_is_that_of_its_circulant_matrix(kind, groups, side):
    torch.manual_seed(0)
    layer = kind(4, 6, 4, groups=groups).double()
    blocks = layer.weight.detach().numpy().reshape(groups, -1, *layer.weight.shape[1:])
    sides = max(side, 4)
    expected = max(np.linalg.norm(circulant(block, sides), 2) for block in blocks)
    [found] = fft_spectral_norms(nn.Sequential(layer), torch.Size([side, side]))
    assert float(found) == pytest.approx(expected, rel=1e-10)


def test_a_convolution_of_one_place_and_a_dense_layer_have_the_norms_of_their_matrices():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(20, 4)).double()
    found = fft_spectral_norms(network, torch.Size([2, 2]))
    weights = [network[0].weight.flatten(1), network[2].weight]
    expected = [np.linalg.norm(weight.detach().numpy(), 2) for weight in weights]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)
