import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse.csgraph import laplacian
from sklearn.metrics import davies_bouldin_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import kneighbors_graph
from torch import nn

import gengap
from gengap.measures.representations import (
    class_balanced,
    cosine_variation,
    davies_bouldin,
    davies_bouldin_index,
    davies_bouldin_mixup,
    nearest_edges,
    nearest_neighbour_variation,
    vpm,
    vpm_80,
    vr,
    wcv,
)
from gengap.measures.sensitivity import mixup_error
from gengap.measures.stages import seeded


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(network: nn.Sequential, inputs, labels) -> gengap.Model:
    return gengap.Model(network.eval(), pd.Series(), read_sample=lambda: (inputs, labels))


def perceptron(*, hidden=None, classes=None) -> gengap.Model:
    """A random network on 300 vectors of 4 classes, its hidden units or its classes reordered."""
    hidden = torch.arange(7) if hidden is None else hidden
    classes = torch.arange(4) if classes is None else classes
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    network.load_state_dict(
        {
            "0.weight": noise(7, 5, seed=1)[hidden],
            "0.bias": noise(7, seed=2)[hidden],
            "2.weight": noise(4, 7, seed=3)[classes][:, hidden],
            "2.bias": noise(4, seed=4)[classes],
        }
    )
    inputs = noise(300, 5, seed=5)
    labels = torch.arange(300) % 4
    return model(network, inputs, classes.argsort()[labels])


def convolution() -> gengap.Model:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(300, 4))
    state = {
        name: noise(*w.shape, seed=i) for i, (name, w) in enumerate(network.state_dict().items())
    }
    network.double().load_state_dict(state)
    return model(network, noise(200, 1, 12, 12, seed=9), torch.arange(200) % 4)


def one_hot_features(count: int = 40, classes: int = 4) -> gengap.Model:
    """Inputs that are their class's unit vector, times a length; all stages pass them on."""
    labels = torch.arange(count) % classes
    lengths = 1 + noise(count, seed=1).abs()
    inputs = nn.functional.one_hot(labels).double() * lengths[:, None]
    return model(nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity()), inputs, labels)


def test_vr_is_that_of_the_released_code(kit):
    for network, expected in kit:
        assert vr(network) == pytest.approx(expected["VR"], rel=1e-5)


def test_two_pairs_of_points_have_their_davies_bouldin_index():
    # Each pair is 1 from its centroid, the centroids are 10 apart: (1 + 1) / 10.
    points = torch.tensor([[0.0, 1.0], [0.0, -1.0], [10.0, 1.0], [10.0, -1.0]])
    assert davies_bouldin(points, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.2)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_davies_bouldin_index_equals_scikit_learns(classes):
    labels = torch.arange(60) % classes
    features = noise(60, 8) + labels[:, None]
    expected = davies_bouldin_score(features.numpy(), labels.numpy())
    assert davies_bouldin(features, labels) == pytest.approx(expected, rel=1e-12)


def test_features_that_coincide_have_index_zero_as_in_scikit_learn():
    labels = torch.arange(30) % 3
    collapsed = torch.full((30, 4), 0.1)
    assert davies_bouldin(collapsed, labels) == 0
    assert davies_bouldin_score(collapsed.numpy(), labels.numpy()) == 0
    assert davies_bouldin(noise(30, 4), torch.zeros(30)) == 0  # one class


def test_the_davies_bouldin_index_knows_neither_scale_nor_names_of_classes():
    features, labels = noise(60, 8), torch.arange(60) % 4
    renamed = torch.tensor([7, 1, 9, 3])[labels]
    expected = davies_bouldin(features, labels)
    assert davies_bouldin(100 * features, renamed) == pytest.approx(expected, rel=1e-12)


def test_the_index_is_read_after_the_first_convolution_pooled():
    found = convolution()
    features = nn.functional.max_pool2d(found.network[0](found.sample[0]), 4).flatten(1).detach()
    order = torch.randperm(200, generator=seeded())[:120]
    expected = davies_bouldin_score(features[order].numpy(), found.sample[1][order].numpy())
    assert davies_bouldin_index(found, draws=1) == pytest.approx(expected, rel=1e-12)


def test_the_product_is_of_both():
    found = convolution()
    assert davies_bouldin_mixup(found) == davies_bouldin_index(found) * mixup_error(found)


def test_a_network_without_convolutions_has_no_davies_bouldin_index():
    with pytest.raises(gengap.NotAvailable, match="a convolution or pooling"):
        davies_bouldin_index(perceptron())


