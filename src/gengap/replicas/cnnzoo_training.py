"""How networks of the zoo train: on a GPU a stack of many at once, on a CPU one after another.

A *stack* of G networks is one tensor (G, 4970) in the published layout, with its own learning rate,
l2, dropout and optimizer for each. Networks of a stack share the activation and the training
images, because these shape the computation. Order of images and dropout noise depend on the seed
and the epoch alone, so a network comes out the same whatever stack it trains in.

On a GPU a layer of a stack is one grouped convolution. On a CPU the gradient of each network is
compiled (`small_cnn`), several times faster than torch's: see tests/benchmarks/train_cnnzoo.py.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from pandas import DataFrame

from gengap.collections.cnnzoo import LAYOUT, PARAMETERS
from gengap.replicas import small_cnn
from gengap.replicas.training import Images, recorded

BATCH = 512
ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh}
EPSILON = 1e-7  # of Adam and RMSprop in Keras


def stacked_logits(weights, inputs, activation, masks=None) -> torch.Tensor:
    """Logits (G, B, 10) of G networks, `weights` (G, 4970), on the same `inputs` (B, 1, H, W).

    `masks(shape)` gives a dropout mask for activations of shape (B, G, 16, h, w).
    """
    networks = len(weights)
    tensors = [weights[:, s.start : s.end].reshape(networks, *s.shape) for s in LAYOUT]
    hidden = inputs
    for layer in range(3):
        bias, kernel = tensors[2 * layer], tensors[2 * layer + 1]
        kernel = kernel.permute(0, 4, 3, 1, 2).flatten(0, 1).contiguous()
        groups = 1 if layer == 0 else networks  # the first layer sees the same images everywhere
        hidden = activation(F.conv2d(hidden, kernel, bias.flatten(), stride=2, groups=groups))
        if masks is not None:
            stacked = hidden.unflatten(1, (networks, 16))
            hidden = (stacked * masks(stacked.shape)).flatten(1, 2)
    pooled = hidden.mean(dim=(2, 3)).unflatten(1, (networks, 16)).transpose(0, 1)
    return torch.baddbmm(tensors[6][:, None], pooled, tensors[7])


class StackedOptimizer:
    """Keras's Adam, RMSprop and plain SGD (default constants), one choice a row of the stack."""

    def __init__(self, configurations: DataFrame, device):
        def column(values):
            return torch.tensor(np.asarray(values, np.float32), device=device)[:, None]

        kind = configurations["optimizer"].to_numpy()
        self.learning_rate = column(configurations["learning_rate"])
        self.first_decay = column(np.where(kind == "adam", 0.9, 0))
        self.second_decay = column(np.select([kind == "adam", kind == "rmsprop"], [0.999, 0.9]))
        self.adam, self.sgd = column(kind == "adam") > 0, column(kind == "sgd") > 0
        self.first = torch.zeros(len(kind), PARAMETERS, device=device)
        self.second = torch.zeros_like(self.first)
        self.steps = 0

    def step(self, weights: torch.Tensor, gradient: torch.Tensor) -> None:
        """Update `weights` (G, 4970) in place."""
        self.steps += 1
        self.first = torch.lerp(gradient, self.first, self.first_decay)
        self.second = torch.lerp(gradient.square(), self.second, self.second_decay)
        correction = (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        rate = torch.where(self.adam, correction, 1.0) * self.learning_rate
        root = torch.where(self.sgd, 1.0, self.second.sqrt() + EPSILON)
        weights.sub_(rate * self.first / root)


class DropoutMasks:
    """Inverted dropout with one noise for all networks of a stack, and a rate for each.

    Each network sees fair noise of its own rate; sharing it saves G - 1 of G random numbers. 16
    random bits decide, so rates are rounded to 1/65536.
    """

    def __init__(self, rates, device, *, seed: int, epoch: int):
        keep = torch.tensor(1 - np.asarray(rates), device=device).view(1, -1, 1, 1, 1)
        self.largest_kept = torch.round(keep * 65536 - 32769).short()
        self.scale = (1 / keep).float()
        self.rng = torch.Generator(device).manual_seed(seed * 1000 + epoch)

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        batch, _, *unit = shape
        bits = torch.empty((batch, 1, *unit), dtype=torch.int16, device=self.scale.device)
        bits.random_(-32768, 32768, generator=self.rng)
        return (bits <= self.largest_kept).float().mul_(self.scale)


class Stack:
    """What the networks of a stack share, and their rates of dropout."""

    def __init__(self, configurations: DataFrame, *, seed: int):
        self.activation: str = configurations["activation"].iloc[0]
        self.rates = configurations["dropout"].to_numpy()
        self.seed = seed


class TorchStack(Stack):
    """Gradient and logits of a stack by torch, on the device of the images."""

    def begin_epoch(self, epoch: int, device) -> None:
        self.masks = DropoutMasks(self.rates, device, seed=self.seed, epoch=epoch)

    def gradient(self, weights: torch.Tensor, train: Images, chosen: torch.Tensor) -> torch.Tensor:
        """Of the mean cross-entropy over the images `chosen`, (G, 4970)."""
        batch = train[chosen.to(weights.device)]
        leaf = weights.detach().requires_grad_()
        activation = ACTIVATIONS[self.activation]
        logits = stacked_logits(leaf, batch.inputs, activation, self.masks)
        targets = batch.labels.repeat(len(weights))
        loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(chosen)
        return torch.autograd.grad(loss, leaf)[0]

    @torch.no_grad()
    def logits(self, weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Without dropout, (G, B, 10)."""
        return stacked_logits(weights, inputs, ACTIVATIONS[self.activation])


class CompiledStack(Stack):
    """The same on a CPU, network by network; the noise of dropout is another."""

    def begin_epoch(self, epoch: int, device) -> None:
        self.epoch, self.steps = epoch, 0

    def gradient(self, weights: torch.Tensor, train: Images, chosen: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        inputs, labels = train.inputs.flatten(1).numpy(), train.labels.numpy()
        rows = []
        for row, rate in zip(weights.numpy(), self.rates):
            noise = small_cnn.dropout(rate, self.seed, self.epoch, self.steps)
            arguments = inputs, labels, chosen.numpy(), self.activation == "tanh", noise
            rows.append(small_cnn.gradient(row, *arguments))
        return torch.from_numpy(np.stack(rows))

    def logits(self, weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        pixels = inputs.flatten(1).numpy()
        is_tanh = self.activation == "tanh"
        rows = [small_cnn.logits(row, pixels, is_tanh) for row in weights.numpy()]
        return torch.from_numpy(np.stack(rows))


def evaluate(stack, weights: torch.Tensor, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (fraction) and mean cross-entropy (nats, without the l2 term), each (G,)."""
    networks = len(weights)
    correct = torch.zeros(networks, dtype=torch.int64, device=weights.device)
    loss = torch.zeros(networks, dtype=torch.float64, device=weights.device)
    for inputs, labels in zip(images.inputs.split(1000), images.labels.split(1000)):
        logits = stack.logits(weights, inputs)
        correct += (logits.argmax(-1) == labels).sum(1)
        stacked_labels = labels.expand(networks, -1)
        losses = F.cross_entropy(logits.transpose(1, 2), stacked_labels, reduction="none")
        loss += losses.sum(1, dtype=torch.float64)
    count = len(images.labels)
    return (correct.double() / count).cpu().numpy(), (loss / count).cpu().numpy()


def train_stack(
    configurations: DataFrame,
    start: torch.Tensor,
    train: Images,
    test: Images,
    *,
    checkpoints: list[int],
    seed: int,
    kind: type,
) -> list[dict]:
    """Train G networks that share activation and training images, from the weights `start`.

    kind: TorchStack, or on a CPU the faster CompiledStack.
    Returns one dict a checkpoint: `step` (the epoch, for each), `weights` (G, 4970), rounded to the
    mantissa of bfloat16, and the four metrics of these, (G,). Training goes on from the weights as
    they are.
    """
    device = train.inputs.device
    train = train[: round(len(train.labels) * configurations["train_fraction"].iloc[0])]
    weights = start.to(device, copy=True)
    stack = kind(configurations, seed=seed)
    optimizer = StackedOptimizer(configurations, device)
    decay = _kernel_decay(configurations, device)
    done = []
    for epoch in range(max(checkpoints) + 1):
        if epoch:
            stack.begin_epoch(epoch, device)
            for chosen in _batches(len(train.labels), seed=seed + epoch):
                gradient = stack.gradient(weights, train, chosen)
                optimizer.step(weights, gradient + decay * weights)
        if epoch in checkpoints:
            done.append(_checkpoint(epoch, stack, weights, train, test))
    return done


def _batches(images: int, *, seed: int) -> tuple[torch.Tensor, ...]:
    """The order of one epoch; what does not fill a batch is dropped, as published."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return order[: images // BATCH * BATCH].split(BATCH)


def _kernel_decay(configurations: DataFrame, device) -> torch.Tensor:
    """Twice the l2 coefficient at kernels, 0 at biases, (G, 4970): the gradient of l2 * |w|^2."""
    is_kernel = torch.zeros(PARAMETERS)
    for slot in LAYOUT:
        is_kernel[slot.start : slot.end] = len(slot.shape) > 1
    l2 = torch.tensor(configurations["l2reg"].to_numpy(np.float32))
    return (2 * l2[:, None] * is_kernel).to(device)


def _checkpoint(epoch: int, stack, weights, train: Images, test: Images) -> dict:
    rounded = weights.bfloat16().float()
    known = {"step": np.full(len(weights), epoch), "weights": rounded.cpu().numpy()}
    return known | recorded(partial(evaluate, stack, rounded), train, test)
