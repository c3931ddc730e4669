from collections import OrderedDict

import torch
from torch import nn

from gengap.measures.stages import stage_outputs


def test_each_stage_is_read_after_the_one_before_it_and_the_last_is_the_network():
    network = nn.Sequential(OrderedDict(h1=nn.Linear(3, 4), rectified=nn.ReLU()))
    inputs = torch.tensor([[1.0, -2.0, 3.0]])
    outputs = stage_outputs(network, inputs)
    assert list(outputs) == ["h1", "rectified"]
    assert torch.equal(outputs["h1"], network.h1(inputs))
    assert torch.equal(outputs["rectified"], network(inputs))
