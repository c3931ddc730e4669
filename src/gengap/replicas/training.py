"""What trainers of one network after another share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.9


@dataclass(frozen=True)
class Images:
    """A split, or part of one, ready for a network."""

    inputs: Tensor  # (N, C, H, W) float32
    labels: Tensor  # (N,) int64

    def __getitem__(self, chosen: Tensor | slice) -> "Images":
        return Images(self.inputs[chosen], self.labels[chosen])


def shuffled_batches(
    images: Images, size: int, augment: Callable[[Tensor], Tensor] | None = None
) -> Iterator[Images]:
    """One epoch of batches in a new order, each image once; `augment` changes each one's inputs."""
    for chosen in torch.randperm(len(images.labels)).split(size):
        batch = images[chosen.to(images.labels.device)]
        yield Images(augment(batch.inputs), batch.labels) if augment else batch


def train_epoch(network: nn.Module, batches: Iterator[Images], optimizer) -> int:
    """A step down the cross-entropy for each batch; the number of steps."""
    network.train()
    steps = 0
    for batch in batches:
        loss = F.cross_entropy(network(batch.inputs), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return steps


def shifted_and_mirrored(inputs: Tensor, *, shift: int) -> Tensor:
    """Images (N, C, H, W), each moved by up to `shift` pixels each way and mirrored half the time.

    What moves in from outside is 0. Source: the augmentation that is standard for CIFAR (pad, crop,
    flip), as in tensor2tensor's image_cifar10.
    """
    count, _, height, width = inputs.shape
    padded = F.pad(inputs, (shift, shift, shift, shift))
    down, right = torch.randint(2 * shift + 1, (2, count, 1))
    columns = torch.arange(width).expand(count, -1)
    columns = torch.where(torch.rand(count, 1) < 0.5, width - 1 - columns, columns) + right
    rows = torch.arange(height) + down
    moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    # With channels last, convolutions of few channels would follow, and some (1 x 1 by strides of
    # 2, 4 channels) write beside their memory in PyTorch 2.13 on a CPU.
    return moved.permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round parameters and buffers to the 8 bits of mantissa of bfloat16; they stay float32.

    Half of each number's bytes are then zero, so that a deflated container is half as large. What
    is recorded of a network is recorded after this: the shipped weights are the evaluated ones.
    """
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(torch.bfloat16))


def momentum_sgd(network: nn.Module, *, rate: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with momentum 0.9 that decays kernels, not biases and the scales of normalizations."""
    kernels = [weight for weight in network.parameters() if weight.dim() > 1]
    others = [weight for weight in network.parameters() if weight.dim() == 1]
    groups: list[dict] = [{"params": kernels, "weight_decay": weight_decay}, {"params": others}]
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM)


@torch.no_grad()
def evaluate(network: nn.Sequential, images: Images) -> tuple[float, float]:
    """Accuracy (fraction) and mean cross-entropy (nats), without dropout and penalty."""
    logits = torch.cat([network.eval()(batch) for batch in images.inputs.split(1000)])
    correct = (logits.argmax(dim=1) == images.labels).double().mean()
    return float(correct), float(F.cross_entropy(logits.double(), images.labels))


def recorded(evaluated: Callable[[Images], tuple], train: Images, test: Images) -> dict:
    """train_accuracy, train_loss, test_accuracy and test_loss, as `evaluated` finds them."""
    found = {}
    for split, images in {"train": train, "test": test}.items():
        found[f"{split}_accuracy"], found[f"{split}_loss"] = evaluated(images)
    return found
