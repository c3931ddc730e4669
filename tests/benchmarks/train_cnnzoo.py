"""How fast a gradient of the zoo's networks is, by implementation and size of stack.

Run: python tests/benchmarks/train_cnnzoo.py [--device cuda]. Made-up images of MNIST's size in
batches of 512, one thread on a CPU, where processor time counts and the best of several rounds, so
that a busy machine gives much the same. What `gengap train` takes by default comes from here.
"""

import argparse
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from gengap.replicas import small_cnn
from gengap.replicas.cnnzoo_training import BATCH, PARAMETERS, stacked_logits
from gengap.replicas.run import MALLOC
from gengap.replicas.training import Images

STEPS, ROUNDS = 10, 5


def made_up_images(count: int, device: str) -> Images:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(count, 1, 28, 28, generator=generator) * 2 - 1
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Images(inputs.to(device), labels.to(device))


def grouped_gradient(weights, batch: Images):
    """As the trainer takes it on a GPU, without dropout."""
    leaf = weights.detach().requires_grad_()
    logits = stacked_logits(leaf, batch.inputs, F.relu)
    targets = batch.labels.repeat(len(weights))
    loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(batch.labels)
    return torch.autograd.grad(loss, leaf)[0]


def channels_last_gradient(weights, batch: Images):
    """The same with activations whose channels are next to each other."""
    inputs = batch.inputs.contiguous(memory_format=torch.channels_last)
    return grouped_gradient(weights, Images(inputs, batch.labels))


def vmap_gradient(weights, batch: Images):
    """The same gradient, one network's loss mapped over the stack."""

    def loss(row):
        logits = stacked_logits(row[None], batch.inputs, F.relu)[0]
        return F.cross_entropy(logits, batch.labels)

    return vmap(grad(loss))(weights)


def compiled_gradient(weights, batch: Images):
    """As the trainer takes it on a CPU, with dropout."""
    pixels, labels = batch.inputs.flatten(1).numpy(), batch.labels.numpy()
    noise, chosen = small_cnn.dropout(0.3, 0), torch.arange(len(labels)).numpy()
    rows = [
        small_cnn.gradient(row, pixels, labels, chosen, False, noise) for row in weights.numpy()
    ]
    return torch.from_numpy(np.stack(rows))


GPU = {"grouped": grouped_gradient, "vmap": vmap_gradient}
CPU = {
    "torch": grouped_gradient,
    "channels last": channels_last_gradient,
    "compiled": compiled_gradient,
}


def seconds_per_batch(gradient, networks: int, images: Images) -> float:
    weights = 0.1 * torch.randn(networks, PARAMETERS, device=images.labels.device)
    clock = time.perf_counter if images.labels.is_cuda else time.process_time
    batches = [images[i : i + BATCH] for i in range(0, len(images.labels), BATCH)]
    gradient(weights, batches[0]).sum().item()  # warm up, compile
    rounds = []
    for _ in range(ROUNDS):
        start = clock()
        for batch in batches:
            weights -= 1e-3 * gradient(weights, batch)
        weights.sum().item()  # a GPU works behind our back: wait for it
        rounds.append((clock() - start) / len(batches))
    return min(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    images = made_up_images(STEPS * BATCH, device)
    gradients, sizes = (CPU, (1,)) if device == "cpu" else (GPU, (1, 16, 64, 256))
    print("milliseconds for 512 images and one network, by stack size")
    for name, gradient in gradients.items():
        for size in sizes:
            taken = seconds_per_batch(gradient, size, images) / size
            print(f"{name:14s} {size:4d} {1000 * taken:8.2f}", flush=True)


if __name__ == "__main__":
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    main()
