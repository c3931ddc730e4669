from collections import OrderedDict

import pytest
import torch
from torch import nn

from gengap.errors import NotAvailable
from gengap.measures.folding import folded, weight_matrices


def network(*modules: nn.Module) -> nn.Sequential:
    """Random weights, and batch norms that have seen data, in float64."""
    torch.manual_seed(0)
    made = nn.Sequential(OrderedDict((f"stage{i}", m) for i, m in enumerate(modules))).double()
    with torch.no_grad():
        for tensor in [*made.parameters(), *made.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.3)
    return made.eval()


AFTER_LAYERS = (
    nn.Conv2d(2, 3, 3, bias=False),
    nn.BatchNorm2d(3),
    nn.ReLU(),
    nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)),
    nn.BatchNorm2d(4, affine=False),
    nn.Flatten(),
    nn.Linear(64, 5),
    nn.Dropout(0.5),
    nn.BatchNorm1d(5),
)
# A batch norm of the channels after they have become features: not those of the convolution.
OTHER_CHANNELS = (nn.Conv2d(2, 3, 3), nn.Flatten(), nn.BatchNorm1d(48))
AFTER_ACTIVATIONS = (nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten())
images = torch.randn(7, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("modules", [AFTER_LAYERS, AFTER_ACTIVATIONS, OTHER_CHANNELS])
def test_the_folded_network_computes_the_same_and_the_original_stays(modules):
    original = network(*modules)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    assert torch.allclose(folded(original)(images), original(images), rtol=1e-12, atol=1e-12)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_batch_norms_right_after_layers_are_gone():
    left = [type(module) for module in folded(network(*AFTER_LAYERS)).modules()]
    assert nn.BatchNorm2d not in left and nn.BatchNorm1d not in left


def test_a_batch_norm_after_an_activation_is_a_layer_with_a_diagonal_matrix():
    original = network(*AFTER_ACTIVATIONS)
    norm = original.stage2
    kernel, scale = weight_matrices(folded(original))
    assert torch.equal(kernel, original.stage0.weight.flatten(1))
    assert torch.allclose(scale, torch.diag(norm.weight / (norm.running_var + norm.eps).sqrt()))


def test_a_batch_norm_of_each_batch_is_not_folded():
    modules = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()
    with pytest.raises(NotAvailable, match="without moving statistics"):
        folded(network(*modules))