def test_pairs_of_one_class_do_not_vary_and_pairs_of_two_vary_fully():
    pairs = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    same = nn.functional.one_hot(torch.tensor([0, 0, 1, 1]))
    apart = nn.functional.one_hot(torch.tensor([0, 1, 0, 1]))
    assert nearest_neighbour_variation(pairs, same) == pytest.approx(0, abs=1e-12)
    # By pair (y_1 - y_2)^2 = 2: in all 4 / (4 * 4).
    assert nearest_neighbour_variation(pairs, apart) == pytest.approx(1 / 4)


def test_the_variation_on_neighbours_equals_scipys_laplacian_of_scikit_learns_graph():
    features, signal = noise(50, 6), noise(50, 3, seed=1)
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    directed = kneighbors_graph(unit, 1).toarray()
    matrix = laplacian(np.maximum(directed, directed.T), normed=True)
    expected = np.trace(signal.numpy().T @ matrix @ signal.numpy()) / (4 * 50)
    assert nearest_neighbour_variation(features, signal) == pytest.approx(expected, rel=1e-12)


def test_the_variation_on_cosines_equals_scipys_laplacian():
    features, signal = noise(50, 3), noise(50, 4, seed=1)
    cosines = cosine_similarity(features.numpy()).clip(0, 1)
    directed = np.zeros_like(cosines)
    for row, values in enumerate(cosines):
        others = np.delete(np.arange(50), row)
        directed[row, others[np.argsort(-values[others])[:20]]] = 1
    matrix = laplacian(np.maximum(directed, directed.T) * cosines)
    expected = np.trace(signal.numpy().T @ matrix @ signal.numpy()) / (200 * 50)
    assert cosine_variation(features, signal, 20) == pytest.approx(expected, rel=1e-12)


def test_ties_are_neighbours_and_nobody_is_their_own():
    similarity = torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.0, 0.2], [0.5, 0.2, 1.0]])
    expected = [[False, True, True], [True, False, False], [True, False, False]]
    assert nearest_edges(similarity, 1).tolist() == expected


def test_what_float32_cannot_tell_apart_is_a_tie():
    similarity = torch.tensor(
        [[1, 0.5, 0.5 + 1e-12], [0.5, 1, 0.9], [0.5 + 1e-12, 0.9, 1]]
    ).double()
    assert nearest_edges(similarity, 1).sum() == 6


def test_separate_classes_have_no_variation():
    separate = one_hot_features()
    assert wcv(separate) == pytest.approx(0, abs=1e-12)
    assert vr(separate) == 0


def test_the_worst_stage_decides():
    mixed = one_hot_features()
    mixed.network[1] = nn.Linear(4, 2).double()  # two of four unit vectors end up in one direction
    with torch.no_grad():
        mixed.network[1].weight.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]))
        mixed.network[1].bias.zero_()
    features = mixed.network[1](mixed.sample[0]).detach()
    signal = nn.functional.one_hot(mixed.sample[1])
    assert wcv(mixed) == pytest.approx(nearest_neighbour_variation(features, signal), rel=1e-9)
    assert wcv(mixed) > 0.1


@pytest.mark.parametrize("function", [vr, wcv, vpm])
def test_the_order_of_hidden_units_leaves_the_variation(function):
    order = torch.tensor([3, 1, 0, 6, 5, 2, 4])
    assert function(perceptron(hidden=order)) == pytest.approx(function(perceptron()), rel=1e-9)


@pytest.mark.parametrize("function", [vr, wcv])
def test_the_order_of_classes_leaves_the_variation(function):
    order = torch.tensor([2, 0, 3, 1])
    assert function(perceptron(classes=order)) == pytest.approx(function(perceptron()), rel=1e-9)


def test_the_variation_of_mixtures_is_a_median_within_its_bounds():
    found = perceptron()
    assert 0 < vpm(found) < 0.5
    assert 0 < vpm_80(found) < 0.5
    assert vpm_80(found) != vpm(found)


def test_classes_share_a_graph_equally_and_a_small_one_gives_all():
    labels = torch.tensor([0] * 300 + [1] * 300 + [2] * 20)
    first = class_balanced(labels, 500)
    assert torch.equal(labels[first].bincount(), torch.tensor([166, 166, 20]))
    assert torch.equal(first[:166], torch.arange(166))
    drawn = class_balanced(labels, 500, seeded())
    assert torch.equal(labels[drawn].bincount(), torch.tensor([166, 166, 20]))
    assert len(drawn.unique()) == len(drawn) and drawn.max() < len(labels)
