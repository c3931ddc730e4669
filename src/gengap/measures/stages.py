"""What several measures read of a network between its inputs and its logits, and of its sample."""

from collections import deque

import torch
from torch import Tensor, nn

# Images whose activations at every stage are held at once: 2 GB in a network of width 512.
IMAGES_AT_ONCE = 50


def stage_outputs(network: nn.Sequential, inputs: Tensor) -> dict[str, Tensor]:
    """The output of every stage, by name and in order; the last are the logits.

    `inputs` (N, ...) -> tensors (N, ...) on one graph, so that one backward pass reaches all.
    """
    outputs = {}
    for name, stage in network.named_children():
        inputs = outputs[name] = stage(inputs)
    return outputs


def split_at(network: nn.Sequential, place: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The first `place` stages, and those from there on, sharing the network's modules."""
    return network[:place], network[place:]  # type: ignore[return-value]  # slices are sequential


def has_strides(stage: nn.Module) -> bool:
    """Whether a stage convolves or pools: in Keras, layers that have `strides`."""
    return any(isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) for m in stage.modules())


@torch.no_grad()
def last_representations(network: nn.Sequential, inputs: Tensor, count: int) -> list[Tensor]:
    """The inputs of the last `count` stages, or of all, then the logits; each (N, features)."""
    parts = []
    for batch in inputs.split(IMAGES_AT_ONCE):
        passed = deque([batch], maxlen=count + 1)  # earlier activations are let go at once
        for stage in network:
            passed.append(stage(passed[-1]))
        parts.append([output.flatten(1) for output in passed])
    return [torch.cat(batches) for batches in zip(*parts, strict=True)]


def seeded() -> torch.Generator:
    """The source of every random draw: on the CPU, so that a GPU draws the same."""
    return torch.Generator().manual_seed(0)
