"""What several measures read of a network between its inputs and its logits."""

from torch import Tensor, nn


def stage_outputs(network: nn.Sequential, inputs: Tensor) -> dict[str, Tensor]:
    """The output of every stage, by name and in order; the last are the logits.

    `inputs` (N, ...) -> tensors (N, ...) on one graph, so that one backward pass reaches all.
    """
    outputs = {}
    for name, stage in network.named_children():
        inputs = outputs[name] = stage(inputs)
    return outputs
